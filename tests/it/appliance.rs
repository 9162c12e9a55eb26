//! The real binary as a black box: an appliance in a process of its own, and what a test needs around it: a client of
//! REST, a client of SMTP, a next hop that keeps what it takes.
//!
//! Everything binds port 0 and reads the port from the log. Waiting is polling with one generous deadline
//! ([`PATIENCE`]): a slow machine makes a test slow, not red. When a test fails, the log of its appliance is printed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, Stream};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// The owner key of every appliance.
pub const KEY: &str = "test-key-of-the-owner";
/// What the variable `BRIDGEHEAD_SECRET_TEST` of every appliance holds.
pub const SECRET: &str = "a secret of the tests";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a log that are shown when a test fails.
const MOST_SHOWN: usize = 50;

/// Polls until there is something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// An appliance and its data directory, which outlives its processes. Dropped, both are gone.
pub struct Appliance {
    data: TempDir,
    process: Option<Process>,
    /// Besides those that all have.
    variables: Vec<(String, String)>,
    /// The directory of documents that it watches.
    files: Option<PathBuf>,
}

struct Process {
    child: Child,
    log: Arc<Log>,
    api: SocketAddr,
}

impl Appliance {
    /// On an empty directory, with the defaults of a first start.
    pub fn start() -> Appliance {
        Appliance::start_with(&[])
    }

    /// The same with these variables in its environment.
    pub fn start_with(variables: &[(&str, &str)]) -> Appliance {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut appliance = Appliance { data: tempfile::tempdir().unwrap(), process: None, files: None, variables };
        appliance.start_again();
        appliance
    }

    /// On an empty directory, with the configuration that these files say.
    pub fn start_watching(files: &Path) -> Appliance {
        let files = Some(files.to_owned());
        let mut appliance = Appliance { data: tempfile::tempdir().unwrap(), process: None, files, variables: vec![] };
        appliance.start_again();
        appliance
    }

    /// From the next start on with the configuration that these files say.
    pub fn watch(&mut self, files: &Path) {
        self.files = Some(files.to_owned());
    }

    /// Runs the binary on the directory and waits until it listens.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let (child, log) = spawn(self.data(), self.files.as_deref(), &self.variables);
        // From here on `drop` ends the child, whatever fails.
        self.process = Some(Process { child, log, api: SocketAddr::from(([0, 0, 0, 0], 0)) });
        let api = self.wait_for_line("REST listens", |line| {
            (line["message"] == "listening" && line["listener"] == "api").then(|| address_of(line))
        });
        self.process.as_mut().unwrap().api = api;
        if self.files.is_none() {
            self.smtp();
        }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Waits for a line of the log, among those of the running process.
    #[track_caller]
    pub fn wait_for_line<T>(&self, what: &str, find: impl FnMut(&Value) -> Option<T>) -> T {
        self.process().log.wait(what, find)
    }

    /// Where the virtual server `default` listens.
    #[track_caller]
    pub fn smtp(&self) -> SocketAddr {
        self.smtp_of("default")
    }

    /// Where a virtual server listens.
    #[track_caller]
    pub fn smtp_of(&self, server: &str) -> SocketAddr {
        self.wait_for_line(&format!("{server} listens"), |line| {
            let it = line["message"] == "listening" && line["listener"] == "smtp" && line["virtualServer"] == server;
            it.then(|| address_of(line))
        })
    }

