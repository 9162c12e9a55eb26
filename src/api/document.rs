//! The OpenAPI document: what the routes say about themselves, and what holds for all of them.

use actix_web::App;
use utoipa::ToSchema;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, ServerBuilder,
};
use utoipa_actix_web::AppExt;

use super::codes::ErrorCode;
use super::errors;
use super::problem::{FieldError, Problem};
use super::routes;
use crate::config::schema::without_null_defaults;

const ABOUT: &str = "\
The SMTP relay that you configure by API, that tells you where your mail is, and that never loses it after 250.

**Objects.** Configuration is objects in collections. Each has a name, labels, an owner, a `generation` that counts its \
changes, a `spec` (what it shall be) and a `status` (how it is). `PUT` creates or replaces, `PATCH` merges (JSON merge \
patch: null resets, lists are replaced whole), `DELETE` removes. `dryRun=true` on any write checks everything and \
changes nothing. The entity tag is the generation in quotes; `If-Match` and `If-None-Match` guard against writing over \
somebody else's change.

**Values.** Durations are `90s`, `1h30m`, `2d`; sizes `10MiB` or a number of bytes; times RFC 3339 in UTC. Unknown and \
read-only fields, unknown parameters and repeated keys in a request are errors, and so is null where a schema does not \
have it; clients ignore unknown fields in an answer.

**Listings** have `limit` and `cursor`; a cursor holds for the filter that it came with.

**Errors** are `application/problem+json` (RFC 9457). `type` is stable: `urn:bridgehead:problem:` and the kind. `errors` \
lists everything that is wrong at once, each with a JSON pointer. `requestId`, also in the header `X-Request-Id`, names \
the request in the appliance's log. A path that does not exist is 404, a method that a path does not have 405 with \
`Allow`.

**Keys.** `Authorization: Bearer <key>`, an API key or a token of an identity provider that is for this API. Each operation \
names the scope that it needs, also in `x-scope`; without it the answer is 403, which names the scope. An operation on a message \
that names `x-own-scope` is also open to a key with that scope, for the messages that this key has submitted itself. The roles `viewer`, \
`operator`, `administrator` and `owner` stand for scopes; `GET /api/v1/whoami` tells which the caller has.";

const TAGS: [(&str, &str); 29] = [
    ("virtual-servers", "SMTP virtual servers: where mail comes in, from whom, and how it is treated."),
    ("recipient-policies", "Which addresses recipients get, and so which domains are local."),
    ("recipients", "The directory: who has mail here."),
    ("mailbox-stores", "Where local mail ends."),
    ("connectors", "SMTP connectors: how mail leaves."),
    ("remote-domains", "What may be sent to a domain, and how."),
    ("certificates", "TLS certificates with their keys, which virtual servers name."),
    ("accounts", "Who may authenticate over SMTP."),
    ("identity-providers", "Whose tokens accounts may log in with."),
    ("filters", "Whose mail is not taken: by sender, recipient or client."),
    ("api-keys", "Who may call this API, and for what."),
    ("settings", "What concerns the whole appliance."),
    ("config", "The whole configuration as one document, and its revisions."),
    ("domains", "What follows from policies and connectors. Read only."),
    ("queues", "What waits, for which next hop."),
    ("messages", "Every message in the system, and what happened to it."),
    ("suppressions", "Who must not be written to."),
    ("quotas", "What is used up of how much may be sent."),
    ("imports", "Bringing in what an old server left behind."),
    ("tracking", "What happened to mail: where it is, every event, and events as they come."),
    ("event-sinks", "URLs that are told what happens to mail."),
    ("explain", "What would become of a message, and why."),
    ("sessions", "Who is connected by SMTP now."),
    ("audit-log", "Who did what."),
    ("appliance", "The appliance itself."),
    ("alerts", "What is wrong with the appliance, and telling its operators."),
    ("tls-reports", "What came of TLS with the hosts of other domains, and the reports that they get about it."),
    ("health", "Probes and metrics."),
    ("documentation", "This document, for programs and for people."),
];

/// The OpenAPI document of the API, made from the routes. A test holds `openapi/bridgehead.json` equal to it, which is what the binary
/// carries ([`crate::config::openapi`]): what makes the document is several megabytes of program that only tests need.
pub fn openapi() -> OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(frame()).configure(routes::documented).split_for_parts();
    let components = document.components.get_or_insert_default();
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    FieldError::schemas(&mut schemas);
    schemas.push((Problem::name().into_owned(), <Problem as utoipa::PartialSchema>::schema()));
    schemas.push((FieldError::name().into_owned(), <FieldError as utoipa::PartialSchema>::schema()));
    schemas.push((ErrorCode::name().into_owned(), <ErrorCode as utoipa::PartialSchema>::schema()));
    components.schemas.extend(schemas);
    components.schemas.values_mut().for_each(without_null_defaults);
    document
}

/// The same as text, as it is checked in: pretty JSON with a line end.
pub fn openapi_json() -> String {
    // Through a sorted map, so that the order of keys depends on nothing but their names.
    let document = serde_json::to_value(openapi()).unwrap_or_default();
    format!("{document:#}\n")
}

fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Bridgehead")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build()))
        .contact(Some(ContactBuilder::new().name(Some("Bridgehead")).build()))
        .build();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key: one of `/api/v1/api-keys`, the one that the first start made, or `BRIDGEHEAD_ADMIN_KEY`; or a \
             signed token (JWT) of an identity provider whose `use` has `api`.",
        ))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme("key", SecurityScheme::Http(key))
        .responses_from_iter(errors::components())
        .build();
    let tag = |(name, description): (&str, &str)| TagBuilder::new().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/").description(Some("This appliance")).build()]))
        .tags(Some(TAGS.map(tag)))
        .components(Some(components))
        .build()
}
