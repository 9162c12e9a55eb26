//! Mail from files: the pickup directory, also while the process is killed again and again, and an old mailroot.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::appliance::{Appliance, Sink, Smtp, eventually};

fn appliance(sink: &Sink) -> Appliance {
    let appliance = Appliance::start();
    let addresses = json!([{"template": "%m@local.example", "primary": true}]);
    appliance.patch("recipient-policies/default", json!({ "addresses": addresses }));
    appliance.put("recipients/ada", json!({"type": "mailbox"}));
    appliance.put("connectors/default", json!({"addressSpaces": [{"pattern": "*"}], "route": sink.route()}));
    appliance.patch("virtual-servers/default", json!({"pickup": {"enabled": true}}));
    appliance
}

/// Writes a file as one should: under another name first.
fn put(directory: &Path, name: &str, text: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(format!(".{name}")), text).unwrap();
    fs::rename(directory.join(format!(".{name}")), directory.join(name)).unwrap();
}

/// Files below a directory that hold something.
fn left(directory: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(directory).map(|all| all.map(|entry| entry.unwrap()).collect()).unwrap_or_else(|_| Vec::new());
    entries
        .into_iter()
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn files_stay_where_they_are_while_the_appliance_drains() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let pickup = appliance.data().join("pickup/default");
    assert_eq!(appliance.rest("POST", "/api/v1/drain", None).status, 200);
    put(&pickup, "later.eml", "x-sender: ada@local.example\nx-receiver: bob@far.example\nSubject: later\n\ntext\n");
    // longer than a file has to lie there before it is taken
    thread::sleep(Duration::from_secs(6));
    assert!(pickup.join("later.eml").exists(), "it was taken");
    assert_eq!(appliance.rest("DELETE", "/api/v1/drain", None).status, 200);
    sink.wait(1);
}

#[test]
fn a_file_in_the_pickup_directory_is_sent() {
    let sink = Sink::up();
    let appliance = appliance(&sink);
    let pickup = appliance.data().join("pickup/default");
    put(
        &pickup,
        "lines.eml",
        "x-sender: <ada@local.example>\nx-receiver: bob@far.example\nSubject: one\nBcc: eve@far.example\n\n.\nText ä\rend",
    );
    put(
        &pickup,
        "header.txt",
        "From: ada@local.example\nTo: Carol <carol@far.example>\nBcc: dan@far.example\nSubject: two\n\ntext\n",
    );
    put(
        &pickup,
        "refused.eml",
        "x-sender: ada@local.example\nx-receiver: nobody@local.example\nx-receiver: erin@far.example\nSubject: three\n\ntext\n",
    );
    put(&pickup, "nonsense.eml", "this is no message\n");
    std::os::unix::fs::symlink("/etc/hostname", pickup.join("link.eml")).unwrap();
    let taken = sink.wait(3);
    let of = |subject: &str| {
        let wanted = format!("Subject: {subject}\r\n");
        taken.iter().find(|taken| String::from_utf8_lossy(&taken.content).contains(&wanted)).unwrap()
    };
    let one = of("one");
    let text = String::from_utf8_lossy(&one.content).into_owned();
    let from = "<ada@local.example> BODY=8BITMIME";
    assert_eq!((one.from.as_str(), one.to.as_slice()), (from, &["<bob@far.example>".to_owned()][..]));
    assert!(
        text.ends_with("\r\n\r\n.\r\nText ä\r\nend\r\n") && !text.contains("eve@") && !text.contains("x-sender"),
        "{text}"
    );
    assert!(
        text.contains("\r\nMessage-ID: <") && text.contains("\r\nDate: ") && text.contains("with PICKUP"),
        "{text}"
    );
    let mut to = of("two").to.clone();
    to.sort();
    assert_eq!(to, ["<carol@far.example>", "<dan@far.example>"]);
    assert!(!String::from_utf8_lossy(&of("two").content).contains("dan@"));
    assert_eq!(of("three").to, ["<erin@far.example>"]);
    let report = appliance.first_mail("ada");
    assert!(String::from_utf8_lossy(&report).contains("nobody@local.example"));
    let bad = appliance.data().join("badmail/default");
    let reason = eventually("badmail", || fs::read_to_string(bad.join("nonsense.eml.reason")).ok());
    assert!(reason.contains("line 1") && bad.join("nonsense.eml").exists(), "{reason}");
    eventually("the files are gone", || {
        (left(&pickup).is_empty() && left(&pickup.join(".taken")).is_empty()).then_some(())
    });
    assert!(pickup.join("link.eml").is_symlink(), "a link is left alone");
}

