//! SMTP conversations as text, `tests/dialogs/*.smtp`: one corpus for several drivers.
//!
//! This file parses and plays dialogs against anything that is a [`Peer`], and plays all of them against the session core,
//! with random chunking. A line of a dialog is one of
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | a comment |
//! | `@ name value` | a setting of the server: `max-size`, `max-recipients`, `max-text-line`, `off` (a keyword), `normalise`, `early`, `lmtp`, `starttls`,
//! | | `require-tls`, `auth` (mechanisms), `auth-in-clear`, `auth-required`, `max-session-size` |
//! | `C: text` | the client says the text and CRLF; `\r \n \t \0 \\ \xHH` are escapes, `\{xN}` repeats the character before it N times |
//! | `R: text` | the same without CRLF |
//! | `S: 250 2.1.0` | the next reply begins so (its last line; `S: 250` matches any text) |
//! | `S+: text` | the reply matched last has a line that begins so behind its code |
//! | `S-: text` | it has none |
//! | `T: 600` | so many seconds pass |
//! | `M: 2` | so many messages were taken so far |
//! | `L:` | the server waits for a TLS handshake, which takes place |
//! | `E:` | the client ends its side |
//! | `X:` | the server closes |
//!
//! Lines of the client that follow each other leave as one group. The server's policy: `local.example` is local; its
//! users have no `%`, `!` or `@` in their names; `unknown` is none of them (550 5.1.1); all other domains are
//! 550 5.7.1. Of accounts there is `u` with the password `p`, by PLAIN and LOGIN. Replies that no line expects fail.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridgehead::smtp::address::ForwardPath;
use bridgehead::smtp::reply::{EnhancedStatus, Reply};
use bridgehead::smtp::server::{Answer, AuthStep, BareLineEnds, Question, Session, Settings, Step};

/// A conversation.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// Where it came from, for messages.
    pub name: String,
    /// The `@` lines.
    pub settings: Vec<(String, String)>,
    /// The rest, in order.
    pub lines: Vec<Line>,
}

/// A step of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The client sends these octets at once.
    Client(Vec<u8>),
    /// The next reply begins so.
    Reply(String),
    /// The reply matched last has such a line.
    Has(String),
    /// It has none.
    HasNot(String),
    /// Time passes.
    Pass(Duration),
    /// So many messages were taken.
    Messages(usize),
    /// A TLS handshake.
    Tls,
    /// The client ends its side.
    End,
    /// The server closes.
    Closed,
}

/// What a dialog is played against.
pub trait Peer {
    /// Sends octets, in chunks of the peer's choice.
    fn send(&mut self, octets: &[u8]);
    /// The next complete reply, all its lines, without CRLF; `None` when there is none.
    fn reply(&mut self) -> Option<Vec<String>>;
    /// A reply that nothing asked for. A peer on a network overrides it: it must not wait as long for what should not
    /// come as for what should.
    fn unasked(&mut self) -> Option<Vec<String>> {
        self.reply()
    }
    /// Time passes; false where that cannot be had, and the rest of the dialog is skipped.
    fn pass(&mut self, time: Duration) -> bool;
    /// How many messages were taken; `None` where that cannot be told.
    fn messages(&mut self) -> Option<usize>;
    /// The server is to begin TLS now; false where that cannot be had, and the rest of the dialog is skipped.
    fn tls(&mut self) -> bool;
    /// The client ends its side.
    fn end(&mut self);
    /// True when the server has closed.
    fn closed(&mut self) -> bool;
}

