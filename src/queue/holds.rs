//! Holds: mail that an operator keeps back, until he lets it go or the hold expires.
//!
//! A hold says which recipients of which messages wait, whatever else would become of them, in the system queue `held`. It is a
//! control record, so it survives a restart.
//!
//! **What is guaranteed.** When [`Queue::hold`] returns, the hold is durable, and nothing that it means gets to a worker any more: what
//! is offered to a link queue is looked at under the same lock under which a hold comes into force, and then the windows of all link queues
//! are swept. What a worker had by then is being delivered. New mail is durable in its own queue first (250 as usual), and moved
//! at once; a crash between the two loses nothing, it is moved when it comes up.
//!
//! **Held mail does not age**: it does not expire, and nobody is told of a delay. When it is let go and is older than its terms allow, its
//! time counts from then on ([`Queue::conclude_anew`]). A freeze is another thing: a frozen message stays frozen, held or not. Dead letters are
//! not held.
//!
//! **What happens on failure.** A move that cannot be recorded is tried again when the message comes up. A hold whose record cannot be read
//! is reported and does not hold.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bulk::{BulkAction, MOST_PREVIEWED, Order, Preview, SAMPLE, STEP as PREVIEWED_AT_ONCE};
use super::conclusion::Conclusion;
use super::operate::{AddressFilter, MessageFilter};
use super::outcome::Facts;
use super::{Queue, is_ours};
use crate::config::Snapshot;
use crate::model::mail::{Message, Recipient, RecipientStatus};
use crate::model::name::Name;
use crate::model::pattern::AddressPattern;
use crate::model::queue_name::QueueName;
use crate::model::size::Size;
use crate::model::time::Timestamp;
use crate::smtp::address::ForwardPath;
use crate::store::{Leased, StoreError};

/// Prefix of the control keys.
const KEY: &str = "hold/";
/// Most holds at a time.
pub const MOST_HOLDS: usize = 200;
/// The longest record ([`ControlStore::set`](crate::store::ControlStore::set)).
const LONGEST_RECORD: usize = 1_024;
/// Most new messages that wait to be moved; what is more goes back to its queue, and is moved when it comes up there.
const MOST_SET_ASIDE: usize = 10_000;
/// How long until the end of a hold that could not be stored is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);
/// Most of them that are moved in one step.
const STEP: usize = 500;
/// The longest name of an API key that a selector has, in characters; its schema says the same.
pub const LONGEST_API_KEY: usize = 128;

/// Which mail is held: all that is given must hold. A message is held for those recipients that are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"sender": "*@example.net"}))]
pub struct HoldSelector {
    /// The reverse-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sender: Option<AddressFilter>,
    /// The recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub recipient: Option<AddressFilter>,
    /// The domain of the recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub domain: Option<AddressPattern>,
    /// The account that handed the message in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub account: Option<Name>,
    /// The API key by which it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 128)]
    pub api_key: Option<String>,
    /// The connector that would carry it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connector: Option<Name>,
    /// The virtual server that took the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub virtual_server: Option<Name>,
    /// Messages of more octets than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub larger_than: Option<Size>,
    /// True: mail that leaves for somebody elsewhere. False: mail for recipients of the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub outbound: Option<bool>,
}

impl HoldSelector {
    /// Whether it means this recipient of a message, when it waits in this queue.
    fn means(&self, message: &Message, recipient: &Recipient, queue: &QueueName) -> bool {
        let mailbox = match &recipient.forward_path {
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
            ForwardPath::Postmaster => None,
        };
        let origin = &message.origin;
        self.sender.as_ref().is_none_or(|sender| sender.matches(message.reverse_path.mailbox()))
            && self.recipient.as_ref().is_none_or(|wanted| mailbox.is_some_and(|mailbox| wanted.matches(Some(mailbox))))
            && self.domain.as_ref().is_none_or(|domain| mailbox.is_some_and(|mailbox| domain.matches(mailbox.domain())))
            && self.account.as_ref().is_none_or(|account| origin.account.as_ref() == Some(account))
            && self.api_key.as_ref().is_none_or(|key| origin.api_key.as_ref() == Some(key))
            && self.connector.as_ref().is_none_or(|connector| queue.connector() == Some(connector))
            && self.virtual_server.as_ref().is_none_or(|server| origin.virtual_server == *server)
            && self.larger_than.is_none_or(|size| message.size > size.bytes())
            && self.outbound.is_none_or(|outbound| outbound != is_ours(queue))
    }
}

