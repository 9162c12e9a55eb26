//! Objects as they are stored and shown.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::secrets::Kept;
use super::violation::{Violation, ViolationCode};
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::secret::Secret;
use crate::model::spec::account::AccountPassword;
use crate::model::spec::api_key::ApiKeySecret;
use crate::model::spec::connector::Authentication;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{
    AccountSpec, ApiKeySpec, CertificateSpec, Collection, ConnectorSpec, EventSinkSpec, FilterSpec,
    IdentityProviderSpec, MailboxStoreSpec, RecipientPolicySpec, RecipientSpec, RemoteDomainSpec, SettingsSpec,
    VirtualServerSpec,
};

/// An object of the configuration, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which kind.
    pub collection: Collection,
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// Who wrote it: `system`, `api`, `file`, or whom an apply named.
    pub owner: String,
    /// Rises by one with each change of labels or spec; the ETag.
    pub generation: u64,
    /// The spec, with all defaults filled in.
    pub spec: Value,
    /// The addresses of a recipient, primary first; empty for other kinds.
    pub addresses: Vec<StampedAddress>,
}

/// An object as it is stored under `object/<collection>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of this form: 1.
    pub v: u32,
    /// See [`Object::labels`].
    #[serde(default)]
    pub labels: Labels,
    /// See [`Object::owner`].
    pub owner: String,
    /// See [`Object::generation`].
    pub generation: u64,
    /// See [`Object::spec`].
    pub spec: Value,
    /// See [`Object::addresses`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<StampedAddress>,
    /// The values of the spec's secrets. They leave the record only by way of [`super::Vault`].
    #[serde(default, skip_serializing_if = "Kept::is_empty")]
    pub secrets: Kept,
}

impl Record {
    /// One without addresses.
    pub(super) fn new(labels: Labels, owner: &str, generation: u64, spec: Value, secrets: Kept) -> Self {
        Record { v: 1, labels, owner: owner.to_owned(), generation, spec, addresses: Vec::new(), secrets }
    }

    /// As the audit log has it: without the values of secrets.
    pub fn audited(&self) -> Record {
        Record { secrets: Kept::default(), ..self.clone() }
    }

    /// As it is shown; [`super::Vault::show`] adds what is so of its secrets now.
    pub(super) fn object(self, collection: Collection, name: Name) -> Object {
        let Record { labels, owner, generation, spec, addresses, .. } = self;
        Object { collection, name, labels, owner, generation, spec, addresses }
    }
}

/// The spec of any kind of object, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Of a virtual server.
    VirtualServer(Arc<VirtualServerSpec>),
    /// Of a recipient policy.
    RecipientPolicy(Arc<RecipientPolicySpec>),
    /// Of a recipient.
    Recipient(Arc<RecipientSpec>),
    /// Of a mailbox store.
    MailboxStore(Arc<MailboxStoreSpec>),
    /// Of a connector.
    Connector(Arc<ConnectorSpec>),
    /// Of a certificate.
    Certificate(Arc<CertificateSpec>),
    /// Of an account.
    Account(Arc<AccountSpec>),
    /// Of an identity provider.
    IdentityProvider(Arc<IdentityProviderSpec>),
    /// Of a filter.
    Filter(Arc<FilterSpec>),
    /// Of a remote domain.
    RemoteDomain(Arc<RemoteDomainSpec>),
    /// Of an API key.
    ApiKey(Arc<ApiKeySpec>),
    /// Of an event sink.
    EventSink(Arc<EventSinkSpec>),
    /// The settings.
    Settings(Arc<SettingsSpec>),
}

impl Spec {
    /// Parses the spec of an object of this kind.
    ///
    /// # Errors
    /// The first thing that is wrong; the schema has found most of it before.
    pub fn parse(collection: Collection, spec: &Value) -> Result<Self, Violation> {
        match collection {
            Collection::VirtualServers => from_value(spec).map(Spec::VirtualServer),
            Collection::RecipientPolicies => from_value(spec).map(Spec::RecipientPolicy),
            Collection::Recipients => from_value(spec).map(Spec::Recipient),
            Collection::MailboxStores => from_value(spec).map(Spec::MailboxStore),
            Collection::Connectors => from_value(spec).map(Spec::Connector),
            Collection::Certificates => from_value(spec).map(Spec::Certificate),
            Collection::Accounts => from_value(spec).map(Spec::Account),
            Collection::IdentityProviders => from_value(spec).map(Spec::IdentityProvider),
            Collection::Filters => from_value(spec).map(Spec::Filter),
            Collection::RemoteDomains => from_value(spec).map(Spec::RemoteDomain),
            Collection::ApiKeys => from_value(spec).map(Spec::ApiKey),
            Collection::EventSinks => from_value(spec).map(Spec::EventSink),
            Collection::Settings => from_value(spec).map(Spec::Settings),
        }
    }

    /// Which kind it is of.
    pub fn collection(&self) -> Collection {
        match self {
            Spec::VirtualServer(_) => Collection::VirtualServers,
            Spec::RecipientPolicy(_) => Collection::RecipientPolicies,
            Spec::Recipient(_) => Collection::Recipients,
            Spec::MailboxStore(_) => Collection::MailboxStores,
            Spec::Connector(_) => Collection::Connectors,
            Spec::Certificate(_) => Collection::Certificates,
            Spec::Account(_) => Collection::Accounts,
            Spec::IdentityProvider(_) => Collection::IdentityProviders,
            Spec::Filter(_) => Collection::Filters,
            Spec::RemoteDomain(_) => Collection::RemoteDomains,
            Spec::ApiKey(_) => Collection::ApiKeys,
            Spec::EventSink(_) => Collection::EventSinks,
            Spec::Settings(_) => Collection::Settings,
        }
    }