#[test]
fn pickup_loses_nothing_and_doubles_nothing_when_it_is_killed() {
    const FILES: usize = 240;
    let sink = Sink::down();
    let mut appliance = appliance(&sink);
    let pickup = appliance.data().join("pickup/default");
    for n in 0..FILES {
        put(
            &pickup,
            &format!("{n:03}.eml"),
            &format!(
                "x-sender: ada@local.example\nx-receiver: u{n}@far.example\nSubject: {n}\n\n{}\n",
                "text ".repeat(2_000)
            ),
        );
    }
    let mut cycles = 0;
    while !(left(&pickup).is_empty() && left(&pickup.join(".taken")).is_empty()) {
        thread::sleep(Duration::from_millis(3_050 + 37 * cycles));
        appliance.kill();
        appliance.start_again();
        cycles += 1;
        assert!(cycles < 60, "it does not come forward");
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut path = "/api/v1/messages?limit=1000".to_owned();
    loop {
        let page = appliance.get(&path);
        for message in page["items"].as_array().unwrap() {
            *seen.entry(message["recipients"][0]["address"].to_string()).or_default() += 1;
        }
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/api/v1/messages?limit=1000&cursor={cursor}");
    }
    assert_eq!(seen.len(), FILES, "nothing is lost");
    assert!(seen.values().all(|count| *count == 1), "nothing is doubled: {seen:?}");
}

fn import(appliance: &Appliance, query: &str, body: &Value) -> Value {
    let answer = appliance.rest("POST", &format!("/api/v1/imports/mailroot{query}"), Some(body));
    let begun = answer.json();
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    eventually("the import ends", || {
        let known = appliance.get(&format!("/api/v1/imports/mailroot/{}", begun["id"].as_str().unwrap()));
        (known["state"] != "running").then_some(known)
    })
}

#[test]
fn an_old_mailroot_is_brought_in_once() {
    let sink = Sink::up();
    let mut appliance = appliance(&sink);
    let root = appliance.data().join("imports/old/vsi 1");
    let mail = |to: &str, subject: &str| {
        format!("x-sender: x@src.example\r\nx-receiver: {to}\r\nSubject: {subject}\r\n\r\ntext\r\n")
    };
    let bare =
        |to: &str, subject: &str| format!("From: x@src.example\r\nTo: {to}\r\nSubject: {subject}\r\n\r\ntext\r\n");
    put(&root.join("Pickup"), "p.eml", &bare("p@far.example", "p"));
    put(&root.join("Queue"), "q1.EML", &mail("q@far.example", "q1"));
    put(&root.join("Queue"), "NTFS_2.EML", &bare("q@far.example", "q2"));
    put(&root.join("Queue"), "NTFS_2.EML:PROPERTIES", "\u{1}binary");
    put(&root.join("Queue"), "t.LTR", "transcript");
    put(&root.join("Badmail"), "b.BAD", &bare("b@far.example", "b"));
    put(&root.join("Badmail"), "b.BDR", "Unable to deliver this message because of something\r\n");
    put(&root.join("Badmail"), "odd.BAD", "no message at all");
    put(&root.join("Drop"), "d1.eml", &mail("ada@local.example", "d1"));
    put(&root.join("Drop"), "d2.eml", &mail("stranger@far.example", "d2"));
    let before = |area: &str| left(&root.join(area)).len();
    let wanted = json!({"path": "old"});
    let dry = import(&appliance, "?dryRun=true", &wanted);
    assert_eq!(
        (&dry["state"], &dry["imported"], &dry["unreadableCount"], &dry["found"]),
        (&json!("done"), &json!(6), &json!(1), &json!(10)),
        "{dry}"
    );
    assert_eq!(dry["unreadable"][0]["file"], "vsi 1/Queue/NTFS_2.EML");
    assert!(dry["unreadable"][0]["why"].as_str().unwrap().contains("NTFS stream"));
    assert_eq!(dry["ignoredCount"], 3, "{dry}");
    assert!(
        sink.taken().is_empty() && appliance.get("/api/v1/messages")["items"] == json!([]),
        "a dry run does nothing"
    );
    let done = import(&appliance, "", &wanted);
    assert_eq!((&done["imported"], &done["skipped"]), (&json!(6), &json!(0)), "{done}");
    let mut subjects: Vec<String> = sink.wait(2).iter().map(|taken| taken.to[0].clone()).collect();
    subjects.sort();
    assert_eq!(subjects, ["<p@far.example>", "<q@far.example>"]);
    assert!(String::from_utf8_lossy(&appliance.first_mail("ada")).contains("Subject: d1"));
    let dead = appliance.get("/api/v1/messages?state=deadLetter");
    let dead = dead["items"].as_array().unwrap();
    assert_eq!(dead.len(), 3, "{dead:?}");
    let of =
        |address: &str| dead.iter().find(|message| message["recipients"][0]["address"] == address).unwrap().to_string();
    assert!(of("b@far.example").contains("Unable to deliver this message"));
    assert!(of("stranger@far.example").contains("not local here"));
    // an outcome may lag by 20 ms: a kill within them is a mail twice
    eventually("the outcomes", || (appliance.get("/api/v1/messages?state=queued")["items"] == json!([])).then_some(()));
    thread::sleep(Duration::from_millis(200));
    appliance.kill();
    appliance.start_again();
    let again = import(&appliance, "", &wanted);
    assert_eq!(
        (&again["imported"], &again["skipped"], &again["unreadableCount"]),
        (&json!(0), &json!(6), &json!(1)),
        "{again}"
    );
    let header = import(&appliance, "", &json!({"path": "old/vsi 1", "areas": ["queue"], "queueEnvelope": "header"}));
    assert_eq!((&header["imported"], &header["skipped"]), (&json!(1), &json!(1)), "{header}");
    assert_eq!(appliance.get("/api/v1/imports/mailroot")["items"].as_array().unwrap().len(), 4);
    assert_eq!(
        (before("Pickup"), before("Queue"), before("Badmail"), before("Drop")),
        (1, 4, 3, 2),
        "nothing is changed"
    );
    assert_eq!(sink.taken().iter().filter(|taken| taken.to == ["<p@far.example>"]).count(), 1);
    // a mailroot that lies elsewhere now is the same one, and a dry run asks who may be written to
    let imports = appliance.data().join("imports");
    std::fs::rename(imports.join("old"), imports.join("moved")).unwrap();
    put(&imports.join("moved/vsi 1/Pickup"), "gone.eml", &mail("nobody@local.example", "g"));
    // another virtual server's is another one, though it be the same
    put(&imports.join("moved/vsi 2/Pickup"), "p.eml", &bare("p@far.example", "p"));
    let moved = import(&appliance, "?dryRun=true", &json!({"path": "moved"}));
    assert_eq!(
        (&moved["imported"], &moved["skipped"], &moved["refusedCount"]),
        (&json!(2), &json!(6), &json!(1)),
        "{moved}"
    );
    assert_eq!(moved["refused"][0]["file"], "vsi 1/Pickup/gone.eml");
    assert!(moved["refused"][0]["why"].as_str().unwrap().contains("nobody@local.example"), "{moved}");
    std::os::unix::fs::symlink("/etc", appliance.data().join("imports/out")).unwrap();
    for (path, status) in [("out", 422), ("none", 422), ("../", 422), ("/etc", 422)] {
        let refused = appliance.rest("POST", "/api/v1/imports/mailroot", Some(&json!({ "path": path })));
        assert_eq!(refused.status, status, "{path}: {refused:?}");
    }
    let mut smtp = Smtp::open(appliance.smtp());
    smtp.expect("MAIL FROM:<>", "250");
}
