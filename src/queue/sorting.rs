//! Listings of messages in another order than that in which they were received.
//!
//! There is no index by size or by time of the next attempt: each would cost every message that waits. So one call looks at a window of
//! messages in order of reception, as many as any listing looks at (20,000, or fewer where that takes too long), and orders what it finds
//! there; pages go on in that window, then in the next one. Where filters (a queue, a time) leave no more than one window, the order is
//! that of all.

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
    /// Where it goes on in a window that was begun.
    pub within: Option<Within>,
}

/// Where it goes on in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within {
    /// The last row of the window.
    pub end: PageKey,
    /// Behind this one: its place in the order, and its id.
    pub last: (i64, MessageId),
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
        let (mut ended, began) = (false, self.clock.now());
        // a window that was begun ends where it ended
        let goes_on = |at: Option<PageKey>, scanned| match from.within {
            Some(within) => at < Some(within.end) && scanned < MAX_ROWS,
            None => self.may_look_on(scanned, began),
        };
        'window: while goes_on(at, page.scanned) {
            let rows = self.store.page(filter.queue.as_ref(), at, PAGE).await?;
            let last = rows.len() < PAGE;
            for (key, message) in rows {
                if from.within.is_some_and(|within| key > within.end) {
                    break 'window;
                }
                if is_behind(filter, &key) {
                    ended = true;
                    break 'window;
                }
                page.scanned += 1;
                at = Some(key);
                let candidate = Candidate(sort.key(&message), message);
                let before = from.within.is_some_and(|within| candidate.place() <= within.last);
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
            Some(last) if more => {
                let within = at.map(|end| Within { end, last: last.place() });
                Some(Place { window: from.window, within })
            }
            _ if !ended => Some(Place { window: at, within: None }),
            _ => None,
        };
        page.items = found.into_iter().map(|candidate| candidate.1).collect();
        Ok(page)
    }
}
