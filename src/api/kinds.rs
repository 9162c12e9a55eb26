//! The kinds of configuration: for each its types, as OpenAPI names them, and its five operations.
//!
//! utoipa cannot name generic types, so every kind has types of its own; the macro writes them, with the handlers, which
//! all end in [`super::resources`].

use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::errors::{DeleteErrors, ListErrors, PatchErrors, PutErrors, ReadErrors};
use super::etag::{CreateCondition, MatchCondition, ReadCondition};
use super::problem::Problem;
use super::query::{NoParams, Params};
use super::resources::{self, ListParams, Resource, Told, WriteParams};
use super::server::State;
use super::shapes::{CertificateStatus, MergePatch, ObjectStatus, RecipientStatus, VirtualServerStatus};
use super::status;
use crate::config::{Effects, Object, Warning};
use crate::model::labels::Labels;
use crate::model::spec::{
    AccountSpec, CertificateSpec, Collection, ConnectorSpec, EventSinkSpec, FilterSpec, IdentityProviderSpec,
    MailboxStoreSpec, RecipientPolicySpec, RecipientSpec, RemoteDomainSpec, VirtualServerSpec,
};

/// Types and operations of one kind.
macro_rules! kind {
    (
        $module:ident = $collection:ident, $tag:literal, $path:tt, $item:tt;
        $resource:ident, $list:ident, $input:ident, $spec:ident, $status:ident by $show:ident;
        one $a:literal, many $many:literal, called $called:literal;
        ids $list_id:literal, $get_id:literal, $put_id:literal, $patch_id:literal, $delete_id:literal;
        list $params:ident $list_about:literal by $list_by:path;
        put $put_about:literal;
        delete $delete_about:literal;
        spec $example:tt; status $example_status:tt; patch $example_patch:tt
    ) => {
        #[doc = concat!("`", $tag, "`.")]
        pub mod $module {
            use super::*;
            use $list_by as list_objects;

            #[doc = concat!("What is stored about ", $a, ", and how it is now.")]
            #[derive(Debug, Serialize, ToSchema)]
            #[serde(rename_all = "camelCase")]
            #[schema(description = concat!("What is stored about ", $a, ", and how it is now."), example = example)]
            pub struct $resource {
                /// Its name, which never changes.
                name: String,
                /// Labels, for people and tools.
                labels: Labels,
                /// Who owns it: `api`, `file`, `system`, or the name that an apply gave.
                owner: String,
                /// Counts the changes of labels and spec; also the entity tag.
                generation: u64,
                /// What it shall be. Every field that has a default is shown with it.
                #[schema(value_type = $spec)]
                spec: Value,
                /// How it is now. Does not count as a change.
                status: $status,
                /// Only in the answer to a write: what is allowed but may not be meant.
                #[serde(skip_serializing_if = "Vec::is_empty")]
                #[schema(required = false)]
                warnings: Vec<Warning>,
                /// Only in the answer to a write that changes addresses of recipients: how many, and in a dry run which.
                #[serde(skip_serializing_if = "Option::is_none")]
                #[schema(required = false, nullable = false)]
                effects: Option<Effects>,
            }

            /// A page of a listing.
            #[derive(Debug, Serialize, ToSchema)]
            #[serde(rename_all = "camelCase")]
            #[allow(dead_code, reason = "the shape that resources::Page has, with its name in OpenAPI")]
            pub struct $list {
                /// The objects of this page, by name.
                items: Vec<$resource>,
                /// Give it as `cursor` to get the next page; absent on the last one.
                #[serde(skip_serializing_if = "Option::is_none")]
                #[schema(required = false, nullable = false)]
                next_cursor: Option<String>,
            }

            #[doc = concat!("What to write to ", $a, ". Absent fields take their defaults.")]
            #[derive(Debug, Deserialize, ToSchema)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            #[schema(description = concat!("What to write to ", $a, ". Absent fields take their defaults."), example = input_example)]
            #[allow(dead_code, reason = "only described; config reads the JSON, to report everything that is wrong")]
            pub struct $input {
                /// Labels, for people and tools.
                #[serde(default)]
                labels: Labels,
                /// What it shall be.
                spec: $spec,
            }

            impl Resource for $resource {
                const COLLECTION: Collection = Collection::$collection;

                fn show(object: Object, told: Told, state: &State) -> Self {
                    let status = status::$show(&object, state);
                    $resource {
                        name: object.name.to_string(),
                        labels: object.labels,
                        owner: object.owner,
                        generation: object.generation,
                        spec: object.spec,
                        status,
                        warnings: told.warnings,
                        effects: told.effects,
                    }
                }
            }

            fn example() -> Value {
                json!({
                    "name": $called, "labels": {"team": "mail"}, "owner": "api", "generation": 7,
                    "spec": json!($example), "status": json!($example_status)
                })
            }

            fn list_example() -> Value {
                json!({"items": [example()]})
            }

            fn input_example() -> Value {
                json!({"labels": {"team": "mail"}, "spec": json!($example)})
            }

            fn patch_example() -> Value {
                json!($example_patch)
            }

            #[utoipa::path(
                tag = $tag,
                operation_id = $list_id,
                summary = concat!("List ", $many),
                description = concat!($list_about, " Scope: `config:read`."),
                params($params),
                responses(
                    (status = 200, description = "A page, by name.", body = $list, example = list_example),
                    ListErrors,
                ),
                security(("key" = [])),
                extensions(("x-scope" = json!("config:read")))
            )]
            #[get($path)]
            #[doc = concat!("Lists ", $many, ".")]
            pub async fn list(
                request: HttpRequest,
                params: Params<$params>,
                state: web::Data<State>,
            ) -> Result<HttpResponse, Problem> {
                list_objects::<$resource>(&request, params.0, &state).await
            }

            #[utoipa::path(
                tag = $tag,
                operation_id = $get_id,
                summary = concat!("Get ", $a),
                description = "What is configured and how it is now. The entity tag is the generation; with `If-None-Match` an \
                     unchanged object is 304, though its status may have changed. Scope: `config:read`.",
                params(
                    ("name" = String, Path, description = "The object's name.", example = $called),
                    ReadCondition,
                ),
                responses(
                    (status = 200, description = "The object.", body = $resource,
                        headers(("ETag" = String, description = "The generation in quotes.")), example = example),
                    (status = 304, description = "It still has this generation."),
                    ReadErrors,
                ),
                security(("key" = [])),
                extensions(("x-scope" = json!("config:read")))
            )]
            #[get($item)]
            #[doc = concat!("Gets ", $a, ".")]
            pub async fn read(
                request: HttpRequest,
                name: web::Path<String>,
                _: Params<NoParams>,
                state: web::Data<State>,
            ) -> Result<HttpResponse, Problem> {
                resources::get::<$resource>(&request, &name, &state).await
            }

            #[utoipa::path(
                tag = $tag,
                operation_id = $put_id,
                summary = concat!("Create or replace ", $a),
                description = concat!(
                    $put_about,
                    " Replaces labels and spec as a whole: absent fields take their defaults. Equal content changes \
                     nothing. Takes effect without a restart. All violations are reported at once, and then nothing \
                     is changed. Scope: `config:write`."
                ),
                params(
                    ("name" = String, Path, description = "The object's name.", example = $called),
                    WriteParams,
                    MatchCondition,
                    CreateCondition,
                ),
                request_body(content = $input, content_type = "application/json", description = "What it shall be.", example = input_example),
                responses(
                    (status = 200, description = "It was replaced, or was equal already; the header tells which.", body = $resource,
                        headers(
                            ("ETag" = String, description = "The generation in quotes."),
                            ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
                        ), example = example),
                    (status = 201, description = "It was created.", body = $resource,
                        headers(
                            ("ETag" = String, description = "The generation in quotes."),
                            ("Location" = String, description = "Where it is."),
                            ("Bridgehead-Change" = String, description = "`created`."),
                        ), example = example),
                    PutErrors,
                ),
                security(("key" = [])),
                extensions(("x-scope" = json!("config:write")))
            )]
            #[put($item)]
            #[doc = concat!("Creates or replaces ", $a, ".")]
            pub async fn replace(
                request: HttpRequest,
                payload: web::Payload,
                name: web::Path<String>,
                params: Params<WriteParams>,
                state: web::Data<State>,
            ) -> Result<HttpResponse, Problem> {
                resources::put::<$resource>(&request, payload, &name, params.0, &state).await
            }

            #[utoipa::path(
                tag = $tag,
                operation_id = $patch_id,
                summary = concat!("Change ", $a),
                description = "Merges the body into labels and spec (JSON merge patch, RFC 7396): what is absent stays, null puts \
                     a field back to its default, lists are replaced whole. Scope: `config:write`.",
                params(
                    ("name" = String, Path, description = "The object's name.", example = $called),
                    WriteParams,
                    MatchCondition,
                ),
                request_body(content = MergePatch, content_type = "application/merge-patch+json", description = "What shall change.", example = patch_example),
                responses(
                    (status = 200, description = "The object as it is now.", body = $resource,
                        headers(
                            ("ETag" = String, description = "The generation in quotes."),
                            ("Bridgehead-Change" = String, description = "`updated` or `unchanged`."),
                        ), example = example),
                    PatchErrors,
                ),
                security(("key" = [])),
                extensions(("x-scope" = json!("config:write")))
            )]
            #[patch($item)]
            #[doc = concat!("Changes ", $a, ".")]
            pub async fn change(
                request: HttpRequest,
                payload: web::Payload,
                name: web::Path<String>,
                params: Params<WriteParams>,
                state: web::Data<State>,
            ) -> Result<HttpResponse, Problem> {
                resources::patch::<$resource>(&request, payload, &name, params.0, &state).await
            }

            #[utoipa::path(
                tag = $tag,
                operation_id = $delete_id,
                summary = concat!("Delete ", $a),
                description = concat!($delete_about, " Scope: `config:write`."),
                params(
                    ("name" = String, Path, description = "The object's name.", example = $called),
                    WriteParams,
                    MatchCondition,
                ),
                responses(
                    (status = 200, description = "With `dryRun`: what would be deleted.", body = $resource, example = example),
                    (status = 204, description = "It is gone."),
                    DeleteErrors,
                ),
                security(("key" = [])),
                extensions(("x-scope" = json!("config:write")))
            )]
            #[delete($item)]
            #[doc = concat!("Deletes ", $a, ".")]
            pub async fn remove(
                request: HttpRequest,
                name: web::Path<String>,
                params: Params<WriteParams>,
                state: web::Data<State>,
            ) -> Result<HttpResponse, Problem> {
                resources::delete::<$resource>(&request, &name, params.0, &state).await
            }
        }
    };
}

