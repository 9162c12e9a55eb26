//! The configuration that is in force, made for reading.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::certificates::{Certificate, Fault};
use super::filters::Filter;
use super::secrets::Unresolved;
use super::watching::{AlertMail, TraceExport};
use super::{ClientList, Peer, Warning};
use crate::accounts::{Accounts, ApiKeys, IdentityProvider, Realm};
use crate::directory::Domains;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::path::RelativePath;
use crate::model::queue_name::QueueName;
use crate::model::secret::SecretText;
use crate::model::spec::connector::security::TlsLevel;
use crate::model::spec::virtual_server::{Binding, BindingTls};
use crate::model::spec::{EventSinkSpec, MailboxStoreSpec, SettingsSpec, VirtualServerSpec};
use crate::net::tls::ServerTls;
use crate::routing::{Connector, RemoteDomains, Table};
use crate::smtp::address::{Domain, Mailbox};

/// One state of the configuration, whole and valid. A connection pins one at each MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The store's revision that it is.
    pub revision: u64,
    /// The virtual servers, also those that are not enabled. An object that did not change is the same `Arc` as before.
    pub virtual_servers: BTreeMap<Name, Arc<VirtualServer>>,
    /// The certificates.
    pub certificates: BTreeMap<Name, Arc<Certificate>>,
    /// The filters that bindings name.
    pub filters: BTreeMap<Name, Arc<Filter>>,
    /// Which domains are local.
    pub domains: Arc<Domains>,
    /// Which connector carries what.
    pub routes: Arc<Table>,
    /// What holds for mail to which domain, whoever carries it.
    pub remote_domains: Arc<RemoteDomains>,
    /// Who is told what happens to mail. An object that did not change is the same `Arc` as before.
    pub event_sinks: BTreeMap<Name, Arc<EventSink>>,
    /// The mailbox stores.
    pub stores: BTreeMap<Name, Arc<MailboxStore>>,
    /// Who may authenticate, on some virtual server.
    pub accounts: Arc<Accounts>,
    /// Whose tokens may be taken. An object that did not change is the same `Arc` as before.
    pub identity_providers: BTreeMap<Name, Arc<IdentityProvider>>,
    /// Who may call the REST API.
    pub api_keys: Arc<ApiKeys>,
    /// The settings.
    pub settings: Arc<SettingsSpec>,
    /// How operators are told of what is wrong; `None` when they are not. What did not change is the same `Arc` as before.
    pub alerts: Option<Arc<AlertMail>>,
    /// Where traces go; `None` when there are none. What did not change is the same `Arc` as before.
    pub tracing: Option<Arc<TraceExport>>,
    /// The server that sends what none took; `None` only when there is no virtual server.
    pub default_virtual_server: Option<Name>,
    /// The postmaster: of the settings, else `postmaster` at the default domain. `None` only before the first start.
    pub postmaster: Option<Mailbox>,
    /// What may not be meant, in order of the objects.
    pub warnings: Vec<Warning>,
}

impl Snapshot {
    /// Where mail goes that this virtual server took for recipients of shared domains whom nobody knows here
    /// (`messages.forwardUnresolvedTo`).
    pub fn unresolved_queue(&self, took: &Name) -> Option<QueueName> {
        let server = self.delivery_server(took)?;
        server.spec.messages.forward_unresolved_to.as_ref()?;
        Some(QueueName::SmartHost(unresolved_connector(&server.name)?))
    }

    /// Where mail for a domain goes that this virtual server took and no connector carries (`outbound.smartHost`).
    pub fn smart_host_queue(&self, took: &Name, domain: &Domain) -> Option<QueueName> {
        let server = self.delivery_server(took)?;
        let connector = self.routes.connector(&smart_host_connector(&server.name)?)?;
        server.spec.outbound.smart_host.as_ref().map(|_| connector.queue(domain))
    }

    /// The least that sessions of the connector for this queue are encrypted and checked.
    pub fn tls_floor(&self, connector: &Connector, queue: &QueueName) -> Option<TlsLevel> {
        self.remote_domains.floor(connector, queue)
    }

    /// Who may log in on a virtual server.
    pub fn realm(&self, server: &VirtualServer) -> Realm {
        let authentication = &server.spec.authentication;
        let provider = |name| self.identity_providers.get(name).cloned();
        Realm {
            accounts: self.accounts.clone(),
            selector: authentication.accounts.clone().unwrap_or_default(),
            providers: authentication.identity_providers.iter().filter_map(provider).collect(),
            default_domain: authentication.default_domain.clone(),
        }
    }

    /// The virtual server whose delivery settings a message has: the one that took it, else the default one.
    pub fn delivery_server(&self, took: &Name) -> Option<&Arc<VirtualServer>> {
        let default = || self.default_virtual_server.as_ref().and_then(|name| self.virtual_servers.get(name));
        self.virtual_servers.get(took).or_else(default)
    }
}

