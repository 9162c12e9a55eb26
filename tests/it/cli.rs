//! The command line against a running appliance: a day in the life of an operator, by commands only.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::appliance::{Appliance, KEY, Smtp, eventually};

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    status: i32,
    out: String,
    err: String,
}

/// A person at a terminal of their own.
struct Person {
    home: tempfile::TempDir,
    url: Option<String>,
}

impl Person {
    fn at(appliance: &Appliance) -> Person {
        Person { home: tempfile::tempdir().unwrap(), url: Some(format!("http://{}", appliance.api())) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BRIDGEHEAD_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME").env("HOME", self.home.path()).current_dir(self.home.path());
        if let Some(url) = &self.url {
            command.env("BRIDGEHEAD_URL", url).env("BRIDGEHEAD_KEY", KEY);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn says_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = self.command(arguments).spawn().unwrap();
        // a command that does not read its input may be gone already
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        Said { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn says(&self, arguments: &[&str]) -> Said {
        self.says_with(arguments, "")
    }

    /// A command that must succeed; what it printed.
    #[track_caller]
    fn does(&self, arguments: &[&str]) -> String {
        let said = self.says(arguments);
        assert_eq!(said.status, 0, "{arguments:?}: {said:?}");
        said.out
    }

    /// The same, as JSON.
    #[track_caller]
    fn reads(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.does(arguments)).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

const RELAY: &str = "\
apiVersion: v1
virtualServers:
  default:
    bindings:
      - address: 127.0.0.1
        port: 0
    relay:
      allow: [127.0.0.0/8]
connectors:
  default:
    addressSpaces:
      - pattern: '*'
    route:
      smartHosts:
        - host: 127.0.0.1
          port: 9
";

#[test]
fn a_day_of_an_operator() {
    let appliance = Appliance::start();
    let operator = Person::at(&appliance);

    // morning: what is there?
    let listed = operator.does(&["get", "connectors"]);
    assert!(listed.starts_with("NAME ") && listed.contains("default"), "{listed}");
    assert_eq!(operator.does(&["get", "vs", "-o", "name"]), "virtual-servers/default\n");
    assert_eq!(operator.reads(&["get", "con", "default", "-o", "json"])["name"], "default");
    let missing = operator.says(&["get", "connector", "nobody"]);
    assert_eq!(missing.status, 1);
    assert!(missing.err.contains("nobody"), "{missing:?}");
    assert_eq!(operator.says(&["get", "conectors"]).status, 2, "a wrong command line");

    // a change, looked at before it is made
    let file = operator.file("relay.yaml", RELAY);
    let seen = operator.says(&["diff", "-f", &file, "--take-over"]);
    assert_eq!(seen.status, 1, "{seen:?}");
    assert!(seen.out.contains("+ ") && seen.out.contains("127.0.0.0/8"), "{seen:?}");
    let would = operator.does(&["apply", "-f", &file, "--dry-run", "--take-over"]);
    assert!(would.contains("connectors/default would be updated"), "{would}");
    assert_eq!(appliance.get("/api/v1/virtual-servers/default")["spec"]["relay"]["allow"], json!([]), "a dry run");
    let did = operator.does(&["apply", "-f", &file, "--take-over"]);
    assert!(did.contains("connectors/default updated"), "{did}");
    assert_eq!(operator.says(&["diff", "-f", &file]).status, 0, "nothing is different any more");

    // one that is wrong names file and line, and changes nothing
    let broken = operator
        .file("broken.yaml", "connectors:\n  default:\n    addressSpaces:\n      - pattern: '*'\n        cost: 1000\n");
    let refused = operator.says(&["apply", "-f", &broken]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.err.contains(&format!("{broken}:5:"))
            && refused.err.contains("/connectors/default/addressSpaces/0/cost"),
        "{refused:?}"
    );
    assert_eq!(operator.says(&["diff", "-f", &broken]).status, 2, "it could not be compared");

    // mail that waits
    let mut smtp = Smtp::open(appliance.smtp());
    for n in 0..12 {
        smtp.mail("app@src.example", &[&format!("u{n}@dst.example")], b"Subject: x\r\n\r\ntext\r\n");
    }
    eventually("all of it is there", || (appliance.waiting() == 12).then_some(()));
    let queues = operator.does(&["queue", "list"]);
    assert!(queues.contains("smarthost:default"), "{queues}");
    assert_eq!(operator.does(&["queue", "freeze", "smarthost:default"]), "queues/smarthost:default is frozen\n");
    let messages = operator.reads(&["message", "list", "-f", "recipient=u3@dst.example", "-o", "json"]);
    let id = messages["items"][0]["id"].as_str().unwrap().to_owned();
    let described = operator.does(&["describe", "message", &id]);
    assert!(described.contains("u3@dst.example") && described.contains("received"), "{described}");
    let why = operator.does(&["explain", &id]);
    assert!(why.contains("smarthost:default") && why.contains("chosen"), "{why}");
    assert!(operator.does(&["message", "content", &id]).ends_with("\r\n\r\ntext\r\n"));
    assert_eq!(operator.does(&["message", "delete", &id]), format!("messages/{id} deleted\n"));
    let asked = operator.says(&["message", "delete", "-f", "sender=*@src.example"]);
    assert!(asked.status == 1 && asked.err.contains("11 messages") && asked.err.contains("--yes"), "{asked:?}");
    let gone = operator.does(&["message", "delete", "-f", "sender=*@src.example", "--yes"]);
    assert!(gone.contains("11 done"), "{gone}");
    assert_eq!(appliance.waiting(), 0);
    operator.does(&["queue", "thaw", "smarthost:default"]);

    // and back to how it was
    let revisions = operator.does(&["config", "revisions"]);
    assert!(revisions.lines().count() >= 3, "{revisions}");
    let revision = appliance.get("/api/v1/config/revisions")["items"][1]["revision"].to_string();
    let back = operator.does(&["config", "rollback", &revision]);
    assert!(back.contains("127.0.0.0/8"), "{back}");
    assert_eq!(appliance.get("/api/v1/virtual-servers/default")["spec"]["relay"]["allow"], json!([]));
    let exported = operator.file("all.yaml", &operator.does(&["config", "export"]));
    operator.does(&["apply", "-f", &exported, "--take-over"]);
    assert_eq!(operator.says(&["diff", "-f", &exported]).status, 0, "an export is what is in force");
}

#[test]
fn a_message_is_sent_followed_and_found() {
    let appliance = Appliance::start();
    let person = Person::at(&appliance);
    let mut tail = person.command(&["tail", "--json"]).spawn().unwrap();
    let sent = person.says_with(
        &[
            "send",
            "--from",
            "Ada <ada@localhost.localdomain>",
            "--to",
            "postmaster@localhost.localdomain",
            "-s",
            "Grüße",
            "-o",
            "json",
        ],
        "a line\n.\nand more\n",
    );
    assert_eq!(sent.status, 0, "{sent:?}");
    let id = serde_json::from_str::<Value>(&sent.out).unwrap()["id"].as_str().unwrap().to_owned();
    let mail = appliance.first_mail("postmaster");
    assert!(String::from_utf8_lossy(&mail).contains("a line\r\n.\r\nand more"), "{}", String::from_utf8_lossy(&mail));
    let told = eventually("it is delivered and told", || {
        let said = person.does(&["where", "recipient=postmaster@localhost.localdomain"]);
        said.contains("Delivered").then_some(said)
    });
    assert!(told.contains(&id), "{told}");
    // what happens is shown as it happens
    let mut line = String::new();
    let mut out = std::io::BufReader::new(tail.stdout.take().unwrap());
    while !line.contains(&id) {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "the stream ended");
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn on_the_same_machine_no_key_is_needed_and_elsewhere_a_context_has_it() {
    let appliance = Appliance::start();
    let mut person = Person::at(&appliance);
    let url = person.url.take().unwrap();
    let nowhere = person.says(&["get", "queues"]);
    assert!(nowhere.status == 1 && nowhere.err.contains("--url") && nowhere.err.contains("context set"), "{nowhere:?}");
    let data = appliance.data().display().to_string();
    let key = person.does(&["token", "--data-dir", &data, "--role", "viewer", "--expires", "1h"]);
    let key = key.trim();
    assert!(key.starts_with("bh_"), "{key}");
    person.does(&["context", "set", "here", "--url", &url, "--key", key]);
    assert!(person.does(&["context", "list"]).contains("here"));
    assert_eq!(person.does(&["get", "vs", "-o", "name"]), "virtual-servers/default\n");
    assert!(person.does(&["whoami"]).contains("viewer"));
    let refused = person.says(&["queue", "freeze", "unrouted"]);
    assert!(refused.status == 1 && refused.err.contains("queue:write"), "{refused:?}");
    // drained by who is on the machine
    assert!(person.does(&["drain", "--data-dir", &data, "--wait", "10s"]).contains("drained"));
    assert!(Smtp::connect(appliance.smtp()).reply().unwrap()[0].starts_with("421 "), "no new session");
    assert_eq!(appliance.rest("GET", "/readyz", None).status, 503);
    person.does(&["drain", "--data-dir", &data, "--end"]);
    assert!(Smtp::connect(appliance.smtp()).reply().unwrap()[0].starts_with("220 "));
}

#[test]
fn a_shell_completes_it_and_a_closed_pipe_is_no_error() {
    let appliance = Appliance::start();
    let person = Person::at(&appliance);
    for shell in ["bash", "zsh", "fish"] {
        assert!(person.does(&["completion", shell]).contains("bridgehead"));
    }
    let mut child = person.command(&["openapi"]).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some(), "no signal");
    assert!(Path::new(env!("CARGO_BIN_EXE_bridgehead")).exists());
}

#[test]
fn an_old_mailroot_is_looked_at_and_brought_in() {
    let appliance = Appliance::start();
    let operator = Person::at(&appliance);
    let pickup = appliance.data().join("imports/old/Pickup");
    fs::create_dir_all(&pickup).unwrap();
    fs::write(pickup.join("a.eml"), "x-sender: a@b.example\nx-receiver: c@far.example\nSubject: hi\n\ntext\n").unwrap();
    fs::write(pickup.join("b\u{1b}[2J.eml"), "x-sender: a@b.example\nSubject: to nobody\n\ntext\n").unwrap();
    let looked = operator.says(&["import", "mailroot", "old", "--dry-run"]);
    assert_eq!(looked.status, 0, "{looked:?}");
    assert_eq!(
        looked.out,
        "2 files: 1 would be imported, 0 imported before, 1 unreadable, 0 no messages; 0 recipients refused\n"
    );
    assert!(looked.err.contains("Pickup/b") && !looked.err.contains('\u{1b}'), "{looked:?}");
    let report = operator.reads(&["import", "mailroot", "old", "--area", "pickup", "-o", "json"]);
    assert_eq!((&report["imported"], &report["state"]), (&json!(1), &json!("done")));
    let again = operator.does(&["import", "mailroot", "old"]);
    assert!(again.starts_with("2 files: 0 imported, 1 imported before"), "{again}");
    let missing = operator.says(&["import", "mailroot", "nowhere"]);
    assert_eq!(missing.status, 1);
    assert!(missing.err.contains("/path"), "{missing:?}");
}

#[test]
fn an_appliance_is_backed_up_restored_and_examined() {
    let mut appliance = Appliance::start();
    let operator = Person::at(&appliance);
    let file = operator.file("relay.yaml", RELAY);
    operator.does(&["apply", "-f", &file, "--take-over"]);
    let mut smtp = Smtp::open(appliance.smtp());
    for n in 0..5 {
        smtp.mail("app@src.example", &[&format!("u{n}@dst.example")], b"Subject: x\r\n\r\ntext\r\n");
    }
    let copy = operator.home.path().join("copy.tar");
    let copy = copy.to_str().unwrap();

    // by REST; a file that is there is not replaced by accident
    let said = operator.says(&["backup", copy]);
    assert!(said.status == 0 && said.err.contains("verified: taken "), "{said:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds mail and secrets");
    let twice = operator.says(&["backup", copy]);
    assert!(twice.status == 1 && twice.err.contains("--force"), "{twice:?}");
    operator.does(&["backup", copy, "--force"]);
    assert!(!Path::new(&format!("{copy}.partial")).exists());
    assert_eq!(appliance.get("/api/v1/audit-log?action=backup")["items"].as_array().unwrap().len(), 2);

    // who may: an administrator, who reads mail but no secrets, may not
    let key = operator.does(&["token", "--role", "administrator", "--expires", "1h"]);
    let refused = operator.says(&["backup", "-", "--key", key.trim()]);
    assert!(refused.status == 1 && refused.err.contains("secrets:read"), "{refused:?}");

    // on the machine without a key, and into a pipe
    let data = appliance.data().display().to_string();
    let local = Person { home: tempfile::tempdir().unwrap(), url: None };
    let piped = local.command(&["backup", "-", "--data-dir", &data]).output().unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let checked = operator.says(&["restore", "--check", copy]);
    assert!(checked.status == 0 && checked.err.contains("whole: "), "{checked:?}");

    // a cut one, a changed one, and none at all are refused, and leave nothing
    let whole = fs::read(copy).unwrap();
    let bad = operator.home.path().join("bad.tar");
    let into = operator.home.path().join("into");
    let (bad, into) = (bad.to_str().unwrap(), into.to_str().unwrap());
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for (octets, why) in
        [(&whole[..whole.len() - 1], "is cut"), (&changed[..], "is damaged"), (&[b'x'; 600][..], "no backup")]
    {
        fs::write(bad, octets).unwrap();
        for command in [vec!["restore", "--check", bad], vec!["restore", bad, "--data-dir", into]] {
            let said = operator.says(&command);
            assert!(said.status == 1 && said.err.contains(why), "{command:?}: {said:?}");
        }
        let left =
            fs::read_dir(into).into_iter().flatten().filter(|entry| entry.as_ref().unwrap().file_name() != "lock");
        assert_eq!(left.count(), 0, "{why}");
    }

    // nobody looks into a store that runs
    let busy = operator.says(&["doctor", "--data-dir", &data]);
    assert!(busy.status == 2 && busy.err.contains("in use by another process"), "{busy:?}");
    let full = operator.says(&["restore", copy, "--data-dir", &data]);
    assert!(full.status == 1 && full.err.contains("is not empty"), "{full:?}");

    // the machine is lost; what came after the copy with it
    appliance.kill();
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
    }
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let restored = operator.says(&["restore", copy, "--data-dir", &data]);
    assert!(restored.status == 0 && restored.err.contains("is frozen before the first attempt"), "{restored:?}");
    let well = operator.does(&["doctor", "--data-dir", &data]);
    assert!(well.contains("well: 5 messages in the queue"), "{well}");
    appliance.start_again();
    let operator = Person::at(&appliance);
    let held = operator.reads(&["message", "list", "-f", "state=frozen", "-o", "json"]);
    assert_eq!(held["items"].as_array().unwrap().len(), 5);
    assert_eq!(appliance.get("/api/v1/virtual-servers/default")["spec"]["relay"]["allow"], json!(["127.0.0.0/8"]));
    // held once: what was let go of is not held again
    assert!(operator.does(&["message", "thaw", "-f", "state=frozen", "--yes"]).contains("5 done"));
    appliance.kill();
    appliance.start_again();
    let operator = Person::at(&appliance);
    let held = operator.reads(&["message", "list", "-f", "state=frozen", "-o", "json"]);
    assert_eq!(held["items"].as_array().unwrap().len(), 0);

    // and with --release nothing is held
    appliance.kill();
    let elsewhere = operator.home.path().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    operator.does(&["restore", copy, "--data-dir", elsewhere, "--release"]);
    assert!(!Path::new(elsewhere).join("restored-from").exists());

    // damage has a name, an exit status and a cure
    fs::write(Path::new(elsewhere).join("large/x.tmp"), b"x").unwrap();
    let store = Path::new(elsewhere).join("config/log");
    fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let found = operator.says(&["doctor", "--data-dir", elsewhere, "-o", "json"]);
    assert_eq!(found.status, 1, "{found:?}");
    let told: Value = serde_json::from_str(&found.out).unwrap();
    let worst = &told["found"]["findings"][0];
    assert_eq!((worst["severity"].as_str(), worst["file"].as_str()), (Some("warning"), Some("config/log")));
    let cured = operator.says(&["doctor", "--data-dir", elsewhere, "--repair"]);
    assert!(cured.status == 0 && cured.out.contains("repaired: config/log: mode 0600"), "{cured:?}");
    assert!(!Path::new(elsewhere).join("large/x.tmp").exists());
    assert_eq!(operator.says(&["doctor", "--data-dir", "/nowhere/at/all"]).status, 2);
}

#[test]
fn one_backup_at_a_time_and_a_reader_that_goes_away_ends_it() {
    use std::io::Read as _;
    let appliance = Appliance::start();
    let operator = Person::at(&appliance);
    // more than is on its way between the two
    let mailbox = appliance.data().join("mail/default/ada/new");
    fs::create_dir_all(&mailbox).unwrap();
    let large = fs::File::create(mailbox.join("1,S=1")).unwrap();
    large.set_len(256 << 20).unwrap();
    let mut first = std::net::TcpStream::connect(appliance.api()).unwrap();
    write!(
        first,
        "POST /api/v1/backup HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 0\r\n\r\n"
    )
    .unwrap();
    let mut head = [0; 1_000];
    first.read_exact(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head);
    assert!(
        head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-type: application/x-tar"),
        "{head}"
    );
    let second = appliance.rest("POST", "/api/v1/backup", None);
    assert_eq!(second.status, 409);
    let refused = operator.says(&["backup", "x.tar"]);
    assert!(refused.status == 1 && refused.err.contains("one at a time"), "{refused:?}");
    assert!(!operator.home.path().join("x.tar").exists() && !operator.home.path().join("x.tar.partial").exists());
    drop(first);
    eventually("the next may begin", || (operator.says(&["backup", "x.tar"]).status == 0).then_some(()));
}
