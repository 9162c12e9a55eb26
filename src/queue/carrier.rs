//! Hands the messages of a queue to one session, and turns its results into outcomes.
//!
//! The session asks for the next message while the last one's final reply is still on its way; so several may be under way,
//! and results come in the order in which messages were taken. A message that the session never got to is given back
//! untouched: that it waited for a dying session is no attempt.
//!
//! `outbound` carries with it to next hops, `local` to mailbox stores that speak LMTP.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::conclusion::is_too_many_recipients;
use super::next_hosts::Turn;
use super::outgoing::{self, Outgoing, SenderRules};
use super::{Attempt, AttemptResult, Hand, HopTls, PassedOn, Queue, Take};
use crate::config::Snapshot;
use crate::mime::{Fit, Survey};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Message, MessageId};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::net::client_driver::{ContentUnavailable, Work};
use crate::net::clock::Clock;
use crate::smtp::address::{ForwardPath, Mailbox};
use crate::smtp::client::{Cause, Phase, RecipientResult, Transaction, Treatment};
use crate::smtp::extension::PeerExtensions;
use crate::store::{Leased, StoreError};

/// How long an idle session is kept for the next message.
pub const IDLE: Duration = Duration::from_secs(5);

/// One session's supply of messages.
pub struct Carrier<'a> {
    queue: &'a Queue,
    clock: &'a dyn Clock,
    hand: &'a Hand,
    session: Session<'a>,
    /// A message that was taken for this queue, but not for this session.
    held: Option<Leased>,
    began: bool,
    under_way: VecDeque<UnderWay>,
    content: Result<Outgoing, ContentUnavailable>,
    /// Messages that the next hop took or refused by a reply.
    answered: u64,
    /// The failure of the host, if results showed one.
    host_failure: Option<Failure>,
    /// Messages that the session never came to.
    untouched: Vec<Leased>,
    /// A message that the host put off is asked of another one.
    passed_on: bool,
}

/// What a session is.
pub struct Session<'a> {
    /// Whether the settings that it was opened with still hold; when not, it takes no more messages.
    pub holds: &'a (dyn Fn(&Snapshot) -> bool + Send + Sync),
    /// Only messages that this server took go over it; `None`: any.
    pub only_from: Option<Name>,
    /// The host, for logs and reports.
    pub next_hop: String,
    /// How it is encrypted, if it is.
    pub tls: Option<HopTls>,
    /// Where it stands among the hosts of the next hop.
    pub turn: Turn,
    /// What it means when the host takes a message.
    pub taken: Taken,
    /// The most recipients that the host takes in a transaction (RFC 9422).
    pub max_recipients: usize,
    /// What the host offers.
    pub peer: PeerExtensions,
    /// Which senders it is told otherwise.
    pub senders: SenderRules,
    /// Whom the host is told for `<postmaster>`, if it cannot know whose postmaster that is.
    pub postmaster: Option<Mailbox>,
    /// How many messages it may carry yet.
    pub budget: u32,
    /// How long it is kept for the next message.
    pub idle: Duration,
}

/// What it means that the host took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is on its way; the host was told so much of the sender's wishes.
    Relayed(PassedOn),
    /// It is in its mailbox.
    Delivered,
}

/// What a session leaves behind.
pub struct Left {
    /// A message that it never came to.
    pub first: Option<Leased>,
    /// The next hop answered for at least one message.
    pub answered: bool,
    /// The failure of the host, if there was one.
    pub host_failure: Option<Failure>,
    /// The host put a message off that another host is asked to take.
    pub passed_on: bool,
}

struct UnderWay {
    leased: Leased,
    indexes: Vec<u32>,
    since: Instant,
}

impl<'a> Carrier<'a> {
    /// For a session; `held` is the message for which it was opened.
    pub fn new(
        queue: &'a Queue,
        clock: &'a dyn Clock,
        hand: &'a Hand,
        session: Session<'a>,
        held: Option<Leased>,
    ) -> Self {
        Carrier {
            queue,
            clock,
            hand,
            session,
            held,
            began: false,
            under_way: VecDeque::new(),
            content: Ok(Outgoing::nothing()),
            answered: 0,
            host_failure: None,
            untouched: Vec::new(),
            passed_on: false,
        }
    }

    fn take(&mut self) -> Take {
        let taken = match self.held.take() {
            Some(leased) => Take::Message(leased),
            None => self.queue.take(self.hand, |asked| self.session.turn.fits(asked)),
        };
        let Take::Message(leased) = taken else { return taken };
        let other =
            self.session.only_from.as_ref().is_some_and(|server| leased.message.origin.virtual_server != *server);
        if other {
            self.held = Some(leased);
            return Take::Nothing;
        }
        Take::Message(leased)
    }