/// The name of the connector that stands for `forwardUnresolvedTo` of a virtual server.
pub(super) fn unresolved_connector(server: &Name) -> Option<Name> {
    format!("unresolved.{server}").parse().ok()
}

/// The name of the connector that stands for `outbound.smartHost` of a virtual server.
pub(super) fn smart_host_connector(server: &Name) -> Option<Name> {
    format!("smarthost.{server}").parse().ok()
}

/// The name of the connector that stands for `requestDequeue` of a connector.
pub fn dequeue_connector(connector: &Name) -> Option<Name> {
    format!("dequeue.{connector}").parse().ok()
}

/// A virtual server, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// Its settings.
    pub spec: VirtualServerSpec,
    /// The name it gives itself: of the settings, else the host's.
    pub fqdn: HostName,
    /// Who may relay.
    pub relay: ClientList,
    /// Who may connect.
    pub connection_control: ClientList,
    /// How it encrypts; `None` when none of its bindings does, or none of its certificates can be used.
    pub tls: Option<Arc<ServerTls>>,
    /// What is wrong with that: what was in force stays where it can.
    pub tls_fault: Option<Fault>,
}

impl VirtualServer {
    /// The name servers that it asks; none: those of the host.
    pub fn name_servers(&self) -> Vec<SocketAddr> {
        self.spec.dns_servers.iter().map(|server| server.0).collect()
    }

    /// Whether the client may connect.
    pub fn may_connect<'a>(&self, client: impl Into<Peer<'a>>) -> bool {
        self.connection_control.allows_or_open(client)
    }

    /// Whether the client may relay to any domain. What connectors open (`Table::allows_relay`) comes on top.
    pub fn may_relay<'a>(&self, client: impl Into<Peer<'a>>) -> bool {
        self.relay.allows(client)
    }
}

impl VirtualServer {
    /// Why the binding cannot be served now, though it could be bound: its TLS cannot be had.
    pub fn cannot_serve(&self, binding: &Binding) -> Option<&str> {
        if binding.tls == BindingTls::None || self.tls.is_some() {
            return None;
        }
        Some(self.tls_fault.as_ref().map_or("TLS cannot be had", |fault| fault.message.as_str()))
    }

    /// Whether any of its bindings has TLS.
    pub fn encrypts(&self) -> bool {
        self.spec.bindings.iter().any(|binding| binding.tls != BindingTls::None)
    }

    /// Whether clients that have authenticated, and whose account may, relay.
    pub fn relays_authenticated(&self) -> bool {
        self.spec.relay.authenticated.unwrap_or(!self.spec.authentication.mechanisms.is_empty())
    }

    /// Whether a client's reverse name is looked up and verified: it is wanted, or a list needs it.
    pub fn looks_up_names(&self) -> bool {
        self.spec.reverse_dns || self.relay.asks_for_names() || self.connection_control.asks_for_names()
    }
}

/// A mailbox store, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxStore {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// Its settings.
    pub spec: MailboxStoreSpec,
    /// The secret of a webhook, or why it cannot be had.
    pub secret: Option<Result<SecretText, Unresolved>>,
}

impl MailboxStore {
    /// The directory of a store that has one, below `mail/` (Maildir) or `drop/` of the data directory.
    pub fn directory(&self) -> Option<StoreDirectory> {
        StoreDirectory::of(&self.name, &self.spec)
    }
}

/// An event sink, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSink {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// Its settings.
    pub spec: EventSinkSpec,
    /// What its requests are signed with, or why that cannot be had.
    pub secret: Result<SecretText, Unresolved>,
}

/// Where in the data directory a store keeps mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDirectory {
    root: &'static str,
    path: RelativePath,
}

impl StoreDirectory {
    /// That of a store; `None` for one that keeps its mail elsewhere.
    pub fn of(name: &Name, spec: &MailboxStoreSpec) -> Option<Self> {
        let (root, path) = match spec {
            MailboxStoreSpec::Maildir(store) => ("mail", &store.path),
            MailboxStoreSpec::Drop(store) => ("drop", &store.path),
            MailboxStoreSpec::Lmtp(_) | MailboxStoreSpec::Webhook(_) => return None,
        };
        Some(StoreDirectory { root, path: path.clone().unwrap_or_else(|| RelativePath::from(name)) })
    }

    /// As a path.
    pub fn below(&self, data_dir: &std::path::Path) -> std::path::PathBuf {
        self.path.below(&data_dir.join(self.root))
    }

    /// True when one lies in the other, or both are the same.
    pub fn overlaps(&self, other: &StoreDirectory) -> bool {
        self.root == other.root && self.path.overlaps(&other.path)
    }
}
