//! The name of a queue: where a recipient of a message waits, and for what.
//!
//! A *link queue* holds what goes to one next hop: for a connector with smart hosts that is the
//! connector, for one that routes by DNS, or whose mail is fetched, it is the connector and the domain. The others are the
//! system queues of Exchange 2000: messages awaiting directory lookup, local delivery, unrouted, dead letter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::Name;
use crate::smtp::address::Domain;

/// A queue. Its text form is its id in REST.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueName {
    /// `smarthost:<connector>`: mail for the smart hosts of a connector.
    SmartHost(Name),
    /// `dns:<connector>:<domain>`: mail for one domain, by DNS, or until it is asked for (`remoteTriggered`).
    /// The connector says which.
    Dns(Name, Domain),
    /// `local:<mailbox store>`: mail for recipients of this store.
    Local(Name),
    /// `directory`: mail for groups, contacts and forwards, until it is known who gets it.
    Directory,
    /// `unrouted`: no connector carries it now; it is routed again later.
    Unrouted,
    /// `held`: mail that an operator holds, until it is let go.
    Held,
    /// `deadLetter`: nothing more can be done and nobody could be told; kept until its retention ends.
    DeadLetter,
}

impl QueueName {
    /// What the queue is for, in one word: `smartHost`, `dns`, `local`, `directory`, `unrouted`, `held`, `deadLetter`.
    pub fn kind(&self) -> &'static str {
        match self {
            QueueName::SmartHost(_) => "smartHost",
            QueueName::Dns(..) => "dns",
            QueueName::Local(_) => "local",
            QueueName::Directory => "directory",
            QueueName::Unrouted => "unrouted",
            QueueName::Held => "held",
            QueueName::DeadLetter => "deadLetter",
        }
    }

    /// The connector that carries this queue, if one does.
    pub fn connector(&self) -> Option<&Name> {
        match self {
            QueueName::SmartHost(connector) | QueueName::Dns(connector, _) => Some(connector),
            _ => None,
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueName::SmartHost(connector) => write!(f, "smarthost:{connector}"),
            QueueName::Dns(connector, domain) => write!(f, "dns:{connector}:{domain}"),
            QueueName::Local(store) => write!(f, "local:{store}"),
            QueueName::Directory => f.write_str("directory"),
            QueueName::Unrouted => f.write_str("unrouted"),
            QueueName::Held => f.write_str("held"),
            QueueName::DeadLetter => f.write_str("deadLetter"),
        }
    }
}

/// The text names no queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a queue: smarthost:<connector>, dns:<connector>:<domain>, local:<mailbox store>, directory, unrouted, held or deadLetter"
)]
pub struct NotAQueue;

impl FromStr for QueueName {
    type Err = NotAQueue;

    fn from_str(text: &str) -> Result<Self, NotAQueue> {
        match text.split_once(':') {
            None if text == "directory" => Ok(QueueName::Directory),
            None if text == "unrouted" => Ok(QueueName::Unrouted),
            None if text == "held" => Ok(QueueName::Held),
            None if text == "deadLetter" => Ok(QueueName::DeadLetter),
            Some(("smarthost", connector)) => connector.parse().map(QueueName::SmartHost).map_err(|_| NotAQueue),
            Some(("local", store)) => store.parse().map(QueueName::Local).map_err(|_| NotAQueue),
            Some(("dns", rest)) => {
                let (connector, domain) = rest.split_once(':').ok_or(NotAQueue)?;
                let connector = connector.parse().map_err(|_| NotAQueue)?;
                Ok(QueueName::Dns(connector, domain.parse().map_err(|_| NotAQueue)?))
            }
            _ => Err(NotAQueue),
        }
    }
}

impl Serialize for QueueName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueueName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back() {
        for id in [
            "smarthost:hub",
            "dns:default:example.com",
            "dns:default:[IPv6:2001:db8::1]",
            "local:default",
            "directory",
            "unrouted",
            "held",
            "deadLetter",
        ] {
            assert_eq!(id.parse::<QueueName>().unwrap().to_string(), id);
        }
        for id in ["", "local", "local:", "dns:default", "dns:default:", "x:y"] {
            assert!(id.parse::<QueueName>().is_err(), "{id}");
        }
    }
}
