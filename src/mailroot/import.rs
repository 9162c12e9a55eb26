//! Brings in an old mailroot, once: what waited in Pickup and Queue, what was given up in Badmail, what lies in Drop.
//!
//! | directory | what is read | what becomes of it |
//! |---|---|---|
//! | `Pickup` | every file, see [`super`] | mail; a recipient who is refused costs the sender a report |
//! | `Queue` | `.eml` with envelope lines; without them only when asked to take the header's | mail |
//! | `Badmail` | `.bad`, and the reason in the `.bdr` beside it | the dead-letter queue |
//! | `Drop` | every file with envelope lines | mail for recipients that are local here; the dead-letter queue for all others |
//!
//! The envelope of a message in Queue lay in an NTFS stream (`name:PROPERTIES`), whose form was never published, and which a copy
//! to another file system loses. So such a file is **named** and not guessed at: the header does not say who of them has
//! got the message already, nor who was a blind copy. Whoever knows that the header is right can have it taken. Nothing is skipped
//! silently: what is no mail (transcripts, property files), and what lies beside or below these directories, is counted and named too.
//!
//! Nothing in the old directory is changed. What was imported is remembered by its place in it and its content, wherever the mailroot lies,
//! as a note that is durable before the message is, and completed after it; so a second run, also after a crash, imports nothing twice.
//! A dry run asks everything that the real one does: who may be written to as well.

mod files;
mod report;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::files::{Found, Kind, VIRTUAL_SERVER, kind, list};
pub use self::report::{AREAS, Area, Import, ImportError, ImportState, Named, QueueEnvelope, Wanted};
use super::file::{EnvelopeFrom, Mail, open_plain};
use super::hand_in::{self, NotTaken, Recipients};
use crate::config::{Live, VirtualServer};
use crate::intake::{Door, Intake};
use crate::model::mail::MessageId;
use crate::model::path::RelativePath;
use crate::model::time::Timestamp;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::store::StoreError;

/// Most files that a report names.
const MOST_NAMED: usize = 1_000;
/// Imports that are remembered.
const MOST_KNOWN: usize = 20;
/// Files that are imported at the same time.
const AT_ONCE: usize = 8;
/// Octets of a reason that are read.
const MAX_REASON: u64 = 64 << 10;

/// Imports of a process.
pub struct Imports {
    intake: Intake,
    live: Live,
    root: PathBuf,
    known: Mutex<VecDeque<Import>>,
}

/// Imports, as REST asks for them.
#[async_trait]
pub trait Importing: Send + Sync {
    /// See [`Imports::begin`].
    ///
    /// # Errors
    /// See [`ImportError`].
    async fn begin(&self, wanted: Wanted) -> Result<Import, ImportError>;

    /// See [`Imports::all`].
    fn all(&self) -> Vec<Import>;
}

/// [`Importing`] by these.
pub struct Importer(pub Arc<Imports>);

#[async_trait]
impl Importing for Importer {
    async fn begin(&self, wanted: Wanted) -> Result<Import, ImportError> {
        self.0.begin(wanted).await
    }

    fn all(&self) -> Vec<Import> {
        self.0.all()
    }
}

/// What is remembered of a message that was, or is about to be, imported.
#[derive(Serialize, Deserialize)]
struct Imported {
    id: MessageId,
    done: bool,
}

/// What became of a file.
enum Outcome {
    /// It is mail now, but for these recipients, who may not be written to.
    Imported(Vec<String>),
    Skipped,
    Unreadable(String),
    Ignored(String),
    /// Nothing more can be imported now.
    Stopped(String),
}

const KNOWN: &str = "import/";

impl Imports {
    /// Mailroots lie below `root`. What an earlier process did is remembered.
    pub fn new(intake: Intake, live: Live, root: PathBuf) -> Arc<Self> {
        let rows = intake.store.notes(KNOWN, None, MOST_KNOWN).unwrap_or_default();
        let mut known: Vec<Import> =
            rows.into_iter().filter_map(|(_, value)| serde_json::from_slice(&value).ok()).collect();
        for import in known.iter_mut().filter(|import| import.state == ImportState::Running) {
            import.state = ImportState::Interrupted;
        }
        known.sort_by_key(|import| std::cmp::Reverse(import.started_at));
        Arc::new(Imports { intake, live, root, known: Mutex::new(known.into()) })
    }

