//! `domains`: what follows from recipient policies and connectors. Read only: there is nothing here to write to.

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::errors::{ListErrors, ReadErrors};
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Paging, Params};
use super::server::State;
use crate::config::domain_view::DomainView;

/// A page of domains.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainList {
    /// The domains of this page, by name.
    items: Vec<DomainView>,
    /// Give it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
}

/// List domains
///
/// Every domain that is local or opened for relaying, whether we are responsible for all of it, and which objects say
/// so. Domains follow from recipient policies and connectors: to add one, write a policy. Scope: `config:read`.
#[utoipa::path(
    tag = "domains",
    operation_id = "listDomains",
    params(Paging),
    responses(
        (status = 200, description = "A page of domains.", body = DomainList, example = list_example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/domains")]
pub async fn list_domains(paging: Params<Paging>, state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let paging = paging.0;
    let views = state.handles.configuration.live().current().domain_views();
    let mut rest =
        views.into_iter().filter(|view| paging.after.as_ref().is_none_or(|after| view.name > *after)).peekable();
    let items: Vec<_> = rest.by_ref().take(paging.limit).collect();
    let last = items.last().filter(|_| rest.peek().is_some());
    let next_cursor = last.map(|last| paging.cursor(&last.name));
    Ok(HttpResponse::Ok().json(DomainList { items, next_cursor }))
}

/// Get a domain
///
/// One domain, and which objects define it. Scope: `config:read`.
#[utoipa::path(
    tag = "domains",
    operation_id = "getDomain",
    params(("name" = String, Path, description = "The domain.", example = "example.com")),
    responses(
        (status = 200, description = "The domain.", body = DomainView, example = example),
        ReadErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("config:read")))
)]
#[get("/domains/{name}")]
pub async fn get_domain(
    name: web::Path<String>,
    _: Params<NoParams>,
    state: web::Data<State>,
) -> Result<HttpResponse, Problem> {
    let wanted = name.to_lowercase();
    let mut views = state.handles.configuration.live().current().domain_views().into_iter();
    let view = views.find(|view| view.name == wanted).ok_or_else(|| {
        let detail = format!("no recipient policy and no connector makes {wanted:?} a domain of ours");
        Problem::new(ProblemKind::NotFound, detail)
    })?;
    Ok(HttpResponse::Ok().json(view))
}

fn example() -> serde_json::Value {
    serde_json::json!({
        "name": "example.com", "type": "authoritative", "default": true, "definedBy": ["recipient-policies/default"]
    })
}

fn list_example() -> serde_json::Value {
    serde_json::json!({"items": [example()]})
}
