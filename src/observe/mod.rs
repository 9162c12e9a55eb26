//! What the house tells about itself: the names of metrics, and what is left out of what it says. Those of message tracking events are
//! `model::event_kind`'s, as configuration names them too.
//!
//! Names only, and counters that anybody may raise; where logs go is `boot`'s business. Labels are bounded: queues,
//! recipient domains and addresses are never labels.

pub mod metrics;
pub mod redact;
