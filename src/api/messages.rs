//! `messages`: every message in the system, what happened to it, and what an operator does about it.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::audit::audited;
use super::codes::RequestCode;
use super::errors::{ActionErrors, ListErrors, ReadErrors, SteerErrors};
use super::mail::{self, MessageEvent, MessageEventList, MessageList, MessageResource};
use super::problem::{Problem, ProblemKind};
use super::query::{self, FromQuery, NoParams, Paging, Params, Query};
use super::queues::problem;
use super::resources::actor;
use super::server::State;
use super::steering::RerouteRequest;
use crate::model::duration::Duration;
use crate::model::mail::MessageId;
use crate::model::size::Size;
use crate::model::time::Timestamp;
use crate::queue::operate::{ActionError, MessageFilter, MessageState, StatusFilter};
use crate::queue::sorting::{Place, Sort, Within};
use crate::store::PageKey;
use crate::store::history::Position;

/// Which messages to list. All that is given must hold.
#[derive(Debug)]
pub struct MessageParams {
    paging: Paging,
    after: Option<PageKey>,
    sort: Option<Sort>,
    place: Place,
    filter: MessageFilter,
}

impl IntoParams for MessageParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let state = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([
            "queued",
            "frozen",
            "held",
            "deadLetter",
        ]));
        let status = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(StatusFilter::WORDS.iter().map(|(word, _)| *word)));
        let sort = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["receivedAt", "size", "nextRetry"]))
            .default(Some(json!("receivedAt")));
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend([
            query::parameter("state", state, "The state of the message.", json!("frozen")),
            query::text("queue", "A recipient waits in this queue.", "dns:default:example.com"),
            query::text("connector", "A recipient waits in a queue of this connector.", "default"),
            query::text(
                "nextHop",
                "A recipient waits in a queue for this next hop: a domain, or a smart host with or without its port.",
                "mx.example.com",
            ),
            query::text("virtualServer", "The virtual server that took it.", "internet"),
            query::text("account", "The account that handed it in.", "app"),
            query::text("apiKey", "The API key by which it was submitted.", "shop"),
            query::sender(),
            query::recipient("One of the recipients"),
            query::text("messageId", "The Message-ID field, with or without angle brackets.", "1@example.net"),
            query::text(
                "subject",
                "Its Subject contains this, in whatever case; only of messages that came while `settings.subjectLogging` was on.",
                "invoice",
            ),
            query::parameter(
                "status",
                status,
                "One of the recipients is so: `pending` (no attempt has failed), `deferred` (it waits after one that failed), or as \
                 the message shows it.",
                json!("deferred"),
            ),
            query::text("since", "Received at or after this time (RFC 3339).", "2026-11-24T00:00:00Z"),
            query::text("until", "Received before this time (RFC 3339).", "2026-11-25T00:00:00Z"),
            query::text("olderThan", "Received longer ago than this.", "2h"),
            query::text("largerThan", "Larger than this.", "10MiB"),
            query::parameter(
                "sort",
                sort,
                "The order: the oldest, the largest, or the next to be tried first. By size and next retry the messages that one \
                 call looks at (up to 20,000, in order of reception) are ordered for themselves, then the next ones.",
                json!("size"),
            ),
        ]);
        parameters
    }
}

impl MessageParams {
    /// Which messages, without a page.
    pub(super) fn into_filter(self) -> MessageFilter {
        self.filter
    }
}