/// Mail that is kept back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Its id.
    pub id: Uuid,
    /// Which mail.
    pub selector: HoldSelector,
    /// Why, for people.
    pub reason: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Who wanted it: the name of the API key.
    pub by: String,
    /// Since when.
    pub made_at: Timestamp,
}

/// Why a hold was not made or ended.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Everything: that is not said by leaving everything out.
    #[error("the selector is empty; say which mail is meant, such as {{\"outbound\": true}}")]
    EmptySelector,
    /// It would be over before it begins.
    #[error("expiresAt is not in the future")]
    Expired,
    /// It does not fit into a control record.
    #[error("selector and reason are too long to be remembered; name fewer things, or shorter ones")]
    TooLong,
    /// There are too many.
    #[error("there are {MOST_HOLDS} holds; end one first")]
    TooMany,
    /// There is none of this id.
    #[error("no such hold")]
    NotFound,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The holds in force.
#[derive(Default)]
pub(super) struct Holds {
    /// Read while mail is offered to a link queue; written when a hold comes into force.
    all: RwLock<Vec<Hold>>,
    /// Mail that is to be moved.
    aside: Mutex<Vec<Leased>>,
    /// Held while one is made or ended.
    making: tokio::sync::Mutex<()>,
    /// Milliseconds since 1970: what is over is not looked at before, after an end that could not be stored.
    not_before: AtomicI64,
}

impl Holds {
    /// As they were when the last process ended.
    pub(super) fn restore(stored: Vec<(String, Vec<u8>)>) -> Self {
        let read = |(key, value): (String, Vec<u8>)| match serde_json::from_slice(&value) {
            Ok(hold) => Some(hold),
            Err(error) => {
                tracing::error!(key, error = %error, "a hold cannot be read; what it held goes on");
                None
            }
        };
        Holds { all: RwLock::new(stored.into_iter().filter_map(read).collect()), ..Holds::default() }
    }

    /// The prefix of the control keys.
    pub(super) fn prefix() -> &'static str {
        KEY
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Hold>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Hold>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn aside(&self) -> MutexGuard<'_, Vec<Leased>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// When the next of them ends by itself.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        let next = self.read().iter().filter_map(|hold| hold.expires_at).min()?;
        Some(next.max(Timestamp::from_millis(self.not_before.load(Ordering::Relaxed))))
    }

    /// Does something with a message unless it is held in this queue; no hold comes into force meanwhile.
    pub(super) fn unless_held<T>(
        &self,
        leased: Leased,
        queue: &QueueName,
        then: impl FnOnce(Leased) -> T,
    ) -> Result<T, Leased> {
        let all = self.read();
        let here = |recipient: &&Recipient| recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue);
        let held = !all.is_empty()
            && leased.message.recipients.iter().filter(here).any(|one| any_means(&all, &leased.message, one, queue));
        if held { Err(leased) } else { Ok(then(leased)) }
    }

    /// Whether a recipient is held, when it waits in this queue.
    pub(super) fn hold(&self, message: &Message, recipient: &Recipient, queue: &QueueName) -> bool {
        let all = self.read();
        !all.is_empty() && any_means(&all, message, recipient, queue)
    }

    /// The first hold that holds a recipient when it waits in this queue.
    pub(super) fn first(&self, message: &Message, recipient: &Recipient, queue: &QueueName) -> Option<Hold> {
        let all = self.read();
        all.iter().find(|hold| can_be_held(recipient, queue) && hold.selector.means(message, recipient, queue)).cloned()
    }
}

