//! A driver of the client's session core without a socket, whose server is random octets. It panics when the session breaks a
//! promise of `src/smtp/client`.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::reference;
use crate::smtp::client::{RecipientResult, Session, Settings, Step, Transaction};

/// What there is to send.
pub struct Work<'a> {
    /// The messages.
    pub transactions: Vec<Transaction>,
    /// The content of each, in pieces.
    pub content: Vec<&'a [u8]>,
    /// The content cannot be read to its end.
    pub content_fails: bool,
}

/// Plays a session against a server that says these chunks whenever it is waited for, and then nothing more or ends.
pub fn play(settings: Settings, work: Work<'_>, chunks: &[&[u8]], silent: bool) {
    let now = Instant::now();
    let mut session = Session::new(settings);
    let mut server = chunks.iter();
    let mut waiting: VecDeque<Transaction> = work.transactions.into();
    let mut open: VecDeque<usize> = VecDeque::new();
    let mut pieces = work.content.iter();
    let (mut out, mut taken, mut opened, mut failed) = (Vec::new(), 0, false, false);
    for _ in 0..100_000 {
        match session.next(now) {
            Step::Send(octets) => {
                assert!(!octets.is_empty());
                out.extend_from_slice(&octets);
            }
            Step::SendSecret(octets) => out.extend_from_slice(&octets.reveal()),
            // what was said in clear must not count from here on
            Step::StartTls if session.buffer().is_empty() => session.tls_started(),
            Step::StartTls => panic!("text before TLS would be read inside of it"),
            Step::Derive(derivation) => session.derived(&derivation.run()),
            Step::NeedInput { .. } => match server.next() {
                Some(chunk) => session.buffer().extend_from_slice(chunk),
                None if silent => session.timeout(),
                None => session.eof(),
            },
            Step::Opened => {
                assert!(!opened && !failed, "opened once");
                opened = true;
            }
            Step::OpenFailed(error) => {
                assert!(!opened, "opened and not opened");
                failed = true;
                clean(&error.to_string());
            }
            Step::NeedTransaction { .. } => {
                let next = waiting.pop_front();
                if let Some(transaction) = &next {
                    open.push_back(transaction.recipients.len());
                }
                session.transaction(next);
            }
            Step::Content => match pieces.next() {
                Some(piece) => session.content(Some(Bytes::copy_from_slice(piece))),
                None if work.content_fails => session.content_failed(),
                None => {
                    pieces = work.content.iter();
                    session.content(None);
                }
            },
            Step::Finished(results) => {
                let recipients = open.pop_front().expect("a transaction that was handed in");
                assert_eq!(results.len(), recipients, "one result for each recipient");
                let dotted = |result: &RecipientResult| {
                    matches!(result, RecipientResult::Delivered(_) | RecipientResult::CutAfterDot { .. })
                };
                taken += usize::from(results.iter().any(dotted));
                assert!(taken <= dots(&out), "delivered what was not sent");
                for result in &results {
                    if let RecipientResult::Delivered(reply) | RecipientResult::Refused { reply, .. } = result {
                        clean(&reply.to_string());
                        assert!(reply.text.len() <= 2 << 10);
                        let delivered = matches!(result, RecipientResult::Delivered(_));
                        assert_eq!(reply.is_success(), delivered, "{result:?}");
                    }
                }
            }
            Step::Close => {
                assert!(open.is_empty(), "a transaction without a result");
                assert!(opened || failed, "neither opened nor failed");
                check_out(&out);
                return;
            }
        }
        let held = session.buffer().len();
        let longest = chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(0);
        assert!(held <= (1 << 20) + longest, "{held} octets are kept");
    }
    panic!("the session does not come to rest");
}

/// How often a dot stands alone on a line.
fn dots(out: &[u8]) -> usize {
    out.split(|octet| *octet == b'\n').filter(|line| *line == b".\r").count()
}

/// Whatever a next hop takes for the end of a line, it reads what we meant.
fn check_out(out: &[u8]) {
    // content that is given up may end between CR and LF
    let out = out.strip_suffix(b"\r").unwrap_or(out);
    assert!(!reference::has_bare(out), "a CR or LF that stands alone leaves");
}

fn clean(text: &str) {
    assert!(!text.chars().any(char::is_control), "a control character of the peer: {text:?}");
}
