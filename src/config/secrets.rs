//! Where secrets are: beside the spec in the record, in the environment, in files below the secrets directory.
//!
//! **Writing.** [`Vault::keep`] takes the values out of a spec that somebody wrote and leaves fingerprints in their place; the
//! record carries the values beside the spec (`secrets: {fingerprint: value}`), so that they are committed together and gone
//! together. A fingerprint in a written spec means the value that the object has already; one that it does not have is
//! [`ViolationCode::SecretUnknown`]. **Reading.** [`Vault::show`] says of each secret whether it is there and its fingerprint
//! now; what is shown has no values. **Using.** [`Vault::secret`] and [`Vault::text`] give the text, or say in words why not;
//! a file is read anew each time, a link in it may lead anywhere below the directory (as Kubernetes mounts secrets) and
//! nowhere else.
//!
//! The fingerprint is an HMAC-SHA-256 under a random key of the store, shortened to 128 bits: two stores give one secret two
//! fingerprints, and nobody can try out passwords on it. The key is committed with the first change.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::Sha256;

use super::object::{Object, Record, Spec};
use super::passwords::Derived;
use super::violation::{Violation, ViolationCode};
use crate::model::secret::{Fingerprint, MAX_SECRET, Secret, SecretFile, SecretText, SecretVariable, Source};
use crate::store::{ConfigStore, StoreError};

/// Where the key of the fingerprints is stored.
const KEY: &str = "secret/fingerprint-key";

/// The values of an object's secrets, by fingerprint. `Debug` does not show them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept(BTreeMap<Fingerprint, SecretText>);

impl Kept {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With these as well.
    pub(super) fn with(mut self, more: &Kept) -> Kept {
        self.0.extend(more.0.iter().map(|(fingerprint, text)| (fingerprint.clone(), text.clone())));
        self
    }

    /// The value with this fingerprint.
    pub(super) fn get(&self, fingerprint: &str) -> Option<&SecretText> {
        self.0.iter().find(|(known, _)| known.as_str() == fingerprint).map(|(_, text)| text)
    }
}

/// For the store, and for nothing else.
impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(fingerprint, text)| (fingerprint, text.reveal())))
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<Fingerprint, String>::deserialize(d)?;
        Ok(Kept(texts.into_iter().map(|(fingerprint, text)| (fingerprint, SecretText::new(text))).collect()))
    }
}

/// Why a secret cannot be had now. The words never hold any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The variable is not set, or empty.
    #[error("the environment variable {0} is not set")]
    NotSet(SecretVariable),
    /// The path is absolute and leads elsewhere, or goes through a link that does.
    #[error("the file {0} does not lie below the secrets directory {1}")]
    Outside(SecretFile, PathBuf),
    /// The file cannot be read.
    #[error("the file {0} cannot be read: {1}")]
    File(SecretFile, String),
    /// The file holds what cannot be a secret.
    #[error("the file {0} {1}")]
    Content(SecretFile, &'static str),
    /// The record lacks it: it was damaged.
    #[error("the value with the fingerprint {0} is not there")]
    Lost(Fingerprint),
}

/// Keeps, shows and gives secrets.
pub struct Vault {
    directory: PathBuf,
    key: RwLock<Key>,
    pub(super) derived: Derived,
    /// Files that were read since [`Vault::forget`], as they were just before.
    seen: Mutex<HashMap<SecretFile, Option<Stamp>>>,
}

/// Files that are watched at most; beyond it they are only read when something is compiled.
const MOST_WATCHED: usize = 10_000;

/// Tells whether a file is another than before. Through links: Kubernetes changes files by changing a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Clone)]
struct Key {
    bytes: [u8; 32],
    stored: bool,
}

impl Vault {
    /// With the key of this store; a store that has none yet gets one with [`Vault::pending`].
    ///
    /// # Errors
    /// When the store cannot be read, or the system gives no random bytes.
    pub fn open(store: &dyn ConfigStore, directory: &Path) -> Result<Self, StoreError> {
        let key = RwLock::new(key_of(store)?);
        Ok(Vault { directory: directory.to_owned(), key, derived: Derived::default(), seen: Mutex::default() })
    }

    /// Reads the key again: another writer may have been the first to store one.
    pub(super) fn reload(&self, store: &dyn ConfigStore) -> Result<(), StoreError> {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key_of(store)?;
        Ok(())
    }

    /// The key, as a write that the next commit must hold; nothing once it is stored.
    pub(super) fn pending(&self) -> Option<(String, Option<Vec<u8>>)> {
        let key = self.key();
        (!key.stored).then(|| (KEY.to_owned(), Some(key.bytes.to_vec())))
    }

    /// The commit with [`Vault::pending`] in it was made.
    pub(super) fn stored(&self) {
        self.key.write().unwrap_or_else(PoisonError::into_inner).stored = true;
    }

