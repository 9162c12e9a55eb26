//! From all objects to a [`Snapshot`], or to everything that is wrong with them, at once.
//!
//! Shape was judged before ([`super::schema`]); here it is what needs more than one value to see: references, clashes,
//! contradictions. Recipients are not among the objects: what concerns them is judged where they are written.

mod access;
mod accounts;
mod api_keys;
mod event_sinks;
mod fetching;
mod filters;
mod hosts;
mod remote_domains;
mod routes;
mod servers;
mod watching;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::certificates::{self, Certificate};
use super::object::Spec;
use super::snapshot::{
    MailboxStore, Snapshot, StoreDirectory, VirtualServer, smart_host_connector, unresolved_connector,
};
use super::violation::{Violation, ViolationCode, Warning, WarningCode, object_id};
use super::{ClientList, Kept, Vault};
use crate::directory::{Domains, Policies};
use crate::model::duration::Duration;
use crate::model::host::{HostName, domain_key};
use crate::model::labels::Labels;
use crate::model::name::Name;
use crate::model::pattern::ClientPattern;
use crate::model::secret::Secret;
use crate::model::size::Size;
use crate::model::spec::account::AccountPassword;
use crate::model::spec::identity_provider::ProviderUse;
use crate::model::spec::recipient_policy::Filter;
use crate::model::spec::{
    AccountSpec, ApiKeySpec, CertificateSpec, Collection, ConnectorSpec, DEFAULT, EventSinkSpec, FilterSpec,
    IdentityProviderSpec, MailboxStoreSpec, RecipientPolicySpec, RecipientSpec, RemoteDomainSpec, SettingsSpec,
    VirtualServerSpec,
};
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// All objects but recipients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    virtual_servers: BTreeMap<Name, (u64, Arc<VirtualServerSpec>)>,
    policies: BTreeMap<Name, (u64, Arc<RecipientPolicySpec>)>,
    stores: BTreeMap<Name, (u64, Arc<MailboxStoreSpec>)>,
    connectors: BTreeMap<Name, (u64, Arc<ConnectorSpec>)>,
    certificates: BTreeMap<Name, (u64, Arc<CertificateSpec>)>,
    accounts: BTreeMap<Name, AccountObject>,
    identity_providers: BTreeMap<Name, (u64, Arc<IdentityProviderSpec>)>,
    filters: BTreeMap<Name, (u64, Arc<FilterSpec>)>,
    remote_domains: BTreeMap<Name, (u64, Arc<RemoteDomainSpec>)>,
    api_keys: BTreeMap<Name, (u64, Arc<ApiKeySpec>)>,
    event_sinks: BTreeMap<Name, (u64, Arc<EventSinkSpec>)>,
    settings: Option<(u64, Arc<SettingsSpec>)>,
    /// The values of their secrets, of objects that have any.
    secrets: BTreeMap<(Collection, Name), Kept>,
}

/// An account; virtual servers pick accounts by their labels.
#[derive(Debug, Clone)]
struct AccountObject {
    generation: u64,
    labels: Labels,
    spec: Arc<AccountSpec>,
}

impl Objects {
    /// Adds or replaces an object. A recipient changes nothing.
    pub fn insert(&mut self, name: Name, generation: u64, labels: &Labels, spec: Spec, secrets: Kept) {
        let key = (spec.collection(), name.clone());
        match secrets.is_empty() {
            true => self.secrets.remove(&key),
            false => self.secrets.insert(key, secrets),
        };
        match spec {
            Spec::VirtualServer(spec) => drop(self.virtual_servers.insert(name, (generation, spec))),
            Spec::RecipientPolicy(spec) => drop(self.policies.insert(name, (generation, spec))),
            Spec::MailboxStore(spec) => drop(self.stores.insert(name, (generation, spec))),
            Spec::Connector(spec) => drop(self.connectors.insert(name, (generation, spec))),
            Spec::Certificate(spec) => drop(self.certificates.insert(name, (generation, spec))),
            Spec::Account(spec) => {
                self.accounts.insert(name, AccountObject { generation, labels: labels.clone(), spec });
            }
            Spec::IdentityProvider(spec) => drop(self.identity_providers.insert(name, (generation, spec))),
            Spec::Filter(spec) => drop(self.filters.insert(name, (generation, spec))),
            Spec::RemoteDomain(spec) => drop(self.remote_domains.insert(name, (generation, spec))),
            Spec::ApiKey(spec) => drop(self.api_keys.insert(name, (generation, spec))),
            Spec::EventSink(spec) => drop(self.event_sinks.insert(name, (generation, spec))),
            Spec::Settings(spec) => self.settings = Some((generation, spec)),
            Spec::Recipient(_) => {}
        }
    }

