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
    let earlier = [
        StampedAddress { address: "old@example.com".parse().unwrap(), primary: true },
        StampedAddress { address: "old@gone.example".parse().unwrap(), primary: false },
    ];
    let name: Name = "john".parse().unwrap();
    let stamped = stamp(&policies, &domains, &name, &smith, &earlier, taken).unwrap();
    let texts: Vec<_> =
        stamped.addresses.iter().map(|a| format!("{}{}", a.address, if a.primary { "!" } else { "" })).collect();
    assert_eq!(texts, ["john@example.com!", "John.Smith2@example.com", "js@example.com", "old@example.com"]);

    let ada = RecipientSpec { surname: Some("Lovelace".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, &name, &ada, &[], taken).unwrap().policy, Some(first_name));

    let nameless = RecipientSpec { alias: Some("李".into()), ..RecipientSpec::default() };
    assert_eq!(stamp(&policies, &domains, &name, &nameless, &[], taken).unwrap().addresses.len(), 1);
    let thief =
        RecipientSpec { addresses: vec!["John.Smith@example.com".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(stamp(&policies, &domains, &name, &thief, &[], taken), Err(StampError::Taken { index: 0, .. })));
    let foreign = RecipientSpec { addresses: vec!["a@foreign.example".parse().unwrap()], ..RecipientSpec::default() };
    assert!(matches!(
        stamp(&policies, &domains, &name, &foreign, &[], taken),
        Err(StampError::NotLocal { index: 0, .. })
    ));
}
