//! The protocol log: each command with its reply, in files of its own per virtual server.
//!
//! ```text
//!   <data>/protocol-logs/<virtual server>/20261124T101502Z-000000.log     (JSON: .jsonl)
//! ```
//!
//! Connections hand in [`Entry`]s and never wait: one thread writes; what it cannot follow is dropped and counted
//! (`bridgehead_protocol_log_dropped_total`), and so is what the disk refuses. A new file begins with the process, when the format
//! changes, and when `rotate` says so; of all files `keep` stay. Whether and how is the virtual server's `protocolLog`
//! when a session is opened, and again at each MAIL. Not synced: it is no record of what was taken.
//!
//! **W3C extended log file format**, with Exchange's names. The default fields are Exchange's: `time c-ip cs-method
//! cs-uri-stem sc-status`; the full set adds what is in [`FULL`]. `cs-method` is the verb (`CONNECT` for the greeting,
//! `CONTENT` for the reply to the content), `cs-uri-stem` the first word behind it, `cs-uri-query` the rest, `cs-username`
//! the account, `cs-host` the client's own name. **JSON** has an object a line.
//!
//! No client can write a line, a field or a header of its own: in W3C a space is `+`, and whatever is not printable ASCII, `+`,
//! `%` and a lone `-` is `%XX`; JSON escapes. Of AUTH there is only the mechanism, and of lines that are no command
//! nothing, since a password may stand in one that went astray.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::config::VirtualServer;
use crate::model::spec::virtual_server::{LogFields, LogFormat, ProtocolLog};
use crate::model::time::Timestamp;
use crate::smtp::command::Verb;
use crate::smtp::reply::EnhancedStatus;

/// Entries that wait for the writer.
const WAITING: usize = 8_192;
/// Longest argument that is written, in octets.
const MAX_ARGUMENT: usize = 1_024;
/// What is written is on its way to the file after this.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// A failure of the disk is told this often.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The default fields.
pub const DEFAULT: &str = "time c-ip cs-method cs-uri-stem sc-status";
/// All fields.
pub const FULL: &str = "date time c-ip c-port cs-username s-sitename s-computername s-ip s-port cs-method cs-uri-stem \
                        cs-uri-query sc-status sc-bytes cs-bytes time-taken cs-version cs-host";

/// A command and its reply.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The virtual server, with its `protocolLog`.
    pub server: Arc<VirtualServer>,
    /// When the reply was given.
    pub at: Timestamp,
    /// The session.
    pub session: String,
    /// The client.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// What it calls itself.
    pub helo: String,
    /// The account that it authenticated as.
    pub account: Option<String>,
    /// The command.
    pub verb: Verb,
    /// What stood behind it.
    pub argument: Vec<u8>,
    /// The reply code.
    pub code: u16,
    /// The enhanced status code.
    pub status: Option<EnhancedStatus>,
    /// Octets of the reply.
    pub sent: usize,
    /// Octets of the command, or of the content.
    pub received: u64,
    /// From the command, as far as an answer was waited for, to the reply.
    pub taken: Duration,
}

impl Entry {
    /// True when a server wants entries at all.
    pub fn is_wanted(server: &VirtualServer) -> bool {
        server.spec.protocol_log.format != LogFormat::None
    }

    fn verb(&self) -> &'static str {
        match self.verb {
            Verb::Connect => "CONNECT",
            Verb::Content => "CONTENT",
            Verb::Other => "-",
            verb => verb.as_str(),
        }
    }

    /// What may be written of the argument.
    fn argument(&self) -> &[u8] {
        match self.verb {
            Verb::Other => &[],
            _ => &self.argument[..self.argument.len().min(MAX_ARGUMENT)],
        }
    }
}

enum Job {
    Write(Box<Entry>),
    End,
}

/// The protocol logs of a process.
pub struct ProtocolLogs {
    queue: SyncSender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: Counter,
}

impl ProtocolLogs {
    /// Starts the writer. Files lie below `directory`, which is made when it is needed.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(directory: PathBuf, dropped: Counter) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(WAITING);
        let writer = Writer { directory, open: HashMap::new(), dropped: dropped.clone(), told: None, next: 0 };
        let run = move || writer.run(&jobs);
        let writer = std::thread::Builder::new().name("protocol-log".into()).spawn(run)?;
        Ok(ProtocolLogs { queue, writer: Mutex::new(Some(writer)), dropped })
    }

    /// Hands an entry to the writer. Never waits.
    pub fn write(&self, entry: Entry) {
        match self.queue.try_send(Job::Write(Box::new(entry))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => drop(self.dropped.inc()),
        }
    }

    /// Writes what waits, and ends the writer. Blocks.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // the writer is gone only if it has panicked
            let _ = self.queue.send(Job::End);
            let _ = writer.join();
        }
    }
}

