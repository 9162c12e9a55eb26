//! Policies that ask who is in which group: whom a change of a group concerns, and what they then have.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::stamping::Stamper;
use crate::directory::Subject;
use crate::model::recipient_ref::RecipientRef;
use crate::model::spec::RecipientSpec;

fn group(members: &[&str]) -> Value {
    json!({"type": "group", "members": members})
}

/// A policy for those of this filter, with a domain of its own.
fn policy(priority: u32, name: &str, filter: Value) -> Value {
    let template = format!("%m@{name}.example");
    json!({"priority": priority, "filter": filter, "addresses": [{"template": template, "primary": true}]})
}

fn in_group(groups: &[&str]) -> Value {
    json!({"attribute": "group", "operator": "in", "values": groups})
}

impl House {
    fn primary(&self, name: &str) -> String {
        let object = self.config.get(Recipients, name).unwrap().unwrap();
        object.addresses.iter().find(|a| a.primary).unwrap().address.to_string()
    }

    async fn dry(&self, collection: Collection, name: &str, spec: Value) -> Effects {
        let body = json!({"spec": spec});
        let (any, actor) = (Precondition::default(), Actor::default());
        self.config.put(collection, name, &body, &any, &actor, true).await.unwrap().effects
    }

    /// Stamping all of them anew changes nothing, and each has the addresses of the policy that matches it, with its groups
    /// found from the groups downwards.
    fn assert_stamped(&self) {
        let objects = crate::config::records::load(&*self.store).unwrap();
        let (policies, domains) = (objects.policies(), self.config.live().current().domains.clone());
        let mut draft = ConfigStore::draft(Arc::new((*self.store).clone()));
        let Ok(effects) = Stamper::new(policies.clone(), domains).all(&mut *draft) else { panic!("cannot be stamped") };
        assert_eq!(effects, Effects::default());
        let listed = self.config.list(Recipients, &LabelSelector::default(), None, 100).unwrap().items;
        let specs: BTreeMap<Name, RecipientSpec> =
            listed.into_iter().map(|object| (object.name, serde_json::from_value(object.spec).unwrap())).collect();
        for (name, spec) in &specs {
            let groups = groups_of(name, &specs);
            let won =
                policies.winner(Subject { name, spec, groups: &groups }).map_or("", |(policy, _)| policy.as_str());
            let domain = if won == DEFAULT { "example.com".to_owned() } else { format!("{won}.example") };
            assert_eq!(self.primary(name.as_str()), format!("{name}@{domain}"), "{name} is in {groups:?}");
        }
    }
}

/// As one would find it out by hand: everybody who is a member of one of them, until there is nothing new.
fn groups_of(name: &Name, specs: &BTreeMap<Name, RecipientSpec>) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    loop {
        let has = |spec: &RecipientSpec| {
            spec.members.iter().any(|member| match member {
                RecipientRef::Name(member) => member == name || found.contains(member),
                RecipientRef::Address(_) => false,
            })
        };
        let next: BTreeSet<Name> = specs.iter().filter(|(_, spec)| has(spec)).map(|(name, _)| name.clone()).collect();
        if next == found {
            return found;
        }
        found = next;
    }
}

#[tokio::test]
async fn a_change_of_a_group_stamps_its_members_in_the_same_commit() {
    let house = House::new().await;
    for name in ["ada", "bob", "eve"] {
        house.put(Recipients, name, json!({})).await.unwrap();
    }
    house.put(Recipients, "inner", group(&["bob", "bob@example.com"])).await.unwrap();
    house.put(Recipients, "staff", group(&["ada"])).await.unwrap();
    house.put(RecipientPolicies, "s", policy(1, "s", in_group(&["staff"]))).await.unwrap();
    assert_eq!(house.addresses("ada"), ["ada@s.example!", "ada@example.com"]);
    assert_eq!((house.primary("bob"), house.primary("staff")), ("bob@example.com".into(), "staff@example.com".into()));

    let wanted = group(&["inner", "eve", "eve@example.com"]);
    let effects = house.dry(Recipients, "staff", wanted.clone()).await;
    let listed: Vec<&str> = effects.recipients.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!((effects.recipients.changed, effects.recipients.new_primary), (4, 4));
    assert_eq!(listed, ["ada", "bob", "eve", "inner"]);
    assert_eq!(house.primary("ada"), "ada@s.example", "a dry run changes nothing");
    let before = house.store.revision();
    let outcome = house.put(Recipients, "staff", wanted).await.unwrap();
    assert_eq!((outcome.revision, outcome.effects.recipients.changed), (before + 1, 4));
    assert_eq!(house.addresses("ada"), ["ada@example.com!", "ada@s.example"], "what it had stays as a secondary one");
    for name in ["bob", "eve", "inner"] {
        assert_eq!(house.primary(name), format!("{name}@s.example"));
        assert!(matches!(
            house.resolve(&format!("{name}@s.example")),
            Resolution::Mailbox { .. } | Resolution::Others { .. }
        ));
    }
    // a circle: now it is in itself
    house.put(Recipients, "inner", group(&["staff", "ada"])).await.unwrap();
    assert_eq!(
        ["staff", "ada", "bob"].map(|name| house.primary(name)),
        ["staff@s.example", "ada@s.example", "bob@example.com"]
    );
    // a member by its address is none: addresses are what policies make
    house.put(Recipients, "staff", group(&["inner", "eve@s.example"])).await.unwrap();
    assert_eq!(house.primary("eve"), "eve@example.com");
    house.assert_stamped();
    house.assert_live_is_what_a_fresh_process_compiles().await;
}

