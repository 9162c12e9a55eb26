//! The documentation of the API, served by the API: `/openapi.json`, Swagger UI under `/docs`, a page of links at `/`.
//!
//! Everything comes out of the binary; nothing is loaded from elsewhere, and the content security policy says so to the
//! browser.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{self, AcceptEncoding, ContentEncoding, Encoding, HeaderName};
use actix_web::{HttpResponse, HttpResponseBuilder, get, web};
use bytes::Bytes;
use utoipa_swagger_ui::Config;

use super::errors::OpenErrors;
use super::problem::{Problem, ProblemKind};
use super::query::{NoParams, Params};
use crate::config::openapi;

/// Scripts from here only. Swagger UI sets styles on its elements, so styles are not as strict.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PAGE_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const CSP: HeaderName = header::CONTENT_SECURITY_POLICY;

/// Relative, so that it also works behind a proxy that adds a prefix. The online validator is off.
static SWAGGER: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::new(["../openapi.json"]).validator_url("none");
    Arc::new(config.deep_linking(true).display_request_duration(true).use_base_layout())
});

/// Start page
///
/// A page with links to the documentation and the probes, for people. Scope: none.
#[utoipa::path(
    tag = "documentation",
    operation_id = "getStartPage",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html; charset=utf-8",
            example = "<!doctype html><title>Bridgehead</title>"),
        OpenErrors,
    ),
    security(()),
    extensions(("x-scope" = json!("none")))
)]
#[get("/")]
pub async fn start_page(_: Params<NoParams>) -> HttpResponse {
    const PAGE: &str = concat!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bridgehead</title>",
        "<meta name=\"viewport\" content=\"width=device-width\"></head><body><h1>Bridgehead ",
        env!("CARGO_PKG_VERSION"),
        "</h1><p>The SMTP relay that you configure by API.</p><ul>",
        "<li><a href=\"docs/\">The REST API, to read and to try</a></li>",
        "<li><a href=\"openapi.json\">OpenAPI 3.1</a></li>",
        "<li><a href=\"readyz\">Whether it is ready</a></li></ul></body></html>\n"
    );
    HttpResponse::Ok().insert_header((CSP, PAGE_POLICY)).content_type("text/html; charset=utf-8").body(PAGE)
}

/// OpenAPI document
///
/// The description of this API in OpenAPI 3.1, made from the code that serves it; packed with gzip where that is accepted. Scope: none.
#[utoipa::path(
    tag = "documentation",
    operation_id = "getOpenApi",
    responses(
        (status = 200, description = "The document.", body = Object, content_type = "application/json",
            example = json!({"openapi": "3.1.0", "info": {"title": "Bridgehead", "version": "0.1.0"}})),
        OpenErrors,
    ),
    security(()),
    extensions(("x-scope" = json!("none")))
)]
#[get("/openapi.json")]
pub async fn openapi_json(
    _: Params<NoParams>,
    accepted: Option<web::Header<AcceptEncoding>>,
) -> Result<HttpResponse, Problem> {
    packed(HttpResponse::Ok().content_type("application/json"), Cow::Borrowed(openapi::PACKED), accepted)
}

/// Documentation
///
/// Leads to the Swagger UI at `/docs/`. Scope: none.
#[utoipa::path(
    tag = "documentation",
    operation_id = "getDocumentation",
    responses(
        (status = 308, description = "It is at `/docs/`.", headers(("Location" = String, description = "`docs/`"))),
        OpenErrors,
    ),
    security(()),
    extensions(("x-scope" = json!("none")))
)]
#[get("/docs")]
pub async fn docs(_: Params<NoParams>) -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "docs/")).finish()
}

/// Documentation files
///
/// The Swagger UI: its page (an empty file name), scripts and styles. Works without a network. Scope: none.
#[utoipa::path(
    tag = "documentation",
    operation_id = "getDocumentationFile",
    params(("file" = String, Path, description = "The file; empty for the page.", example = "index.html")),
    responses(
        (status = 200, description = "The file.", body = String, content_type = "text/html",
            example = "<!doctype html><title>Swagger UI</title>"),
        super::errors::FileErrors,
    ),
    security(()),
    extensions(("x-scope" = json!("none")))
)]
#[get("/docs/{file:.*}")]
pub async fn docs_file(
    file: web::Path<String>,
    _: Params<NoParams>,
    accepted: Option<web::Header<AcceptEncoding>>,
) -> Result<HttpResponse, Problem> {
    let found = utoipa_swagger_ui::serve(&file, SWAGGER.clone()).map_err(|error| Problem::internal(&error))?;
    let Some(found) = found else {
        return Err(Problem::new(ProblemKind::NotFound, format!("the documentation has no file {:?}", file.as_str())));
    };
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CSP, DOCS_POLICY)).insert_header((header::CACHE_CONTROL, "no-cache"));
    answer.content_type(found.content_type);
    match found.gzpipped {
        true => packed(&mut answer, found.bytes, accepted),
        false => Ok(answer.body(found.bytes.into_owned())),
    }
}

/// What is packed with gzip, as it is or unpacked.
fn packed(
    answer: &mut HttpResponseBuilder,
    bytes: Cow<'static, [u8]>,
    accepted: Option<web::Header<AcceptEncoding>>,
) -> Result<HttpResponse, Problem> {
    answer.insert_header((header::VARY, "accept-encoding"));
    let ways = [Encoding::identity(), Encoding::gzip()];
    if accepted.is_some_and(|accepted| accepted.negotiate(ways.iter()) == Some(Encoding::gzip())) {
        let body = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        return Ok(answer.insert_header(ContentEncoding::Gzip).body(body));
    }
    Ok(answer.body(openapi::unpacked(&bytes).map_err(|error| Problem::internal(&error))?))
}
