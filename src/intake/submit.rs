//! Submission: a message that a program hands in whole, with its envelope, by an API key.
//!
//! It goes the way of mail by SMTP: [`Incoming`] asks the same rules for sender and recipients, routes, streams content into a
//! draft, and [`Submitting::commit`] returns only when the message is durable. Other is only who is trusted (who has a key that
//! may send) and that the whole envelope is known at once: either all recipients are taken, or, with `partial`, those
//! that can be.
//!
//! **A request that is repeated** ([`Submit::claim`]): of several with the same key one goes on, the others wait for its end
//! and then are told what came of it. The key is part of the message's record (`store`), so it is known exactly as
//! long as the message's acceptance is: no message without its key, no key without its message.
//!
//! What was begun is ended: the work runs on the appliance's runtime and not on the connection's, so that a client that goes
//! away between its last octet and our answer leaves a whole message and a known key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Client, Door, Filtering, Incoming, Intake, Refusal, Requested, Sender, Submitter};
use crate::config::{Live, VirtualServer};
use crate::model::mail::{Idempotency, MessageId};
use crate::model::name::Name;
use crate::model::time::Timestamp;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::{Body, MailParameters, RcptParameters};
use crate::status::{Drain, Running};
use crate::store::{Known, Receipt, Seen, StoreError};

/// Longest wait for another request with the same key.
const CLAIM_LIMIT: Duration = Duration::from_secs(30);

/// A message that is to be handed in.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The virtual server that takes it.
    pub server: Arc<VirtualServer>,
    /// Where the client is.
    pub client: IpAddr,
    /// It came by HTTPS.
    pub encrypted: bool,
    /// The request that brings it.
    pub request: Requested,
    /// Whose key it is.
    pub by: Arc<Submitter>,
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// Whom the message says it is from, and who it says sent it (From and Sender): held to the key's sender rule like the
    /// reverse-path.
    pub authors: Vec<Mailbox>,
    /// What is asked for of the message.
    pub parameters: MailParameters,
    /// The recipients.
    pub recipients: Vec<(ForwardPath, RcptParameters)>,
    /// It is to be taken for some recipients when it cannot be for all.
    pub partial: bool,
}

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// There is no such virtual server.
    #[error("there is no such virtual server")]
    UnknownServer,
    /// The virtual server is not enabled, or an operator has paused or stopped it, or the process ends.
    #[error("{0}")]
    NotNow(String),
    /// A rule refuses the sender, or the content.
    #[error("{}", .0.reply)]
    Refused(Refusal),
    /// The sender rule refuses an author: which (by place in the submission), and why.
    #[error("{}", .1.reply)]
    Author(usize, Refusal),
    /// Rules refuse recipients: which (by place in the submission), and why.
    #[error("{} recipients are refused", .0.len())]
    Recipients(Vec<(usize, Refusal)>),
    /// The message is larger than the virtual server takes.
    #[error("a message has at most {0} bytes here")]
    TooLarge(u64),
    /// No further key can be remembered.
    #[error("more keys than can be remembered were used in the last 24 hours")]
    TooManyKeys,
    /// Another request with the same key has not ended.
    #[error("another request with this key has not ended")]
    Busy,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes submissions. [`Desk`] does.
#[async_trait]
pub trait Submit: Send + Sync {
    /// The virtual server that takes mail: the one of this name, else the default one.
    ///
    /// # Errors
    /// There is none, or it takes nothing now.
    fn server(&self, wanted: Option<&Name>) -> Result<Arc<VirtualServer>, NotTaken>;

    /// What time it is.
    fn now(&self) -> Timestamp;

    /// Reserves the key of a request for as long as the claim lives; or tells what it has brought. Waits for others.
    ///
    /// # Errors
    /// Another one takes too long, or there is no room for another key.
    async fn claim(&self, key: [u8; 32]) -> Result<Claimed, NotTaken>;

    /// Begins a message: its envelope is judged.
    ///
    /// # Errors
    /// When it is refused.
    async fn begin(&self, submission: Submission) -> Result<Box<dyn Submitting>, NotTaken>;
}

/// A message that is being handed in. Dropped, nothing of it remains.
#[async_trait]
pub trait Submitting: Send {
    /// The id that it will have.
    fn id(&self) -> MessageId;

    /// The recipients that were refused, by place in the submission; only with `partial`.
    fn refused(&self) -> &[(usize, Refusal)];

