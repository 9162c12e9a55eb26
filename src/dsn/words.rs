//! The first part of a report, for people: what happened, to whom, what the other server said, and what to do about it.
//!
//! What is said and advised follows from the enhanced status (RFC 3463), not from the words of the other server: those stand
//! beside it as they came, cleaned. Lines are no longer than 76 characters where words allow it.

use std::fmt::Write as _;

use super::{Action, Report, date_field, one_line, status_of, tells_failure};
use crate::model::mail::{Recipient, RecipientStatus};

/// Longest line.
const WIDTH: usize = 76;

impl Report<'_> {
    pub(super) fn words(&self) -> String {
        let mut words = format!("This is the mail system at {}.\r\n\r\n", self.reporting_mta);
        let of = date_field(self.about.received_at);
        let to = if self.recipients.len() == 1 { "this recipient" } else { "these recipients" };
        let lead = match self.action() {
            Action::Failed => {
                format!("Your message of {of} could not be delivered to {to}, and is not tried any more.")
            }
            Action::Delayed => {
                let until = self.retry_until.map_or(String::new(), |time| format!(" until {}", date_field(time)));
                format!(
                    "Your message of {of} could not be delivered to {to} yet. It is tried further{until}; you need not \
                     send it again."
                )
            }
            Action::Delivered => format!("Your message of {of} was delivered to {to}."),
            Action::Relayed => {
                format!("Your message of {of} was handed to a server that may send no report of its own, for {to}.")
            }
            Action::Expanded => format!("Your message of {of} was passed on to those for whom {to} stand."),
        };
        paragraph(&mut words, 0, &lead);
        for recipient in &self.recipients {
            let _ = write!(words, "\r\n  <{}>\r\n", recipient.forward_path);
            if tells_failure(recipient) {
                self.tell(&mut words, recipient);
            }
        }
        if matches!(self.action(), Action::Failed | Action::Delayed) {
            words.push_str("\r\n");
            let help = format!("If this does not help, ask {} and show this report.", self.postmaster);
            paragraph(&mut words, 0, &help);
        }
        words
    }

    fn tell(&self, words: &mut String, recipient: &Recipient) {
        let expired = recipient.status == RecipientStatus::Expired;
        let failure = recipient.last_failure.as_ref();
        // what kept it from being delivered says more than that its time is over
        let status = failure.map_or(status_of(recipient), |failure| failure.status);
        let (what, advice) = meaning(status.subject, status.detail);
        if expired {
            let how_long = "It was tried until its time had passed.";
            paragraph(words, 4, how_long);
        }
        paragraph(words, 4, what);
        if let Some(failure) = failure {
            let said = match (&failure.remote_mta, failure.remote_code) {
                (Some(mta), Some(_)) => format!("The server {} said: {}", one_line(mta), one_line(&failure.diagnostic)),
                (Some(mta), None) => format!("With the server {}: {}", one_line(mta), one_line(&failure.diagnostic)),
                (None, _) => format!("In detail: {}", one_line(&failure.diagnostic)),
            };
            paragraph(words, 4, &said);
        }
        if recipient.status != RecipientStatus::Pending {
            paragraph(words, 4, &format!("What to do: {advice}"));
        }
    }
}

/// What an enhanced status means, and what the sender can do about it, by its subject and detail (RFC 3463; RFC 7505, 7372,
/// 6531, 4468 for those that came later).
fn meaning(subject: u16, detail: u16) -> (&'static str, &'static str) {
    const ADDRESS: &str = "look for a mistake in the address, or ask the recipient for the right one in another way.";
    const LATER: &str =
        "nothing is wrong with your message. Send it again later, or reach the recipient in another way.";
    const SMALLER: &str = "send it smaller: without attachments, in several messages, or with a link to a file.";
    const SENDER: &str = "look whether the address that you send from is right and exists, and whether you may use it.";
    const ADMINISTRATOR: &str = "you cannot mend this. Tell your administrator.";
    match (subject, detail) {
        (1, 2) => ("The domain of the address does not exist, or takes no mail.", ADDRESS),
        (1, 10) => ("The domain of the address says that it takes no mail at all.", ADDRESS),
        (1, 6) => ("The mailbox has moved, and its mail is not forwarded.", ADDRESS),
        (1, 7 | 8) => ("The address of the sender was not accepted.", SENDER),
        (1, 0..=5) => ("There is no such address there.", ADDRESS),
        (1, _) => ("The address was not accepted.", ADDRESS),
        (2, 1) => ("The mailbox takes no mail.", "reach the recipient in another way."),
        (2, 2) => (
            "The mailbox is full.",
            "tell the recipient in another way that the mailbox is full, and send your message again later.",
        ),
        (2, 3) | (3, 4) => ("The message is larger than is accepted there.", SMALLER),
        (2, 4) => ("The mailing list could not be expanded.", "tell the owner of the list."),
        (2, _) => ("The mailbox could not be delivered to.", LATER),
        (3, 5) => ("A mail server is not set up as it should be.", ADMINISTRATOR),
        (3, _) => ("The server of the recipient could not take mail.", LATER),
        (4, 6) => ("The mail would go in a circle.", ADMINISTRATOR),
        (4, 7) => ("It took too long.", LATER),
        (4, 4) => ("There is no way to a server for this address.", ADDRESS),
        (4, _) => ("The server of the recipient could not be reached, or broke off.", LATER),
        (5, 3) => ("The message has too many recipients.", "send it to fewer recipients at a time."),
        (5, _) => ("The mail servers did not understand each other.", ADMINISTRATOR),
        (6, 1..=3) => (
            "The server of the recipient does not take the format of the message.",
            "send it as plain text, or without attachments.",
        ),
        (6, 7 | 8 | 10) => (
            "The server of the recipient does not take addresses with letters beyond ASCII.",
            "use an address of plain letters, if the recipient has one.",
        ),
        (6, _) => (
            "The content of the message was not accepted.",
            "look at what the server said: it may take the message when it is written otherwise.",
        ),
        (7, 4 | 5 | 10 | 30) => ("The message could not be sent as securely as it has to be.", ADMINISTRATOR),
        (7, 8 | 9 | 11) => ("A mail server could not log in to the next one.", ADMINISTRATOR),
        (7, 20..=29) => (
            "The server of the recipient does not believe that the message is from the domain of its sender.",
            "send it by the mail server of your own domain; else tell your administrator.",
        ),
        (7, _) => (
            "The server of the recipient does not accept the message, by a rule of its own.",
            "look at what the server said, and ask the recipient in another way to let your mail in.",
        ),
        _ => ("The server of the recipient did not take the message.", LATER),
    }
}

