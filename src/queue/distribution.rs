//! The directory queue: mail for groups, contacts and forwards becomes mail for those who get it.
//!
//! A worker takes a message with all of its recipients that stand for others, asks the directory who is meant, and records
//! in one step what became of these recipients and the messages that go to the members: the same content, 1,000 recipients
//! each. Before that step nothing has happened, behind it nothing can get lost.
//!
//! | the recipient is | reverse-path of the members | NOTIFY, ORCPT, ENVID, RET | success report for itself |
//! |---|---|---|---|
//! | a contact, a forward to one (RFC 3461, 5.2.7.2: alias) | stays | pass on as they are | none: it passes on |
//! | a group without owner, a forward to several or with a copy (5.2.7.3) | stays | pass on, without SUCCESS | `expanded` |
//! | a group with owner (RFC 5321, 3.9.2; RFC 3461, 5.2.7.1: mailing list) | the owner's; null stays null | none | `delivered`, to the list |
//!
//! Who is behind a recipient has restrictions of its own (`acceptFrom`, `rejectFrom`, `maxReceiveSize`): who refuses the
//! sender gets no copy. It fails with 5.7.1 or 5.2.3 like a member that cannot be reached, so that the same people hear of
//! it: the owner of the list, else the sender, who asked to be told of failures or did not say otherwise (RFC 3461, 5.2.7).
//!
//! **What happens on failure.** A directory that cannot be read defers. A group that leads to nobody, in a circle, or to too
//! many fails with a report to the sender. A member that cannot be assigned waits in `unrouted` like any mail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::assign::{Sending, assign_own};
use super::conclusion::{Conclusion, defer};
use super::outcome::{Facts, Persistence};
use super::scheduler::{nowhere_to_go, waiting_here};
use super::{Assignment, Hand, Queue, assign_again};
use crate::config::Snapshot;
use crate::directory::{Distributor, Member, NotDistributed, Reached, Recipients, Restriction, TurnedAway};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::{Message, MessageId, Recipient, RecipientStatus, Waits};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::spec::virtual_server::Staging;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::{MailParameters, Notify, RcptParameters};
use crate::smtp::reply::EnhancedStatus;
use crate::store::{Caused, Content, Leased};

/// How long a worker waits for the next message.
const IDLE: Duration = Duration::from_secs(5);
/// Most recipients of a message that goes to members.
const MOST_RECIPIENTS: usize = 1_000;

impl Queue {
    /// Works on the directory queue until it has nothing more for this hand.
    pub async fn distribute(self: Arc<Self>, hand: Hand) {
        loop {
            let Some(leased) = hand.try_take() else {
                if hand.wait(IDLE).await {
                    continue;
                }
                return;
            };
            self.session_opened(&hand);
            self.distribute_one(leased).await;
            self.session_closed(&hand, true);
        }
    }

    async fn distribute_one(&self, leased: Leased) {
        let began: Instant = self.clock.now();
        let (snapshot, recipients, message) = (self.live.current(), self.recipients.clone(), leased.message.clone());
        // a group is many reads of the store
        let down = self.down();
        let planned = tokio::task::spawn_blocking(move || plan(&snapshot, &*recipients, &message, &down)).await;
        let Ok(plan) = planned else {
            tracing::error!(message.id = %leased.message.id, "distributing ended in a panic; it is tried again");
            return self.give_back(leased);
        };
        let snapshot = self.live.current();
        let now = self.now();
        let conclusions = plan
            .conclusions
            .into_iter()
            .filter_map(|(index, conclusion)| {
                let recipient = leased.message.recipients.get(index as usize)?;
                let conclusion = match conclusion {
                    Conclusion::Failed(failure) if !failure.is_permanent() => {
                        defer(&snapshot, &leased.message, recipient, failure, now)
                    }
                    other => other,
                };
                Some((index, conclusion))
            })
            .collect();
        let caused = plan
            .messages
            .into_iter()
            .map(|message| Caused {
                message,
                content: leased.content.clone().map_or(Content::CopyOf(leased.message.id), Content::Bytes),
            })
            .collect();
        let duration = self.clock.now().saturating_duration_since(began);
        let facts = Facts { duration: Some(duration), ..Facts::default() };
        let recorded = self.conclude_with(leased, conclusions, caused, facts, Persistence::Once { synced: true }).await;
        if let Err(error) = recorded {
            super::log_store_error("mail could not be distributed; it is tried again", &error);
        }
    }
}

/// What becomes of a message in the directory queue.
struct Plan {
    /// A transient failure is yet to be deferred.
    conclusions: Vec<(u32, Conclusion)>,
    messages: Vec<Message>,
}

/// Those who get one further message: by reverse-path, where `None` leaves it as it is.
type Mailings = BTreeMap<Option<Mailbox>, Vec<Recipient>>;

