//! The second driver of the dialog corpus: the real binary over TCP.
//!
//! Every dialog has a virtual server of its own, configured over REST as its `@` lines ask; messages are counted by that
//! server's metric. The policy that the core's driver makes up is real here: a recipient policy makes `local.example` local,
//! recipients exist, nobody may relay. Each dialog is played twice: its groups whole, and in chunks.
//!
//! What the binary cannot be made to do is named in [`CORE_ONLY`], with the reason; the test fails when a reason no
//! longer holds. What those dialogs are about is said again below with limits that REST allows.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::appliance::{Appliance, Smtp};
use super::dialogs::{Dialog, Line, Peer};

/// Dialogs that only the core can play.
const CORE_ONLY: &[(&str, Why)] = &[
    ("atrn", Why::NoSetting("no connector holds mail to be fetched yet")),
    ("bdat-size", Why::BelowTheLeast("maxSize")),
    ("session-size", Why::BelowTheLeast("maxSessionSize")),
    ("size-actual", Why::BelowTheLeast("maxSize")),
    ("size-declared", Why::BelowTheLeast("maxSize")),
    ("time-out", Why::Time),
    ("time-out-in-content", Why::Time),
    ("too-many-recipients", Why::BelowTheLeast("maxRecipients")),
];

/// Why a dialog cannot be played over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Virtual servers do not have what it asks for.
    NoSetting(&'static str),
    /// They have it, but REST refuses so low a value.
    BelowTheLeast(&'static str),
    /// Minutes pass in it.
    Time,
}

/// A connection to the binary.
struct Tcp<'a> {
    smtp: Smtp,
    appliance: &'a Appliance,
    server: &'a str,
    /// xorshift; 0 sends all at once.
    seed: u64,
}

impl Peer for Tcp<'_> {
    fn send(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let size = match self.seed {
                0 => rest.len(),
                // long texts in long chunks: 64 KiB octet by octet is another test
                _ => next(&mut self.seed) % (40 + rest.len() / 8) + 1,
            };
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            self.smtp.send(chunk);
            rest = behind;
        }
    }

    fn reply(&mut self) -> Option<Vec<String>> {
        self.smtp.reply()
    }

    /// What comes later than this is found by the next reply that is expected, or at the end.
    fn unasked(&mut self) -> Option<Vec<String>> {
        self.smtp.reply_within(Duration::from_millis(1))
    }

    fn pass(&mut self, _: Duration) -> bool {
        panic!("{}: time cannot be made to pass", self.server)
    }

    fn messages(&mut self) -> Option<usize> {
        Some(accepted(self.appliance, self.server))
    }

    fn tls(&mut self) -> bool {
        assert!(self.smtp.start_tls("mx.local.example"), "{}: the handshake fails", self.server);
        true
    }

    fn end(&mut self) {
        self.smtp.end();
    }

    fn closed(&mut self) -> bool {
        self.smtp.closed()
    }
}

fn next(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed >> 1).unwrap()
}

/// Messages that a virtual server has accepted.
fn accepted(appliance: &Appliance, server: &str) -> usize {
    let metrics = appliance.rest("GET", "/metrics", None);
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let row = format!("bridgehead_messages_accepted_total{{name=\"{server}\"}} ");
    let count = metrics.body.lines().find_map(|line| line.strip_prefix(&row));
    count.map_or(0, |count| count.parse().unwrap())
}

/// An appliance whose policy is that of the core's driver.
fn with_the_policy_of_the_corpus() -> Appliance {
    let appliance = Appliance::start();
    let address = json!({ "template": "%m@local.example", "primary": true });
    appliance.put("recipient-policies/default", json!({ "addresses": [address] }));
    for name in ["u", "v", "w"] {
        appliance.put(&format!("recipients/{name}"), json!({}));
    }
    let identity = rcgen::generate_simple_self_signed(vec!["mx.local.example".to_owned()]).unwrap();
    let certificate = json!({
        "chain": { "value": identity.cert.pem() }, "privateKey": { "value": identity.signing_key.serialize_pem() }
    });
    appliance.put("certificates/mx", certificate);
    appliance.put("accounts/u", json!({ "password": { "value": "p" }, "sendAs": ["*"] }));
    appliance.put("recipients/o-umlaut", json!({ "addresses": ["ö@local.example"] }));
    appliance
}

