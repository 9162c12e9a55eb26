//! How a message of a request is taken: who it is that submits, the key of the request, the envelope, the content, and what a refusal
//! means to the caller. The way into the house itself is `intake::submit`'s.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpMessage, HttpRequest, web};
use sha2::{Digest, Sha256};

use super::shapes::{BatchItem, RefusedRecipient, SubmitParams, SubmittedMessage};
use super::{BESIDE, CHUNK, HEAVY, JSON, KEY, MAX_KEY, RFC822, TRACEPARENT};
use crate::api::auth::{self, Principal};
use crate::api::body;
use crate::api::client;
use crate::api::codes::{ErrorCode, RequestCode};
use crate::api::large_body::{Chunks, announced, too_large};
use crate::api::letter::{self, Envelope, Judged, MessageSubmission, Wrong};
use crate::api::problem::{FieldError, Problem, ProblemKind};
use crate::api::queues::store_problem;
use crate::api::server::{RequestId, State};
use crate::config::{ViolationCode, VirtualServer};
use crate::intake::compose::compose;
use crate::intake::raw::{Head, RawError, Read, Reader};
use crate::intake::submit::{Claim, Claimed, NotTaken, Submission, Submitting, Taken};
use crate::intake::{RECIPIENTS_PER_MESSAGE, Refusal, Requested, Submitter};
use crate::model::mail::Idempotency;
use crate::model::name::Name;
use crate::model::spec::account::AccountQuotas;
use crate::model::trace_parent::TraceParent;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::parameters::{Body, RcptParameters};
use crate::store::Seen;

/// Who submits.
pub(super) struct Caller {
    by: Arc<Submitter>,
    client: IpAddr,
    encrypted: bool,
    requested: Requested,
}

impl Caller {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let by = auth::caller(request).as_ref().map(submitter);
        Caller {
            by: Arc::new(by.unwrap_or(Submitter {
                api_key: String::new(),
                send_as: Some(Vec::new()),
                quotas: AccountQuotas::default(),
            })),
            // by the socket on this machine there is no address
            client: client::of(request).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            encrypted: request.app_config().secure(),
            requested: Requested {
                id: request.extensions().get::<RequestId>().map(|id| id.0.clone()),
                trace: trace_of(request),
            },
        }
    }

    /// What a request of this caller is known by.
    fn known_by(&self, key: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.by.api_key.as_bytes());
        hash.update([0]);
        hash.update(key.as_bytes());
        hash.finalize().into()
    }
}

/// Where the request is in a trace. One that cannot be read counts as not given (W3C Trace Context, 3.2.2.5), as do several.
fn trace_of(request: &HttpRequest) -> Option<TraceParent> {
    let mut given = request.headers().get_all(TRACEPARENT);
    let one = given.next().filter(|_| given.next().is_none())?;
    one.to_str().ok()?.trim().parse().ok()
}

/// What the holder of a key may send. The one place where a key's sender rules come in.
fn submitter(principal: &Principal) -> Submitter {
    Submitter { api_key: principal.name.clone(), send_as: principal.send_as.clone(), quotas: principal.quotas.clone() }
}

/// What came of a message that was taken.
pub(super) struct Answer {
    pub(super) submitted: SubmittedMessage,
    pub(super) replayed: bool,
}

