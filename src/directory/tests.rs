use super::*;
use crate::model::name::Name;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{RecipientPolicySpec, RecipientSpec};
use crate::smtp::address::{ForwardPath, Mailbox};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
struct Fake {
    known: HashMap<String, RecipientEntry>,
    broken: bool,
    reads: AtomicUsize,
}

impl Recipients for Fake {
    fn by_address(&self, key: &str) -> Result<Option<RecipientEntry>, LookupFailed> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.broken { Err(LookupFailed("broken".into())) } else { Ok(self.known.get(key).cloned()) }
    }

    fn by_name(&self, name: &Name) -> Result<Option<RecipientEntry>, LookupFailed> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let found = self.known.values().find(|entry| entry.name == *name).cloned();
        if self.broken { Err(LookupFailed("broken".into())) } else { Ok(found) }
    }
}

fn fake(addresses: &[(&str, &str)]) -> Fake {
    let entry = |name: &str| RecipientEntry::plain(name.parse().unwrap(), None);
    Fake { known: addresses.iter().map(|(key, name)| ((*key).to_owned(), entry(name))).collect(), ..Fake::default() }
}

/// In no group.
fn subject<'a>(name: &'a Name, spec: &'a RecipientSpec) -> Subject<'a> {
    static NONE: std::collections::BTreeSet<Name> = std::collections::BTreeSet::new();
    Subject { name, spec, groups: &NONE }
}

fn policy(json: serde_json::Value) -> RecipientPolicySpec {
    serde_json::from_value(json).unwrap()
}

fn domains(postmaster: Option<&str>) -> Domains {
    let default = policy(serde_json::json!({"addresses": [
        {"template": "@example.com", "primary": true},
        {"template": "@shared.example", "authoritative": false}
    ]}));
    let name: Name = "default".parse().unwrap();
    let postmaster = postmaster.map(|text| text.parse().unwrap());
    Domains::build([(&name, &default)], Some("store".parse().unwrap()), postmaster).unwrap()
}

fn said(domains: &Domains, recipients: &Fake, path: &str) -> String {
    said_to(domains, recipients, path, "s@far.example", 0)
}

fn said_to(domains: &Domains, recipients: &Fake, path: &str, sender: &str, size: u64) -> String {
    let (path, sender) = (path.parse().unwrap(), sender.parse().unwrap());
    match resolve(domains, recipients, &Envelope { path: &path, sender: &sender, size }) {
        Resolution::Others { recipient, kind } => format!("{} {recipient}", kind.as_str()),
        Resolution::Refused { restriction: Restriction::Sender, .. } => "not from you".into(),
        Resolution::Refused { restriction: Restriction::TooLarge { most }, .. } => format!("at most {most}"),
        Resolution::Mailbox { recipient, store } => format!("{recipient} in {store}"),
        Resolution::Unknown => "unknown".into(),
        Resolution::Remote(mailbox) => format!("remote {mailbox}"),
        Resolution::TryLater => "later".into(),
    }
}

#[test]
fn local_shared_and_remote() {
    let (domains, recipients) = (domains(None), fake(&[("ada@example.com", "ada"), ("bob@shared.example", "bob")]));
    for (path, answer) in [
        ("Ada@Example.com", "ada in store"),
        ("eve@example.com", "unknown"),
        ("bob@shared.example", "bob in store"),
        ("eve@shared.example", "remote eve@shared.example"),
        ("ada@elsewhere.example", "remote ada@elsewhere.example"),
        ("ada@[192.0.2.1]", "remote ada@[192.0.2.1]"),
        ("postmaster", "postmaster in store"),
        ("PostMaster@shared.example", "postmaster in store"),
        ("postmaster@elsewhere.example", "remote postmaster@elsewhere.example"),
    ] {
        assert_eq!(said(&domains, &recipients, path), answer, "{path}");
    }
}