/// Text in lines of at most [`WIDTH`] characters where its words allow it.
fn paragraph(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push_str("\r\n");
            column = 0;
        }
        if column == 0 {
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compose, message};
    use super::super::{Original, RecipientStatus};
    use super::*;
    use crate::model::failure::{Failure, Scope};
    use crate::smtp::reply::EnhancedStatus;

    /// The first part, its lines joined again.
    fn words(status: RecipientStatus, failure: Failure) -> String {
        let mut message = message(status, "u@dst.example");
        message.recipients[0].last_failure = Some(failure);
        let text = compose(&message, Original::Headers(bytes::Bytes::new()));
        let part = text.split("\r\n--report-").nth(1).unwrap();
        let body = part.split_once("\r\n\r\n").unwrap().1.replace("=\r\n", "");
        assert!(body.lines().all(|line| line.chars().count() <= WIDTH), "{body}");
        body.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_class_of_status_is_told_in_plain_words_with_advice() {
        for (subject, detail, what, advice) in [
            (1, 1, "There is no such address there.", "look for a mistake in the address"),
            (1, 2, "does not exist, or takes no mail", "look for a mistake in the address"),
            (1, 10, "takes no mail at all", "look for a mistake in the address"),
            (1, 8, "address of the sender", "the address that you send from"),
            (2, 1, "The mailbox takes no mail.", "in another way"),
            (2, 2, "The mailbox is full.", "send your message again later"),
            (2, 3, "larger than is accepted", "send it smaller"),
            (3, 4, "larger than is accepted", "send it smaller"),
            (3, 2, "could not take mail", "Send it again later"),
            (4, 1, "could not be reached", "Send it again later"),
            (4, 6, "in a circle", "Tell your administrator"),
            (6, 3, "format of the message", "plain text"),
            (6, 7, "beyond ASCII", "plain letters"),
            (7, 1, "by a rule of its own", "look at what the server said"),
            (7, 26, "from the domain of its sender", "mail server of your own domain"),
            (7, 10, "as securely", "Tell your administrator"),
            (0, 0, "did not take the message", "Send it again later"),
        ] {
            let failure = Failure {
                remote_code: Some(550),
                ..Failure::new(Scope::Recipient, EnhancedStatus::permanent(subject, detail), "550 what they said")
            };
            let told = words(RecipientStatus::Failed, failure.by("mx.dst.example (192.0.2.1:25)"));
            for part in [
                "Your message of Wed, 18 Nov 2026 11:06:40 +0000 could not be delivered to this recipient",
                "<u@dst.example>",
                what,
                "The server mx.dst.example (192.0.2.1:25) said: 550 what they said",
                &format!("What to do: {advice}")[..12],
                advice,
                "ask postmaster@example.org",
            ] {
                assert!(told.contains(part), "5.{subject}.{detail}: {part} in\n{told}");
            }
        }
    }

    #[test]
    fn a_delay_asks_nothing_of_the_sender_and_an_end_says_what_kept_it() {
        let failure =
            || Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), "no connection").by("mx.dst.example");
        let delayed = words(RecipientStatus::Pending, failure());
        assert!(delayed.contains("you need not send it again") && !delayed.contains("What to do"), "{delayed}");
        assert!(delayed.contains("With the server mx.dst.example: no connection"), "{delayed}");
        let expired = words(RecipientStatus::Expired, failure());
        for part in ["It was tried until its time had passed.", "could not be reached", "Send it again later"] {
            assert!(expired.contains(part), "{part} in\n{expired}");
        }
    }

    #[test]
    fn what_was_done_is_no_failure() {
        let failure = Failure::new(Scope::Host, EnhancedStatus::transient(4, 1), "no connection");
        for (status, part) in [
            (RecipientStatus::Delivered, "was delivered to this recipient"),
            (RecipientStatus::Relayed, "may send no report of its own"),
            (RecipientStatus::Expanded, "was passed on"),
        ] {
            let told = words(status, failure.clone());
            assert!(told.contains(part) && !told.contains("no connection") && !told.contains("What to do"), "{told}");
        }
    }
}
