//! The words in which the history of mail is asked for: positions, keys, and what a search may cost.
//!
//! An event is a JSON object. What a [`TrackingStore`](super::TrackingStore) looks at in it are a few fields
//! ([`EventView`]), of which each event has those that it has; the rest is nobody's business here.
//!
//! A [`Position`] is where an event begins. Positions rise, never come again and survive a restart, so they are the ids of
//! events, the cursors of listings, and where a reader goes on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::mail::MessageId;
use crate::model::time::Timestamp;
use crate::smtp::address::Mailbox;

/// Where an event stands: the number of a file and an octet in it, as text `7-1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// The file.
    pub file: u64,
    /// The octet in it.
    pub offset: u64,
}

impl Position {
    /// Before everything.
    pub const START: Position = Position { file: 0, offset: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.file, self.offset)
    }
}

/// The text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event, such as 7-1024")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let number = |text: &str| match text.as_bytes() {
            [b'0'..=b'9', ..] if text.len() <= 15 => text.parse().map_err(|_| NotAPosition),
            _ => Err(NotAPosition),
        };
        let (file, offset) = text.split_once('-').ok_or(NotAPosition)?;
        Ok(Position { file: number(file)?, offset: number(offset)? })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an index finds events by: 44 bits of a hash. Two values may share a key, so whoever finds by keys looks at what he
/// found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(super) u64);

impl Key {
    fn of(kind: u8, text: &str) -> Key {
        // FNV-1a with a last mix: good enough to spread, and cheap enough for every event of a file
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(kind);
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        Key(hash >> 20)
    }

    /// Events of this message.
    pub fn message(id: MessageId) -> Key {
        Key::of(1, &id.to_string())
    }

    /// Events that name this message as the other side: a notification, an expansion.
    pub fn related(id: MessageId) -> Key {
        Key::of(2, &id.to_string())
    }

    /// Events with this Message-ID.
    pub fn message_id(text: &str) -> Key {
        Key::of(3, text)
    }

    /// Events with this sender; `<>` is the null reverse-path.
    pub fn sender(address: &str) -> Key {
        Key::of(4, &folded(address))
    }

    /// Events with a sender in this domain.
    pub fn sender_domain(domain: &str) -> Key {
        Key::of(5, &domain.to_lowercase())
    }

    /// Events that name this recipient.
    pub fn recipient(address: &str) -> Key {
        Key::of(6, &folded(address))
    }

    /// Events that name a recipient in this domain.
    pub fn recipient_domain(domain: &str) -> Key {
        Key::of(7, &domain.to_lowercase())
    }

    /// Events of this kind.
    pub fn event(word: &str) -> Key {
        Key::of(8, word)
    }

    /// Events of this connector.
    pub fn connector(name: &str) -> Key {
        Key::of(9, name)
    }

    /// Events of this virtual server.
    pub fn virtual_server(name: &str) -> Key {
        Key::of(10, name)
    }
}

/// An address as addresses are compared: without regard to case.
pub fn folded(address: &str) -> String {
    match address.is_ascii() {
        true => address.to_ascii_lowercase(),
        false => address.parse::<Mailbox>().map_or_else(|_| address.to_lowercase(), |mailbox| mailbox.key()),
    }
}

/// The domain of an address.
pub fn domain_of(address: &str) -> Option<&str> {
    address.rsplit_once('@').map(|(_, domain)| domain)
}

/// What is looked at in an event.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// Which message; a refused transaction may have none.
    pub message: Option<MessageId>,
    /// When.
    pub at: Option<Timestamp>,
    /// What.
    pub event: String,
    /// The reverse-path.
    pub sender: Option<String>,
    /// The Message-ID field.
    pub message_id: Option<String>,
    /// The Subject field.
    pub subject: Option<String>,
    /// The recipients that it names.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// The connector.
    pub connector: Option<String>,
    /// The virtual server.
    pub virtual_server: Option<String>,
    /// The account that handed it in.
    pub account: Option<String>,
    /// The API key by which it was submitted.
    pub api_key: Option<String>,
    /// The message on the other side.
    pub related: Option<MessageId>,
}

impl EventView {
    /// Reads it.
    pub fn of(event: &[u8]) -> Option<EventView> {
        serde_json::from_slice(event).ok()
    }

    /// Everything that it is found by.
    pub fn keys(&self, keys: &mut Vec<Key>) {
        keys.push(Key::event(&self.event));
        keys.extend(self.message.map(Key::message));
        keys.extend(self.related.map(Key::related));
        keys.extend(self.message_id.as_deref().map(Key::message_id));
        keys.extend(self.sender.as_deref().map(Key::sender));
        keys.extend(self.sender.as_deref().and_then(domain_of).map(Key::sender_domain));
        for recipient in &self.recipients {
            keys.push(Key::recipient(recipient));
            keys.extend(domain_of(recipient).map(Key::recipient_domain));
        }
        keys.extend(self.connector.as_deref().map(Key::connector));
        keys.extend(self.virtual_server.as_deref().map(Key::virtual_server));
    }
}

/// What is looked for, as far as an index and the clock can tell.
#[derive(Debug, Clone, Default)]
pub struct Seek {
    /// Of each of these lists one key must be there.
    pub keys: Vec<Vec<Key>>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// The latest first.
    pub newest_first: bool,
    /// Behind this event, in the order that is asked for.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: usize,
    /// Octets that may be read for it; an answer may be short, and then says where to go on.
    pub octets: u64,
}

/// Whether an event that the keys have found is wanted.
pub type Wanted = Box<dyn FnMut(&EventView, &[u8]) -> bool + Send>;

/// What a search has found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The events, each with where it begins.
    pub events: Vec<(Position, Vec<u8>)>,
    /// Where to go on ([`Seek::after`]); `None` when nothing more is there.
    pub next: Option<Position>,
    /// Events that were looked at.
    pub scanned: u64,
}

/// A piece of history, as it was written.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The events, each with where it begins.
    pub events: Vec<(Position, Vec<u8>)>,
    /// Where the next piece begins.
    pub next: Position,
    /// What lay between the position that was asked for and the first event here is no longer kept.
    pub gap: bool,
}

/// How the history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryHealth {
    /// Events that were dropped because the writer could not follow, or the disk failed.
    pub dropped: u64,
    /// Lines that cannot be read, in all files that are kept.
    pub damaged: u64,
    /// Files.
    pub files: u64,
    /// Their octets.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_text_and_in_order() {
        let position = Position { file: 7, offset: 1_024 };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        assert!(position < Position { file: 8, offset: 0 });
        for wrong in ["", "7", "7-", "-1", "7-x", "7--1", "+7-1", "7-1-1", "99999999999999999999-1"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_is_found_by_all_that_it_names() {
        let event = br#"{"at":"2026-11-24T10:15:02.480Z","event":"relayed","sender":"A@X.example","recipients":["b@Y.example"],"more":{"x":1}}"#;
        let view = EventView::of(event).unwrap();
        let mut keys = Vec::new();
        view.keys(&mut keys);
        for key in [
            Key::event("relayed"),
            Key::sender("a@x.EXAMPLE"),
            Key::sender_domain("x.example"),
            Key::recipient("B@y.example"),
            Key::recipient_domain("Y.example"),
        ] {
            assert!(keys.contains(&key));
        }
        assert_eq!(keys.len(), 5);
        assert_ne!(Key::sender("a@x.example"), Key::recipient("a@x.example"));
    }
}