kind! {
    virtual_servers = VirtualServers, "virtual-servers", "/virtual-servers", "/virtual-servers/{name}";
    VirtualServer, VirtualServerList, VirtualServerInput, VirtualServerSpec, VirtualServerStatus by virtual_server;
    one "an SMTP virtual server", many "SMTP virtual servers", called "internal";
    ids "listVirtualServers", "getVirtualServer", "putVirtualServer", "patchVirtualServer", "deleteVirtualServer";
    list ListParams "Where mail comes in: each virtual server with its bindings, limits and relay rules, and where it \
                     listens now." by super::resources::list;
    put "Bindings are opened and closed at once; sessions that are open keep the settings they began with.";
    delete "Its bindings are closed and open sessions end after their transaction. Mail that it took is delivered with \
            the settings of the default virtual server.";
    spec {
        "bindings": [{"address": "127.0.0.1", "port": 2526}],
        "fqdn": "relay.example.com",
        "relay": {"allow": ["10.0.0.0/8"]},
        "messages": {"maxSize": "50MiB"}
    };
    status {
        "state": "running",
        "listeners": [{"address": "127.0.0.1", "port": 2526}],
        "conditions": [{
            "type": "Listening", "status": "true", "reason": "bound", "message": "all bindings are open",
            "lastTransitionTime": "2026-11-24T10:15:02.113Z", "observedGeneration": 7
        }]
    };
    patch {"spec": {"relay": {"allow": ["10.0.0.0/8", "192.168.0.0/16"]}, "messages": null}}
}

