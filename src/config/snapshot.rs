//! The configuration that is in force, made for reading.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{ClientList, Warning};
use crate::directory::Domains;
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::path::RelativePath;
use crate::model::queue_name::QueueName;
use crate::model::spec::mailbox_store::MailboxStoreType;
use crate::model::spec::{SettingsSpec, VirtualServerSpec};
use crate::routing::Table;
use crate::smtp::address::Mailbox;

/// One state of the configuration, whole and valid. A connection pins one at each MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The store's revision that it is.
    pub revision: u64,
    /// The virtual servers, also those that are not enabled. An object that did not change is the same `Arc` as before.
    pub virtual_servers: BTreeMap<Name, Arc<VirtualServer>>,
    /// Which domains are local.
    pub domains: Arc<Domains>,
    /// Which connector carries what.
    pub routes: Arc<Table>,
    /// The mailbox stores.
    pub stores: BTreeMap<Name, Arc<MailboxStore>>,
    /// The settings.
    pub settings: Arc<SettingsSpec>,
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
}

impl VirtualServer {
    /// Whether the client may connect.
    pub fn may_connect(&self, client: IpAddr) -> bool {
        self.connection_control.allows_or_open(client)
    }

    /// Whether the client may relay to any domain. What connectors open (`Table::allows_relay`) comes on top.
    pub fn may_relay(&self, client: IpAddr) -> bool {
        self.relay.allows(client)
    }
}

/// A mailbox store, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxStore {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: MailboxStoreType,
    /// Where: below `mail/` (Maildir) or `drop/` of the data directory.
    pub path: RelativePath,
}
