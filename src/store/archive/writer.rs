//! Writing an archive, front to back.

use std::io::{self, Write};

use super::{End, FILES, FILES_IN_SUMS, MANIFEST, Manifest, Sum, Sums, member};

/// Octets that are read at once.
const PIECE: usize = 256 << 10;

/// An archive that is being written. Without [`Writer::end`] it is cut.
pub struct Writer<W> {
    out: Hashed<W>,
    mtime: u64,
    pending: Vec<Sum>,
    written: End,
    piece: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(out: W, manifest: &Manifest) -> io::Result<Self> {
        let mtime = manifest.taken_at.millis().max(0).unsigned_abs() / 1_000;
        let out = Hashed { out, hasher: blake3::Hasher::new() };
        let mut writer = Writer { out, mtime, pending: Vec::new(), written: End::default(), piece: vec![0; PIECE] };
        writer.json(MANIFEST, manifest)?;
        Ok(writer)
    }

    /// Adds a file of exactly this size; `read` gives its octets from an offset, as many as fit and there are.
    ///
    /// # Errors
    /// When its name or size does not fit into an archive, it ends early, or the archive cannot be written.
    pub fn file(
        &mut self,
        name: &str,
        size: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let name = format!("{FILES}{name}");
        self.head(&name, size)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let most = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            let got = match read(at, &mut self.piece[..most]) {
                Ok(0) => return Err(io::Error::other(format!("{name} has {at} octets, not {size}"))),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("reading {name}: {error}"))),
            };
            hasher.update(&self.piece[..got]);
            self.out.put(&self.piece[..got])?;
            at += got as u64;
        }
        self.pad(size)?;
        self.written.files += 1;
        self.written.bytes += size;
        self.pending.push(Sum { name, size, blake3: hasher.finalize().to_hex().to_string() });
        if self.pending.len() >= FILES_IN_SUMS { self.sums() } else { Ok(()) }
    }

    /// A file could not be taken along.
    pub fn leave_out(&mut self) {
        self.written.left_out += 1;
    }

    /// Ends it, and tells what is in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<End> {
        if !self.pending.is_empty() {
            self.sums()?;
        }
        let end = self.written;
        let sealed = end.sealed(self.out.hasher.clone())?;
        self.json(super::END, &sealed)?;
        self.out.put(&[0; 2 * member::BLOCK])?;
        self.out.out.flush()?;
        Ok(end)
    }

    fn sums(&mut self) -> io::Result<()> {
        let sums = Sums { files: std::mem::take(&mut self.pending) };
        self.written.sums += 1;
        self.json(&sums_name(self.written.sums), &sums)
    }

    fn json(&mut self, name: &str, value: &impl serde::Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.head(name, text.len() as u64)?;
        self.out.put(&text)?;
        self.pad(text.len() as u64)
    }

    fn head(&mut self, name: &str, size: u64) -> io::Result<()> {
        let head = member::head(name, size, self.mtime);
        let head = head.ok_or_else(|| {
            io::Error::other(format!("{name} with {size} octets does not fit into an archive (8 GiB a file at most)"))
        })?;
        self.out.put(&head)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.out.put(&[0; member::BLOCK][..member::padding(size)])
    }
}

/// What is written is hashed.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashed<W> {
    fn put(&mut self, octets: &[u8]) -> io::Result<()> {
        self.hasher.update(octets);
        self.out.write_all(octets)
    }
}

/// What the list of this number is called.
pub(super) fn sums_name(number: u64) -> String {
    format!("sums-{number:06}.json")
}