    /// As kill -9 does, in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Says SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.process().child), Signal::TERM).unwrap();
    }

    /// Waits for its end; a process that is still there after `limit` fails.
    #[track_caller]
    pub fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let process = self.process.as_mut().expect("it ran");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                self.process = None;
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A good end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.ended_within(PATIENCE);
        assert!(status.success(), "{status}");
    }

    /// A second process on the same directory: how it ended, and all it said.
    pub fn run_a_second(&self) -> (ExitStatus, String) {
        let (mut child, log) = spawn(self.data(), self.files.as_deref(), &self.variables);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => break None,
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let _ = child.kill();
        child.wait().unwrap();
        let status = status.unwrap_or_else(|| panic!("two processes run on one directory:\n{}", log.text()));
        (status, log.all())
    }

    /// Where REST listens.
    pub fn api(&self) -> SocketAddr {
        self.process().api
    }

    /// A request with the key.
    pub fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.rest_as(KEY, method, path, body)
    }

    /// A request with this key.
    pub fn rest_as(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        request(self.process().api, key, method, path, body)
    }

    /// `GET`, which must succeed.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.rest("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Makes or replaces an object, which must succeed.
    #[track_caller]
    pub fn put(&self, object: &str, spec: Value) {
        let answer = self.rest("PUT", &format!("/api/v1/{object}"), Some(&json!({ "spec": spec })));
        assert!(answer.status == 200 || answer.status == 201, "{object}: {answer:?}");
    }

    /// Changes an object, which must succeed.
    #[track_caller]
    pub fn patch(&self, object: &str, spec: Value) {
        let answer = self.rest("PATCH", &format!("/api/v1/{object}"), Some(&json!({ "spec": spec })));
        assert_eq!(answer.status, 200, "{object}: {answer:?}");
    }

    /// A request with a body of this media type; the head and the body of the answer, however that is framed.
    pub fn raw(&self, method: &str, path: &str, media: &str, body: &str) -> (String, String) {
        self.raw_as(KEY, method, path, media, body)
    }

    /// The same with this key, or with this key and further header fields.
    pub fn raw_as(&self, key: &str, method: &str, path: &str, media: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.process().api).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {key}");
        let length = body.len();
        let request = format!("{head}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// Messages that wait, in all queues but that of dead letters.
    pub fn waiting(&self) -> u64 {
        let queues = self.get("/api/v1/queues");
        let queues = queues["items"].as_array().unwrap();
        queues.iter().filter(|queue| queue["id"] != "deadLetter").map(|queue| queue["messages"].as_u64().unwrap()).sum()
    }

    /// What lies in the Maildir of a recipient of the store `default`, oldest first.
    pub fn mailbox(&self, recipient: &str) -> Vec<Vec<u8>> {
        let directory = self.data().join("mail/default").join(recipient).join("new");
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// The first message in that Maildir.
    #[track_caller]
    pub fn first_mail(&self, recipient: &str) -> Vec<u8> {
        eventually(&format!("mail for {recipient}"), || self.mailbox(recipient).into_iter().next())
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            let _ = process.child.wait();
            if thread::panicking() {
                eprintln!("the log of the appliance ends so:\n{}", process.log.text());
            }
        }
    }
}

fn spawn(data: &Path, files: Option<&Path>, variables: &[(String, String)]) -> (Child, Arc<Log>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BRIDGEHEAD_")) {
        command.env_remove(name);
    }
    if let Some(files) = files {
        command.env("BRIDGEHEAD_CONFIG_DIR", files);
    }
    let mut child = command
        .env("BRIDGEHEAD_DATA_DIR", data)
        .env("BRIDGEHEAD_SECRETS_DIR", data.join("secrets"))
        .env("BRIDGEHEAD_API_LISTEN", "127.0.0.1:0")
        .env("BRIDGEHEAD_SMTP_LISTEN", "127.0.0.1:0")
        .env("BRIDGEHEAD_ADMIN_KEY", KEY)
        .env("BRIDGEHEAD_SECRET_TEST", SECRET)
        .env("BRIDGEHEAD_LOG_FORMAT", "json")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Arc::new(Log { state: Mutex::new(LogState { lines: Vec::new(), open: 2 }), grown: Condvar::new() });
    drain(child.stdout.take().unwrap(), log.clone());
    drain(child.stderr.take().unwrap(), log.clone());
    (child, log)
}

fn address_of(line: &Value) -> SocketAddr {
    line["address"].as_str().unwrap().parse().unwrap()
}

/// What a process has said so far.
struct Log {
    state: Mutex<LogState>,
    grown: Condvar,
}

struct LogState {
    lines: Vec<String>,
    /// Pipes that are not at their end.
    open: usize,
}

/// Reads a pipe to its end, so that the process is never held up by it. The thread ends with the process.
fn drain(pipe: impl Read + Send + 'static, log: Arc<Log>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            log.state.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
            log.grown.notify_all();
        }
        log.state.lock().unwrap().open -= 1;
        log.grown.notify_all();
    });
}

