//! Pickup directories: files that are put there go out as mail.
//!
//! ```text
//!   <data>/pickup/<path>/           of one virtual server: whoever may write here may send
//!     note.eml                      a file that is not written to any more is taken within seconds
//!     .note.eml, note.tmp           not looked at: write like this, then rename
//!     .taken/<id>~note.eml          being taken; whatever lies here is taken care of after a crash
//!   <data>/badmail/<server>/        what is no message, and beside it <name>.reason, which says why
//! ```
//!
//! A file is renamed to `.taken`, read, and renamed again with the id that its message will have; these names are synced before
//! the message is committed. It is removed when the message is **durable**. So a crash at any moment loses nothing; and
//! after it a file whose id the queue or the tracking knows was taken already, and is only removed. What remains is a message that
//! was taken *and* delivered in the last moment before a power cut: that may be sent twice.
//!
//! A recipient who is refused costs the sender a report and not the file. What is refused for now (no space, a quota) is
//! tried again every minute. Links, pipes and directories are never opened. Bounded: files looked at and taken in a round, files in
//! badmail: when that is full, what is no message stays in `.taken`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;

use super::hand_in::{self, NotTaken, Recipients};
use crate::config::{Live, VirtualServer};
use crate::intake::{Door, Intake};
use crate::model::mail::MessageId;
use crate::model::name::Name;
use crate::status::Drain;

const EVERY: Duration = Duration::from_secs(1);
/// How long a file has to be as it is.
const SETTLED: Duration = Duration::from_secs(2);
/// How long what was refused for now waits.
const AGAIN: Duration = Duration::from_secs(60);
/// Names looked at in a round.
const MOST_LOOKED_AT: usize = 10_000;
/// Files taken in a round, and at the same time.
const MOST_TAKEN: usize = 200;
const AT_ONCE: usize = 8;
/// Files with a reason in one badmail directory.
const MOST_BAD: usize = 10_000;
/// Octets of a file's name that are kept.
const LONGEST_NAME: usize = 180;
const TAKEN: &str = ".taken";

/// The pickup directories of a process.
pub struct Pickup {
    /// Where mail goes in.
    pub intake: Intake,
    /// Which servers have one.
    pub live: Live,
    /// Below which they lie.
    pub data_dir: PathBuf,
}

/// What is remembered between rounds.
#[derive(Default)]
struct Seen {
    /// Files that may still be written to: size and time of the last look, and since when they are so.
    growing: HashMap<PathBuf, (u64, Option<SystemTime>, Instant)>,
    /// Files that were refused for now, and when they are tried again.
    later: HashMap<PathBuf, Instant>,
}

impl Pickup {
    /// Until the drain begins.
    pub async fn run(self, drain: Arc<Drain>) {
        let mut stop = drain.watch();
        let mut seen: HashMap<Name, Seen> = HashMap::new();
        loop {
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            // an operator drains the appliance: files stay where they are
            if drain.is_closed() {
                continue;
            }
            let snapshot = self.live.current();
            let wanted =
                snapshot.virtual_servers.values().filter(|server| server.spec.enabled && server.spec.pickup.enabled);
            let servers: Vec<Arc<VirtualServer>> = wanted.cloned().collect();
            seen.retain(|name, _| servers.iter().any(|server| server.name == *name));
            for server in servers {
                let seen = seen.entry(server.name.clone()).or_default();
                if let Err(error) = self.round(&server, seen).await {
                    tracing::error!(virtualServer = %server.name, %error, "the pickup directory cannot be used");
                }
            }
        }
    }

    /// The directory of a server.
    fn directory(&self, server: &VirtualServer) -> PathBuf {
        let root = self.data_dir.join("pickup");
        match &server.spec.pickup.path {
            Some(path) => path.below(&root),
            None => root.join(server.name.as_str()),
        }
    }

