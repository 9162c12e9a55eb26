//! A driver of the server's session core without a socket, whose policy and whose client are random octets. It panics when the
//! session breaks a promise of `src/smtp/server`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::input::Input;
use crate::reference;
use crate::replies;
use crate::smtp::command::{MAX_AUTH_LINE, Verb};
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::smtp::sasl::Mechanism;
use crate::smtp::server::{Answer, AuthStep, BareLineEnds, Question, Session, Settings, Step};

/// What happened, in order: the same for any chunking of the same octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A command and the code of its reply.
    Reply(Verb, Bytes, u16),
    /// This content was to be taken.
    Commit(Vec<u8>),
    /// What was collected is dropped.
    Reset,
    /// TLS began, or failed.
    Tls(bool),
    /// The connection was turned round.
    Turned,
}

/// A session with its driver.
pub struct Bench {
    session: Session,
    settings: Arc<Settings>,
    now: Instant,
    until: Instant,
    policy: Vec<u8>,
    questions: usize,
    /// What the session wrote.
    pub out: Vec<u8>,
    /// What happened.
    pub events: Vec<Event>,
    body: Vec<u8>,
    /// The session is over.
    pub closed: bool,
}

/// Settings out of three octets; zeros are the defaults.
pub fn settings(input: &mut Input<'_>) -> Settings {
    let mut settings = Settings::new("mx.example");
    let bits = input.byte();
    settings.lmtp = bits & 1 != 0;
    settings.start_tls = bits & 2 != 0;
    settings.require_tls = bits & 4 != 0;
    if bits & 8 != 0 {
        settings.auth.mechanisms = Mechanism::ALL.into();
    }
    settings.auth.require_tls = bits & 16 != 0;
    settings.auth.required = bits & 32 != 0;
    settings.bare_line_ends = if bits & 64 != 0 { BareLineEnds::Normalise } else { BareLineEnds::Refuse };
    settings.max_size = if bits & 128 != 0 { Some(64) } else { Some(25 << 20) };
    let bits = input.byte();
    let extensions = &mut settings.extensions;
    extensions.pipelining = bits & 1 == 0;
    extensions.enhanced_status_codes = bits & 2 == 0;
    extensions.smtputf8 = bits & 4 == 0;
    extensions.dsn = bits & 8 == 0;
    extensions.chunking = bits & 16 == 0;
    extensions.size = bits & 32 == 0;
    extensions.atrn = bits & 64 != 0;
    settings.max_text_line = if bits & 128 != 0 { 40 } else { 1000 };
    let bits = input.byte();
    settings.max_recipients = if bits & 1 != 0 { 2 } else { 1000 };
    settings.max_transactions = (bits & 2 != 0).then_some(2);
    settings.max_session_size = (bits & 4 != 0).then_some(100);
    settings.max_errors = if bits & 8 != 0 { 3 } else { 20 };
    settings.max_idle_commands = if bits & 16 != 0 { 4 } else { 100 };
    settings.refuse_early_talkers = bits & 32 == 0;
    settings.greeting_delay = Duration::from_secs(if bits & 64 != 0 { 5 } else { 0 });
    settings
}

impl Bench {
    /// A session up to its greeting. Each octet of the policy is an answer, round and round; none: always yes.
    pub fn open(settings: Settings, policy: &[u8]) -> Self {
        let mut bench = Bench::connected(settings, policy);
        bench.run();
        bench.pass();
        bench
    }

    /// A session that was not driven yet.
    pub fn connected(settings: Settings, policy: &[u8]) -> Self {
        let (settings, now) = (Arc::new(settings), Instant::now());
        Bench {
            session: Session::new(settings.clone(), now),
            settings,
            now,
            until: now,
            policy: policy.to_vec(),
            questions: 0,
            out: Vec::new(),
            events: Vec::new(),
            body: Vec::new(),
            closed: false,
        }
    }

    /// These octets come in one read.
    pub fn feed(&mut self, octets: &[u8]) {
        if !self.closed {
            self.session.buffer().extend_from_slice(octets);
            self.session.received(self.now);
            self.run();
        }
    }

