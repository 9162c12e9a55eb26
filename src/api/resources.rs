//! What all collections of the configuration do alike: list, get, put, patch, delete.
//!
//! The handlers of each kind ([`super::kinds`]) are thin: they name the collection and the types of OpenAPI, and all of
//! them end here. Judging a change is `config::change`'s; this file turns requests into its words and its outcomes into
//! answers.

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::auth;
use super::body;
use super::client;
use super::etag;
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::{self, FromQuery, Paging, Query};
use super::queues::store_problem;
use super::server::{RequestId, State};
use crate::config::violation::Warning;
use crate::config::{Actor, Authority, ChangeError, ChangeKind, Effects, Object, Outcome, WriteMode};
use crate::model::access::Grant;
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::spec::Collection;

/// Tells what a write did: `created`, `updated`, `unchanged` or `deleted`.
pub const CHANGE_HEADER: HeaderName = HeaderName::from_static("bridgehead-change");

/// Which objects to list.
#[derive(Debug)]
pub struct ListParams {
    pub(super) paging: Paging,
    pub(super) selector: LabelSelector,
}

impl IntoParams for ListParams {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Paging::into_params(parameter_in);
        let selector = "Only objects whose labels match: `a=b`, `a!=b`, `a`, `!a`, `a in (x,y)`, `a notin (x,y)`, with \
                        commas between them; all must hold.";
        parameters.push(query::text("labelSelector", selector, "team=mail,stage!=test"));
        parameters
    }
}

impl FromQuery for ListParams {
    fn from_query(query: &mut Query) -> Self {
        let selector = query.get("labelSelector").unwrap_or_default();
        ListParams { paging: Paging::from_query(query), selector }
    }
}

/// How to write.
#[derive(Debug)]
pub struct WriteParams {
    pub(super) dry_run: bool,
    pub(super) take_over: bool,
}

impl WriteParams {
    /// As the configuration wants to know it.
    pub(super) fn mode(&self) -> WriteMode {
        WriteMode { dry_run: self.dry_run, take_over: self.take_over }
    }
}

impl IntoParams for WriteParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Only say what the request would do: everything is checked, nothing is changed.";
        let take_over = "Also when the object belongs to somebody else (an apply that gave its own `owner`); it belongs to \
                         `api` then. What a file of the watched directory says is changed there only.";
        vec![query::flag("dryRun", description, false), query::flag("takeOver", take_over, false)]
    }
}

impl FromQuery for WriteParams {
    fn from_query(query: &mut Query) -> Self {
        let mut flag = |name| query.get(name).unwrap_or(false);
        WriteParams { dry_run: flag("dryRun"), take_over: flag("takeOver") }
    }
}

/// Whether a request that concerns no owned object is to be carried out.
#[derive(Debug)]
pub struct DryRun(pub(super) bool);

impl IntoParams for DryRun {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Only say what the request would do: everything is checked, nothing is changed.";
        vec![query::flag("dryRun", description, false)]
    }
}

impl FromQuery for DryRun {
    fn from_query(query: &mut Query) -> Self {
        DryRun(query.get("dryRun").unwrap_or(false))
    }
}

/// An object as REST shows it.
pub(super) trait Resource: Serialize {
    /// The collection.
    const COLLECTION: Collection;

    /// From what is stored, and what the house knows about it.
    fn show(object: Object, told: Told, state: &State) -> Self;
}

/// What the answer to a write tells besides the object.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What is allowed but may not be meant.
    pub(super) warnings: Vec<Warning>,
    /// What it does to recipients, if anything.
    pub(super) effects: Option<Effects>,
    /// A key that was made, shown this once.
    pub(super) made: Option<String>,
}

/// A page of objects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

