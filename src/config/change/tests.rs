use std::collections::BTreeSet;

use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::config::records::audit_key;
use crate::config::{Effects, OpenError, OpenOptions, Preflight, Snapshot};
use crate::config::{FirstStart, IfMatch, Page, StoredRecipients, WarningCode};
use crate::directory::{Envelope, Resolution, resolve};
use crate::model::labels::LabelSelector;
use crate::model::recipient_ref::SenderPattern;
use crate::model::spec::DEFAULT;
use crate::model::time::Timestamp;
use crate::routing::{CannotTell, Route, RouteRequest, Senders};
use crate::smtp::address::{Domain, Mailbox, ReversePath};
use crate::store::ConfigStore;
use crate::store::memory::MemoryStore;
use Collection::*;
use proptest::prelude::*;

struct House {
    store: Arc<MemoryStore>,
    config: Arc<Configuration>,
}

/// Nobody is asked who a sender is here.
struct Nobody;

impl Senders for Nobody {
    fn is_among(&self, _: &[SenderPattern], _: &Mailbox) -> Result<bool, CannotTell> {
        Ok(false)
    }
}

fn request(domain: &Domain) -> RouteRequest<'_> {
    static ALL_UP: BTreeSet<Name> = BTreeSet::new();
    RouteRequest { domain, sender: &ReversePath::Null, size: 1, priority: 0, senders: &Nobody, down: &ALL_UP }
}

fn options() -> OpenOptions {
    OpenOptions {
        host_name: "relay.example.com".parse().unwrap(),
        secrets_dir: "/nonexistent".into(),
        files: false,
        now: Arc::new(|| Timestamp::EPOCH),
    }
}

impl House {
    async fn empty() -> House {
        let store = Arc::new(MemoryStore::default());
        let config = Configuration::open(store.clone(), options()).await.unwrap();
        House { store, config }
    }

    async fn new() -> House {
        let house = House::empty().await;
        house.config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        house
    }

    async fn put(&self, collection: Collection, name: &str, spec: Value) -> Result<Outcome, ChangeError> {
        let (precondition, actor) = (Precondition::default(), Actor { key: "tester".into(), ..Actor::default() });
        self.config.put(collection, name, &json!({"spec": spec}), &precondition, &actor, false).await
    }

    async fn patch(&self, collection: Collection, name: &str, patch: Value) -> Result<Outcome, ChangeError> {
        self.config.patch(collection, name, &patch, &Precondition::default(), &Actor::default(), false).await
    }

    async fn delete(&self, collection: Collection, name: &str) -> Result<Outcome, ChangeError> {
        self.config.delete(collection, name, &Precondition::default(), &Actor::default(), false).await
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let object = self.config.get(Recipients, name).unwrap().unwrap();
        object.addresses.iter().map(|a| format!("{}{}", a.address, if a.primary { "!" } else { "" })).collect()
    }

    fn resolve(&self, path: &str) -> Resolution {
        let recipients = StoredRecipients(self.store.clone());
        let (path, sender) = (path.parse().unwrap(), ReversePath::Null);
        let envelope = Envelope { path: &path, sender: &sender, size: 0 };
        resolve(&self.config.live().current().domains, &recipients, &envelope)
    }

    /// What was compiled step by step equals what is compiled at once.
    async fn assert_live_is_what_a_fresh_process_compiles(&self) {
        let fresh = Configuration::open(self.store.clone(), options()).await.unwrap();
        assert_eq!(self.config.live().current(), fresh.live().current());
    }

    /// Everything that must not change when a change is refused.
    fn state(&self) -> (u64, u64, std::collections::BTreeMap<String, Vec<u8>>) {
        (self.store.revision(), self.config.live().current().revision, self.store.entries())
    }
}

fn violations(result: Result<Outcome, ChangeError>) -> Vec<(Option<String>, String, ViolationCode)> {
    match result.unwrap_err() {
        ChangeError::Invalid(found) => found.into_iter().map(|v| (v.object, v.pointer, v.code)).collect(),
        other => panic!("{other:?}"),
    }
}

fn own(pointer: &str, code: ViolationCode) -> (Option<String>, String, ViolationCode) {
    (None, pointer.to_owned(), code)
}

fn connector(pattern: &str) -> Value {
    json!({"addressSpaces": [{"pattern": pattern}], "route": {"smartHosts": [{"host": "hub.example.net"}]}})
}

#[tokio::test]
async fn the_first_start_makes_a_house_that_relays_for_nobody() {
    let house = House::empty().await;
    assert!(house.config.is_empty().unwrap());
    let first = FirstStart { smtp_listen: "0.0.0.0:2525".parse().unwrap() };
    house.config.first_start(&first).await.unwrap();
    house.config.first_start(&first).await.unwrap();
    assert!(!house.config.is_empty().unwrap());
    let snapshot = house.config.live().current();
    assert_eq!(snapshot.revision, 1);
    let server = &snapshot.virtual_servers["default"];
    assert_eq!(server.spec.bindings[0].port, 2525);
    assert_eq!(server.fqdn.as_str(), "relay.example.com");
    for client in ["127.0.0.1", "::1", "192.0.2.1"] {
        assert!(server.may_connect(client.parse::<std::net::IpAddr>().unwrap()));
        assert!(!server.may_relay(client.parse::<std::net::IpAddr>().unwrap()));
    }
    let elsewhere = "elsewhere.example".parse().unwrap();
    assert!(!snapshot.routes.allows_relay(&elsewhere, &server.name));
    let request = request(&elsewhere);
    assert!(
        matches!(snapshot.routes.route(request, 0), Route::Connector { queue, .. } if queue.to_string() == "dns:default:elsewhere.example")
    );
    assert_eq!(snapshot.domains.default_domain().unwrap().to_string(), "example.com");
    assert_eq!(snapshot.postmaster.as_ref().unwrap().to_string(), "postmaster@example.com");
    assert_eq!(house.config.get(Connectors, "default").unwrap().unwrap().owner, "system");
    assert!(matches!(house.resolve("postmaster"), Resolution::Mailbox { .. }));
    let views = snapshot.domain_views();
    assert_eq!((views.len(), views[0].name.as_str(), views[0].default), (1, "example.com", true));

    let again = Configuration::open(house.store.clone(), options()).await.unwrap();
    let reopened = again.live().current();
    assert_eq!(reopened.revision, 1);
    assert_eq!(reopened.virtual_servers, snapshot.virtual_servers);
    assert_eq!(reopened.domains, snapshot.domains);
}