impl FromQuery for MessageParams {
    fn from_query(query: &mut Query) -> Self {
        let state = query.get::<String>("state").and_then(|word| match word.as_str() {
            "queued" => Some(MessageState::Queued),
            "frozen" => Some(MessageState::Frozen),
            "held" => Some(MessageState::Held),
            "deadLetter" => Some(MessageState::DeadLetter),
            _ => {
                query.refuse("state", RequestCode::InvalidParameter, "a state is queued, frozen, held or deadLetter");
                None
            }
        });
        let status = query.get::<String>("status").and_then(|word| {
            let found = StatusFilter::WORDS.iter().find(|(known, _)| *known == word);
            if found.is_none() {
                let words = StatusFilter::WORDS.map(|(word, _)| word).join(", ");
                query.refuse("status", RequestCode::InvalidParameter, format!("a status is one of {words}"));
            }
            found.map(|(_, status)| *status)
        });
        let sort = query.get::<String>("sort").and_then(|word| match word.as_str() {
            "receivedAt" => None,
            "size" => Some(Sort::Size),
            "nextRetry" => Some(Sort::NextRetry),
            _ => {
                query.refuse("sort", RequestCode::InvalidParameter, "sort is receivedAt, size or nextRetry");
                None
            }
        });
        let filter = MessageFilter {
            state,
            status,
            next_hop: query.get("nextHop"),
            subject: query.get("subject"),
            queue: query.get("queue"),
            connector: query.get("connector"),
            virtual_server: query.get("virtualServer"),
            account: query.get("account"),
            api_key: query.get("apiKey"),
            sender: query.get("sender"),
            recipient: query.get("recipient"),
            message_id: query.get("messageId"),
            since: query.get("since"),
            until: query.get("until"),
            older_than: query.get::<Duration>("olderThan"),
            larger_than: query.get::<Size>("largerThan"),
        };
        let filter = filter.checked().unwrap_or_else(|wrong| {
            for (name, words) in wrong {
                query.refuse(name, RequestCode::InvalidParameter, words);
            }
            MessageFilter::default()
        });
        let paging = Paging::from_query(query);
        let after = paging.after.as_deref().and_then(page_key);
        let place = paging.after.as_deref().and_then(place).unwrap_or_default();
        MessageParams { paging, after, sort, place, filter }
    }
}

/// What a cursor of messages holds.
fn cursor_key(key: &PageKey) -> String {
    format!("{} {}", key.received_at.millis(), key.id)
}

fn page_key(text: &str) -> Option<PageKey> {
    let (time, id) = text.split_once(' ')?;
    Some(PageKey { received_at: Timestamp::from_millis(time.parse().ok()?), id: id.parse().ok()? })
}

/// What a cursor of messages in another order holds: where the window begins, and where it goes on in it.
fn cursor_place(place: &Place) -> String {
    let window = place.window.as_ref().map(cursor_key).unwrap_or_default();
    match &place.within {
        Some(Within { end, last: (key, id) }) => format!("{window}/{}/{key} {id}", cursor_key(end)),
        None => window,
    }
}

fn place(text: &str) -> Option<Place> {
    let Some((window, within)) = text.split_once('/') else {
        return Some(Place { window: Some(page_key(text)?), within: None });
    };
    let (end, last) = within.split_once('/')?;
    let (key, id) = last.split_once(' ')?;
    let within = Within { end: page_key(end)?, last: (key.parse().ok()?, id.parse().ok()?) };
    let window = if window.is_empty() { None } else { Some(page_key(window)?) };
    Some(Place { window, within: Some(within) })
}

/// List messages
///
/// Every message in the system, in order of reception unless `sort` says otherwise. One call looks at no more than 20,000 messages, and for
/// no longer than some 40 ms, and then gives a short page with `nextCursor`: a selective filter over a long queue takes several calls. Scope: `queue:read`.
#[utoipa::path(
    tag = "messages",
    operation_id = "listMessages",
    params(MessageParams),
    responses(
        (status = 200, description = "A page of messages.", body = MessageList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")))
)]
#[get("/messages")]
pub async fn list_messages(params: Params<MessageParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let MessageParams { paging, after, sort, place, filter } = params.0;
    if let Some(sort) = sort {
        let page = state.handles.steer.sorted(&filter, sort, place, paging.limit).await.map_err(problem)?;
        return Ok(HttpResponse::Ok().json(MessageList {
            items: page.items.iter().map(|message| MessageResource::from(message.as_ref())).collect(),
            next_cursor: page.next.map(|place| paging.cursor(&cursor_place(&place))),
            scanned: page.scanned,
        }));
    }
    let page = state.handles.operate.messages(&filter, after, paging.limit).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(MessageList {
        items: page.items.iter().map(|message| MessageResource::from(message.as_ref())).collect(),
        next_cursor: page.next.map(|key| paging.cursor(&cursor_key(&key))),
        scanned: page.scanned,
    }))
}

