//! One request to a sink: a batch of events as JSON, signed.

use reqwest::header::CONTENT_TYPE;

use super::EventSinks;
use crate::config::EventSink;
use crate::net::http::{causes, first_words};
use crate::net::signature::Signature;
use crate::store::history::Position;

/// What came of a request.
pub(super) struct Answered {
    /// The id of the batch.
    pub(super) delivery: String,
    pub(super) http_status: Option<u16>,
    /// Taken, or why not.
    pub(super) result: Result<(), String>,
}

/// Posts a batch.
pub(super) async fn batch(
    sinks: &EventSinks,
    config: &EventSink,
    events: &[(Position, Vec<u8>)],
    gap: bool,
) -> Answered {
    let at = |event: Option<&(Position, Vec<u8>)>| event.map(|(position, _)| *position).unwrap_or_default();
    let delivery = format!("{}_{}", at(events.first()), at(events.last()));
    let body = body(config, &delivery, events, gap);
    let (http_status, result) = match send(sinks, config, &delivery, body).await {
        Ok(status) => (Some(status), Ok(())),
        Err((status, why)) => (status, Err(why)),
    };
    Answered { delivery, http_status, result }
}

fn body(config: &EventSink, delivery: &str, events: &[(Position, Vec<u8>)], gap: bool) -> Vec<u8> {
    let octets: usize = events.iter().map(|(_, event)| event.len() + 40).sum();
    let mut body = Vec::with_capacity(octets + 200);
    let head = format!("{{\"sink\":\"{}\",\"delivery\":\"{delivery}\",\"gap\":{gap},\"events\":[", config.name);
    body.extend_from_slice(head.as_bytes());
    for (index, (position, event)) in events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&crate::queue::history::with_id(*position, event));
    }
    body.extend_from_slice(b"]}");
    body
}

async fn send(
    sinks: &EventSinks,
    config: &EventSink,
    delivery: &str,
    body: Vec<u8>,
) -> Result<u16, (Option<u16>, String)> {
    let secret = config.secret.as_ref().map_err(|why| (None, format!("there is no secret to sign with: {why}")))?;
    let client = sinks.http.client().await;
    let client = client.map_err(|error| (None, format!("no request can be made: {}", causes(&error))))?;
    let mut signature = Signature::begin(secret.reveal().as_bytes(), sinks.clock.unix_millis() / 1_000);
    signature.update(&body);
    let request = client
        .post(config.spec.url.url().clone())
        .timeout(config.spec.timeout.std())
        .header(CONTENT_TYPE, "application/json")
        .header("Bridgehead-Delivery", delivery)
        .header("Bridgehead-Signature", signature.header())
        .body(body);
    let origin = config.spec.url.origin();
    match request.send().await {
        Ok(answer) => {
            let code = answer.status().as_u16();
            let said = first_words(answer).await;
            if (200..300).contains(&code) {
                return Ok(code);
            }
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            Err((Some(code), format!("{origin} answered {code}{said}")))
        }
        Err(error) if error.is_timeout() => Err((None, format!("{origin} did not answer in time"))),
        Err(error) => Err((None, format!("no answer from {origin}: {}", causes(&error)))),
    }
}
