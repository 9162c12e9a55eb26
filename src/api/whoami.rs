//! `whoami`: what the caller's key or token gives.

use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth;
use super::errors::ListErrors;
use super::problem::Problem;
use super::query::{NoParams, Params};
use crate::model::access::{Role, Scope};
use crate::model::labels::LabelSelector;
use crate::model::name::Name;
use crate::model::pattern::Network;
use crate::model::spec::account::{AccountQuotas, SenderPattern};
use crate::model::time::Timestamp;

/// Who calls, and what he may.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = example)]
pub struct WhoAmI {
    /// The name of the key (`bootstrap`, `first-key` and `admin.sock` are those that are no objects), or the username of the token.
    name: String,
    /// Who issued the token; absent with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    identity_provider: Option<Name>,
    /// The role that it was given as; absent with a key that has single scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    role: Option<Role>,
    /// What may be done.
    scopes: Vec<Scope>,
    /// With which objects; absent: with all.
    #[serde(skip_serializing_if = "LabelSelector::is_empty")]
    #[schema(required = false)]
    objects: LabelSelector,
    /// From which networks; absent: from any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    allow_from: Vec<Network>,
    /// Until when; absent: without an end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false, nullable = false, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// What submitted mail may be from; absent: any address in a local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    send_as: Option<Vec<SenderPattern>>,
    /// How much may be submitted.
    quotas: AccountQuotas,
}

/// Who calls
///
/// The name and the rights of the key or token that this request shows. Any valid one will do. Scope: none.
#[utoipa::path(
    tag = "api-keys",
    operation_id = "whoAmI",
    responses(
        (status = 200, description = "Who, and what he may.", body = WhoAmI, example = example),
        ListErrors,
    ),
    security(("key" = [])),
    extensions(("x-scope" = json!("none")))
)]
#[get("/whoami")]
pub async fn who_am_i(request: HttpRequest, _: Params<NoParams>) -> Result<HttpResponse, Problem> {
    let principal = auth::caller(&request).ok_or_else(|| Problem::internal(&"a request without its caller"))?;
    let grant = &principal.grant;
    Ok(HttpResponse::Ok().json(WhoAmI {
        name: principal.name.clone(),
        identity_provider: principal.provider.clone(),
        role: grant.role,
        scopes: grant.scopes.iter().collect(),
        objects: grant.objects.clone(),
        allow_from: grant.allow_from.clone(),
        expires_at: grant.expires_at,
        send_as: grant.send_as.clone(),
        quotas: grant.quotas.clone(),
    }))
}

fn example() -> Value {
    json!({
        "name": "monitoring", "role": "viewer",
        "scopes": ["config:read", "queue:read", "tracking:read", "audit:read", "metrics:read"],
        "allowFrom": ["10.0.0.0/8"], "quotas": {}
    })
}
