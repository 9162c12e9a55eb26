//! What an operation needs, read from the OpenAPI document: each operation's `x-scope`.
//!
//! The document is made from the routes (a test sees to it), so what it says about an operation is what the operation says about
//! itself, and nobody has to keep a second list. Default is no: an operation that names no scope is refused to everybody, a request that fits
//! no operation reaches no handler, and where a request fits the paths of several, the scopes of all of them are needed. Paths are
//! compared as the router sees them, decoded.
//!
//! An operation on one message may also name the scope by which a key reaches the messages that it has submitted itself,
//! `x-own-scope`; whose a message is, [`super::auth`] finds out.
//!
//! A key that is limited to some objects (`objects`) is limited here too: it reaches only operations of which it is known what
//! they do with the limit. Collections look at labels themselves ([`super::resources`], `config::authority`).

use serde_json::Value;

use super::auth::Principal;
use super::described;
use super::problem::{Problem, ProblemKind};
use super::queues::store_problem;
use crate::config::Configuration;
use crate::model::access::{Scope, Scopes};
use crate::model::queue_name::QueueName;
use crate::model::spec::Collection;

/// What `x-scope` says where any key will do.
const NO_SCOPE: &str = "none";

/// All operations, and what each needs.
pub(super) struct Operations(Vec<Operation>);

struct Operation {
    method: &'static str,
    route: Vec<Part>,
    needs: Needs,
    own: Option<Scope>,
}

enum Part {
    Text(String),
    Parameter,
}

/// What an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// These scopes; none of them: any key.
    Scopes(Scopes),
    /// It does not say, so nobody may.
    Unsaid,
}

impl Operations {
    /// Those of a document.
    pub(super) fn of(document: &Value) -> Self {
        let all = described::operations(document).map(|(path, method, operation)| {
            let part = |text: &str| match text.starts_with('{') {
                true => Part::Parameter,
                false => Part::Text(text.to_owned()),
            };
            let own = operation["x-own-scope"].as_str().and_then(|word| word.parse().ok());
            Operation { method, route: path.split('/').map(part).collect(), needs: Needs::of(operation), own }
        });
        Operations(all.collect())
    }

    /// What a request needs; `None` when it fits no operation.
    pub(super) fn needs(&self, method: &str, path: &str) -> Option<Needs> {
        self.fitting(method, path).map(|operation| operation.needs).reduce(|one, other| match (one, other) {
            (Needs::Scopes(one), Needs::Scopes(other)) => Needs::Scopes(one.iter().chain(other.iter()).collect()),
            _ => Needs::Unsaid,
        })
    }

    /// By which scope a key may do this with a message of its own.
    pub(super) fn own(&self, method: &str, path: &str) -> Option<Scope> {
        let all = self.fitting(method, path).map(|operation| operation.own);
        all.reduce(|one, other| one.filter(|_| one == other)).flatten()
    }

    fn fitting(&self, method: &str, path: &str) -> impl Iterator<Item = &Operation> {
        self.0.iter().filter(move |operation| operation.method == method && operation.fits(path))
    }
}

impl Operation {
    fn fits(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        let fits = self.route.iter().all(|part| match (part, parts.next()) {
            (Part::Text(text), Some(given)) => text == given,
            (Part::Parameter, Some(given)) => !given.is_empty(),
            (_, None) => false,
        });
        fits && parts.next().is_none()
    }
}

impl Needs {
    fn of(operation: &Value) -> Self {
        match operation["x-scope"].as_str() {
            None | Some("") => Needs::Unsaid,
            Some(NO_SCOPE) => Needs::Scopes(Scopes::default()),
            // several words: all of them
            Some(words) => match words.split(' ').map(str::parse::<Scope>).collect::<Result<Scopes, _>>() {
                Ok(scopes) => Needs::Scopes(scopes),
                Err(_) => Needs::Unsaid,
            },
        }
    }
}

/// Refuses what the principal may not do.
pub(super) fn check(
    needs: Needs,
    method: &str,
    path: &str,
    principal: &Principal,
    configuration: &Configuration,
) -> Result<(), Problem> {
    let Needs::Scopes(scopes) = needs else {
        tracing::error!(method, path, "an operation names no scope; it is refused to everybody");
        return Err(Problem::new(ProblemKind::Forbidden, "this operation names no scope, so nobody may use it"));
    };
    scopes.iter().try_for_each(|scope| require(principal, scope))?;
    if principal.objects.is_empty() { Ok(()) } else { within_objects(scopes, method, path, principal, configuration) }
}