kind! {
    recipient_policies = RecipientPolicies, "recipient-policies", "/recipient-policies", "/recipient-policies/{name}";
    RecipientPolicy, RecipientPolicyList, RecipientPolicyInput, RecipientPolicySpec, ObjectStatus by object;
    one "a recipient policy", many "recipient policies", called "staff";
    ids "listRecipientPolicies", "getRecipientPolicy", "putRecipientPolicy", "patchRecipientPolicy",
        "deleteRecipientPolicy";
    list ListParams "Which addresses recipients get, and so which domains are local. The policy `default` is always last."
        by super::resources::list;
    put "The addresses of every recipient that the policy touches are written in the same step, also when that is a million; \
         the answer comes when all of it is durable. A dry run counts and lists them in `effects`.";
    delete "The policy `default` cannot be deleted. Recipients that it matched get their addresses from the next policy \
            that matches.";
    spec {"priority": 10, "addresses": [{"template": "%g.%s@example.com", "primary": true}]};
    status {"state": "active", "conditions": []};
    patch {"spec": {"priority": 20}}
}

kind! {
    recipients = Recipients, "recipients", "/recipients", "/recipients/{name}";
    Recipient, RecipientList, RecipientInput, RecipientSpec, RecipientStatus by recipient;
    one "a recipient", many "recipients", called "ada";
    ids "listRecipients", "getRecipient", "putRecipient", "patchRecipient", "deleteRecipient";
    list RecipientListParams "Who has mail here. With `address` the one recipient that has this address, if there is one."
        by super::recipient_listing::list;
    put "Its addresses follow from the recipient policies and stand in the status.";
    delete "Its addresses are free again; its mailbox stays on disk. Mail that waits for it is deferred, then returned.";
    spec {"type": "mailbox", "givenName": "Ada", "surname": "Lovelace"};
    status {
        "state": "active",
        "addresses": [{"address": "ada.lovelace@example.com", "primary": true}],
        "conditions": []
    };
    patch {"spec": {"displayName": "Ada Lovelace"}}
}

