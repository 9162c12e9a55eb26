//! Webhook stores: each message is posted to a URL, for all its recipients in the store at once, signed.
//!
//! `raw` posts the content as it is, streamed from the spool: it is read once to sign it and once to send it, so that memory
//! does not grow with it. The envelope stands in a header, which is signed too; headers have limits with most servers, so that
//! many recipients come in several requests, each with an answer of its own. `json` posts the message taken apart
//! ([`super::parsed`]).
//!
//! What an answer means is [`Failure::of_http`]'s to say. Whoever did not get our request as a whole has not delivered; whoever
//! got it and whose answer was lost may get it again, with the same `Bridgehead-Delivery`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use tokio::sync::SemaphorePermit;

use super::Local;
use super::content::{Content, unreadable};
use super::parsed::{self, Envelope, Frame};
use crate::config::MailboxStore;
use crate::model::failure::{Failure, Scope};
use crate::model::spec::mailbox_store::{WebhookFormat, WebhookStore};
use crate::net::http::{causes, first_words};
use crate::net::signature::Signature;
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// Longest list of recipients in a header, in octets.
const MOST_IN_HEADER: usize = 4 << 10;
/// The slowest way to send a request: so many octets a second, on top of the time for the answer.
const SLOWEST: u64 = 64 << 10;

/// Posts the message for these recipients.
pub(super) async fn deliver(
    local: &Local,
    store: &MailboxStore,
    hook: &WebhookStore,
    leased: &Leased,
    here: &[u32],
) -> Vec<Result<(), Failure>> {
    let post = Post { local, store, hook, leased };
    let groups = match hook.format {
        WebhookFormat::Raw => post.groups(here),
        WebhookFormat::Json => vec![here],
    };
    let mut done = Vec::with_capacity(here.len());
    for group in groups {
        let result = post.group(group).await;
        done.extend(group.iter().map(|_| result.clone()));
    }
    done
}

/// A request in the making.
struct Post<'a> {
    local: &'a Local,
    store: &'a MailboxStore,
    hook: &'a WebhookStore,
    leased: &'a Leased,
}