/// Takes one message in JSON. `prefix`: where it stands in the body.
pub(super) async fn one(
    state: &State,
    caller: &Caller,
    asked: MessageSubmission,
    partial: bool,
    key: Option<&str>,
    prefix: &'static str,
) -> Result<Answer, Problem> {
    let submit = &state.handles.submit;
    let claim = match key {
        None => None,
        Some(key) => {
            let request = request_hash(&asked, partial);
            let idempotency = Idempotency { key: caller.known_by(key), request };
            match claimed(state, idempotency).await? {
                Ok(claim) => Some((claim, idempotency)),
                Err(seen) => return replay(seen, &request),
            }
        }
    };
    let server = server(state, asked.virtual_server.as_deref(), |detail| {
        FieldError::at(format!("{prefix}/virtualServer"), ViolationCode::UnknownReference, detail)
    })?;
    let now = submit.now();
    let judging = server.clone();
    let judged = apart(asked.weight(), move || {
        let mut wrong = Wrong::new(prefix);
        asked.judge(&judging, now, &mut wrong).ok_or(wrong.errors)
    });
    let Judged { letter, message_id, envelope } = judged.await?.map_err(|wrong| {
        let count = wrong.len();
        let detail = format!("{count} {} wrong; nothing was sent", if count == 1 { "thing is" } else { "things are" });
        Problem::new(ProblemKind::Invalid, detail).with_errors(wrong)
    })?;
    let authors = envelope.author_places.clone();
    let places = Places { recipients: envelope.places.clone(), authors, sender: format!("{prefix}/from") };
    let paths: Vec<String> = envelope.recipients.iter().map(|(path, _)| path.to_string()).collect();
    let mut under_way = begin(state, caller, &server, envelope, partial, &places).await?;
    let message_id = message_id.unwrap_or_else(|| format!("{}@{}", under_way.id(), server.fqdn.as_str()));
    let composing = message_id.clone();
    let content = apart(letter.weight(), move || compose(letter, &composing, now)).await?;
    let mut content = content.map_err(|error| Problem::internal(&error))?;
    while !content.is_empty() {
        let chunk = content.split_to(content.len().min(CHUNK));
        under_way.content(chunk).await.map_err(|error| problem(error, &places))?;
    }
    let refused = refused(&*under_way, &paths);
    let taken = under_way.commit(Body::SevenBit, claim).await.map_err(|error| problem(error, &places))?;
    Ok(Answer { submitted: SubmittedMessage::new(taken, refused), replayed: false })
}

/// Takes a message as it comes.
pub(super) async fn raw(
    request: &HttpRequest,
    payload: web::Payload,
    params: SubmitParams,
    state: &State,
    caller: &Caller,
    key: Option<&str>,
) -> Result<Answer, Problem> {
    let server = server(state, params.virtual_server.as_deref(), |detail| {
        FieldError::parameter("virtualServer", ViolationCode::UnknownReference, detail)
    });
    // what was taken once is told again, whatever has become of the server
    let most = server.as_ref().map_or(u64::MAX, |server| server.spec.messages.max_size.bytes());
    if announced(request).is_some_and(|size| size > most) {
        return Err(too_large(most));
    }
    let claim = match key {
        None => None,
        Some(key) => Some((claimed_raw(state, caller.known_by(key)).await?, caller.known_by(key))),
    };
    let mut hash = Sha256::new();
    hash.update(RFC822);
    // the same parameters in another order are the same request
    let mut parameters: Vec<&str> = request.query_string().split('&').collect();
    parameters.sort_unstable();
    hash.update(parameters.join("&").as_bytes());
    hash.update([0]);
    let mut chunks = Chunks::new(payload, announced(request).unwrap_or(most.min(1 << 30)));
    let claim = match claim {
        Some((Claimed::Seen(seen), _)) => {
            let mut left = seen_limit(most);
            while let Some(chunk) = chunks.next().await? {
                left = left.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(most))?;
                hash.update(&chunk);
            }
            return replay(seen, &hash.finalize().into());
        }
        Some((Claimed::First(claim), key)) => Some((claim, key)),
        None => None,
    };
    let server = server?;
    let mut reader = Reader::default();
    let mut way: Option<Way> = None;
    while let Some(chunk) = chunks.next().await? {
        hash.update(&chunk);
        let read = reader.feed(&chunk).map_err(|error| raw_problem(&error))?;
        pass(&mut way, read, &params, state, caller, &server).await?;
    }
    let read = reader.finish().map_err(|error| raw_problem(&error))?;
    pass(&mut way, read, &params, state, caller, &server).await?;
    let Some(Way { under_way, places, paths }) = way else { return Err(raw_problem(&RawError::NoFrom)) };
    let refused = refused(&*under_way, &paths);
    let request = hash.finalize().into();
    let claim = claim.map(|(claim, key)| (claim, Idempotency { key, request }));
    let taken = under_way.commit(reader.body(), claim).await.map_err(|error| problem(error, &places))?;
    Ok(Answer { submitted: SubmittedMessage::new(taken, refused), replayed: false })
}

