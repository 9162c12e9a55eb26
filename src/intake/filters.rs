//! Filters: whose mail is not taken, by the filters that the binding names which it came in by.
//!
//! | asked at | rule | matches |
//! |---|---|---|
//! | MAIL | `senderFilter` | the reverse-path |
//! | RCPT | `recipientFilter` | the forward-path; the directory has no such recipient |
//! | RCPT | `connectionFilter` | the client: its address, its verified reverse name, DNS lists that list it |
//!
//! The filters are asked in the order in which the binding names them, the first that matches decides, and what a sender
//! filter has decided holds for all recipients. A client that one connection filter allows is matched by none of them.
//! **Not filtered** is who is trusted: clients that have authenticated, and clients that may relay.
//!
//! A filter only takes away: what the rules of `admission` refuse stays refused, whatever its action is. The one exception are
//! recipients that the directory does not have, when a filter is about just these.
//!
//! DNS is asked at the first recipient for which it matters, all lists at once, each once in a connection, for at most
//! [`LIMIT`] in all. Who gives no answer has said nothing: mail is not refused because a list is down.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Intake;
use super::admission::{Client, Refusal};
use crate::config::filters::{ConnectionRules, Filter, RecipientRules, Rules, listing};
use crate::config::{Peer, Snapshot, VirtualServer};
use crate::directory::{Envelope, Resolution, resolve};
use crate::model::host::HostName;
use crate::model::name::Name;
use crate::model::spec::filter::FilterAction;
use crate::model::spec::virtual_server::Binding;
use crate::net::dns_list::{LIMIT, ask};
use crate::net::resolver::{Resolver, verified_name};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// What filters need to know of one connection, and what they have found out about it.
#[derive(Debug)]
pub struct Filtering {
    /// The binding it came in by, as configured.
    binding: SocketAddr,
    /// The filters that the binding named when the connection opened: for when it is not configured any more.
    names: Vec<Name>,
    known: Mutex<Known>,
}

/// What DNS said, once and for the whole connection.
#[derive(Debug, Default)]
struct Known {
    /// The verified reverse name, when it was looked up.
    name: Option<Option<HostName>>,
    /// The answers of the lists that were asked.
    lists: HashMap<HostName, Vec<Ipv4Addr>>,
}

/// What becomes of mail that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is delivered.
    Deliver,
    /// It is kept in the dead-letter queue.
    Archive(Match),
    /// It is not kept.
    Discard(Match),
}

/// A filter that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Match {
    /// The rule, as the table of this module names it.
    pub rule: &'static str,
    /// Which filter, and what of it.
    pub detail: String,
    /// It matched because the directory has no such recipient.
    pub not_in_directory: bool,
}

impl Filtering {
    /// For a connection that comes in by this binding.
    pub fn new(binding: &Binding) -> Arc<Self> {
        let at = SocketAddr::new(binding.address.0, binding.port);
        Arc::new(Filtering { binding: at, names: binding.filters.clone(), known: Mutex::default() })
    }

    /// For a door that has no bindings, and so no filters.
    pub fn none() -> Arc<Self> {
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Arc::new(Filtering { binding: at, names: Vec::new(), known: Mutex::default() })
    }

    /// The filters in force for this connection, in order.
    fn filters<'a>(&'a self, snapshot: &'a Snapshot, server: &'a VirtualServer) -> impl Iterator<Item = &'a Filter> {
        let names = named(server, self.binding).unwrap_or(&self.names);
        names.iter().filter_map(|name| snapshot.filters.get(name).map(|filter| &**filter))
    }
}

fn named(server: &VirtualServer, binding: SocketAddr) -> Option<&[Name]> {
    let mut bindings = server.spec.bindings.iter();
    let own = bindings.find(|own| own.address.0 == binding.ip() && own.port == binding.port());
    own.map(|own| own.filters.as_slice())
}

impl Client {
    /// Is it passed by, as one that is known?
    fn is_exempt(&self) -> bool {
        self.account.is_some() || self.is_trusted()
    }

