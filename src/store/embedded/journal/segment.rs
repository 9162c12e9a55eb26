//! A segment: a file of records with a header in front and, once it is sealed, an index behind them.
//!
//! The header is synced before the file gets its name, and the name before the first record is written: a file
//! called `*.seg` without a good header was damaged later. The header carries a random key, under which
//! everything else in the segment is checksummed, and where the segments before it end that were never sealed:
//! what lies behind such an end (a torn tail, a group whose sync failed) was never acknowledged and is no part
//! of the journal, however good it looks.
//!
//! A sealed segment ends with one entry per record and, in its last [`TRAILER`] bytes, the place of that index
//! and a keyed checksum. Sealed means: synced to its last record.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::Location;
use super::record::{HEADER, Header, Kind};
use crate::model::mail::MessageId;
use crate::store::embedded::disk::{Disk, File, read_up_to, write_all};

/// Octets before the first record.
pub const SEGMENT_HEADER: u64 = 4_096;
/// Octets at the end of a sealed segment.
pub const TRAILER: u64 = 64;
/// Octets of an entry of the index.
pub const INDEX_ENTRY: u64 = 32;
/// The format that is written, and the newest that is read: each has records of its own version.
pub const FORMAT: u32 = 3;

const MAGIC: &[u8; 8] = b"BRHSEG\r\n";
const SEAL: u32 = 0x5345_414c;
const MAX_ENDS: usize = 200;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    /// Rises by one with each segment.
    pub seq: u64,
    /// Under which everything in it is checksummed.
    pub key: [u8; 32],
    /// Octets it may have.
    pub capacity: u64,
    /// The number of the first group in it.
    pub first_group: u64,
    /// The last group that was synced when it was opened.
    pub synced: u64,
    /// Where segments before it end that were not sealed.
    pub ends: BTreeMap<u64, u64>,
    /// Where it lies.
    pub path: PathBuf,
    /// The file.
    pub file: Arc<dyn File>,
}

/// Why a file is no segment of ours.
#[derive(Debug)]
pub enum NoSegment {
    /// Reading failed.
    Io(io::Error),
    /// The header does not fit its checksum.
    Damaged,
    /// Another store wrote it.
    Foreign,
    /// A newer version wrote it.
    Newer(u32),
}

/// An entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where the record begins.
    pub offset: u64,
    /// Its length.
    pub len: u32,
    /// What it says.
    pub kind: Kind,
    /// Whom it is about.
    pub id: MessageId,
}

/// What a new segment is to know.
pub struct NewSegment<'a> {
    /// See [`Segment::seq`].
    pub seq: u64,
    /// The store.
    pub store_id: &'a [u8; 16],
    /// See [`Segment::capacity`].
    pub capacity: u64,
    /// See [`Segment::first_group`].
    pub first_group: u64,
    /// See [`Segment::synced`].
    pub synced: u64,
    /// See [`Segment::ends`].
    pub ends: &'a BTreeMap<u64, u64>,
}

