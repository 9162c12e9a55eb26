//! OTLP in its JSON form (opentelemetry-proto 1, *OTLP/HTTP*): `ExportTraceServiceRequest`. Ids are hexadecimal, 64-bit numbers are
//! text.

use bytes::Bytes;
use serde_json::{Value, json};

use super::span::{Attribute, Link, Mark, Span};
use crate::model::time::Timestamp;
use crate::observe::redact::redacted;

/// Who sends.
pub(super) struct Resource<'a> {
    /// The name that the appliance gives itself.
    pub(super) host: Option<&'a str>,
}

/// The body of a request; with `redact` only the domains of addresses stay.
pub(super) fn request(resource: &Resource<'_>, spans: &[Span], redact: bool) -> Bytes {
    let version = env!("CARGO_PKG_VERSION");
    let mut about = vec![text("service.name", "bridgehead"), text("service.version", version)];
    if let Some(host) = resource.host {
        about.extend([text("service.instance.id", host), text("host.name", host)]);
    }
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": about},
        "scopeSpans": [{"scope": {"name": "bridgehead", "version": version}, "spans": spans}],
    }]});
    let body = body.to_string().into_bytes();
    Bytes::from(if redact { redacted(&body) } else { body })
}

fn span(span: &Span) -> Value {
    let mut value = json!({
        "traceId": trace_id(span.trace),
        "spanId": span_id(span.id),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": nanos(span.start, span.start_nanos),
        "endTimeUnixNano": nanos(span.end, 0),
        "attributes": attributes(&span.attributes),
        "events": span.marks.iter().map(mark).collect::<Vec<_>>(),
        "links": span.links.iter().map(link).collect::<Vec<_>>(),
        "status": {},
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = span_id(parent).into();
    }
    if let Some(error) = &span.error {
        value["status"] = json!({"code": 2, "message": error});
    }
    value
}

fn mark(mark: &Mark) -> Value {
    json!({"timeUnixNano": nanos(mark.at, 0), "name": mark.name, "attributes": attributes(&mark.attributes)})
}

fn link(link: &Link) -> Value {
    json!({
        "traceId": trace_id(link.trace), "spanId": span_id(link.span),
        "attributes": [text("bridgehead.relation", link.relation)],
    })
}

fn attributes(all: &[(&'static str, Attribute)]) -> Vec<Value> {
    let value = |attribute: &Attribute| match attribute {
        Attribute::Text(text) => json!({"stringValue": text}),
        Attribute::Number(number) => json!({"intValue": number.to_string()}),
        Attribute::Flag(flag) => json!({"boolValue": flag}),
        Attribute::Texts(texts) => {
            let values: Vec<Value> = texts.iter().map(|text| json!({"stringValue": text})).collect();
            json!({"arrayValue": {"values": values}})
        }
    };
    all.iter().map(|(key, attribute)| json!({"key": key, "value": value(attribute)})).collect()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn trace_id(id: u128) -> String {
    format!("{id:032x}")
}

fn span_id(id: u64) -> String {
    format!("{id:016x}")
}

/// Unix time in nanoseconds: that of the event, less this.
fn nanos(at: Timestamp, less: u64) -> String {
    (i128::from(at.millis()) * 1_000_000 - i128::from(less)).max(0).to_string()
}