    async fn round(&self, server: &Arc<VirtualServer>, seen: &mut Seen) -> io::Result<()> {
        let directory = self.directory(server);
        let now = Instant::now();
        let look = {
            let (directory, growing) = (directory.clone(), std::mem::take(&mut seen.growing));
            move || look(&directory, growing, now)
        };
        let (ready, growing) = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        seen.growing = growing;
        seen.later.retain(|_, again| *again > now);
        let ready = ready.into_iter().filter(|path| !seen.later.contains_key(path)).take(MOST_TAKEN);
        let results: Vec<(PathBuf, Done)> = futures_util::stream::iter(ready)
            .map(|path| async {
                let done = self.take(server, &directory, &path).await;
                (path, done)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (path, done) in results {
            if let Done::Later(path_now, why) = done {
                tracing::warn!(virtualServer = %server.name, file = %path.display(), why, "not taken now; it is tried again in a minute");
                if seen.later.len() < MOST_LOOKED_AT {
                    seen.later.insert(path_now, now + AGAIN);
                }
            }
        }
        Ok(())
    }

    /// Takes one file, from the directory itself or from `.taken`.
    async fn take(&self, server: &Arc<VirtualServer>, directory: &Path, path: &Path) -> Done {
        let (path, name) = match self.own(directory, path).await {
            Ok(Some(own)) => own,
            Ok(None) => return Done::Gone,
            Err(error) => return Done::Later(path.to_owned(), error.to_string()),
        };
        let mail = match hand_in::read(&path, server).await {
            Ok(mail) => mail,
            Err(why) => return self.bad(server, &path, &name, &why),
        };
        let snapshot = self.live.current();
        let begun =
            hand_in::begin(&self.intake, snapshot, server.clone(), Door::Pickup, &mail, &Recipients::Report).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(NotTaken::Later(why)) => return Done::Later(path, why),
            Err(NotTaken::Never(why)) => return self.bad(server, &path, &name, &why),
        };
        begun.log_refused(server);
        let incoming = begun.incoming;
        let id = incoming.id();
        let known = directory.join(TAKEN).join(format!("{id}~{name}"));
        if let Err(error) = rename(&path, &known).await {
            return Done::Later(path, error.to_string());
        }
        match hand_in::finish(&self.intake, incoming, mail, server.fqdn.as_str()).await {
            Ok(()) => {
                tracing::info!(message.id = %id, virtualServer = %server.name, file = name, "taken from the pickup directory");
                // only now: it is durable
                remove(&known).await
            }
            Err(NotTaken::Later(why)) => Done::Later(known, why),
            Err(NotTaken::Never(why)) => self.bad(server, &known, &name, &why),
        }
    }

    /// Makes the file ours: its path in `.taken`, and the name it had. `None` when it is done already, or gone.
    async fn own(&self, directory: &Path, path: &Path) -> io::Result<Option<(PathBuf, String)>> {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.parent().is_some_and(|parent| parent.ends_with(TAKEN)) {
            let (id, name) = file_name.split_once('~').unwrap_or(("", &file_name));
            // only one that was committed before a crash is known by its id
            if let Ok(id) = id.parse::<MessageId>()
                && self.is_known(id).await?
            {
                tracing::info!(message.id = %id, file = name, "was taken before the last stop; the file is removed");
                tokio::fs::remove_file(path).await?;
                return Ok(None);
            }
            return Ok(Some((path.to_owned(), name.to_owned())));
        }
        let name = shortened(&file_name);
        let own = directory.join(TAKEN).join(format!("{}~{name}", MessageId::generate()));
        match rename(path, &own).await {
            Ok(()) => Ok(Some((own, name))),
            // somebody took it back
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_known(&self, id: MessageId) -> io::Result<bool> {
        let store = &self.intake.store;
        let known = async {
            Ok::<bool, crate::store::StoreError>(store.message(id).await?.is_some() || store.has_events(id).await?)
        };
        known.await.map_err(|error| io::Error::other(error.to_string()))
    }

    /// Puts a file aside that is no message.
    fn bad(&self, server: &VirtualServer, path: &Path, name: &str, why: &str) -> Done {
        let directory = self.data_dir.join("badmail").join(server.name.as_str());
        match put_aside(&directory, path, name, why) {
            Ok(()) => {
                tracing::warn!(virtualServer = %server.name, file = name, why, "no message; it is in badmail");
                Done::Gone
            }
            Err(error) => Done::Later(path.to_owned(), format!("{why}; and badmail cannot be written: {error}")),
        }
    }
}

/// What became of a file.
enum Done {
    /// It is not there any more.
    Gone,
    /// It lies here and waits, for this reason.
    Later(PathBuf, String),
}

/// The files that can be taken: first those that were begun.
#[allow(clippy::type_complexity, reason = "what is remembered, and handed back")]
fn look(
    directory: &Path,
    mut growing: HashMap<PathBuf, (u64, Option<SystemTime>, Instant)>,
    now: Instant,
) -> io::Result<(Vec<PathBuf>, HashMap<PathBuf, (u64, Option<SystemTime>, Instant)>)> {
    let taken = directory.join(TAKEN);
    fs::create_dir_all(&taken)?;
    let mut ready = plain_files(&taken)?.into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
    let mut still = HashMap::new();
    for (path, size, modified) in plain_files(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name.to_ascii_lowercase().ends_with(".tmp") {
            continue;
        }
        let same = growing.remove(&path).filter(|(was, at, _)| (*was, *at) == (size, modified));
        let since = same.map_or(now, |(_, _, since)| since);
        if now.saturating_duration_since(since) >= SETTLED {
            ready.push(path);
        } else {
            still.insert(path, (size, modified, since));
        }
    }
    Ok((ready, still))
}

/// Plain files in a directory; not more than [`MOST_LOOKED_AT`].
fn plain_files(directory: &Path) -> io::Result<Vec<(PathBuf, u64, Option<SystemTime>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.take(MOST_LOOKED_AT) {
        let entry = entry?;
        // of a link this is the link
        let Ok(about) = entry.metadata() else { continue };
        if about.is_file() {
            found.push((entry.path(), about.len(), about.modified().ok()));
        }
    }
    found.sort();
    Ok(found)
}

/// Renames, and makes both names durable.
async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let renamed = move || {
        fs::rename(&from, &to)?;
        for directory in [to.parent(), from.parent()].into_iter().flatten() {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(renamed).await.map_err(io::Error::other)?
}

async fn remove(path: &Path) -> Done {
    match tokio::fs::remove_file(path).await {
        Ok(()) => Done::Gone,
        // it is known by its id: the next look will remove it
        Err(error) => Done::Later(path.to_owned(), error.to_string()),
    }
}

fn put_aside(directory: &Path, path: &Path, name: &str, why: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    if fs::read_dir(directory)?.take(2 * MOST_BAD).count() >= 2 * MOST_BAD {
        return Err(io::Error::other(format!("there are {MOST_BAD} files in {} already", directory.display())));
    }
    let free = |name: &str| !directory.join(name).exists();
    let name = if free(name) { name.to_owned() } else { format!("{}~{name}", MessageId::generate()) };
    fs::write(directory.join(format!("{name}.reason")), format!("{why}\n"))?;
    fs::rename(path, directory.join(&name))?;
    fs::File::open(directory)?.sync_all()
}

fn shortened(name: &str) -> String {
    // octets that are no text would be replaced by longer ones
    let end = (0..=name.len().min(LONGEST_NAME)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    name[..end].chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_when_it_is_written_no_more() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        fs::create_dir(dir.join(TAKEN)).unwrap();
        fs::write(dir.join(TAKEN).join("begun~a.eml"), "x").unwrap();
        for name in ["a.eml", ".hidden", "b.TMP", "c"] {
            fs::write(dir.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link.eml")).unwrap();
        let names = |ready: &[PathBuf]| {
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            ready.iter().map(name).collect::<Vec<_>>()
        };
        let (ready, growing) = look(dir, HashMap::new(), at(0)).unwrap();
        assert_eq!(names(&ready), ["begun~a.eml"]);
        fs::write(dir.join("c"), "xy").unwrap();
        let (ready, growing) = look(dir, growing, at(2)).unwrap();
        assert_eq!(names(&ready), ["begun~a.eml", "a.eml"], "c has grown");
        let (ready, _) = look(dir, growing, at(4)).unwrap();
        assert!(names(&ready).contains(&"c".to_owned()) && !names(&ready).contains(&"link.eml".to_owned()));
    }

    #[test]
    fn bad_mail_has_a_reason_and_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        let bad = root.path().join("badmail");
        for text in ["one", "two"] {
            fs::write(root.path().join("x"), text).unwrap();
            put_aside(&bad, &root.path().join("x"), "x.eml", "it is no message").unwrap();
        }
        assert_eq!(fs::read_to_string(bad.join("x.eml")).unwrap(), "one");
        assert_eq!(fs::read_to_string(bad.join("x.eml.reason")).unwrap(), "it is no message\n");
        assert_eq!(fs::read_dir(&bad).unwrap().count(), 4);
        assert_eq!(shortened(&"ä".repeat(200)).len(), LONGEST_NAME);
    }
}