impl Log {
    #[track_caller]
    fn wait<T>(&self, what: &str, mut find: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        let mut seen = 0;
        loop {
            for line in &state.lines[seen..] {
                let line = serde_json::from_str(line).unwrap_or(Value::Null);
                if let Some(found) = find(&line) {
                    return found;
                }
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open == 0 {
                drop(state);
                panic!("the log does not say: {what}");
            }
            state = self.grown.wait_timeout(state, left).unwrap().0;
        }
    }

    /// All of it, when the process has ended.
    fn all(&self) -> String {
        let state = self.state.lock().unwrap();
        self.grown.wait_timeout_while(state, PATIENCE, |state| state.open > 0).unwrap().0.lines.join("\n")
    }

    /// The last lines.
    fn text(&self) -> String {
        let state = self.state.lock().unwrap();
        state.lines[state.lines.len().saturating_sub(MOST_SHOWN)..].join("\n")
    }
}

/// What REST answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn request(address: SocketAddr, key: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Type: {media}\r\n"
    );
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<String, String> =
        fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map(|length| length.parse::<usize>().unwrap());
    assert_eq!(length.unwrap_or_default(), body.len(), "an answer that is whole: {answer}");
    Answer { status, headers, body: body.to_owned() }
}

/// A client of SMTP that corrects nothing.
pub struct Smtp {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    input: Vec<u8>,
    ended: bool,
}

impl Smtp {
    /// Connects; the greeting is the first reply.
    pub fn connect(address: SocketAddr) -> Smtp {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Smtp { stream, tls: None, input: Vec::new(), ended: false }
    }

    /// Connects from an address of this machine.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> Smtp {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Smtp { stream, tls: None, input: Vec::new(), ended: false }
    }

    /// Begins TLS; whatever certificate the server has will do. False when the handshake fails.
    pub fn start_tls(&mut self, server_name: &str) -> bool {
        self.start_tls_as(server_name, tls_client(None), b"")
    }

    /// Begins TLS as this client ([`tls_client`]), with some octets in front of its hello, in one write with it.
    pub fn start_tls_as(&mut self, server_name: &str, client: Arc<ClientConfig>, front: &[u8]) -> bool {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(client, name).unwrap();
        let mut hello = front.to_vec();
        while connection.wants_write() {
            connection.write_tls(&mut hello).unwrap();
        }
        self.send(&hello);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while connection.is_handshaking() {
            if connection.complete_io(&mut self.stream).is_err() {
                self.ended = true;
                return false;
            }
        }
        self.tls = Some(Box::new(connection));
        true
    }

    /// The certificate that the server showed, as DER.
    pub fn peer_certificate(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().unwrap();
        tls.peer_certificates().unwrap()[0].to_vec()
    }

    /// Connects, reads the greeting, and says EHLO.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Smtp {
        Smtp::connect(address).greeted()
    }

    /// Reads the greeting, and says EHLO.
    #[track_caller]
    pub fn greeted(mut self) -> Smtp {
        let greeting = self.reply();
        assert!(greeting.as_ref().is_some_and(|lines| lines[0].starts_with("220 ")), "{greeting:?}");
        self.expect("EHLO client.example", "250");
        self
    }

    /// Sends octets as they are. That nobody reads them any more shows in the replies.
    pub fn send(&mut self, octets: &[u8]) {
        let _ = match &mut self.tls {
            None => self.stream.write_all(octets),
            Some(tls) => Stream::new(&mut **tls, &mut self.stream).write_all(octets),
        };
    }

    /// Ends our side.
    pub fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.complete_io(&mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next reply, all its lines; `None` when the server has closed, or none comes.
    pub fn reply(&mut self) -> Option<Vec<String>> {
        self.reply_within(PATIENCE)
    }

    /// The next reply, if it comes within this time.
    pub fn reply_within(&mut self, time: Duration) -> Option<Vec<String>> {
        let deadline = Instant::now() + time;
        loop {
            if let Some((lines, length)) = first_reply(&self.input) {
                self.input.drain(..length);
                return Some(lines);
            }
            if self.ended || !self.read(deadline) {
                return None;
            }
        }
    }

    /// True when the server closes, and says nothing more before it does.
    pub fn closed(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.ended && self.read(deadline) {}
        self.ended && self.input.is_empty()
    }

    /// Says a line; the reply must begin so.
    #[track_caller]
    pub fn expect(&mut self, line: &str, reply: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect_reply(reply)
    }

    /// The next reply must begin so (its last line).
    #[track_caller]
    pub fn expect_reply(&mut self, begin: &str) -> String {
        let reply = self.reply();
        let last = reply.as_ref().and_then(|lines| lines.last().cloned()).unwrap_or_default();
        assert!(last.starts_with(begin), "{begin} was expected: {reply:?}");
        last
    }

    /// Hands in one message, which must be taken.
    #[track_caller]
    pub fn mail(&mut self, from: &str, to: &[&str], content: &[u8]) {
        self.expect(&format!("MAIL FROM:<{from}> BODY=8BITMIME"), "250 2.1.0");
        for recipient in to {
            self.expect(&format!("RCPT TO:<{recipient}>"), "250 2.1.5");
        }
        self.expect("DATA", "354");
        self.send(&stuffed(content));
        self.send(b".\r\n");
        self.expect_reply("250 2.0.0");
    }

    /// The connection has turned round (ATRN): the next command of the other side.
    #[track_caller]
    pub fn command(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            assert!(self.read(deadline), "a command was expected");
        }
    }

    /// The connection has turned round: serves it to its end, and the sink keeps what comes.
    #[track_caller]
    pub fn serve_for(self, sink: &Sink) {
        assert!(self.tls.is_none() && self.input.is_empty());
        serve(&self.stream, &sink.ledger).unwrap();
    }

    /// False at the end, and when the time is over.
    fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut some = [0; 4096];
        let read = match &mut self.tls {
            None => self.stream.read(&mut some),
            Some(tls) => Stream::new(&mut **tls, &mut self.stream).read(&mut some),
        };
        match read {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.input.extend_from_slice(&some[..length]);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                self.ended = true;
            }
            // an alert
            Err(error) if self.tls.is_some() && error.kind() == ErrorKind::InvalidData => self.ended = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
        }
        false
    }
}