    /// Takes an object away.
    pub fn remove(&mut self, collection: Collection, name: &Name) {
        self.secrets.remove(&(collection, name.clone()));
        match collection {
            Collection::VirtualServers => drop(self.virtual_servers.remove(name)),
            Collection::RecipientPolicies => drop(self.policies.remove(name)),
            Collection::MailboxStores => drop(self.stores.remove(name)),
            Collection::Connectors => drop(self.connectors.remove(name)),
            Collection::Certificates => drop(self.certificates.remove(name)),
            Collection::Accounts => drop(self.accounts.remove(name)),
            Collection::IdentityProviders => drop(self.identity_providers.remove(name)),
            Collection::Filters => drop(self.filters.remove(name)),
            Collection::RemoteDomains => drop(self.remote_domains.remove(name)),
            Collection::ApiKeys => drop(self.api_keys.remove(name)),
            Collection::EventSinks => drop(self.event_sinks.remove(name)),
            Collection::Settings => self.settings = None,
            Collection::Recipients => {}
        }
    }

    /// The values of an object's secrets.
    pub fn secrets(&self, collection: Collection, name: &Name) -> Option<&Kept> {
        self.secrets.get(&(collection, name.clone()))
    }

    /// How many revisions are kept.
    pub(super) fn kept_revisions(&self) -> usize {
        let settings = self.settings.as_ref().map(|(_, spec)| spec.retention.revisions);
        usize::from(settings.unwrap_or_else(|| SettingsSpec::default().retention.revisions)).max(1)
    }

    /// True before anything was ever configured.
    pub fn is_empty(&self) -> bool {
        self.settings.is_none()
    }

    /// The policies in the order in which they are asked.
    pub fn policies(&self) -> Policies {
        Policies::new(self.policies.iter().map(|(name, (_, spec))| (name, &**spec)))
    }

    /// Whether there is a certificate of this name.
    pub fn has_certificate(&self, name: &Name) -> bool {
        self.certificates.contains_key(name)
    }

    /// Whether there is an identity provider of this name.
    pub fn has_identity_provider(&self, name: &Name) -> bool {
        self.identity_providers.contains_key(name)
    }

    /// Whether accounts may not log in with the tokens of an identity provider that is there.
    pub fn is_for_api_only(&self, name: &Name) -> bool {
        self.identity_providers.get(name).is_some_and(|(_, spec)| !spec.uses.contains(&ProviderUse::Smtp))
    }

    /// The passwords of accounts that lie outside of the store, with the username of each.
    pub(super) fn outside_passwords(&self) -> Vec<(String, Secret)> {
        let password = |(name, object): (&Name, &AccountObject)| match &object.spec.password {
            Some(AccountPassword::Secret(secret @ (Secret::Env(_) | Secret::File(_)))) => {
                Some((accounts::username(name, &object.spec).to_owned(), secret.clone()))
            }
            _ => None,
        };
        self.accounts.iter().filter_map(password).collect()
    }

    /// The certificates, each with its generation.
    pub(super) fn certificates(&self) -> impl Iterator<Item = (&Name, &(u64, Arc<CertificateSpec>))> {
        self.certificates.iter()
    }