/// Answers a GET on a collection.
pub(super) async fn list<R: Resource>(
    request: &HttpRequest,
    params: ListParams,
    state: &State,
) -> Result<HttpResponse, Problem> {
    let configuration = state.handles.configuration.clone();
    let ListParams { paging, selector } = params;
    let selector = selector.and(&visible(request));
    // With a selector many objects may have to be looked at, so not on the thread that answers everybody.
    let (page, paging) = web::block(move || {
        let after = paging.after.as_deref().and_then(|name| name.parse::<Name>().ok());
        (configuration.list(R::COLLECTION, &selector, after.as_ref(), paging.limit), paging)
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    let page = page.map_err(|error| store_problem(&error))?;
    Ok(HttpResponse::Ok().json(Page {
        next_cursor: page.next.map(|name| paging.cursor(name.as_str())),
        items: page.items.into_iter().map(|object| R::show(object, Told::default(), state)).collect(),
    }))
}

/// Answers a GET on one object.
pub(super) async fn get<R: Resource>(
    request: &HttpRequest,
    name: &str,
    state: &State,
) -> Result<HttpResponse, Problem> {
    let object = state.handles.configuration.get(R::COLLECTION, name).map_err(|error| store_problem(&error))?;
    let object = object.filter(|object| visible(request).matches(&object.labels));
    let object = object.ok_or_else(|| not_found(R::COLLECTION, name))?;
    if etag::is_known(request, object.generation)? {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, etag::of(object.generation))).finish());
    }
    Ok(shown::<R>(object, state))
}

/// The answer that shows an object.
pub(super) fn shown<R: Resource>(object: Object, state: &State) -> HttpResponse {
    answer(HttpResponse::Ok(), &object).json(R::show(object, Told::default(), state))
}

/// Answers a PUT: creates or replaces.
pub(super) async fn put<R: Resource>(
    request: &HttpRequest,
    payload: web::Payload,
    name: &str,
    params: WriteParams,
    state: &State,
) -> Result<HttpResponse, Problem> {
    let body = body::json(request, payload, &["application/json"]).await?;
    let outcome = put_value::<R>(request, &body, name, &params, state).await?;
    Ok(written::<R>(outcome, &params, None, state))
}

/// Creates or replaces.
pub(super) async fn put_value<R: Resource>(
    request: &HttpRequest,
    body: &Value,
    name: &str,
    params: &WriteParams,
    state: &State,
) -> Result<Outcome, Problem> {
    let configuration = &state.handles.configuration;
    let precondition = precondition(request, R::COLLECTION, name, state)?;
    let outcome = configuration.put(R::COLLECTION, name, body, &precondition, &actor(request), params.mode()).await;
    outcome.map_err(|error| problem(error, name))
}

/// Answers a PATCH: a JSON merge patch (RFC 7396).
pub(super) async fn patch<R: Resource>(
    request: &HttpRequest,
    payload: web::Payload,
    name: &str,
    params: WriteParams,
    state: &State,
) -> Result<HttpResponse, Problem> {
    let body: Value = body::json(request, payload, &["application/merge-patch+json"]).await?;
    let outcome = patch_value::<R>(request, &body, name, &params, state).await?;
    Ok(written::<R>(outcome, &params, None, state))
}

/// Merges a patch.
pub(super) async fn patch_value<R: Resource>(
    request: &HttpRequest,
    patch: &Value,
    name: &str,
    params: &WriteParams,
    state: &State,
) -> Result<Outcome, Problem> {
    let configuration = &state.handles.configuration;
    let precondition = precondition(request, R::COLLECTION, name, state)?;
    let outcome = configuration.patch(R::COLLECTION, name, patch, &precondition, &actor(request), params.mode()).await;
    outcome.map_err(|error| problem(error, name))
}

/// Answers a DELETE.
pub(super) async fn delete<R: Resource>(
    request: &HttpRequest,
    name: &str,
    params: WriteParams,
    state: &State,
) -> Result<HttpResponse, Problem> {
    let configuration = &state.handles.configuration;
    let precondition = precondition(request, R::COLLECTION, name, state)?;
    let outcome = configuration.delete(R::COLLECTION, name, &precondition, &actor(request), params.mode()).await;
    outcome.map(|outcome| written::<R>(outcome, &params, None, state)).map_err(|error| problem(error, name))
}

/// The answer to a write; with the key that it made, if it did.
pub(super) fn written<R: Resource>(
    outcome: Outcome,
    params: &WriteParams,
    made: Option<String>,
    state: &State,
) -> HttpResponse {
    let (status, word) = match outcome.change {
        ChangeKind::Created => (HttpResponse::Created(), "created"),
        ChangeKind::Updated => (HttpResponse::Ok(), "updated"),
        ChangeKind::Unchanged => (HttpResponse::Ok(), "unchanged"),
        ChangeKind::Deleted if params.dry_run => (HttpResponse::Ok(), "deleted"),
        ChangeKind::Deleted => return HttpResponse::NoContent().insert_header((CHANGE_HEADER, "deleted")).finish(),
    };
    let mut answer = answer(status, &outcome.object);
    answer.insert_header((CHANGE_HEADER, word));
    if outcome.change == ChangeKind::Created && R::COLLECTION != Collection::Settings {
        let location = format!("/api/v1/{}/{}", R::COLLECTION.path(), outcome.object.name);
        answer.insert_header((header::LOCATION, location));
    }
    let told =
        Told { warnings: outcome.warnings, effects: Some(outcome.effects).filter(|effects| !effects.is_empty()), made };
    answer.json(R::show(outcome.object, told, state))
}