/// A client that believes every certificate, and shows this one when it is asked for one.
pub fn tls_client(own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Credulous(Arc<rustls::crypto::CryptoProvider>);

    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    Arc::new(match own {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    })
}

/// The first complete reply and its length.
fn first_reply(input: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut lines = Vec::new();
    let mut rest = input;
    loop {
        let end = rest.iter().position(|octet| *octet == b'\n')?;
        let line = rest[..end].strip_suffix(b"\r").expect("a line of a reply ends in CRLF");
        let line = String::from_utf8(line.to_vec()).unwrap();
        rest = &rest[end + 1..];
        let last = line.as_bytes().get(3) != Some(&b'-');
        lines.push(line);
        if last {
            return Some((lines, input.len() - rest.len()));
        }
    }
}

/// Puts a dot before each line that begins with one (RFC 5321, 4.5.2).
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

/// A message that a [`Sink`] took.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What stood behind `MAIL FROM:`.
    pub from: String,
    /// What stood behind each accepted `RCPT TO:`.
    pub to: Vec<String>,
    /// The content, dots unstuffed.
    pub content: Vec<u8>,
}

/// A next hop that keeps what it takes. It has its port from the beginning, and refuses connections until it is opened.
pub struct Sink {
    socket: Option<Socket>,
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// What it offers, if not the usual.
    extensions: Option<&'static [&'static str]>,
    taken: Mutex<Vec<Taken>>,
    /// What a next hop must never see.
    faults: Mutex<Vec<String>>,
}

impl Sink {
    /// One that is down.
    pub fn down() -> Sink {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Sink { socket: Some(socket), address, ledger: Arc::default() }
    }

    /// One that is up.
    pub fn up() -> Sink {
        let mut sink = Sink::down();
        sink.open();
        sink
    }

    /// One that is up and offers just this.
    pub fn offering(extensions: &'static [&'static str]) -> Sink {
        let mut sink = Sink::down();
        sink.ledger = Arc::new(Ledger { extensions: Some(extensions), ..Ledger::default() });
        sink.open();
        sink
    }

    /// From now on it takes connections. Its thread lasts as long as the test run: nothing waits for it.
    pub fn open(&mut self) {
        let socket = self.socket.take().expect("it is down");
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        let ledger = self.ledger.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let ledger = ledger.clone();
                thread::spawn(move || {
                    if let Err(fault) = serve(&stream, &ledger) {
                        ledger.faults.lock().unwrap().push(fault);
                    }
                });
            }
        });
    }

    /// The route of a connector that leads here.
    pub fn route(&self) -> Value {
        json!({ "smartHosts": [{ "host": self.address.ip().to_string(), "port": self.address.port() }] })
    }

    /// What was taken so far.
    #[track_caller]
    pub fn taken(&self) -> Vec<Taken> {
        let faults = self.ledger.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        self.ledger.taken.lock().unwrap().clone()
    }

    /// Waits for this many.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Taken> {
        eventually(&format!("{count} messages at the sink"), || Some(self.taken()).filter(|taken| taken.len() >= count))
    }
}