    /// What filters make of mail from this sender.
    ///
    /// # Errors
    /// When one refuses it.
    pub(super) fn filter_sender(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        sender: &ReversePath,
    ) -> Result<Fate, Refusal> {
        if self.is_exempt() {
            return Ok(Fate::Deliver);
        }
        for filter in self.filtering.filters(snapshot, &self.server) {
            if let Rules::Sender(rules) = &filter.rules
                && let Some(rule) = rules.matches(sender)
            {
                let found = Match::of("senderFilter", filter, &rule);
                return found.judge(intake, filter.action, EnhancedStatus::permanent(7, 1), "Sender refused");
            }
        }
        Ok(Fate::Deliver)
    }

    /// What filters make of mail for this recipient.
    ///
    /// # Errors
    /// When one refuses it.
    pub(super) async fn filter_recipient(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        path: &ForwardPath,
    ) -> Result<Fate, Refusal> {
        let filters: Vec<&Filter> = self.filtering.filters(snapshot, &self.server).collect();
        if filters.is_empty() || self.is_exempt() {
            return Ok(Fate::Deliver);
        }
        let clients = Clients::new(self, intake, &filters);
        for filter in filters {
            let fate = match &filter.rules {
                Rules::Sender(_) => Fate::Deliver,
                Rules::Recipient(rules) => judge_recipient(intake, snapshot, filter, rules, path)?,
                Rules::Connection(rules) => {
                    let mailbox = match path {
                        ForwardPath::Mailbox(mailbox) => Some(mailbox),
                        ForwardPath::Postmaster => snapshot.postmaster.as_ref(),
                    };
                    match mailbox.is_some_and(|mailbox| rules.excepts(mailbox)) {
                        true => Fate::Deliver,
                        false => clients.judge(filter, rules).await?,
                    }
                }
            };
            if fate != Fate::Deliver {
                return Ok(fate);
            }
        }
        Ok(Fate::Deliver)
    }
}

impl Match {
    fn of(rule: &'static str, filter: &Filter, what: &str) -> Self {
        Match { rule, detail: format!("filter {}: {what}", filter.name), not_in_directory: false }
    }

    fn judge(
        self,
        intake: &Intake,
        action: FilterAction,
        status: EnhancedStatus,
        text: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Result<Fate, Refusal> {
        let code = match action {
            FilterAction::Archive => return Ok(Fate::Archive(self)),
            FilterAction::AcceptSilently => return Ok(Fate::Discard(self)),
            FilterAction::Reject => 550,
            FilterAction::Drop => 554,
        };
        intake.metrics.filtered(action.word());
        let closes = action == FilterAction::Drop;
        let reply = Reply::new(code, status, text);
        Err(Refusal { reply, rule: self.rule, detail: self.detail, closes, retry_after: None })
    }
}

fn judge_recipient(
    intake: &Intake,
    snapshot: &Snapshot,
    filter: &Filter,
    rules: &RecipientRules,
    path: &ForwardPath,
) -> Result<Fate, Refusal> {
    let ForwardPath::Mailbox(mailbox) = path else { return Ok(Fate::Deliver) };
    if let Some(rule) = rules.denies(mailbox) {
        let found = Match::of("recipientFilter", filter, &rule);
        return found.judge(intake, filter.action, EnhancedStatus::permanent(7, 1), "Recipient refused");
    }
    if !rules.not_in_directory {
        return Ok(Fate::Deliver);
    }
    // who may write to it is asked elsewhere
    let envelope = Envelope { path, sender: &ReversePath::Null, size: 0 };
    let missing = match resolve(&snapshot.domains, &*intake.recipients, &envelope) {
        Resolution::Unknown => true,
        // a shared domain; the postmaster may be somebody elsewhere
        Resolution::Remote(other) => other == *mailbox && snapshot.domains.find(mailbox.domain()).is_some(),
        Resolution::Mailbox { .. } | Resolution::Others { .. } | Resolution::Refused { .. } | Resolution::TryLater => {
            false
        }
    };
    if !missing {
        return Ok(Fate::Deliver);
    }
    let found =
        Match { not_in_directory: true, ..Match::of("recipientFilter", filter, &format!("notInDirectory {mailbox}")) };
    found.judge(intake, filter.action, EnhancedStatus::permanent(1, 1), "No such recipient here")
}

/// The connection filters of one binding, and one client.
struct Clients<'a> {
    client: &'a Client,
    intake: &'a Intake,
    rules: Vec<&'a ConnectionRules>,
    /// Until when DNS is waited for.
    deadline: Instant,
}