#[tokio::test]
async fn a_group_that_a_policy_asks_for_is_there_and_stays() {
    let house = House::new().await;
    house.put(Recipients, "ada", json!({})).await.unwrap();
    let filter = json!({"any": [in_group(&["nobody"]), {"not": {"attribute": "group", "operator": "notIn", "values": ["staff", "ada"]}}]});
    let missing = |values: &[&str]| -> Vec<_> {
        values.iter().map(|at| own(&format!("/spec/filter/any/{at}"), ViolationCode::UnknownReference)).collect()
    };
    let found = violations(house.put(RecipientPolicies, "s", policy(1, "s", filter.clone())).await);
    assert_eq!(found, missing(&["0/values/0", "1/not/values/0", "1/not/values/1"]), "a mailbox is no group");
    house.put(Recipients, "staff", group(&["ada"])).await.unwrap();
    house.put(Recipients, "nobody", group(&[])).await.unwrap();
    let found = violations(house.put(RecipientPolicies, "s", policy(1, "s", filter)).await);
    assert_eq!(found, missing(&["1/not/values/1"]));
    house.put(RecipientPolicies, "s", policy(1, "s", json!({"not": in_group(&["staff"])}))).await.unwrap();
    let Err(ChangeError::Referenced { by }) = house.delete(Recipients, "staff").await else {
        panic!("it is asked for")
    };
    assert_eq!((by[0].object.as_str(), by[0].pointer.as_str()), ("recipient-policies/s", "/spec/filter/not/values/0"));
    let found = violations(house.put(Recipients, "staff", json!({})).await);
    assert_eq!(found, [own("/spec/type", ViolationCode::Conflict)]);
    house.delete(RecipientPolicies, "s").await.unwrap();
    house.delete(Recipients, "staff").await.unwrap();
    house.assert_stamped();
}

#[tokio::test]
async fn a_deleted_group_lets_its_members_go() {
    let house = House::new().await;
    house.put(Recipients, "ada", json!({})).await.unwrap();
    house.put(Recipients, "g", group(&["ada"])).await.unwrap();
    house
        .put(RecipientPolicies, "any", policy(1, "any", json!({"attribute": "group", "operator": "exists"})))
        .await
        .unwrap();
    assert_eq!(house.primary("ada"), "ada@any.example");
    let outcome = house.delete(Recipients, "g").await.unwrap();
    assert_eq!(outcome.effects.recipients.changed, 2);
    assert_eq!(house.primary("ada"), "ada@example.com");
    house.assert_stamped();
}

#[tokio::test]
async fn an_import_brings_in_groups_and_their_members() {
    let house = House::new().await;
    house.put(Recipients, "staff", group(&[])).await.unwrap();
    house.put(RecipientPolicies, "s", policy(1, "s", in_group(&["staff"]))).await.unwrap();
    let line = |n: u64, name: &str, spec: Value| (n, Ok(json!({"name": name, "spec": spec})));
    for dry_run in [true, false] {
        let mut import = house.config.import(Actor::default(), dry_run);
        let lines = vec![
            line(1, "ada", json!({})),
            line(2, "sub", group(&["ada"])),
            line(3, "staff", group(&["sub", "gone"])),
            line(4, "staff", group(&["sub"])),
            line(5, "sub", group(&["ada", "staff"])),
        ];
        import.batch(lines).await.unwrap();
        let report = import.report();
        assert_eq!((report.created, report.updated, report.failed), (2, 2, 1), "{report:?}");
    }
    assert_eq!(
        ["ada", "sub", "staff"].map(|name| house.primary(name)),
        ["ada", "sub", "staff"].map(|n| format!("{n}@s.example"))
    );
    house.assert_stamped();
}

/// One change of a few recipients, groups and policies, which name each other.
fn any_step() -> impl Strategy<Value = (Collection, String, Option<Value>)> {
    let groups = || proptest::collection::btree_set(0..4, 1..3);
    let names = |set: BTreeSet<i32>| set.into_iter().map(|n| format!("g{n}")).collect::<Vec<_>>();
    let member = prop_oneof![(0..8).prop_map(|n| format!("m{n}")), (0..4).prop_map(|n| format!("g{n}"))];
    let members = proptest::collection::btree_set(member, 0..7);
    let asks = (groups(), 0..4).prop_map(move |(set, kind)| match kind {
        0 => json!({"attribute": "group", "operator": "exists"}),
        1 => json!({"attribute": "group", "operator": "notIn", "values": names(set)}),
        2 => json!({"not": {"any": [{"attribute": "group", "operator": "in", "values": names(set)}]}}),
        _ => json!({"attribute": "group", "operator": "in", "values": names(set)}),
    });
    let step = prop_oneof![
        2 => (0..8).prop_map(|n| (Recipients, format!("m{n}"), json!({}))),
        5 => (0..4, members).prop_map(|(n, members)| (Recipients, format!("g{n}"), json!({"type": "group", "members": members}))),
        2 => (1_u32..4, asks).prop_map(|(n, filter)| (RecipientPolicies, format!("p{n}"), policy(n, &format!("p{n}"), filter))),
    ];
    (step, any::<u8>()).prop_map(|((collection, name, spec), dice)| (collection, name, (dice > 50).then_some(spec)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Step by step and all at once come to the same.
    #[test]
    fn stamping_those_concerned_is_stamping_all(steps in proptest::collection::vec(any_step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            for n in 0..8 {
                house.put(Recipients, &format!("m{n}"), json!({})).await.unwrap();
            }
            for n in 0..4 {
                house.put(Recipients, &format!("g{n}"), group(&[])).await.unwrap();
            }
            for (collection, name, spec) in steps {
                let before = house.state();
                let done = match spec {
                    Some(spec) => house.put(collection, &name, spec).await,
                    None => house.delete(collection, &name).await,
                };
                if done.is_err() {
                    assert_eq!(house.state(), before);
                }
                house.assert_stamped();
            }
        });
    }
}