    /// Its secrets, each with its pointer from the root of the spec. A collection that has any is one of
    /// [`Collection::may_hold_secrets`].
    pub fn secrets_mut(&mut self) -> Vec<(String, &mut Secret)> {
        match self {
            Spec::Certificate(spec) => vec![("/privateKey".to_owned(), &mut Arc::make_mut(spec).private_key)],
            Spec::Account(spec) => match &mut Arc::make_mut(spec).password {
                Some(AccountPassword::Secret(secret)) => vec![("/password".to_owned(), secret)],
                Some(AccountPassword::Hash(_)) | None => Vec::new(),
            },
            Spec::ApiKey(spec) => match &mut Arc::make_mut(spec).key {
                Some(ApiKeySecret::Secret(secret)) => vec![("/key".to_owned(), secret)],
                Some(ApiKeySecret::Hash { .. }) | None => Vec::new(),
            },
            Spec::MailboxStore(spec) => match Arc::make_mut(spec) {
                MailboxStoreSpec::Webhook(hook) => vec![("/secret".to_owned(), &mut hook.secret)],
                MailboxStoreSpec::Maildir(_) | MailboxStoreSpec::Lmtp(_) | MailboxStoreSpec::Drop(_) => Vec::new(),
            },
            Spec::EventSink(spec) => vec![("/secret".to_owned(), &mut Arc::make_mut(spec).secret)],
            Spec::Connector(spec) => {
                let ConnectorSpec { authentication, request_dequeue, .. } = Arc::make_mut(spec);
                let asks = request_dequeue.as_mut();
                let asks = asks.map(|asks| ("/requestDequeue/authentication", &mut asks.authentication));
                let all = std::iter::once(("/authentication", authentication)).chain(asks);
                all.flat_map(|(at, authentication)| login_secrets(at, authentication)).collect()
            }
            Spec::Settings(spec) => {
                let SettingsSpec { alerts, tracing, .. } = Arc::make_mut(spec);
                let password = alerts.smart_host.as_mut().and_then(|host| host.password.as_mut());
                let password = password.map(|secret| ("/alerts/smartHost/password".to_owned(), secret));
                let headers = tracing.headers.iter_mut();
                password
                    .into_iter()
                    .chain(headers.map(|(name, value)| (format!("/tracing/headers/{name}"), value)))
                    .collect()
            }
            Spec::VirtualServer(_)
            | Spec::RecipientPolicy(_)
            | Spec::Recipient(_)
            | Spec::IdentityProvider(_)
            | Spec::Filter(_)
            | Spec::RemoteDomain(_) => Vec::new(),
        }
    }

    /// As JSON, with all defaults filled in and every value in its canonical form.
    pub fn value(&self) -> Value {
        match self {
            Spec::VirtualServer(spec) => to_value(spec),
            Spec::RecipientPolicy(spec) => to_value(spec),
            Spec::Recipient(spec) => to_value(spec),
            Spec::MailboxStore(spec) => to_value(spec),
            Spec::Connector(spec) => to_value(spec),
            Spec::Certificate(spec) => to_value(spec),
            Spec::Account(spec) => to_value(spec),
            Spec::IdentityProvider(spec) => to_value(spec),
            Spec::Filter(spec) => to_value(spec),
            Spec::RemoteDomain(spec) => to_value(spec),
            Spec::ApiKey(spec) => to_value(spec),
            Spec::EventSink(spec) => to_value(spec),
            Spec::Settings(spec) => to_value(spec),
        }
    }
}

fn to_value<T: Serialize>(spec: &Arc<T>) -> Value {
    serde_json::to_value(&**spec).expect("specs have text keys and finite numbers only")
}

fn from_value<T: DeserializeOwned>(spec: &Value) -> Result<Arc<T>, Violation> {
    serde_path_to_error::deserialize(spec).map(Arc::new).map_err(|error| {
        let mut pointer = "/spec".to_owned();
        for segment in error.path() {
            match segment {
                serde_path_to_error::Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                serde_path_to_error::Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
                serde_path_to_error::Segment::Enum { variant } => pointer.push_str(&format!("/{}", escape(variant))),
                serde_path_to_error::Segment::Unknown => {}
            }
        }
        Violation::new(pointer, ViolationCode::InvalidValue, error.inner().to_string())
    })
}

/// A key as a part of a JSON pointer (RFC 6901, 3).
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The secrets of a login whose place in the spec is this.
fn login_secrets<'a>(at: &'a str, login: &'a mut Authentication) -> impl Iterator<Item = (String, &'a mut Secret)> {
    let Authentication { password, oauth2, .. } = login;
    let (client, refresh) =
        oauth2.as_mut().map_or((None, None), |of| (of.client_secret.as_mut(), of.refresh_token.as_mut()));
    [("password", password.as_mut()), ("oauth2/clientSecret", client), ("oauth2/refreshToken", refresh)]
        .into_iter()
        .filter_map(move |(field, secret)| Some((format!("{at}/{field}"), secret?)))
}