    fn key(&self) -> Key {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A key of the store for logins: what is made up for users that do not exist is made from it.
    pub fn login_key(&self) -> [u8; 32] {
        crate::smtp::sasl::scram::hmac(&self.key().bytes, &[b"logins"])
    }

    /// What this text reads as.
    pub fn fingerprint(&self, text: &SecretText) -> Fingerprint {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key().bytes).expect("HMAC takes keys of any length");
        mac.update(text.reveal().as_bytes());
        let code = URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..16]);
        code.parse().expect("128 bits in base64url are a fingerprint")
    }

    /// Takes the values out of a spec that was written, and leaves their fingerprints.
    ///
    /// # Errors
    /// Fingerprints of values that the object (`before`) does not have.
    pub(super) fn keep(&self, spec: &mut Spec, before: Option<&Record>) -> Result<Kept, Vec<Violation>> {
        let (mut kept, mut unknown) = (Kept::default(), Vec::new());
        for (pointer, secret) in spec.secrets_mut() {
            let (fingerprint, text) = match &*secret {
                Secret::Given(text) => (self.fingerprint(text), Some(text.clone())),
                Secret::Kept(known) => {
                    let text = before.and_then(|record| record.secrets.0.get(known)).cloned();
                    (known.clone(), text)
                }
                Secret::Env(_) | Secret::File(_) => continue,
            };
            match text {
                Some(text) => {
                    kept.0.insert(fingerprint.clone(), text);
                    *secret = Secret::Kept(fingerprint);
                }
                None => unknown.push(Violation::new(
                    format!("/spec{pointer}/fingerprint"),
                    ViolationCode::SecretUnknown,
                    "the object has no secret with this fingerprint; give its value, or the fingerprint that a read shows",
                )),
            }
        }
        if unknown.is_empty() { Ok(kept) } else { Err(unknown) }
    }

    /// Adds to each secret of what is shown whether it is there, and its fingerprint now.
    pub(super) fn show(&self, object: &mut Object) {
        if !object.collection.may_hold_secrets() {
            return;
        }
        let Ok(mut spec) = Spec::parse(object.collection, &object.spec) else { return };
        for (pointer, secret) in spec.secrets_mut() {
            let Some(Value::Object(shown)) = object.spec.pointer_mut(&pointer) else { continue };
            let now = match &*secret {
                Secret::Env(_) | Secret::File(_) => self.secret(secret, &Kept::default()).ok(),
                Secret::Given(_) | Secret::Kept(_) => continue,
            };
            shown.insert("set".to_owned(), Value::Bool(now.is_some()));
            if let Some(text) = now {
                shown.insert("fingerprint".to_owned(), Value::String(self.fingerprint(&text).to_string()));
            }
        }
    }

    /// The text of a secret of an object, whose values are `kept`.
    ///
    /// # Errors
    /// See [`Unresolved`].
    pub fn secret(&self, secret: &Secret, kept: &Kept) -> Result<SecretText, Unresolved> {
        match secret {
            Secret::Given(text) => Ok(text.clone()),
            Secret::Kept(fingerprint) => {
                kept.0.get(fingerprint).cloned().ok_or_else(|| Unresolved::Lost(fingerprint.clone()))
            }
            Secret::Env(variable) => environment(variable),
            Secret::File(file) => self.file(file),
        }
    }

    /// The text of a source.
    ///
    /// # Errors
    /// See [`Unresolved`].
    pub fn text(&self, source: &Source) -> Result<String, Unresolved> {
        match source {
            Source::Value(text) => Ok(text.clone()),
            Source::Env(variable) => environment(variable).map(|text| text.reveal().to_owned()),
            Source::File(file) => self.file(file).map(|text| text.reveal().to_owned()),
        }
    }

    /// Whether a file that was read since [`Vault::forget`] is another one now.
    pub(super) fn changed(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.into_iter().any(|(file, stamp)| self.stamp(&file) != stamp)
    }

    /// Watches nothing any more, until it is read again.
    pub(super) fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn stamp(&self, file: &SecretFile) -> Option<Stamp> {
        let of = fs::metadata(file.below(&self.directory)?).ok()?;
        let (modified, changed) = ((of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()));
        Some(Stamp { device: of.dev(), inode: of.ino(), length: of.len(), modified, changed })
    }

    /// Takes note of a file before it is read, so that whatever happens while it is read is seen as a change.
    fn note(&self, file: &SecretFile) {
        let stamp = self.stamp(file);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST_WATCHED {
            // the oldest stamp counts: what was made of the file then must be made anew
            seen.entry(file.clone()).or_insert(stamp);
        }
    }

    fn file(&self, file: &SecretFile) -> Result<SecretText, Unresolved> {
        let io = |error: std::io::Error| Unresolved::File(file.clone(), error.to_string());
        let outside = || Unresolved::Outside(file.clone(), self.directory.clone());
        let path = file.below(&self.directory).ok_or_else(outside)?;
        self.note(file);
        // the real places: links may lead around below the directory, not out of it
        let path = fs::canonicalize(path).map_err(io)?;
        let directory = fs::canonicalize(&self.directory).map_err(io)?;
        if !path.starts_with(directory) {
            return Err(outside());
        }
        if !fs::metadata(&path).map_err(io)?.is_file() {
            return Err(Unresolved::Content(file.clone(), "is no regular file"));
        }
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        let limit = MAX_SECRET as u64 + 2;
        fs::File::open(&path).and_then(|opened| opened.take(limit).read_to_end(&mut bytes)).map_err(io)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Unresolved::Content(file.clone(), "is not UTF-8"))?;
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        match text.len() {
            0 => Err(Unresolved::Content(file.clone(), "is empty")),
            length if length > MAX_SECRET => Err(Unresolved::Content(file.clone(), "has more than 256 KiB")),
            _ => Ok(SecretText::new(text)),
        }
    }
}