    /// Those that run, and the latest that have ended; the latest first.
    pub fn all(&self) -> Vec<Import> {
        self.known().iter().cloned().collect()
    }

    /// Begins. A dry run returns when it is through, anything else goes on in the background.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn begin(self: &Arc<Self>, wanted: Wanted) -> Result<Import, ImportError> {
        let root = self.find(&wanted.path)?;
        let snapshot = self.live.current();
        let server = match &wanted.virtual_server {
            Some(name) => snapshot.virtual_servers.get(name).ok_or_else(|| ImportError::NoServer(name.to_string()))?,
            None => {
                let default = snapshot.default_virtual_server.as_ref();
                let server = default.and_then(|name| snapshot.virtual_servers.get(name));
                server.ok_or_else(|| ImportError::NoServer("(the default one)".to_owned()))?
            }
        };
        let import = Import {
            id: Uuid::now_v7(),
            path: wanted.path.to_string(),
            dry_run: wanted.dry_run,
            by: wanted.by.clone(),
            state: ImportState::Running,
            started_at: self.now(),
            ended_at: None,
            failure: None,
            found: 0,
            imported: 0,
            skipped: 0,
            refused_count: 0,
            refused: Vec::new(),
            unreadable_count: 0,
            unreadable: Vec::new(),
            ignored_count: 0,
            ignored: Vec::new(),
        };
        {
            let mut known = self.known();
            if known.iter().any(|other| other.state == ImportState::Running) {
                return Err(ImportError::Running);
            }
            known.push_front(import.clone());
        }
        self.forget_old().await;
        let work = Work { imports: self.clone(), id: import.id, root, server: server.clone(), wanted };
        if work.wanted.dry_run {
            work.run().await;
        } else {
            self.write_down(import.id).await?;
            drop(tokio::spawn(work.run()));
        }
        Ok(self.all().into_iter().find(|known| known.id == import.id).unwrap_or(import))
    }

    /// The directory, if it really lies below the import directory.
    fn find(&self, path: &RelativePath) -> Result<PathBuf, ImportError> {
        let not_there =
            |why: String| ImportError::NotThere { path: path.to_string(), root: self.root.display().to_string(), why };
        let root = self.root.canonicalize().map_err(|error| not_there(error.to_string()))?;
        let found = path.below(&root).canonicalize().map_err(|error| not_there(error.to_string()))?;
        match (found.starts_with(&root), found.is_dir()) {
            (true, true) => Ok(found),
            (false, _) => Err(not_there("it leads out of there".to_owned())),
            (_, false) => Err(not_there("it is no directory".to_owned())),
        }
    }

    fn change(&self, id: Uuid, change: impl FnOnce(&mut Import)) {
        if let Some(import) = self.known().iter_mut().find(|import| import.id == id) {
            change(import);
        }
    }

    /// Only counts and the first reasons fit into a note; all of it is in memory.
    async fn write_down(&self, id: Uuid) -> Result<(), StoreError> {
        let Some(mut import) = self.known().iter().find(|import| import.id == id).cloned() else { return Ok(()) };
        for names in [&mut import.refused, &mut import.unreadable, &mut import.ignored] {
            names.truncate(2);
            names.iter_mut().for_each(|named| {
                named.file = named.file.chars().take(100).collect();
                named.why = named.why.chars().take(100).collect();
            });
        }
        import.failure = import.failure.map(|why| why.chars().take(150).collect());
        let value = serde_json::to_vec(&import).map_err(|error| StoreError::Io(error.to_string()))?;
        self.intake.store.write_notes(vec![(format!("{KNOWN}{id}"), Some(value))]).await
    }

    async fn forget_old(&self) {
        let old: Vec<Import> = {
            let mut known = self.known();
            let at = known.len().min(MOST_KNOWN);
            known.split_off(at).into()
        };
        let writes = old.into_iter().map(|import| (format!("{KNOWN}{}", import.id), None)).collect();
        if let Err(error) = self.intake.store.write_notes(writes).await {
            tracing::error!(%error, "old imports could not be forgotten");
        }
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<Import>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.intake.clock.unix_millis())
    }
}

struct Work {
    imports: Arc<Imports>,
    id: Uuid,
    root: PathBuf,
    server: Arc<VirtualServer>,
    wanted: Wanted,
}

