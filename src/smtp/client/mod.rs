//! The client's side of an SMTP session, without IO, clock or policy (RFC 5321; RFC 2920 for pipelining).
//!
//! A driver owns the socket. It calls [`Session::next`] and does what the [`Step`] says, until `Close`.
//!
//! The phases of a connection never go back: greeting, EHLO (or HELO), STARTTLS and EHLO again (RFC 3207), AUTH (RFC 4954), ready;
//! these are in `opening`. Transactions repeat in the last one. With
//! PIPELINING an envelope goes out as one block, and the next envelope follows the dot (RFC 2920, 3.1), so that two
//! transactions are open for a moment: one that waits for the reply to its dot, one that waits for its 354.
//! The replies that are expected stand in a queue, in the order of the commands; the front one has the deadline.
//!
//! Content is sent by DATA, but binary content by BDAT (RFC 3030): the recipients' replies are waited for, then each chunk's.
//!
//! LMTP (RFC 2033) is the same session, opened by LHLO ([`Hello::Lhlo`]): behind the dot, or the last chunk, comes one reply
//! for each recipient that was accepted, in their order, and DSN is never used: whoever speaks LMTP makes the last delivery
//! and reports itself.
//!
//! Guarantees: each transaction comes out as `Finished` once, in order, with one result per recipient, whatever the
//! peer sends and whenever it stops. A dot is sent only behind the whole content. Before it, a failure is
//! `Broken`; from the moment it is handed to the driver on, `CutAfterDot`. A reply that is none, or that does not fit its
//! command, ends the connection. A 421 ends it too, after it has counted as the reply to its command. TLS begins only
//! where nothing was read behind the 220, and what was known of the peer is forgotten then. Nothing of a login is sent in
//! clear unless that was said, and none of it shows in `Debug`.

mod opening;
mod output;
mod reply;
mod result;
mod settings;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::data::Encoder;
use super::extension::PeerExtensions;
use super::sasl::client::{Derivation, Exchange};
pub use opening::SecretOctets;
use output::Output;
use reply::{Lines, ReplyReader};
pub use result::{
    Cause, LoginError, OpenError, Phase, RecipientResult, RemoteReply, TlsFault, TlsFaultKind, Transaction, Treatment,
};
pub use settings::{Encryption, Hello, Login, Settings, Timeouts};
use transfer::Transfer;

/// What the driver of a session is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write these octets.
    Send(Bytes),
    /// Write these too; they are no one's to see.
    SendSecret(SecretOctets),
    /// Do the handshake of a TLS client on the connection, then call `tls_started` or `tls_failed`. What was read is used up.
    StartTls,
    /// Run this where it may take a CPU for a while, then call `derived`.
    Derive(Derivation),
    /// Read into [`Session::buffer`], or call `eof`; or, at this time, `timeout`.
    NeedInput {
        /// When to call `timeout`.
        until: Instant,
    },
    /// The peer is ready for mail. Comes once, before the first `NeedTransaction`.
    Opened,
    /// The session could not be opened. `Close` follows.
    OpenFailed(OpenError),
    /// Call `transaction`: with `wait`, when there is one, watching for input meanwhile; else with what is there at once.
    NeedTransaction {
        /// True between transactions: `None` then means QUIT.
        wait: bool,
    },
    /// Call `content` with the next chunk of the transaction handed in last but for a pipelined one, or `content_failed`.
    Content,
    /// The results of the oldest transaction that has none yet, in the order of its recipients.
    Finished(Vec<RecipientResult>),
    /// Close the connection. Every further step is `Close`.
    Close,
}