fn plan(snapshot: &Snapshot, recipients: &dyn Recipients, message: &Message, down: &BTreeSet<Name>) -> Plan {
    let mut distributor = Distributor::new(&snapshot.domains, recipients, &message.reverse_path, message.size);
    for recipient in &message.recipients {
        let here = recipient.waits.as_ref().is_some_and(|waits| waits.queue == QueueName::Directory);
        if !here && !matches!(recipient.status, RecipientStatus::Expanded) {
            let _ = distributor.has(&recipient.forward_path, recipient.directory_name.as_ref());
        }
    }
    let mut conclusions = Vec::new();
    let mut mailings = Mailings::new();
    for index in waiting_here(message, &QueueName::Directory) {
        let Some(recipient) = message.recipients.get(index as usize) else { continue };
        // found out when all of it was there: it takes nothing so large
        if let Some(failure) = recipient.last_failure.as_ref().filter(|failure| failure.is_permanent()) {
            conclusions.push((index, Conclusion::Failed(failure.clone())));
            continue;
        }
        match assign_again(snapshot, recipients, message, recipient, down) {
            Assignment::Queue(QueueName::Directory, _) => {}
            Assignment::Queue(queue, name) => {
                conclusions.push((index, Conclusion::Moved(queue, name)));
                continue;
            }
            nowhere => {
                conclusions.push((index, Conclusion::Failed(nowhere_to_go(&nowhere))));
                continue;
            }
        }
        match distributor.members(&recipient.forward_path) {
            Ok(Reached { members, turned_away }) => {
                let found = members.len();
                let members = staged(snapshot, message, members, &mut distributor);
                if members.is_empty() && found > 0 && !redirects(snapshot, message) {
                    conclusions.push((index, Conclusion::Failed(kept_back())));
                    continue;
                }
                let kind = kind_of(&members, &turned_away);
                for member in members {
                    let (owner, recipient) = written(snapshot, recipients, message, recipient, kind, member, down);
                    mailings.entry(owner).or_default().push(recipient);
                }
                for refusing in turned_away {
                    let (owner, recipient) = refused(message, recipient, kind, refusing);
                    mailings.entry(owner).or_default().push(recipient);
                }
                conclusions.push((index, Conclusion::Expanded { kind }));
            }
            Err(error) => conclusions.push((index, Conclusion::Failed(failure(&error)))),
        }
    }
    let messages = mailings
        .into_iter()
        .flat_map(|(owner, all)| {
            all.chunks(MOST_RECIPIENTS).map(|some| further(message, owner.clone(), some.to_vec())).collect::<Vec<_>>()
        })
        .collect();
    Plan { conclusions, messages }
}

/// Who of the members gets the mail on a virtual server that must not reach real people (`staging`): those allowed, and the
/// one who gets the mail of all others.
fn staged(
    snapshot: &Snapshot,
    message: &Message,
    members: Vec<Member>,
    distributor: &mut Distributor<'_>,
) -> Vec<Member> {
    let Some(staging) = staging(snapshot, message) else { return members };
    let (mut staged, others): (Vec<Member>, Vec<Member>) = members.into_iter().partition(|member| match &member.path {
        ForwardPath::Mailbox(mailbox) => {
            staging.redirect_to.as_ref() == Some(mailbox)
                || staging.allow.iter().any(|pattern| pattern.matches(mailbox))
        }
        ForwardPath::Postmaster => true,
    });
    if let (Some(instead), Some(other)) = (&staging.redirect_to, others.into_iter().next()) {
        let member = Member { path: ForwardPath::Mailbox(instead.clone()), mailbox: None, ..other };
        if distributor.has(&member.path, None) {
            staged.push(member);
        }
    }
    staged
}

fn staging<'a>(snapshot: &'a Snapshot, message: &Message) -> Option<&'a Staging> {
    snapshot.delivery_server(&message.origin.virtual_server)?.spec.staging.as_ref()
}

fn redirects(snapshot: &Snapshot, message: &Message) -> bool {
    staging(snapshot, message).is_some_and(|staging| staging.redirect_to.is_some())
}

fn kept_back() -> Failure {
    let words = "this system sends no mail to any of its members (staging)";
    Failure::new(Scope::Recipient, EnhancedStatus::permanent(7, 1), words)
}

/// What a recipient that stood for others was, in the words of RFC 3461, 5.2.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expansion {
    /// Another address of one.
    Alias,
    /// Another address of several.
    Multiple,
    /// A mailing list.
    List,
}

fn kind_of(members: &[Member], turned_away: &[TurnedAway]) -> Expansion {
    let mut owners = members.iter().map(|member| &member.owner).chain(turned_away.iter().map(|one| &one.owner));
    if owners.any(Option::is_some) {
        return Expansion::List;
    }
    if members.len() + turned_away.len() == 1 { Expansion::Alias } else { Expansion::Multiple }
}

