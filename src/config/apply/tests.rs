use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::document::{DocumentError, Format, Text};
use crate::config::export::Secrets;
use crate::config::revisions::RevisionError;
use crate::config::{FirstStart, OpenOptions, Precondition, ViolationCode, WriteMode};
use crate::model::time::Timestamp;
use crate::store::memory::MemoryStore;
use Collection::*;

struct House {
    store: Arc<MemoryStore>,
    config: Arc<Configuration>,
}

impl House {
    async fn with(files: bool) -> House {
        let store = Arc::new(MemoryStore::default());
        let options = OpenOptions {
            host_name: "relay.example.com".parse().unwrap(),
            secrets_dir: "/nonexistent".into(),
            files,
            now: Arc::new(|| Timestamp::EPOCH),
        };
        let config = Configuration::open(store.clone(), options).await.unwrap();
        config.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        House { store, config }
    }

    async fn new() -> House {
        House::with(false).await
    }

    async fn apply_with(&self, text: &str, options: ApplyOptions) -> Result<Applied, ApplyError> {
        self.config.apply(&yaml(text).unwrap(), &options, &Actor { key: "tester".into(), ..Actor::default() }).await
    }

    async fn apply(&self, text: &str) -> Applied {
        self.apply_with(text, ApplyOptions::new("gitops")).await.unwrap()
    }

    async fn violations(&self, text: &str) -> Vec<(String, ViolationCode, u64)> {
        match self.apply_with(text, ApplyOptions::new("gitops")).await.unwrap_err() {
            ApplyError::Invalid(found) => told(found),
            error => panic!("{error:?}"),
        }
    }

    fn state(&self) -> (u64, std::collections::BTreeMap<String, Vec<u8>>) {
        (self.config.live().current().revision, self.store.entries())
    }

    fn spec(&self, collection: Collection, name: &str) -> Option<Value> {
        self.config.get(collection, name).unwrap().map(|object| object.spec)
    }

    fn owner(&self, collection: Collection, name: &str) -> Option<String> {
        self.config.get(collection, name).unwrap().map(|object| object.owner)
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let object = self.config.get(Recipients, name).unwrap().unwrap();
        object.addresses.iter().map(|address| address.address.to_string()).collect()
    }

    async fn export(&self, format: Format, secrets: Secrets) -> String {
        self.config.export(format, secrets, &Actor::default()).await.unwrap().text
    }
}

fn told(found: Vec<Placed>) -> Vec<(String, ViolationCode, u64)> {
    let one = |placed: Placed| {
        let object = placed.violation.object.map(|object| format!("{object}:")).unwrap_or_default();
        let line = placed.place.map_or(0, |place| place.line);
        (format!("{object}{}", placed.violation.pointer), placed.violation.code, line)
    };
    found.into_iter().map(one).collect()
}

fn text(format: Format, text: &str) -> Text {
    Text { file: None, format, text: text.to_owned() }
}

fn yaml(document: &str) -> Result<Document, DocumentError> {
    Document::read(vec![text(Format::Yaml, document)])
}

const DOCUMENT: &str = r#"
apiVersion: v1
recipients:
  staff: {type: group, members: [ada, bob]}
  ada: {givenName: Ada, surname: Lovelace, addresses: [ada@partner.example], mailboxStore: vault}
  bob: {forwardTo: [ada@partner.example], deliverAndForward: true}
connectors:
  partner:
    labels: {team: mail}
    addressSpaces: [{pattern: "*.far.example", cost: 10}]
    route: {smartHosts: [{host: mx.far.example}]}
    bridgeheads: [second]
settings:
  organization: Example
recipientPolicies:
  partner: {priority: 1, filter: {attribute: group, operator: in, values: [staff]}, addresses: [{template: "@partner.example", primary: true}]}
mailboxStores:
  vault: {type: maildir}
virtualServers:
  second: {bindings: [{address: 127.0.0.1, port: 2526}]}
"#;