    /// What is wrong when a recipient names a mailbox store that is not there.
    pub(super) fn missing_store(&self, recipient: &RecipientSpec) -> Vec<Violation> {
        let wanted = recipient.mailbox_store.iter().filter(|wanted| !self.stores.contains_key(*wanted));
        let missing = |wanted: &Name| {
            let detail = format!("there is no mailbox store {wanted}");
            Violation::new("/spec/mailboxStore", ViolationCode::UnknownReference, detail)
        };
        wanted.map(missing).collect()
    }
}

/// What a configuration means depends on where it is compiled.
pub struct Surroundings<'a> {
    /// The host's name.
    pub host_name: &'a HostName,
    /// Where secrets are.
    pub vault: &'a Vault,
    /// Now: certificates expire.
    pub now: Timestamp,
}

/// Compiles all objects. What did not change is taken over from `previous`, the revision too: that is the caller's to set.
/// A file that cannot be used is no violation here but a fault of what needs it; a change that needs it is refused by
/// its caller.
///
/// # Errors
/// Everything that is wrong, in order of the objects.
pub fn compile(objects: &Objects, previous: &Snapshot, around: &Surroundings<'_>) -> Result<Snapshot, Vec<Violation>> {
    let mut found = Findings::default();
    let certificates = certificates::build(objects, previous, around.vault);
    expiry(&certificates, around.now, &mut found);
    let default_store = default_store(objects, &mut found);
    virtual_servers(objects, &certificates, around.host_name, &mut found);
    routes::check(objects, &mut found);
    let accounts = accounts::accounts(objects, previous, around.vault, &mut found);
    let identity_providers = accounts::identity_providers(objects, previous, &mut found);
    let api_keys = api_keys::api_keys(objects, previous, around.vault, &mut found);
    filters::check(objects, &mut found);
    remote_domains::check(objects, &mut found);
    event_sinks::check(objects, &mut found);
    let settings = objects.settings.as_ref().map(|(_, spec)| spec.clone()).unwrap_or_default();
    check_settings(objects, &settings, &mut found);
    watching::check(&settings, &mut found);
    let domains = policies(objects, default_store, &settings, &mut found);
    check_roles(&settings, domains.as_ref(), &mut found);

    let Findings { mut violations, mut warnings } = found;
    let Some(domains) = domains.filter(|_| violations.is_empty()) else {
        violations.sort();
        violations.dedup();
        return Err(violations);
    };
    warnings.sort();
    warnings.dedup();
    let first = || objects.virtual_servers.keys().next().cloned();
    Ok(Snapshot {
        revision: previous.revision,
        virtual_servers: build_servers(objects, &certificates, previous, around),
        routes: routes::build(objects, &certificates, previous, around.vault),
        certificates,
        filters: filters::build(objects, previous),
        remote_domains: remote_domains::build(objects, previous),
        event_sinks: event_sinks::build(objects, previous, around.vault),
        stores: build_stores(objects, previous, around.vault),
        default_virtual_server: settings.default_virtual_server.clone().or_else(first),
        alerts: watching::alerts(objects, &settings, previous, around.vault),
        tracing: watching::tracing(objects, &settings, previous, around.vault),
        postmaster: postmaster(&settings, &domains),
        domains: if *previous.domains == domains { previous.domains.clone() } else { Arc::new(domains) },
        settings,
        accounts,
        identity_providers,
        api_keys,
        warnings,
    })
}

#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    warnings: Vec<Warning>,
}

impl Findings {
    fn wrong(
        &mut self,
        of: (Collection, &Name),
        pointer: impl Into<String>,
        code: ViolationCode,
        detail: impl Into<String>,
    ) {
        self.violations.push(Violation::at(of.0, of.1, pointer, code, detail));
    }

    fn warn(&mut self, of: (Collection, &Name), code: WarningCode, detail: impl Into<String>) {
        self.warnings.push(Warning { object: object_id(of.0, of.1), code, detail: detail.into() });
    }

    fn at_least(&mut self, of: (Collection, &Name), pointer: impl Into<String>, value: Duration, least: Duration) {
        if value < least {
            self.wrong(of, pointer, ViolationCode::OutOfRange, format!("at least {least} is needed"));
        }
    }

