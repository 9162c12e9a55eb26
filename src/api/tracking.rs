//! `tracking`: what happened to mail, searched, counted, and put together to *where is my mail*.

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::codes::RequestCode;
use super::errors::ListErrors;
use super::mail::MessageEvent;
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, Paging, Params, Query};
use super::queues::problem;
use super::server::State;
use crate::config::ViolationCode;
use crate::model::event_kind::EventKind;
use crate::model::mail::MessageId;
use crate::queue::history::{EventFilter, GroupBy, MAX_GROUPS};
use crate::queue::whereabouts::{Inquiry, Whereabouts};
use crate::store::history::Position;

/// Longest text that is searched for.
const MAX_TEXT: usize = 255;
/// Messages that one answer to *where is my mail* begins with, at most.
const MAX_MESSAGES: usize = 20;

/// The parameters that say which events, but for times.
fn which() -> Vec<Parameter> {
    vec![
        query::text("message", "The message's id.", "019a5b2e-8c1f-7c3a-9d54-0b6f1f4c2d11"),
        query::text(
            "messageId",
            "The Message-ID field, with or without angle brackets: all events of the latest 100 messages that have it.",
            "1@example.net",
        ),
        query::sender(),
        query::recipient("A recipient that the event names"),
        query::text("event", "What happened: one word, or several with commas.", "failed,expired"),
        query::text("connector", "The connector.", "default"),
        query::text("virtualServer", "The virtual server that took the mail.", "internet"),
        account(),
        api_key(),
    ]
}

pub(super) fn account() -> Parameter {
    let words =
        "The account that handed it in. Only events `received` and `rejected` have it: then others are not listed.";
    query::text("account", words, "app")
}

pub(super) fn api_key() -> Parameter {
    let words = "The API key by which it was submitted. Only events `received` have it: then others are not listed.";
    query::text("apiKey", words, "shop")
}

fn times() -> Vec<Parameter> {
    vec![
        query::text("since", "At or after this time (RFC 3339).", "2026-11-24T00:00:00Z"),
        query::text("until", "Before this time (RFC 3339).", "2026-11-25T00:00:00Z"),
    ]
}

/// Reads what [`which`] and [`times`] describe.
pub(super) fn event_filter(query: &mut Query) -> EventFilter {
    let words = query.get::<String>("event").unwrap_or_default();
    let mut events = Vec::new();
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<EventKind>() {
            Ok(kind) if !events.contains(&kind) => events.push(kind),
            Ok(_) => {}
            Err(error) => query.refuse("event", RequestCode::InvalidParameter, error.to_string()),
        }
    }
    EventFilter {
        message: query.get::<MessageId>("message"),
        message_id: message_id(query),
        sender: query.get("sender"),
        recipient: query.get_recipient(),
        account: query.get("account"),
        api_key: api_key_of(query),
        subject: None,
        events,
        connector: query.get("connector"),
        virtual_server: query.get("virtualServer"),
        since: query.get("since"),
        until: query.get("until"),
    }
}

fn api_key_of(query: &mut Query) -> Option<String> {
    let name = query.get::<String>("apiKey")?;
    if name.is_empty() {
        query.refuse("apiKey", RequestCode::InvalidParameter, "it is empty, and means no event");
    }
    Some(name)
}

fn message_id(query: &mut Query) -> Option<String> {
    let text = query.get::<String>("messageId")?;
    let text = text.trim().trim_matches(['<', '>']).to_owned();
    if text.is_empty() || text.len() > MAX_TEXT {
        query.refuse("messageId", RequestCode::InvalidParameter, "it is given with 1 to 255 octets");
    }
    Some(text)
}

/// Which events to list. All that is given must hold.
#[derive(Debug)]
pub struct TrackingParams {
    paging: Paging,
    after: Option<Position>,
    filter: EventFilter,
    newest_first: bool,
}

impl IntoParams for TrackingParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let order = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["newest", "oldest"]))
            .default(Some(json!("newest")));
        let mut parameters = Paging::into_params(parameter_in);
        parameters.extend(which());
        parameters.push(query::text(
            "subject",
            "This text is in the subject, in any case. Only events `received` have it, and only where \
             `settings.subjectLogging` was on: then other events are not listed.",
            "invoice 4711",
        ));
        parameters.extend(times());
        parameters.push(query::parameter("order", order, "Which come first.", json!("oldest")));
        parameters
    }
}

