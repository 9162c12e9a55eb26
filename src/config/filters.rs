//! Filters, compiled: what they match, as look-ups that cost the same however long the lists are.
//!
//! Here is what a filter says of a sender, a recipient or a client; when it is asked and what becomes of the mail is
//! `intake`'s.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{ClientList, Peer};
use crate::model::dns_list::DnsListCode;
use crate::model::mailbox_pattern::MailboxSet;
use crate::model::name::Name;
use crate::model::spec::FilterSpec;
use crate::model::spec::filter::{ConnectionFilter, DnsList, FilterAction, RecipientFilter, SenderFilter};
use crate::smtp::address::{Mailbox, ReversePath};

/// A filter, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its name.
    pub name: Name,
    /// Rises by one with each change of it.
    pub generation: u64,
    /// As it was written.
    pub spec: Arc<FilterSpec>,
    /// What becomes of what it matches.
    pub action: FilterAction,
    /// What it matches.
    pub rules: Rules,
}

/// What a filter matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// Senders.
    Sender(SenderRules),
    /// Recipients.
    Recipient(RecipientRules),
    /// Clients.
    Connection(Box<ConnectionRules>),
}

/// Which senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderRules {
    deny: MailboxSet,
    allow: MailboxSet,
    blank: bool,
}

/// Which recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRules {
    deny: MailboxSet,
    /// Also those that the directory should have and does not.
    pub not_in_directory: bool,
}

/// Which clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRules {
    allow: ClientList,
    deny: ClientList,
    exceptions: MailboxSet,
    /// The DNS lists that say more.
    pub lists: Vec<DnsList>,
}

impl Filter {
    /// Compiles a filter.
    pub fn new(name: Name, generation: u64, spec: Arc<FilterSpec>) -> Self {
        let (action, rules) = match &*spec {
            FilterSpec::Sender(SenderFilter { deny, allow, blank_sender, action }) => {
                let (deny, allow) = (MailboxSet::new(deny), MailboxSet::new(allow));
                (*action, Rules::Sender(SenderRules { deny, allow, blank: *blank_sender }))
            }
            FilterSpec::Recipient(RecipientFilter { deny, not_in_directory, action }) => {
                let deny = MailboxSet::new(deny);
                (*action, Rules::Recipient(RecipientRules { deny, not_in_directory: *not_in_directory }))
            }
            FilterSpec::Connection(ConnectionFilter { allow, deny, dnsbl, exceptions, action }) => {
                let rules = ConnectionRules {
                    allow: ClientList::new(allow, &[]),
                    deny: ClientList::new(&[], deny),
                    exceptions: MailboxSet::new(exceptions),
                    lists: dnsbl.clone(),
                };
                (*action, Rules::Connection(Box::new(rules)))
            }
        };
        Filter { name, generation, spec, action, rules }
    }
}

impl SenderRules {
    /// The rule that matches, in words; `None` when none does.
    pub fn matches(&self, sender: &ReversePath) -> Option<String> {
        match sender.mailbox() {
            None => self.blank.then(|| "blankSender".to_owned()),
            Some(mailbox) if self.allow.find(mailbox).is_none() => {
                self.deny.find(mailbox).map(|pattern| format!("deny {pattern}"))
            }
            Some(_) => None,
        }
    }
}

impl RecipientRules {
    /// The rule of `deny` that matches, in words.
    pub fn denies(&self, recipient: &Mailbox) -> Option<String> {
        self.deny.find(recipient).map(|pattern| format!("deny {pattern}"))
    }
}

impl ConnectionRules {
    /// Whether no connection filter shall match the client.
    pub fn allows(&self, client: Peer<'_>) -> bool {
        self.allow.allows(client)
    }

    /// Whether it matches the client without asking any DNS list.
    pub fn denies(&self, client: Peer<'_>) -> bool {
        self.deny.verdict(client) == Some(false)
    }

    /// Whether it lets mail for this recipient pass, whoever the client is.
    pub fn excepts(&self, recipient: &Mailbox) -> bool {
        self.exceptions.find(recipient).is_some()
    }

    /// Whether the client's verified reverse name has a say.
    pub fn asks_for_names(&self) -> bool {
        self.allow.asks_for_names() || self.deny.asks_for_names()
    }
}