impl<'a> Clients<'a> {
    fn new(client: &'a Client, intake: &'a Intake, filters: &[&'a Filter]) -> Self {
        let rules = filters.iter().filter_map(|filter| match &filter.rules {
            Rules::Connection(rules) => Some(&**rules),
            Rules::Sender(_) | Rules::Recipient(_) => None,
        });
        Clients { client, intake, rules: rules.collect(), deadline: Instant::now() + LIMIT }
    }

    async fn judge(&self, filter: &Filter, rules: &ConnectionRules) -> Result<Fate, Refusal> {
        let allows = |peer: Peer<'_>| self.rules.iter().any(|rules| rules.allows(peer));
        let refuses_at_once = rules.denies(self.client.address.into()) && !self.ask_for_names();
        // one question at a time: nobody else waits for this
        let mut known = self.client.filtering.known.lock().await;
        let asks = self.ask_for_names() || !rules.lists.is_empty();
        if asks && !refuses_at_once && !allows(self.client.address.into()) {
            self.look_up(&mut known).await;
        }
        let peer = Peer { address: self.client.address, name: known.name.as_ref().and_then(Option::as_ref) };
        if allows(peer) {
            return Ok(Fate::Deliver);
        }
        if rules.denies(peer) {
            let found = Match::of("connectionFilter", filter, "deny lists this client");
            return found.judge(self.intake, filter.action, EnhancedStatus::permanent(7, 1), "Access denied");
        }
        for list in &rules.lists {
            let answers = known.lists.get(&list.zone).map(Vec::as_slice).unwrap_or_default();
            if let Some(answer) = listing(list, answers) {
                let found = Match::of("connectionFilter", filter, &format!("dnsbl {} says {answer}", list.zone));
                let text = list.reply.render(self.client.address, &filter.name, &list.zone);
                return found.judge(self.intake, filter.action, EnhancedStatus::permanent(7, 1), text);
            }
        }
        Ok(Fate::Deliver)
    }

    fn ask_for_names(&self) -> bool {
        self.rules.iter().any(|rules| rules.asks_for_names())
    }

    /// Asks for whatever any of the filters wants to know and was not asked for yet, all at once: a client whose own name
    /// servers are slow takes no time away from the lists.
    async fn look_up(&self, known: &mut Known) {
        let lists = self.rules.iter().flat_map(|rules| &rules.lists);
        let mut zones: Vec<&HostName> =
            lists.map(|list| &list.zone).filter(|zone| !known.lists.contains_key(*zone)).collect();
        zones.sort();
        zones.dedup();
        let Some(resolver) = self.resolver() else { return };
        let asked = zones.iter().map(|zone| ask(&*resolver, self.client.address, zone.as_str(), self.deadline));
        let name = async {
            match &known.name {
                None if self.ask_for_names() => Some(self.look_up_name(&*resolver).await),
                known => known.clone(),
            }
        };
        let (name, answered) = tokio::join!(name, join_all(asked));
        known.name = name;
        for (zone, answers) in zones.iter().zip(answered) {
            let outcome = match &answers {
                Ok(answers) if answers.is_empty() => "notListed",
                Ok(_) => "listed",
                Err(error) => {
                    tracing::info!(
                        virtualServer = %self.client.server.name,
                        peer.addr = %self.client.address,
                        zone = %zone,
                        error = %error,
                        "a DNS list gave no answer; it lists nobody"
                    );
                    "failed"
                }
            };
            self.intake.metrics.dns_list(outcome);
            known.lists.insert((*zone).clone(), answers.unwrap_or_default());
        }
    }

    async fn look_up_name(&self, resolver: &dyn Resolver) -> Option<HostName> {
        // the server may have had it looked up for lists of its own
        if let Some(name) = &self.client.name {
            return Some(name.clone());
        }
        let found = timeout_at(self.deadline, verified_name(resolver, self.client.address)).await;
        found.ok()?.ok()??.parse().ok()
    }

    fn resolver(&self) -> Option<Arc<dyn Resolver>> {
        let resolver = self.intake.resolvers.of(&self.client.server.name_servers());
        resolver.inspect_err(|error| tracing::error!(error = %error, "filters cannot ask DNS")).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex as StdMutex;
    use std::time::Duration;

    use async_trait::async_trait;
    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};

    use super::*;
    use crate::accounts::Account;
    use crate::config::{Actor, Configuration, FirstStart, OpenOptions, Precondition, StoredRecipients};
    use crate::intake::{Door, Incoming, Sender};
    use crate::model::labels::Labels;
    use crate::model::mail::RecipientStatus;
    use crate::model::queue_name::QueueName;
    use crate::model::spec::Collection;
    use crate::model::spec::account::AccountQuotas;
    use crate::model::time::Timestamp;
    use crate::net::clock::{Clock as _, ManualClock};
    use crate::net::resolver::{Mx, ResolveError, Resolvers, StaticResolver};
    use crate::observe::metrics::{ByAction, Metrics};
    use crate::queue::Queue;
    use crate::smtp::parameters::{MailParameters, RcptParameters};
    use crate::store::QueueStore as _;
    use crate::store::memory::MemoryStore;

    const BINDING: &str = "127.0.0.1:0";

    /// Counts what is asked; names below `silent.example` are never answered.
    #[derive(Debug, Default)]
    struct Counting {
        known: StaticResolver,
        asked: StdMutex<Vec<String>>,
    }

    #[async_trait]
    impl Resolver for Counting {
        async fn mx(&self, domain: &str) -> Result<Vec<Mx>, ResolveError> {
            self.known.mx(domain).await
        }

        async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
            self.asked.lock().unwrap().push(host.to_owned());
            if host.ends_with("silent.example") {
                std::future::pending::<()>().await;
            }
            self.known.addresses(host).await
        }

        async fn names(&self, address: IpAddr) -> Result<Vec<String>, ResolveError> {
            self.asked.lock().unwrap().push(address.to_string());
            self.known.names(address).await
        }
    }