impl Dialog {
    /// All dialogs of the corpus.
    pub fn corpus() -> Vec<Dialog> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
        let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "smtp"));
        paths.sort();
        let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
        paths.iter().map(|path| Dialog::parse(&name(path), &fs::read_to_string(path).unwrap())).collect()
    }

    /// Reads a dialog; a line that makes no sense panics.
    pub fn parse(name: &str, text: &str) -> Dialog {
        let mut dialog = Dialog { name: name.to_owned(), settings: Vec::new(), lines: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (kind, rest) = line.split_once([':', ' ']).unwrap_or((line, ""));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let step = match kind {
                "@" => {
                    let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    dialog.settings.push((key.to_owned(), value.to_owned()));
                    continue;
                }
                "C" | "R" => {
                    let mut octets = unescape(rest);
                    if kind == "C" {
                        octets.extend_from_slice(b"\r\n");
                    }
                    if let Some(Line::Client(group)) = dialog.lines.last_mut() {
                        group.extend_from_slice(&octets);
                        continue;
                    }
                    Line::Client(octets)
                }
                "S" => Line::Reply(rest.to_owned()),
                "S+" => Line::Has(rest.to_owned()),
                "S-" => Line::HasNot(rest.to_owned()),
                "T" => Line::Pass(Duration::from_secs(rest.parse().unwrap())),
                "M" => Line::Messages(rest.parse().unwrap()),
                "L" => Line::Tls,
                "E" => Line::End,
                "X" => Line::Closed,
                _ => panic!("{name}:{}: {line:?} is no line of a dialog", number + 1),
            };
            dialog.lines.push(step);
        }
        dialog
    }

    /// Plays the dialog; panics where the peer does not keep to it.
    pub fn play(&self, peer: &mut impl Peer) {
        let mut last: Vec<String> = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let at = format!("{}, step {} {line:?}", self.name, index + 1);
            match line {
                Line::Client(octets) => {
                    peer.send(octets);
                }
                Line::Reply(expected) => {
                    last = peer.reply().unwrap_or_else(|| panic!("{at}: there is no reply"));
                    let text = last.last().unwrap();
                    assert!(text.starts_with(expected.as_str()), "{at}: the reply is {last:?}");
                    if !matches!(self.lines.get(index + 1), Some(Line::Reply(_) | Line::Has(_) | Line::HasNot(_))) {
                        let more = peer.unasked();
                        assert_eq!(more, None, "{at}: a reply that was not expected");
                    }
                }
                Line::Has(text) => assert!(has(&last, text), "{at}: the reply is {last:?}"),
                Line::HasNot(text) => assert!(!has(&last, text), "{at}: the reply is {last:?}"),
                Line::Pass(time) => {
                    if !peer.pass(*time) {
                        return;
                    }
                }
                Line::Messages(count) => {
                    if let Some(taken) = peer.messages() {
                        assert_eq!(taken, *count, "{at}");
                    }
                }
                Line::Tls => {
                    if !peer.tls() {
                        return;
                    }
                }
                Line::End => peer.end(),
                Line::Closed => assert!(peer.closed(), "{at}: it is open"),
            }
        }
        assert_eq!(peer.unasked(), None, "{}: a reply that was not expected", self.name);
    }
}

fn has(reply: &[String], text: &str) -> bool {
    reply.iter().any(|line| line.get(4..).is_some_and(|behind| behind.starts_with(text)))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            octets.extend_from_slice(c.to_string().as_bytes());
            continue;
        }
        match chars.next() {
            Some('r') => octets.push(b'\r'),
            Some('n') => octets.push(b'\n'),
            Some('t') => octets.push(b'\t'),
            Some('0') => octets.push(0),
            Some('\\') => octets.push(b'\\'),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                octets.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            Some('{') => {
                let count: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let count: usize = count.strip_prefix('x').unwrap().parse().unwrap();
                let octet = *octets.last().unwrap();
                octets.resize(octets.len() + count - 1, octet);
            }
            other => panic!("\\{other:?} is no escape"),
        }
    }
    octets
}

/// The session core, with chunks from a seed.
struct Core {
    session: Session,
    now: Instant,
    seed: u64,
    replies: VecDeque<Vec<String>>,
    open: Vec<String>,
    messages: usize,
    closed: bool,
    tls_due: bool,
    exchange: Vec<Vec<u8>>,
}

