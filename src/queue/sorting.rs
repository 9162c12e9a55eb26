//! Listings of messages in another order than that in which they were received.
//!
//! There is no index by size or by time of the next attempt: each would cost every message that waits. So one call looks at a window of
//! at most 20,000 messages in order of reception, and orders what it finds there; pages go on in that window, then in the next one. Where
//! filters (a queue, a time) leave no more than one window, the order is that of all.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Queue;
use super::operate::{ActionError, MessageFilter};
use super::operations::{MAX_ROWS, PAGE, begin_of, is_behind, matches};
use crate::model::mail::{Message, MessageId};
use crate::model::queue_name::QueueName;
use crate::store::PageKey;

/// The order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// The largest first.
    Size,
    /// Those first that are tried next; last those that are not tried (held, dead letters).
    NextRetry,
}

impl Sort {
    fn key(self, message: &Message) -> i64 {
        match self {
            Sort::Size => -i64::try_from(message.size).unwrap_or(i64::MAX),
            Sort::NextRetry => {
                let tried = |queue: &QueueName| !matches!(queue, QueueName::DeadLetter | QueueName::Held);
                let waiting = message.waiting().into_iter().filter(|(queue, _)| tried(queue) && !message.frozen);
                waiting.map(|(_, due)| due.millis()).min().unwrap_or(i64::MAX)
            }
        }
    }
}

/// Where such a listing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The window begins behind this row.
    pub window: Option<PageKey>,
    /// In the window, behind this one: its place in the order, and its id.
    pub last: Option<(i64, MessageId)>,
}

/// A page of such a listing.
#[derive(Debug, Default)]
pub struct SortedPage {
    /// The messages.
    pub items: Vec<Arc<Message>>,
    /// Where it goes on; `None` at the end.
    pub next: Option<Place>,
    /// Rows looked at for this page.
    pub scanned: u64,
}

/// A message of which the heap knows the order.
struct Candidate(i64, Arc<Message>);

impl Candidate {
    fn place(&self) -> (i64, MessageId) {
        (self.0, self.1.id)
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl Queue {
    /// One page in this order. Keeps no more messages in memory than the page has.
    pub(super) async fn sorted(
        &self,
        filter: &MessageFilter,
        sort: Sort,
        from: Place,
        limit: usize,
    ) -> Result<SortedPage, ActionError> {
        let (now, snapshot) = (self.now(), self.live.current());
        let mut at = from.window.max(begin_of(filter));
        let (mut heap, mut more) = (BinaryHeap::with_capacity(limit + 1), false);
        let mut page = SortedPage::default();
        let mut ended = false;
        'window: while page.scanned < MAX_ROWS {
            let rows = self.store.page(filter.queue.as_ref(), at, PAGE).await?;
            let last = rows.len() < PAGE;
            for (key, message) in rows {
                if is_behind(filter, &key) {
                    ended = true;
                    break 'window;
                }
                page.scanned += 1;
                at = Some(key);
                let candidate = Candidate(sort.key(&message), message);
                let before = from.last.is_some_and(|last| candidate.place() <= last);
                if before || !matches(filter, &candidate.1, &snapshot, now) {
                    continue;
                }
                heap.push(candidate);
                if heap.len() > limit {
                    heap.pop();
                    more = true;
                }
            }
            if last {
                ended = true;
                break;
            }
        }
        let found = heap.into_sorted_vec();
        page.next = match found.last() {
            Some(last) if more => Some(Place { window: from.window, last: Some(last.place()) }),
            _ if !ended => Some(Place { window: at, last: None }),
            _ => None,
        };
        page.items = found.into_iter().map(|candidate| candidate.1).collect();
        Ok(page)
    }
}