/// The first of a DNS list's answers that counts (RFC 5782, 2.1: only those in 127.0.0.0/8 mean anything).
pub fn listing(list: &DnsList, answers: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let counts = |answer: &Ipv4Addr| match answer.octets() {
        // "you may not ask", of providers such as Spamhaus: nothing about the client
        [127, 255, 255, _] => list.codes.contains(&DnsListCode::Answer(*answer)),
        [127, ..] => list.codes.is_empty() || list.codes.iter().any(|code| code.matches(*answer)),
        _ => false,
    };
    answers.iter().copied().find(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::net::IpAddr;

    fn filter(spec: Value) -> Filter {
        Filter::new("f".parse().unwrap(), 1, Arc::new(serde_json::from_value(spec).unwrap()))
    }

    fn sender(text: &str) -> ReversePath {
        if text.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(text.parse().unwrap()) }
    }

    #[test]
    fn senders() {
        let deny = json!(["a@x.example", "*@spam.example", "*@*.spam.example"]);
        let spec = json!({"kind": "sender", "deny": deny, "allow": ["good@spam.example"], "blankSender": true});
        let Rules::Sender(rules) = filter(spec).rules else { panic!() };
        for (from, rule) in [
            ("", Some("blankSender")),
            ("A@X.example", Some("deny a@x.example")),
            ("b@x.example", None),
            ("b@spam.example", Some("deny *@spam.example")),
            ("Good@spam.example", None),
            ("good@a.spam.example", Some("deny *@*.spam.example")),
        ] {
            assert_eq!(rules.matches(&sender(from)).as_deref(), rule, "{from:?}");
        }
        let Rules::Sender(rules) = filter(json!({"kind": "sender"})).rules else { panic!() };
        assert_eq!(rules.matches(&ReversePath::Null), None);
    }

    #[test]
    fn clients() {
        let spec = json!({
            "kind": "connection", "allow": ["192.0.2.7", "*.good.example"], "deny": ["192.0.2.0/24", "2001:db8::/32"],
            "exceptions": ["postmaster@a.example"]
        });
        let Rules::Connection(rules) = filter(spec).rules else { panic!() };
        let client = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        assert!(rules.allows(client("192.0.2.7")) && !rules.allows(client("192.0.2.8")));
        assert!(rules.denies(client("192.0.2.8")) && rules.denies(client("2001:db8::1")));
        assert!(!rules.denies(client("198.51.100.1")));
        let name = "mx.good.example".parse().unwrap();
        assert!(rules.asks_for_names() && rules.allows(Peer { name: Some(&name), ..client("192.0.2.8") }));
        assert!(rules.excepts(&"Postmaster@A.example".parse().unwrap()));
        assert!(!rules.excepts(&"ada@a.example".parse().unwrap()));
    }

    #[test]
    fn answers_of_dns_lists() {
        let list = |codes: &[&str]| DnsList {
            zone: "bl.example".parse().unwrap(),
            codes: codes.iter().map(|code| code.parse().unwrap()).collect(),
            reply: Default::default(),
        };
        let counts = |codes: &[&str], answers: &[&str]| {
            let answers: Vec<Ipv4Addr> = answers.iter().map(|answer| answer.parse().unwrap()).collect();
            listing(&list(codes), &answers).map(|answer| answer.to_string())
        };
        assert_eq!(counts(&[], &["127.0.0.4"]).as_deref(), Some("127.0.0.4"));
        assert_eq!(counts(&[], &[]), None);
        assert_eq!(counts(&[], &["93.184.216.34"]), None, "a parked domain lists nobody");
        assert_eq!(counts(&["0.255.255.255"], &["93.184.216.34"]), None);
        assert_eq!(counts(&[], &["127.255.255.254"]), None, "a refusal to answer lists nobody");
        assert_eq!(counts(&["0.0.0.2"], &["127.255.255.254"]), None);
        assert_eq!(counts(&["127.255.255.254"], &["127.255.255.254"]).as_deref(), Some("127.255.255.254"));
        assert_eq!(counts(&["127.0.0.2"], &["127.0.0.3", "127.0.0.2"]).as_deref(), Some("127.0.0.2"));
        assert_eq!(counts(&["127.0.0.2", "0.0.0.8"], &["127.0.0.3"]), None);
        assert_eq!(counts(&["127.0.0.2", "0.0.0.8"], &["127.0.0.10"]).as_deref(), Some("127.0.0.10"));
    }
}