    fn missing(&mut self, of: (Collection, &Name), pointer: impl Into<String>, to: Collection, name: &Name) {
        let detail = format!("there is no {} {name}", to.noun());
        self.wrong(of, pointer, ViolationCode::UnknownReference, detail);
    }
}

/// How long before its end a certificate is worth a warning.
pub const EXPIRES_SOON: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);

fn expiry(certificates: &BTreeMap<Name, Arc<Certificate>>, now: Timestamp, found: &mut Findings) {
    for (name, certificate) in certificates {
        let Some(facts) = certificate.identity.as_ref().map(|identity| identity.facts()) else { continue };
        if facts.not_after < now + EXPIRES_SOON {
            let word = if facts.not_after < now { "expired" } else { "expires" };
            let detail = format!("the certificate {word} at {}", facts.not_after);
            found.warn((Collection::Certificates, name), WarningCode::CertificateExpires, detail);
        }
    }
}

fn virtual_servers(
    objects: &Objects,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    host_name: &HostName,
    found: &mut Findings,
) {
    const SECOND: Duration = Duration::from_secs(1);
    // port → who listens there, where
    let mut bound: HashMap<u16, Vec<(IpAddr, &Name)>> = HashMap::new();
    for (name, (_, spec)) in &objects.virtual_servers {
        let of = (Collection::VirtualServers, name);
        for (index, binding) in spec.bindings.iter().enumerate().filter(|_| spec.enabled) {
            let address = binding.address.0;
            let others = bound.entry(binding.port).or_default();
            let clash = others.iter().find(|(other, _)| binding.port != 0 && clashes(address, *other));
            if let Some((other, by)) = clash {
                let detail = format!("virtual server {by} listens on {other} port {} already", binding.port);
                found.wrong(of, format!("/spec/bindings/{index}"), ViolationCode::Conflict, detail);
            }
            others.push((address, name));
        }
        found.at_least(of, "/spec/connections/idleTimeout", spec.connections.idle_timeout, SECOND);
        found.at_least(of, "/spec/outbound/timeout", spec.outbound.timeout, SECOND);
        let (delivery, local) = (&spec.delivery, &spec.delivery.local);
        for (at, glitch, intervals, expire) in [
            ("/spec/delivery", &delivery.glitch_retry, &delivery.retry_intervals, delivery.expire_after),
            ("/spec/delivery/local", &local.glitch_retry, &local.retry_intervals, local.expire_after),
        ] {
            found.at_least(of, format!("{at}/glitchRetry/after"), glitch.after, SECOND);
            found.at_least(of, format!("{at}/expireAfter"), expire, SECOND);
            for (index, interval) in intervals.iter().enumerate() {
                found.at_least(of, format!("{at}/retryIntervals/{index}"), *interval, SECOND);
            }
        }
        check_smart_hosts(objects, name, spec, found);
        if spec.messages.max_size < Size::from_bytes(64 << 10) {
            let detail = "at least 64KiB is needed (RFC 5321, 4.5.3.1.7)";
            found.wrong(of, "/spec/messages/maxSize", ViolationCode::OutOfRange, detail);
        }
        servers::check(objects, name, spec, found);
        servers::names(name, spec, certificates, host_name, found);
        if let Some(index) = everybody(&spec.relay.allow) {
            if spec.relay.acknowledge_open_relay {
                found.warn(of, WarningCode::OpenRelay, format!("everybody may relay through virtual server {name}"));
            } else {
                let detail =
                    "the whole world could relay through this server; acknowledgeOpenRelay says that this is meant";
                found.wrong(of, format!("/spec/relay/allow/{index}"), ViolationCode::OpenRelay, detail);
            }
        }
    }
}