#[tokio::test]
async fn equal_content_makes_no_revision() {
    let house = House::new().await;
    let mut word = house.config.live().subscribe();
    let made = house.put(Connectors, "hub", connector("*.example.org")).await.unwrap();
    assert_eq!((made.change, made.object.generation, made.object.owner.as_str()), (ChangeKind::Created, 1, "api"));
    assert_eq!(*word.borrow_and_update(), made.revision);
    let before = house.state();
    let again = house.put(Connectors, "hub", connector("*.Example.org")).await.unwrap();
    assert_eq!((again.change, again.object.generation), (ChangeKind::Unchanged, 1));
    assert_eq!(house.state(), before);
    assert!(!word.has_changed().unwrap());
    let server = house.config.live().current().virtual_servers["default"].clone();
    let other = house.put(Connectors, "hub", connector("*.example.net")).await.unwrap();
    assert_eq!((other.change, other.object.generation, other.revision), (ChangeKind::Updated, 2, made.revision + 1));
    assert!(Arc::ptr_eq(&server, &house.config.live().current().virtual_servers["default"]));
}

#[tokio::test]
async fn a_merge_patch_changes_what_it_names_and_null_resets() {
    let house = House::new().await;
    let patch = json!({"labels": {"team": "mail"}, "spec": {"messages": {"maxSize": "1MiB", "maxRecipients": 500}, "fqdn": "MX.example.com"}});
    house.patch(VirtualServers, "default", patch).await.unwrap();
    let object =
        house.patch(VirtualServers, "default", json!({"spec": {"messages": {"maxSize": null}}})).await.unwrap().object;
    assert_eq!(object.spec["messages"], json!({"maxSize": "25MiB", "maxRecipients": 500}));
    assert_eq!(object.spec["fqdn"], "mx.example.com");
    assert_eq!(object.spec["bindings"][0]["port"], 2525);
    assert_eq!(object.labels.0["team"], "mail");
    let object =
        house.patch(VirtualServers, "default", json!({"labels": null, "spec": {"fqdn": null}})).await.unwrap().object;
    assert!(object.labels.0.is_empty() && object.spec.get("fqdn").is_none());
    assert_eq!(house.config.live().current().virtual_servers["default"].fqdn.as_str(), "relay.example.com");
    assert_eq!(house.patch(VirtualServers, "default", json!({})).await.unwrap().change, ChangeKind::Unchanged);
    assert_eq!(
        violations(house.patch(VirtualServers, "default", json!({"spec": {"filters": {}}})).await),
        [own("/spec/filters", ViolationCode::UnknownField)]
    );
    assert_eq!(
        violations(house.patch(VirtualServers, "default", json!([])).await),
        [own("", ViolationCode::WrongType)]
    );
    assert!(matches!(house.patch(Connectors, "none", json!({})).await, Err(ChangeError::NotFound { .. })));
    for (field, code) in [("lables", ViolationCode::UnknownField), ("owner", ViolationCode::ReadOnlyField)] {
        let found = violations(house.patch(VirtualServers, "default", json!({field: null})).await);
        assert_eq!(found, [own(&format!("/{field}"), code)], "a null takes nothing away that is not there");
    }
}

#[tokio::test]
async fn preconditions_hold_or_nothing_happens() {
    let house = House::new().await;
    let before = house.state();
    let put = async |if_match, if_none_match_star| {
        let (precondition, actor) = (Precondition { if_match, if_none_match_star }, Actor::default());
        let body = json!({"spec": {"organization": "x"}});
        house.config.put(Settings, "settings", &body, &precondition, &actor, false).await
    };
    for (if_match, none) in [(Some(IfMatch::Generation(2)), false), (None, true)] {
        assert!(matches!(put(if_match, none).await, Err(ChangeError::PreconditionFailed { found: Some(1) })));
    }
    assert_eq!(house.state(), before);
    put(Some(IfMatch::Generation(1)), false).await.unwrap();
    put(Some(IfMatch::Any), false).await.unwrap();
}

#[tokio::test]
async fn a_dry_run_tells_and_does_nothing() {
    let house = House::new().await;
    let before = house.state();
    let (precondition, actor) = (Precondition::default(), Actor::default());
    let body = json!({"spec": connector("*")});
    let told = house.config.put(Connectors, "hub", &body, &precondition, &actor, true).await.unwrap();
    assert_eq!((told.change, told.object.generation), (ChangeKind::Created, 1));
    assert_eq!(told.warnings[0].code, WarningCode::SharesAddressSpace);
    let told = house.config.delete(Connectors, "default", &precondition, &actor, true).await.unwrap();
    assert_eq!(told.change, ChangeKind::Deleted);
    assert_eq!(house.state(), before);
}

