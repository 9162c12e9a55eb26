//! The REST API: what an operator, a program and the command line see of the appliance.
//!
//! [`server`] has the routes and what is around all of them; [`kinds`] the collections of configuration, which
//! share [`resources`]; [`config`] all of them as one document; [`settings`], [`domains`], [`logins`], [`queues`],
//! [`messages`], [`alerts`], [`submit`], [`bulk`], [`explain`], [`sessions`], [`running`], [`drain`], [`backup`], [`tls_reports`], [`tracking`],
//! [`events`], [`event_sinks`], [`health`] and [`docs`] the
//! rest.
//! [`document`] makes OpenAPI out of the same routes; what the checked-in document ([`crate::config::openapi`]) says of an operation is
//! known in `described`. A request is read strictly ([`query`], [`body`], [`etag`]) by a
//! caller with a key ([`auth`], [`keys`]) that gives what the operation needs (`access`); whatever is refused is a [`problem`].
//!
//! Nothing is decided here. Changes of configuration are judged by `config`, actions on mail are done by `queue`, mail is taken by `intake`; the API
//! turns requests into their words, and their answers into JSON. On failure the caller gets the kind of the problem and
//! a request id, and the log gets the reason.

mod access;
mod alerts;
mod api_keys;
mod audit;
pub mod auth;
mod backup;
mod body;
mod bulk;
mod client;
mod codes;
mod config;
mod connector_test;
mod described;
mod directory;
mod docs;
mod document;
mod domains;
mod drain;
mod errors;
mod etag;
mod event_sinks;
mod events;
mod explain;
pub mod health;
mod holds;
mod imports;
pub mod keys;
mod kinds;
mod large_body;
mod letter;
mod logins;
mod mail;
mod messages;
mod ndjson;
mod problem;
mod query;
mod queues;
mod quotas;
mod resources;
mod routes;
mod running;
mod server;
mod sessions;
mod settings;
mod shapes;
mod status;
mod steering;
mod submit;
mod suppressions;
mod tls_reports;
mod tracking;
mod transfer;
mod whoami;

pub use auth::Principal;
pub use document::{openapi, openapi_json};
pub use health::{Check, Exposition, Health, Probe};
pub use keys::{AdminKey, ApiKeySource, BearerTokens, FirstKey, KeyFault, Keys};
pub use logins::Logins;
pub use server::{Api, Handles, Issuers, Listen, Listeners, Server, StartError};
pub use shapes::{BoundAddress, Condition, ConditionStatus, ConditionType, VirtualServerState, VirtualServerStatus};