/// Hosts that a virtual server hands mail to besides connectors. What is handed on must not come back at once; a circle of
/// more than one is cut by the hop count.
fn check_smart_hosts(objects: &Objects, name: &Name, spec: &VirtualServerSpec, found: &mut Findings) {
    let of = (Collection::VirtualServers, name);
    for (to, queue, pointer) in [
        (&spec.messages.forward_unresolved_to, unresolved_connector(name), "/spec/messages/forwardUnresolvedTo"),
        (&spec.outbound.smart_host, smart_host_connector(name), "/spec/outbound/smartHost"),
    ] {
        let Some(to) = to else { continue };
        if let Some(fault) = hosts::fault(objects, &to.host, to.port) {
            found.wrong(of, pointer, ViolationCode::Conflict, fault);
        }
        if let Some(clash) = queue.filter(|clash| objects.connectors.contains_key(clash)) {
            let detail = format!("the connector {clash} has the name of the queue for this mail");
            found.wrong(of, pointer, ViolationCode::Conflict, detail);
        }
    }
    if spec.outbound.direct_before_smart_host && spec.outbound.smart_host.is_none() {
        let detail = "there is no smartHost before which mail could be tried directly";
        found.wrong(of, "/spec/outbound/directBeforeSmartHost", ViolationCode::Conflict, detail);
    }
}

/// The entry that makes the list everybody's: 0/0 itself, or the last of several that make it up together.
fn everybody(allow: &[ClientPattern]) -> Option<usize> {
    let nets: Vec<IpNet> = allow.iter().filter_map(ClientPattern::net).collect();
    let whole = IpNet::aggregate(&nets).iter().any(|net| net.prefix_len() == 0);
    let first = || allow.iter().position(ClientPattern::is_everybody);
    whole.then(|| first().unwrap_or(allow.len() - 1))
}

/// Whether two bindings of one port cannot both be had.
pub(super) fn clashes(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
}

fn default_store(objects: &Objects, found: &mut Findings) -> Option<Name> {
    let mut default: Option<&Name> = None;
    let mut directories: Vec<(&Name, StoreDirectory)> = Vec::new();
    for (name, (_, spec)) in &objects.stores {
        let of = (Collection::MailboxStores, name);
        match default {
            Some(other) if spec.is_default() => {
                let detail = format!("mailbox store {other} is the default already");
                found.wrong(of, "/spec/default", ViolationCode::Conflict, detail);
            }
            None if spec.is_default() => default = Some(name),
            _ => {}
        }
        if let Some(directory) = StoreDirectory::of(name, spec) {
            if let Some((other, _)) = directories.iter().find(|(_, known)| known.overlaps(&directory)) {
                let detail = format!("its directory and that of mailbox store {other} lie in each other");
                found.wrong(of, "/spec/path", ViolationCode::Conflict, detail);
            }
            directories.push((name, directory));
        }
        let timeout = match &**spec {
            MailboxStoreSpec::Lmtp(store) => Some(store.timeout),
            MailboxStoreSpec::Webhook(store) => Some(store.timeout),
            MailboxStoreSpec::Maildir(_) | MailboxStoreSpec::Drop(_) => None,
        };
        if let Some(timeout) = timeout {
            found.at_least(of, "/spec/timeout", timeout, Duration::from_secs(1));
        }
    }
    default.or_else(|| objects.stores.keys().next()).cloned()
}

/// Mail for postmaster and abuse is for one of ours; a contact there leads elsewhere.
fn check_roles(settings: &SettingsSpec, domains: Option<&Domains>, found: &mut Findings) {
    let Some(domains) = domains else { return };
    let Ok(name) = crate::model::spec::SETTINGS.parse::<Name>() else { return };
    let of = (Collection::Settings, &name);
    for (role, mailbox) in [("postmaster", &settings.postmaster), ("abuse", &settings.abuse)] {
        let Some(mailbox) = mailbox else { continue };
        if domains.find(mailbox.domain()).is_none() {
            let words = format!(
                "{} is not a local domain; give {role} an address in one of yours, of a contact if it is to go elsewhere",
                mailbox.domain()
            );
            found.wrong(of, format!("/spec/{role}"), ViolationCode::DomainNotLocal, words);
        }
    }
}