/// A message whose envelope was taken.
struct Way {
    under_way: Box<dyn Submitting>,
    places: Places,
    paths: Vec<String>,
}

/// Passes on what was read: with the head the message begins.
async fn pass(
    way: &mut Option<Way>,
    read: Vec<Read>,
    params: &SubmitParams,
    state: &State,
    caller: &Caller,
    server: &Arc<VirtualServer>,
) -> Result<(), Problem> {
    for piece in read {
        let text = match piece {
            Read::Text(text) => text,
            Read::Head(head) => {
                let now = state.handles.submit.now();
                let envelope = envelope(&head, params, server, now)?;
                let places = Places { recipients: envelope.places.clone(), ..Places::default() };
                let paths = envelope.recipients.iter().map(|(path, _)| path.to_string()).collect();
                let under_way = begin(state, caller, server, envelope, params.partial, &places).await?;
                let text = head.complete(under_way.id(), server.fqdn.as_str(), now);
                *way = Some(Way { under_way, places, paths });
                text
            }
        };
        if let Some(Way { under_way, places, .. }) = way.as_mut() {
            under_way.content(text).await.map_err(|error| problem(error, places))?;
        }
    }
    Ok(())
}

/// The envelope of a message that comes as it is: of the parameters, else of its header.
fn envelope(
    head: &Head,
    params: &SubmitParams,
    server: &VirtualServer,
    now: crate::model::time::Timestamp,
) -> Result<Envelope, Problem> {
    let mut wrong = Vec::new();
    let parameters = letter::parameters(
        params.send_at.as_deref(),
        params.priority,
        Some(&params.dsn),
        now,
        &mut |place, code, detail| {
            let name = place.rsplit('/').next().unwrap_or_default();
            wrong.push(FieldError::parameter(name, code, detail));
        },
    );
    let parameters_of = RcptParameters { notify: letter::notify(Some(&params.dsn)), orcpt: None };
    let sender = head.senders.first().or(head.from.first()).cloned().map(ReversePath::Mailbox);
    let mut envelope = Envelope {
        reverse_path: params.from.clone().or(sender),
        authors: head.from.iter().chain(&head.senders).cloned().collect(),
        parameters,
        ..Envelope::default()
    };
    let most = server.spec.messages.max_recipients as usize;
    match &params.to {
        None => {
            for mailbox in head.recipients.iter().take(most + 1) {
                envelope.recipients.push((ForwardPath::Mailbox(mailbox.clone()), parameters_of.clone()));
                envelope.places.push(String::new());
            }
        }
        Some(list) => {
            for one in list.split(',').take(most + 1) {
                match one.trim().parse::<ForwardPath>() {
                    Ok(path) => envelope.recipients.push((path, parameters_of.clone())),
                    Err(error) if wrong.len() < 100 => {
                        let detail = format!("{}: {error}", one.escape_debug().take(300).collect::<String>());
                        wrong.push(FieldError::parameter("to", RequestCode::InvalidParameter, detail));
                    }
                    Err(_) => {}
                }
                envelope.places.push("to".to_owned());
            }
        }
    }
    if envelope.recipients.is_empty() && wrong.is_empty() {
        wrong.push(FieldError::parameter("to", ViolationCode::Required, "at least one recipient is needed"));
    }
    if envelope.places.len() > most {
        let detail = format!("a message has at most {most} recipients here; send the others in another message");
        wrong.push(FieldError::parameter("to", ViolationCode::OutOfRange, detail));
    }
    envelope.complete();
    if wrong.is_empty() {
        return Ok(envelope);
    }
    Err(Problem::new(ProblemKind::Invalid, "the message is not valid; nothing was sent").with_errors(wrong))
}

