//! What the house tells about itself: the names of metrics. Those of message tracking events are
//! `model::event_kind`'s, as configuration names them too.
//!
//! Names only, and counters that anybody may raise; where logs go is `boot`'s business. Labels are bounded: queues,
//! recipient domains and addresses are never labels.

pub mod metrics;