/// A member as a recipient, and the owner to whom its failures go.
fn written(
    snapshot: &Snapshot,
    recipients: &dyn Recipients,
    message: &Message,
    through: &Recipient,
    kind: Expansion,
    member: Member,
    down: &BTreeSet<Name>,
) -> (Option<Mailbox>, Recipient) {
    let Member { path, mailbox, owner } = member;
    let parameters = parameters(through, owner.as_ref(), kind);
    let owner = told(message, owner);
    let sender = owner.clone().map_or_else(|| message.reverse_path.clone(), ReversePath::Mailbox);
    let sending = Sending { sender: &sender, ..Sending::of(message, down) };
    let (queue, directory_name) = match assign_own(snapshot, recipients, &path, mailbox.as_ref(), sending) {
        Assignment::Queue(QueueName::Directory, _) | Assignment::Unknown | Assignment::TryLater => {
            (QueueName::Unrouted, None)
        }
        Assignment::Refused(_) => (QueueName::Unrouted, None),
        Assignment::Queue(queue, name) => (queue, name),
    };
    (owner, pending(message, path, parameters, queue, directory_name.or(mailbox)))
}

/// One who does not take the mail, as a recipient that fails with its restriction when it comes up here, and the owner who
/// hears of it.
fn refused(message: &Message, through: &Recipient, kind: Expansion, one: TurnedAway) -> (Option<Mailbox>, Recipient) {
    let TurnedAway { path, owner, restriction } = one;
    let parameters = parameters(through, owner.as_ref(), kind);
    let recipient = pending(message, path, parameters, QueueName::Directory, None);
    let last_failure = Some(restriction_failure(restriction));
    (told(message, owner), Recipient { last_failure, ..recipient })
}

fn pending(
    message: &Message,
    forward_path: ForwardPath,
    parameters: RcptParameters,
    queue: QueueName,
    directory_name: Option<Name>,
) -> Recipient {
    Recipient {
        forward_path,
        parameters,
        directory_name,
        status: RecipientStatus::Pending,
        waits: Some(Waits { queue, due: message.due_at_once(message.released_at()) }),
        attempts: 0,
        delay_notified: false,
        last_failure: None,
    }
}

/// Who hears of failures instead of the sender: a notification must not cause another (RFC 5321, 3.9.2).
fn told(message: &Message, owner: Option<Mailbox>) -> Option<Mailbox> {
    owner.filter(|_| message.reverse_path.mailbox().is_some())
}

/// What a member takes over of the parameters of the recipient through which it is reached.
fn parameters(through: &Recipient, owner: Option<&Mailbox>, kind: Expansion) -> RcptParameters {
    match (owner, kind) {
        (Some(_), _) => RcptParameters::default(),
        (None, Expansion::Alias) => through.parameters.clone(),
        (None, Expansion::Multiple | Expansion::List) => {
            RcptParameters { notify: without_success(through.parameters.notify), ..through.parameters.clone() }
        }
    }
}

/// RFC 3461, 5.2.7.3: who is told that it was expanded is not told again.
fn without_success(notify: Option<Notify>) -> Option<Notify> {
    match notify {
        Some(Notify::On { failure: false, delay: false, .. }) => Some(Notify::Never),
        Some(Notify::On { failure, delay, .. }) => Some(Notify::On { success: false, failure, delay }),
        other => other,
    }
}

/// The message that goes to these members.
fn further(message: &Message, owner: Option<Mailbox>, recipients: Vec<Recipient>) -> Message {
    let parameters = match &owner {
        Some(_) => MailParameters { ret: None, envid: None, ..message.parameters.clone() },
        None => message.parameters.clone(),
    };
    Message {
        id: MessageId::generate(),
        reverse_path: owner.map_or_else(|| message.reverse_path.clone(), ReversePath::Mailbox),
        parameters,
        frozen: false,
        recipients,
        received_at: message.received_at,
        origin: message.origin.clone(),
        size: message.size,
        message_id_header: message.message_id_header.clone(),
        subject: message.subject.clone(),
        connector: None,
        idempotency: None,
    }
}

/// What it means that a recipient may not be written to: 5.2.3, 5.7.1.
pub fn restriction_failure(restriction: Restriction) -> Failure {
    let status = match restriction {
        Restriction::TooLarge { .. } => EnhancedStatus::permanent(2, 3),
        Restriction::Sender => EnhancedStatus::permanent(7, 1),
    };
    Failure::new(Scope::Recipient, status, restriction.to_string())
}

fn failure(error: &NotDistributed) -> Failure {
    let status = match error {
        NotDistributed::Later(_) => EnhancedStatus::transient(3, 0),
        NotDistributed::NotOthers => EnhancedStatus::transient(1, 1),
        // RFC 3463, 3.3: mailing list expansion problem
        NotDistributed::Nobody | NotDistributed::TooMany => EnhancedStatus::permanent(2, 4),
        NotDistributed::Loop => EnhancedStatus::permanent(4, 6),
    };
    Failure::new(Scope::Recipient, status, error.to_string())
}