impl Core {
    fn new(dialog: &Dialog, seed: u64) -> Core {
        let mut settings = Settings::new("mx.local.example");
        let mut early = false;
        for (key, value) in &dialog.settings {
            match key.as_str() {
                "max-size" => settings.max_size = Some(value.parse().unwrap()),
                "max-recipients" => settings.max_recipients = value.parse().unwrap(),
                "max-text-line" => settings.max_text_line = value.parse().unwrap(),
                "normalise" => settings.bare_line_ends = BareLineEnds::Normalise,
                "early" => early = true,
                "lmtp" => settings.lmtp = true,
                "starttls" => settings.start_tls = true,
                "require-tls" => settings.require_tls = true,
                "max-session-size" => settings.max_session_size = Some(value.parse().unwrap()),
                "auth" => settings.auth.mechanisms = value.split(' ').map(|word| word.parse().unwrap()).collect(),
                "auth-in-clear" => settings.auth.require_tls = false,
                "auth-required" => settings.auth.required = true,
                "on" => {
                    assert_eq!(value, "ATRN");
                    settings.extensions.atrn = true;
                }
                "off" => {
                    let extensions = &mut settings.extensions;
                    *match value.as_str() {
                        "PIPELINING" => &mut extensions.pipelining,
                        "SIZE" => &mut extensions.size,
                        "8BITMIME" => &mut extensions.eight_bit_mime,
                        "SMTPUTF8" => &mut extensions.smtputf8,
                        "ENHANCEDSTATUSCODES" => &mut extensions.enhanced_status_codes,
                        "DSN" => &mut extensions.dsn,
                        "LIMITS" => &mut extensions.limits,
                        "FUTURERELEASE" => &mut extensions.future_release,
                        "DELIVERBY" => &mut extensions.deliver_by,
                        "MT-PRIORITY" => &mut extensions.mt_priority,
                        "CHUNKING" => &mut extensions.chunking,
                        "ETRN" => &mut extensions.etrn,
                        "HELP" => &mut extensions.help,
                        other => panic!("{other} is no extension"),
                    } = false;
                }
                other => panic!("{}: {other} is no setting", dialog.name),
            }
        }
        let now = Instant::now();
        let session = Session::new(Arc::new(settings), now);
        let mut core = Core {
            session,
            now,
            seed,
            replies: VecDeque::new(),
            open: Vec::new(),
            messages: 0,
            closed: false,
            tls_due: false,
            exchange: Vec::new(),
        };
        core.run();
        if !early {
            core.session.timeout(now);
            core.run();
        }
        core
    }

    fn run(&mut self) {
        for _ in 0..1_000_000 {
            match self.session.next(self.now) {
                Step::Send(octets) => {
                    let text = String::from_utf8(octets.to_vec()).unwrap();
                    assert!(text.ends_with("\r\n"));
                    for line in text.split_terminator("\r\n") {
                        let last = line.as_bytes()[3] == b' ';
                        self.open.push(line.to_owned());
                        if last {
                            self.replies.push_back(std::mem::take(&mut self.open));
                        }
                    }
                }
                Step::NeedInput { .. } => return,
                Step::Wait { until } => {
                    self.now = self.now.max(until);
                    self.session.timeout(self.now);
                }
                Step::Ask(question) => {
                    self.messages += usize::from(question == Question::Commit);
                    let answer = match &question {
                        Question::Auth(step) => auth(&mut self.exchange, step),
                        question => policy(question),
                    };
                    self.session.answer(answer, self.now);
                }
                Step::Close => {
                    self.closed = true;
                    return;
                }
                Step::StartTls => {
                    self.tls_due = true;
                    return;
                }
                Step::TurnAround => {
                    self.closed = true;
                    return;
                }
                Step::NeedAnswer => panic!("no question is open"),
                Step::Body(_) | Step::Reset | Step::Note(_) => {}
            }
        }
        panic!("the session does not come to rest");
    }
}