struct Writer {
    directory: PathBuf,
    open: HashMap<String, LogFile>,
    dropped: Counter,
    told: Option<Instant>,
    /// Numbers the files of this process, so that two of one second keep their order.
    next: u32,
}

/// A file that is written to.
struct LogFile {
    out: BufWriter<File>,
    kind: (LogFormat, LogFields),
    began: Timestamp,
    written: u64,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(FLUSH_AFTER) {
                Ok(Job::Write(entry)) => {
                    if let Err(error) = self.write(&entry) {
                        self.failed(entry.server.name.as_str(), &error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let settings = &entry.server.spec.protocol_log;
        let name = entry.server.name.as_str();
        if settings.format == LogFormat::None {
            self.open.remove(name);
            return Ok(());
        }
        if self.open.get(name).is_none_or(|file| file.is_over(settings, entry.at)) {
            self.open.remove(name);
            let file = LogFile::begin(&self.directory.join(name), settings, entry.at, &mut self.next)?;
            self.open.insert(name.to_owned(), file);
        }
        let Some(file) = self.open.get_mut(name) else { return Ok(()) };
        file.put(&match settings.format {
            LogFormat::Json => json_line(entry, settings.fields),
            LogFormat::W3c | LogFormat::None => w3c_line(entry, settings.fields),
        })
    }

    fn flush(&mut self) {
        let failed = self.open.iter_mut().filter_map(|(name, file)| Some((name.clone(), file.out.flush().err()?)));
        for (name, error) in failed.collect::<Vec<_>>() {
            self.failed(&name, &error);
        }
    }

    fn failed(&mut self, server: &str, error: &io::Error) {
        self.open.remove(server);
        self.dropped.inc();
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            tracing::error!(virtualServer = server, error = %error, "the protocol log cannot be written");
        }
    }
}

impl LogFile {
    /// A new file, with its header; then the oldest are removed.
    fn begin(directory: &Path, settings: &ProtocolLog, at: Timestamp, next: &mut u32) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (date, time) = date_and_time(at);
        let stamp = format!("{}T{}Z", date.replace('-', ""), time.replace(':', ""));
        let ending = if settings.format == LogFormat::Json { "jsonl" } else { "log" };
        // one may be there when the process was started twice in a second
        let file = (0..1_000).find_map(|_| {
            let name = format!("{stamp}-{:06}.{ending}", *next);
            *next = (*next + 1) % 1_000_000;
            match File::options().write(true).create_new(true).open(directory.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                opened => Some(opened.map(|file| (file, name))),
            }
        });
        let (file, name) = file.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
        prune(directory, &name, settings.keep as usize)?;
        let kind = (settings.format, settings.fields);
        let mut file = LogFile { out: BufWriter::new(file), kind, began: at, written: 0 };
        if settings.format == LogFormat::W3c {
            let fields = match settings.fields {
                LogFields::Default => DEFAULT,
                LogFields::Full => FULL,
            };
            let software = concat!("Bridgehead ", env!("CARGO_PKG_VERSION"));
            let head = format!("#Software: {software}\n#Version: 1.0\n#Date: {date} {time}\n#Fields: {fields}\n");
            file.put(&head)?;
        }
        Ok(file)
    }

    fn is_over(&self, settings: &ProtocolLog, at: Timestamp) -> bool {
        let too_old = settings.rotate.every.is_some_and(|every| at.since(self.began) >= every.std());
        too_old || self.written >= settings.rotate.size.bytes() || self.kind != (settings.format, settings.fields)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.written += text.len() as u64;
        Ok(())
    }
}

/// Removes the oldest files but `keep`, one of which is the newest, whatever the clock says; what is not named like ours is
/// not looked at.
fn prune(directory: &Path, newest: &str, keep: usize) -> io::Result<()> {
    let is_ours = |name: &str| {
        let stem = name.strip_suffix(".log").or_else(|| name.strip_suffix(".jsonl"));
        stem.is_some_and(|stem| stem.len() == 23 && stem.as_bytes()[8] == b'T' && stem.as_bytes()[16] == b'-')
    };
    let names = fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ours: Vec<String> = names.filter(|name| is_ours(name) && name != newest).collect();
    ours.sort_unstable();
    let surplus = (ours.len() + 1).saturating_sub(keep.max(1));
    for name in &ours[..surplus] {
        fs::remove_file(directory.join(name))?;
    }
    Ok(())
}

/// `2026-11-24`, `10:15:02`, in UTC.
fn date_and_time(at: Timestamp) -> (String, String) {
    let text = at.to_string();
    let (date, time) = text.split_once('T').unwrap_or(("1970-01-01", "00:00:00"));
    (date.to_owned(), time.get(..8).unwrap_or("00:00:00").to_owned())
}

fn w3c_line(entry: &Entry, fields: LogFields) -> String {
    let (date, time) = date_and_time(entry.at);
    let argument = entry.argument();
    let split = memchr::memchr(b' ', argument).unwrap_or(argument.len());
    let (stem, query) = (&argument[..split], argument.get(split + 1..).unwrap_or_default());
    let mut line = String::with_capacity(128);
    if fields == LogFields::Default {
        let _ = write!(line, "{time} {} {} ", entry.client.ip(), entry.verb());
        encode(stem, &mut line);
        let _ = writeln!(line, " {}", entry.code);
        return line;
    }
    let _ = write!(line, "{date} {time} {} {} ", entry.client.ip(), entry.client.port());
    encode(entry.account.as_deref().unwrap_or_default().as_bytes(), &mut line);
    let (local, server) = (entry.local, &entry.server);
    let _ = write!(line, " {} {} {} {} ", server.name, server.fqdn.as_str(), local.ip(), local.port());
    let _ = write!(line, "{} ", entry.verb());
    encode(stem, &mut line);
    line.push(' ');
    encode(query, &mut line);
    let taken = entry.taken.as_millis();
    let _ = write!(line, " {} {} {} {taken} SMTP ", entry.code, entry.sent, entry.received);
    encode(entry.helo.as_bytes(), &mut line);
    line.push('\n');
    line
}

/// A value of a field: never empty, without spaces, and it can be read back.
fn encode(value: &[u8], out: &mut String) {
    match value {
        b"" => out.push('-'),
        b"-" => out.push_str("%2D"),
        value => {
            for byte in value {
                match byte {
                    b' ' => out.push('+'),
                    b'+' | b'%' => drop(write!(out, "%{byte:02X}")),
                    b'!'..=b'~' => out.push(char::from(*byte)),
                    _ => drop(write!(out, "%{byte:02X}")),
                }
            }
        }
    }
}

/// A line of JSON; the second half only with all fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLine<'a> {
    at: Timestamp,
    client: IpAddr,
    verb: &'static str,
    argument: std::borrow::Cow<'a, str>,
    code: u16,
    #[serde(flatten)]
    rest: Option<JsonRest<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRest<'a> {
    session: &'a str,
    virtual_server: &'a str,
    client_port: u16,
    binding: SocketAddr,
    helo: &'a str,
    account: Option<&'a str>,
    status: Option<EnhancedStatus>,
    bytes_sent: usize,
    bytes_received: u64,
    duration_ms: u64,
}