    /// The time comes for which the session waits.
    pub fn pass(&mut self) {
        if !self.closed {
            self.now = self.now.max(self.until);
            self.session.timeout(self.now);
            self.run();
        }
    }

    /// The client ends its side: the session must come to its end.
    pub fn end(&mut self) {
        if !self.closed {
            self.session.eof();
            self.run();
            assert!(self.closed, "the session lives on behind the end of the stream");
        }
    }

    /// Something that may happen at any time, by number.
    pub fn interfere(&mut self, what: u8) {
        if self.closed {
            return;
        }
        match what % 8 {
            0 => return self.pass(),
            1 => self.session.body_failed(Reply::new(452, EnhancedStatus::transient(3, 1), "Full")),
            2 => self.session.stop(Reply::new(421, EnhancedStatus::transient(3, 2), "Shutting down")),
            3 => self.session.abandon(),
            4 => self.session.release(),
            5 => {
                // an answer that nobody asked for
                self.session.answer(Answer::Proceed, self.now);
            }
            6 => {
                // time passes, but not enough
                self.now += (self.until.saturating_duration_since(self.now)) / 2;
                self.session.timeout(self.now);
            }
            _ => self.session.complete_with("local.example".parse().ok()),
        }
        self.run();
    }

    /// Steps until input is needed or the session is over.
    fn run(&mut self) {
        for _ in 0..100_000 {
            match self.session.next(self.now) {
                Step::Send(octets) => {
                    assert!(!octets.is_empty(), "nothing to send is not to be sent");
                    self.out.extend_from_slice(&octets);
                }
                Step::NeedInput { until } => {
                    assert!(self.session.flush().is_none(), "replies are held back");
                    assert!(self.session.wants_input(), "input is needed and not wanted");
                    let held = self.session.buffer().len();
                    assert!(held <= MAX_AUTH_LINE, "an unfinished line of {held} octets is kept");
                    self.until = until;
                    return;
                }
                Step::Wait { until } => {
                    self.now = self.now.max(until);
                    self.session.timeout(self.now);
                }
                Step::Ask(question) => self.answer(&question),
                Step::NeedAnswer => panic!("a question is open that was not asked"),
                Step::Body(chunk) => {
                    assert!(!chunk.is_empty());
                    self.body.extend_from_slice(&chunk);
                    let most = self.settings.max_size.map_or(usize::MAX, |max| max as usize);
                    assert!(self.body.len() <= most, "{} octets of content were handed out", self.body.len());
                }
                Step::Reset => self.events.push(Event::Reset),
                Step::Note(note) => self.events.push(Event::Reply(note.verb, note.argument, note.code)),
                Step::StartTls => {
                    assert!(!self.session.has_input(), "octets in clear would be read inside TLS");
                    let well = self.decide() % 8 != 7;
                    self.events.push(Event::Tls(well));
                    if well { self.session.tls_started() } else { self.session.abandon() }
                }
                Step::TurnAround => {
                    self.events.push(Event::Turned);
                    self.closed = true;
                    return;
                }
                Step::Close => {
                    assert_eq!(self.session.next(self.now), Step::Close, "closed is closed");
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("the session does not come to rest");
    }

    fn decide(&mut self) -> u8 {
        let decision = self.policy.get(self.questions % self.policy.len().max(1)).copied().unwrap_or(0);
        self.questions += 1;
        decision
    }

    fn answer(&mut self, question: &Question) {
        if *question == Question::Begin {
            self.body.clear();
        }
        if *question == Question::Commit {
            self.events.push(Event::Commit(std::mem::take(&mut self.body)));
        }
        let decision = self.decide();
        if decision & 128 != 0 {
            // the answer takes its time: nothing happens meanwhile, and what was gathered can leave
            assert_eq!(self.session.next(self.now), Step::NeedAnswer);
            self.out.extend(self.session.flush().unwrap_or_default());
        }
        let answer = match decision % 16 {
            1 => Answer::Reply(Reply::new(550, EnhancedStatus::permanent(7, 1), "No")),
            2 => Answer::Reply(Reply::new(451, EnhancedStatus::transient(3, 0), "Later")),
            3 => Answer::Close(Reply::new(421, EnhancedStatus::transient(3, 2), "Go away")),
            4 if !matches!(question, Question::Commit) => Answer::Challenge(Bytes::from_static(b"challenge")),
            5 => Answer::Reply(Reply::plain(250, "Yes\nand more")),
            _ => match question {
                // an exchange of two steps
                Question::Auth(AuthStep::Begin { .. }) => Answer::Challenge(Bytes::from_static(b"?")),
                _ => Answer::Proceed,
            },
        };
        self.session.answer(answer, self.now);
    }

    /// Every command had its reply and no more; in LMTP a content has one for each recipient.
    fn check_replies(&self) {
        let codes = replies::codes(&self.out);
        let noted: Vec<u16> = self.replies().map(|(_, code)| code).collect();
        if self.settings.lmtp {
            assert!(codes.len() >= noted.len());
        } else {
            assert_eq!(codes, noted, "one reply for each command, in order");
        }
    }

    fn replies(&self) -> impl Iterator<Item = (Verb, u16)> {
        self.events.iter().filter_map(|event| match event {
            Event::Reply(verb, _, code) => Some((*verb, *code)),
            _ => None,
        })
    }

    /// The code of each reply.
    pub fn codes(&self) -> Vec<u16> {
        replies::codes(&self.out)
    }
}

/// Commands behind which a client has to wait (RFC 2920, 3.1); only there the boundaries of its writes mean something.
fn waits(verb: Verb) -> bool {
    matches!(verb, Verb::Helo | Verb::Ehlo | Verb::Lhlo | Verb::Data | Verb::StartTls | Verb::Atrn)
}

/// Plays the wire octet by octet, with the second opinion on where a content ends and what it is. Gives the session and where a
/// client has to wait.
pub fn octet_by_octet(settings: &Settings, policy: &[u8], wire: &[u8]) -> (Bench, Vec<usize>) {
    let mut bench = Bench::open(settings.clone(), policy);
    let mut stops = Vec::new();
    // where the content began, and where it has to end
    let mut content: Option<(usize, Option<usize>)> = None;
    for (at, octet) in wire.iter().enumerate() {
        let (position, seen) = (at + 1, bench.events.len());
        bench.feed(std::slice::from_ref(octet));
        if let Some((begin, end)) = content {
            let new = &bench.events[seen..];
            let ended = new.iter().any(|event| matches!(event, Event::Reply(Verb::Content, ..)));
            assert_eq!(ended, end == Some(position), "the content ends where it ends");
            if ended {
                content = None;
            }
            if let (Some(Event::Commit(body)), Some(end)) = (new.first(), end) {
                let text = reference::message(&wire[begin..end]);
                match settings.bare_line_ends {
                    BareLineEnds::Refuse => assert!(!reference::has_bare(&text) && *body == text),
                    BareLineEnds::Normalise => assert_eq!(*body, reference::normalise(&text)),
                }
            }
        } else if let Some(code) = bench.events[seen..].iter().find_map(|event| match event {
            Event::Reply(verb, _, code) if waits(*verb) => Some((*verb, *code)),
            _ => None,
        }) {
            stops.push(position);
            if code == (Verb::Data, 354) {
                content = Some((position, reference::end_of_data(&wire[position..]).map(|length| position + length)));
            }
        }
        if bench.closed {
            break;
        }
    }
    bench.end();
    bench.check_replies();
    (bench, stops)
}

/// Plays the wire in chunks that end at the stops.
pub fn in_chunks(settings: &Settings, policy: &[u8], wire: &[u8], stops: &[usize], cuts: &[u8]) -> Bench {
    let mut bench = Bench::open(settings.clone(), policy);
    let mut from = 0;
    for stop in stops.iter().copied().chain([wire.len()]) {
        for chunk in crate::input::chunks(&wire[from..stop], cuts) {
            bench.feed(chunk);
        }
        from = stop;
    }
    bench.end();
    bench.check_replies();
    bench
}