/// One connection: recipients whose name begins with `no` are refused; the rest is taken.
fn serve(stream: &TcpStream, ledger: &Ledger) -> Result<(), String> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut input = BufReader::new(stream);
    let say = |text: &str| {
        let mut stream = stream;
        let _ = stream.write_all(format!("{text}\r\n").as_bytes());
    };
    let (mut from, mut to) = (String::new(), Vec::new());
    say("220 sink.example ESMTP");
    while let Some(line) = next_line(&mut input)? {
        let line = String::from_utf8(line).map_err(|line| format!("a command in {line:?}"))?;
        let (verb, rest) = line.split_at(line.find([' ', ':']).unwrap_or(line.len()));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let usual = ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"];
                let offered = ledger.extensions.unwrap_or(&usual);
                let lines: String = offered.iter().map(|keyword| format!("250-{keyword}\r\n")).collect();
                say(&format!("250-sink.example\r\n{lines}250 HELP"));
            }
            "MAIL" => {
                from = rest.strip_prefix(" FROM:").ok_or_else(|| line.clone())?.to_owned();
                to.clear();
                say("250 2.1.0 ok");
            }
            "RCPT" => {
                let path = rest.strip_prefix(" TO:").ok_or_else(|| line.clone())?;
                if path.starts_with("<no") {
                    say("550 5.1.1 There is nobody of that name");
                } else {
                    to.push(path.to_owned());
                    say("250 2.1.5 ok");
                }
            }
            "DATA" if to.is_empty() => say("554 5.5.1 No valid recipients"),
            "DATA" => {
                say("354 go ahead");
                let mut content = Vec::new();
                loop {
                    let line = next_line(&mut input)?.ok_or("the end of the stream in the content")?;
                    if line == b"." {
                        break;
                    }
                    content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                    content.extend_from_slice(b"\r\n");
                }
                ledger.taken.lock().unwrap().push(Taken { from: from.clone(), to: std::mem::take(&mut to), content });
                say("250 2.0.0 taken");
            }
            "RSET" | "NOOP" => say("250 2.0.0 ok"),
            "QUIT" => {
                say("221 2.0.0 bye");
                return Ok(());
            }
            _ => return Err(format!("no command: {line}")),
        }
    }
    Ok(())
}

/// The next line without its CRLF; any other CR or LF is a fault. `None` at the end, also when the client is killed.
pub fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    match input.read_until(b'\n', &mut line) {
        Ok(_) if line.ends_with(b"\n") => {}
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) => return Err(format!("half a line: {}", String::from_utf8_lossy(&line))),
    }
    match line.strip_suffix(b"\r\n") {
        Some(text) if !text.contains(&b'\r') => Ok(Some(text.to_vec())),
        _ => Err(format!("a bare CR or LF in {:?}", String::from_utf8_lossy(&line))),
    }
}

#[test]
fn replies_are_taken_apart() {
    assert_eq!(first_reply(b"250-a\r\n250 b"), None);
    let (lines, length) = first_reply(b"250-a\r\n250 b\r\n221 c\r\n").unwrap();
    assert_eq!((lines.as_slice(), length), (["250-a".to_owned(), "250 b".to_owned()].as_slice(), 14));
    assert_eq!(first_reply(b"250\r\n").unwrap().0, ["250"]);
}

#[test]
fn the_sink_sees_bare_line_ends_and_halves() {
    for bad in [&b"a\n"[..], b"a\rb\r\n", b"a\r\r\n", b"half"] {
        assert!(next_line(&mut &bad[..]).is_err(), "{bad:?}");
    }
    assert_eq!(next_line(&mut &b"a\r\n"[..]), Ok(Some(b"a".to_vec())));
    assert_eq!(next_line(&mut &b""[..]), Ok(None));
    assert_eq!(stuffed(b".\r\na.\r\n..b\r\n\r\n"), b"..\r\na.\r\n...b\r\n\r\n");
}
