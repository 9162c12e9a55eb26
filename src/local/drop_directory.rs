//! Drop directories: one `.eml` file per message and store, with `x-sender:` and `x-receiver:` lines in front, as the Drop
//! directory of the Windows SMTP service had, and as its Pickup directory takes them.
//!
//! A file has the name of its message and of the first recipient's index, so that a delivery that is repeated after a crash
//! replaces it while nobody has taken it. Whoever reads the directory sees whole files only: they are written in its
//! subdirectory `tmp`.

use std::path::Path;

use super::content::Content;
use super::{Local, files};
use crate::model::failure::Failure;
use crate::model::mail::Message;
use crate::store::Leased;

/// Writes the message once for all these recipients.
pub(super) async fn deliver(
    local: &Local,
    directory: &Path,
    leased: &Leased,
    here: &[u32],
) -> Vec<Result<(), Failure>> {
    let first = here.first().copied().unwrap_or_default();
    let name = format!("{}-{first}.eml", leased.message.id);
    let lines = lines(&leased.message, here);
    let written = match Content::of(&local.queue, leased).await {
        Ok(content) => files::write(directory, "", &name, &lines, content).await,
        Err(failure) => Err(failure),
    };
    vec![written; here.len()]
}

fn lines(message: &Message, here: &[u32]) -> String {
    let mut lines = format!("x-sender: {}\r\n", message.reverse_path);
    for recipient in here.iter().filter_map(|index| message.recipients.get(*index as usize)) {
        lines.push_str(&format!("x-receiver: {}\r\n", recipient.forward_path));
    }
    lines
}