/// Body and signature of a request.
struct Signed<'a> {
    envelope: Option<String>,
    signature: String,
    body: reqwest::Body,
    length: u64,
    /// The content could not be read while it was sent.
    broke: Arc<AtomicBool>,
    /// The share of memory that the body takes.
    _permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Post<'a> {
    /// Recipients that share a request.
    fn groups<'i>(&self, here: &'i [u32]) -> Vec<&'i [u32]> {
        let mut groups = Vec::new();
        let (mut from, mut octets) = (0, 0);
        for (at, index) in here.iter().enumerate() {
            // six octets for a character that JSON escapes
            let length = self.path(*index).chars().map(|c| if c.is_ascii() { 1 } else { 12 }).sum::<usize>() + 3;
            if octets + length > MOST_IN_HEADER && at > from {
                groups.push(&here[from..at]);
                (from, octets) = (at, 0);
            }
            octets += length;
        }
        groups.push(&here[from..]);
        groups
    }

    fn path(&self, index: u32) -> String {
        let recipient = self.leased.message.recipients.get(index as usize);
        recipient.map_or_else(String::new, |recipient| recipient.forward_path.to_string())
    }

    async fn group(&self, group: &[u32]) -> Result<(), Failure> {
        let message = &self.leased.message;
        let secret = match &self.store.secret {
            Some(Ok(secret)) => secret,
            unresolved => {
                let why = unresolved.as_ref().and_then(|secret| secret.as_ref().err());
                let why = why.map_or_else(|| "it is not set".to_owned(), ToString::to_string);
                let words = format!("there is no secret to sign with: {why}");
                return Err(Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words));
            }
        };
        let time = self.local.clock.unix_millis() / 1_000;
        let delivery = format!("{}-{}", message.id, group.first().copied().unwrap_or_default());
        let from = message.reverse_path.mailbox().map_or_else(String::new, |mailbox| mailbox.to_string());
        let envelope = Envelope { from, to: group.iter().map(|index| self.path(*index)).collect() };
        let signature = Signature::begin(secret.reveal().as_bytes(), time);
        let (signed, kind) = match self.hook.format {
            WebhookFormat::Raw => (self.raw(signature, &envelope).await?, "message/rfc822"),
            WebhookFormat::Json => (self.json(signature, envelope, &delivery).await?, "application/json"),
        };
        self.send(signed, kind, &delivery).await
    }

    /// As it is.
    async fn raw(&self, mut signature: Signature, envelope: &Envelope) -> Result<Signed<'a>, Failure> {
        let envelope = ascii(&serde_json::to_string(envelope).unwrap_or_default());
        signature.update(envelope.as_bytes());
        signature.update(b".");
        let mut length = 0;
        let mut reading = Content::of(&self.local.queue, self.leased).await?;
        while let Some(chunk) = reading.next().await.map_err(|error| unreadable(&error))? {
            length += chunk.len() as u64;
            signature.update(&chunk);
        }
        let sending = Content::of(&self.local.queue, self.leased).await?;
        let broke = Arc::new(AtomicBool::new(false));
        let stream = futures_util::stream::unfold((sending, broke.clone()), |(mut sending, broke)| async {
            match sending.next().await {
                Ok(chunk) => chunk.map(|chunk| (Ok::<Bytes, std::io::Error>(chunk), (sending, broke))),
                Err(error) => {
                    broke.store(true, Ordering::Release);
                    Some((Err(std::io::Error::other(error.to_string())), (sending, broke)))
                }
            }
        });
        let body = reqwest::Body::wrap_stream(stream);
        let signature = signature.header();
        Ok(Signed { envelope: Some(envelope), signature, body, length, broke, _permit: None })
    }

    /// Taken apart.
    async fn json(&self, mut signature: Signature, envelope: Envelope, delivery: &str) -> Result<Signed<'a>, Failure> {
        let message = &self.leased.message;
        if message.size > parsed::MOST {
            let words = format!("the message is larger than the {} MiB that can be taken apart", parsed::MOST >> 20);
            return Err(Failure::new(Scope::Message, EnhancedStatus::permanent(3, 4), words));
        }
        let share = u32::try_from(message.size >> 10).unwrap_or(parsed::BUDGET_KIB).min(parsed::BUDGET_KIB - 1) + 1;
        // never closed
        let permit = self.local.parsing.acquire_many(share).await.ok();
        let mut content = BytesMut::new();
        let mut reading = Content::of(&self.local.queue, self.leased).await?;
        while let Some(chunk) = reading.next().await.map_err(|error| unreadable(&error))? {
            content.extend_from_slice(&chunk);
        }
        let frame = Frame {
            id: message.id.to_string(),
            delivery: delivery.to_owned(),
            store: self.store.name.to_string(),
            received_at: message.received_at.to_string(),
            size: message.size,
            envelope,
        };
        let parsed = tokio::task::spawn_blocking(move || parsed::json(&frame, &content)).await;
        let body = parsed.map_err(|error| {
            let words = format!("the message could not be taken apart: {error}");
            Failure::new(Scope::Message, EnhancedStatus::transient(3, 0), words)
        })?;
        signature.update(&body);
        let length = body.len() as u64;
        let (signature, body) = (signature.header(), body.into());
        Ok(Signed { envelope: None, signature, body, length, broke: Arc::default(), _permit: permit })
    }

    async fn send(&self, signed: Signed<'_>, kind: &'static str, delivery: &str) -> Result<(), Failure> {
        let Signed { envelope, signature, body, length, broke, _permit } = signed;
        let client = self.local.http.client().await.map_err(|error| {
            let words = format!("no request can be made: {}", causes(&error));
            Failure::new(Scope::Host, EnhancedStatus::transient(3, 5), words)
        })?;
        let limit = self.hook.timeout.std() + Duration::from_secs(length / SLOWEST);
        let mut request = client
            .post(self.hook.url.url().clone())
            .timeout(limit)
            .header(CONTENT_TYPE, kind)
            .header(CONTENT_LENGTH, length)
            .header("Bridgehead-Delivery", delivery)
            .header("Bridgehead-Signature", signature);
        if let Some(envelope) = envelope.as_deref().map(HeaderValue::from_str) {
            request = request.header("Bridgehead-Envelope", envelope.unwrap_or(HeaderValue::from_static("{}")));
        }
        match request.body(body).send().await {
            Ok(answer) => {
                let code = answer.status().as_u16();
                Failure::of_http(code, &first_words(answer).await).map_or(Ok(()), Err)
            }
            Err(_) if broke.load(Ordering::Acquire) => {
                let words = "the content of the message could not be read from the store";
                Err(Failure::new(Scope::Message, EnhancedStatus::transient(3, 0), words))
            }
            Err(error) if error.is_connect() => {
                let words = format!("no connection to {}: {}", self.hook.url.origin(), causes(&error));
                Err(Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), words))
            }
            Err(error) if error.is_timeout() => {
                let words = format!("{} did not answer in time", self.hook.url.origin());
                Err(Failure::new(Scope::Host, EnhancedStatus::transient(4, 2), words))
            }
            Err(error) => {
                let words = format!("no answer from {}: {}", self.hook.url.origin(), causes(&error));
                Err(Failure::new(Scope::Host, EnhancedStatus::transient(4, 2), words))
            }
        }
    }
}

/// JSON in ASCII, for a header.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}