/// Before a merge patch: where it gives a secret or text in one way, the way in which it was given before goes, with
/// what was shown of it. Merged, the two would contradict each other.
pub(super) fn make_way(target: &mut Value, patch: &Value) {
    const WAYS: [&str; 4] = ["value", "env", "file", "hash"];
    const SHOWN: [&str; 2] = ["set", "fingerprint"];
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else { return };
    let is_secret = target.keys().all(|key| WAYS.contains(&key.as_str()) || SHOWN.contains(&key.as_str()));
    if is_secret && WAYS.iter().any(|way| patch.get(*way).is_some_and(|given| !given.is_null())) {
        target.clear();
        return;
    }
    for (key, patch) in patch {
        if let Some(target) = target.get_mut(key) {
            make_way(target, patch);
        }
    }
}

fn environment(variable: &SecretVariable) -> Result<SecretText, Unresolved> {
    let text = std::env::var(variable.as_str()).ok().filter(|text| !text.is_empty());
    text.map(SecretText::new).ok_or_else(|| Unresolved::NotSet(variable.clone()))
}

fn key_of(store: &dyn ConfigStore) -> Result<Key, StoreError> {
    if let Some(stored) = store.get(KEY)? {
        let bytes = stored.try_into().map_err(|_| StoreError::Damaged(format!("{KEY}: the key has a wrong length")))?;
        return Ok(Key { bytes, stored: true });
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Io(format!("no random bytes: {error}")))?;
    Ok(Key { bytes, stored: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn vault(directory: &Path) -> Vault {
        Vault::open(&MemoryStore::default(), directory).unwrap()
    }

    #[test]
    fn files_are_read_below_the_directory_only() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("secrets");
        fs::create_dir_all(inside.join("..data")).unwrap();
        fs::write(outside.path().join("other"), "stolen").unwrap();
        fs::write(inside.join("..data/key"), "word\n").unwrap();
        fs::write(inside.join("two"), "word\n\n").unwrap();
        fs::write(inside.join("empty"), "\n").unwrap();
        fs::write(inside.join("binary"), [0xff]).unwrap();
        fs::write(inside.join("large"), vec![b'x'; MAX_SECRET + 1]).unwrap();
        std::os::unix::fs::symlink("..data/key", inside.join("linked")).unwrap();
        std::os::unix::fs::symlink("../other", inside.join("out")).unwrap();
        let vault = vault(&inside);
        let read = |name: &str| vault.text(&Source::File(name.parse().unwrap()));
        assert_eq!(read("linked").unwrap(), "word");
        assert_eq!(read("two").unwrap(), "word\n");
        assert_eq!(read(inside.join("linked").to_str().unwrap()).unwrap(), "word");
        for (name, word) in [
            ("out", "does not lie below"),
            (outside.path().join("other").to_str().unwrap(), "does not lie below"),
            ("missing", "cannot be read"),
            ("..data", "is no regular file"),
            ("empty", "is empty"),
            ("binary", "is not UTF-8"),
            ("large", "more than 256 KiB"),
        ] {
            let error = read(name).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("stolen"), "{name}: {error}");
        }
    }

    #[test]
    fn fingerprints_differ_by_value_and_by_store() {
        let (one, two) = (vault(Path::new("/")), vault(Path::new("/")));
        let text = SecretText::new("word");
        assert_eq!(one.fingerprint(&text), one.fingerprint(&text));
        assert_ne!(one.fingerprint(&text), one.fingerprint(&SecretText::new("word2")));
        assert_ne!(one.fingerprint(&text), two.fingerprint(&text));
    }
}