#[tokio::test]
async fn all_of_a_document_is_one_revision_whatever_its_order() {
    let house = House::new().await;
    let before = house.config.live().current().revision;
    let dry = ApplyOptions { dry_run: true, ..ApplyOptions::new("gitops") };
    let state = house.state();
    let tried = house.apply_with(DOCUMENT, dry).await.unwrap();
    assert_eq!((tried.created, tried.updated, tried.revision), (7, 1, before));
    assert_eq!(house.state(), state, "a dry run changes nothing");
    assert_eq!(tried.effects.recipients.items.len(), 3);
    assert_eq!(tried.effects.listeners.len(), 1, "{:?}", tried.effects.listeners);

    let applied = house.apply(DOCUMENT).await;
    assert_eq!((applied.created, applied.updated, applied.revision), (7, 1, before + 1));
    assert_eq!(house.config.live().current().revision, before + 1);
    let audited = house.store.entries().keys().filter(|key| key.starts_with("audit/")).count();
    assert_eq!(audited, 2, "the first start, and one entry for all of it");
    assert!(house.addresses("ada").contains(&"ada@partner.example".to_owned()), "{:?}", house.addresses("ada"));
    assert_eq!(house.addresses("bob"), ["bob@partner.example"]);
    assert_eq!(house.owner(Settings, "settings").as_deref(), Some("gitops"), "what was nobody's is the owner's");
    let partner = applied.objects.iter().find(|object| object.object == "connectors/partner").unwrap();
    assert_eq!(partner.diff[0].pointer, "/labels");

    let again = house.apply(DOCUMENT).await;
    assert_eq!((again.unchanged, again.created, again.updated, again.revision), (8, 0, 0, before + 1));
    let fresh = Configuration::open(
        house.store.clone(),
        OpenOptions {
            host_name: "relay.example.com".parse().unwrap(),
            secrets_dir: "/nonexistent".into(),
            files: false,
            now: Arc::new(|| Timestamp::EPOCH),
        },
    );
    assert_eq!(house.config.live().current(), fresh.await.unwrap().live().current());
}

#[tokio::test]
async fn what_is_wrong_anywhere_leaves_everything_as_it_was() {
    let house = House::new().await;
    let state = house.state();
    use ViolationCode::*;
    let wrong = "connectors:\n  one:\n    addressSpaces: [{pattern: '*.a.example'}]\n    route: {dns: {}}\n    \
                 bridgeheads:\n    - default\n    - missing\n  two:\n    addressSpaces: [{pattern: '*.b.example'}]\n    \
                 route: {dns: {}}\nrecipients:\n  ada:\n    mailboxStore: gone\n    addresses: [ada@not.local]\n";
    assert_eq!(house.violations(wrong).await, [("/connectors/one/bridgeheads/1".to_owned(), UnknownReference, 7)]);
    let wrong = wrong.replace("    - missing\n", "");
    assert_eq!(
        house.violations(&wrong).await,
        [
            ("/recipients/ada/mailboxStore".to_owned(), UnknownReference, 12),
            ("/recipients/ada/addresses/0".to_owned(), DomainNotLocal, 13),
        ]
    );
    // an object of somebody else's may be broken by it
    house.apply("mailboxStores: {vault: {type: maildir}}\nrecipients: {ada: {mailboxStore: vault}}\n").await;
    let prune = ApplyOptions { prune: true, ..ApplyOptions::new("gitops") };
    let refused = house.apply_with("recipients: {ada: {mailboxStore: vault}}\n", prune).await.unwrap_err();
    let ApplyError::Invalid(found) = refused else { panic!("{refused:?}") };
    assert_eq!(told(found)[0].0, "/recipients/ada/mailboxStore");
    let shape = yaml(
        "conectors: {}\nconnectors:\n  Hub: {}\n  hub:\n    addressSpaces:\n    - pattern: '*'\n      cost: 200\n    \
         route: {dns: {}}\n    rout: 1\n    labels: {a: 1}\nrecipients:\n  ada: 7\nsettings: {organisation: x}\napiVersion: v2\n",
    );
    let Err(DocumentError::Invalid(found)) = shape else { panic!() };
    let mut found = told(found);
    found.sort_by_key(|(_, _, line)| *line);
    let found: Vec<_> = found.iter().map(|(pointer, code, line)| (pointer.as_str(), *code, *line)).collect();
    assert_eq!(
        found,
        [
            ("/conectors", UnknownField, 1),
            ("/connectors/Hub", InvalidName, 3),
            ("/connectors/Hub/addressSpaces", Required, 3),
            ("/connectors/Hub/route", Required, 3),
            ("/connectors/hub/addressSpaces/0/cost", OutOfRange, 7),
            ("/connectors/hub/rout", UnknownField, 9),
            ("/connectors/hub/labels/a", WrongType, 10),
            ("/recipients/ada", WrongType, 12),
            ("/settings/organisation", UnknownField, 13),
            ("/apiVersion", InvalidValue, 14),
        ]
    );
    let now = house.state();
    assert_eq!(now.0, state.0 + 1, "only what was good");
}

