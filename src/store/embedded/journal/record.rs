//! The records of the journal, byte for byte.
//!
//! ```text
//!   0 magic u32    4 version u8   5 kind u8    6 unit index u16   8 unit length u16
//!  12 meta length u32   16 content length u32   20 index in group u32   24 records in group u32
//!  32 group u64   40 last synced group u64   48 id (16)   64 BLAKE3 of the content (32)
//!  96 checksum (32): BLAKE3 keyed with the segment's key over offset, bytes 0..96, meta
//! 128 meta (postcard), content, zeros up to a multiple of 8
//! ```
//!
//! The content's hash lies under the keyed checksum, so both together bind offset, header, envelope and
//! content to this segment: neither a record of the file's earlier life nor one that somebody mailed inside
//! a body is taken for ours. The hash is made by whoever brings the content, the journal thread only makes
//! the short keyed one.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{v1, v2};
use crate::model::mail::{Change, Message, MessageId};
use crate::model::queue_name::QueueName;

/// Octets before the meta data.
pub const HEADER: usize = 128;
/// Octets that a record costs in the index of its segment.
pub const INDEXED: usize = 32;
/// The version that is written, and the newest that is read. Version 1 knew less of MAIL ([`v1`](super::v1)), version 2
/// less of submission and routing ([`v2`](super::v2)); what is newer than this stands in a segment of a newer format,
/// which is refused as a whole.
pub const VERSION: u8 = 3;
/// The oldest version that is read.
const OLDEST: u8 = 1;
const MAGIC: u32 = 0x4a_48_52_42; // "BRHJ"
/// No meta data is longer: a length beyond it is no length.
const MAX_META: u32 = 64 << 20;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message, whole; replaces what was known of this id. Meta: [`Accepted`].
    Accepted,
    /// New states of a message. Meta: [`Changed`].
    Changed,
    /// A worker began an attempt. Meta: [`Leases`].
    Leased,
    /// A worker gave back what it had begun, unchanged. Meta: [`Leases`].
    Released,
    /// These ids are not here, whatever was written before. Meta: `Vec<MessageId>`. About [`DONE`]: they were here and are
    /// done; else they were never accepted.
    Void,
    /// A process began or ended: no lease from before is out.
    Boundary,
}

/// Whom a [`Kind::Void`] record is about whose messages came and went.
pub const DONE: MessageId = MessageId(uuid::Uuid::max());

/// Meta data of [`Kind::Accepted`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Accepted<M = Message> {
    /// The envelope with every state folded in.
    pub message: M,
    /// The content lies in `large/`, not in the record.
    pub large: bool,
    /// The content was lost to damage; only the envelope is left.
    pub lost: bool,
    /// Starts of the process that found it leased without outcome.
    pub suspects: u8,
}

impl Accepted {
    /// Reads it as the record's version wrote it.
    pub fn read(header: &Header, meta: &[u8]) -> Option<Accepted> {
        match header.version {
            1 => decode::<Accepted<v1::Message>>(meta).map(Accepted::present),
            2 => decode::<Accepted<v2::Message>>(meta).map(Accepted::present),
            _ => decode(meta),
        }
    }
}

impl<M: Into<Message>> Accepted<M> {
    fn present(self) -> Accepted {
        let Accepted { message, large, lost, suspects } = self;
        Accepted { message: message.into(), large, lost, suspects }
    }
}

/// Meta data of [`Kind::Changed`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Changed<C = Change> {
    /// The resulting states.
    pub change: C,
    /// The leases that it ends.
    pub ended: Vec<QueueName>,
    /// See [`Accepted::suspects`].
    pub suspects: u8,
}

impl Changed {
    /// Reads it as the record's version wrote it.
    pub fn read(header: &Header, meta: &[u8]) -> Option<Changed> {
        match header.version {
            1 | 2 => {
                let Changed { change, ended, suspects } = decode::<Changed<v2::Change>>(meta)?;
                Some(Changed { change: change.into(), ended, suspects })
            }
            _ => decode(meta),
        }
    }
}

/// Meta data of [`Kind::Leased`] and [`Kind::Released`].
pub type Leases = Vec<(MessageId, QueueName)>;

/// A record to be written.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Whom it is about; nil for a list.
    pub id: MessageId,
    /// Postcard.
    pub meta: Vec<u8>,
    /// The content, when it lies in the record.
    pub content: Bytes,
    /// BLAKE3 of the content, also of one in `large/`.
    pub hash: [u8; 32],
    /// Place in, and length of, the unit that counts as a whole or not at all.
    pub unit: (u16, u16),
}