fn json_line(entry: &Entry, fields: LogFields) -> String {
    let rest = || JsonRest {
        session: &entry.session,
        virtual_server: entry.server.name.as_str(),
        client_port: entry.client.port(),
        binding: entry.local,
        helo: &entry.helo,
        account: entry.account.as_deref(),
        status: entry.status,
        bytes_sent: entry.sent,
        bytes_received: entry.received,
        duration_ms: u64::try_from(entry.taken.as_millis()).unwrap_or(u64::MAX),
    };
    let line = JsonLine {
        at: entry.at,
        client: entry.client.ip(),
        verb: entry.verb(),
        argument: String::from_utf8_lossy(entry.argument()),
        code: entry.code,
        rest: (fields == LogFields::Full).then(rest),
    };
    let mut text = serde_json::to_string(&line).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientList;
    use crate::model::spec::VirtualServerSpec;
    use serde_json::{Value, json};

    fn server(log: Value) -> Arc<VirtualServer> {
        let spec: VirtualServerSpec = serde_json::from_value(json!({"bindings": [], "protocolLog": log})).unwrap();
        Arc::new(VirtualServer {
            name: "inside".parse().unwrap(),
            generation: 1,
            spec,
            fqdn: "mx.example".parse().unwrap(),
            relay: ClientList::default(),
            connection_control: ClientList::default(),
            tls: None,
            tls_fault: None,
        })
    }

    fn entry(server: &Arc<VirtualServer>, verb: Verb, argument: &[u8]) -> Entry {
        Entry {
            server: server.clone(),
            at: Timestamp::from_millis(1_795_000_000_000),
            session: "s".into(),
            client: "192.0.2.7:4000".parse().unwrap(),
            local: "192.0.2.1:25".parse().unwrap(),
            helo: "a b\r\n#c".into(),
            account: Some("-".into()),
            verb,
            argument: argument.to_vec(),
            code: 250,
            status: Some(EnhancedStatus::success(0, 0)),
            sent: 10,
            received: 20,
            taken: Duration::from_millis(3),
        }
    }

    #[test]
    fn a_line_has_all_fields_and_no_client_writes_one_of_its_own() {
        let server = server(json!({"format": "w3c"}));
        let mail = entry(&server, Verb::Mail, b"FROM:<a+b@c> SIZE=1 \xff\r\n#Fields: x\n1.2.3.4");
        assert_eq!(w3c_line(&mail, LogFields::Default), "11:06:40 192.0.2.7 MAIL FROM:<a%2Bb@c> 250\n");
        let full = w3c_line(&mail, LogFields::Full);
        assert_eq!(
            full,
            "2026-11-18 11:06:40 192.0.2.7 4000 %2D inside mx.example 192.0.2.1 25 MAIL FROM:<a%2Bb@c> \
             SIZE=1+%FF%0D%0A#Fields:+x%0A1.2.3.4 250 10 20 3 SMTP a+b%0D%0A#c\n"
        );
        assert_eq!(full.split(' ').count(), FULL.split(' ').count());
        let json: Value = serde_json::from_str(&json_line(&mail, LogFields::Full)).unwrap();
        assert_eq!(
            (&json["verb"], &json["helo"], &json["bytesReceived"]),
            (&json!("MAIL"), &json!("a b\r\n#c"), &json!(20))
        );
        assert_eq!(json_line(&mail, LogFields::Full).matches('\n').count(), 1);
        let json: Value = serde_json::from_str(&json_line(&mail, LogFields::Default)).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 5);
    }

    #[test]
    fn what_is_no_command_may_be_a_password_and_is_not_written() {
        let server = server(json!({"format": "json"}));
        let astray = entry(&server, Verb::Other, b"c2VjcmV0");
        assert!(!json_line(&astray, LogFields::Full).contains("c2Vj"));
        assert!(!w3c_line(&astray, LogFields::Full).contains("c2Vj"));
    }

    #[test]
    fn files_rotate_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let logs = ProtocolLogs::start(dir.path().join("logs"), Counter::default()).unwrap();
        let small = json!({"format": "w3c", "keep": 3, "rotate": {"size": "64KiB"}});
        let of_size = server(small);
        for _ in 0..3_000 {
            logs.write(entry(&of_size, Verb::Noop, &[b'x'; 90]));
        }
        let other = server(json!({"format": "json", "keep": 3}));
        logs.write(entry(&other, Verb::Noop, b""));
        logs.close();
        assert_eq!(logs.dropped.get(), 0, "3,001 entries fit into the queue");
        let mut names: Vec<String> = fs::read_dir(dir.path().join("logs/inside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[2].ends_with(".jsonl"), "another format, another file: {names:?}");
        let whole = fs::read_to_string(dir.path().join("logs/inside").join(&names[0])).unwrap();
        assert!(whole.starts_with("#Software: Bridgehead ") && whole.ends_with(" 250\n"));
        assert!((64 << 10..65 << 10).contains(&whole.len()), "{}", whole.len());
    }

    #[test]
    fn nobody_waits_for_a_disk_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logs"), b"in the way").unwrap();
        let dropped = Counter::default();
        let logs = ProtocolLogs::start(dir.path().join("logs"), dropped.clone()).unwrap();
        let server = server(json!({"format": "w3c"}));
        for _ in 0..10 {
            logs.write(entry(&server, Verb::Noop, b""));
        }
        logs.close();
        assert_eq!(dropped.get(), 10);
        logs.write(entry(&server, Verb::Noop, b""));
        assert_eq!(dropped.get(), 11, "after the end too");
    }
}