fn any_means(all: &[Hold], message: &Message, recipient: &Recipient, queue: &QueueName) -> bool {
    can_be_held(recipient, queue) && all.iter().any(|hold| hold.selector.means(message, recipient, queue))
}

/// A dead letter is kept back already; what is in the directory queue only to fail there must not come to another end.
fn can_be_held(recipient: &Recipient, queue: &QueueName) -> bool {
    let fails = || recipient.last_failure.as_ref().is_some_and(|failure| failure.is_permanent());
    match queue {
        QueueName::DeadLetter => false,
        QueueName::Directory if fails() => false,
        _ => recipient.status == RecipientStatus::Pending,
    }
}

impl Queue {
    /// Every hold, the oldest first.
    pub fn all_holds(&self) -> Vec<Hold> {
        self.holds.read().clone()
    }

    /// The first hold that holds a recipient when it waits in this queue.
    pub fn held_by(&self, message: &Message, recipient: &Recipient, queue: &QueueName) -> Option<Hold> {
        self.holds.first(message, recipient, queue)
    }

    /// What a hold would move now: of the messages that wait, at most 50,000 are looked at. What is held already does not count.
    pub(super) async fn preview_hold(&self, selector: &HoldSelector) -> Result<Preview, HoldError> {
        if *selector == HoldSelector::default() {
            return Err(HoldError::EmptySelector);
        }
        let would_be_held = |message: &Message| {
            message.recipients.iter().any(|recipient| {
                let queue =
                    recipient.waits.as_ref().map(|waits| &waits.queue).filter(|queue| **queue != QueueName::Held);
                queue.is_some_and(|queue| can_be_held(recipient, queue) && selector.means(message, recipient, queue))
            })
        };
        let mut preview = Preview::default();
        let (mut after, mut looked) = (None, 0);
        loop {
            // others want the store and this thread too
            tokio::task::yield_now().await;
            let rows = self.store.page(None, after, PREVIEWED_AT_ONCE).await?;
            for (_, message) in rows.iter().filter(|(_, message)| would_be_held(message)) {
                preview.count += 1;
                if preview.sample.len() < SAMPLE {
                    preview.sample.push(message.id);
                }
            }
            looked += rows.len() as u64;
            preview.complete = rows.len() < PREVIEWED_AT_ONCE;
            if preview.complete || looked >= MOST_PREVIEWED {
                return Ok(preview);
            }
            after = rows.last().map(|(key, _)| *key);
        }
    }

    /// Holds mail from now on, and moves what waits; the operation that does so is to follow.
    ///
    /// # Errors
    /// See [`HoldError`]; then nothing is held.
    pub async fn hold(
        self: &Arc<Self>,
        selector: HoldSelector,
        reason: String,
        expires_at: Option<Timestamp>,
        by: String,
    ) -> Result<(Hold, Option<Uuid>), HoldError> {
        if selector == HoldSelector::default() {
            return Err(HoldError::EmptySelector);
        }
        let _one = self.holds.making.lock().await;
        let made_at = self.now();
        if expires_at.is_some_and(|end| end <= made_at) {
            return Err(HoldError::Expired);
        }
        if self.holds.read().len() >= MOST_HOLDS {
            return Err(HoldError::TooMany);
        }
        let by = by.chars().take(63).collect();
        let hold = Hold { id: Uuid::now_v7(), selector, reason, expires_at, by, made_at };
        let record = serde_json::to_vec(&hold).map_err(|error| StoreError::Io(error.to_string()))?;
        if record.len() > LONGEST_RECORD {
            return Err(HoldError::TooLong);
        }
        self.store.set(&key(hold.id), Some(record)).await?;
        // who offers mail now still has the lock, or will see the hold: behind this line the windows are all there is
        self.holds.write().push(hold.clone());
        self.sweep();
        self.agenda.nudge();
        tracing::info!(hold.id = %hold.id, by = hold.by, reason = hold.reason, "mail is held");
        let operation = self.begin_moving(BulkAction::Hold, &hold.by, None).await;
        Ok((hold, operation))
    }