/// PLAIN and LOGIN for one account.
fn auth(exchange: &mut Vec<Vec<u8>>, step: &AuthStep) -> Answer {
    let verdict = |good: bool| match good {
        true => Answer::Proceed,
        false => Answer::Reply(Reply::new(535, EnhancedStatus::permanent(7, 8), "Not you")),
    };
    match step {
        AuthStep::Begin { mechanism, initial } => {
            *exchange = vec![mechanism.keyword().into()];
            exchange.extend(initial.iter().map(|initial| initial.to_vec()));
        }
        AuthStep::Response(response) => exchange.push(response.to_vec()),
    }
    match (exchange[0].as_slice(), &exchange[1..]) {
        (b"PLAIN", []) => Answer::Challenge(bytes::Bytes::new()),
        (b"PLAIN", [message]) => verdict(message == b"\0u\0p"),
        (b"LOGIN", []) => Answer::Challenge("Username:".into()),
        (b"LOGIN", [_]) => Answer::Challenge("Password:".into()),
        (b"LOGIN", [user, password]) => verdict(user == b"u" && password == b"p"),
        _ => verdict(false),
    }
}

fn policy(question: &Question) -> Answer {
    let Question::Rcpt { forward_path: ForwardPath::Mailbox(mailbox), .. } = question else {
        return Answer::Proceed;
    };
    let foreign = mailbox.domain().name() != Some("local.example") || mailbox.local().contains(['%', '!', '@']);
    if foreign {
        Answer::Reply(Reply::new(550, EnhancedStatus::permanent(7, 1), "Relaying denied"))
    } else if mailbox.local() == "unknown" {
        Answer::Reply(Reply::new(550, EnhancedStatus::permanent(1, 1), "No such user"))
    } else {
        Answer::Proceed
    }
}

impl Peer for Core {
    fn send(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() && !self.closed {
            // xorshift; the seeds 0 and 1 are the two ends: all at once, and octet by octet
            let size = match self.seed {
                0 => rest.len(),
                1 => 1,
                _ => {
                    self.seed ^= self.seed << 13;
                    self.seed ^= self.seed >> 7;
                    self.seed ^= self.seed << 17;
                    usize::try_from(self.seed % 40).unwrap() + 1
                }
            };
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            self.session.buffer().extend_from_slice(chunk);
            self.session.received(self.now);
            self.run();
            rest = behind;
        }
    }

    fn reply(&mut self) -> Option<Vec<String>> {
        self.replies.pop_front()
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.session.timeout(self.now);
        self.run();
        true
    }

    fn messages(&mut self) -> Option<usize> {
        Some(self.messages)
    }

    fn tls(&mut self) -> bool {
        assert!(std::mem::take(&mut self.tls_due), "the server does not begin TLS");
        self.session.tls_started();
        self.run();
        true
    }

    fn end(&mut self) {
        self.session.eof();
        self.run();
    }

    fn closed(&mut self) -> bool {
        self.closed
    }
}

#[test]
fn the_core_keeps_to_every_dialog_in_any_chunks() {
    let corpus = Dialog::corpus();
    assert!(corpus.len() >= 20);
    for dialog in &corpus {
        // what must come at once cannot come in chunks
        let whole = dialog.settings.iter().any(|(key, _)| key == "early") || dialog.name.starts_with("whole-");
        for seed in if whole { 0..1 } else { 0..50u64 } {
            dialog.play(&mut Core::new(dialog, seed.wrapping_mul(if seed < 2 { 1 } else { 0x9e37_79b9_7f4a_7c15 })));
        }
    }
}

#[test]
#[should_panic(expected = "the reply is")]
fn a_wrong_reply_fails_a_dialog() {
    let dialog = Dialog::parse("wrong", "S: 220\nC: NOOP\nS: 500\n");
    dialog.play(&mut Core::new(&dialog, 0));
}
