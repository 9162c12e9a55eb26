//! A backup as one file: a tar archive that says what it holds, and proves that all of it came.
//!
//! ```text
//!   bridgehead-backup.json   the manifest: format, version, store, time, pinned group, revision, what to expect
//!   data/…                   the files as they lie in a data directory
//!   sums-000001.json         after at most 500 files: their names, sizes and BLAKE3
//!   …
//!   end.json                 how many files, octets and lists there were, and a BLAKE3 of all before; nothing follows
//! ```
//!
//! It is written front to back in one pass, so that each octet is read from the disk once while mail flows; that is why checksums
//! follow their files. Any `tar` lists and unpacks it. Reading is strict: a [`Reader`] takes exactly what a [`Writer`] writes, in
//! that order: no other kind of entry (links, devices), no name that leaves its directory, no name twice, no header that differs
//! in one octet from how we write it. An archive that was packed again by another program is therefore refused; what matters is
//! that one that was cut, or changed in one bit, is.
//!
//! [`member`] has the headers, [`writer`] and [`reader`] the two ways. Nothing here knows what the files mean.

pub mod member;
pub mod reader;
pub mod writer;

#[cfg(test)]
mod tests;

use std::io;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

pub use reader::{Checked, Reader, Take};
pub use writer::Writer;

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;
/// The media type.
pub const MEDIA_TYPE: &str = "application/x-tar";
const MANIFEST: &str = "bridgehead-backup.json";
const END: &str = "end.json";
/// Below it lie the files.
const FILES: &str = "data/";
/// Files between two lists of checksums.
const FILES_IN_SUMS: usize = 500;
/// Longest manifest, list or end.
const MOST_JSON: u64 = 4 << 20;

/// What an archive begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version of the program that wrote it.
    pub version: String,
    /// The id of the store, in hex.
    pub store: String,
    /// When it was pinned. All that was acknowledged before is in the archive.
    pub taken_at: Timestamp,
    /// The last synced group of the journal that is in it.
    pub group: u64,
    /// The revision of the configuration that is in it.
    pub revision: u64,
    /// Files of the store that follow, about: what is beside the store (mailboxes) is not counted.
    pub files: u64,
    /// Their octets, about.
    pub bytes: u64,
}

impl Manifest {
    /// How a restored store calls this copy.
    pub fn name(&self) -> String {
        format!("backup of {} at group {}", self.taken_at, self.group)
    }
}

/// A list of checksums.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    files: Vec<Sum>,
}

/// One file that was in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    name: String,
    size: u64,
    blake3: String,
}

/// What an archive ends with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// Files.
    pub files: u64,
    /// Their octets.
    pub bytes: u64,
    /// Lists of checksums.
    pub sums: u64,
    /// Files that could not be taken along; the appliance's log names them.
    pub left_out: u64,
}

impl End {
    /// With the hash of all octets before it, manifest and headers too.
    fn sealed(self, mut before: blake3::Hasher) -> Result<Sealed, serde_json::Error> {
        before.update(&serde_json::to_vec(&self)?);
        Ok(Sealed { end: self, blake3: before.finalize().to_hex().to_string() })
    }
}

/// As it is written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    end: End,
    blake3: String,
}

/// Why an archive is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It ends in the middle.
    #[error("the archive is cut: it ends after {at} octets, in {place}")]
    Cut {
        /// Octets that were there.
        at: u64,
        /// What was being read.
        place: String,
    },
    /// It begins like something else.
    #[error("this is no backup of a Bridgehead: {0}")]
    Foreign(String),
    /// A newer version of this program wrote it.
    #[error("the backup has format {found}; this program reads formats up to {FORMAT}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is not as it was written.
    #[error("the archive is damaged at octet {at}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// Reading it failed.
    #[error("the archive cannot be read: {0}")]
    Read(io::Error),
    /// What comes out of it could not be kept.
    #[error("{name}: {source}")]
    Keep {
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}