impl Segment {
    /// Makes a segment, over a spare file if there is one, and returns when header and name are durable.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        spare: Option<&Path>,
        new: &NewSegment<'_>,
    ) -> Result<Segment, io::Error> {
        let path = dir.join(file_name(new.seq));
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        let tmp = dir.join("new.tmp");
        let (file, from) = match spare {
            Some(spare) => (disk.open(spare)?, spare),
            None => (disk.create(&tmp)?, tmp.as_path()),
        };
        let mut header = Vec::with_capacity(SEGMENT_HEADER as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(new.store_id);
        for number in [new.seq, new.capacity, new.first_group, new.synced] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&key);
        // the newest ends matter most; so many failures in a row that this is not enough do not happen
        let ends: Vec<_> = new.ends.iter().rev().take(MAX_ENDS).collect();
        header.extend_from_slice(&(ends.len() as u32).to_le_bytes());
        for (seq, end) in ends {
            header.extend_from_slice(&seq.to_le_bytes());
            header.extend_from_slice(&end.to_le_bytes());
        }
        header.resize(SEGMENT_HEADER as usize - 32, 0);
        let sum = blake3::hash(&header);
        header.extend_from_slice(sum.as_bytes());
        write_all(&*file, 0, &[&header])?;
        file.sync_data()?;
        disk.rename(from, &path)?;
        disk.sync_dir(dir)?;
        Ok(Segment {
            seq: new.seq,
            key,
            capacity: new.capacity,
            first_group: new.first_group,
            synced: new.synced,
            ends: new.ends.clone(),
            path,
            file,
        })
    }

    /// Opens a segment.
    pub fn open(disk: &dyn Disk, path: &Path, store_id: &[u8; 16]) -> Result<Segment, NoSegment> {
        let file = disk.open(path).map_err(NoSegment::Io)?;
        let bytes = read_up_to(&*file, 0, SEGMENT_HEADER as usize).map_err(NoSegment::Io)?;
        if bytes.len() < SEGMENT_HEADER as usize || &bytes[..8] != MAGIC {
            return Err(NoSegment::Damaged);
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let (body, sum) = bytes.split_at(SEGMENT_HEADER as usize - 32);
        if blake3::hash(body).as_bytes() != sum {
            return Err(NoSegment::Damaged);
        }
        if u32_at(8) > FORMAT {
            return Err(NoSegment::Newer(u32_at(8)));
        }
        if bytes[12..28] != store_id[..] {
            return Err(NoSegment::Foreign);
        }
        let count = (u32_at(92) as usize).min(MAX_ENDS);
        let ends = (0..count).map(|n| (u64_at(96 + n * 16), u64_at(104 + n * 16))).collect();
        Ok(Segment {
            seq: u64_at(28),
            capacity: u64_at(36),
            first_group: u64_at(44),
            synced: u64_at(52),
            key: bytes[60..92].try_into().map_err(|_| NoSegment::Damaged)?,
            ends,
            path: path.to_owned(),
            file,
        })
    }

    /// Writes the index behind the records. Durable after the next sync.
    pub fn seal(&self, end: u64, index: &[IndexEntry]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(index.len() * INDEX_ENTRY as usize);
        for entry in index {
            bytes.extend_from_slice(entry.id.0.as_bytes());
            bytes.extend_from_slice(&entry.offset.to_le_bytes());
            bytes.extend_from_slice(&entry.len.to_le_bytes());
            bytes.extend_from_slice(&u32::from(entry.kind.number()).to_le_bytes());
        }
        let mut trailer = Vec::with_capacity(TRAILER as usize);
        trailer.extend_from_slice(&SEAL.to_le_bytes());
        trailer.extend_from_slice(&(index.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&end.to_le_bytes());
        trailer.resize(32, 0);
        let sum = self.seal_sum(&trailer, &bytes);
        trailer.extend_from_slice(&sum);
        write_all(&*self.file, end, &[&bytes])?;
        write_all(&*self.file, self.capacity - TRAILER, &[&trailer])
    }

    /// The index of a sealed segment with the end of its records; `None` when it is not sealed (or damaged there).
    pub fn index(&self) -> io::Result<Option<(u64, Vec<IndexEntry>)>> {
        let trailer = read_up_to(&*self.file, self.capacity - TRAILER, TRAILER as usize)?;
        if trailer.len() < TRAILER as usize || trailer[..4] != SEAL.to_le_bytes() {
            return Ok(None);
        }
        let u64_at = |b: &[u8], at: usize| b[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let count = u64_at(&trailer, 4) & 0xffff_ffff;
        let end = u64_at(&trailer, 8);
        let len = count * INDEX_ENTRY;
        if end.checked_add(len).is_none_or(|until| until > self.capacity - TRAILER) {
            return Ok(None);
        }
        let bytes = read_up_to(&*self.file, end, len as usize)?;
        if bytes.len() as u64 != len || self.seal_sum(&trailer[..32], &bytes) != trailer[32..] {
            return Ok(None);
        }
        let entry = |b: &[u8]| {
            Some(IndexEntry {
                id: MessageId(uuid::Uuid::from_slice(&b[..16]).ok()?),
                offset: u64_at(b, 16),
                len: (u64_at(b, 24) & 0xffff_ffff) as u32,
                kind: Kind::from_number(b[28])?,
            })
        };
        Ok(bytes.chunks_exact(INDEX_ENTRY as usize).map(entry).collect::<Option<_>>().map(|index| (end, index)))
    }

    /// Header and meta data of the record at an offset, if they are good.
    pub fn head(&self, offset: u64, len: u32) -> io::Result<Option<(Header, Vec<u8>)>> {
        let first = read_up_to(&*self.file, offset, (len as usize).min(2_048))?;
        let Some(peeked) = Header::peek(&first) else { return Ok(None) };
        let mut head = first;
        if peeked.head_len() > head.len() {
            head = read_up_to(&*self.file, offset, peeked.head_len().min(len as usize))?;
        }
        let Some(header) = Header::read(&self.key, offset, &head) else { return Ok(None) };
        head.truncate(header.head_len());
        head.drain(..HEADER);
        Ok(Some((header, head)))
    }

    /// The whole record at a location, if every octet of it is good and it is about this id.
    pub fn record(&self, location: &Location, id: MessageId) -> io::Result<Option<(Header, Bytes, Bytes)>> {
        let bytes = Bytes::from(read_up_to(&*self.file, location.offset, location.len as usize)?);
        let Some(header) = Header::read(&self.key, location.offset, &bytes) else { return Ok(None) };
        let until = header.head_len() + header.content_len as usize;
        if header.id != id || bytes.len() < until {
            return Ok(None);
        }
        let content = bytes.slice(header.head_len()..until);
        let meta = bytes.slice(HEADER..header.head_len());
        Ok(header.fits(&content).then_some((header, meta, content)))
    }

    fn seal_sum(&self, trailer: &[u8], index: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(trailer);
        hasher.update(index);
        *hasher.finalize().as_bytes()
    }
}

/// The segments that can be read, shared with readers. Whoever holds one of them pins its content.
#[derive(Debug, Default)]
pub struct Segments(RwLock<BTreeMap<u64, Arc<Segment>>>);

impl Segments {
    /// One segment.
    pub fn get(&self, seq: u64) -> Option<Arc<Segment>> {
        self.0.read().expect("no panic under this lock").get(&seq).cloned()
    }

    /// The oldest.
    pub fn first(&self) -> Option<Arc<Segment>> {
        self.0.read().expect("no panic under this lock").values().next().cloned()
    }

    /// All, oldest first.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.0.read().expect("no panic under this lock").values().cloned().collect()
    }

    /// Adds one.
    pub fn insert(&self, segment: Arc<Segment>) {
        self.0.write().expect("no panic under this lock").insert(segment.seq, segment);
    }

    /// Takes one away from readers.
    pub fn remove(&self, seq: u64) -> Option<Arc<Segment>> {
        self.0.write().expect("no panic under this lock").remove(&seq)
    }
}

/// The name of a segment's file.
pub fn file_name(seq: u64) -> String {
    format!("{seq:016}.seg")
}