kind! {
    mailbox_stores = MailboxStores, "mailbox-stores", "/mailbox-stores", "/mailbox-stores/{name}";
    MailboxStore, MailboxStoreList, MailboxStoreInput, MailboxStoreSpec, ObjectStatus by object;
    one "a mailbox store", many "mailbox stores", called "archive";
    ids "listMailboxStores", "getMailboxStore", "putMailboxStore", "patchMailboxStore", "deleteMailboxStore";
    list ListParams "Where local mail ends." by super::resources::list;
    put "Mail that waits for the store is delivered to where it then points.";
    delete "Refused while a recipient names it. What lies in it stays on disk.";
    spec {"type": "maildir", "path": "archive"};
    status {"state": "active", "conditions": []};
    patch {"labels": {"stage": "production"}}
}

kind! {
    connectors = Connectors, "connectors", "/connectors", "/connectors/{name}";
    Connector, ConnectorList, ConnectorInput, ConnectorSpec, ObjectStatus by connector;
    one "an SMTP connector", many "SMTP connectors", called "partner";
    ids "listConnectors", "getConnector", "putConnector", "patchConnector", "deleteConnector";
    list ListParams "How mail leaves: which domains each connector carries mail for, at what cost, and where it takes it."
        by super::resources::list;
    put "Mail that waits for the connector is routed anew where its address spaces no longer fit.";
    delete "Mail that waits for it is routed anew; what no other connector carries waits in the queue `unrouted`.";
    spec {
        "addressSpaces": [{"pattern": "*.example.org", "cost": 10}],
        "route": {"smartHosts": [{"host": "smtp.example.org", "port": 25}]}
    };
    status {"state": "active", "conditions": []};
    patch {"spec": {"enabled": false}}
}

