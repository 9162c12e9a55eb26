//! How full a Maildir is: Maildir++'s `maildirsize`, which others that serve the same Maildir read and write too.
//!
//! The first line says which quota was counted for, each further one adds octets and messages. A delivery reads at most
//! 64 KiB and appends a line. The mailbox is walked only when there is no usable file, and when a mailbox counts as full and
//! was not looked at for 15 minutes (somebody may have removed mail without saying so). A file that grows beyond 5 KiB is
//! written anew with its sum. It is bookkeeping, not truth: nothing is synced, and what goes wrong here defers nobody.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::model::failure::{Failure, Scope};
use crate::model::spec::mailbox_store::Quota;
use crate::smtp::reply::EnhancedStatus;

/// What is read of the file at most.
const MOST: u64 = 64 << 10;
/// A file beyond this is written anew (Maildir++ says 5,120).
const COMPACT: u64 = 5_120;
/// How long a mailbox counts as full before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);
/// Most folders of a Maildir++ that are walked.
const MOST_FOLDERS: usize = 10_000;

/// What is in a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    octets: u64,
    messages: u64,
}

impl Usage {
    fn with(self, octets: u64, messages: u64) -> Usage {
        Usage { octets: self.octets.saturating_add(octets), messages: self.messages.saturating_add(messages) }
    }

    fn fits(self, quota: &Quota) -> bool {
        quota.size.is_none_or(|most| self.octets <= most.bytes())
            && quota.messages.is_none_or(|most| self.messages <= u64::from(most))
    }
}

/// Whether there is room for a file of this size, which goes by this name when it is there already.
///
/// # Errors
/// Transient when the mailbox is full, permanent when the message could never fit.
pub(super) async fn admit(quota: &Quota, mailbox: &Path, name: &str, size: u64) -> Result<(), Failure> {
    if *quota == Quota::default() {
        return Ok(());
    }
    if !Usage::default().with(size, 1).fits(quota) {
        let words = "the message is larger than the mailbox may ever be";
        return Err(Failure::new(Scope::Recipient, EnhancedStatus::permanent(2, 3), words));
    }
    let (quota, mailbox) = (quota.clone(), mailbox.to_owned());
    // a repeated delivery replaces its own file
    let own = mailbox.join("new").join(name);
    let room = tokio::task::spawn_blocking(move || own.exists() || has_room(&quota, &mailbox, size)).await;
    if room.unwrap_or(true) {
        return Ok(());
    }
    Err(Failure::new(Scope::Recipient, EnhancedStatus::transient(2, 2), "the mailbox is full"))
}

/// Notes a file of this size that was written.
pub(super) async fn count(quota: &Quota, mailbox: &Path, size: u64) {
    if *quota == Quota::default() {
        return;
    }
    let (quota, mailbox) = (quota.clone(), mailbox.to_owned());
    let noted = tokio::task::spawn_blocking(move || note(&quota, &mailbox, size)).await;
    if let Ok(Err(error)) = noted {
        tracing::warn!(error = %error, "the size of a Maildir could not be noted; it is counted anew");
    }
}

fn has_room(quota: &Quota, mailbox: &Path, size: u64) -> bool {
    let known = match read(quota, mailbox) {
        Ok(Some((usage, looked_at))) => {
            let old = SystemTime::now().duration_since(looked_at).is_ok_and(|age| age >= LOOK_AGAIN);
            if usage.with(size, 1).fits(quota) || !old { Some(usage) } else { None }
        }
        Ok(None) | Err(_) => None,
    };
    let usage = match known {
        Some(usage) => Ok(usage),
        None => walk(mailbox).inspect(|usage| drop(write(quota, mailbox, *usage))),
    };
    // what cannot be counted does not count
    usage.map_or(true, |usage| usage.with(size, 1).fits(quota))
}

fn note(quota: &Quota, mailbox: &Path, size: u64) -> io::Result<()> {
    let path = mailbox.join("maildirsize");
    match fs::OpenOptions::new().append(true).open(&path) {
        Ok(mut file) => {
            file.write_all(format!("{size} 1\n").as_bytes())?;
            if file.metadata()?.len() <= COMPACT {
                return Ok(());
            }
            match read(quota, mailbox)? {
                Some((usage, _)) => write(quota, mailbox, usage),
                None => write(quota, mailbox, walk(mailbox)?),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(quota, mailbox, walk(mailbox)?),
        Err(error) => Err(error),
    }
}

/// What the file says and when it was last written; `None` when it says nothing about this quota.
fn read(quota: &Quota, mailbox: &Path) -> io::Result<Option<(Usage, SystemTime)>> {
    let file = match fs::File::open(mailbox.join("maildirsize")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Ok(None);
    }
    let mut lines = text.lines();
    if lines.next() != Some(definition(quota).as_str()) {
        return Ok(None);
    }
    let (mut octets, mut messages) = (0_i64, 0_i64);
    for line in lines {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
        let (Some(Ok(more)), Some(Ok(count)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
            return Ok(None);
        };
        octets = octets.saturating_add(more);
        messages = messages.saturating_add(count);
    }
    // below nothing: somebody counted wrong
    let (Ok(octets), Ok(messages)) = (u64::try_from(octets), u64::try_from(messages)) else { return Ok(None) };
    Ok(Some((Usage { octets, messages }, meta.modified()?)))
}

/// `<octets>S,<messages>C`, without what is unlimited.
fn definition(quota: &Quota) -> String {
    let size = quota.size.map(|size| format!("{}S", size.bytes()));
    let messages = quota.messages.map(|messages| format!("{messages}C"));
    size.into_iter().chain(messages).collect::<Vec<_>>().join(",")
}

/// Replaces the file.
fn write(quota: &Quota, mailbox: &Path, usage: Usage) -> io::Result<()> {
    let temporary = mailbox.join("tmp").join(format!("maildirsize.{}", uuid::Uuid::now_v7()));
    let text = format!("{}\n{} {}\n", definition(quota), usage.octets, usage.messages);
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, mailbox.join("maildirsize")));
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Counts what is there: the inbox and every folder but the trash. A mailbox that does not exist is empty.
fn walk(mailbox: &Path) -> io::Result<Usage> {
    let mut folders: Vec<PathBuf> = vec![mailbox.to_owned()];
    for entry in entries(mailbox)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name != ".Trash" && folders.len() < MOST_FOLDERS {
            folders.push(mailbox.join(&*name));
        }
    }
    let mut usage = Usage::default();
    for folder in folders {
        for sub in ["new", "cur"] {
            for entry in entries(&folder.join(sub))? {
                let entry = entry?;
                match size_in(&entry.file_name().to_string_lossy()) {
                    Some(size) => usage = usage.with(size, 1),
                    // it may have gone meanwhile
                    None => usage = entry.metadata().map_or(usage, |meta| usage.with(meta.len(), 1)),
                }
            }
        }
    }
    Ok(usage)
}

fn entries(directory: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<fs::DirEntry>>>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Box::new(std::iter::empty()))
        }
        Err(error) => Err(error),
    }
}

