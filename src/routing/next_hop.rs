//! In which order the smart hosts of a connector are tried: lowest priority first; among equal ones by weight, as RFC 2782
//! orders SRV records.

use crate::model::host::Host;
use crate::model::spec::connector::SmartHost;

use super::scramble;

/// Hosts and ports in the order in which they are tried. The same `seed` gives the same order. A host with weight 0 comes
/// after all others of its priority.
pub fn order(hosts: &[SmartHost], seed: u64) -> Vec<(Host, u16)> {
    let mut rest: Vec<&SmartHost> = hosts.iter().collect();
    rest.sort_by_key(|host| host.priority);
    let mut ordered = Vec::with_capacity(rest.len());
    let mut state = seed;
    while let Some(priority) = rest.first().map(|host| host.priority) {
        let equal = rest.iter().take_while(|host| host.priority == priority).count();
        let total: u64 = rest[..equal].iter().map(|host| u64::from(host.weight)).sum();
        state = scramble(state);
        let chosen = if total == 0 {
            usize::try_from(state % equal as u64).unwrap_or_default()
        } else {
            let mut point = state % total;
            rest[..equal]
                .iter()
                .position(|host| {
                    let weight = u64::from(host.weight);
                    let hit = point < weight;
                    point = point.saturating_sub(weight);
                    hit
                })
                .unwrap_or_default()
        };
        let host = rest.remove(chosen);
        ordered.push((host.host.clone(), host.port));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, priority: u16, weight: u16) -> SmartHost {
        SmartHost { host: name.parse().unwrap(), port: 25, tls: Default::default(), priority, weight }
    }

    #[test]
    fn priorities_come_first_and_weights_share() {
        let hosts = [host("c", 1, 1), host("a", 0, 3), host("b", 0, 1), host("z", 0, 0)];
        let mut first_is_a = 0;
        for seed in 0..4_000 {
            let order: Vec<String> = order(&hosts, seed).into_iter().map(|(host, _)| host.to_string()).collect();
            assert_eq!(order.len(), 4);
            assert_eq!(&order[2..], ["z", "c"], "{order:?}");
            first_is_a += usize::from(order[0] == "a");
        }
        assert!((2_800..3_200).contains(&first_is_a), "{first_is_a}");
        assert!(order(&[], 7).is_empty());
    }
}
