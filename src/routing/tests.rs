use super::*;
use crate::model::spec::connector::AddressSpace;
use proptest::prelude::*;

fn connector(name: &str, spaces: &[(&str, u8)], more: serde_json::Value) -> Arc<Connector> {
    let spaces: Vec<_> =
        spaces.iter().map(|(pattern, cost)| serde_json::json!({"pattern": pattern, "cost": cost})).collect();
    let mut spec = serde_json::json!({"addressSpaces": spaces, "route": {"dns": {}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let spec = serde_json::from_value(spec).unwrap();
    Arc::new(Connector { name: name.parse().unwrap(), generation: 1, spec, access: Access::default() })
}

fn routed(table: &Table, domain: &str, sender: &str, size: u64, spread: u64) -> Option<String> {
    let (domain, sender) = (domain.parse().unwrap(), sender.parse().unwrap());
    match table.route(RouteRequest { domain: &domain, sender: &sender, size }, spread) {
        Route::Connector { connector, .. } => Some(connector.name.to_string()),
        Route::NoRoute => None,
        Route::TryLater => panic!("a table always knows"),
    }
}

#[test]
fn the_most_specific_space_wins_whatever_its_cost() {
    let none = serde_json::json!({});
    let table = Table::build([
        connector("any", &[("*", 1)], none.clone()),
        connector("com", &[("*.com", 50)], none.clone()),
        connector("example", &[("*.example.com", 90), ("b.example.com", 100)], none.clone()),
        connector("cheap", &[("b.example.com", 2)], none.clone()),
        connector("off", &[("off.example", 1)], serde_json::json!({"enabled": false})),
    ]);
    for (domain, name) in [
        ("a.example.org", "any"),
        ("com", "any"),
        ("example.com", "com"),
        ("a.b.c.example.com", "example"),
        ("b.example.com", "cheap"),
        ("B.Example.COM", "cheap"),
        ("off.example", "any"),
        ("[192.0.2.1]", "any"),
    ] {
        assert_eq!(routed(&table, domain, "a@b.example", 0, 0).as_deref(), Some(name), "{domain}");
    }
    assert_eq!(routed(&Table::default(), "example.com", "<>", 0, 0), None);
}

#[test]
fn what_restrictions_exclude_is_absent() {
    let table = Table::build([
        connector("small", &[("example.com", 1)], serde_json::json!({"restrictions": {"maxSize": 100}})),
        connector("reports", &[("example.com", 2)], serde_json::json!({"restrictions": {"nonSystem": false}})),
        connector("rest", &[("*", 1)], serde_json::json!({"restrictions": {"system": false}})),
    ]);
    assert_eq!(routed(&table, "example.com", "a@b", 100, 0).as_deref(), Some("small"));
    assert_eq!(routed(&table, "example.com", "<>", 101, 0).as_deref(), Some("reports"));
    assert_eq!(routed(&table, "example.com", "a@b", 101, 0).as_deref(), Some("rest"));
    assert_eq!(routed(&table, "example.org", "<>", 1, 0), None);
}

#[test]
fn equal_costs_share_and_one_message_stays() {
    let none = serde_json::json!({});
    let table = Table::build([
        connector("a", &[("*", 1)], none.clone()),
        connector("b", &[("*", 1)], none.clone()),
        connector("c", &[("*", 2)], none),
    ]);
    let to_a =
        (0..1_000).filter(|spread| routed(&table, "x.example", "<>", 0, *spread).as_deref() == Some("a")).count();
    assert!((400..600).contains(&to_a), "{to_a}");
    assert_eq!(routed(&table, "x.example", "<>", 0, 7), routed(&table, "y.example", "<>", 0, 7));
}

#[test]
fn relay_is_opened_by_the_most_specific_space_only() {
    let table = Table::build([
        connector("open", &[("*", 1)], serde_json::json!({"allowRelay": true})),
        connector("closed", &[("example.com", 1)], serde_json::json!({})),
        connector("via", &[("*.partner.example", 1)], serde_json::json!({"allowRelay": true, "relayVia": ["inside"]})),
    ]);
    let allows = |domain: &str, server: &str| table.allows_relay(&domain.parse().unwrap(), &server.parse().unwrap());
    assert!(allows("example.org", "default"));
    assert!(!allows("example.com", "default"));
    assert!(allows("a.partner.example", "inside"));
    assert!(!allows("a.partner.example", "default"));
    assert!(!Table::default().allows_relay(&"example.org".parse().unwrap(), &"default".parse().unwrap()));
}

#[test]
fn both_spellings_of_a_domain_go_one_way() {
    let table = Table::build([connector("a", &[("bücher.example", 1)], serde_json::json!({}))]);
    for domain in ["bücher.example", "xn--bcher-kva.example"] {
        let (domain, sender) = (domain.parse().unwrap(), ReversePath::Null);
        let Route::Connector { queue, .. } = table.route(RouteRequest { domain: &domain, sender: &sender, size: 0 }, 0)
        else {
            panic!("no route")
        };
        assert_eq!(queue.to_string(), "dns:a:xn--bcher-kva.example");
    }
}

/// The router as one would write it without thinking of speed.
fn naive(connectors: &[Arc<Connector>], request: &RouteRequest<'_>) -> Vec<String> {
    let specificity = |pattern: &AddressPattern| match pattern {
        AddressPattern::Exact(_) => usize::MAX,
        AddressPattern::Below(domain) => domain.to_string().len(),
        AddressPattern::Any => 0,
    };
    let fits: Vec<(usize, u8, String)> = connectors
        .iter()
        .filter(|connector| connector.spec.enabled && connector.carries(request))
        .flat_map(|connector| connector.spec.address_spaces.iter().map(move |space: &AddressSpace| (connector, space)))
        .filter(|(_, space)| space.pattern.matches(request.domain))
        .map(|(connector, space)| (specificity(&space.pattern), space.cost, connector.name.to_string()))
        .collect();
    let Some(best) = fits.iter().map(|(specific, _, _)| *specific).max() else { return Vec::new() };
    let cheapest = fits.iter().filter(|(specific, ..)| *specific == best).map(|(_, cost, _)| *cost).min();
    fits.into_iter()
        .filter(|(specific, cost, _)| *specific == best && Some(*cost) == cheapest)
        .map(|(.., name)| name)
        .collect()
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_router(
        spaces in proptest::collection::vec(
            (proptest::collection::vec(("(\\*|\\*\\.|)", "([ab]\\.){0,3}c", 1_u8..4), 0..4), any::<bool>(), any::<bool>(), 0_u64..3),
            0..6,
        ),
        domain in "([ab]\\.){0,4}c",
        null in any::<bool>(),
        size in 0_u64..4,
        spread in any::<u64>(),
    ) {
        let connectors: Vec<_> = spaces.iter().enumerate().map(|(index, (spaces, system, enabled, max))| {
            let patterns: Vec<(String, u8)> = spaces.iter().map(|(star, domain, cost)| match star.as_str() {
                "*" => ("*".to_owned(), *cost),
                star => (format!("{star}{domain}"), *cost),
            }).collect();
            let patterns: Vec<(&str, u8)> = patterns.iter().map(|(pattern, cost)| (pattern.as_str(), *cost)).collect();
            connector(&format!("c{index}"), &patterns, serde_json::json!({
                "enabled": enabled, "restrictions": {"system": system, "maxSize": max}
            }))
        }).collect();
        let domain: Domain = domain.parse().unwrap();
        let sender = if null { ReversePath::Null } else { "a@b".parse().unwrap() };
        let request = RouteRequest { domain: &domain, sender: &sender, size };
        let expected = naive(&connectors, &request);
        match Table::build(connectors).route(request, spread) {
            Route::Connector { connector, .. } => prop_assert!(expected.contains(&connector.name.to_string()), "{:?}", expected),
            other => prop_assert!(other == Route::NoRoute && expected.is_empty(), "{:?}", expected),
        }
    }
}