/// A client session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    input: BytesMut,
    replies: ReplyReader,
    output: Output,
    expected: VecDeque<Expect>,
    /// Oldest first; replies to MAIL, RCPT, DATA and the dot belong to the front one.
    transfers: VecDeque<Transfer>,
    peer: PeerExtensions,
    encrypted: bool,
    /// The login that runs.
    exchange: Option<Exchange>,
    /// What of it is to be sent.
    secret: Option<SecretOctets>,
    encoder: Encoder,
    /// The last chunk of binary content: it is held back until it is known whether it is the last of all.
    chunk: Option<Bytes>,
    /// The front reply is waited for since then; `None`: not yet.
    since: Option<Instant>,
    /// The peer may hold half a transaction: RSET goes before the next MAIL.
    dirty: bool,
    /// The reply to a command that moves no mail.
    answer: Option<RemoteReply>,
    eof: bool,
    end: Option<(Cause, Option<RemoteReply>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Replies decide what comes next.
    Waiting,
    /// The driver is to do the handshake.
    StartTls,
    /// The driver is to derive keys.
    Derive(Derivation),
    /// To be told: the session is open.
    Opened,
    /// To be told: it will not be.
    Failed(OpenError),
    /// A transaction may begin.
    Ready,
    /// The 354 was read; content goes out.
    Content,
    /// The content is out, but for the dot; the next transaction may come with it.
    BeforeDot,
    Closed,
}

/// The reply to what is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// A chunk of binary content that is not the last.
    Chunk,
    /// The dot, or the last chunk.
    Dot,
    /// LMTP: the dot, for one recipient.
    DotFor(usize),
    /// The dot of a transaction without recipients, whose DATA was pipelined and answered with 354.
    LoneDot,
    /// Whatever it is: [`Session::command`].
    Other,
    Quit,
}

impl Expect {
    fn phase(self) -> Phase {
        match self {
            Expect::Banner => Phase::Banner,
            Expect::Ehlo | Expect::Helo => Phase::Hello,
            Expect::StartTls => Phase::StartTls,
            Expect::Auth => Phase::Auth,
            Expect::Rset => Phase::Reset,
            Expect::Mail => Phase::Mail,
            Expect::Rcpt(_) => Phase::Rcpt,
            Expect::Data => Phase::Data,
            Expect::Chunk => Phase::Content,
            // RFC 2645, 5.2.1 wants as long for ATRN
            Expect::Dot | Expect::LoneDot | Expect::Other => Phase::Dot,
            Expect::DotFor(_) => Phase::Delivery,
            Expect::Quit => Phase::Quit,
        }
    }
}

impl Session {
    /// A session on a connection that was just made.
    pub fn new(settings: Settings) -> Self {
        let implicit = settings.encryption == Encryption::Implicit;
        Session {
            settings,
            state: if implicit { State::StartTls } else { State::Waiting },
            input: BytesMut::new(),
            replies: ReplyReader::default(),
            output: Output::default(),
            expected: VecDeque::from([Expect::Banner]),
            transfers: VecDeque::new(),
            peer: PeerExtensions::default(),
            encrypted: false,
            exchange: None,
            secret: None,
            encoder: Encoder::default(),
            chunk: None,
            since: None,
            dirty: false,
            answer: None,
            eof: false,
            end: None,
        }
    }

