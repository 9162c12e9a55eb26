//! An alert as a message: plain text that says what is wrong, what it means and where to read what to do.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};

use super::standing::{Alert, Due, Word};
use crate::config::Snapshot;
use crate::config::watching::AlertMail;
use crate::model::time::Timestamp;

/// What is told in one message.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// That telling works.
    Test,
    /// Something that has begun, lasts or is over.
    One(Box<Due>),
    /// All that is to be told, as there is no room for more messages.
    Many(Vec<Due>),
}

impl News {
    /// These together.
    pub(super) fn of(due: &[Due]) -> Self {
        match due {
            [one] => News::One(Box::new(one.clone())),
            many => News::Many(many.to_vec()),
        }
    }

    /// The subject, without who says it.
    pub(super) fn subject(&self) -> String {
        match self {
            News::Test => "A test".to_owned(),
            News::One(due) => line(due),
            News::Many(due) => format!("{} alerts", due.len()),
        }
    }

    fn text(&self, host: &str) -> String {
        let mut text = String::new();
        match self {
            News::Test => {
                let _ = writeln!(text, "This is a test. Alerts of {host} arrive here.");
            }
            News::One(due) => one(due, &mut text),
            News::Many(due) => {
                let words = "There were too many alerts in this hour for a message each. All that is left to tell:";
                let _ = writeln!(text, "{words}\n");
                for due in due {
                    let _ = writeln!(text, "* {}", line(due));
                }
            }
        }
        let _ = writeln!(text, "\nWhat is wrong now: GET /api/v1/alerts on {host}.");
        text
    }
}

fn line(due: &Due) -> String {
    let word = match due.word {
        Word::Begun => "",
        Word::Lasts => "Still: ",
        Word::Over => "Over: ",
    };
    format!("{word}{}", due.alert.text)
}

fn one(due: &Due, text: &mut String) {
    let Alert { cause, subject, text: what, since, over, .. } = &due.alert;
    let _ = writeln!(text, "{what}.");
    match (due.word, over) {
        (Word::Over, Some(over)) => {
            let _ = writeln!(text, "It was so from {since}\nto {over}, and is over.\n");
        }
        _ => {
            let _ = writeln!(text, "It has been so since {since}.\n{}\n", cause.meaning());
        }
    }
    let _ = writeln!(text, "Alert: {cause} ({})", cause.severity().word());
    if !subject.is_empty() {
        let _ = writeln!(text, "About: {subject}");
    }
    let _ = writeln!(text, "Runbook: README.md, Runbook, {cause}");
}

/// A message that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The name that we give ourselves.
    pub(super) host: String,
    /// The reverse-path.
    pub(super) from: String,
    /// The message.
    pub(super) content: Vec<u8>,
}

impl Letter {
    /// Writes it.
    ///
    /// # Errors
    /// In words, when an address cannot stand in a message.
    pub(super) fn new(snapshot: &Snapshot, way: &AlertMail, news: &News, now: Timestamp) -> Result<Self, String> {
        let server = snapshot.default_virtual_server.as_ref().and_then(|name| snapshot.virtual_servers.get(name));
        let host = server.map_or("localhost", |server| server.fqdn.as_str()).to_owned();
        let from = match (&way.from, &snapshot.postmaster) {
            (Some(from), _) => from.to_string(),
            (None, Some(postmaster)) => postmaster.to_string(),
            (None, None) => format!("postmaster@{host}"),
        };
        let address = |text: &str| text.parse().map_err(|_| format!("{text} cannot stand in the header of a message"));
        let header =
            |name: &'static str, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
        let millis = u64::try_from(now.millis()).unwrap_or_default();
        let mut message = Message::builder()
            .date(UNIX_EPOCH + Duration::from_millis(millis))
            .from(Mailbox::new(Some("Bridgehead".to_owned()), address(&from)?))
            .message_id(Some(format!("<{}@{host}>", uuid::Uuid::now_v7())))
            .subject(format!("[Bridgehead] {host}: {}", news.subject()))
            .raw_header(header("Auto-Submitted", "auto-generated"));
        for recipient in &way.spec.recipients {
            message = message.to(Mailbox::new(None, address(&recipient.to_string())?));
        }
        if let News::One(due) = news {
            message = message.raw_header(header("X-Bridgehead-Alert", due.alert.cause.name()));
        }
        let message = message.singlepart(SinglePart::plain(news.text(&host)));
        let content = message.map_err(|error| format!("the message cannot be written: {error}"))?.formatted();
        Ok(Letter { host, from, content })
    }
}
