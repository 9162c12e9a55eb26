//! Mailbox stores: where local mail ends. A delivery counts when it is synced, file and directory.
//!
//! * `maildir`: `<root>/<recipient>/{tmp,new,cur}`, with Return-Path and Delivered-To in front.
//! * `drop`: one `.eml` file per message and store, with `x-sender:` and `x-receiver:` lines in front, as the
//!   Drop directory of the Windows SMTP service had.
//!
//! File names carry the message id and the first recipient's index: a delivery that is repeated after a crash replaces its own
//! file instead of making a second one, as long as nobody has moved it.

mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::MailboxStore;
use crate::model::failure::{Failure, Scope};
use crate::model::mail::Message;
use crate::model::queue_name::QueueName;
use crate::model::spec::mailbox_store::MailboxStoreType;
use crate::net::clock::Clock;
use crate::queue::{Attempt, AttemptResult, Hand, Queue};
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// How long a worker waits for the next message.
const IDLE: Duration = Duration::from_secs(5);

/// The mailbox stores of a process.
pub struct Local {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    data_dir: PathBuf,
}

impl Local {
    /// Stores lie below `mail/` and `drop/` in `data_dir`.
    pub fn new(queue: Arc<Queue>, clock: Arc<dyn Clock>, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Local { queue, clock, data_dir })
    }

    /// Starts a worker on a local queue; the queue counts it by its hand.
    pub fn employ(self: &Arc<Self>, hand: Hand) {
        drop(tokio::spawn(self.clone().work(hand)));
    }

    async fn work(self: Arc<Self>, hand: Hand) {
        let QueueName::Local(name) = hand.link().name.clone() else { return };
        loop {
            let Some(leased) = hand.try_take() else {
                if hand.wait(IDLE).await {
                    continue;
                }
                return;
            };
            let snapshot = self.queue.snapshot();
            let Some(store) = snapshot.stores.get(&name).cloned() else {
                let words = format!("the mailbox store {name} does not exist");
                let failure = Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words);
                self.queue.next_hop_failed(&hand, &leased.message.origin.virtual_server, failure);
                self.queue.give_back(leased);
                return;
            };
            let attempt = self.deliver(&store, leased, &hand.link().name).await;
            let broken = attempt.results.iter().find_map(|(_, result)| match result {
                AttemptResult::Failed(failure) if failure.scope == Scope::Host => Some(failure.clone()),
                _ => None,
            });
            let server = attempt.leased.message.origin.virtual_server.clone();
            self.queue.session_opened(&hand);
            // what was written is recorded, also when the store failed in the middle
            self.queue.settle(attempt).await;
            self.queue.session_closed(&hand, broken.is_none());
            if let Some(failure) = broken {
                self.queue.next_hop_failed(&hand, &server, failure);
                return;
            }
        }
    }

    /// Writes one message for each of its recipients in this store.
    async fn deliver(&self, store: &MailboxStore, leased: Leased, queue: &QueueName) -> Attempt {
        let since: Instant = self.clock.now();
        for lease in &leased.leases {
            self.queue.store().attempt(lease);
        }
        let root = store.path.below(&self.data_dir.join(match store.kind {
            MailboxStoreType::Maildir => "mail",
            MailboxStoreType::Drop => "drop",
        }));
        let message = leased.message.clone();
        let here: Vec<u32> = (0u32..)
            .zip(&message.recipients)
            .filter(|(_, recipient)| recipient.waits.as_ref().is_some_and(|waits| waits.queue == *queue))
            .map(|(index, _)| index)
            .collect();
        let written = match store.kind {
            MailboxStoreType::Maildir => self.to_maildirs(&root, &leased, &here).await,
            MailboxStoreType::Drop => {
                let first = here.first().copied().unwrap_or_default();
                let name = format!("{}-{first}.eml", message.id);
                let one = self.write(&root, "", &name, &drop_lines(&message, &here), &leased).await;
                here.iter().map(|_| one.clone()).collect()
            }
        };
        let results = here
            .into_iter()
            .zip(written)
            .map(|(index, written)| (index, written.map_or_else(AttemptResult::Failed, |()| AttemptResult::Delivered)))
            .collect();
        let duration = self.clock.now().saturating_duration_since(since);
        Attempt { leased, results, next_hop: Some(format!("mailbox store {}", store.name)), duration }
    }

    async fn to_maildirs(&self, root: &Path, leased: &Leased, here: &[u32]) -> Vec<Result<(), Failure>> {
        let mut written = Vec::with_capacity(here.len());
        for index in here {
            let Some(recipient) = leased.message.recipients.get(*index as usize) else { continue };
            // a recipient without a name was assigned before it had one: its local part is safe as a file name or it fails
            let Some(name) = &recipient.directory_name else {
                let words = "the recipient has no name in the directory";
                written.push(Err(Failure::new(Scope::Recipient, EnhancedStatus::transient(1, 1), words)));
                continue;
            };
            let lines = format!(
                "Return-Path: {}\r\nDelivered-To: {}\r\n",
                files::angle(&leased.message.reverse_path),
                recipient.forward_path
            );
            let file = format!("{}.{index}.bridgehead", leased.message.id);
            written.push(self.write(&root.join(name.as_str()), "new", &file, &lines, leased).await);
        }
        written
    }

    /// Writes the lines and the content to `directory`, durably.
    async fn write(
        &self,
        directory: &Path,
        sub: &str,
        name: &str,
        lines: &str,
        leased: &Leased,
    ) -> Result<(), Failure> {
        let content = match &leased.content {
            Some(content) => files::Content::Memory(content.clone()),
            None => match self.queue.store().content(leased.message.id).await {
                Ok(reader) => files::Content::Stored(reader),
                Err(error) => {
                    let words = format!("the content cannot be read: {error}");
                    return Err(Failure::new(Scope::Message, EnhancedStatus::transient(3, 0), words));
                }
            },
        };
        files::write(directory, sub, name, lines, content).await
    }
}

/// `x-sender:` and `x-receiver:` lines, as Pickup and Drop have them.
fn drop_lines(message: &Message, here: &[u32]) -> String {
    let mut lines = format!("x-sender: {}\r\n", message.reverse_path);
    for recipient in here.iter().filter_map(|index| message.recipients.get(*index as usize)) {
        lines.push_str(&format!("x-receiver: {}\r\n", recipient.forward_path));
    }
    lines
}