fn answer(mut answer: actix_web::HttpResponseBuilder, object: &Object) -> actix_web::HttpResponseBuilder {
    answer.insert_header((header::ETAG, etag::of(object.generation)));
    answer
}

fn precondition(
    request: &HttpRequest,
    collection: Collection,
    name: &str,
    state: &State,
) -> Result<crate::config::Precondition, Problem> {
    etag::precondition(request, || {
        let object = state.handles.configuration.get(collection, name).map_err(|error| store_problem(&error))?;
        Ok(object.map(|object| object.generation))
    })
}

pub(super) fn actor(request: &HttpRequest) -> Actor {
    let caller = auth::caller(request);
    let grant = caller.as_ref().map(|principal| principal.grant.clone());
    let (key, identity_provider) = caller.map(|caller| (caller.name, caller.provider)).unwrap_or_default();
    Actor {
        key,
        identity_provider,
        client: client::of(request),
        request_id: request.extensions().get::<RequestId>().map(|id| id.0.clone()),
        // whom the layer has not let in may nothing
        authority: Authority::Granted(grant.unwrap_or_else(|| Grant::default().into())),
    }
}

/// The objects that the caller may see.
pub(super) fn visible(request: &HttpRequest) -> LabelSelector {
    auth::caller(request).map(|caller| caller.objects.clone()).unwrap_or_default()
}

/// There is no such object.
pub(super) fn not_found(collection: Collection, name: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no {} {name:?}", collection.noun()))
}

/// What a refused change is to the caller.
pub(super) fn problem(error: ChangeError, name: &str) -> Problem {
    match error {
        ChangeError::NotFound { collection, .. } => not_found(collection, name),
        ChangeError::Referenced { by } => {
            let places: Vec<_> = by.iter().map(|reference| reference.object.clone()).collect();
            let errors = by.into_iter().map(FieldError::from).collect();
            let detail = format!("{name:?} is needed by {}", places.join(", "));
            Problem::new(ProblemKind::Conflict, detail).with_errors(errors)
        }
        ChangeError::Owned { objects } => {
            let whose = objects.first().map(|first| first.owner.clone()).unwrap_or_default();
            let detail = match objects.as_slice() {
                [one] if one.by_file => {
                    format!("{} stands in a file of the watched directory; change it there", one.object)
                }
                [one] => format!("{} belongs to {whose}; takeOver=true takes it over", one.object),
                several => format!("{} objects belong to others, the first to {whose}", several.len()),
            };
            let errors = objects.into_iter().map(FieldError::from).collect();
            Problem::new(ProblemKind::Conflict, detail).with_errors(errors)
        }
        ChangeError::RevisionChanged { found } => {
            let detail = format!("revision {found} is in force; nothing was changed");
            Problem::new(ProblemKind::PreconditionFailed, detail)
        }
        ChangeError::Protected(detail) => Problem::new(ProblemKind::Conflict, detail),
        ChangeError::Forbidden(detail) => Problem::new(ProblemKind::Forbidden, detail),
        ChangeError::PreconditionFailed { found } => {
            let detail = match found {
                Some(generation) => format!("the object exists and has generation {generation}"),
                None => "there is no such object".to_owned(),
            };
            let problem = Problem::new(ProblemKind::PreconditionFailed, detail);
            match found {
                Some(generation) => problem.with_header(header::ETAG, etag::of(generation)),
                None => problem,
            }
        }
        ChangeError::Invalid(violations) => {
            let count = violations.len();
            let detail = format!("{count} violation{}; nothing was changed", if count == 1 { "" } else { "s" });
            let errors = violations.into_iter().map(FieldError::from).collect();
            Problem::new(ProblemKind::Invalid, detail).with_errors(errors)
        }
        ChangeError::NoSpace(error) | ChangeError::Store(error) => store_problem(&error),
    }
}
