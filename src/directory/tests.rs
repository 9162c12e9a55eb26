use super::*;
use crate::model::spec::recipient::StampedAddress;
use crate::model::spec::{RecipientPolicySpec, RecipientSpec};
use std::collections::HashMap;

#[derive(Default)]
struct Fake {
    known: HashMap<String, RecipientEntry>,
    broken: bool,
}

impl Recipients for Fake {
    fn by_address(&self, key: &str) -> Result<Option<RecipientEntry>, LookupFailed> {
        if self.broken { Err(LookupFailed("broken".into())) } else { Ok(self.known.get(key).cloned()) }
    }
}

fn fake(addresses: &[(&str, &str)]) -> Fake {
    let entry = |name: &str| RecipientEntry { name: name.parse().unwrap(), mailbox_store: None };
    Fake { known: addresses.iter().map(|(key, name)| ((*key).to_owned(), entry(name))).collect(), broken: false }
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
    match resolve(domains, recipients, &path.parse().unwrap()) {
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
    let stamped = stamp(&policies, &domains, &name, &smith, &earlier, taken).unwrap();
    let texts: Vec<_> =
        stamped.addresses.iter().map(|a| format!("{}{}", a.address, if a.primary { "!" } else { "" })).collect();
    assert_eq!(texts, ["john@example.com!", "John.Smith2@example.com", "js@example.com", "old@example.com"]);

    let ada = RecipientSpec { surname: Some("Lovelace".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, &name, &ada, &none, taken).unwrap().policy, Some(first_name));

    let nameless = RecipientSpec { alias: Some("李".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, &name, &nameless, &none, taken).unwrap().addresses.len(), 1);
    let thief =
        RecipientSpec { addresses: vec!["John.Smith@example.com".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(stamp(&policies, &domains, &name, &thief, &none, taken), Err(StampError::Taken { index: 0, .. })));
    let foreign = RecipientSpec { addresses: vec!["a@foreign.example".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(
        stamp(&policies, &domains, &name, &foreign, &none, taken),
        Err(StampError::NotLocal { index: 0, .. })
    ));
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
        let stamped = stamp(&self.policies, &self.domains, &name, &recipient, &earlier, owner).unwrap();
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