kind! {
    certificates = Certificates, "certificates", "/certificates", "/certificates/{name}";
    Certificate, CertificateList, CertificateInput, CertificateSpec, CertificateStatus by certificate;
    one "a certificate", many "certificates", called "mail";
    ids "listCertificates", "getCertificate", "putCertificate", "patchCertificate", "deleteCertificate";
    list ListParams "Who the virtual servers can prove to be, each with what is in force. Private keys are never shown."
        by super::resources::list;
    put "A chain and a key that do not belong together, or cannot be read, are refused. Files are watched: a good pair is \
         in force from the next connection, a broken one leaves the one that was in force and makes `CertificateValid` \
         false.";
    delete "Refused while a virtual server names it.";
    spec {"chain": {"file": "smtp/tls.crt"}, "privateKey": {"file": "smtp/tls.key"}};
    status {
        "state": "active",
        "names": ["mail.example.com"],
        "issuer": "C=US, O=Let's Encrypt, CN=E7",
        "notBefore": "2026-11-01T08:00:00.000Z",
        "notAfter": "2027-01-30T08:00:00.000Z",
        "fingerprint": "7ed38d9ec4e4f0a6ff1fbb52b5d8ad6cf6a0d8f1f1d3d2f3f4bd5dbd2b0b4f1e",
        "conditions": [{
            "type": "CertificateValid", "status": "true", "reason": "valid", "message": "", "observedGeneration": 7
        }]
    };
    patch {"spec": {"chain": {"file": "smtp/tls.crt"}}}
}

kind! {
    accounts = Accounts, "accounts", "/accounts", "/accounts/{name}";
    Account, AccountList, AccountInput, AccountSpec, ObjectStatus by account;
    one "an account", many "accounts", called "ada";
    ids "listAccounts", "getAccount", "putAccount", "patchAccount", "deleteAccount";
    list ListParams "Who may authenticate over SMTP." by super::resources::list;
    put "Of a password only what can check it is kept, and it is never shown: writing the fingerprint that was read keeps \
         it. A new password holds from the next login on.";
    delete "It cannot log in any more. Sessions in which it has logged in go on.";
    spec {"username": "ada@example.com", "sendAs": ["ada@example.com", "*@news.example.com"], "quotas": {"messages": "100/1h"}};
    status {"state": "active", "conditions": []};
    patch {"spec": {"password": {"value": "correct horse battery staple"}}}
}

kind! {
    identity_providers = IdentityProviders, "identity-providers", "/identity-providers", "/identity-providers/{name}";
    IdentityProvider, IdentityProviderList, IdentityProviderInput, IdentityProviderSpec, ObjectStatus by identity_provider;
    one "an identity provider", many "identity providers", called "login";
    ids "listIdentityProviders", "getIdentityProvider", "putIdentityProvider", "patchIdentityProvider",
        "deleteIdentityProvider";
    list ListParams "Whose tokens accounts may log in with, on the virtual servers that name them, and whether their keys \
                     could be fetched." by super::resources::list;
    put "Its keys are fetched when a token first needs them.";
    delete "Refused while a virtual server names it.";
    spec {"issuer": "https://login.example.com/", "audience": "smtp", "jwksUri": "https://login.example.com/keys"};
    status {
        "state": "active",
        "conditions": [{
            "type": "Reachable", "status": "true", "reason": "keysFetched", "message": "keys: 2",
            "observedGeneration": 7
        }]
    };
    patch {"spec": {"usernameClaim": "upn"}}
}

kind! {
    filters = Filters, "filters", "/filters", "/filters/{name}";
    Filter, FilterList, FilterInput, FilterSpec, ObjectStatus by object;
    one "a filter", many "filters", called "lists";
    ids "listFilters", "getFilter", "putFilter", "patchFilter", "deleteFilter";
    list ListParams "Whose mail is not taken: by sender, recipient or client. A filter acts on the bindings of virtual servers \
                     that name it."
        by super::resources::list;
    put "It acts from the next message on, on every binding that names it.";
    delete "Refused while a binding of a virtual server names it.";
    spec {
        "kind": "connection",
        "allow": ["192.0.2.0/24"],
        "dnsbl": [{"zone": "bl.example.org", "codes": ["127.0.0.2"], "reply": "%0 is listed by %2"}],
        "exceptions": ["postmaster@example.com"]
    };
    status {"state": "active", "conditions": []};
    patch {"spec": {"deny": ["198.51.100.7"], "action": "drop"}}
}

