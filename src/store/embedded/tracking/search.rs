//! Searches the tracking files: by index where there is one, by reading where there is none, and never more than allowed.
//!
//! A block is what is read at once: the events that *begin* in 64 KiB of a file. Blocks are taken in the order that is asked
//! for; when the octets that may be read are used up, or the page is full, the answer says where to go on.

use std::io;
use std::sync::atomic::Ordering;

use super::{BLOCK, Catalogue, File, MAX_LINE, event_in, lines};
use crate::model::time::Timestamp;
use crate::store::history::{EventView, Found, Position, Seek, Wanted};

/// What looking into an index counts as, in octets.
const LOOK_UP: u64 = 4 << 10;

/// Searches. With a `needle` only events that have these octets are looked at.
pub(super) fn search(
    catalogue: &Catalogue,
    seek: &Seek,
    needle: Option<&[u8]>,
    mut wanted: Wanted,
) -> io::Result<Found> {
    let finder = needle.map(memchr::memmem::Finder::new);
    let mut files = catalogue.all();
    if seek.newest_first {
        files.reverse();
    }
    let mut found = Found::default();
    let mut left = seek.octets;
    for file in files {
        let size = file.size.load(Ordering::Acquire);
        let Some(range) = part_of(&file, size, seek) else { continue };
        let blocks = match candidates(&file, size, seek) {
            Ok(blocks) => blocks,
            // it was removed meanwhile: it has nothing to say
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        left = left.saturating_sub(LOOK_UP);
        let in_order: Box<dyn Iterator<Item = u64>> = match seek.newest_first {
            true => Box::new(blocks.into_iter().rev()),
            false => Box::new(blocks.into_iter()),
        };
        for block in in_order.filter(|block| block * BLOCK < range.end && (block + 1) * BLOCK > range.start) {
            let edge = if seek.newest_first { (block + 1) * BLOCK } else { block * BLOCK };
            if left == 0 {
                found.next = Some(Position { file: file.number, offset: edge });
                return Ok(found);
            }
            let bytes = match read_block(&file, block, size) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            left = left.saturating_sub(bytes.len() as u64);
            if finder.as_ref().is_some_and(|finder| finder.find(&bytes).is_none()) {
                continue;
            }
            let mut here = Vec::new();
            for (offset, event, next) in events_of(block, &bytes) {
                if !range.contains(&offset) || finder.as_ref().is_some_and(|finder| finder.find(event).is_none()) {
                    continue;
                }
                found.scanned += 1;
                let Some(view) = EventView::of(event) else { continue };
                if is_in_time(seek, view.at) && wanted(&view, event) {
                    here.push((offset, event, next));
                    if !seek.newest_first && found.events.len() + here.len() >= seek.limit {
                        break;
                    }
                }
            }
            if seek.newest_first {
                here.reverse();
            }
            for (offset, event, next) in here {
                found.events.push((Position { file: file.number, offset }, event.to_vec()));
                if found.events.len() >= seek.limit {
                    // newest first: all before this one; oldest first: from the next one on
                    let offset = if seek.newest_first { offset } else { next };
                    found.next = Some(Position { file: file.number, offset });
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// The octets of a file in which events that are asked for may begin.
fn part_of(file: &File, size: u64, seek: &Seek) -> Option<std::ops::Range<u64>> {
    let (mut start, mut end) = (0, size);
    if let Some(from) = seek.after {
        match (file.number.cmp(&from.file), seek.newest_first) {
            (std::cmp::Ordering::Equal, true) => end = end.min(from.offset),
            (std::cmp::Ordering::Equal, false) => start = from.offset,
            (std::cmp::Ordering::Greater, true) | (std::cmp::Ordering::Less, false) => return None,
            _ => {}
        }
    }
    let out_of_time = file.index.get().is_some_and(|index| {
        seek.since.is_some_and(|since| index.most < since) || seek.until.is_some_and(|until| index.least >= until)
    });
    (start < end && !out_of_time).then_some(start..end)
}

/// The blocks that have to be read, in order.
fn candidates(file: &File, size: u64, seek: &Seek) -> io::Result<Vec<u64>> {
    let Some(index) = file.index.get().filter(|_| !seek.keys.is_empty()) else {
        return Ok((0..size.div_ceil(BLOCK)).collect());
    };
    let mut all: Option<Vec<u64>> = None;
    for one_of in &seek.keys {
        let mut blocks = Vec::new();
        for key in one_of {
            blocks.extend(index.blocks(*key)?.into_iter().map(u64::from));
        }
        blocks.sort_unstable();
        blocks.dedup();
        all = Some(match all {
            Some(mut before) => {
                before.retain(|block| blocks.binary_search(block).is_ok());
                before
            }
            None => blocks,
        });
        if all.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
    }
    Ok(all.unwrap_or_default())
}

/// The octets of a block, from one before it to the longest line behind it.
fn read_block(file: &File, block: u64, size: u64) -> io::Result<Vec<u8>> {
    let from = (block * BLOCK).saturating_sub(1);
    let to = ((block + 1) * BLOCK + MAX_LINE).min(size);
    file.read(from, to.saturating_sub(from))
}

/// The events that begin in a block: where, what, and where the next one begins.
fn events_of(block: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8], u64)> {
    let start = block * BLOCK;
    let mut at = start.saturating_sub(1);
    lines(bytes).filter_map(move |line| {
        let begins = at;
        at += line.len() as u64;
        // the first piece is the rest of a line that began before
        let is_here = begins >= start && begins < start + BLOCK && line.ends_with(b"\n");
        if is_here { event_in(line).map(|event| (begins, event, at)) } else { None }
    })
}

fn is_in_time(seek: &Seek, at: Option<Timestamp>) -> bool {
    let Some(at) = at else { return seek.since.is_none() && seek.until.is_none() };
    seek.since.is_none_or(|since| at >= since) && seek.until.is_none_or(|until| at < until)
}
