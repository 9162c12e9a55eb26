//! `event-sinks`: URLs that are told what happens to mail.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::duration::Duration;
use crate::model::event_kind::EventKind;
use crate::model::http_url::HttpUrl;
use crate::model::name::Name;
use crate::model::secret::Secret;

/// A URL that events are posted to, in batches and in order, signed. An answer 2xx takes a batch; anything else (also 4xx, a
/// redirect, silence) is tried again, later and later, as long as message tracking keeps the events: at least once, so look at
/// the `id` of an event. Begins with what happens from its creation on. Nothing is sent to link-local and metadata addresses.
///
/// The body is `{sink, delivery, gap, events[]}`, events as in `GET /tracking`; `gap` is true when events before these are no
/// longer kept. Each request has `Bridgehead-Delivery`, which stays the same when it is tried again, and
/// `Bridgehead-Signature: t=<Unix time>,v1=<hex>`: HMAC-SHA-256 with `secret` over `<t>.<body>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = EventSinkSpec, example = json!({"url": "https://app.example.com/events", "events": ["relayed", "failed"], "secret": {"env": "BRIDGEHEAD_SECRET_EVENTS"}}))]
pub struct EventSinkSpec {
    /// Whether it is told. What happens meanwhile is told when it is enabled again.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
    /// Where to post.
    pub url: HttpUrl,
    /// The events that are told; empty: all.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub events: Vec<EventKind>,
    /// Only events of mail that these virtual servers took; empty: any.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub virtual_servers: Vec<Name>,
    /// Only events of these connectors; empty: any.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub connectors: Vec<Name>,
    /// The key that requests are signed with.
    pub secret: Secret,
    /// How long an answer may take. At least 1s.
    #[serde(default = "ten_seconds")]
    #[schema(default = "10s")]
    pub timeout: Duration,
    /// Most events in a request.
    #[serde(default = "a_hundred")]
    #[schema(minimum = 1, maximum = 1_000, default = 100)]
    pub max_batch: u32,
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn a_hundred() -> u32 {
    100
}