impl Record {
    /// A record without content.
    pub fn plain(kind: Kind, id: MessageId, meta: &impl Serialize) -> Record {
        Record { kind, id, meta: encode(meta), content: Bytes::new(), hash: [0; 32], unit: (0, 1) }
    }

    /// A record about several ids, or about none.
    pub fn list(kind: Kind, meta: &impl Serialize) -> Record {
        Record::plain(kind, MessageId(uuid::Uuid::nil()), meta)
    }

    /// Its length in the segment.
    pub fn len(&self) -> usize {
        padded(HEADER + self.meta.len() + self.content.len())
    }
}

/// Meta data as bytes.
pub fn encode(meta: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(meta).expect("our own values can be written in memory")
}

/// Meta data from bytes.
pub fn decode<M: DeserializeOwned>(meta: &[u8]) -> Option<M> {
    postcard::from_bytes(meta).ok()
}

/// The header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The version of its meta data.
    pub version: u8,
    /// See [`Record::kind`].
    pub kind: Kind,
    /// See [`Record::unit`].
    pub unit: (u16, u16),
    /// Octets of meta data.
    pub meta_len: u32,
    /// Octets of content in the record.
    pub content_len: u32,
    /// Place in the group, and records in it.
    pub in_group: (u32, u32),
    /// The number of the group.
    pub group: u64,
    /// The last group that was known to be synced when this was written.
    pub synced: u64,
    /// See [`Record::id`].
    pub id: MessageId,
    /// See [`Record::hash`].
    pub hash: [u8; 32],
}

impl Header {
    /// The length of the whole record.
    pub fn record_len(&self) -> usize {
        padded(self.head_len() + self.content_len as usize)
    }

    /// The length of header and meta data.
    pub fn head_len(&self) -> usize {
        HEADER + self.meta_len as usize
    }

    /// Appends header and meta data.
    pub fn write(&self, key: &[u8; 32], offset: u64, meta: &[u8], out: &mut Vec<u8>) {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.version;
        bytes[5] = self.kind.number();
        bytes[6..8].copy_from_slice(&self.unit.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.unit.1.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.content_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.in_group.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.in_group.1.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.group.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.synced.to_le_bytes());
        bytes[48..64].copy_from_slice(self.id.0.as_bytes());
        bytes[64..96].copy_from_slice(&self.hash);
        let sum = checksum(key, offset, &bytes[..96], meta);
        bytes[96..128].copy_from_slice(&sum);
        out.extend_from_slice(&bytes);
        out.extend_from_slice(meta);
    }

    /// A quick look before [`Header::peek`].
    pub fn may_begin(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC.to_le_bytes())
    }

    /// Reads a header without believing it: the checksum has not been looked at.
    pub fn peek(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let header = Header {
            version: bytes[4],
            kind: Kind::from_number(bytes[5])?,
            unit: (u16_at(6), u16_at(8)),
            meta_len: u32_at(12),
            content_len: u32_at(16),
            in_group: (u32_at(20), u32_at(24)),
            group: u64_at(32),
            synced: u64_at(40),
            id: MessageId(uuid::Uuid::from_slice(&bytes[48..64]).ok()?),
            hash: bytes[64..96].try_into().ok()?,
        };
        let readable = (OLDEST..=VERSION).contains(&header.version);
        (u32_at(0) == MAGIC && readable && header.meta_len <= MAX_META).then_some(header)
    }

    /// Reads header and meta data and believes them only with the right checksum.
    pub fn read(key: &[u8; 32], offset: u64, head: &[u8]) -> Option<Header> {
        let header = Header::peek(head)?;
        let meta = head.get(HEADER..header.head_len())?;
        (checksum(key, offset, &head[..96], meta) == head[96..128]).then_some(header)
    }

    /// Whether this is the content that belongs to the header.
    pub fn fits(&self, content: &[u8]) -> bool {
        content.is_empty() || *blake3::hash(content).as_bytes() == self.hash
    }
}

impl Kind {
    /// As it is written.
    pub fn number(self) -> u8 {
        match self {
            Kind::Accepted => 1,
            Kind::Changed => 2,
            Kind::Leased => 3,
            Kind::Released => 4,
            Kind::Void => 5,
            Kind::Boundary => 6,
        }
    }

    /// From what was written.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        [Accepted, Changed, Leased, Released, Void, Boundary].into_iter().find(|kind| kind.number() == number)
    }
}

fn checksum(key: &[u8; 32], offset: u64, header: &[u8], meta: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&offset.to_le_bytes());
    hasher.update(header);
    hasher.update(meta);
    *hasher.finalize().as_bytes()
}

