//! Reading an archive, front to back, believing nothing: see the [module](super).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::member::{self, BLOCK, Head};
use super::writer::sums_name;
use super::{ArchiveError, END, End, FILES, FILES_IN_SUMS, FORMAT, MANIFEST, MOST_JSON, Manifest, Sealed, Sum, Sums};

const PIECE: usize = 256 << 10;
/// Files in an archive: their names are remembered, 8 octets each.
const MOST_FILES: u64 = 50_000_000;

/// Who keeps what comes out of an archive. Nothing of it is to be believed before [`Reader::read`] has returned.
pub trait Take {
    /// A file begins; its name is relative and harmless.
    fn begin(&mut self, name: &str, size: u64) -> io::Result<()>;
    /// Some of its octets.
    fn octets(&mut self, octets: &[u8]) -> io::Result<()>;
    /// It is complete.
    fn end(&mut self) -> io::Result<()>;
}

/// Keeps nothing: only the checks remain.
pub struct Checked;

impl Take for Checked {
    fn begin(&mut self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn octets(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive whose manifest was read.
pub struct Reader<R> {
    stream: Stream<R>,
    manifest: Manifest,
}

impl<R: Read> Reader<R> {
    /// Reads the manifest.
    ///
    /// # Errors
    /// When it is none of ours, of a newer version, cut or damaged.
    pub fn open(input: R) -> Result<Self, ArchiveError> {
        let mut stream = Stream { input, at: 0, mtime: None, hasher: blake3::Hasher::new() };
        let foreign = |what: &str| ArchiveError::Foreign(what.to_owned());
        let (name, size) = match stream.next() {
            Ok(Some(found)) => found,
            Ok(None) => return Err(foreign("it is empty")),
            Err(ArchiveError::Damaged { .. }) => return Err(foreign("it does not begin like one")),
            Err(other) => return Err(other),
        };
        if name != MANIFEST {
            return Err(foreign(&format!("it begins with {name:?}")));
        }
        let text = stream.text(MANIFEST, size)?;
        // of a newer format nothing is known but its number
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format: found } = stream.parsed(MANIFEST, &text)?;
        if found > FORMAT {
            return Err(ArchiveError::Newer { found });
        }
        let manifest = stream.parsed(MANIFEST, &text)?;
        Ok(Reader { stream, manifest })
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads all of it. Only when this has returned is what was taken what was written.
    ///
    /// # Errors
    /// When it is cut or damaged, or what comes out cannot be kept.
    pub fn read(self, take: &mut dyn Take) -> Result<End, ArchiveError> {
        let mut stream = self.stream;
        let mut seen = Seen::default();
        let mut pending: Vec<Sum> = Vec::new();
        let mut found = End::default();
        loop {
            let (began, before) = (stream.at, stream.hasher.clone());
            let next = stream.next()?;
            let (name, size) = next.ok_or_else(|| stream.damaged(format!("it ends without {END}")))?;
            let wrong = |what: String| ArchiveError::Damaged { at: began, what };
            if let Some(inner) = name.strip_prefix(FILES) {
                if !member::is_harmless(inner) {
                    return Err(wrong(format!("the name {name:?} leads elsewhere")));
                }
                if found.files >= MOST_FILES || pending.len() >= FILES_IN_SUMS {
                    return Err(wrong("a list of checksums is missing".to_owned()));
                }
                if !seen.is_new(inner) {
                    return Err(wrong(format!("the name {name:?} is there twice")));
                }
                let blake3 = stream.file(inner, size, take)?;
                found.files += 1;
                found.bytes += size;
                pending.push(Sum { name, size, blake3 });
            } else if name == sums_name(found.sums + 1) {
                let sums: Sums = stream.json(&name, size)?;
                if let Some(what) = difference(&pending, &sums.files) {
                    return Err(wrong(what));
                }
                pending.clear();
                found.sums += 1;
            } else if name == END {
                let sealed: Sealed = stream.json(END, size)?;
                let found = End { left_out: sealed.end.left_out, ..found };
                if sealed.end != found || !pending.is_empty() {
                    return Err(wrong(format!("it says {:?}, and there was {found:?}", sealed.end)));
                }
                if found.sealed(before).ok() != Some(sealed) {
                    return Err(wrong("it does not fit its checksum".to_owned()));
                }
                stream.nothing_more()?;
                return Ok(found);
            } else {
                return Err(wrong(format!("{name:?} does not belong there")));
            }
        }
    }
}

/// The octets of an archive, and how many of them were read.
struct Stream<R> {
    input: R,
    at: u64,
    mtime: Option<u64>,
    hasher: blake3::Hasher,
}

impl<R: Read> Stream<R> {
    fn file(&mut self, name: &str, size: u64, take: &mut dyn Take) -> Result<String, ArchiveError> {
        let keep = |source| ArchiveError::Keep { name: name.to_owned(), source };
        take.begin(name, size).map_err(keep)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            self.exact(&mut piece[..most], name)?;
            hasher.update(&piece[..most]);
            take.octets(&piece[..most]).map_err(keep)?;
            left -= most as u64;
        }
        self.padding(size, name)?;
        take.end().map_err(keep)?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The next entry's name and size; `None` at the end of the tar.
    fn next(&mut self) -> Result<Option<(String, u64)>, ArchiveError> {
        let header = |reader: &mut Self| {
            let mut bytes = [0; BLOCK];
            reader.exact(&mut bytes, "a header")?;
            let parsed = member::parse(&bytes, &mut reader.mtime);
            parsed.ok_or_else(|| reader.damaged("this header is none that a backup has".to_owned()))
        };
        match header(self)? {
            Head::Zero => Ok(None),
            Head::File { name, size } => Ok(Some((name, size))),
            Head::Pax { size } => {
                let mut record = vec![0; size as usize];
                self.exact(&mut record, "a long name")?;
                self.padding(size, "a long name")?;
                let name = member::pax_name(&record);
                let name = name.ok_or_else(|| self.damaged("a long name that is none".to_owned()))?;
                match header(self)? {
                    Head::File { name: short, size } if member::is_named_before(&short) => Ok(Some((name, size))),
                    _ => Err(self.damaged("a long name without a file".to_owned())),
                }
            }
        }
    }

    /// Behind the end stands the second block of zeros, and nothing.
    fn nothing_more(&mut self) -> Result<(), ArchiveError> {
        let mut zeros = [0; 2 * BLOCK];
        self.exact(&mut zeros, "its last blocks")?;
        let mut more = [0];
        let behind = loop {
            match self.input.read(&mut more) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(ArchiveError::Read)?,
            }
        };
        if zeros.iter().any(|byte| *byte != 0) || behind > 0 {
            return Err(self.damaged("something follows its end".to_owned()));
        }
        Ok(())
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str, size: u64) -> Result<T, ArchiveError> {
        let text = self.text(name, size)?;
        self.parsed(name, &text)
    }

    fn parsed<T: DeserializeOwned>(&self, name: &str, text: &[u8]) -> Result<T, ArchiveError> {
        serde_json::from_slice(text).map_err(|error| self.damaged(format!("{name}: {error}")))
    }

    fn text(&mut self, name: &str, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MOST_JSON {
            return Err(self.damaged(format!("{name} has {size} octets")));
        }
        let mut text = vec![0; size as usize];
        self.exact(&mut text, name)?;
        self.padding(size, name)?;
        Ok(text)
    }

    fn padding(&mut self, size: u64, place: &str) -> Result<(), ArchiveError> {
        let mut padding = [0; BLOCK];
        let padding = &mut padding[..member::padding(size)];
        self.exact(padding, place)?;
        match padding.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(self.damaged(format!("{place} is followed by something"))),
        }
    }

    fn exact(&mut self, bytes: &mut [u8], place: &str) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.input.read(&mut bytes[filled..]) {
                Ok(0) => return Err(ArchiveError::Cut { at: self.at, place: place.to_owned() }),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        self.hasher.update(bytes);
        Ok(())
    }

    fn damaged(&self, what: String) -> ArchiveError {
        ArchiveError::Damaged { at: self.at, what }
    }
}

/// The first file that is not as its list says.
fn difference(read: &[Sum], listed: &[Sum]) -> Option<String> {
    let named = read.iter().zip(listed).find(|(read, listed)| read != listed);
    match named {
        Some((read, listed)) if read.name == listed.name => Some(format!("{} does not fit its checksum", read.name)),
        Some((read, listed)) => Some(format!("{} stands where {} belongs", read.name, listed.name)),
        None if read.len() != listed.len() => Some(format!("{} files, {} checksums", read.len(), listed.len())),
        None => None,
    }
}

/// The names that were there, by their hashes.
#[derive(Default)]
struct Seen {
    hashes: HashSet<u64>,
    keyed: RandomState,
}

impl Seen {
    fn is_new(&mut self, name: &str) -> bool {
        self.hashes.insert(self.keyed.hash_one(name))
    }
}