/// Get a message
///
/// Its envelope and the state of each recipient with the last failure. A message whose recipients are all done is no
/// longer here; its events are. Scope: `queue:read`. A key with `messages:send` alone gets the messages that it has submitted itself.
#[utoipa::path(
    tag = "messages",
    operation_id = "getMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The message.", body = MessageResource, example = mail::message_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:read")), ("x-own-scope" = json!("messages:send")))
)]
#[get("/messages/{id}")]
pub async fn get_message(
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    show(message_id(&id)?, &state).await
}

/// Get the events of a message
///
/// Everything that happened to a message, oldest first, also after it has left the queue, as long as message tracking
/// remembers it. A page has 1,000 events unless `limit` says less. Scope: `tracking:read`. A key with `messages:send` alone gets those of
/// messages that it has submitted itself.
#[utoipa::path(
    tag = "messages",
    operation_id = "listMessageEvents",
    params(
        ("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"),
        EventsParams,
    ),
    responses(
        (status = 200, description = "What happened.", body = MessageEventList, example = events_example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")), ("x-own-scope" = json!("messages:send")))
)]
#[get("/messages/{id}/events")]
pub async fn list_message_events(
    id: web::Path<String>,
    params: Params<EventsParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let EventsParams { paging, after } = params.0;
    let id = message_id(&id)?;
    let page = state.handles.operate.events(id, after, paging.limit).await.map_err(|error| named(error, id))?;
    Ok(HttpResponse::Ok().json(MessageEventList {
        items: page.items.into_iter().map(MessageEvent).collect(),
        next_cursor: page.next.map(|position| paging.cursor(&position.to_string())),
    }))
}

/// Which page of the events of a message.
#[derive(Debug)]
pub struct EventsParams {
    paging: Paging,
    after: Option<Position>,
}

impl EventsParams {
    /// Events of a page of which nobody has said how long it is: v1 has answered with as many before there were pages.
    const LIMIT: usize = 1_000;
}

impl IntoParams for EventsParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        Paging::parameters(EventsParams::LIMIT)
    }
}

impl FromQuery for EventsParams {
    fn from_query(query: &mut Query) -> Self {
        let paging = Paging::read(query, EventsParams::LIMIT);
        let after = paging.after.as_deref().and_then(|position| position.parse().ok());
        EventsParams { paging, after }
    }
}

/// Freeze a message
///
/// No attempt is made for it until it is thawed. A message that is being delivered right now is 409. Survives a
/// restart. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "freezeMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageResource, example = mail::message_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/messages/{id}/freeze")]
pub async fn freeze_message(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let deed = async { state.handles.operate.freeze(id, &actor(&request).key).await.map_err(|error| named(error, id)) };
    audited(&request, &state, &format!("messages/{id}"), "freeze", Value::Null, deed).await?;
    show(id, &state).await
}

/// Thaw a message
///
/// Ends a freeze. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "thawMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageResource, example = mail::message_example),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/messages/{id}/thaw")]
pub async fn thaw_message(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let deed = async { state.handles.operate.thaw(id, &actor(&request).key).await.map_err(|error| named(error, id)) };
    audited(&request, &state, &format!("messages/{id}"), "thaw", Value::Null, deed).await?;
    show(id, &state).await
}

/// Reroute a message
///
/// It is routed anew for all recipients that wait, dead letters too, and is due now. With `connector` this one carries it from now on, for
/// all recipients that are not local, whatever its address spaces and restrictions say; while it is switched off or gone, the message is
/// routed as usual. Without, or without a body, nobody has chosen any more. The answer does not wait for the attempt, and
/// a message that is delivered at once is gone from here: then the answer is 202 without a body. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "rerouteMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    request_body(content = RerouteRequest, content_type = "application/json", description = "Who carries it; may be left out.", example = super::steering::reroute_example),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageResource, example = mail::message_example),
        (status = 202, description = "It was due, and has left the queue already."),
        SteerErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/messages/{id}/reroute")]
pub async fn reroute_message(
    request: HttpRequest,
    payload: web::Payload,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let asked: RerouteRequest = super::steering::optional(&request, payload).await?.unwrap_or_default();
    let detail = asked.connector.as_ref().map_or(Value::Null, |connector| json!({"connector": connector}));
    let deed = async {
        let steer = &state.handles.steer;
        steer
            .reroute_by(id, asked.connector, actor(&request).key)
            .await
            .map_err(|error| super::steering::rerouted(error, id))
    };
    audited(&request, &state, &format!("messages/{id}"), "reroute", detail, deed).await?;
    gone_or_shown(id, &state).await
}