    /// Where to read to: append what was read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.input.reserve(4 << 10);
        &mut self.input
    }

    /// False while so much is read ahead that the socket should be the back pressure.
    pub fn wants_input(&self) -> bool {
        self.input.len() < 1 << 20 && !self.eof
    }

    /// What was read and not looked at yet.
    pub fn read_ahead(&self) -> &[u8] {
        &self.input
    }

    /// Gives the read buffer back while it holds nothing.
    pub fn release(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// What the peer offers; nothing before `Opened`.
    pub fn extensions(&self) -> &PeerExtensions {
        &self.peer
    }

    /// The deadlines.
    pub fn timeouts(&self) -> &Timeouts {
        &self.settings.timeouts
    }

    /// Why the connection ended, with the 421 that ended it; `None` while it lives, and after QUIT.
    pub fn end(&self) -> Option<(Cause, Option<&RemoteReply>)> {
        self.end.as_ref().map(|(cause, reply)| (*cause, reply.as_ref()))
    }

    /// No more octets will come, or none can be written. Replies that were read still count.
    pub fn eof(&mut self) {
        self.eof = true;
    }

    /// The time of the last `NeedInput` has come, or writing took longer than [`Timeouts::block`].
    pub fn timeout(&mut self) {
        self.fail(Cause::TimedOut, None);
    }

    /// The next transaction, after `NeedTransaction`; `None`: there is no more (for now, without `wait`).
    pub fn transaction(&mut self, transaction: Option<Transaction>) {
        match (mem::replace(&mut self.state, State::Waiting), transaction) {
            (State::Ready, Some(transaction)) => self.begin(transaction),
            (State::Ready, None) => {
                self.output.put(b"QUIT\r\n");
                self.expected.push_back(Expect::Quit);
            }
            (State::BeforeDot, next) => {
                let end = self.encoder.finish();
                self.output.put(end);
                self.end_sent();
                if let Some(transaction) = next {
                    self.begin(transaction);
                }
            }
            (other, Some(transaction)) => {
                // the session ended meanwhile: nothing of it was tried
                self.state = other;
                let mut transfer = Transfer::new(transaction, &self.peer);
                transfer.decide(&RecipientResult::Broken { phase: Phase::Mail, cause: Cause::Cut });
                self.transfers.push_back(transfer);
            }
            (other, None) => self.state = other,
        }
    }

    /// Says a command that moves no mail (ETRN, ATRN), instead of the first transaction: after `Opened`. Its reply is taken by
    /// [`Session::take_answer`].
    pub fn command(&mut self, line: &str) {
        if self.state == State::Ready {
            self.output.put(format!("{line}\r\n").as_bytes());
            self.expected.push_back(Expect::Other);
            self.state = State::Waiting;
        }
    }

    /// The reply to the command, when it is there.
    pub fn take_answer(&mut self) -> Option<RemoteReply> {
        self.answer.take()
    }

    /// A chunk of content, after `Content`; `None` at its end.
    pub fn content(&mut self, chunk: Option<Bytes>) {
        if self.state != State::Content {
            return;
        }
        if self.transfers.front().is_some_and(Transfer::is_binary) {
            return self.binary_content(chunk);
        }
        match chunk {
            Some(chunk) => {
                let encoded = self.encoder.encode(chunk);
                self.output.put_chunk(encoded);
            }
            None if !self.input.is_empty() => self.answered_early(),
            None => {
                self.state = State::BeforeDot;
                if !(self.pipelines() && self.settings.pipeline_transactions) {
                    self.transaction(None);
                }
            }
        }
    }

    /// `BDAT n` for the chunk before this one, or `BDAT n LAST` when there is no other; its reply is waited for.
    fn binary_content(&mut self, next: Option<Bytes>) {
        let last = next.is_none();
        let chunk = match mem::replace(&mut self.chunk, next.filter(|chunk| !chunk.is_empty())) {
            Some(chunk) => chunk,
            None if last => Bytes::new(),
            None => return,
        };
        self.output.put(format!("BDAT {}{}\r\n", chunk.len(), if last { " LAST" } else { "" }).as_bytes());
        self.output.put_chunk(chunk);
        if last {
            self.end_sent();
        } else {
            self.expected.push_back(Expect::Chunk);
        }
        self.state = State::Waiting;
    }

    /// The dot, or the last chunk, is handed to the driver.
    fn end_sent(&mut self) {
        let Some(transfer) = self.transfers.front_mut() else { return };
        transfer.dot_sent = true;
        if self.settings.hello == Hello::Lhlo {
            self.expected.extend(transfer.open().map(Expect::DotFor));
        } else {
            self.expected.push_back(Expect::Dot);
        }
    }

    /// The content cannot be had: the connection is given up before the dot.
    pub fn content_failed(&mut self) {
        self.fail(Cause::ContentUnavailable, None);
    }

    /// What to do next.
    pub fn next(&mut self, now: Instant) -> Step {
        loop {
            if let Some(octets) = self.output.ready.pop_front() {
                return Step::Send(octets);
            }
            if let Some(results) = self.finished() {
                return Step::Finished(results);
            }
            if let Some(step) = self.advance(now) {
                return step;
            }
        }
    }

    /// The results of the front transfer, if they are all there and nothing of it is under way.
    fn finished(&mut self) -> Option<Vec<RecipientResult>> {
        let transfer = self.transfers.front()?;
        let under_way = self.expected.iter().any(|e| {
            use Expect::{Chunk, Data, Dot, DotFor, LoneDot, Mail, Rcpt};
            matches!(e, Mail | Rcpt(_) | Data | Chunk | Dot | DotFor(_) | LoneDot)
        });
        // a transfer behind the front one may be under way while this one is not: it then begins with MAIL
        let next_only = self.transfers.len() > 1 && self.expected.front() == Some(&Expect::Mail);
        if !transfer.is_decided() || (under_way && !next_only && self.state != State::Closed) {
            return None;
        }
        let transfer = self.transfers.pop_front()?;
        if self.transfers.is_empty() && self.state == State::Waiting && self.expected.is_empty() {
            self.state = State::Ready;
        }
        Some(transfer.results.into_iter().flatten().collect())
    }

    fn advance(&mut self, now: Instant) -> Option<Step> {
        match &self.state {
            State::Opened => {
                self.state = State::Ready;
                Some(Step::Opened)
            }
            State::Failed(error) => {
                let error = error.clone();
                self.state = State::Closed;
                Some(Step::OpenFailed(error))
            }
            State::StartTls => Some(Step::StartTls),
            State::Derive(derivation) => Some(Step::Derive(derivation.clone())),
            State::Closed => Some(Step::Close),
            State::Ready | State::Content if self.eof || (self.state == State::Ready && !self.input.is_empty()) => {
                self.unsolicited()
            }
            State::Ready => Some(Step::NeedTransaction { wait: true }),
            State::Content => Some(Step::Content),
            State::BeforeDot => Some(Step::NeedTransaction { wait: false }),
            State::Waiting => self.wait(now),
        }
    }

    /// Something came before the dot: whatever it is, it is no reply to it, and must not be taken for one.
    fn answered_early(&mut self) {
        match self.replies.next(&mut self.input) {
            Ok(Some(lines)) => self.end_unasked(lines.into_reply()),
            Ok(None) | Err(_) => self.fail(Cause::Garbage, None),
        }
    }

    /// The connection ends with a reply that nothing asked for; a negative one in the content is about that.
    fn end_unasked(&mut self, reply: RemoteReply) {
        if self.state == State::Content && reply.code >= 400 {
            let refused = RecipientResult::Refused { phase: Phase::Content, reply: reply.clone() };
            self.transfers.iter_mut().for_each(|transfer| transfer.decide(&refused));
        }
        let cause = if reply.code == 421 { Cause::Closing } else { Cause::Garbage };
        self.fail(cause, Some(reply).filter(|reply| reply.code == 421));
    }

    /// Something came, or the end, while no reply was expected.
    fn unsolicited(&mut self) -> Option<Step> {
        match self.replies.next(&mut self.input) {
            Ok(Some(lines)) => self.end_unasked(lines.into_reply()),
            Err(_) => self.fail(Cause::Garbage, None),
            Ok(None) if self.eof => self.fail(Cause::Cut, None),
            Ok(None) => return Some(Step::NeedTransaction { wait: true }),
        }
        None
    }

    /// Reads the reply to the front command, or sends what is gathered and waits for it.
    fn wait(&mut self, now: Instant) -> Option<Step> {
        let Some(expect) = self.expected.front().copied() else {
            self.state = State::Ready;
            return None;
        };
        match self.replies.next(&mut self.input) {
            Ok(Some(lines)) => {
                self.expected.pop_front();
                self.since = None;
                self.replied(expect, lines);
                None
            }
            Err(_) => {
                self.fail(Cause::Garbage, None);
                None
            }
            Ok(None) if self.eof => {
                self.fail(Cause::Cut, None);
                None
            }
            Ok(None) => {
                self.output.close();
                if !self.output.ready.is_empty() {
                    self.since = None;
                    return None;
                }
                if let Some(secret) = self.secret.take() {
                    self.since = None;
                    return Some(Step::SendSecret(secret));
                }
                let since = *self.since.get_or_insert(now);
                Some(Step::NeedInput { until: since + self.settings.timeouts.of(expect.phase()) })
            }
        }
    }

    fn replied(&mut self, expect: Expect, lines: Lines) {
        if expect == Expect::Ehlo && (200..300).contains(&lines.code) {
            self.peer = PeerExtensions::parse(lines.lines.iter().skip(1).map(String::as_str));
            self.peer.require_tls &= self.encrypted && self.settings.verified_tls;
            self.peer.dsn &= self.settings.hello != Hello::Lhlo;
            return self.greeted();
        }
        if expect == Expect::Auth {
            return self.auth_replied(lines);
        }
        let reply = lines.into_reply();
        let phase = expect.phase();
        let (good, bad) = (reply.is_success(), reply.code >= 400);
        match expect {
            Expect::Quit => self.close(),
            Expect::Banner if reply.code == 220 => self.hello(),
            Expect::Helo if good => self.greeted(),
            Expect::StartTls if reply.code == 220 => self.begin_tls(),
            Expect::StartTls if bad => self.starttls_refused(reply),
            Expect::Ehlo if reply.is_permanent() && self.settings.hello == Hello::Ehlo => self.say_helo(),
            Expect::Banner | Expect::Ehlo | Expect::Helo if bad => {
                self.close();
                self.state = State::Failed(OpenError::Refused { phase, reply });
            }
            Expect::Rset if good => {}
            Expect::Mail if good => self.after_mail(),
            Expect::Rcpt(index) if good || bad => {
                if let Some(transfer) = self.transfers.front_mut().filter(|t| t.results[index].is_none()) {
                    if good && self.settings.envelope_only {
                        transfer.results[index] = Some(RecipientResult::Delivered(reply.clone()));
                    } else if good {
                        transfer.accepted += 1;
                    } else {
                        transfer.results[index] = Some(RecipientResult::Refused { phase, reply: reply.clone() });
                    }
                }
                self.after_rcpt(index);
                self.end_at_421(phase, reply);
            }
            Expect::Data if reply.code == 354 => self.go_ahead(),
            Expect::Chunk if good => self.state = State::Content,
            Expect::Mail | Expect::Data | Expect::Chunk | Expect::Dot if bad => {
                // after a dot the peer is clean; before it, it may hold recipients, and after a chunk also that
                self.dirty |= expect != Expect::Dot || self.transfers.front().is_some_and(Transfer::is_binary);
                if let Some(transfer) = self.transfers.front_mut() {
                    transfer.decide(&RecipientResult::Refused { phase, reply: reply.clone() });
                }
                self.end_at_421(phase, reply);
            }
            Expect::Dot if good => {
                if let Some(transfer) = self.transfers.front_mut() {
                    transfer.decide(&RecipientResult::Delivered(reply));
                }
            }
            Expect::DotFor(index) if good || bad => {
                if let Some(transfer) = self.transfers.front_mut() {
                    let refused = || RecipientResult::Refused { phase, reply: reply.clone() };
                    transfer.results[index] =
                        Some(if good { RecipientResult::Delivered(reply.clone()) } else { refused() });
                }
                self.end_at_421(phase, reply);
            }
            Expect::LoneDot if good || bad => self.end_at_421(phase, reply),
            Expect::Other if good || bad => {
                self.answer = Some(reply.clone());
                self.end_at_421(phase, reply);
            }
            Expect::Rset if bad => {
                if let Some(transfer) = self.transfers.front_mut() {
                    transfer.decide(&RecipientResult::Refused { phase, reply: reply.clone() });
                }
                self.fail_in(phase, Cause::Closing, Some(reply));
            }
            _ => self.fail_in(phase, Cause::Garbage, None),
        }
    }

    fn end_at_421(&mut self, phase: Phase, reply: RemoteReply) {
        if reply.code == 421 {
            self.fail_in(phase, Cause::Closing, Some(reply));
        }
    }

    fn pipelines(&self) -> bool {
        self.settings.pipelining && self.peer.pipelining
    }

    fn begin(&mut self, transaction: Transaction) {
        let transfer = Transfer::new(transaction, &self.peer);
        if !transfer.is_decided() {
            let mut text = String::with_capacity(128 + 64 * transfer.results.len());
            if mem::take(&mut self.dirty) {
                text.push_str("RSET\r\n");
                self.expected.push_back(Expect::Rset);
            }
            // no dot ends this transaction
            self.dirty = self.settings.envelope_only;
            transfer.write_mail(&self.peer, &mut text);
            self.expected.push_back(Expect::Mail);
            if self.pipelines() {
                let mut from = 0;
                while let Some(index) = transfer.next_recipient(from) {
                    transfer.write_rcpt(index, &self.peer, &mut text);
                    self.expected.push_back(Expect::Rcpt(index));
                    from = index + 1;
                }
                if !transfer.is_binary() && !self.settings.envelope_only {
                    text.push_str("DATA\r\n");
                    self.expected.push_back(Expect::Data);
                }
            }
            self.output.put(text.as_bytes());
        }
        self.transfers.push_back(transfer);
    }

    fn after_mail(&mut self) {
        if !self.pipelines() {
            self.next_command(0);
        }
    }

    fn after_rcpt(&mut self, index: usize) {
        let binary = self.transfers.front().is_some_and(Transfer::is_binary);
        if !self.pipelines() {
            self.next_command(index + 1);
        } else if binary && !matches!(self.expected.front(), Some(Expect::Rcpt(_))) {
            // nothing was pipelined behind the recipients
            self.next_command(usize::MAX);
        }
    }

    /// Without pipelining: the next RCPT, or DATA or the first chunk, or nothing when nobody was accepted.
    fn next_command(&mut self, from: usize) {
        let Some(transfer) = self.transfers.front() else { return };
        if let Some(index) = transfer.next_recipient(from) {
            let mut text = String::new();
            transfer.write_rcpt(index, &self.peer, &mut text);
            self.output.put(text.as_bytes());
            self.expected.push_back(Expect::Rcpt(index));
        } else if transfer.accepted > 0 && transfer.is_binary() {
            self.chunk = None;
            self.state = State::Content;
        } else if transfer.accepted > 0 {
            self.output.put(b"DATA\r\n");
            self.expected.push_back(Expect::Data);
        } else {
            self.dirty = true;
        }
    }

    /// 354.
    fn go_ahead(&mut self) {
        self.encoder = Encoder::default();
        if self.transfers.front().is_some_and(|transfer| transfer.accepted > 0) {
            self.state = State::Content;
        } else if self.settings.hello == Hello::Lhlo {
            // 503 is due here (RFC 2033, 4.2), and a dot would be answered as often as there are recipients: never
            self.fail_in(Phase::Data, Cause::Garbage, None);
        } else {
            self.output.put(b".\r\n");
            self.expected.push_back(Expect::LoneDot);
        }
    }

    /// The connection is of no more use, while this is waited for or done.
    fn fail(&mut self, cause: Cause, reply: Option<RemoteReply>) {
        let phase = match (&self.state, self.expected.front()) {
            (State::Content | State::BeforeDot, _) => Phase::Content,
            (State::StartTls, _) => Phase::StartTls,
            (State::Derive(_), _) => Phase::Auth,
            (_, Some(expect)) => expect.phase(),
            _ => Phase::Mail,
        };
        self.fail_in(phase, cause, reply);
    }

    /// The connection is of no more use: decides what is open.
    fn fail_in(&mut self, phase: Phase, cause: Cause, reply: Option<RemoteReply>) {
        if matches!(self.state, State::Closed | State::Failed(_)) {
            return;
        }
        let opening = matches!(phase, Phase::Banner | Phase::Hello | Phase::StartTls | Phase::Auth);
        for (index, transfer) in self.transfers.iter_mut().enumerate() {
            let result = if transfer.dot_sent {
                RecipientResult::CutAfterDot { cause }
            } else {
                RecipientResult::Broken { phase: if index == 0 { phase } else { Phase::Mail }, cause }
            };
            transfer.decide(&result);
        }
        let quitting = self.expected.front() == Some(&Expect::Quit);
        self.close();
        if opening {
            self.state = State::Failed(OpenError::Broken { phase, cause });
        }
        if !quitting {
            self.end = Some((cause, reply));
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.expected.clear();
        self.output = Output::default();
        self.exchange = None;
        self.secret = None;
    }
}