/// Records begin at multiples of 8.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            kind: Kind::Accepted,
            unit: (1, 2),
            meta_len: 5,
            content_len: 7,
            in_group: (3, 4),
            group: 1 << 40,
            synced: 99,
            id: MessageId::generate(),
            hash: *blake3::hash(b"content").as_bytes(),
        }
    }

    /// What version 1 wrote, octet for octet: a message to one recipient with SIZE=5, RET=HDRS and ENVID=e.
    #[test]
    fn mail_that_version_1_wrote_is_read() {
        let mut message = crate::store::contract::message(MessageId(uuid::Uuid::from_u128(7)), 5, 9, &["a"]);
        message.parameters.size = Some(5);
        message.parameters.ret = Some(crate::smtp::parameters::Ret::Hdrs);
        message.parameters.envid = Some("e".into());
        let old = Accepted { message: v1::Message::from(message.clone()), large: true, lost: false, suspects: 3 };
        let meta = encode(&old);
        let hex: String = meta.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("v1.hex").trim(), "the old form never changes");
        let header = Header { version: 1, ..header() };
        let read = Accepted::read(&header, &meta).unwrap();
        assert_eq!((read.message, read.large, read.lost, read.suspects), (message.clone(), true, false, 3));
        // and each version only by its own
        let new = encode(&Accepted { message: message.clone(), large: true, lost: false, suspects: 3 });
        assert_ne!(new, meta);
        assert_eq!(Accepted::read(&Header { version: VERSION, ..header }, &new).unwrap().message, message);
    }

    /// What version 2 wrote, octet for octet: the same with a time to deliver, and a change that freezes it.
    #[test]
    fn mail_that_version_2_wrote_is_read() {
        let mut message = crate::store::contract::message(MessageId(uuid::Uuid::from_u128(7)), 5, 9, &["a"]);
        message.parameters.priority = Some(3);
        let old = Accepted { message: v2::Message::from(message.clone()), large: false, lost: true, suspects: 1 };
        let change =
            Change { recipients: vec![(0, message.recipients[0].state())], frozen: Some(true), connector: None };
        let old_change =
            Changed { change: v2::Change::from(change.clone()), ended: vec![QueueName::Unrouted], suspects: 2 };
        let written = [encode(&old), encode(&old_change)];
        let hex = |meta: &Vec<u8>| meta.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let kept: Vec<&str> = include_str!("v2.hex").lines().collect();
        assert_eq!(written.iter().map(hex).collect::<Vec<_>>(), kept, "the old form never changes");
        let header = Header { version: 2, ..header() };
        let read = Accepted::read(&header, &written[0]).unwrap();
        assert_eq!((read.message, read.large, read.lost, read.suspects), (message, false, true, 1));
        let read = Changed::read(&header, &written[1]).unwrap();
        assert_eq!((read.change, read.ended, read.suspects), (change.clone(), vec![QueueName::Unrouted], 2));
        // and each version only by its own
        let new = encode(&Changed { change: &change, ended: vec![QueueName::Unrouted], suspects: 2 });
        assert_ne!(new, written[1]);
        let header = Header { version: VERSION, ..header };
        assert_eq!(Changed::read(&header, &new).unwrap().change, change);
    }

    #[test]
    fn a_header_of_another_version_is_read_only_when_it_is_older() {
        for (version, readable) in [(0, false), (1, true), (2, true), (VERSION, true), (VERSION + 1, false)] {
            let mut bytes = Vec::new();
            Header { version, ..header() }.write(&[7; 32], 640, b"metas", &mut bytes);
            assert_eq!(Header::read(&[7; 32], 640, &bytes).is_some(), readable, "{version}");
        }
    }

    #[test]
    fn a_header_comes_back() {
        let mut bytes = Vec::new();
        header().write(&[7; 32], 640, b"metas", &mut bytes);
        let read = Header::read(&[7; 32], 640, &bytes).unwrap();
        assert_eq!(Header { id: read.id, ..header() }, read);
        assert!(read.fits(b"content") && !read.fits(b"Content"));
    }

    #[test]
    fn every_flipped_bit_another_key_and_another_place_are_noticed() {
        let mut bytes = Vec::new();
        header().write(&[7; 32], 640, b"metas", &mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::read(&[7; 32], 640, &bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Header::read(&[8; 32], 640, &bytes), None, "the key is part of the checksum");
        assert_eq!(Header::read(&[7; 32], 648, &bytes), None, "the offset is part of the checksum");
    }
}