impl Work {
    async fn run(self) {
        let (root, areas) = (self.root.clone(), self.wanted.areas.clone());
        let listed = tokio::task::spawn_blocking(move || list(&root, &areas)).await;
        let ended = match listed.map_err(io::Error::other).and_then(|listed| listed) {
            Ok((files, passed_over)) => self.all(files, passed_over).await,
            Err(error) => Err(error.to_string()),
        };
        let now = self.imports.now();
        self.imports.change(self.id, |import| {
            import.ended_at = Some(now);
            import.state = if ended.is_ok() { ImportState::Done } else { ImportState::Failed };
            import.failure = ended.err();
            tracing::info!(
                import = %import.id, path = import.path, dry_run = import.dry_run, found = import.found,
                imported = import.imported, skipped = import.skipped, unreadable = import.unreadable_count,
                failure = import.failure, "import of a mailroot has ended"
            );
        });
        if let Err(error) = self.imports.write_down(self.id).await {
            tracing::error!(%error, "how an import ended could not be written down");
        }
    }

    async fn all(&self, files: Vec<Found>, passed_over: Vec<Named>) -> Result<(), String> {
        let found = files.len() + passed_over.len();
        self.imports.change(self.id, |import| {
            import.found = found as u64;
            import.ignored_count = passed_over.len() as u64;
            import.ignored = passed_over.into_iter().take(MOST_NAMED).collect();
        });
        let mut outcomes = futures_util::stream::iter(files)
            .map(|file| async move {
                let outcome = self.one(&file).await;
                (file.name, outcome)
            })
            .buffered(AT_ONCE);
        let mut stopped = None;
        while let Some((file, outcome)) = outcomes.next().await {
            let name = |list: &mut Vec<Named>, why: String| {
                if list.len() < MOST_NAMED {
                    list.push(Named { file: file.clone(), why });
                }
            };
            self.imports.change(self.id, |import| match outcome {
                Outcome::Imported(refused) => {
                    import.imported += 1;
                    import.refused_count += refused.len() as u64;
                    refused.into_iter().for_each(|why| name(&mut import.refused, why));
                }
                Outcome::Skipped => import.skipped += 1,
                Outcome::Unreadable(why) => {
                    import.unreadable_count += 1;
                    name(&mut import.unreadable, why);
                }
                Outcome::Ignored(why) => {
                    import.ignored_count += 1;
                    name(&mut import.ignored, why);
                }
                Outcome::Stopped(why) => stopped = Some(format!("{file}: {why}")),
            });
            if let Some(why) = stopped {
                return Err(format!("{why}. Start it again when that is mended: it goes on from there"));
            }
        }
        Ok(())
    }