fn check_settings(objects: &Objects, settings: &SettingsSpec, found: &mut Findings) {
    let Ok(name) = crate::model::spec::SETTINGS.parse::<Name>() else { return };
    let of = (Collection::Settings, &name);
    if let Some(server) =
        settings.default_virtual_server.as_ref().filter(|server| !objects.virtual_servers.contains_key(*server))
    {
        found.missing(of, "/spec/defaultVirtualServer", Collection::VirtualServers, server);
    }
    if let Some(after) = settings.suppression.expires_after {
        found.at_least(of, "/spec/suppression/expiresAfter", after, Duration::from_secs(3_600));
    }
    let mut seen = std::collections::HashSet::new();
    for (index, quota) in settings.sender_quotas.iter().enumerate() {
        if !seen.insert(quota.domain.to_string().to_ascii_lowercase()) {
            let pointer = format!("/spec/senderQuotas/{index}/domain");
            found.wrong(of, pointer, ViolationCode::Duplicate, format!("{} is in the list already", quota.domain));
        }
    }
    found.at_least(of, "/spec/retention/deadLetter", settings.retention.dead_letter, Duration::from_secs(60));
    found.at_least(of, "/spec/retention/audit", settings.retention.audit, Duration::from_secs(86_400));
    found.at_least(of, "/spec/retention/tracking", settings.retention.tracking, Duration::from_secs(3_600));
    if settings.retention.tracking_size < Size::from_bytes(64 << 20) {
        found.wrong(of, "/spec/retention/trackingSize", ViolationCode::OutOfRange, "at least 64MiB is needed");
    }
}

fn policies(
    objects: &Objects,
    default_store: Option<Name>,
    settings: &SettingsSpec,
    found: &mut Findings,
) -> Option<Domains> {
    let mut priorities: BTreeMap<u32, &Name> = BTreeMap::new();
    for (name, (_, spec)) in &objects.policies {
        let of = (Collection::RecipientPolicies, name);
        let is_default = name.as_str() == DEFAULT;
        match spec.priority {
            Some(_) if is_default => {
                let detail = "the policy default is always last and has no priority";
                found.wrong(of, "/spec/priority", ViolationCode::Conflict, detail);
            }
            None if !is_default => found.wrong(of, "/spec/priority", ViolationCode::Required, "priority is needed"),
            Some(priority) => {
                if let Some(other) = priorities.insert(priority, name) {
                    let detail = format!("recipient policy {other} has the priority {priority} already");
                    found.wrong(of, "/spec/priority", ViolationCode::Conflict, detail);
                }
            }
            None => {}
        }
        if is_default && spec.filter.is_some() {
            let detail = "the policy default is for everybody whom no other policy matches; it has no filter";
            found.wrong(of, "/spec/filter", ViolationCode::Conflict, detail);
        }
        let (depth, conditions) = spec.filter.as_ref().map_or((0, 0), Filter::size);
        if depth > Filter::MAX_DEPTH || conditions > Filter::MAX_CONDITIONS {
            let detail = format!(
                "a filter nests at most {} deep and has at most {} conditions, not {depth} and {conditions}",
                Filter::MAX_DEPTH,
                Filter::MAX_CONDITIONS
            );
            found.wrong(of, "/spec/filter", ViolationCode::OutOfRange, detail);
        }
        let primaries: Vec<usize> =
            spec.addresses.iter().enumerate().filter(|(_, a)| a.primary).map(|(i, _)| i).collect();
        match primaries.as_slice() {
            [] => found.wrong(of, "/spec/addresses", ViolationCode::Required, "one address must be primary"),
            [index] if is_default && !spec.addresses[*index].authoritative => {
                let detail =
                    "the primary domain of the policy default is the default domain, and must be authoritative";
                found.wrong(of, format!("/spec/addresses/{index}/authoritative"), ViolationCode::Conflict, detail);
            }
            [_] => {}
            [first, more @ ..] => {
                for index in more {
                    let detail = format!("only one address is primary, and /spec/addresses/{first} is already");
                    found.wrong(of, format!("/spec/addresses/{index}/primary"), ViolationCode::Conflict, detail);
                }
            }
        }
    }
    if !objects.is_empty() && !objects.policies.keys().any(|name| name.as_str() == DEFAULT) {
        let detail = "the recipient policy default is needed: it names the default domain";
        found.violations.push(Violation {
            object: Some(format!("{}/{DEFAULT}", Collection::RecipientPolicies.path())),
            ..Violation::new("", ViolationCode::Required, detail)
        });
    }
    let specs = objects.policies.iter().map(|(name, (_, spec))| (name, &**spec));
    match Domains::build(specs, default_store, settings.postmaster.clone()) {
        Ok(domains) => Some(domains.with(settings.abuse.clone(), settings.plus_addressing)),
        Err(errors) => {
            for error in errors {
                for (name, shared) in [(&error.authoritative, false), (&error.shared, true)] {
                    let addresses =
                        objects.policies.get(name).map(|(_, spec)| spec.addresses.as_slice()).unwrap_or_default();
                    let index = addresses.iter().position(|address| {
                        address.authoritative != shared
                            && domain_key(address.template.domain()) == domain_key(&error.domain)
                    });
                    let pointer = format!("/spec/addresses/{}/authoritative", index.unwrap_or_default());
                    found.wrong(
                        (Collection::RecipientPolicies, name),
                        pointer,
                        ViolationCode::Conflict,
                        error.to_string(),
                    );
                }
            }
            None
        }
    }
}