    struct House {
        store: MemoryStore,
        configuration: Arc<Configuration>,
        intake: Intake,
        resolver: Arc<Counting>,
    }

    impl House {
        /// `a.example` is authoritative and has `ada`, `s.example` is shared; the filters are those of the only binding.
        async fn with(filters: &[(&str, Value)]) -> House {
            let store = MemoryStore::default();
            let clock = Arc::new(ManualClock::new(1_795_000_000_000));
            let wall = clock.clone();
            let options = OpenOptions {
                host_name: "mail.a.example".parse().unwrap(),
                secrets_dir: "/nonexistent".into(),
                files: false,
                now: Arc::new(move || Timestamp::from_millis(wall.unix_millis())),
            };
            let configuration = Configuration::open(Arc::new(store.clone()), options).await.unwrap();
            configuration.first_start(&FirstStart { smtp_listen: BINDING.parse().unwrap() }).await.unwrap();
            let metrics = Metrics::new(&mut Registry::default());
            let recipients = Arc::new(StoredRecipients(Arc::new(store.clone())));
            let live = configuration.live().clone();
            let queue = Queue::new(Arc::new(store.clone()), live, recipients.clone(), clock.clone(), metrics.clone());
            let resolver = Arc::new(Counting::default());
            let resolvers = Arc::new(Resolvers::with_system(resolver.clone()));
            let intake = Intake {
                store: Arc::new(store.clone()),
                recipients,
                queue,
                quotas: Arc::default(),
                overload: Arc::default(),
                clock,
                resolvers,
                callout: Arc::new(crate::routing::callout::Unasked),
                metrics,
            };
            let house = House { store, configuration, intake, resolver };
            let addresses = json!([
                {"template": "%m@a.example", "primary": true}, {"template": "%m@s.example", "authoritative": false}
            ]);
            house.put(Collection::RecipientPolicies, "default", json!({"addresses": addresses})).await;
            house.put(Collection::Recipients, "ada", json!({})).await;
            let mut names = Vec::new();
            for (name, spec) in filters {
                house.put(Collection::Filters, name, spec.clone()).await;
                names.push(*name);
            }
            house.server(json!({"bindings": [{"address": "127.0.0.1", "port": 0, "filters": names}]})).await;
            house
        }