/// Where in the request what stands; nothing is said of what stands in a message that comes as it is.
#[derive(Default)]
struct Places {
    recipients: Vec<String>,
    authors: Vec<String>,
    sender: String,
}

async fn begin(
    state: &State,
    caller: &Caller,
    server: &Arc<VirtualServer>,
    envelope: Envelope,
    partial: bool,
    places: &Places,
) -> Result<Box<dyn Submitting>, Problem> {
    let Envelope { reverse_path, authors, parameters, recipients, .. } = envelope;
    let submission = Submission {
        server: server.clone(),
        client: caller.client,
        encrypted: caller.encrypted,
        request: caller.requested.clone(),
        by: caller.by.clone(),
        reverse_path: reverse_path.unwrap_or(ReversePath::Null),
        authors,
        parameters,
        recipients,
        partial,
    };
    state.handles.submit.begin(submission).await.map_err(|error| problem(error, places))
}

fn refused(under_way: &dyn Submitting, paths: &[String]) -> Vec<RefusedRecipient> {
    let refused = under_way.refused().iter().filter_map(|(place, refusal)| {
        let address = paths.get(*place)?.clone();
        Some(RefusedRecipient { address, rule: refusal.rule.to_owned(), reply: refusal.reply.to_string() })
    });
    refused.collect()
}

/// The virtual server that is asked for.
fn server(
    state: &State,
    wanted: Option<&str>,
    unknown: impl Fn(String) -> FieldError,
) -> Result<Arc<VirtualServer>, Problem> {
    let none = |name: &str| {
        let wrong = unknown(format!("there is no virtual server {name:?}"));
        Problem::new(ProblemKind::Invalid, "the request is not valid").with_errors(vec![wrong])
    };
    let name = wanted.map(|name| name.parse::<Name>().map_err(|_| none(name))).transpose()?;
    state.handles.submit.server(name.as_ref()).map_err(|error| match error {
        NotTaken::UnknownServer => none(wanted.unwrap_or("")),
        error => problem(error, &Places::default()),
    })
}

/// Reserves the key of a request, or says what it has brought.
async fn claimed(state: &State, idempotency: Idempotency) -> Result<Result<Claim, Seen>, Problem> {
    Ok(match claimed_raw(state, idempotency.key).await? {
        Claimed::First(claim) => Ok(claim),
        Claimed::Seen(seen) => Err(seen),
    })
}

async fn claimed_raw(state: &State, key: [u8; 32]) -> Result<Claimed, Problem> {
    state.handles.submit.claim(key).await.map_err(|error| problem(error, &Places::default()))
}

/// The answer to a request that was answered before.
fn replay(seen: Seen, request: &[u8; 32]) -> Result<Answer, Problem> {
    if seen.request != *request {
        let detail = "this key has brought another message in the last 24 hours; a new message needs a new key";
        let wrong = FieldError::parameter("Idempotency-Key", RequestCode::IdempotencyConflict, detail);
        return Err(Problem::new(ProblemKind::Conflict, detail).with_errors(vec![wrong]));
    }
    let taken = Taken { id: seen.id, at: seen.at, receipt: seen.receipt };
    Ok(Answer { submitted: SubmittedMessage::new(taken, Vec::new()), replayed: true })
}

/// SHA-256 of what is asked for: the same whatever the order of members and the white space between them.
fn request_hash(asked: &MessageSubmission, partial: bool) -> [u8; 32] {
    struct Into<'a>(&'a mut Sha256);

    impl std::io::Write for Into<'_> {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.update(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut hash = Sha256::new();
    hash.update(JSON);
    hash.update([u8::from(partial)]);
    // a hash takes whatever comes
    let _ = serde_json::to_writer(Into(&mut hash), asked);
    hash.finalize().into()
}

/// How long what is read for a repeated request may be.
fn seen_limit(most: u64) -> u64 {
    most.min(1 << 30)
}

/// The largest body in JSON: the base64 of the largest message that any virtual server takes, and something beside.
pub(super) fn json_limit(state: &State) -> usize {
    let snapshot = state.handles.configuration.live().current();
    let largest = snapshot.virtual_servers.values().map(|server| server.spec.messages.max_size.bytes()).max();
    usize::try_from(largest.unwrap_or_default() / 3 * 4 + BESIDE).unwrap_or(usize::MAX)
}