    /// Reads the content, when what the host offers leaves it open whether it can go as it is. Without `wait`, only what is in
    /// memory is read, and a message that is not is held until there is time.
    ///
    /// The session may drop the question for the next message while this waits, and a message that is in hand must not be
    /// lost by that: it is held meanwhile.
    async fn look_at(&mut self, leased: Leased, wait: bool) -> Option<(Leased, Looked)> {
        if !self.session.peer.must_look_at(&leased.message.parameters) {
            return Some((leased, Ok(None)));
        }
        if leased.content.is_none() && !wait {
            self.held = Some(leased);
            return None;
        }
        let held = self.held.insert(leased);
        let looked = outgoing::survey(held, self.queue.store()).await;
        Some((self.held.take()?, looked.map(Some).map_err(|error| unavailable(&error))))
    }

    /// A transaction for the recipients that wait in this queue and are due. Never waits, for the reason given above.
    fn begin(&mut self, leased: Leased, looked: Looked) -> Option<Transaction> {
        let now = Timestamp::from_millis(self.clock.unix_millis());
        let mut indexes = due_here(&leased.message, self.hand, now);
        // the others stay due, and go with the next transaction
        indexes.truncate(self.session.max_recipients);
        if indexes.is_empty() {
            self.queue.give_back(leased);
            return None;
        }
        let message = &leased.message;
        let mut parameters = message.parameters_at(now);
        let senders = self.session.senders.with(&self.queue.snapshot().domains);
        let reverse_path = match &senders {
            Some(senders) => senders.reverse_path(&message.reverse_path),
            None => message.reverse_path.clone(),
        };
        let mut treatment = if senders.is_some() { Treatment::Changed } else { Treatment::AsTaken };
        self.content = looked.map(|survey| {
            let plan = survey.and_then(|survey| {
                // its envelope may need it, and then the session says so
                parameters.smtputf8 &= self.session.peer.smtputf8 || !survey.has_ascii_headers();
                match survey.fit(parameters.body, self.session.peer.takes(&parameters)) {
                    Ok(Fit { body, plan }) => {
                        parameters.body = body;
                        plan
                    }
                    Err(why) => {
                        treatment = Treatment::Unfit(why);
                        None
                    }
                }
            });
            if plan.is_some() {
                treatment = Treatment::Changed;
            }
            Outgoing::of(&leased, senders, plan)
        });
        let transaction = Transaction {
            reverse_path,
            parameters,
            recipients: indexes
                .iter()
                .filter_map(|index| message.recipients.get(*index as usize))
                .map(|recipient| (self.path(&recipient.forward_path), recipient.parameters.clone()))
                .collect(),
            size: message.size,
            treatment,
        };
        for lease in &leased.leases {
            self.queue.store().attempt(lease);
        }
        self.under_way.push_back(UnderWay { leased, indexes, since: self.clock.now() });
        Some(transaction)
    }

    /// A forward-path as this host is told it.
    fn path(&self, path: &ForwardPath) -> ForwardPath {
        match (path, &self.session.postmaster) {
            (ForwardPath::Postmaster, Some(postmaster)) => ForwardPath::Mailbox(postmaster.clone()),
            _ => path.clone(),
        }
    }

    /// Whether what this host put off is asked of the next one; else the round of the message is over.
    fn pass_on(&self, id: MessageId, results: &[RecipientResult], failures: &[Option<Failure>]) -> bool {
        let link = self.hand.link();
        let now = Timestamp::from_millis(self.clock.unix_millis());
        let some_went = failures.contains(&None);
        let some_may = results.iter().zip(failures).any(|(result, failure)| {
            failure.as_ref().is_some_and(|failure| may_do_elsewhere(result, failure, some_went))
        });
        let turn = &self.session.turn;
        let passes_on = some_may && turn.has_another(&link.asked(id, now)) && link.pass_on(id, &turn.had(), now);
        if !passes_on {
            link.end_round(id);
        }
        passes_on
    }

    /// What the session leaves: messages that it never came to, the first of them for whoever comes next.
    pub fn leave(mut self) -> Left {
        let with_421 = self.host_failure.as_ref().is_some_and(|failure| failure.remote_code == Some(421));
        let now = Timestamp::from_millis(self.clock.unix_millis());
        self.hand.link().ended_a_session(self.answered, with_421, now);
        let mut messages = self.untouched;
        messages.extend(self.under_way.drain(..).map(|under_way| under_way.leased));
        messages.extend(self.held.take());
        let mut messages = messages.into_iter();
        let first = messages.next();
        for leased in messages {
            self.queue.give_back(leased);
        }
        Left { first, answered: self.answered > 0, host_failure: self.host_failure, passed_on: self.passed_on }
    }
}

/// What was found in the content, if somebody had to look; or it cannot be read.
type Looked = Result<Option<Survey>, ContentUnavailable>;

fn unavailable(error: &StoreError) -> ContentUnavailable {
    tracing::error!(error = %error, "the content of a queued message cannot be read; it is deferred");
    ContentUnavailable
}

/// Indexes of the recipients that wait in the hand's queue and are due.
fn due_here(message: &Arc<Message>, hand: &Hand, now: Timestamp) -> Vec<u32> {
    let queue = &hand.link().name;
    (0u32..)
        .zip(&message.recipients)
        .filter(|(_, recipient)| {
            recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue && waits.due <= now)
        })
        .map(|(index, _)| index)
        .collect()
}