    /// The next octets of content, with CRLF line ends.
    ///
    /// # Errors
    /// When it is refused.
    async fn content(&mut self, chunk: Bytes) -> Result<(), NotTaken>;

    /// All of it is there: makes it durable and sends it on its way. The claim is the request's, if it has a key.
    ///
    /// # Errors
    /// When it is refused, or could not be kept: nothing of it remains.
    async fn commit(self: Box<Self>, body: Body, claim: Option<(Claim, Idempotency)>) -> Result<Taken, NotTaken>;
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its id.
    pub id: MessageId,
    /// When it was received.
    pub at: Timestamp,
    /// What its sender is told.
    pub receipt: Receipt,
}

/// What [`Submit::claim`] gives.
#[derive(Debug)]
pub enum Claimed {
    /// The request may go on.
    First(Claim),
    /// It has brought this message.
    Seen(Seen),
}

/// The keys of requests that have not ended.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Mutex<HashMap<[u8; 32], watch::Receiver<()>>>>);

/// A key that is reserved for one request.
#[derive(Debug)]
pub struct Claim {
    key: [u8; 32],
    claims: Claims,
    /// Its end is the word to those who wait.
    _ends: watch::Sender<()>,
}

impl Claims {
    /// Waits until the key is free, and takes it; at most for that long.
    async fn take(&self, key: [u8; 32], limit: Duration) -> Option<Claim> {
        let taken = tokio::time::timeout(limit, async {
            loop {
                let mut other = {
                    let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    match claims.get(&key) {
                        Some(other) => other.clone(),
                        None => {
                            let (ends, other) = watch::channel(());
                            claims.insert(key, other);
                            return Claim { key, claims: self.clone(), _ends: ends };
                        }
                    }
                };
                // an error says that the claim is gone, which is what we wait for
                while other.changed().await.is_ok() {}
            }
        });
        taken.await.ok()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Where submissions come in.
pub struct Desk {
    intake: Intake,
    live: Live,
    running: Arc<Running>,
    drain: Arc<Drain>,
    claims: Claims,
    runtime: Handle,
}

impl Desk {
    /// To be called inside the appliance's runtime, on which everything then runs.
    pub fn new(intake: Intake, live: Live, running: Arc<Running>, drain: Arc<Drain>) -> Self {
        Desk { intake, live, running, drain, claims: Claims::default(), runtime: Handle::current() }
    }
}

#[async_trait]
impl Submit for Desk {
    fn server(&self, wanted: Option<&Name>) -> Result<Arc<VirtualServer>, NotTaken> {
        if self.drain.is_on() {
            return Err(NotTaken::NotNow("the appliance is shutting down".to_owned()));
        }
        if self.drain.is_closed() {
            return Err(NotTaken::NotNow("the appliance is draining: it takes no new mail".to_owned()));
        }
        let snapshot = self.live.current();
        let name = wanted.or(snapshot.default_virtual_server.as_ref());
        let server = name.and_then(|name| snapshot.virtual_servers.get(name)).ok_or(NotTaken::UnknownServer)?;
        let name = &server.name;
        if !server.spec.enabled {
            return Err(NotTaken::NotNow(format!("the virtual server {name} is not enabled")));
        }
        if let Some(halted) = self.running.of(name) {
            return Err(NotTaken::NotNow(format!("the virtual server {name} is {}", halted.halt.word())));
        }
        Ok(server.clone())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.intake.clock.unix_millis())
    }

    async fn claim(&self, key: [u8; 32]) -> Result<Claimed, NotTaken> {
        let claim = self.claims.take(key, CLAIM_LIMIT).await.ok_or(NotTaken::Busy)?;
        // only now: whoever had the key before has brought its message by now, or nothing
        match self.intake.store.known(&key).await? {
            Known::New => Ok(Claimed::First(claim)),
            Known::Full => Err(NotTaken::TooManyKeys),
            Known::Seen(seen) => Ok(Claimed::Seen(seen)),
        }
    }

    async fn begin(&self, submission: Submission) -> Result<Box<dyn Submitting>, NotTaken> {
        let (intake, live, runtime) = (self.intake.clone(), self.live.clone(), self.runtime.clone());
        let begun = self.runtime.spawn(async move {
            let under_way = UnderWay::begin(intake, &live, runtime, submission).await?;
            Ok::<Box<dyn Submitting>, NotTaken>(Box::new(under_way))
        });
        begun.await.map_err(|error| NotTaken::Store(StoreError::Io(error.to_string())))?
    }
}

struct UnderWay {
    intake: Intake,
    runtime: Handle,
    incoming: Incoming,
    refused: Vec<(usize, Refusal)>,
    size: u64,
    max_size: u64,
}

impl UnderWay {
    async fn begin(intake: Intake, live: &Live, runtime: Handle, submission: Submission) -> Result<Self, NotTaken> {
        let Submission { server, client, encrypted, request, by, reverse_path, authors, parameters, .. } = submission;
        let (recipients, partial) = (submission.recipients, submission.partial);
        let max_size = server.spec.messages.max_size.bytes();
        let log = |refusal: &Refusal| log(&server, client, &by, refusal);
        let client = Client {
            address: client,
            name: None,
            server: server.clone(),
            account: None,
            tls: None,
            filtering: Filtering::none(),
            trusted: true,
        };
        let sender = Sender { client, door: Door::Rest { by: by.clone(), encrypted, request } };
        for (place, author) in authors.into_iter().enumerate() {
            sender.door.admit_sender(&ReversePath::Mailbox(author)).map_err(|refusal| {
                log(&refusal);
                NotTaken::Author(place, refusal)
            })?;
        }
        let begun = Incoming::begin(&intake, live.current(), sender, reverse_path, parameters);
        let mut incoming = begun.map_err(|refusal| {
            log(&refusal);
            NotTaken::Refused(refusal)
        })?;
        let (mut refused, wanted) = (Vec::new(), recipients.len());
        for (place, (path, parameters)) in recipients.into_iter().enumerate() {
            if let Err(refusal) = incoming.recipient(&intake, path, parameters).await {
                log(&refusal);
                refused.push((place, refusal));
            }
        }
        if !refused.is_empty() && (!partial || refused.len() == wanted) {
            return Err(NotTaken::Recipients(refused));
        }
        let now = Timestamp::from_millis(intake.clock.unix_millis());
        incoming.content_begins(now).await.map_err(NotTaken::Refused)?;
        Ok(UnderWay { intake, runtime, incoming, refused, size: 0, max_size })
    }
}

#[async_trait]
impl Submitting for UnderWay {
    fn id(&self) -> MessageId {
        self.incoming.id()
    }

