//! The `spec` of every kind of configuration object, one file per collection.
//!
//! These types are the single source of three things: what the REST API accepts and shows, what OpenAPI says about it
//! (their doc comments become its descriptions, so they are written for users), and what the rest of the house works
//! with. A value that has the wrong shape cannot be built. What needs more than one object to judge (references,
//! clashes) is the compiler's (`config::compile`).
//!
//! Rules: fields lowerCamelCase; unknown fields are refused; an absent field has the default that its type's
//! [`Default`] gives; an optional field that is absent is left out again when it is written. A field that nothing
//! enforces yet does not exist.

pub mod account;
pub mod api_key;
pub mod certificate;
pub mod connector;
pub mod event_sink;
pub mod filter;
pub mod identity_provider;
pub mod limits;
pub mod mailbox_store;
pub mod recipient;
pub mod recipient_policy;
pub mod remote_domain;
pub mod rewrite_sender;
pub mod settings;
pub mod virtual_server;
pub mod watching;

pub use account::AccountSpec;
pub use api_key::ApiKeySpec;
pub use certificate::CertificateSpec;
pub use connector::ConnectorSpec;
pub use event_sink::EventSinkSpec;
pub use filter::FilterSpec;
pub use identity_provider::IdentityProviderSpec;
pub use mailbox_store::MailboxStoreSpec;
pub use recipient::RecipientSpec;
pub use recipient_policy::RecipientPolicySpec;
pub use remote_domain::RemoteDomainSpec;
pub use settings::SettingsSpec;
pub use virtual_server::VirtualServerSpec;

use super::name::{MAX_LONG_NAME, MAX_NAME};

/// The kinds of configuration objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// `virtual-servers`
    VirtualServers,
    /// `recipient-policies`
    RecipientPolicies,
    /// `recipients`
    Recipients,
    /// `mailbox-stores`
    MailboxStores,
    /// `connectors`
    Connectors,
    /// `certificates`
    Certificates,
    /// `accounts`
    Accounts,
    /// `identity-providers`
    IdentityProviders,
    /// `filters`
    Filters,
    /// `remote-domains`
    RemoteDomains,
    /// `api-keys`
    ApiKeys,
    /// `event-sinks`
    EventSinks,
    /// `settings`: one object, of that name.
    Settings,
}

impl Collection {
    /// All of them, in the order in which a document is read aloud.
    pub const ALL: [Collection; 13] = [
        Collection::Settings,
        Collection::VirtualServers,
        Collection::RecipientPolicies,
        Collection::MailboxStores,
        Collection::Recipients,
        Collection::Connectors,
        Collection::RemoteDomains,
        Collection::Certificates,
        Collection::Accounts,
        Collection::IdentityProviders,
        Collection::Filters,
        Collection::ApiKeys,
        Collection::EventSinks,
    ];

    /// Its name in a path of the REST API, and in the keys of the store.
    pub fn path(self) -> &'static str {
        match self {
            Collection::VirtualServers => "virtual-servers",
            Collection::RecipientPolicies => "recipient-policies",
            Collection::Recipients => "recipients",
            Collection::MailboxStores => "mailbox-stores",
            Collection::Connectors => "connectors",
            Collection::Certificates => "certificates",
            Collection::Accounts => "accounts",
            Collection::IdentityProviders => "identity-providers",
            Collection::Filters => "filters",
            Collection::RemoteDomains => "remote-domains",
            Collection::ApiKeys => "api-keys",
            Collection::EventSinks => "event-sinks",
            Collection::Settings => "settings",
        }
    }

    /// Its name in the declarative document.
    pub fn document(self) -> &'static str {
        match self {
            Collection::VirtualServers => "virtualServers",
            Collection::RecipientPolicies => "recipientPolicies",
            Collection::Recipients => "recipients",
            Collection::MailboxStores => "mailboxStores",
            Collection::Connectors => "connectors",
            Collection::Certificates => "certificates",
            Collection::Accounts => "accounts",
            Collection::IdentityProviders => "identityProviders",
            Collection::Filters => "filters",
            Collection::RemoteDomains => "remoteDomains",
            Collection::ApiKeys => "apiKeys",
            Collection::EventSinks => "eventSinks",
            Collection::Settings => "settings",
        }
    }

    /// What one object of it is called in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Collection::VirtualServers => "virtual server",
            Collection::RecipientPolicies => "recipient policy",
            Collection::Recipients => "recipient",
            Collection::MailboxStores => "mailbox store",
            Collection::Connectors => "connector",
            Collection::Certificates => "certificate",
            Collection::Accounts => "account",
            Collection::IdentityProviders => "identity provider",
            Collection::Filters => "filter",
            Collection::RemoteDomains => "remote domain",
            Collection::ApiKeys => "API key",
            Collection::EventSinks => "event sink",
            Collection::Settings => "settings",
        }
    }

    /// The collection with this name in a path.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|collection| collection.path() == path)
    }

    /// Whether a spec of it may have a [`crate::model::secret::Secret`].
    pub fn may_hold_secrets(self) -> bool {
        matches!(
            self,
            Collection::Certificates
                | Collection::Accounts
                | Collection::MailboxStores
                | Collection::Connectors
                | Collection::EventSinks
                | Collection::ApiKeys
                | Collection::Settings
        )
    }

    /// The longest name that an object of it may have.
    pub fn longest_name(self) -> usize {
        match self {
            Collection::Recipients | Collection::Accounts => MAX_LONG_NAME,
            _ => MAX_NAME,
        }
    }
}

/// The only object of [`Collection::Settings`].
pub const SETTINGS: &str = "settings";
/// The name of the objects that a first start makes, and of the policy that is always last.
pub const DEFAULT: &str = "default";