/// The session broke before it came to this message, or the host closed it: no attempt of the message.
fn never_came_to_it(results: &[RecipientResult]) -> bool {
    results.iter().all(|result| match result {
        RecipientResult::Broken { phase: Phase::Mail | Phase::Reset, cause } => *cause != Cause::ContentUnavailable,
        RecipientResult::Broken { cause, .. } => *cause == Cause::Closing,
        // 421 is about the session (RFC 5321, 3.8); so is whatever RSET is answered
        RecipientResult::Refused { phase: Phase::Reset, .. } => true,
        RecipientResult::Refused { phase: Phase::Mail, reply } => reply.code == 421,
        _ => false,
    })
}

impl Work for Carrier<'_> {
    async fn next(&mut self, wait: bool) -> Option<Transaction> {
        let mut patience = self.session.idle;
        loop {
            // the first message goes in any case: settings that change often must not keep it
            let fresh = !self.began || (self.session.holds)(&self.queue.snapshot());
            if self.session.budget == 0 || !fresh {
                return None;
            }
            let leased = match self.take() {
                Take::Message(leased) => leased,
                Take::NotBefore(until) => {
                    let pause = until.since(Timestamp::from_millis(self.clock.unix_millis()));
                    if !wait {
                        return None;
                    }
                    if pause > patience {
                        self.queue.rest_until(self.hand, until);
                        return None;
                    }
                    patience -= pause;
                    tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
                    continue;
                }
                // what is ready and does not fit needs another session
                Take::Nothing => {
                    if wait && self.held.is_none() && !self.hand.has_ready() && self.hand.wait(self.session.idle).await
                    {
                        continue;
                    }
                    return None;
                }
            };
            let (leased, looked) = self.look_at(leased, wait).await?;
            if let Some(transaction) = self.begin(leased, looked) {
                self.began = true;
                self.session.budget -= 1;
                return Some(transaction);
            }
        }
    }

    async fn content(&mut self) -> Result<Option<Bytes>, ContentUnavailable> {
        let content = self.content.as_mut().map_err(|unavailable| *unavailable)?;
        content.next(self.queue.store()).await.map_err(|error| unavailable(&error))
    }

    async fn finished(&mut self, results: Vec<RecipientResult>) {
        let Some(UnderWay { leased, indexes, since }) = self.under_way.pop_front() else { return };
        let failures: Vec<Option<Failure>> =
            results.iter().map(|result| Failure::of_result(result, &self.session.next_hop)).collect();
        if never_came_to_it(&results) {
            self.host_failure = failures.into_iter().flatten().next();
            self.untouched.push(leased);
            return;
        }
        let broken = failures.iter().flatten().find(|failure| matches!(failure.scope, Scope::Session | Scope::Host));
        match broken {
            Some(failure) => self.host_failure = Some(failure.clone()),
            None => self.answered += 1,
        }
        let put_off = failures.iter().flatten().any(|failure| failure.remote_code.is_some() && !failure.is_permanent());
        if broken.is_none() {
            self.hand.link().answered(put_off, Timestamp::from_millis(self.clock.unix_millis()));
        }
        let passes_on = self.pass_on(leased.message.id, &results, &failures);
        self.passed_on |= passes_on;
        let some_went = failures.contains(&None);
        let results = indexes
            .into_iter()
            .zip(results.iter().zip(failures))
            .map(|(index, (result, failure))| {
                let failed = match failure {
                    Some(failure) if passes_on && may_do_elsewhere(result, &failure, some_went) => {
                        AttemptResult::NextHost(failure)
                    }
                    Some(failure) => AttemptResult::Failed(failure),
                    None => return (index, went(result, self.session.taken)),
                };
                (index, failed)
            })
            .collect();
        let duration = self.clock.now().saturating_duration_since(since);
        let attempt =
            Attempt { leased, results, next_hop: Some(self.session.next_hop.clone()), tls: self.session.tls, duration };
        self.queue.settle(attempt).await;
    }
}

fn went(result: &RecipientResult, taken: Taken) -> AttemptResult {
    match (taken, result) {
        (Taken::Delivered, _) => AttemptResult::Delivered,
        (Taken::Relayed(passed_on), RecipientResult::Delivered(reply)) => {
            AttemptResult::Relayed { reply: reply.to_string(), passed_on }
        }
        (Taken::Relayed(passed_on), _) => AttemptResult::Relayed { reply: String::new(), passed_on },
    }
}

/// The host did not take it now, which says nothing about the next one; unless it was only one recipient too many. After the dot a host may have taken it without a word:
/// that is not doubled in haste. Nor does another host mend what is missing on our side.
fn may_do_elsewhere(result: &RecipientResult, failure: &Failure, some_went: bool) -> bool {
    match result {
        RecipientResult::Refused { phase, .. } => {
            *phase != Phase::Reset && !failure.is_permanent() && !(some_went && is_too_many_recipients(failure))
        }
        RecipientResult::Broken { cause, .. } => *cause != Cause::ContentUnavailable,
        RecipientResult::Delivered(_) | RecipientResult::CutAfterDot { .. } | RecipientResult::Unsupported { .. } => {
            false
        }
    }
}