/// The virtual server that a dialog asks for.
fn spec_of(dialog: &Dialog) -> Result<Value, Why> {
    if dialog.lines.iter().any(|line| matches!(line, Line::Pass(_))) {
        return Err(Why::Time);
    }
    let mut spec = json!({ "bindings": [{ "address": "127.0.0.1", "port": 0 }], "fqdn": "mx.local.example" });
    for (key, value) in &dialog.settings {
        let number = || value.parse::<u64>().unwrap();
        match key.as_str() {
            "max-size" => spec["messages"]["maxSize"] = json!(number()),
            "max-recipients" => spec["messages"]["maxRecipients"] = json!(number()),
            "off" => {
                let field = match value.as_str() {
                    "PIPELINING" => "pipelining",
                    "SIZE" => "size",
                    "8BITMIME" => "eightBitMime",
                    "SMTPUTF8" => "smtpUtf8",
                    "ENHANCEDSTATUSCODES" => "enhancedStatusCodes",
                    "DSN" => "dsn",
                    "CHUNKING" => "chunking",
                    "ETRN" => "etrn",
                    "LIMITS" => "limits",
                    "FUTURERELEASE" => "futureRelease",
                    "DELIVERBY" => "deliverBy",
                    "MT-PRIORITY" => "mtPriority",
                    other => panic!("{}: {other} cannot be switched off", dialog.name),
                };
                spec["extensions"][field] = json!(false);
            }
            "on" => return Err(Why::NoSetting("no connector holds mail to be fetched yet")),
            "lmtp" => spec["bindings"][0]["protocol"] = json!("lmtp"),
            "starttls" => {
                spec["bindings"][0]["tls"] = json!("starttls");
                spec["certificates"] = json!(["mx"]);
            }
            "require-tls" => spec["tls"]["required"] = json!(true),
            "max-session-size" => spec["messages"]["maxSessionSize"] = json!(number()),
            "auth" => {
                let mechanisms = value.split(' ').map(|word| match word {
                    "PLAIN" => "plain",
                    "LOGIN" => "login",
                    "SCRAM-SHA-256" => "scramSha256",
                    "SCRAM-SHA-256-PLUS" => "scramSha256Plus",
                    other => panic!("{}: {other} is no mechanism", dialog.name),
                });
                spec["authentication"]["mechanisms"] = mechanisms.collect();
            }
            "auth-in-clear" => spec["authentication"]["requireTls"] = json!(false),
            "auth-required" => spec["authentication"]["required"] = json!(true),
            "early" => spec["connections"]["greetingDelay"] = json!("2s"),
            "normalise" => spec["bindings"][0]["bareLineEnds"] = json!("normalise"),
            other => panic!("{}: {other} is no setting", dialog.name),
        }
    }
    Ok(spec)
}

/// Makes the virtual server `name` for a dialog.
fn configure(appliance: &Appliance, name: &str, dialog: &Dialog) -> Result<(), Why> {
    let spec = spec_of(dialog)?;
    let path = format!("/api/v1/virtual-servers/{name}");
    let answer = appliance.rest("PUT", &path, Some(&json!({ "spec": spec })));
    if answer.status == 422 {
        let errors = answer.json()["errors"].clone();
        let least = ["maxSize", "maxSessionSize", "maxRecipients"].into_iter().find(|field| {
            let pointer = json!(format!("/spec/messages/{field}"));
            errors.as_array().is_some_and(|errors| errors.len() == 1 && errors[0]["pointer"] == pointer)
        });
        return Err(Why::BelowTheLeast(least.unwrap_or_else(|| panic!("{}: {answer:?}", dialog.name))));
    }
    assert_eq!(answer.status, 201, "{}: {answer:?}", dialog.name);
    Ok(())
}

/// Plays it, and sees to it that nothing comes behind its end.
fn play(appliance: &Appliance, server: &str, dialog: &Dialog, seed: u64) {
    let smtp = Smtp::connect(appliance.smtp_of(server));
    let mut tcp = Tcp { smtp, appliance, server, seed };
    dialog.play(&mut tcp);
    tcp.end();
    assert!(tcp.closed(), "{server}: it goes on behind the end: {:?}", tcp.unasked());
    let mut counts = dialog.lines.iter().filter_map(|line| match line {
        Line::Messages(count) => Some(*count),
        _ => None,
    });
    if let Some(count) = counts.next_back() {
        assert_eq!(accepted(appliance, server), count, "{server}: messages, when all was over");
    }
}

/// Plays each on a server of its own and all at a time, as some wait for seconds. All failures are told.
fn play_all(appliance: &Appliance, dialogs: &[(String, &Dialog, u64)]) {
    let failed: Vec<&str> = thread::scope(|scope| {
        let players: Vec<_> = dialogs
            .iter()
            .map(|(server, dialog, seed)| (server, scope.spawn(move || play(appliance, server, dialog, *seed))))
            .collect();
        players.into_iter().filter_map(|(server, player)| player.join().err().map(|_| server.as_str())).collect()
    });
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), dialogs.len());
}