impl FromQuery for TrackingParams {
    fn from_query(query: &mut Query) -> Self {
        let mut filter = event_filter(query);
        filter.subject = query.get("subject");
        if filter.subject.as_ref().is_some_and(|subject| subject.is_empty() || subject.len() > MAX_TEXT) {
            query.refuse("subject", RequestCode::InvalidParameter, "it is given with 1 to 255 octets");
        }
        if filter.subject.is_some() && filter.events.iter().any(|kind| *kind != EventKind::Received) {
            query.refuse("subject", RequestCode::InvalidParameter, "only events `received` have a subject");
        }
        let newest_first = match query.get::<String>("order").as_deref() {
            None | Some("newest") => true,
            Some("oldest") => false,
            Some(_) => {
                query.refuse("order", RequestCode::InvalidParameter, "an order is newest or oldest");
                true
            }
        };
        let paging = Paging::from_query(query);
        let after = paging.after.as_deref().and_then(|position| position.parse().ok());
        TrackingParams { paging, after, filter, newest_first }
    }
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackingList {
    /// The events of this page, each with its `id`.
    items: Vec<MessageEvent>,
    /// Give it as `cursor` to get the next page; absent on the last one. A short, even an empty, page can have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
    /// How many events were looked at for this page.
    scanned: u64,
}

/// Search message tracking
///
/// Every event of every message, the latest first, as long as `settings.retention` keeps them. Each names its sender and virtual
/// server, the recipients that it concerns, and what it is about: client, session, TLS, queue, connector, next hop with its reply,
/// failure, next attempt; what concerns more than 50 recipients is several events, from the second on with their `part`. An index finds events by message, Message-ID, sender, recipient, domain, event, connector and virtual server; one
/// call reads no more than 32 MiB of history and then gives a short page with `nextCursor`, so a search for what no index has may
/// take several calls. Events of the last seconds before a crash may be missing. Scope: `tracking:read`.
///
/// | event | what happened | in Exchange 2000 (and in its successors) |
/// |---|---|---|
/// | `received` | taken, and durable | 1019 SMTP: message submitted to advanced queueing (RECEIVE) |
/// | `rejected` | a sender, recipient or message was refused, with rule and reply; bounded, so that a flood pushes nothing out | – (FAIL, agent events) |
/// | `resolved` | the directory says whom a recipient means; a mailbox store or the queue `directory` | 1023, 1024 submitted to and out of the categorizer (RESOLVE) |
/// | `routed` | a connector carries it, or none now (`unrouted`) | 1033 categorized and queued for routing, 1034 routed and queued for remote delivery (TRANSFER) |
/// | `rerouted` | it waits in another queue now | – (REROUTE, REDIRECT) |
/// | `scheduled` | waits for its connector's schedule | – (DEFER) |
/// | `deferred` | an attempt failed and will be repeated, or the sender was told of the delay | 1032 delivery deferred (DEFER) |
/// | `expanded` | a group, contact or forward became those who get it | 1029 distribution list expanded (EXPAND, REDIRECT) |
/// | `delivered` | in a mailbox store | 1028 local delivery (DELIVER) |
/// | `relayed` | taken by the next hop, with its reply | 1020, 1031 outbound transfer begun and done (SEND) |
/// | `failed`, `expired` | will not be delivered; not in time | 1030 NDR generated (FAIL) |
/// | `dsn` | a notification was queued; `related` is its message | 1030 NDR generated (DSN) |
/// | `deadLettered` | kept in the dead-letter queue | moved to badmail (BADMAIL) |
/// | `held`, `released` | an operator keeps such mail back; the hold is over, or means it no more | – |
/// | `resubmitted` | a dead letter goes on its way again, or a message with other recipients in its place | – (RESUBMIT) |
/// | `frozen`, `thawed`, `retried`, `removed` | an operator did it, or a retention ended | freeze, unfreeze, force connection, delete (SUSPEND, RESUME, RETRY) |
#[utoipa::path(
    tag = "tracking",
    operation_id = "searchTracking",
    params(TrackingParams),
    responses(
        (status = 200, description = "A page of events.", body = TrackingList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")))
)]
#[get("/tracking")]
pub async fn search_tracking(params: Params<TrackingParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let TrackingParams { paging, after, filter, newest_first } = params.0;
    let found = state.handles.history.find_events(&filter, newest_first, after, paging.limit).await;
    let page = found.map_err(problem)?;
    Ok(HttpResponse::Ok().json(TrackingList {
        items: page.items.into_iter().map(MessageEvent).collect(),
        next_cursor: page.next.map(|position| paging.cursor(&position.to_string())),
        scanned: page.scanned,
    }))
}

/// What to count. All that is given must hold.
#[derive(Debug)]
pub struct SummaryParams {
    group_by: Option<GroupBy>,
    paging: Paging,
    after: Option<Position>,
    filter: EventFilter,
}

impl IntoParams for SummaryParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let by = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(GroupBy::ALL.map(|(word, _)| word)))
            .default(Some(json!("event")));
        let mut parameters =
            vec![query::parameter("groupBy", by, "What events are counted by.", json!("recipientDomain"))];
        parameters.extend(Paging::into_params(parameter_in).into_iter().filter(|parameter| parameter.name == "cursor"));
        parameters.extend(which());
        parameters.extend(times());
        parameters
    }
}