#[test]
fn a_postmaster_is_always_somebody() {
    let recipients = fake(&[("ada@example.com", "ada"), ("postmaster@example.com", "chief")]);
    assert_eq!(said(&domains(None), &recipients, "postmaster"), "chief in store");
    assert_eq!(said(&domains(None), &recipients, "postmaster@shared.example"), "chief in store");
    assert_eq!(said(&domains(Some("ada@example.com")), &recipients, "postmaster"), "ada in store");
    assert_eq!(said(&domains(Some("gone@example.com")), &recipients, "postmaster"), "chief in store");
    assert_eq!(said(&domains(Some("x@far.example")), &recipients, "postmaster"), "remote x@far.example");
    assert_eq!(said(&domains(Some("postmaster@example.com")), &fake(&[]), "postmaster"), "postmaster in store");
}

#[test]
fn a_broken_directory_is_no_unknown_recipient() {
    let broken = Fake { broken: true, ..Fake::default() };
    for path in ["ada@example.com", "ada@shared.example", "postmaster"] {
        assert_eq!(said(&domains(None), &broken, path), "later");
    }
}

#[test]
fn contradicting_policies_are_named() {
    let a = policy(serde_json::json!({"addresses": [{"template": "@x.example", "primary": true}]}));
    let b =
        policy(serde_json::json!({"addresses": [{"template": "@X.example", "primary": true, "authoritative": false}]}));
    let (name_a, name_b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
    let errors = Domains::build([(&name_a, &a), (&name_b, &b)], None, None).unwrap_err();
    assert_eq!(errors[0].to_string(), "x.example is authoritative in recipient policy a and shared in b");
}

#[test]
fn stamping_numbers_collisions_and_keeps_what_was() {
    let default = policy(serde_json::json!({"addresses": [
        {"template": "%g.%s@example.com"}, {"template": "@example.com", "primary": true}
    ]}));
    let first =
        policy(serde_json::json!({"priority": 1, "addresses": [{"template": "%m@example.com", "primary": true}],
        "filter": {"attribute": "surname", "operator": "in", "values": ["lovelace"]}}));
    let (default_name, first_name): (Name, Name) = ("default".parse().unwrap(), "first".parse().unwrap());
    let all = [(&default_name, &default), (&first_name, &first)];
    let (policies, domains) = (Policies::new(all), Domains::build(all, None, None).unwrap());
    let smith: RecipientSpec = serde_json::from_value(serde_json::json!({
        "givenName": "John", "surname": "Smith", "addresses": ["js@example.com"]
    }))
    .unwrap();
    let taken = |key: &str| Ok::<_, ()>((key == "john.smith@example.com").then(|| "other".parse().unwrap()));
    let earlier = Earlier {
        addresses: vec![
            StampedAddress { address: "old@example.com".parse().unwrap(), primary: true },
            StampedAddress { address: "old@gone.example".parse().unwrap(), primary: false },
        ],
        spec: Some(smith.clone()),
    };
    let none = Earlier::default();
    let name: Name = "john".parse().unwrap();
    let stamped = stamp(&policies, &domains, subject(&name, &smith), &earlier, taken).unwrap();
    let texts: Vec<_> =
        stamped.addresses.iter().map(|a| format!("{}{}", a.address, if a.primary { "!" } else { "" })).collect();
    assert_eq!(texts, ["john@example.com!", "John.Smith2@example.com", "js@example.com", "old@example.com"]);

    let ada = RecipientSpec { surname: Some("Lovelace".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, subject(&name, &ada), &none, taken).unwrap().policy, Some(first_name));

    let nameless = RecipientSpec { alias: Some("李".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, subject(&name, &nameless), &none, taken).unwrap().addresses.len(), 1);
    let thief =
        RecipientSpec { addresses: vec!["John.Smith@example.com".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(
        stamp(&policies, &domains, subject(&name, &thief), &none, taken),
        Err(StampError::Taken { index: 0, .. })
    ));
    let foreign = RecipientSpec { addresses: vec!["a@foreign.example".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(
        stamp(&policies, &domains, subject(&name, &foreign), &none, taken),
        Err(StampError::NotLocal { index: 0, .. })
    ));
}

/// The recipients of this document, each with `<name>@example.com` as its primary address.
fn directory(recipients: serde_json::Value) -> Fake {
    let mut fake = Fake::default();
    for (name, spec) in recipients.as_object().unwrap() {
        let spec: RecipientSpec = serde_json::from_value(spec.clone()).unwrap();
        let primary: Mailbox = format!("{name}@example.com").parse().unwrap();
        let entry = RecipientEntry::of(name.parse().unwrap(), Some(primary.clone()), &spec);
        for address in spec.addresses.iter().chain([&primary]) {
            fake.known.insert(crate::model::host::mailbox_key(address), entry.clone());
        }
    }
    fake
}

/// Who gets a message for these recipients, one walk after the other.
fn reached(recipients: &Fake, paths: &[&str]) -> Vec<String> {
    reached_from("s@src.example", 10, recipients, paths)
}

/// The same with who does not take it from this sender, in this size.
fn reached_from(sender: &str, size: u64, recipients: &Fake, paths: &[&str]) -> Vec<String> {
    let (domains, sender) = (domains(None), sender.parse().unwrap());
    let mut distributor = Distributor::new(&domains, recipients, &sender, size);
    let mut told = Vec::new();
    let owned = |owner: Option<Mailbox>| owner.map(|owner| format!(" for {owner}")).unwrap_or_default();
    for path in paths {
        match distributor.members(&path.parse().unwrap()) {
            Ok(Reached { members, turned_away }) => {
                told.extend(members.into_iter().map(|member| {
                    let mailbox = member.mailbox.map(|name| format!(" in {name}")).unwrap_or_default();
                    format!("{}{mailbox}{}", member.path, owned(member.owner))
                }));
                told.extend(turned_away.into_iter().map(|one| {
                    let why = match one.restriction {
                        Restriction::TooLarge { most } => format!("at most {most}"),
                        Restriction::Sender => "not from you".to_owned(),
                    };
                    format!("{}: {why}{}", one.path, owned(one.owner))
                }));
            }
            Err(error) => told.push(error.to_string()),
        }
    }
    told
}

#[test]
fn the_order_of_looking_up_is_address_then_plus_then_catch_all() {
    let recipients = fake(&[
        ("ada@example.com", "ada"),
        ("ada+own@example.com", "own"),
        ("*@shared.example", "rest"),
        ("watch@example.com", "watch"),
    ]);
    let plus = domains(None).with(Some("watch@example.com".parse().unwrap()), true);
    for (path, answer) in [
        ("ada+tag@example.com", "ada in store"),
        ("ADA+own@example.com", "own in store"),
        ("ada+own+tag@example.com", "ada in store"),
        ("eve+tag@example.com", "unknown"),
        ("+tag@example.com", "unknown"),
        ("eve@shared.example", "rest in store"),
        ("eve+tag@shared.example", "rest in store"),
        ("abuse@example.com", "watch in store"),
        ("Abuse@shared.example", "watch in store"),
        ("postmaster@shared.example", "postmaster in store"),
    ] {
        assert_eq!(said(&plus, &recipients, path), answer, "{path}");
    }
    let without = domains(None).with(None, false);
    assert_eq!(said(&without, &recipients, "ada+tag@example.com"), "unknown");
    assert_eq!(said(&without, &recipients, "abuse@example.com"), "unknown");
}

#[test]
fn restrictions_hold_for_those_who_are_named_in_the_envelope() {
    let recipients = directory(serde_json::json!({
        "ada": {"maxReceiveSize": 1000},
        "bob": {"acceptFrom": ["staff", "*@friends.example", "one@far.example"], "rejectFrom": ["eve"]},
        "eve": {}, "tim": {},
        "pal": {"type": "contact", "forwardTo": ["pal@home.example"]},
        "staff": {"type": "group", "members": ["inner", "eve"], "acceptFrom": ["staff"]},
        "inner": {"type": "group", "members": ["tim", "pal", "guest@far.example", "staff"]},
        "postmaster": {"rejectFrom": ["*@far.example"], "maxReceiveSize": 1},
    }));
    let domains = domains(None);
    for (to, sender, size, answer) in [
        ("ada", "s@far.example", 1000, "ada in store"),
        ("ada", "s@far.example", 1001, "at most 1000"),
        ("bob", "s@far.example", 0, "not from you"),
        ("bob", "One@Far.example", 0, "bob in store"),
        ("bob", "x@friends.example", 0, "bob in store"),
        ("bob", "tim@example.com", 0, "bob in store"),
        ("bob", "eve@example.com", 0, "not from you"),
        ("bob", "guest@far.example", 0, "bob in store"),
        ("bob", "pal@home.example", 0, "bob in store"),
        ("bob", "<>", 0, "bob in store"),
        ("staff", "<>", 0, "not from you"),
        ("staff", "tim@example.com", 0, "group staff"),
        ("staff", "s@far.example", 0, "not from you"),
        ("pal", "s@far.example", 0, "contact pal"),
        ("postmaster", "s@far.example", 9, "postmaster in store"),
    ] {
        let path = format!("{to}@example.com");
        let sender = sender.trim_matches(['<', '>']);
        assert_eq!(said_to(&domains, &recipients, &path, sender, size), answer, "{sender} to {to}, {size} bytes");
    }
}

#[test]
fn groups_lie_in_each_other_and_each_member_is_reached_once() {
    let recipients = directory(serde_json::json!({
        "ada": {}, "bob": {"forwardTo": ["bob@home.example"], "deliverAndForward": true},
        "tim": {"forwardTo": ["ada", "tim@home.example"]},
        "all": {"type": "group", "members": ["ada", "inner", "ADA@example.com", "bob", "out@far.example"]},
        "inner": {"type": "group", "members": ["all", "tim", "OUT@far.example", "ada+x@example.com"]},
    }));
    assert_eq!(
        reached(&recipients, &["all@example.com"]),
        [
            "ada@example.com in ada",
            "tim@home.example",
            "OUT@far.example",
            "ada+x@example.com", // plus addressing is off in this test: nobody has that address
            "bob@example.com in bob",
            "bob@home.example",
        ]
    );
    // each once over all recipients of a message, and the second group is no failure
    assert_eq!(reached(&recipients, &["tim@example.com", "inner@example.com", "all@example.com"]).len(), 6);
    assert_eq!(reached(&recipients, &["bob+x@example.com"]), ["it stands for nobody else"]);
}

#[test]
fn who_is_behind_a_group_has_restrictions_too() {
    let recipients = directory(serde_json::json!({
        "ada": {}, "boss": {}, "tim": {},
        "shy": {"acceptFrom": ["staff"]},
        "cross": {"rejectFrom": ["*@src.example"], "forwardTo": ["cross@home.example"]},
        "small": {"maxReceiveSize": 100},
        "staff": {"type": "group", "members": ["tim", "staff"]},
        "closed": {"type": "group", "members": ["ada", "hidden@far.example"], "acceptFrom": ["staff"], "owner": "boss"},
        "postmaster": {"rejectFrom": ["*@src.example"]},
        "list": {"type": "group", "owner": "boss", "members": ["shy", "small"]},
        "all": {"type": "group", "members": ["ada", "shy", "cross", "small", "closed", "list", "postmaster@example.com"]},
        "fan": {"forwardTo": ["shy"], "deliverAndForward": true},
    }));
    assert_eq!(
        reached_from("s@src.example", 101, &recipients, &["all@example.com"]),
        [
            "ada@example.com in ada",
            "postmaster@example.com in postmaster", // whoever writes to the postmaster
            "shy@example.com: not from you",
            "cross@example.com: not from you",
            "small@example.com: at most 100",
            "closed@example.com: not from you",
        ]
    );
    assert_eq!(
        reached_from("s@src.example", 101, &recipients, &["list@example.com"]),
        ["shy@example.com: not from you for boss@example.com", "small@example.com: at most 100 for boss@example.com"]
    );
    assert_eq!(
        reached_from(
            "tim@example.com",
            100,
            &recipients,
            &["closed@example.com", "list@example.com", "fan@example.com"]
        ),
        [
            "ada@example.com in ada for boss@example.com",
            "hidden@far.example for boss@example.com",
            "shy@example.com in shy for boss@example.com",
            "small@example.com in small for boss@example.com",
            "fan@example.com in fan",
        ]
    );
    assert_eq!(
        reached_from("s@src.example", 10, &recipients, &["fan@example.com"]),
        ["fan@example.com in fan", "shy@example.com: not from you"]
    );
    // a notification reaches mailboxes, and no group that picks its senders
    assert_eq!(
        reached_from("<>", 10, &recipients, &["all@example.com"]).last().unwrap(),
        "closed@example.com: not from you"
    );
}

/// A hundred members who each take mail from the staff alone do not cost a hundred walks through the staff.
#[test]
fn a_group_of_senders_is_looked_into_once_for_a_message() {
    let mut people = serde_json::Map::new();
    let mut put = |name: String, spec: serde_json::Value| drop(people.insert(name, spec));
    let names = |letter: char| (0..100).map(|n| format!("{letter}{n}")).collect::<Vec<_>>();
    put("all".to_owned(), serde_json::json!({"type": "group", "members": names('m')}));
    put("staff".to_owned(), serde_json::json!({"type": "group", "members": names('s')}));
    for n in 0..100 {
        put(format!("s{n}"), serde_json::json!({}));
        put(format!("w{n}"), serde_json::json!({"type": "group", "members": ["staff"]}));
        put(format!("m{n}"), serde_json::json!({"acceptFrom": [format!("w{n}")]}));
    }
    let recipients = directory(people.into());
    for (sender, get_it) in [("s@src.example", 0), ("s0@example.com", 100)] {
        recipients.reads.store(0, Ordering::Relaxed);
        let told = reached_from(sender, 10, &recipients, &["all@example.com"]);
        assert_eq!(told.iter().filter(|one| one.contains(" in m")).count(), get_it, "{sender}");
        let reads = recipients.reads.load(Ordering::Relaxed);
        // the group and its members, the hundred wrappers, the staff and its members, the sender
        assert!(reads < 101 + 100 + 101 + 10, "{sender}: {reads} reads");
    }
}

#[test]
fn the_innermost_owner_hears_of_failures() {
    let recipients = directory(serde_json::json!({
        "ada": {}, "boss": {},
        "outer": {"type": "group", "owner": "boss", "members": ["inner", "ada", "plain"]},
        "inner": {"type": "group", "owner": "list-owner@far.example", "members": ["a@far.example"]},
        "plain": {"type": "group", "members": ["b@far.example"]},
    }));
    assert_eq!(
        reached(&recipients, &["outer@example.com"]),
        [
            "a@far.example for list-owner@far.example",
            "ada@example.com in ada for boss@example.com",
            "b@far.example for boss@example.com"
        ]
    );
}

#[test]
fn what_leads_to_nobody_is_said_and_takes_nobody_away() {
    let recipients = directory(serde_json::json!({
        "a": {"forwardTo": ["b"]}, "b": {"forwardTo": ["a@example.com"]},
        "empty": {"type": "group"}, "hollow": {"type": "group", "members": ["empty"]},
        "ada": {},
        "self": {"type": "group", "members": ["self", "ada"]},
        "kept": {"forwardTo": ["kept"], "deliverAndForward": true},
    }));
    assert_eq!(reached(&recipients, &["a@example.com"]), ["its forwards lead in a circle to nobody"]);
    assert_eq!(reached(&recipients, &["hollow@example.com"]), ["the group has no members"]);
    assert_eq!(reached(&recipients, &["self@example.com"]), ["ada@example.com in ada"]);
    assert_eq!(reached(&recipients, &["kept@example.com"]), ["kept@example.com in kept"]);
    let broken = Fake { broken: true, ..Fake::default() };
    assert!(reached(&broken, &["a@example.com"])[0].contains("cannot be read"));
}

#[test]
fn too_many_members_are_a_failure_that_leaves_others_alone() {
    let crowd: Vec<String> = (0..=MOST_MEMBERS).map(|n| format!("u{n}@far.example")).collect();
    let recipients = directory(serde_json::json!({
        "crowd": {"type": "group", "members": crowd},
        "few": {"type": "group", "members": ["u1@far.example"]},
    }));
    let reached = reached(&recipients, &["crowd@example.com", "few@example.com"]);
    assert!(reached == ["it leads to more than 100000 recipients", "u1@far.example"], "{} reached", reached.len());
}

mod any_directory {
    use super::*;
    use proptest::prelude::*;

    /// Ten recipients of any type that name each other, and addresses elsewhere, in any way.
    fn recipients() -> impl Strategy<Value = serde_json::Value> {
        let named =
            prop_oneof![(0..10).prop_map(|n| format!("r{n}")), (0..4).prop_map(|n| format!("x{n}@far.example"))];
        let lists = proptest::collection::vec(named, 0..6);
        let one = (0..3, lists, any::<bool>()).prop_map(|(kind, list, flag)| match kind {
            0 => serde_json::json!({"forwardTo": list, "deliverAndForward": flag}),
            1 => serde_json::json!({"type": "contact", "forwardTo": list}),
            _ if flag => serde_json::json!({"type": "group", "members": list, "owner": "r0"}),
            _ => serde_json::json!({"type": "group", "members": list}),
        });
        proptest::collection::vec(one, 10).prop_map(|all| {
            all.into_iter()
                .enumerate()
                .map(|(n, spec)| (format!("r{n}"), spec))
                .collect::<serde_json::Map<_, _>>()
                .into()
        })
    }

    /// Who is meant, by looking at everybody until nothing new comes.
    fn closure(recipients: &Fake, from: &[usize]) -> std::collections::BTreeSet<String> {
        let mut open: Vec<String> = from.iter().map(|n| format!("r{n}")).collect();
        let (mut seen, mut meant) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        while let Some(name) = open.pop() {
            if name.contains('@') {
                meant.insert(name);
                continue;
            }
            if !seen.insert(name.clone()) {
                continue;
            }
            let further = match recipients.by_name(&name.parse().unwrap()).unwrap().unwrap().kind {
                EntryKind::Mailbox { forward_to, keeps, .. } => {
                    if keeps {
                        meant.insert(format!("{name}@example.com"));
                    }
                    forward_to
                }
                EntryKind::Contact { forward_to } => forward_to,
                EntryKind::Group { members, .. } => members,
            };
            open.extend(further.iter().map(ToString::to_string));
        }
        meant
    }

    proptest! {
        #[test]
        fn everybody_who_is_meant_is_reached_exactly_once(
            recipients in recipients(), from in proptest::collection::vec(0_usize..10, 1..4)
        ) {
            let recipients = directory(recipients);
            let domains = domains(None);
            let mut distributor = Distributor::new(&domains, &recipients, &crate::smtp::address::ReversePath::Null, 10);
            let mut reached = Vec::new();
            for n in &from {
                let path: ForwardPath = format!("r{n}@example.com").parse().unwrap();
                match distributor.members(&path) {
                    Ok(found) => reached.extend(found.members.into_iter().map(|member| member.path.to_string())),
                    Err(NotDistributed::Nobody | NotDistributed::Loop) => {
                        prop_assert!(closure(&recipients, &[*n]).is_empty());
                    }
                    Err(other) => prop_assert!(false, "{}", other),
                }
            }
            let once: std::collections::BTreeSet<String> = reached.iter().cloned().collect();
            prop_assert_eq!(once.len(), reached.len(), "{:?}", reached);
            prop_assert_eq!(once, closure(&recipients, &from));
        }
    }
}

/// A directory that is only stamped: who has which address.
struct Office {
    policies: Policies,
    domains: Domains,
    people: std::collections::BTreeMap<Name, (RecipientSpec, Vec<StampedAddress>)>,
}

impl Office {
    fn new(template: &str) -> Office {
        let (policies, domains) = rules(template);
        Office { policies, domains, people: Default::default() }
    }

    fn rule(&mut self, template: &str) {
        (self.policies, self.domains) = rules(template);
    }

    fn owner(&self, name: &Name, key: &str) -> Option<Name> {
        let has = |(_, (_, addresses)): &(&Name, &(RecipientSpec, Vec<StampedAddress>))| {
            addresses.iter().any(|a| crate::model::host::mailbox_key(&a.address) == key)
        };
        self.people.iter().filter(|(other, _)| *other != name).find(has).map(|(other, _)| other.clone())
    }

    fn put(&mut self, name: &str, recipient: RecipientSpec) {
        let name: Name = name.parse().unwrap();
        let before = self.people.get(&name).cloned();
        let (spec, addresses) = before.map_or((None, Vec::new()), |(spec, addresses)| (Some(spec), addresses));
        let earlier = Earlier { addresses, spec };
        let owner = |key: &str| Ok::<_, ()>(self.owner(&name, key));
        let stamped = stamp(&self.policies, &self.domains, subject(&name, &recipient), &earlier, owner).unwrap();
        self.people.insert(name, (recipient, stamped.addresses));
    }

    fn restamp(&mut self) {
        for (name, (spec, _)) in self.people.clone() {
            self.put(name.as_str(), spec);
        }
    }

    fn primary(&self, name: &str) -> String {
        let (_, addresses) = &self.people[&name.parse::<Name>().unwrap()];
        addresses.iter().find(|a| a.primary).unwrap().address.to_string()
    }
}

fn rules(template: &str) -> (Policies, Domains) {
    let default = policy(serde_json::json!({"addresses": [
        {"template": format!("{template}@example.com"), "primary": true}, {"template": "@example.com"}
    ]}));
    let name: Name = "default".parse().unwrap();
    let all = [(&name, &default)];
    (Policies::new(all), Domains::build(all, None, None).unwrap())
}

fn called(given: &str, surname: &str) -> RecipientSpec {
    RecipientSpec { given_name: Some(given.into()), surname: Some(surname.into()), ..RecipientSpec::default() }
}

#[test]
fn whoever_has_a_number_keeps_it() {
    let mut office = Office::new("%s");
    for name in ["a", "b", "c"] {
        office.put(name, called("X", "Smith"));
    }
    let primaries = |office: &Office| ["a", "b", "c"].map(|name| office.primary(name));
    assert_eq!(primaries(&office), ["Smith@example.com", "Smith2@example.com", "Smith3@example.com"]);
    let before = office.people.clone();
    office.restamp();
    assert_eq!(office.people, before);
    // the first goes: nobody moves up
    office.people.remove("a");
    office.restamp();
    assert_eq!((office.primary("b"), office.primary("c")), ("Smith2@example.com".into(), "Smith3@example.com".into()));
    // who comes anew gets what is free
    office.put("a", called("Y", "Smith"));
    assert_eq!(office.primary("a"), "Smith@example.com");
    // another name wants another address, and the old one stays as a secondary one
    office.put("b", called("X", "Miller"));
    assert_eq!(office.primary("b"), "Miller@example.com");
    assert!(office.people["b"].1.iter().any(|a| a.address.to_string() == "Smith2@example.com" && !a.primary));
    // a number that is part of a name is none
    office.rule("%m");
    office.put("agent7", RecipientSpec::default());
    office.put("agent7", RecipientSpec { alias: Some("agent".into()), ..RecipientSpec::default() });
    assert_eq!(office.primary("agent7"), "agent@example.com");
}

proptest::proptest! {
    #[test]
    fn stamping_is_stable_and_gives_no_address_to_two(
        steps in proptest::collection::vec((0..8_usize, 0..4_usize, 0..3_usize, 0..4_usize), 1..30)
    ) {
        let names = ["a", "b", "c", "d", "smith", "smith2", "e", "f"];
        let surnames = ["Smith", "Smith2", "Şmith", "()"];
        let mut office = Office::new("%s");
        for (who, surname, what, template) in steps {
            match what {
                0 => office.put(names[who], called("J", surnames[surname])),
                1 => drop(office.people.remove(names[who])),
                _ => {
                    office.rule(["%s", "%g.%s", "%1g%s", "%m"][template]);
                    office.restamp();
                }
            }
            let mut seen = std::collections::BTreeSet::new();
            for (name, (_, addresses)) in &office.people {
                proptest::prop_assert_eq!(addresses.iter().filter(|a| a.primary).count(), 1, "{}", name);
                for address in addresses {
                    let text = address.address.to_string();
                    proptest::prop_assert!(text.parse::<crate::smtp::address::Mailbox>().is_ok() && text.is_ascii());
                    proptest::prop_assert!(seen.insert(crate::model::host::mailbox_key(&address.address)), "{} has {} too", name, text);
                }
            }
            let before = office.people.clone();
            office.restamp();
            proptest::prop_assert_eq!(&office.people, &before);
        }
    }
}