kind! {
    remote_domains = RemoteDomains, "remote-domains", "/remote-domains", "/remote-domains/{name}";
    RemoteDomain, RemoteDomainList, RemoteDomainInput, RemoteDomainSpec, ObjectStatus by object;
    one "a remote domain", many "remote domains", called "partner";
    ids "listRemoteDomains", "getRemoteDomain", "putRemoteDomain", "patchRemoteDomain", "deleteRemoteDomain";
    list ListParams "What holds for mail to a domain, whichever connector carries it." by super::resources::list;
    put "It holds from the next session on.";
    delete "What it said holds no more, from the next session on.";
    spec {"pattern": "partner.example", "tls": "verified"};
    status {"state": "active", "conditions": []};
    patch {"spec": {"tls": "dane"}}
}

kind! {
    event_sinks = EventSinks, "event-sinks", "/event-sinks", "/event-sinks/{name}";
    EventSink, EventSinkList, EventSinkInput, EventSinkSpec, ObjectStatus by event_sink;
    one "an event sink", many "event sinks", called "app";
    ids "listEventSinks", "getEventSink", "putEventSink", "patchEventSink", "deleteEventSink";
    list ListParams "Who is told what happens to mail, and whether it is taken." by super::resources::list;
    put "A new sink is told what happens from now on; one that is there goes on where it was. `POST …/replay` goes back.";
    delete "It is told nothing more, and where it was is forgotten.";
    spec {
        "url": "https://app.example.com/events",
        "events": ["relayed", "delivered", "failed", "expired"],
        "secret": {"env": "BRIDGEHEAD_SECRET_EVENTS"}
    };
    status {
        "state": "active",
        "conditions": [{
            "type": "Reachable", "status": "true", "reason": "upToDate", "message": "",
            "lastTransitionTime": "2026-11-24T10:15:02.113Z", "observedGeneration": 7
        }]
    };
    patch {"spec": {"events": ["failed", "expired"]}}
}

pub use recipient_listing::RecipientListParams;

/// The listing of recipients, which can also find the owner of an address.
mod recipient_listing {
    use utoipa::IntoParams;
    use utoipa::openapi::path::{Parameter, ParameterIn};

    use super::*;
    use crate::api::query::{self, FromQuery, Query};
    use crate::smtp::address::Mailbox;

    /// Which recipients to list.
    #[derive(Debug)]
    pub struct RecipientListParams {
        list: ListParams,
        address: Option<Mailbox>,
    }

    impl IntoParams for RecipientListParams {
        fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
            let mut parameters = ListParams::into_params(parameter_in);
            parameters.push(query::text("address", "Only the recipient that has this address.", "ada@example.com"));
            parameters
        }
    }

    impl FromQuery for RecipientListParams {
        fn from_query(query: &mut Query) -> Self {
            RecipientListParams { address: query.get("address"), list: ListParams::from_query(query) }
        }
    }

    /// Lists recipients.
    pub(in crate::api) async fn list<R: Resource>(
        request: &HttpRequest,
        params: RecipientListParams,
        state: &State,
    ) -> Result<HttpResponse, Problem> {
        let Some(address) = params.address else { return resources::list::<R>(request, params.list, state).await };
        let found = state.handles.configuration.recipient_with(&address);
        let found = found.map_err(|error| crate::api::queues::store_problem(&error))?;
        let selector = params.list.selector.and(&resources::visible(request));
        let found = found.filter(|object| selector.matches(&object.labels));
        let items = found.into_iter().map(|object| R::show(object, Told::default(), state)).collect();
        Ok(HttpResponse::Ok().json(resources::Page { items, next_cursor: None }))
    }
}
