//! The index of a file that is full: which blocks of 64 KiB have events with which keys.
//!
//! `events-….idx` is: a head of 64 octets (magic, octets of the file, entries, events, damaged lines, earliest and latest
//! time), the entries in order (a key in the upper 44 bits, a block in the lower 20, little endian), and a BLAKE3 hash of all that.
//! Whoever looks up a key halves the entries with a few reads of 8 octets; nothing of it stays in memory.
//!
//! It appears whole, by a rename. It is no truth: what does not fit its file or its hash is made anew.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::{BLOCK, File, event_in, lines};
use crate::model::time::Timestamp;
use crate::store::history::{EventView, Key};

const MAGIC: &[u8; 8] = b"BHTRACK1";
const HEAD: usize = 64;
const HASH: usize = 32;
/// Bits of an entry that say which block.
const BLOCK_BITS: u32 = 20;

/// What is known of a file that is full.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    entries: u64,
    /// Events that can be read.
    pub(super) events: u64,
    /// Lines that cannot.
    pub(super) damaged: u64,
    /// The earliest event.
    pub(super) least: Timestamp,
    /// The latest event.
    pub(super) most: Timestamp,
}

impl Index {
    /// The one that lies beside the file, or a new one.
    pub(super) fn of(file: &File) -> io::Result<Index> {
        let size = file.size.load(Ordering::Acquire);
        match Index::load(file.index_path(), size) {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Index::make(file, size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::make(file, size),
            Err(error) => Err(error),
        }
    }

    /// Octets on disk.
    pub(super) fn bytes(&self) -> u64 {
        (HEAD + HASH) as u64 + self.entries * 8
    }

    /// The blocks that may have an event with this key, in order.
    pub(super) fn blocks(&self, key: Key) -> io::Result<Vec<u32>> {
        let file = fs::File::open(&self.path)?;
        let entry = |at: u64| -> io::Result<u64> {
            let mut octets = [0; 8];
            file.read_exact_at(&mut octets, HEAD as u64 + at * 8)?;
            Ok(u64::from_le_bytes(octets))
        };
        let wanted = key.0 << BLOCK_BITS;
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if entry(middle)? < wanted { low = middle + 1 } else { high = middle }
        }
        let mut blocks = Vec::new();
        // a file has no more than 2^20 blocks
        while low < self.entries {
            let found = entry(low)?;
            if found >> BLOCK_BITS != key.0 {
                break;
            }
            blocks.push((found & ((1 << BLOCK_BITS) - 1)) as u32);
            low += 1;
        }
        Ok(blocks)
    }

    pub(super) fn load(path: PathBuf, size: u64) -> io::Result<Option<Index>> {
        let mut bytes = Vec::new();
        fs::File::open(&path)?.read_to_end(&mut bytes)?;
        let Some(split) = bytes.len().checked_sub(HASH).filter(|split| *split >= HEAD) else { return Ok(None) };
        let (body, hash) = bytes.split_at(split);
        let number = |at: usize| {
            let octets = body.get(at..at + 8).and_then(|octets| octets.try_into().ok());
            u64::from_le_bytes(octets.unwrap_or_default())
        };
        let entries = number(16);
        let fits = body.starts_with(MAGIC) && number(8) == size && (body.len() - HEAD) as u64 == entries * 8;
        if !fits || blake3::hash(body).as_bytes() != hash {
            return Ok(None);
        }
        Ok(Some(Index {
            path,
            entries,
            events: number(24),
            damaged: number(32),
            least: Timestamp::from_millis(number(40).cast_signed()),
            most: Timestamp::from_millis(number(48).cast_signed()),
        }))
    }

    fn make(file: &File, size: u64) -> io::Result<Index> {
        let bytes = file.read(0, size)?;
        let (mut entries, mut keys) = (Vec::<u64>::new(), Vec::new());
        let (mut events, mut damaged) = (0, 0);
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        let (mut at, mut block, mut block_from) = (0, 0, 0);
        for line in lines(&bytes) {
            let here = at / BLOCK;
            if here != block {
                // the keys of a block are few: most of its events share them
                entries[block_from..].sort_unstable();
                dedup_from(&mut entries, block_from);
                (block, block_from) = (here, entries.len());
            }
            at += line.len() as u64;
            let Some(event) = whole_event(line) else {
                damaged += 1;
                continue;
            };
            events += 1;
            if let Some(time) = event.at {
                (least, most) = (least.min(time.millis()), most.max(time.millis()));
            }
            event.keys(&mut keys);
            entries.extend(keys.drain(..).map(|key| key.0 << BLOCK_BITS | here.min((1 << BLOCK_BITS) - 1)));
        }
        entries.sort_unstable();
        entries.dedup();
        if events == 0 || least > most {
            (least, most) = (0, 0);
        }
        let mut out = Vec::with_capacity(HEAD + entries.len() * 8 + HASH);
        out.extend_from_slice(MAGIC);
        for number in [size, entries.len() as u64, events, damaged, least.cast_unsigned(), most.cast_unsigned(), 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_le_bytes()));
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        let path = file.index_path();
        let new = path.with_extension("new");
        let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        open.write_all(&out)?;
        open.sync_data()?;
        fs::rename(&new, &path)?;
        Ok(Index {
            path,
            entries: entries.len() as u64,
            events,
            damaged,
            least: Timestamp::from_millis(least),
            most: Timestamp::from_millis(most),
        })
    }
}

/// The event in a line with its end, if it can be read.
pub(super) fn whole_event(line: &[u8]) -> Option<EventView> {
    event_in(line).filter(|_| line.ends_with(b"\n")).and_then(EventView::of)
}

/// Removes repeated entries from an index on, where they are in order.
fn dedup_from(entries: &mut Vec<u64>, from: usize) {
    let mut keep = from;
    for at in from..entries.len() {
        if at == from || entries[at] != entries[keep - 1] {
            entries[keep] = entries[at];
            keep += 1;
        }
    }
    entries.truncate(keep);
}