fn postmaster(settings: &SettingsSpec, domains: &Domains) -> Option<Mailbox> {
    let default = || domains.default_domain().and_then(|domain| Mailbox::new("postmaster", domain.clone()).ok());
    settings.postmaster.clone().or_else(default)
}

fn build_servers(
    objects: &Objects,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    previous: &Snapshot,
    around: &Surroundings<'_>,
) -> BTreeMap<Name, Arc<VirtualServer>> {
    let build = |(name, (generation, spec)): (&Name, &(u64, Arc<VirtualServerSpec>))| {
        let (tls, tls_fault) = certificates::server_tls(name, spec, certificates, previous, around.vault);
        let known = previous.virtual_servers.get(name);
        let same = known.filter(|known| {
            let same_tls = known.tls == tls && known.tls_fault == tls_fault;
            known.generation == *generation && known.spec == **spec && same_tls
        });
        let server = same.cloned().unwrap_or_else(|| {
            Arc::new(VirtualServer {
                name: name.clone(),
                generation: *generation,
                fqdn: spec.fqdn.clone().unwrap_or_else(|| around.host_name.clone()),
                relay: ClientList::new(&spec.relay.allow, &spec.relay.deny),
                connection_control: ClientList::new(&spec.connection_control.allow, &spec.connection_control.deny),
                tls,
                tls_fault,
                spec: (**spec).clone(),
            })
        });
        (name.clone(), server)
    };
    objects.virtual_servers.iter().map(build).collect()
}

fn build_stores(objects: &Objects, previous: &Snapshot, vault: &Vault) -> BTreeMap<Name, Arc<MailboxStore>> {
    let secret = |name: &Name, spec: &MailboxStoreSpec| match spec {
        MailboxStoreSpec::Webhook(hook) => {
            let kept = objects.secrets(Collection::MailboxStores, name).cloned().unwrap_or_default();
            Some(vault.secret(&hook.secret, &kept))
        }
        MailboxStoreSpec::Maildir(_) | MailboxStoreSpec::Lmtp(_) | MailboxStoreSpec::Drop(_) => None,
    };
    let build = |(name, (generation, spec)): (&Name, &(u64, Arc<MailboxStoreSpec>))| {
        let secret = secret(name, spec);
        let store = MailboxStore { name: name.clone(), generation: *generation, spec: (**spec).clone(), secret };
        let same = previous.stores.get(name).filter(|known| ***known == store).cloned();
        (name.clone(), same.unwrap_or_else(|| Arc::new(store)))
    };
    objects.stores.iter().map(build).collect()
}