#[tokio::test]
async fn an_invalid_change_tells_everything_and_leaves_everything() {
    let house = House::new().await;
    let before = house.state();
    let found = violations(
        house
            .put(
                Connectors,
                "hub",
                json!({
                    "addressSpaces": [{"pattern": "*"}, {"pattern": "a.example"}, {"pattern": "A.example", "cost": 2}],
                    "route": {"dns": {}}, "allowRelay": true, "bridgeheads": ["default", "gone"], "relayVia": ["lost"],
                    "retryIntervals": ["10ms"]
                }),
            )
            .await,
    );
    let expected = [
        own("/spec/addressSpaces/2/pattern", ViolationCode::Duplicate),
        own("/spec/allowRelay", ViolationCode::OpenRelay),
        own("/spec/bridgeheads/1", ViolationCode::UnknownReference),
        own("/spec/relayVia/0", ViolationCode::UnknownReference),
        own("/spec/retryIntervals/0", ViolationCode::OutOfRange),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        violations(
            house
                .put(Connectors, "hub", json!({"addressSpaces": [{"pattern": "*", "cost": 101}], "route": {"dns": {}}}))
                .await
        ),
        [own("/spec/addressSpaces/0/cost", ViolationCode::OutOfRange)]
    );
    let server = json!({
        "bindings": [{"address": "0.0.0.0", "port": 2525}, {"address": "127.0.0.1", "port": 2526}, {"address": "::", "port": 2525}],
        "relay": {"allow": ["10.0.0.0/8", "::/0"]}
    });
    assert_eq!(
        violations(house.put(VirtualServers, "second", server).await),
        [own("/spec/bindings/0", ViolationCode::Conflict), own("/spec/relay/allow/1", ViolationCode::OpenRelay)]
    );
    assert_eq!(
        violations(house.put(Connectors, "Hub", connector("*")).await),
        [own("/name", ViolationCode::InvalidName)]
    );
    assert_eq!(
        violations(house.put(Connectors, &"a".repeat(64), connector("*")).await),
        [own("/name", ViolationCode::InvalidName)]
    );
    assert!(matches!(house.put(Settings, "other", json!({})).await, Err(ChangeError::NotFound { .. })));
    assert_eq!(house.state(), before);
}

#[tokio::test]
async fn an_open_relay_is_only_had_by_saying_so() {
    let house = House::new().await;
    for allow in [json!(["0.0.0.0/0"]), json!(["10.0.0.0/8", "0.0.0.0/1", "128.0.0.0/1"])] {
        let mut relay = json!({"allow": allow, "acknowledgeOpenRelay": false});
        let server = |relay: &Value| json!({"spec": {"relay": relay}});
        let found = violations(house.patch(VirtualServers, "default", server(&relay)).await);
        assert_eq!(found[0].2, ViolationCode::OpenRelay);
        relay["acknowledgeOpenRelay"] = json!(true);
        let outcome = house.patch(VirtualServers, "default", server(&relay)).await.unwrap();
        assert_eq!(outcome.warnings[0].code, WarningCode::OpenRelay);
        assert_eq!(house.config.live().current().warnings, outcome.warnings);
    }
    let mut open = connector("*");
    open["allowRelay"] = json!(true);
    assert_eq!(
        violations(house.put(Connectors, "hub", open.clone()).await),
        [own("/spec/allowRelay", ViolationCode::OpenRelay)]
    );
    open["acknowledgeOpenRelay"] = json!(true);
    assert_eq!(house.put(Connectors, "hub", open).await.unwrap().warnings.len(), 2);
}

#[tokio::test]
async fn a_hundred_thousand_spaces_are_one_put() {
    let house = House::new().await;
    let spaces: Vec<Value> = (0..100_000).map(|index| json!({"pattern": format!("d{index}.example")})).collect();
    let spec = json!({"addressSpaces": spaces, "route": {"smartHosts": [{"host": "hub.example.net"}]}});
    house.put(Connectors, "hub", spec).await.unwrap();
    let routes = house.config.live().current().routes.clone();
    let domain = "d99999.example".parse().unwrap();
    let request = request(&domain);
    assert!(matches!(routes.route(request, 0), Route::Connector { queue, .. } if queue.to_string() == "smarthost:hub"));
}

#[tokio::test]
async fn policies_cannot_contradict_each_other() {
    let house = House::new().await;
    let policy = |priority: u32, domain: &str, authoritative: bool| json!({"priority": priority, "addresses": [{"template": format!("@{domain}"), "primary": true, "authoritative": authoritative}]});
    house.put(RecipientPolicies, "a", policy(1, "a.example", true)).await.unwrap();
    let before = house.state();
    let found = violations(house.put(RecipientPolicies, "b", policy(1, "a.example", false)).await);
    let other = Some("recipient-policies/a".to_owned());
    assert_eq!(
        found,
        [
            own("/spec/addresses/0/authoritative", ViolationCode::Conflict),
            own("/spec/priority", ViolationCode::Conflict),
            (other, "/spec/addresses/0/authoritative".to_owned(), ViolationCode::Conflict),
        ]
    );
    let found = violations(house.put(RecipientPolicies, "b", json!({"addresses": [{"template": "@b.example"}]})).await);
    assert_eq!(
        found,
        [own("/spec/addresses", ViolationCode::Required), own("/spec/priority", ViolationCode::Required)]
    );
    let default = json!({"priority": 1, "filter": {"all": []}, "addresses": [
        {"template": "@x.example", "primary": true, "authoritative": false}, {"template": "@y.example", "primary": true}
    ]});
    let found = violations(house.put(RecipientPolicies, "default", default).await);
    assert_eq!(found.len(), 3, "{found:?}");
    let default = json!({"addresses": [{"template": "@x.example", "primary": true, "authoritative": false}]});
    assert_eq!(
        violations(house.put(RecipientPolicies, "default", default).await),
        [own("/spec/addresses/0/authoritative", ViolationCode::Conflict)]
    );
    assert_eq!(house.state(), before);
}