/// Refuses whoever has not this scope.
pub(super) fn require(principal: &Principal, scope: Scope) -> Result<(), Problem> {
    if principal.may(scope) {
        return Ok(());
    }
    let detail = format!("this needs the scope {scope}, which {:?} has not", principal.name);
    Err(Problem::new(ProblemKind::Forbidden, detail))
}

/// What a key that is limited to some objects may do.
fn within_objects(
    scopes: Scopes,
    method: &str,
    path: &str,
    principal: &Principal,
    configuration: &Configuration,
) -> Result<(), Problem> {
    const READING: [Scope; 5] =
        [Scope::QueueRead, Scope::TrackingRead, Scope::MetricsRead, Scope::MessagesSend, Scope::MessagesContent];
    let parts: Vec<&str> = path.strip_prefix("/api/v1/").unwrap_or(path).split('/').collect();
    let (collection, name) = match (method, parts.as_slice()) {
        // these look at labels themselves
        ("GET" | "PUT" | "PATCH" | "DELETE", [collection] | [collection, _])
            if Collection::from_path(collection).is_some() =>
        {
            return Ok(());
        }
        ("POST", ["api-keys", _, "rotate"]) => return Ok(()),
        ("POST", [collection @ ("virtual-servers" | "connectors"), name, _]) => {
            (Collection::from_path(collection), (*name).to_owned())
        }
        ("POST", ["queues", id, _]) => match id.parse::<QueueName>() {
            Ok(QueueName::SmartHost(name) | QueueName::Dns(name, _)) => {
                (Some(Collection::Connectors), name.to_string())
            }
            Ok(QueueName::Local(name)) => (Some(Collection::MailboxStores), name.to_string()),
            _ => (None, String::new()),
        },
        _ if scopes.iter().all(|scope| READING.contains(&scope)) => return Ok(()),
        _ => (None, String::new()),
    };
    let object = collection.map(|collection| configuration.get(collection, &name)).transpose();
    let object = object.map_err(|error| store_problem(&error))?.flatten();
    match object.filter(|object| principal.objects.matches(&object.labels)) {
        Some(_) => Ok(()),
        None => {
            let detail = format!("the key is limited to objects with {}, and this is not about one", principal.objects);
            Err(Problem::new(ProblemKind::Forbidden, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(paths: serde_json::Value) -> Operations {
        Operations::of(&serde_json::json!({"paths": paths}))
    }

    #[test]
    fn what_is_not_said_is_refused() {
        let of = |scope: serde_json::Value| serde_json::json!({"responses": {}, "x-scope": scope});
        let all = operations(serde_json::json!({
            "/api/v1/a": {"get": of("queue:read".into()), "put": of("queue:write config:read".into())},
            "/api/v1/b": {"get": {"responses": {}}, "put": of("queue:fly".into()), "post": of("".into()), "delete": of(1.into())},
            "/api/v1/c": {"get": of("none".into())},
            "/api/v1/d/{id}": {"get": of("queue:read".into())},
            "/api/v1/d/x": {"get": of("keys:write".into())}
        }));
        let scopes = |of: &[Scope]| Some(Needs::Scopes(of.iter().copied().collect()));
        assert_eq!(all.needs("GET", "/api/v1/a"), scopes(&[Scope::QueueRead]));
        assert_eq!(all.needs("PUT", "/api/v1/a"), scopes(&[Scope::QueueWrite, Scope::ConfigRead]));
        for method in ["GET", "PUT", "POST", "DELETE"] {
            assert_eq!(all.needs(method, "/api/v1/b"), Some(Needs::Unsaid), "{method}");
        }
        assert_eq!(all.needs("GET", "/api/v1/c"), scopes(&[]));
        assert_eq!(all.needs("GET", "/api/v1/d/y"), scopes(&[Scope::QueueRead]));
        assert_eq!(all.needs("GET", "/api/v1/d/x"), scopes(&[Scope::QueueRead, Scope::KeysWrite]), "of both");
        for path in ["/api/v1/d", "/api/v1/d/", "/api/v1/d/y/z", "/api/v1/a/", "/api/v1", ""] {
            assert_eq!(all.needs("GET", path), None, "{path}");
        }
        assert_eq!(all.needs("PATCH", "/api/v1/a"), None);
    }
}