#[test]
fn the_binary_keeps_to_every_dialog() {
    let appliance = with_the_policy_of_the_corpus();
    let corpus = Dialog::corpus();
    let (mut to_play, mut core_only) = (Vec::new(), BTreeMap::new());
    for dialog in &corpus {
        let whole = format!("{}.whole", dialog.name);
        match configure(&appliance, &whole, dialog) {
            Ok(()) => to_play.push((whole, dialog, 0)),
            Err(why) => {
                core_only.insert(dialog.name.as_str(), why);
                continue;
            }
        }
        // what must come at once cannot come in chunks
        if !dialog.name.starts_with("whole-") {
            let chunks = format!("{}.chunks", dialog.name);
            configure(&appliance, &chunks, dialog).unwrap();
            to_play.push((chunks, dialog, 0x9e37_79b9_7f4a_7c15));
        }
    }
    assert_eq!(core_only, CORE_ONLY.iter().copied().collect(), "what cannot be played, and the table");
    assert!(to_play.len() >= 50, "only {} plays", to_play.len());
    play_all(&appliance, &to_play);
}

#[test]
fn limits_and_time_outs_of_a_virtual_server_hold() {
    let appliance = with_the_policy_of_the_corpus();
    let begin = "S: 220\nC: EHLO c.example\nS: 250\n";
    let envelope = "C: MAIL FROM:<a@b.example>\nC: RCPT TO:<u@local.example>\nC: DATA\nS: 250\nS: 250\nS: 354\n";
    // 65 lines of 1,000 octets and one of 536 are 64 KiB
    let lines = "C: x\\{x998}\n".repeat(65);
    let size = format!(
        "@ max-size 65536\n{begin}S+: SIZE 65536\n{envelope}{lines}C: x\\{{x534}}\nC: .\nC: NOOP\nS: 250 2.0.0\nS: 250 2.0.0\nM: 1\n\
         {envelope}{lines}C: x\\{{x535}}\nR: \\n.\\n\nC: MAIL FROM:<evil@b.example>\nC: .\nC: NOOP\nS: 552 5.3.4\nS: 250 2.0.0\nM: 1\n\
         C: MAIL FROM:<a@b.example> SIZE=65537\nS: 552 5.3.4\nC: MAIL FROM:<a@b.example> SIZE=65536\nS: 250 2.1.0\n"
    );
    let hundred = "C: RCPT TO:<u@local.example>\nS: 250 2.1.5\n".repeat(100);
    let recipients = format!(
        "@ max-recipients 100\n{begin}C: MAIL FROM:<>\nS: 250 2.1.0\n{hundred}C: RCPT TO:<v@local.example>\nS: 452 4.5.3\n\
         C: DATA\nS: 354\nC: .\nS: 250 2.0.0\nM: 1\n"
    );
    let silence = format!("{begin}S: 421 4.4.2\nX:\nM: 0\n");
    let messages =
        format!("{begin}{envelope}C: .\nS: 250 2.0.0\nM: 1\nC: MAIL FROM:<a@b.example>\nS: 421 4\nX:\nM: 1\n");
    let dialogs = [("size", size), ("recipients", recipients), ("silence", silence), ("messages", messages)]
        .map(|(name, text)| Dialog::parse(name, &text));
    for dialog in &dialogs {
        configure(&appliance, &dialog.name, dialog).unwrap();
    }
    appliance.patch("virtual-servers/silence", json!({ "connections": { "idleTimeout": "1s" } }));
    appliance.patch("virtual-servers/messages", json!({ "messages": { "maxPerConnection": 1 } }));
    let to_play: Vec<_> = dialogs.iter().map(|dialog| (dialog.name.clone(), dialog, 0)).collect();
    play_all(&appliance, &to_play);
}

#[test]
fn a_wrong_reply_and_a_wrong_count_fail_over_tcp_too() {
    let appliance = with_the_policy_of_the_corpus();
    for (name, text) in [
        ("reply", "S: 220\nC: NOOP\nS: 500\n"),
        ("unasked", "S: 220\nC: NOOP\nC: NOOP\nS: 250\n"),
        ("open", "S: 220\nC: QUIT\nS: 221\nC: NOOP\nS: 250\n"),
        ("count", "S: 220\nC: NOOP\nS: 250\nM: 1\n"),
    ] {
        let dialog = Dialog::parse(name, text);
        configure(&appliance, name, &dialog).unwrap();
        let fails = thread::scope(|scope| scope.spawn(|| play(&appliance, name, &dialog, 0)).join().is_err());
        assert!(fails, "{name} passes");
    }
}
