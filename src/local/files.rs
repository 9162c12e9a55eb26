//! A file that is there whole or not at all: temporary name, sync, rename, sync of the directory.

use std::io;
use std::path::Path;

use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::content::{Content, unreadable};
use crate::model::failure::{Failure, Scope};
use crate::smtp::reply::EnhancedStatus;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the content of the message cannot be read: {0}")]
    Store(#[from] StoreError),
}

/// Writes `directory/sub/name` by way of `directory/tmp/name`. With an empty `sub` the file lies in `directory` itself; a
/// Maildir gets its three directories.
///
/// # Errors
/// A failure of the host when nothing at all can be written there: everything for the store waits. Else of the recipient.
pub(super) async fn write(
    directory: &Path,
    sub: &str,
    name: &str,
    lines: &str,
    content: Content,
) -> Result<(), Failure> {
    let done = try_write(directory, sub, name, lines, content).await;
    done.map_err(|error| match error {
        WriteError::Io(error) => unwritable(directory, &error),
        WriteError::Store(error) => unreadable(&error),
    })
}

/// A directory of a store cannot be used now.
pub(super) fn unwritable(directory: &Path, error: &io::Error) -> Failure {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let status = match error.kind() {
        StorageFull | QuotaExceeded => EnhancedStatus::transient(3, 1),
        _ => EnhancedStatus::transient(3, 0),
    };
    // a mailbox that cannot be written is no reason to hold up the others
    let all = matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem);
    let scope = if all { Scope::Host } else { Scope::Recipient };
    Failure::new(scope, status, format!("{} cannot be written: {error}", directory.display()))
}

async fn try_write(directory: &Path, sub: &str, name: &str, lines: &str, content: Content) -> Result<(), WriteError> {
    let target = directory.join(sub);
    let tmp = directory.join("tmp");
    if fs::metadata(&tmp).await.is_err() {
        make(directory, sub).await?;
    }
    let temporary = tmp.join(name);
    let written = fill(&temporary, lines, content).await;
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary).await;
        return Err(error);
    }
    fs::rename(&temporary, target.join(name)).await?;
    sync(&target).await?;
    Ok(())
}

async fn fill(path: &Path, lines: &str, mut content: Content) -> Result<(), WriteError> {
    let mut file = fs::File::create(path).await?;
    file.write_all(lines.as_bytes()).await?;
    while let Some(chunk) = content.next().await? {
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    file.sync_data().await?;
    Ok(())
}

async fn make(directory: &Path, sub: &str) -> io::Result<()> {
    fs::create_dir_all(directory).await?;
    if !sub.is_empty() {
        fs::create_dir_all(directory.join(sub)).await?;
        fs::create_dir_all(directory.join("cur")).await?;
    }
    fs::create_dir_all(directory.join("tmp")).await?;
    // new directories must survive a power cut as well, up to the one that was there
    for ancestor in directory.ancestors().take(3) {
        sync(ancestor).await?;
    }
    Ok(())
}

async fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_maildir_is_made_and_the_file_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("mail/default/anna");
        let content = Content::Memory(Some(Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n")));
        write(&dir, "new", "1.eml", "Return-Path: <>\r\n", content).await.unwrap();
        let text = std::fs::read_to_string(dir.join("new/1.eml")).unwrap();
        assert_eq!(text, "Return-Path: <>\r\nSubject: x\r\n\r\nhello\r\n");
        assert!(dir.join("cur").is_dir());
        assert_eq!(std::fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_mailbox_that_cannot_be_written_holds_nobody_else_up() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let failed = write(&file.join("x"), "new", "1", "", Content::Memory(None)).await.unwrap_err();
        assert_eq!(failed.scope, Scope::Recipient);
        assert!(!failed.is_permanent());
    }
}