        async fn put(&self, collection: Collection, name: &str, spec: Value) {
            let actor = Actor { key: "test".into(), ..Actor::default() };
            let (body, any) = (json!({"spec": spec}), Precondition::default());
            self.configuration.put(collection, name, &body, &any, &actor, false).await.unwrap();
        }

        async fn server(&self, spec: Value) {
            self.put(Collection::VirtualServers, "default", spec).await;
        }

        fn client(&self, address: &str) -> Client {
            let server = self.configuration.live().current().virtual_servers["default"].clone();
            let filtering = Filtering::new(&server.spec.bindings[0]);
            let address = address.parse().unwrap();
            Client { address, name: None, server, account: None, tls: None, filtering, trusted: false }
        }

        /// Hands in a message and says what came of it: the code and rule of the refusal, or 250.
        async fn mail(&self, client: &Client, from: &str, to: &[&str]) -> Vec<(u16, &'static str)> {
            let from = if from.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(from.parse().unwrap()) };
            let door = Door::Smtp { helo: "x".into(), extended: true, lmtp: false };
            let sender = Sender { client: client.clone(), door };
            let snapshot = self.configuration.live().current();
            let begun = Incoming::begin(&self.intake, snapshot, sender, from, MailParameters::default());
            let mut incoming = match begun {
                Ok(incoming) => incoming,
                Err(refusal) => return vec![(refusal.reply.code, refusal.rule)],
            };
            let mut results = Vec::new();
            for to in to {
                let path = ForwardPath::Mailbox(to.parse().unwrap());
                results.push(match incoming.recipient(&self.intake, path, RcptParameters::default()).await {
                    Ok(()) => (250, ""),
                    Err(refusal) => (refusal.reply.code, refusal.rule),
                });
            }
            if results.contains(&(250, "")) {
                incoming.content_begins(Timestamp::from_millis(0)).await.unwrap();
                incoming.content("Subject: x\r\n\r\n".into()).await.unwrap();
                assert_eq!(incoming.commit(&self.intake).await.unwrap().code, 250);
            }
            results
        }

        async fn queued(&self) -> Vec<String> {
            let queues = self.store.queues();
            queues.iter().map(|count| format!("{} {}", count.queue, count.messages)).collect()
        }