pub(super) async fn gone_or_shown(id: MessageId, state: &State) -> Result<HttpResponse, Problem> {
    match state.handles.operate.message(id).await {
        Err(ActionError::NotFound) => Ok(HttpResponse::Accepted().finish()),
        _ => show(id, state).await,
    }
}

/// Retry a message
///
/// It is due now in all its queues. The answer does not wait for the attempt, and a message that is delivered at once
/// is gone from here: then the answer is 202 without a body. Scope: `queue:write`.
#[utoipa::path(
    tag = "messages",
    operation_id = "retryMessage",
    params(("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11")),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageResource, example = mail::message_example),
        (status = 202, description = "It was due, and has left the queue already."),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")))
)]
#[post("/messages/{id}/retry")]
pub async fn retry_message(
    request: HttpRequest,
    id: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let deed = async { state.handles.operate.retry(id, &actor(&request).key).await.map_err(|error| named(error, id)) };
    audited(&request, &state, &format!("messages/{id}"), "retry", Value::Null, deed).await?;
    gone_or_shown(id, &state).await
}

/// How to delete a message.
#[derive(Debug)]
pub struct DeleteParams {
    ndr: bool,
}

impl IntoParams for DeleteParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![query::flag("ndr", "Whether the sender gets a non-delivery report.", false)]
    }
}

impl FromQuery for DeleteParams {
    fn from_query(query: &mut Query) -> Self {
        DeleteParams { ndr: query.get("ndr").unwrap_or(false) }
    }
}

/// Delete a message
///
/// Removes it for all recipients that still wait; with `ndr=true` its sender is told. It cannot be brought back. A
/// message that is being delivered right now is 409. Scope: `queue:write`. A key with `messages:send` alone can delete what it has
/// submitted itself, such as a message whose `sendAt` has not come.
#[utoipa::path(
    tag = "messages",
    operation_id = "deleteMessage",
    params(
        ("id" = String, Path, description = "The message's id.", example = "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"),
        DeleteParams,
    ),
    responses(
        (status = 204, description = "It is gone."),
        ActionErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("queue:write")), ("x-own-scope" = json!("messages:send")))
)]
#[delete("/messages/{id}")]
pub async fn delete_message(
    request: HttpRequest,
    id: web::Path<String>,
    params: Params<DeleteParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let id = message_id(&id)?;
    let ndr = params.0.ndr;
    let deed =
        async { state.handles.operate.delete(id, ndr, &actor(&request).key).await.map_err(|error| named(error, id)) };
    audited(&request, &state, &format!("messages/{id}"), "delete", json!({"ndr": ndr}), deed).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(super) async fn show(id: MessageId, state: &State) -> Result<HttpResponse, Problem> {
    let message = state.handles.operate.message(id).await.map_err(|error| named(error, id))?;
    Ok(HttpResponse::Ok().json(MessageResource::from(message.as_ref())))
}

pub(super) fn message_id(id: &str) -> Result<MessageId, Problem> {
    let wrong = |_| Problem::new(ProblemKind::NotFound, format!("{id:?} is no id of a message (a UUID)"));
    id.parse().map_err(wrong)
}

pub(super) fn named(error: ActionError, id: MessageId) -> Problem {
    match error {
        ActionError::NotFound => {
            let detail = format!("there is no message {id}; if it was delivered, its events tell how");
            Problem::new(ProblemKind::NotFound, detail)
        }
        error => problem(error),
    }
}

fn list_example() -> Value {
    json!({"items": [mail::message_example()], "scanned": 1})
}

fn events_example() -> Value {
    json!({"items": [
        {"at": "2026-11-24T10:15:02.113Z", "event": "received", "message": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6",
         "recipients": ["ada@example.com"], "sender": "orders@example.net", "messageId": "1234@example.net",
         "size": 10412, "client": "10.0.0.7", "virtualServer": "default"},
        {"at": "2026-11-24T10:15:02.480Z", "event": "relayed", "message": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6",
         "recipients": ["ada@example.com"], "nextHop": "mx.example.com (192.0.2.25:25)", "reply": "250 2.0.0 Ok",
         "durationMs": 120}
    ]})
}