/// The body, read straight into its type.
pub(super) fn parse<T: serde::de::DeserializeOwned>(octets: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(octets);
    let read = serde_path_to_error::deserialize::<_, T>(&mut json);
    let read = match read {
        Ok(value) => json.end().map(|()| value).map_err(|error| (String::new(), error)),
        Err(error) => Err((body::pointer(error.path()), error.into_inner())),
    };
    read.map_err(|(pointer, error)| {
        let words = error.to_string();
        let place = format!("line {}, column {}", error.line(), error.column());
        if words.starts_with("duplicate field") {
            let wrong = FieldError::at(pointer, RequestCode::RepeatedField, words);
            return Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON at {place}"))
                .with_errors(vec![wrong]);
        }
        if !error.is_data() {
            let wrong = FieldError::at("", RequestCode::Malformed, words);
            return Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON at {place}"))
                .with_errors(vec![wrong]);
        }
        let wrong = body::unfit(pointer, words);
        Problem::new(ProblemKind::Invalid, "the request is not valid; nothing was sent").with_errors(vec![wrong])
    })
}

/// Does heavy work where it holds nobody up.
pub(super) async fn apart<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if size < HEAVY {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
}

/// The key of a request.
pub(super) fn key_of(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut given = request.headers().get_all(KEY);
    let Some(key) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(bad_key("it is given more than once"));
    }
    let key = key.to_str().ok().filter(|key| is_key(key));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| bad_key("1 to 255 printable ASCII characters"))
}

pub(super) fn is_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|octet| (b' '..=b'~').contains(&octet))
}

pub(super) fn bad_key(detail: &str) -> Problem {
    let wrong = FieldError::parameter("Idempotency-Key", RequestCode::InvalidParameter, detail);
    Problem::new(ProblemKind::BadParameter, "wrong parameters: Idempotency-Key").with_errors(vec![wrong])
}

fn raw_problem(error: &RawError) -> Problem {
    let code = match error {
        RawError::Nul => RequestCode::ControlCharacter.into(),
        RawError::NoFrom => ViolationCode::Required.into(),
        RawError::HeaderTooLong | RawError::LongLine => ViolationCode::OutOfRange.into(),
        RawError::Repeated(_) => ViolationCode::Duplicate.into(),
        RawError::NoField(_) | RawError::Address { .. } => ErrorCode::from(ViolationCode::InvalidValue),
    };
    let wrong = FieldError::at("", code, error.to_string());
    Problem::new(ProblemKind::Invalid, "the message is not valid; nothing was sent").with_errors(vec![wrong])
}

/// What it means to the caller that a message is not taken.
fn problem(error: NotTaken, places: &Places) -> Problem {
    match error {
        NotTaken::UnknownServer => Problem::new(ProblemKind::Invalid, error.to_string()),
        NotTaken::NotNow(why) => Problem::new(ProblemKind::Unavailable, why).with_header(header::RETRY_AFTER, "30"),
        NotTaken::TooLarge(most) => {
            Problem::new(ProblemKind::TooLarge, format!("a message has at most {most} bytes on this virtual server"))
        }
        NotTaken::TooManyKeys => {
            Problem::new(ProblemKind::Unavailable, error.to_string()).with_header(header::RETRY_AFTER, "3600")
        }
        NotTaken::Busy => {
            let wrong = FieldError::parameter("Idempotency-Key", RequestCode::IdempotencyConflict, error.to_string());
            let problem = Problem::new(ProblemKind::Conflict, error.to_string()).with_errors(vec![wrong]);
            problem.with_header(header::RETRY_AFTER, "5")
        }
        NotTaken::Store(error) => store_problem(&error),
        NotTaken::Refused(refusal) => refusal_problem(vec![(places.sender.clone(), refusal)]),
        NotTaken::Author(place, refusal) => {
            refusal_problem(vec![(places.authors.get(place).cloned().unwrap_or_default(), refusal)])
        }
        NotTaken::Recipients(refused) => {
            let place = |place: usize| places.recipients.get(place).cloned().unwrap_or_default();
            refusal_problem(refused.into_iter().map(|(n, refusal)| (place(n), refusal)).collect())
        }
    }
}