    /// Ends a hold: what no other one means goes on. The operation that lets it go is to follow; there is none when nothing is held.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub async fn end_hold(self: &Arc<Self>, id: Uuid, by: &str) -> Result<Option<Uuid>, HoldError> {
        let _one = self.holds.making.lock().await;
        if !self.holds.read().iter().any(|hold| hold.id == id) {
            return Err(HoldError::NotFound);
        }
        self.store.set(&key(id), None).await?;
        self.holds.write().retain(|hold| hold.id != id);
        self.agenda.nudge();
        tracing::info!(hold.id = %id, by, "a hold has ended");
        if !self.store.queues().iter().any(|count| count.queue == QueueName::Held) {
            // what is on its way there comes back by this walk
            self.look_for_another_way(Some(QueueName::Held));
            return Ok(None);
        }
        Ok(self.begin_moving(BulkAction::Release, by, Some(QueueName::Held)).await)
    }

    /// Begins to move the mail that a hold, or the end of one, is about.
    async fn begin_moving(self: &Arc<Self>, action: BulkAction, by: &str, over: Option<QueueName>) -> Option<Uuid> {
        let until = self.now() + std::time::Duration::from_millis(1);
        let selector = MessageFilter { queue: over.clone(), until: Some(until), ..MessageFilter::default() };
        let order = Order { action, ndr: false, connector: None };
        match self.clone().begin_by_itself(order, selector, by).await {
            Ok(operation) => Some(operation.id),
            Err(error) => {
                // the hold is in force all the same; this walk tells nobody how far it is
                tracing::error!(error = %error, "an operation that moves held mail could not begin");
                self.look_for_another_way(over);
                None
            }
        }
    }

    /// Ends the holds whose time is over.
    pub(super) async fn expire_holds(self: &Arc<Self>) {
        let now = self.now();
        if self.holds.next_expiry().is_none_or(|next| next > now) {
            return;
        }
        let is_over = |hold: &&Hold| hold.expires_at.is_some_and(|end| end <= now);
        let over: Vec<Uuid> = self.holds.read().iter().filter(is_over).map(|hold| hold.id).collect();
        for id in over {
            match self.end_hold(id, "expiresAt").await {
                Ok(_) | Err(HoldError::NotFound) => {}
                Err(error) => {
                    self.holds.not_before.store((now + AGAIN).millis(), Ordering::Relaxed);
                    tracing::error!(error = %error, "a hold that is over could not be ended yet");
                }
            }
        }
    }

    /// Takes what is held now out of the windows of all link queues.
    fn sweep(&self) {
        let links: Vec<_> = self.links().values().cloned().collect();
        // a copy: an offer locks the holds first, and then its link
        let all = self.all_holds();
        for link in links {
            let here = |one: &&Recipient| one.waits.as_ref().is_some_and(|waits| waits.queue == link.name);
            let held = |leased: &Leased| {
                let mut waiting = leased.message.recipients.iter().filter(here);
                waiting.any(|one| any_means(&all, &leased.message, one, &link.name))
            };
            for leased in link.take_back(held) {
                self.set_aside(leased);
            }
        }
    }

    /// Whether a recipient of a message is held where it waits.
    pub(super) fn holds_some_of(&self, message: &Message) -> bool {
        let held = |recipient: &Recipient| {
            let waits = recipient.waits.as_ref().filter(|waits| waits.queue != QueueName::Held);
            waits.is_some_and(|waits| self.holds.hold(message, recipient, &waits.queue))
        };
        !self.holds.is_empty() && message.recipients.iter().any(held)
    }

    /// Has a leased message moved to where it is held, as soon as possible.
    pub(super) fn set_aside(&self, leased: Leased) {
        let mut aside = self.holds.aside();
        if aside.len() < MOST_SET_ASIDE {
            aside.push(Leased { content: None, ..leased });
            drop(aside);
            return self.agenda.nudge();
        }
        drop(aside);
        for lease in &leased.leases {
            self.agenda.look_at_once(&lease.queue);
        }
        self.release(vec![leased]);
    }

    /// Moves what was set aside.
    pub(super) async fn move_set_aside(&self) {
        let some: Vec<Leased> = {
            let mut aside = self.holds.aside();
            let count = aside.len().min(STEP);
            aside.drain(..count).collect()
        };
        let snapshot = self.live.current();
        for leased in some {
            let moves = self.moves_by_holds(&snapshot, &leased.message);
            if moves.is_empty() {
                self.give_back(leased);
            } else {
                self.conclude_logged(leased, moves).await;
            }
        }
        if !self.holds.aside().is_empty() {
            self.agenda.nudge();
        }
    }

    /// What holds change for a message: who waits and is held now, and who is held and should not be any more.
    pub(super) fn moves_by_holds(&self, snapshot: &Snapshot, message: &Message) -> Vec<(u32, Conclusion)> {
        let moved = |recipient: &Recipient| {
            let waits = recipient.waits.as_ref()?;
            if waits.queue != QueueName::Held {
                let held = self.holds.hold(message, recipient, &waits.queue);
                return held.then(|| Conclusion::Held(recipient.directory_name.clone()));
            }
            let (to, name) = self.belongs_to(snapshot, message, recipient);
            (!self.holds.hold(message, recipient, &to)).then_some(Conclusion::LetGo(to, name))
        };
        (0u32..).zip(&message.recipients).filter_map(|(index, recipient)| Some((index, moved(recipient)?))).collect()
    }

    /// The same conclusions, but that who would be moved into a queue in which he is held is held.
    pub(super) fn with_holds(&self, message: &Message, all: Vec<(u32, Conclusion)>) -> Vec<(u32, Conclusion)> {
        if self.holds.is_empty() {
            return all;
        }
        let held = |(index, conclusion): (u32, Conclusion)| {
            let recipient = message.recipients.get(index as usize);
            match (conclusion, recipient) {
                (Conclusion::Moved(queue, name) | Conclusion::LetGo(queue, name), Some(recipient))
                    if self.holds.hold(message, &pending(recipient), &queue) =>
                {
                    (index, Conclusion::Held(name))
                }
                (Conclusion::Resubmitted(queue, name), Some(recipient))
                    if self.holds.hold(message, &pending(recipient), &queue) =>
                {
                    (index, Conclusion::Resubmitted(QueueName::Held, name))
                }
                (other, _) => (index, other),
            }
        };
        all.into_iter().map(held).collect()
    }

    /// Moves a message as holds want it. Nothing to move is no error.
    pub(super) async fn move_by_holds(&self, leased: Leased, by: &str) -> Result<(), StoreError> {
        let moves = self.moves_by_holds(&self.live.current(), &leased.message);
        if moves.is_empty() {
            self.give_back(leased);
            return Ok(());
        }
        self.conclude_let_go(leased, moves, Facts::by(by)).await
    }
}

/// A dead letter as it is when it is to be delivered again.
fn pending(recipient: &Recipient) -> Recipient {
    Recipient { status: RecipientStatus::Pending, last_failure: None, ..recipient.clone() }
}

fn key(id: Uuid) -> String {
    format!("{KEY}{}", id.simple())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::put;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn no_hold_comes_into_force_between_the_look_and_the_offer() {
        let leased = put(&MemoryStore::default(), b"x", 1, &["hub"]).await;
        let queue = leased.leases[0].queue.clone();
        let holds = Holds::default();
        let offered = holds.unless_held(leased, &queue, |_| holds.all.try_write().is_err());
        assert!(offered.unwrap_or_default(), "whoever makes a hold has to wait, and then finds it in the window");
        assert!(holds.all.try_write().is_ok());
    }
}
