//! A transaction under way: its envelope on the wire, and what is decided of its recipients.

use std::fmt::Write as _;

use super::{RecipientResult, Transaction, Treatment};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::extension::{Objection, PeerExtensions};
use crate::smtp::parameters::{Body, MailParameters};
use crate::smtp::reply::EnhancedStatus;

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Transfer {
    transaction: Transaction,
    /// What is decided, by recipient.
    pub(super) results: Vec<Option<RecipientResult>>,
    /// Recipients that the peer accepted and that are not decided.
    pub(super) accepted: usize,
    pub(super) dot_sent: bool,
}

impl Transfer {
    /// What the peer's extensions do not carry is decided here, before anything is sent.
    pub(super) fn new(transaction: Transaction, peer: &PeerExtensions) -> Self {
        let unsupported = |Objection { status, text }| RecipientResult::Unsupported { status, text };
        let no_utf8 = |text| unsupported(Objection { status: EnhancedStatus::permanent(6, 7), text });
        let ascii = |path: &ForwardPath| match path {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => mailbox.is_ascii(),
        };
        let sender_ascii = transaction.reverse_path.mailbox().is_none_or(|mailbox| mailbox.is_ascii());
        let whole = if !peer.smtputf8 && !sender_ascii {
            Some(no_utf8("The next hop does not offer SMTPUTF8, which this sender needs"))
        } else {
            let needs_utf8 = transaction.parameters.smtputf8 && !peer.smtputf8;
            match transaction.treatment {
                Treatment::Unfit(text) if !needs_utf8 => {
                    Some(unsupported(Objection { status: EnhancedStatus::permanent(6, 3), text }))
                }
                _ => peer.objection(&transaction.parameters, transaction.size).map(unsupported),
            }
        };
        let one = |path| {
            let refuse = !peer.smtputf8 && !ascii(path);
            refuse.then(|| no_utf8("The next hop does not offer SMTPUTF8, which this recipient needs"))
        };
        let results = transaction.recipients.iter().map(|(path, _)| whole.clone().or_else(|| one(path))).collect();
        Transfer { transaction, results, accepted: 0, dot_sent: false }
    }

    /// Its content goes by BDAT (RFC 3030), chunk by chunk as it is.
    pub(super) fn is_binary(&self) -> bool {
        self.transaction.parameters.body == Body::Binary
    }

    pub(super) fn decide(&mut self, result: &RecipientResult) {
        for open in self.results.iter_mut().filter(|result| result.is_none()) {
            *open = Some(result.clone());
        }
        self.accepted = 0;
    }

    pub(super) fn is_decided(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }

    /// The recipients that are not decided, in order.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.results.len()).filter(|index| self.results[*index].is_none())
    }

    /// The next recipient from this one on that is to be tried.
    pub(super) fn next_recipient(&self, from: usize) -> Option<usize> {
        (from..self.results.len()).find(|index| self.results[*index].is_none())
    }

    /// Appends the MAIL command.
    pub(super) fn write_mail(&self, peer: &PeerExtensions, out: &mut String) {
        let transaction = &self.transaction;
        let _ = match &transaction.reverse_path {
            ReversePath::Null => write!(out, "MAIL FROM:<>"),
            ReversePath::Mailbox(mailbox) => write!(out, "MAIL FROM:<{mailbox}>"),
        };
        // an address beyond ASCII needs SMTPUTF8 even if nobody said so
        let needs_utf8 = transaction.reverse_path.mailbox().is_some_and(|mailbox| !mailbox.is_ascii())
            || transaction.recipients.iter().any(|(path, _)| matches!(path, ForwardPath::Mailbox(m) if !m.is_ascii()));
        let size = if transaction.treatment == Treatment::Changed { 0 } else { transaction.size };
        if needs_utf8 && !transaction.parameters.smtputf8 {
            let parameters = MailParameters { smtputf8: true, ..transaction.parameters.clone() };
            parameters.write(size, peer, out);
        } else {
            transaction.parameters.write(size, peer, out);
        }
        out.push_str("\r\n");
    }

    /// Appends the RCPT command of one recipient.
    pub(super) fn write_rcpt(&self, index: usize, peer: &PeerExtensions, out: &mut String) {
        let (path, parameters) = &self.transaction.recipients[index];
        let _ = write!(out, "RCPT TO:<{path}>");
        parameters.write(peer, out);
        out.push_str("\r\n");
    }
}