    async fn one(&self, found: &Found) -> Outcome {
        let kind = match kind(found) {
            Ok(kind) => kind,
            Err(why) => return Outcome::Ignored(why.to_owned()),
        };
        let mail = match self.read(found, kind).await {
            Ok(mail) => mail,
            Err(why) => return Outcome::Unreadable(why),
        };
        let key = remembered_as(found, &mail);
        match self.is_imported(&key).await {
            Ok(true) => return Outcome::Skipped,
            Ok(false) => {}
            Err(error) => return Outcome::Stopped(error.to_string()),
        }
        let recipients = match found.area {
            Area::Pickup | Area::Queue => Recipients::Report,
            Area::Drop => Recipients::OursOrDead,
            Area::Badmail => Recipients::Dead(self.reason(found).await),
        };
        let intake = &self.imports.intake;
        let snapshot = self.imports.live.current();
        let begun = hand_in::begin(intake, snapshot, self.server.clone(), Door::Import, &mail, &recipients).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(NotTaken::Later(why)) => return Outcome::Stopped(why),
            Err(NotTaken::Never(why)) => return Outcome::Unreadable(why),
        };
        let refused = begun.refused.iter().map(|(path, refusal)| format!("{path}: {}", refusal.detail)).collect();
        if self.wanted.dry_run {
            return Outcome::Imported(refused);
        }
        begun.log_refused(&self.server);
        let incoming = begun.incoming;
        let id = incoming.id();
        if let Err(error) = self.remember(&key, id, false).await {
            return Outcome::Stopped(error.to_string());
        }
        match hand_in::finish(intake, incoming, mail, self.server.fqdn.as_str()).await {
            Ok(()) => match self.remember(&key, id, true).await {
                Ok(()) => Outcome::Imported(refused),
                Err(error) => Outcome::Stopped(error.to_string()),
            },
            Err(NotTaken::Later(why)) => Outcome::Stopped(why),
            Err(NotTaken::Never(why)) => Outcome::Unreadable(why),
        }
    }

    async fn read(&self, found: &Found, kind: Kind) -> Result<Mail, String> {
        let mut mail = match hand_in::read(&found.path, &self.server).await {
            // what could not even be returned may say nobody it is for
            Err(_) if kind == Kind::Bad => return self.read_bad(found).await,
            read => read?,
        };
        let by_lines = mail.head.envelope == EnvelopeFrom::Lines;
        match found.area {
            Area::Queue if !by_lines && self.wanted.queue_envelope == QueueEnvelope::Lines => Err(
                "its envelope is not in the file: it was in the NTFS stream PROPERTIES, whose form is not published; \
                 queueEnvelope: header takes it from the header"
                    .to_owned(),
            ),
            Area::Drop if !by_lines => Err("it has no x-receiver line, so nobody knows whose it is".to_owned()),
            Area::Badmail if mail.head.recipients.is_empty() => {
                mail.head.recipients.push(ForwardPath::Postmaster);
                Ok(mail)
            }
            _ => Ok(mail),
        }
    }

    /// A message whose envelope cannot be found out: it is the postmaster's to look at.
    async fn read_bad(&self, found: &Found) -> Result<Mail, String> {
        let path = found.path.clone();
        let max_size = self.server.spec.messages.max_size.bytes();
        let opened = tokio::task::spawn_blocking(move || {
            Mail::open_with(&path, max_size, ReversePath::Null, ForwardPath::Postmaster)
        });
        opened.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// What the file beside a bad one says.
    async fn reason(&self, found: &Found) -> String {
        let bad = found.path.clone();
        let read = move || -> Option<String> {
            use std::io::Read;
            let names = ["BDR", "bdr", "Bdr"].map(|extension| bad.with_extension(extension));
            let file = names.iter().find_map(|path| open_plain(path, MAX_REASON).ok())?;
            let mut text = Vec::new();
            file.take(MAX_REASON).read_to_end(&mut text).ok()?;
            Some(plain_text(&text))
        };
        let read = tokio::task::spawn_blocking(read).await.ok().flatten();
        read.filter(|text| !text.is_empty()).unwrap_or_else(|| "it was in Badmail".to_owned())
    }

    /// Also one that was about to be when the process ended, if it is there.
    async fn is_imported(&self, key: &str) -> Result<bool, StoreError> {
        let store = &self.imports.intake.store;
        let Some(value) = store.note(key)? else { return Ok(false) };
        let Ok(Imported { id, done }) = serde_json::from_slice(&value) else { return Ok(false) };
        if done || store.message(id).await?.is_some() || store.has_events(id).await? {
            return Ok(true);
        }
        Ok(false)
    }

    async fn remember(&self, key: &str, id: MessageId, done: bool) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&Imported { id, done }).map_err(|error| StoreError::Io(error.to_string()))?;
        self.imports.intake.store.write_notes(vec![(key.to_owned(), Some(value))]).await
    }
}

/// By its place from the virtual server's directory on (`vsi 1`, where there is one) and its content: the mailroot may lie elsewhere the
/// next time, or be asked for from another directory on.
fn remembered_as(found: &Found, mail: &Mail) -> String {
    let mut above = found.path.iter().rev().map(|part| part.to_string_lossy().to_lowercase());
    let name = above.next().unwrap_or_default();
    let server = above.nth(1).filter(|part| part.starts_with(VIRTUAL_SERVER)).unwrap_or_default();
    let place = blake3::hash(format!("{server}/{:?}/{name}", found.area).as_bytes());
    let mut both = blake3::Hasher::new();
    both.update(place.as_bytes()).update(mail.hash.as_bytes());
    format!("imported/{}", both.finalize().to_hex())
}

/// Text of a Windows program, as one line: UTF-16 with its mark, or octets.
fn plain_text(octets: &[u8]) -> String {
    let text = match octets {
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(octets).into_owned(),
    };
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_line_in_any_encoding() {
        assert_eq!(plain_text(b"Unable to deliver\r\n this message\0\r\n"), "Unable to deliver this message");
        let utf16: Vec<u8> =
            [0xfeff].into_iter().chain("Fehler ü\r\n".encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert_eq!(plain_text(&utf16), "Fehler ü");
    }
}