    fn refused(&self) -> &[(usize, Refusal)] {
        &self.refused
    }

    async fn content(&mut self, chunk: Bytes) -> Result<(), NotTaken> {
        self.size += chunk.len() as u64;
        if self.size > self.max_size {
            return Err(NotTaken::TooLarge(self.max_size));
        }
        self.incoming.content(chunk).await.map_err(NotTaken::Refused)
    }

    async fn commit(self: Box<Self>, body: Body, claim: Option<(Claim, Idempotency)>) -> Result<Taken, NotTaken> {
        let UnderWay { intake, runtime, mut incoming, .. } = *self;
        incoming.declare(body);
        let committed = runtime.spawn(async move {
            // held until the message is durable or gone
            let (_claim, idempotency) = claim.unzip();
            incoming.accept(&intake, idempotency).await
        });
        let committed = committed.await.map_err(|error| NotTaken::Store(StoreError::Io(error.to_string())))?;
        let message = committed.map_err(NotTaken::Refused)?;
        // no filter looks at what comes by this door
        let message = message.ok_or_else(|| NotTaken::Store(StoreError::Io("nobody was to get it".to_owned())))?;
        Ok(Taken { id: message.id, at: message.received_at, receipt: Receipt::of(&message) })
    }
}

fn log(server: &VirtualServer, client: IpAddr, by: &Submitter, refusal: &Refusal) {
    tracing::info!(
        virtualServer = %server.name,
        peer.addr = %client,
        key = by.api_key,
        smtp.code = refusal.reply.code,
        smtp.status = refusal.reply.status.map(tracing::field::display),
        rule = refusal.rule,
        detail = %refusal.detail,
        "refused"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_of_many_goes_on_and_the_others_wait_for_its_end() {
        let claims = Claims::default();
        let first = claims.take([1; 32], CLAIM_LIMIT).await.unwrap();
        assert!(claims.take([2; 32], Duration::ZERO).await.is_some(), "another key is free");
        assert!(claims.take([1; 32], Duration::from_millis(20)).await.is_none(), "it is taken");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let claims = claims.clone();
                tokio::spawn(async move { claims.take([1; 32], CLAIM_LIMIT).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(first);
        for one in waiting {
            assert!(one.await.unwrap(), "each in its turn");
        }
        assert!(claims.0.lock().unwrap().is_empty(), "nothing is left behind");
    }
}