impl FromQuery for SummaryParams {
    fn from_query(query: &mut Query) -> Self {
        let filter = event_filter(query);
        let group_by = match query.get::<String>("groupBy") {
            None => Some(GroupBy::Event),
            Some(word) => GroupBy::ALL.iter().find(|(known, _)| *known == word).map(|(_, by)| *by),
        };
        if group_by.is_none() {
            let words = GroupBy::ALL.map(|(word, _)| word).join(", ");
            query.refuse("groupBy", RequestCode::InvalidParameter, format!("it is one of {words}"));
        }
        let paging = Paging::from_query(query);
        let after = paging.after.as_deref().and_then(|position| position.parse().ok());
        SummaryParams { group_by, paging, after, filter }
    }
}

/// How many events there are, by group.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackingSummary {
    /// What they are counted by.
    group_by: GroupBy,
    /// The groups, the largest first; at most 1,000.
    groups: Vec<TrackingGroup>,
    /// Events of further groups.
    other: u64,
    /// Events that have nothing to be counted by.
    without: u64,
    /// Whether all events were counted that are meant. If not, `nextCursor` counts on, and the counts are to be added.
    complete: bool,
    /// Give it as `cursor` to count on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
    /// How many events were looked at.
    scanned: u64,
}

/// How many events a group has.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackingGroup {
    /// What they have in common.
    value: String,
    /// How many there are; with `recipientDomain` one for each recipient that an event names.
    count: u64,
}

/// Count events
///
/// How many events there are, by what happened, connector, virtual server, domain of sender or recipients, or hour. What concerns more
/// than 50 recipients counts as several events, but with `recipientDomain`, where each recipient counts. One call
/// reads no more than 128 MiB of history, oldest first (some 400,000 events), and then gives what it has counted with `nextCursor`.
/// Scope: `tracking:read`.
#[utoipa::path(
    tag = "tracking",
    operation_id = "summarizeTracking",
    params(SummaryParams),
    responses(
        (status = 200, description = "The counts.", body = TrackingSummary, example = summary_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")))
)]
#[get("/tracking/summary")]
pub async fn summarize_tracking(
    params: Params<SummaryParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let SummaryParams { group_by, paging, after, filter } = params.0;
    let group_by = group_by.unwrap_or(GroupBy::Event);
    let counts = state.handles.history.count_events(&filter, group_by, after).await.map_err(problem)?;
    let mut groups: Vec<TrackingGroup> =
        counts.groups.into_iter().map(|(value, count)| TrackingGroup { value, count }).collect();
    if group_by != GroupBy::Hour {
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
    }
    debug_assert!(groups.len() <= MAX_GROUPS);
    Ok(HttpResponse::Ok().json(TrackingSummary {
        group_by,
        groups,
        other: counts.other,
        without: counts.without,
        complete: counts.next.is_none(),
        next_cursor: counts.next.map(|position| paging.cursor(&position.to_string())),
        scanned: counts.scanned,
    }))
}

/// Whose mail is looked for. All that is given must hold.
#[derive(Debug)]
pub struct WhereaboutsParams {
    inquiry: Inquiry,
}

impl IntoParams for WhereaboutsParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let limit =
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(20)).default(Some(json!(10)));
        let mut parameters: Vec<Parameter> = which()
            .into_iter()
            .filter(|parameter| ["message", "messageId", "sender", "recipient"].contains(&parameter.name.as_str()))
            .collect();
        parameters.extend(times());
        parameters.push(query::parameter(
            "limit",
            limit,
            "At most so many messages, and as many refusals, the latest first.",
            json!(10),
        ));
        parameters
    }
}

impl FromQuery for WhereaboutsParams {
    fn from_query(query: &mut Query) -> Self {
        let limit = query.get::<usize>("limit").unwrap_or(10);
        if !(1..=MAX_MESSAGES).contains(&limit) {
            query.refuse("limit", ViolationCode::OutOfRange, "an answer has 1 to 20 messages");
        }
        let inquiry = Inquiry {
            message: query.get::<MessageId>("message"),
            message_id: message_id(query),
            sender: query.get("sender"),
            recipient: query.get_recipient(),
            since: query.get("since"),
            until: query.get("until"),
            limit,
        };
        WhereaboutsParams { inquiry }
    }
}