        fn filtered(&self, action: &'static str) -> u64 {
            self.intake.metrics.filtered.get_or_create(&ByAction { action }).get()
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.resolver.asked.lock().unwrap())
        }
    }

    fn sender(action: &str) -> Value {
        json!({"kind": "sender", "deny": ["*@spam.example"], "blankSender": true, "action": action})
    }

    #[tokio::test]
    async fn each_action_does_what_it_says() {
        for (action, result, queued) in [
            ("reject", (550, "senderFilter"), &[][..]),
            ("drop", (554, "senderFilter"), &[]),
            ("acceptSilently", (250, ""), &[]),
            ("archive", (250, ""), &["deadLetter 1"]),
        ] {
            let house = House::with(&[("f", sender(action))]).await;
            let client = house.client("192.0.2.1");
            assert_eq!(house.mail(&client, "a@spam.example", &["ada@a.example"]).await, [result], "{action}");
            assert_eq!(house.queued().await, queued, "{action}");
            assert_eq!(house.filtered(action), 1);
            assert_eq!(house.mail(&client, "a@ham.example", &["ada@a.example"]).await, [(250, "")]);
            assert_eq!(house.filtered(action), 1);
        }
    }

    #[tokio::test]
    async fn what_is_archived_can_be_seen_until_its_retention_ends() {
        let house = House::with(&[("f", sender("archive"))]).await;
        house.mail(&house.client("192.0.2.1"), "", &["ada@a.example"]).await;
        let page = house.store.page(Some(&QueueName::DeadLetter), None, 10).await.unwrap();
        let recipient = &page[0].1.recipients[0];
        assert_eq!(recipient.status, RecipientStatus::Failed);
        let failure = recipient.last_failure.as_ref().unwrap();
        assert_eq!(failure.diagnostic, "archived by filter f: blankSender");
        let fortnight = Duration::from_secs(14 * 86_400);
        assert_eq!(recipient.waits.as_ref().unwrap().due, page[0].1.received_at + fortnight);
    }

    #[tokio::test]
    async fn filters_take_away_and_never_let_through() {
        for action in ["archive", "acceptSilently"] {
            let everybody = json!({"kind": "connection", "deny": ["0.0.0.0/0"], "action": action});
            let directory = json!({"kind": "recipient", "notInDirectory": true, "action": action});
            let house = House::with(&[("d", directory), ("e", everybody)]).await;
            let client = house.client("192.0.2.1");
            let to = ["u@far.example", "u%far.example@a.example", "far.example!u@s.example"];
            let refused = [(550, "relay"), (550, "routedLocalPart"), (550, "routedLocalPart")];
            assert_eq!(house.mail(&client, "a@b.example", &to).await, refused, "{action}");
            let to = ["nobody@a.example", "nobody@s.example", "ada@a.example"];
            assert_eq!(house.mail(&client, "a@b.example", &to).await, [(250, ""); 3], "{action}");
            assert_eq!(house.filtered(action), 3);
        }
    }

    #[tokio::test]
    async fn recipients_by_pattern_and_by_directory() {
        let filter = json!({"kind": "recipient", "deny": ["ada@s.example"], "notInDirectory": true});
        let house = House::with(&[("f", filter)]).await;
        let client = house.client("192.0.2.1");
        let to = ["ada@a.example", "Ada@s.example", "bob@s.example", "bob@a.example", "postmaster@s.example"];
        let filtered = (550, "recipientFilter");
        let expected = [(250, ""), filtered, filtered, filtered, (250, "")];
        assert_eq!(house.mail(&client, "a@b.example", &to).await, expected);
        assert_eq!(house.filtered("reject"), 3);
    }

    #[tokio::test]
    async fn who_may_relay_is_not_filtered() {
        let everybody = json!({"kind": "connection", "deny": ["0.0.0.0/0"]});
        let house = House::with(&[("s", sender("reject")), ("e", everybody)]).await;
        let binding = json!([{"address": "127.0.0.1", "port": 0, "filters": ["s", "e"]}]);
        house.server(json!({"bindings": binding, "relay": {"allow": ["192.0.2.1"]}})).await;
        assert_eq!(house.mail(&house.client("192.0.2.1"), "", &["ada@a.example"]).await, [(250, "")]);
        assert_eq!(house.mail(&house.client("192.0.2.2"), "", &["ada@a.example"]).await, [(550, "senderFilter")]);
        let ham = house.mail(&house.client("192.0.2.2"), "a@b.example", &["ada@a.example"]).await;
        assert_eq!(ham, [(550, "connectionFilter")]);
    }

    #[tokio::test]
    async fn who_has_authenticated_is_not_filtered() {
        let house = House::with(&[("e", json!({"kind": "connection", "deny": ["0.0.0.0/0"]}))]).await;
        let account = Account {
            name: "ada".parse().unwrap(),
            username: "ada".into(),
            generation: 1,
            labels: Labels::default(),
            verifier: Ok(None),
            may_relay: false,
            send_as: None,
            quotas: AccountQuotas::default(),
        };
        let known = Client { account: Some(Arc::new(account)), ..house.client("192.0.2.1") };
        assert_eq!(house.mail(&known, "ada@a.example", &["ada@a.example"]).await, [(250, "")]);
    }

    #[tokio::test]
    async fn what_is_archived_on_a_stage_stays_there() {
        let house = House::with(&[("f", sender("archive"))]).await;
        house.put(Collection::Recipients, "stage", json!({})).await;
        let binding = json!([{"address": "127.0.0.1", "port": 0, "filters": ["f"]}]);
        house.server(json!({"bindings": binding, "staging": {"redirectTo": "stage@a.example"}})).await;
        assert_eq!(house.mail(&house.client("192.0.2.1"), "", &["ada@a.example"]).await, [(250, "")]);
        let page = house.store.page(Some(&QueueName::DeadLetter), None, 10).await.unwrap();
        assert_eq!(page[0].1.recipients[0].forward_path.to_string(), "stage@a.example");
    }

    #[tokio::test]
    async fn a_list_is_asked_once_in_a_connection_and_only_when_it_matters() {
        let list = |zone: &str| json!([{"zone": zone, "codes": ["127.0.0.2"]}]);
        let house = House::with(&[
            ("one", json!({"kind": "connection", "dnsbl": list("one.example"), "exceptions": ["ada@s.example"]})),
            ("two", json!({"kind": "connection", "dnsbl": list("two.example"), "allow": ["192.0.2.9"]})),
        ])
        .await;
        house.resolver.known.set_addresses("1.2.0.192.two.example", &["127.0.0.2".parse().unwrap()]);
        house.resolver.known.set_addresses("9.2.0.192.two.example", &["127.0.0.2".parse().unwrap()]);
        house.resolver.known.set_addresses("3.2.0.192.two.example", &["127.0.0.3".parse().unwrap()]);
        house.resolver.known.fail_addresses("4.2.0.192.two.example", ResolveError::TryLater("SERVFAIL".into()));
        let client = house.client("192.0.2.1");
        let listed = (550, "connectionFilter");
        assert_eq!(house.mail(&client, "a@b.example", &["ada@a.example", "nobody@a.example"]).await, [listed; 2]);
        assert_eq!(house.mail(&client, "a@b.example", &["ada@a.example"]).await, [listed]);
        assert_eq!(house.asked(), ["1.2.0.192.one.example", "1.2.0.192.two.example"], "once");
        for (address, asked) in [("192.0.2.9", 0), ("192.0.2.3", 2), ("192.0.2.4", 2)] {
            let client = house.client(address);
            assert_eq!(house.mail(&client, "a@b.example", &["ada@a.example"]).await, [(250, "")], "{address}");
            assert_eq!(house.asked().len(), asked, "{address}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_lists_nobody_and_holds_up_nobody_for_long() {
        let lists = json!([{"zone": "silent.example"}, {"zone": "a.silent.example"}, {"zone": "bl.example"}]);
        let names = json!({"kind": "connection", "allow": ["*.good.example"], "dnsbl": lists});
        let house = House::with(&[("f", names)]).await;
        house.resolver.known.set_addresses("2.2.0.192.bl.example", &["127.0.0.4".parse().unwrap()]);
        // a claim to a name that cannot be verified is none
        for address in ["192.0.2.1", "192.0.2.2"] {
            house.resolver.known.set_names(address.parse().unwrap(), &["mx.good.silent.example"]);
        }
        for (address, result) in [("192.0.2.1", (250, "")), ("192.0.2.2", (550, "connectionFilter"))] {
            let began = Instant::now();
            let got = house.mail(&house.client(address), "a@b.example", &["ada@a.example"]).await;
            assert_eq!((began.elapsed(), got), (LIMIT, vec![result]), "{address}");
        }
        let lists_only = json!({"kind": "connection", "dnsbl": lists});
        house.put(Collection::Filters, "f", lists_only).await;
        for (address, result) in [("192.0.2.1", (250, "")), ("192.0.2.2", (550, "connectionFilter"))] {
            let began = Instant::now();
            let got = house.mail(&house.client(address), "a@b.example", &["ada@a.example"]).await;
            assert_eq!((began.elapsed(), got), (LIMIT, vec![result]), "a list that answers is heard");
        }
    }

    #[tokio::test]
    async fn a_verified_name_is_allowed_by_any_filter_of_the_binding() {
        let house = House::with(&[
            ("deny", json!({"kind": "connection", "deny": ["192.0.2.0/24"]})),
            ("allow", json!({"kind": "connection", "allow": ["*.good.example"]})),
        ])
        .await;
        let known = &house.resolver.known;
        known.set_names("192.0.2.1".parse().unwrap(), &["mx.good.example"]);
        known.set_names("192.0.2.2".parse().unwrap(), &["mx.good.example"]);
        known.set_addresses("mx.good.example", &["192.0.2.1".parse().unwrap()]);
        assert_eq!(house.mail(&house.client("192.0.2.1"), "a@b.example", &["ada@a.example"]).await, [(250, "")]);
        let liar = house.client("192.0.2.2");
        assert_eq!(house.mail(&liar, "a@b.example", &["ada@a.example"]).await, [(550, "connectionFilter")]);
    }
}