/// Refusals of the rules: for now when each is, else for good. In whatever order they come, they mean the same.
fn refusal_problem(refused: Vec<(String, Refusal)>) -> Problem {
    // by SMTP a client sends the rest in another transaction (452); a request that is repeated never gets through
    let passes = |refusal: &Refusal| refusal.reply.code < 500 && refusal.rule != RECIPIENTS_PER_MESSAGE;
    let for_now = refused.iter().all(|(_, refusal)| passes(refusal));
    let some = |rule: &str, code: u16| refused.iter().any(|(_, one)| one.rule == rule && one.reply.code == code);
    let kind = match for_now {
        false => ProblemKind::Invalid,
        true if some("reserve", 452) => ProblemKind::InsufficientStorage,
        true if some("quotas", 452) => ProblemKind::TooManyRequests,
        true => ProblemKind::Unavailable,
    };
    let count = refused.len();
    let known = refused.iter().filter_map(|(_, refusal)| refusal.retry_after).max();
    let detail = match (&refused.as_slice(), kind) {
        ([(_, one)], _) => format!("{}; nothing was sent", one.reply),
        (_, _) => format!("{count} recipients are refused; nothing was sent"),
    };
    let wrong = refused.into_iter().take(1_000).map(|(place, refusal)| {
        let Refusal { reply, rule, .. } = refusal;
        let detail = format!("{reply} ({rule})");
        match place.as_str() {
            "to" => FieldError::parameter(place, RequestCode::Refused, detail),
            _ => FieldError::at(place, RequestCode::Refused, detail),
        }
    });
    let problem = Problem::new(kind, detail).with_errors(wrong.collect());
    match known.filter(|_| for_now) {
        // whole seconds, and not one too early
        Some(wait) => problem.with_header(header::RETRY_AFTER, (wait.as_secs() + 1).to_string()),
        None => problem,
    }
}

impl From<Result<Answer, Problem>> for BatchItem {
    fn from(result: Result<Answer, Problem>) -> Self {
        match result {
            Ok(Answer { submitted, replayed }) => {
                let status = StatusCode::ACCEPTED.as_u16();
                BatchItem { status, message: Some(submitted), replayed, retry_after: None, problem: None }
            }
            Err(problem) => {
                let (status, retry_after) = (problem.status(), problem.retry_after());
                BatchItem { status, message: None, replayed: false, retry_after, problem: Some(problem) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::{EnhancedStatus, Reply};

    #[test]
    fn refusals_mean_the_same_in_whatever_order_they_come() {
        let of = |rule, code| {
            let status = match code {
                500.. => EnhancedStatus::permanent(1, 1),
                _ => EnhancedStatus::transient(3, 1),
            };
            ("/to/0".to_owned(), Refusal::new(rule, Reply::new(code, status, "x"), ""))
        };
        for (refused, expected) in [
            (vec![("quotas", 452)], 429),
            (vec![("quotas", 452), ("verifyRecipients", 451)], 429),
            (vec![("quotas", 452), ("reserve", 452), ("reserve", 451)], 507),
            (vec![("verifyRecipients", 451), ("reserve", 451)], 503),
            (vec![(RECIPIENTS_PER_MESSAGE, 452)], 422),
            (vec![(RECIPIENTS_PER_MESSAGE, 452), ("quotas", 452)], 422),
            (vec![("unknownRecipient", 550), ("quotas", 452)], 422),
        ] {
            let all: Vec<_> = refused.iter().map(|(rule, code)| of(rule, *code)).collect();
            let back = all.iter().rev().cloned().collect();
            for refused in [all, back] {
                assert_eq!(refusal_problem(refused).status(), expected);
            }
        }
    }
}