/// Where is my mail
///
/// One question, answered per message and recipient, in words and in data: waiting where, until when and why; delivered or taken
/// by whom, with the reply; failed why, and who was told; expanded into which message; stopped, removed, kept as a dead letter. Asks
/// the queue and message tracking, and follows what belongs together: expansions and notifications come behind their message, with
/// `relation`. Attempts to hand in such mail that were refused are in `rejected`. At least one of `message`, `messageId`, `sender`,
/// `recipient` is needed. Scope: `tracking:read`.
#[utoipa::path(
    tag = "tracking",
    operation_id = "whereIsMyMail",
    params(WhereaboutsParams),
    responses(
        (status = 200, description = "Where it is.", body = Whereabouts, example = whereabouts_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("tracking:read")))
)]
#[get("/tracking/whereabouts")]
pub async fn whereabouts(params: Params<WhereaboutsParams>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let WhereaboutsParams { inquiry } = params.0;
    let Inquiry { message, message_id, sender, recipient, .. } = &inquiry;
    if message.is_none() && message_id.is_none() && sender.is_none() && recipient.is_none() {
        let detail = "whose mail? give message, messageId, sender or recipient";
        let error = FieldError::parameter("recipient".to_owned(), ViolationCode::Required, detail.to_owned());
        return Err(Problem::new(ProblemKind::BadParameter, detail).with_errors(vec![error]));
    }
    let found = state.handles.history.whereabouts(&inquiry).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(found))
}

fn list_example() -> Value {
    json!({"items": [
        {"id": "7-10412", "at": "2026-11-24T10:15:02.480Z", "event": "relayed",
         "message": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6", "recipients": ["ada@example.com"],
         "sender": "orders@example.net", "virtualServer": "default", "connector": "default",
         "nextHop": "mx.example.com (192.0.2.25:25)", "tls": "TLSv1.3", "reply": "250 2.0.0 Ok", "durationMs": 120}
    ], "scanned": 1})
}

fn summary_example() -> Value {
    json!({"groupBy": "recipientDomain", "groups": [{"value": "example.com", "count": 1204}], "other": 0, "without": 0,
           "complete": true, "scanned": 5120})
}

fn whereabouts_example() -> Value {
    json!({
        "items": [{
            "message": "019c3a51-7b3e-7d11-9c7e-2f60b1a4d5e6", "messageId": "1234@example.net",
            "sender": "orders@example.net", "receivedAt": "2026-11-24T10:15:02.113Z", "virtualServer": "default",
            "client": "10.0.0.7", "size": 10412, "inQueue": true,
            "recipients": [
                {"recipient": "ada@example.com", "state": "relayed", "at": "2026-11-24T10:15:02.480Z",
                 "words": "Taken by mx.example.com (192.0.2.25:25) at 2026-11-24T10:15:02.480Z, which answered: 250 2.0.0 Ok",
                 "connector": "default", "nextHop": "mx.example.com (192.0.2.25:25)", "reply": "250 2.0.0 Ok"},
                {"recipient": "bob@example.org", "state": "retrying", "at": "2026-11-24T10:15:03.002Z",
                 "words": "Attempt 1 failed: mx.example.org (192.0.2.26:25): 450 4.2.0 greylisted. It waits in dns:default:example.org; the next attempt is due at 2026-11-24T10:16:03.002Z.",
                 "queue": "dns:default:example.org", "connector": "default", "attempts": 1,
                 "nextAttempt": "2026-11-24T10:16:03.002Z", "nextHop": "mx.example.org (192.0.2.26:25)",
                 "failure": "mx.example.org (192.0.2.26:25): 450 4.2.0 greylisted", "status": "4.2.0"}
            ]
        }],
        "rejected": [],
        "complete": true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in backquotes in the first column of the table of events.
    fn words_of_the_table(text: &str) -> Vec<&str> {
        let rows = text.lines().skip_while(|line| !line.starts_with("| event |")).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|'));
        rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn the_tables_of_events_name_each_event_once() {
        let document: Value = serde_json::from_str(include_str!("../../openapi/bridgehead.json")).unwrap();
        let operation = &document["paths"]["/api/v1/tracking"]["get"];
        let description = operation["description"].as_str().unwrap();
        let mut all = EventKind::ALL.map(EventKind::word);
        all.sort_unstable();
        for text in [description, include_str!("../../README.md")] {
            let mut words = words_of_the_table(text);
            words.sort_unstable();
            assert_eq!(words, all);
        }
    }
}
