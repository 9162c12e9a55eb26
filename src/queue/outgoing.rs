//! A message as it leaves: who it is from, and its content, read from wherever it is and changed for the next hop.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::directory::Domains;
use crate::mime::{Adapter, Plan, SenderChange, Senders, Survey};
use crate::model::host::HostName;
use crate::model::mail::MessageId;
use crate::model::spec::rewrite_sender::RewriteSender;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::store::{ContentReader, Leased, Store, StoreError};

/// So much of the content is changed at a time, in octets.
const STEP: usize = 64 << 10;

/// Which senders become others on a connector: by its `rewriteSender`, else by the `masqueradeDomain` of the server that
/// sends.
#[derive(Debug, Clone, Default)]
pub struct SenderRules {
    /// Of the connector.
    pub rewrite: Option<RewriteSender>,
    /// Of the virtual server.
    pub masquerade: Option<HostName>,
}

impl SenderRules {
    /// The rules with what they need to know; `None` when they change nobody.
    pub(super) fn with(&self, domains: &Arc<Domains>) -> Option<OutgoingSenders> {
        let any = self.rewrite.is_some() || self.masquerade.is_some();
        any.then(|| OutgoingSenders { rules: self.clone(), domains: domains.clone() })
    }
}

/// [`SenderRules`] with the local domains.
#[derive(Debug, Clone)]
pub(super) struct OutgoingSenders {
    rules: SenderRules,
    domains: Arc<Domains>,
}

impl Senders for OutgoingSenders {
    fn change(&self, sender: &Mailbox) -> Option<SenderChange> {
        if let Some(rewrite) = self.rules.rewrite.as_ref().filter(|rewrite| rewrite.from.matches(sender)) {
            return Some(SenderChange::Mailbox(rewrite.to.mailbox().clone()));
        }
        let masquerade = self.rules.masquerade.as_ref()?;
        self.domains.find(sender.domain()).map(|_| SenderChange::Domain(masquerade.domain()))
    }
}

impl OutgoingSenders {
    /// The reverse-path as the next hop is told it. What could not be told stays.
    pub(super) fn reverse_path(&self, path: &ReversePath) -> ReversePath {
        let changed = path.mailbox().and_then(|sender| self.change(sender)?.apply(sender));
        changed.map_or_else(|| path.clone(), ReversePath::Mailbox)
    }
}

/// Content, chunk by chunk as it goes out.
pub(super) struct Outgoing {
    source: Source,
    adapter: Option<Box<Adapter<OutgoingSenders>>>,
    /// Changed, and not given out yet.
    ready: VecDeque<Bytes>,
}

enum Source {
    Nothing,
    Memory(Bytes),
    /// In the store, not opened yet: opening waits, and what waits before a transaction is under way can be cut off.
    Unopened(MessageId),
    Stored(Box<dyn ContentReader>),
}

impl Source {
    fn of(leased: &Leased) -> Source {
        match &leased.content {
            Some(content) => Source::Memory(content.clone()),
            None => Source::Unopened(leased.message.id),
        }
    }

    /// The next chunk: of content in memory at most so many octets; the store's chunks are small.
    async fn next(&mut self, store: &dyn Store, most: usize) -> Result<Option<Bytes>, StoreError> {
        let mut reader = match std::mem::replace(self, Source::Nothing) {
            Source::Nothing => return Ok(None),
            Source::Memory(mut content) => {
                if content.len() > most {
                    *self = Source::Memory(content.split_off(most));
                }
                return Ok(Some(content));
            }
            Source::Unopened(id) => store.content(id).await?,
            Source::Stored(reader) => reader,
        };
        let chunk = reader.next().await?;
        *self = Source::Stored(reader);
        Ok(chunk)
    }
}

impl Outgoing {
    /// No content.
    pub(super) fn nothing() -> Self {
        Outgoing { source: Source::Nothing, adapter: None, ready: VecDeque::new() }
    }

    /// The content of a message, with these senders and this conversion.
    pub(super) fn of(leased: &Leased, senders: Option<OutgoingSenders>, plan: Option<Plan>) -> Self {
        let changes = senders.is_some() || plan.is_some();
        let adapter = changes.then(|| Box::new(Adapter::new(senders, plan)));
        Outgoing { source: Source::of(leased), adapter, ready: VecDeque::new() }
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(&mut self, store: &dyn Store) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(adapter) = &mut self.adapter else { return self.source.next(store, usize::MAX).await };
            match self.source.next(store, STEP).await? {
                Some(chunk) => adapter.push(chunk, &mut self.ready),
                None => adapter.finish(&mut self.ready),
            }
            if adapter.is_through() {
                self.adapter = None;
            }
        }
    }
}

/// Reads the content of a message once. It is in memory, or this waits.
pub(super) async fn survey(leased: &Leased, store: &dyn Store) -> Result<Survey, StoreError> {
    let mut source = Source::of(leased);
    let mut survey = Survey::default();
    while let Some(chunk) = source.next(store, usize::MAX).await? {
        survey.push(&chunk);
    }
    survey.finish();
    Ok(survey)
}