#[tokio::test]
async fn what_is_referred_to_cannot_go() {
    let house = House::new().await;
    let mut hub = connector("*.example.org");
    hub["bridgeheads"] = json!(["default"]);
    house.put(Connectors, "hub", hub).await.unwrap();
    house.put(MailboxStores, "second", json!({"type": "drop"})).await.unwrap();
    house.put(Recipients, "ada", json!({"mailboxStore": "second"})).await.unwrap();
    let before = house.state();
    let by = |result: Result<Outcome, ChangeError>| match result.unwrap_err() {
        ChangeError::Referenced { by } => {
            by.into_iter().map(|r| format!("{}#{}", r.object, r.pointer)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        by(house.delete(VirtualServers, "default").await),
        ["connectors/hub#/spec/bridgeheads/0", "settings/settings#/spec/defaultVirtualServer"]
    );
    assert_eq!(by(house.delete(MailboxStores, "second").await), ["recipients/ada#/spec/mailboxStore"]);
    assert!(matches!(house.delete(RecipientPolicies, "default").await, Err(ChangeError::Protected(_))));
    assert!(matches!(house.delete(Settings, "settings").await, Err(ChangeError::Protected(_))));
    assert!(matches!(house.delete(Connectors, "none").await, Err(ChangeError::NotFound { .. })));
    assert_eq!(house.state(), before);
    house.delete(Connectors, "hub").await.unwrap();
    assert!(house.config.get(Connectors, "hub").unwrap().is_none());
    assert!(house.config.live().current().routes.connector(&"hub".parse().unwrap()).is_none());
}

#[tokio::test]
async fn what_a_recipient_says_of_others_is_held_against_the_directory() {
    let house = House::new().await;
    house.put(Recipients, "ada", json!({})).await.unwrap();
    let domain = house.config.live().current().domains.default_domain().unwrap().to_string();
    let wrong = json!({
        "type": "group", "owner": "nobody", "acceptFrom": ["ada", "none", "*@far.example"], "mailboxStore": "default",
        "members": ["ada", "gone", "x@far.example", format!("gone@{domain}"), format!("ada@{domain}"), "staff"]
    });
    assert_eq!(
        violations(house.put(Recipients, "staff", wrong).await),
        [
            own("/spec/acceptFrom/1", ViolationCode::UnknownReference),
            own("/spec/mailboxStore", ViolationCode::Conflict),
            own("/spec/members/1", ViolationCode::UnknownReference),
            own("/spec/members/3", ViolationCode::UnknownReference),
            own("/spec/owner", ViolationCode::UnknownReference),
        ]
    );
    for (spec, pointer, code) in [
        (json!({"type": "contact"}), "/spec/forwardTo", ViolationCode::Required),
        (json!({"deliverAndForward": true}), "/spec/deliverAndForward", ViolationCode::Conflict),
        (json!({"members": ["ada"]}), "/spec/members", ViolationCode::Conflict),
        (json!({"type": "group", "forwardTo": ["ada"]}), "/spec/forwardTo", ViolationCode::Conflict),
        (json!({"forwardTo": ["Ada Lovelace"]}), "/spec/forwardTo/0", ViolationCode::InvalidValue),
        (json!({"acceptFrom": ["*"]}), "/spec/acceptFrom/0", ViolationCode::InvalidValue),
    ] {
        assert_eq!(violations(house.put(Recipients, "staff", spec.clone()).await), [own(pointer, code)], "{spec}");
    }
    assert!(house.config.get(Recipients, "staff").unwrap().is_none());
}

#[tokio::test]
async fn a_recipient_whom_others_name_cannot_go_and_one_whom_none_names_any_more_can() {
    let house = House::new().await;
    for name in ["ada", "bob"] {
        house.put(Recipients, name, json!({})).await.unwrap();
    }
    house.put(Recipients, "tim", json!({"forwardTo": ["ada"], "rejectFrom": ["tim"]})).await.unwrap();
    let group = json!({"type": "group", "members": ["bob", "ada"], "owner": "ada"});
    house.put(Recipients, "staff", group).await.unwrap();
    let by = |result: Result<Outcome, ChangeError>| match result.unwrap_err() {
        ChangeError::Referenced { by } => {
            by.into_iter().map(|r| format!("{}#{}", r.object, r.pointer)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let before = house.state();
    assert_eq!(
        by(house.delete(Recipients, "ada").await),
        ["recipients/staff#/spec/members/1", "recipients/tim#/spec/forwardTo/0"]
    );
    assert_eq!(house.state(), before);
    house.put(Recipients, "staff", json!({"type": "group", "members": ["bob"]})).await.unwrap();
    house.delete(Recipients, "tim").await.unwrap();
    house.delete(Recipients, "ada").await.unwrap();
    assert_eq!(by(house.delete(Recipients, "bob").await), ["recipients/staff#/spec/members/0"]);
    house.delete(Recipients, "staff").await.unwrap();
    house.delete(Recipients, "bob").await.unwrap();
    assert!(!house.store.entries().keys().any(|key| key.starts_with("reference/")), "nothing is left behind");
}

#[tokio::test]
async fn an_address_says_who_stands_for_others_and_a_catch_all_is_an_address() {
    let house = House::new().await;
    let domain = house.config.live().current().domains.default_domain().unwrap().to_string();
    house.put(Recipients, "rest", json!({"addresses": [format!("*@{domain}")]})).await.unwrap();
    assert!(
        matches!(house.resolve(&format!("x@{domain}")), Resolution::Mailbox { recipient, .. } if recipient.as_str() == "rest")
    );
    let found = violations(house.put(Recipients, "other", json!({"addresses": [format!("*@{domain}")]})).await);
    assert_eq!(found, [own("/spec/addresses/0", ViolationCode::AddressTaken)]);
    house.put(Recipients, "rest", json!({"forwardTo": ["x@far.example"]})).await.unwrap();
    assert_eq!(house.resolve(&format!("x@{domain}")), Resolution::Unknown);
    assert!(matches!(house.resolve(&format!("rest@{domain}")), Resolution::Others { .. }));
    house.put(Recipients, "rest", json!({})).await.unwrap();
    assert!(matches!(house.resolve(&format!("rest@{domain}")), Resolution::Mailbox { .. }));
    house.assert_live_is_what_a_fresh_process_compiles().await;
}

#[tokio::test]
async fn mail_for_nobody_is_not_forwarded_to_ourselves() {
    let house = House::new().await;
    let to = |host: &str| json!({"spec": {"fqdn": "mx.own.example", "messages": {"forwardUnresolvedTo": host}}});
    let bindings = json!({"spec": {"bindings": [{"address": "0.0.0.0", "port": 2525}]}});
    house.patch(VirtualServers, "default", bindings).await.unwrap();
    for host in ["mx.own.example", "MX.own.example:2525", "127.0.0.1:2525"] {
        let found = violations(house.patch(VirtualServers, "default", to(host)).await);
        assert_eq!(found, [own("/spec/messages/forwardUnresolvedTo", ViolationCode::Conflict)], "{host}");
    }
    house.patch(VirtualServers, "default", to("old.example")).await.unwrap();
    house.assert_live_is_what_a_fresh_process_compiles().await;
    let gone = json!({"spec": {"messages": {"forwardUnresolvedTo": null}}});
    house.patch(VirtualServers, "default", gone).await.unwrap();
    house.assert_live_is_what_a_fresh_process_compiles().await;
    assert!(house.config.live().current().routes.connector(&"unresolved.default".parse().unwrap()).is_none());
}

#[tokio::test]
async fn another_writer_is_no_obstacle_and_nothing_of_it_is_lost() {
    let house = House::new().await;
    let other = Configuration::open(house.store.clone(), options()).await.unwrap();
    house.put(Connectors, "hub", connector("a.example")).await.unwrap();
    let body = json!({"spec": connector("b.example")});
    let outcome =
        other.put(Connectors, "spoke", &body, &Precondition::default(), &Actor::default(), false).await.unwrap();
    assert_eq!(outcome.revision, house.store.revision());
    let seen = other.live().current();
    assert!(
        seen.routes.connector(&"hub".parse().unwrap()).is_some()
            && seen.routes.connector(&"spoke".parse().unwrap()).is_some()
    );
    let made = Precondition { if_none_match_star: true, ..Precondition::default() };
    let late = house.config.put(Connectors, "spoke", &body, &made, &Actor::default(), false).await;
    assert!(matches!(late, Err(ChangeError::PreconditionFailed { .. })));
}

#[tokio::test]
async fn what_the_store_refuses_is_not_published() {
    let house = House::new().await;
    let before = house.state();
    house.store.refuse(Some(StoreError::NoSpace { free: 1, reserve: 2 }));
    assert!(matches!(house.put(Connectors, "hub", connector("*")).await, Err(ChangeError::NoSpace(_))));
    house.store.refuse(Some(StoreError::Fenced("x".into())));
    assert!(matches!(house.put(Connectors, "hub", connector("*")).await, Err(ChangeError::Store(_))));
    assert_eq!(house.state(), before);
    assert!(house.config.live().current().routes.connector(&"hub".parse().unwrap()).is_none());
    house.store.refuse(None);
    house.put(Connectors, "hub", connector("*")).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let house = House::new().await;
    let mut word = house.config.live().subscribe();
    word.mark_unchanged();
    let config = house.config.clone();
    let caller = tokio::spawn(async move {
        let body = json!({"spec": connector("*")});
        config.put(Connectors, "hub", &body, &Precondition::default(), &Actor::default(), false).await
    });
    while house.store.revision() == 1 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    tokio::time::timeout(std::time::Duration::from_secs(5), word.changed()).await.unwrap().unwrap();
    let snapshot = house.config.live().current();
    assert_eq!(snapshot.revision, house.store.revision());
    assert!(snapshot.routes.connector(&"hub".parse().unwrap()).is_some());
}

struct Objector;

#[async_trait]
impl Preflight for Objector {
    async fn check(&self, current: &Snapshot, candidate: &Snapshot) -> Vec<Violation> {
        assert!(candidate.virtual_servers.len() >= current.virtual_servers.len());
        let name: Name = "second".parse().unwrap();
        let taken = candidate.virtual_servers.contains_key(&name);
        let violation =
            || Violation::at(VirtualServers, &name, "/spec/bindings/0", ViolationCode::CannotBind, "in use");
        taken.then(violation).into_iter().collect()
    }
}

#[tokio::test]
async fn preflights_can_object() {
    let house = House::new().await;
    house.config.register(Arc::new(Objector));
    let before = house.state();
    let server = json!({"bindings": [{"address": "127.0.0.1", "port": 1}]});
    let found = violations(house.put(VirtualServers, "second", server.clone()).await);
    assert_eq!(found, [own("/spec/bindings/0", ViolationCode::CannotBind)]);
    assert_eq!(house.state(), before);
    house.put(VirtualServers, "third", server).await.unwrap();
}

#[tokio::test]
async fn every_change_is_audited() {
    let house = House::new().await;
    let outcome = house.put(Connectors, "hub", connector("*.example.org")).await.unwrap();
    let entry = house.store.get(&audit_key(outcome.revision)).unwrap().unwrap();
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    assert_eq!(
        (&entry["object"], &entry["actor"]["key"], &entry["change"]),
        (&json!("connectors/hub"), &json!("tester"), &json!("created"))
    );
    assert!(entry["before"].is_null() && entry["after"]["spec"]["addressSpaces"].is_array());
    assert_eq!(entry["at"], "1970-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn recipients_are_stamped_and_found() {
    let house = House::new().await;
    let policy = |local: &str| json!({"addresses": [{"template": format!("{local}@example.com"), "primary": true}]});
    house.put(RecipientPolicies, "default", policy("%g.%s")).await.unwrap();
    let smith = json!({"givenName": "John", "surname": "Smith"});
    house.put(Recipients, "john", smith.clone()).await.unwrap();
    house.put(Recipients, "john2", smith.clone()).await.unwrap();
    assert_eq!(house.addresses("john"), ["John.Smith@example.com!"]);
    assert_eq!(house.addresses("john2"), ["John.Smith2@example.com!"]);
    let mailbox =
        |name: &str| Resolution::Mailbox { recipient: name.parse().unwrap(), store: "default".parse().unwrap() };
    assert_eq!(house.resolve("john.smith2@EXAMPLE.com"), mailbox("john2"));
    assert_eq!(house.resolve("nobody@example.com"), Resolution::Unknown);
    let found = house.config.recipient_with(&"JOHN.SMITH@example.com".parse().unwrap()).unwrap();
    assert_eq!(found.unwrap().name.as_str(), "john");

    // an address of one's own belongs to nobody else, and lies in a local domain
    let before = house.state();
    let own_addresses =
        json!({"addresses": ["sales@example.com", "John.Smith@example.com", "x@far.example"], "mailboxStore": "gone"});
    assert_eq!(
        violations(house.put(Recipients, "eve", own_addresses).await),
        [
            own("/spec/addresses/1", ViolationCode::AddressTaken),
            own("/spec/addresses/2", ViolationCode::DomainNotLocal),
            own("/spec/mailboxStore", ViolationCode::UnknownReference),
        ]
    );
    assert_eq!(house.state(), before);

    // a policy stamps anew in the same commit; what was stays as secondary
    let outcome = house.put(RecipientPolicies, "default", policy("%m")).await.unwrap();
    assert_eq!(outcome.revision, before.0 + 1);
    assert_eq!(house.addresses("john2"), ["john2@example.com!", "John.Smith2@example.com"]);
    assert_eq!(house.resolve("john2@example.com"), mailbox("john2"));
    assert_eq!(house.resolve("john.smith2@example.com"), mailbox("john2"));

    // what one gave oneself goes when one drops it; the store follows at once
    house.put(MailboxStores, "second", json!({"type": "drop"})).await.unwrap();
    house.put(Recipients, "john", json!({"addresses": ["boss@example.com"], "mailboxStore": "second"})).await.unwrap();
    let second = Resolution::Mailbox { recipient: "john".parse().unwrap(), store: "second".parse().unwrap() };
    assert_eq!(house.resolve("boss@example.com"), second);
    assert_eq!(house.resolve("john.smith@example.com"), second);
    house.put(Recipients, "john", json!({})).await.unwrap();
    assert_eq!(house.resolve("boss@example.com"), Resolution::Unknown);
    assert_eq!(house.resolve("john@example.com"), mailbox("john"));

    // a recipient that goes frees its addresses
    house.delete(Recipients, "john").await.unwrap();
    assert_eq!(house.resolve("john@example.com"), Resolution::Unknown);
    assert!(
        !house
            .store
            .entries()
            .keys()
            .any(|key| key.starts_with("address/john@") || key.starts_with("address/john.smith@"))
    );
    house.put(Recipients, "eve", json!({"addresses": ["John.Smith@example.com"]})).await.unwrap();

    // a domain that recipients use themselves cannot go
    let other = json!({"addresses": [{"template": "@other.example", "primary": true}]});
    let found = violations(house.put(RecipientPolicies, "default", other).await);
    assert_eq!(found, [(Some("recipients/eve".into()), "/spec/addresses/0".into(), ViolationCode::DomainNotLocal)]);
}

#[tokio::test]
async fn restamping_gives_no_address_to_two() {
    let house = House::new().await;
    for index in 0..2_500 {
        let spec = json!({"givenName": "A", "surname": format!("B{}", index % 7)});
        house.put(Recipients, &format!("r{index}"), spec).await.unwrap();
    }
    let policy = json!({"addresses": [{"template": "%g.%s@new.example", "primary": true}]});
    house.put(RecipientPolicies, "default", policy).await.unwrap();
    let mut seen = std::collections::HashMap::new();
    for index in 0..2_500 {
        let name = format!("r{index}");
        for address in house.addresses(&name) {
            let address: crate::smtp::address::Mailbox = address.trim_end_matches('!').parse().unwrap();
            assert!(seen.insert(address.key(), name.clone()).is_none());
        }
    }
    let stored = house.store.entries();
    let keys = stored.keys().filter(|key| key.starts_with("address/")).count();
    assert_eq!(keys, seen.len());
    for (address, name) in seen {
        assert_eq!(house.config.recipient_with(&address.parse().unwrap()).unwrap().unwrap().name.as_str(), name);
    }
}

#[tokio::test]
async fn lists_go_on_where_they_stopped() {
    let house = House::new().await;
    for index in 0..25 {
        let body = json!({"labels": {"even": if index % 2 == 0 { "yes" } else { "no" }}, "spec": {}});
        let name = format!("r{index:02}");
        house.config.put(Recipients, &name, &body, &Precondition::default(), &Actor::default(), false).await.unwrap();
    }
    for (selector, expected) in [("", 25), ("even=yes", 13), ("even!=yes", 12), ("odd", 0)] {
        let selector: LabelSelector = selector.parse().unwrap();
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let Page { items, next } = house.config.list(Recipients, &selector, after.as_ref(), 5).unwrap();
            assert!(items.len() <= 5);
            names.extend(items.into_iter().map(|object| object.name));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(names.len(), expected, "{selector}");
        assert!(names.is_sorted());
    }
    assert_eq!(house.config.list(Recipients, &LabelSelector::default(), None, 25).unwrap().next, None);
}

#[tokio::test]
async fn the_first_key_is_made_once_and_only_its_hash_is_kept() {
    let house = House::new().await;
    let key = house.config.make_first_key(false).await.unwrap().unwrap().to_string();
    assert!(house.config.make_first_key(false).await.unwrap().is_none());
    assert!(house.config.verify_first_key(&key).unwrap());
    assert!(!house.config.verify_first_key("bh_").unwrap());
    let bytes: Vec<u8> = house.store.entries().into_values().flatten().collect();
    assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()));
    let other = house.config.make_first_key(true).await.unwrap().unwrap().to_string();
    assert!(house.config.verify_first_key(&other).unwrap() && !house.config.verify_first_key(&key).unwrap());
    assert_eq!(house.config.live().current().revision, house.store.revision());
}

#[tokio::test]
async fn a_broken_store_is_reported() {
    let house = House::new().await;
    for value in [
        "{",
        r#"{"v":2,"owner":"api","generation":1,"spec":{}}"#,
        r#"{"v":1,"owner":"api","generation":1,"spec":{"x":1}}"#,
    ] {
        let write = vec![("object/connectors/bad".to_owned(), Some(value.as_bytes().to_vec()))];
        house.store.commit(house.store.revision(), write).await.unwrap();
        assert!(matches!(
            Configuration::open(house.store.clone(), options()).await,
            Err(OpenError::Store(StoreError::Damaged(_)))
        ));
    }
}

fn any_spec() -> impl Strategy<Value = (Collection, Value)> {
    let duration = (1_u64..10_000_000).prop_map(|seconds| format!("{seconds}s"));
    let server = (
        any::<bool>(),
        64_u64 << 10..1 << 40,
        proptest::collection::vec(duration, 1..4),
        proptest::collection::vec(any::<[u8; 4]>(), 0..4),
    )
        .prop_map(|(enabled, size, intervals, clients)| {
            let allow: Vec<String> = clients.iter().map(|ip| std::net::Ipv4Addr::from(*ip).to_string()).collect();
            let spec = json!({
                "enabled": enabled, "messages": {"maxSize": size}, "delivery": {"retryIntervals": intervals},
                "relay": {"allow": allow}, "bindings": [{"address": "::1", "port": 0}], "dnsServers": ["127.0.0.1:53"]
            });
            (VirtualServers, spec)
        });
    let recipient = (proptest::option::of("\\PC{1,20}"), "[a-z]{1,8}").prop_map(|(given, own)| {
        (
            Recipients,
            json!({"surname": given.clone().unwrap_or("x".into()), "addresses": [format!("{own}@Example.COM")]}),
        )
    });
    let hosts = proptest::collection::vec(("[a-z]{1,9}", any::<u16>(), 1_u16..), 1..5);
    let connector = ("[a-z]{1,9}", 1_u8..=100, hosts).prop_map(|(label, cost, hosts)| {
        let hosts: Vec<Value> = hosts.iter().map(|(host, n, port)| json!({"host": host, "priority": n, "port": port})).collect();
        (Connectors, json!({"addressSpaces": [{"pattern": format!("*.{label}.example"), "cost": cost}], "route": {"smartHosts": hosts}}))
    });
    prop_oneof![server, recipient, connector]
}

/// Changes that fit together or not, on few names, so that they meet.
fn any_change() -> impl Strategy<Value = (Collection, &'static str, Option<Value>)> {
    let name = prop_oneof![Just("default"), Just("a"), Just("b")];
    let spec = (0_u8..5, "[ab]", any::<bool>(), 1_u16..4).prop_map(|(kind, other, flag, number)| match kind {
        0 => (VirtualServers, json!({"enabled": flag, "bindings": [{"address": "127.0.0.1", "port": number}]})),
        1 => (
            Connectors,
            json!({"addressSpaces": [{"pattern": format!("*.{other}"), "cost": number}], "route": {"dns": {}}, "bridgeheads": [other]}),
        ),
        2 => (MailboxStores, json!({"type": "maildir", "path": other, "default": flag})),
        3 => (Recipients, json!({"mailboxStore": other, "addresses": [format!("{other}@example.com")]})),
        _ => (
            RecipientPolicies,
            json!({"priority": number, "addresses": [{"template": format!("%m@{other}.example"), "primary": true, "authoritative": flag}]}),
        ),
    });
    (name, spec, any::<u8>())
        .prop_map(|(name, (collection, spec), dice)| (collection, name, (dice > 60).then_some(spec)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_change_is_whole_or_not_at_all(changes in proptest::collection::vec(any_change(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            for (collection, name, spec) in changes {
                let before = house.state();
                let result = match spec {
                    Some(spec) => house.put(collection, name, spec).await,
                    None => house.delete(collection, name).await,
                };
                match result {
                    Ok(outcome) if outcome.change == ChangeKind::Unchanged => assert_eq!(house.state(), before),
                    Ok(outcome) => assert_eq!(outcome.revision, before.0 + 1),
                    Err(_) => assert_eq!(house.state(), before),
                }
                house.assert_live_is_what_a_fresh_process_compiles().await;
            }
            // every address that is found is its recipient's, and the other way round
            let mut listed: Vec<String> = Vec::new();
            for object in house.config.list(Recipients, &LabelSelector::default(), None, 100).unwrap().items {
                for stamped in &object.addresses {
                    let owner = house.config.recipient_with(&stamped.address).unwrap().unwrap();
                    assert_eq!(owner.name, object.name);
                    listed.push(format!("address/{}", stamped.address.key()));
                }
            }
            listed.sort();
            let stored: Vec<String> = house.store.entries().into_keys().filter(|key| key.starts_with("address/")).collect();
            assert_eq!(listed, stored);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn putting_what_was_got_changes_nothing((collection, spec) in any_spec()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            house.put(collection, "x", spec).await.unwrap();
            let got = house.config.get(collection, "x").unwrap().unwrap();
            let before = house.state();
            let again = house.put(collection, "x", got.spec.clone()).await.unwrap();
            assert_eq!((again.change, &again.object), (ChangeKind::Unchanged, &got));
            let patched = house.patch(collection, "x", json!({"spec": got.spec})).await.unwrap();
            assert_eq!(patched.change, ChangeKind::Unchanged);
            assert_eq!(house.state(), before);
            house.assert_live_is_what_a_fresh_process_compiles().await;
        });
    }

    #[test]
    fn a_merge_patch_is_a_put_of_the_merged(first in any_spec(), second in any_spec()) {
        prop_assume!(first.0 == second.0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (one, two) = (House::new().await, House::new().await);
            one.put(first.0, "x", first.1.clone()).await.unwrap();
            two.put(first.0, "x", first.1.clone()).await.unwrap();
            let patched = one.patch(first.0, "x", json!({"spec": second.1.clone()})).await.unwrap();
            let mut merged = two.config.get(first.0, "x").unwrap().unwrap().spec;
            json_patch::merge(&mut merged, &second.1);
            assert_eq!(patched.object.spec, two.put(first.0, "x", merged).await.unwrap().object.spec);
        });
    }
}

#[tokio::test]
async fn a_secret_is_stored_once_and_goes_with_its_object() {
    let house = House::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let pem = key.serialize_pem();
    let secret = pem.lines().nth(1).unwrap();
    let holders = || {
        let entries = house.store.entries().into_iter();
        let holds = |value: &[u8]| String::from_utf8_lossy(value).contains(secret);
        entries.filter(|(_, value)| holds(value)).map(|(key, _)| key).collect::<Vec<_>>()
    };
    let body = json!({"chain": {"value": chain}, "privateKey": {"value": pem}});
    let told = house.put(Certificates, "a", body).await.unwrap();
    assert!(!format!("{told:?}").contains(secret));
    assert_eq!(holders(), ["object/certificates/a"]);
    house.assert_live_is_what_a_fresh_process_compiles().await;
    house.patch(Certificates, "a", json!({"labels": {"x": "y"}})).await.unwrap();
    assert_eq!(holders(), ["object/certificates/a", "revision-part/00000000000000000003/000000"]);
    let snapshot = house.config.live().current();
    assert!(!format!("{snapshot:?}").contains(secret));
    // a fresh process knows the fingerprint, which another store would not make
    let fresh = Configuration::open(house.store.clone(), options()).await.unwrap();
    let read = |config: &Configuration| config.get(Certificates, "a").unwrap().unwrap().spec;
    assert_eq!(read(&fresh), read(&house.config));
    // and goes for good when no kept revision can be gone back to any more that had it
    house.delete(Certificates, "a").await.unwrap();
    assert!(holders().iter().all(|key| key.starts_with("revision-part/")) && !holders().is_empty());
    house.patch(Settings, "settings", json!({"spec": {"retention": {"revisions": 1}}})).await.unwrap();
    assert!(holders().is_empty());
}

#[tokio::test]
async fn a_start_with_broken_files_is_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let options = || OpenOptions { secrets_dir: directory.path().to_owned(), ..options() };
    let store = Arc::new(MemoryStore::default());
    let config = Configuration::open(store.clone(), options()).await.unwrap();
    config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
    let house = House { store: store.clone(), config };
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    std::fs::write(directory.path().join("c"), &chain).unwrap();
    std::fs::write(directory.path().join("k"), key.serialize_pem()).unwrap();
    house.put(Certificates, "a", json!({"chain": {"file": "c"}, "privateKey": {"file": "k"}})).await.unwrap();
    let bindings = json!([{"address": "127.0.0.1", "port": 0, "tls": "implicit"}, {"address": "127.0.0.1", "port": 0}]);
    house.put(VirtualServers, "t", json!({"bindings": bindings, "certificates": ["a"]})).await.unwrap();

    std::fs::write(directory.path().join("k"), "broken").unwrap();
    let fresh = Configuration::open(store, options()).await.unwrap();
    let server = fresh.live().current().virtual_servers["t"].clone();
    assert!(server.tls.is_none() && server.tls_fault.is_some());
    assert!(server.cannot_serve(&server.spec.bindings[0]).is_some());
    assert_eq!(server.cannot_serve(&server.spec.bindings[1]), None);
    let mut published = fresh.live().subscribe();
    published.mark_unchanged();
    fresh.refresh().await.unwrap();
    assert!(!published.has_changed().unwrap(), "nothing changed");
    std::fs::write(directory.path().join("k"), key.serialize_pem()).unwrap();
    fresh.refresh().await.unwrap();
    assert!(published.has_changed().unwrap(), "listeners are told");
    let server = fresh.live().current().virtual_servers["t"].clone();
    assert_eq!(server.cannot_serve(&server.spec.bindings[0]), None);
}

mod groups;
