//! Maildir stores: `<root>/<recipient>/{tmp,new,cur}`, with Return-Path and Delivered-To in front of the message.
//!
//! File names carry the message id and the recipient's index: a delivery that is repeated after a crash replaces its own
//! file instead of making a second one, as long as nobody has moved it. The size stands in the name (`,S=`), as Maildir++
//! has it, so that whoever counts need not look at the file.

use std::path::Path;

use super::content::Content;
use super::{Local, files, quota};
use crate::model::failure::{Failure, Scope};
use crate::model::mail::Recipient;
use crate::model::spec::mailbox_store::MaildirStore;
use crate::smtp::address::ReversePath;
use crate::smtp::reply::EnhancedStatus;
use crate::store::Leased;

/// Writes a message for each of these recipients.
pub(super) async fn deliver(
    local: &Local,
    store: &MaildirStore,
    root: &Path,
    leased: &Leased,
    here: &[u32],
) -> Vec<Result<(), Failure>> {
    let mut written = Vec::with_capacity(here.len());
    for index in here {
        written.push(match leased.message.recipients.get(*index as usize) {
            Some(recipient) => deliver_to(local, store, root, leased, *index, recipient).await,
            None => Err(nameless()),
        });
    }
    written
}

async fn deliver_to(
    local: &Local,
    store: &MaildirStore,
    root: &Path,
    leased: &Leased,
    index: u32,
    recipient: &Recipient,
) -> Result<(), Failure> {
    let message = &leased.message;
    let mailbox = root.join(recipient.directory_name.as_ref().ok_or_else(nameless)?.as_str());
    let sender = match &message.reverse_path {
        ReversePath::Null => "<>".to_owned(),
        ReversePath::Mailbox(mailbox) => format!("<{mailbox}>"),
    };
    let lines = format!("Return-Path: {sender}\r\nDelivered-To: {}\r\n", recipient.forward_path);
    let size = lines.len() as u64 + message.size;
    let name = format!("{}.{index}.bridgehead,S={size}", message.id);
    quota::admit(&store.quota, &mailbox, &name, size).await?;
    let content = Content::of(&local.queue, leased).await?;
    files::write(&mailbox, "new", &name, &lines, content).await?;
    quota::count(&store.quota, &mailbox, size).await;
    Ok(())
}

/// It was assigned before it had a name.
fn nameless() -> Failure {
    Failure::new(Scope::Recipient, EnhancedStatus::transient(1, 1), "the recipient has no name in the directory")
}