#[tokio::test]
async fn owners_are_respected_and_pruned() {
    let house = House::new().await;
    let connector =
        |name: &str| format!("  {name}: {{addressSpaces: [{{pattern: '*.{name}.example'}}], route: {{dns: {{}}}}}}\n");
    house.apply(&format!("connectors:\n{}{}", connector("a"), connector("b"))).await;
    let other = |take_over| ApplyOptions { take_over, ..ApplyOptions::new("other") };
    let text = format!("connectors:\n{}{}{}", connector("a"), connector("b"), connector("c"));
    match house.apply_with(&text, other(false)).await.unwrap_err() {
        ApplyError::Change(ChangeError::Owned { objects }) => {
            let all: Vec<_> = objects.iter().map(|one| (one.object.as_str(), one.owner.as_str())).collect();
            assert_eq!(all, [("connectors/a", "gitops"), ("connectors/b", "gitops")]);
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(house.spec(Connectors, "c"), None);
    let taken = house.apply_with(&format!("connectors:\n{}", connector("a")), other(true)).await.unwrap();
    assert_eq!((taken.updated, taken.objects[0].diff[0].pointer.as_str()), (1, "/owner"));
    // renaming: b goes, d comes; a is another's by now, and default is nobody's
    let prune = ApplyOptions { prune: true, ..ApplyOptions::new("gitops") };
    let renamed = connector("b").replace("  b:", "  d:");
    let applied = house.apply_with(&format!("connectors:\n{renamed}settings: {{}}\n"), prune.clone()).await.unwrap();
    assert_eq!((applied.created, applied.deleted), (1, 1));
    assert!(house.spec(Connectors, "a").is_some() && house.spec(Connectors, "default").is_some());
    assert_eq!(house.owner(Settings, "settings").as_deref(), Some("gitops"));
    house.apply_with(&format!("connectors:\n{renamed}"), prune).await.unwrap();
    assert_eq!(house.owner(Settings, "settings").as_deref(), Some("system"), "they cannot go");

    // writes of one object
    let (any, actor) = (Precondition::default(), Actor::default());
    let patch = json!({"spec": {"enabled": false}});
    let one = house.config.patch(Connectors, "d", &patch, &any, &actor, false).await;
    assert!(matches!(one, Err(ChangeError::Owned { .. })), "{one:?}");
    assert!(matches!(house.config.delete(Connectors, "d", &any, &actor, true).await, Err(ChangeError::Owned { .. })));
    let mode = WriteMode { dry_run: false, take_over: true };
    house.config.patch(Connectors, "d", &patch, &any, &actor, mode).await.unwrap();
    assert_eq!(house.owner(Connectors, "d").as_deref(), Some("api"));
    let stale = ApplyOptions { if_revision: Some(1), ..ApplyOptions::new("gitops") };
    let refused = house.apply_with("settings: {}\n", stale).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Change(ChangeError::RevisionChanged { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_a_file_says_only_the_file_changes() {
    let house = House::with(true).await;
    let file = ApplyOptions { take_over: true, prune: true, ..ApplyOptions::new("file") };
    let text = "connectors: {a: {addressSpaces: [{pattern: '*.a.example'}], route: {dns: {}}}}\n";
    house.apply_with(text, file.clone()).await.unwrap();
    let by_file = |error| match error {
        ChangeError::Owned { objects } => assert!(objects[0].by_file),
        error => panic!("{error:?}"),
    };
    let (any, actor) = (Precondition::default(), Actor::default());
    let mode = WriteMode { dry_run: false, take_over: true };
    let patch = json!({"spec": {"enabled": false}});
    by_file(house.config.patch(Connectors, "a", &patch, &any, &actor, mode).await.unwrap_err());
    by_file(house.config.delete(Connectors, "a", &any, &actor, mode).await.unwrap_err());
    let take = ApplyOptions { take_over: true, ..ApplyOptions::new("gitops") };
    match house.apply_with(text, take).await.unwrap_err() {
        ApplyError::Change(error) => by_file(error),
        error => panic!("{error:?}"),
    }
    match house.config.rollback(1, false, None, &actor).await.unwrap_err() {
        RevisionError::Change(error) => by_file(error),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn recipients_trade_addresses_and_names_in_one_step() {
    let house = House::new().await;
    house.apply("recipients:\n  ada: {addresses: [one@example.com]}\n  bob: {addresses: [two@example.com]}\n").await;
    let applied = house
        .apply("recipients:\n  ada: {addresses: [two@example.com]}\n  bob: {addresses: [one@example.com]}\n")
        .await;
    assert_eq!(applied.updated, 2);
    let owner = |address: &str| {
        let found = house.config.recipient_with(&address.parse().unwrap()).unwrap();
        found.map(|object| object.name.to_string()).unwrap_or_default()
    };
    assert_eq!((owner("one@example.com"), owner("two@example.com")), ("bob".to_owned(), "ada".to_owned()));
    // a rename takes the address along
    let prune = ApplyOptions { prune: true, ..ApplyOptions::new("gitops") };
    let text = "recipients:\n  ada.lovelace: {addresses: [two@example.com]}\n  bob: {addresses: [one@example.com]}\n";
    house.apply_with(text, prune.clone()).await.unwrap();
    assert_eq!(owner("two@example.com"), "ada.lovelace");
    // who is still named cannot go
    house.apply("recipients: {all: {type: group, members: [bob, ada.lovelace]}}\n").await;
    let refused =
        house.apply_with("recipients: {all: {type: group, members: [bob]}}\n", prune.clone()).await.unwrap_err();
    let ApplyError::Invalid(found) = refused else { panic!("{refused:?}") };
    assert_eq!(told(found), [("/recipients/all/members/0".to_owned(), ViolationCode::UnknownReference, 1)]);
    house.apply_with("settings: {}\n", prune).await.unwrap();
    assert_eq!((owner("one@example.com"), owner("bob@example.com")), (String::new(), String::new()));
    assert!(!house.store.entries().keys().any(|key| key.starts_with("reference/") || key.starts_with("address/")));
}

#[tokio::test]
async fn an_export_makes_the_same_house_elsewhere() {
    let house = House::new().await;
    house.apply(DOCUMENT).await;
    house
        .apply(
            "accounts:\n  ada: {username: ada@example.com, password: {value: a long password}, labels: {on: 'yes'}}\n\
             filters:\n  f: {kind: connection, deny: [192.0.2.0/24]}\n\
             mailboxStores:\n  hook: {type: webhook, url: 'https://app.example/', secret: {value: \"s3cret: '#\\n2\"}}\n\
             recipients:\n  odd: {displayName: 'null', givenName: '0123', surname: \"a\\nb: c\", attributes: {zip: '007', no: 'true'}}\n",
        )
        .await;
    for format in [Format::Yaml, Format::Json] {
        let text = house.export(format, Secrets::Include).await;
        let elsewhere = House::new().await;
        let document =
            Document::read(vec![super::tests::text(format, &text)]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let all = ApplyOptions::new("gitops");
        elsewhere
            .config
            .apply(&document, &all, &Actor::default())
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert_eq!(elsewhere.export(format, Secrets::Include).await, text);
        let addresses = |house: &House| ["ada", "bob", "odd"].map(|name| house.addresses(name));
        assert_eq!(addresses(&elsewhere), addresses(&house));
        // by reference it is applied to the same house, and changes nothing
        let text = house.export(format, Secrets::Reference).await;
        assert!(!text.contains("s3cret") && !text.contains("argon2"), "{text}");
        let document = Document::read(vec![super::tests::text(format, &text)]).unwrap();
        let all = ApplyOptions { take_over: true, ..ApplyOptions::new("gitops") };
        let applied = house.config.apply(&document, &all, &Actor::default()).await.unwrap();
        assert!(
            applied.objects.iter().all(|object| object.diff.iter().all(|diff| diff.pointer == "/owner")),
            "{applied:?}"
        );
        let refused = House::new().await.config.apply(&document, &all, &Actor::default()).await.unwrap_err();
        let ApplyError::Invalid(found) = refused else { panic!("{refused:?}") };
        assert!(found.iter().all(|placed| placed.violation.code == ViolationCode::SecretUnknown), "{found:?}");
    }
}

#[tokio::test]
async fn revisions_are_told_compared_and_gone_back_to() {
    let house = House::new().await;
    let actor = Actor { key: "ann".into(), ..Actor::default() };
    let hook = |secret: &str, port: u16| {
        format!(
            "mailboxStores: {{hook: {{type: webhook, url: 'https://app.example:{port}/', secret: {{value: {secret}}}}}}}\n"
        )
    };
    let first = house.apply(&hook("one", 1)).await.revision;
    let second = house.apply(&hook("two", 2)).await.revision;
    let third = house.apply("recipients: {ada: {addresses: [ann@example.com]}}\n").await.revision;
    let (any, delete) = (Precondition::default(), WriteMode { dry_run: false, take_over: true });
    house.config.delete(Recipients, "ada", &any, &actor, delete).await.unwrap();
    let fourth = house.config.delete(MailboxStores, "hook", &any, &actor, delete).await.unwrap().revision;

    let (heads, more) = house.config.revisions(None, 3).await;
    assert!(more);
    assert_eq!(heads.iter().map(|head| head.revision).collect::<Vec<_>>(), [fourth, fourth - 1, third]);
    assert_eq!((heads[0].actor.key.as_str(), heads[0].kind, heads[0].deleted), ("ann", RevisionKind::Write, 1));
    let (head, changes) = house.config.revision(second).await.unwrap();
    assert_eq!((head.kind, head.updated), (RevisionKind::Apply, 1));
    let pointers: Vec<_> = changes.objects[0].diff.iter().map(|diff| diff.pointer.as_str()).collect();
    assert_eq!(pointers, ["/spec/secret/fingerprint", "/spec/url"]);
    let between = house.config.difference(first, third).await.unwrap();
    assert_eq!(between.changed, 2, "{between:?}");
    let back = house.config.difference(third, first).await.unwrap();
    assert_eq!(back.objects.iter().find(|one| one.object == "recipients/ada").unwrap().change, ChangeKind::Deleted);
    assert_eq!(house.config.difference(second, second).await.unwrap().changed, 0);

    let before = house.state();
    let tried = house.config.rollback(third, true, None, &actor).await.unwrap();
    assert_eq!((tried.created, house.state()), (2, before));
    let done = house.config.rollback(third, false, None, &actor).await.unwrap();
    assert_eq!((done.created, done.revision), (2, fourth + 1));
    assert_eq!(house.addresses("ada"), ["ada@example.com", "ann@example.com"]);
    assert_eq!(house.owner(MailboxStores, "hook").as_deref(), Some("gitops"), "with its owner");
    let text = house.export(Format::Yaml, Secrets::Include).await;
    assert!(text.contains("value: two"), "with its secret: {text}");
    let older = house.config.rollback(first, false, None, &actor).await.unwrap();
    assert_eq!((older.updated, older.deleted), (1, 1));
    assert!(house.export(Format::Yaml, Secrets::Include).await.contains("value: one"));
    // and forth again
    house.config.rollback(done.revision, false, None, &actor).await.unwrap();
    assert!(house.export(Format::Yaml, Secrets::Include).await.contains("value: two"));
    assert!(matches!(house.config.rollback(999, false, None, &actor).await, Err(RevisionError::Unknown(999))));
    let stale = house.config.rollback(first, false, Some(first), &actor).await;
    assert!(matches!(stale, Err(RevisionError::Change(ChangeError::RevisionChanged { .. }))), "{stale:?}");

    // bounded, also by a smaller number
    house.apply("settings: {retention: {revisions: 3}}\n").await;
    let (heads, more) = house.config.revisions(None, 100).await;
    assert_eq!((heads.len(), more), (3, false));
    let kept = house.store.entries().keys().filter(|key| key.starts_with("revision")).count();
    assert_eq!(kept, 6, "a head and a part of each");
    let gone = house.config.rollback(first, false, None, &actor).await;
    assert!(matches!(gone, Err(RevisionError::Unknown(_))), "{gone:?}");
}

#[test]
fn bombs_are_refused() {
    let refused = |format, document: &str| match Document::read(vec![text(format, document)]) {
        Err(DocumentError::Unreadable { detail, repeated, .. }) => (detail, repeated),
        other => panic!("{:?}", other.err()),
    };
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let previous = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let begun = Instant::now();
    refused(Format::Yaml, &bomb);
    // no bomb, but aliases that add more than the text is worth
    let wide = |anchors: usize| {
        let anchor = |n| format!("a{n}: &a{n} [{}]\nb{n}: [*a{n},*a{n},*a{n},*a{n},*a{n}]\n", ["x"; 250].join(","));
        (0..anchors).map(anchor).collect::<String>()
    };
    let readable = yaml(&wide(20)).map(|_| ());
    assert!(matches!(readable, Err(DocumentError::Invalid(_))), "{readable:?}");
    refused(Format::Yaml, &wide(200));
    refused(Format::Yaml, &"[".repeat(100_000));
    refused(Format::Yaml, &"- ".repeat(100_000));
    refused(Format::Json, &"[".repeat(100_000));
    refused(Format::Json, &format!("{{\"settings\": {}}}", "9".repeat(1_000_000)));
    assert!(refused(Format::Yaml, "connectors:\n  a: {}\n  a: {}\n").1);
    assert!(refused(Format::Json, "{\"connectors\": {}, \"connectors\": {}}").1);
    refused(Format::Yaml, "settings: {}\n---\nsettings: {}\n");
    refused(Format::Yaml, "settings: {organization: .nan}\n");
    refused(Format::Yaml, "settings: [\n");
    // a number of any length is no text and no number that we take
    assert!(
        Document::read(vec![text(Format::Yaml, &format!("settings: {{organization: {}}}\n", "9".repeat(1_000_000)))])
            .is_err()
    );
    for empty in ["", "# nothing\n", "null\n", "[]\n", "text\n"] {
        assert!(matches!(yaml(empty), Err(DocumentError::Invalid(_))), "{empty:?}");
    }
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    let document =
        yaml("settings: {organization: yes}\nconnectors:\nrecipients: {ada: , bob: {attributes: {zip: 01234}}}\n")
            .unwrap();
    assert_eq!(document.len(), 3);
}

#[test]
fn an_object_in_two_files_is_told_with_both() {
    let file = |name: &str, text: &str| Text {
        file: Some(name.to_owned()),
        format: if name.ends_with("json") { Format::Json } else { Format::Yaml },
        text: text.to_owned(),
    };
    let files = vec![
        file("a.yaml", "# first\nfilters:\n  f: {kind: sender}\n"),
        file("b.json", "{\"filters\":\n {\"f\": {\"kind\": \"sender\"},\n \"g\": {}}}"),
    ];
    let Err(DocumentError::Invalid(found)) = Document::read(files) else { panic!() };
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "b.json:2:3: /filters/f: filters/f stands in a.yaml and in b.json");
    assert!(lines[1].starts_with("b.json:3:2: /filters/g/kind: "), "{lines:?}");
}

/// `cargo test --release -- --ignored --nocapture large_documents` tells how long it takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn large_documents() {
    let house = House::new().await;
    let mut connectors = "connectors:\n".to_owned();
    for n in 0..1_000 {
        connectors.push_str(&format!(
            "  c{n}:\n    addressSpaces:\n    - pattern: '*.d{n}.example'\n      cost: 10\n    route:\n      smartHosts:\n      - host: mx.d{n}.example\n"
        ));
    }
    let begun = Instant::now();
    let applied = house.apply(&connectors).await;
    println!("1,000 connectors: {:?}", begun.elapsed());
    assert_eq!(applied.created, 1_000);
    let begun = Instant::now();
    house.apply(&connectors.replace("cost: 10", "cost: 20")).await;
    println!("1,000 connectors changed: {:?}", begun.elapsed());
    let mut recipients = "recipients:\n".to_owned();
    for n in 0..100_000 {
        recipients.push_str(&format!(
            "  r{n}:\n    givenName: Given{n}\n    surname: Sur{n}\n    attributes: {{department: d{}}}\n",
            n % 100
        ));
    }
    for again in ["new", "the same"] {
        let begun = Instant::now();
        let document = yaml(&recipients).unwrap();
        println!("100,000 recipients read: {:?}", begun.elapsed());
        let applied = house.config.apply(&document, &ApplyOptions::new("gitops"), &Actor::default()).await.unwrap();
        println!("100,000 recipients {again}: {:?} {} {}", begun.elapsed(), applied.created, applied.unchanged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever text stands in a field comes back from YAML as it was.
    #[test]
    fn any_text_survives_yaml(text in "[\\PC\n\t ]{0,60}", key in "[a-z.]{1,8}") {
        let value = json!({"k": {(key.clone()): text.clone(), "l": [text.clone(), {"m": text.clone()}]}});
        let written = serde_saphyr::to_string_with_options(
            &value, serde_saphyr::ser_options! { prefer_block_scalars: false }).unwrap();
        let indented: String = written.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect();
        let whole = format!("x:\n{indented}");
        let read: crate::config::strict::StrictValue = serde_saphyr::from_str(&whole).map_err(|e| TestCaseError::fail(format!("{e}\n{whole}")))?;
        prop_assert_eq!(&read.0["x"], &value, "{}", whole);
    }
}