/// The size that a file's name tells: `,S=<octets>`.
fn size_in(name: &str) -> Option<u64> {
    let rest = name.split(',').find_map(|part| part.strip_prefix("S="))?;
    rest.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::size::Size;

    fn quota(size: Option<u64>, messages: Option<u32>) -> Quota {
        Quota { size: size.map(Size::from_bytes), messages }
    }

    fn maildir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["tmp", "new", "cur", ".Sent/cur", ".Trash/cur"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        dir
    }

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join("maildirsize")).unwrap()
    }

    #[tokio::test]
    async fn what_is_there_is_counted_once_and_then_noted() {
        let dir = maildir();
        fs::write(dir.path().join("new/1,S=1000"), "not looked at").unwrap();
        fs::write(dir.path().join("cur/2,S=500,W=510:2,S"), "").unwrap();
        fs::write(dir.path().join("cur/old"), [0; 100]).unwrap();
        fs::write(dir.path().join(".Sent/cur/3,S=7:2,S"), "").unwrap();
        fs::write(dir.path().join(".Trash/cur/4,S=70000"), "").unwrap();
        let quota = quota(Some(2_000), None);
        admit(&quota, dir.path(), "x", 393).await.unwrap();
        assert_eq!(text(dir.path()), "2000S\n1607 4\n");
        let full = admit(&quota, dir.path(), "x", 394).await.unwrap_err();
        assert_eq!((full.status.to_string().as_str(), full.scope), ("4.2.2", Scope::Recipient));
        count(&quota, dir.path(), 393).await;
        assert_eq!(text(dir.path()), "2000S\n1607 4\n393 1\n");
        assert!(admit(&quota, dir.path(), "x", 1).await.is_err());
        // it is there already: the same delivery again
        fs::write(dir.path().join("new/x"), "").unwrap();
        admit(&quota, dir.path(), "x", 1).await.unwrap();
        let never = admit(&quota, dir.path(), "x", 2_001).await.unwrap_err();
        assert_eq!(never.status.to_string(), "5.2.3");
    }

    #[tokio::test]
    async fn a_full_mailbox_is_looked_at_again_after_a_while() {
        let dir = maildir();
        let quota = quota(None, Some(1));
        count(&quota, dir.path(), 10).await;
        fs::write(dir.path().join("maildirsize"), "1C\n10 1\n").unwrap();
        assert!(admit(&quota, dir.path(), "x", 10).await.is_err(), "nobody said that mail was removed");
        let file = fs::File::options().write(true).open(dir.path().join("maildirsize")).unwrap();
        file.set_modified(SystemTime::now() - LOOK_AGAIN).unwrap();
        admit(&quota, dir.path(), "x", 10).await.unwrap();
        assert_eq!(text(dir.path()), "1C\n0 0\n");
    }

    #[tokio::test]
    async fn the_file_stays_small_and_nonsense_in_it_is_counted_anew() {
        let dir = maildir();
        let own = quota(Some(1 << 40), Some(1_000_000));
        for _ in 0..3_000 {
            note(&own, dir.path(), 12_345).unwrap();
        }
        assert!(text(dir.path()).len() as u64 <= COMPACT);
        assert_eq!(read(&own, dir.path()).unwrap().unwrap().0, Usage { octets: 2_999 * 12_345, messages: 2_999 });
        for nonsense in ["", "5S\n1 1\n", "1099511627776S,1000000C\nx y\n", "1099511627776S,1000000C\n-5 1\n"] {
            fs::write(dir.path().join("maildirsize"), nonsense).unwrap();
            admit(&own, dir.path(), "x", 1).await.unwrap();
            assert_eq!(text(dir.path()), "1099511627776S,1000000C\n0 0\n", "{nonsense:?}");
        }
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_mailbox_that_does_not_exist_yet_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        admit(&quota(Some(10), None), &dir.path().join("new"), "x", 10).await.unwrap();
        // and nothing is counted where nothing is limited
        admit(&Quota::default(), dir.path(), "x", u64::MAX).await.unwrap();
        count(&Quota::default(), dir.path(), 1).await;
        assert!(!dir.path().join("maildirsize").exists());
    }
}
