//! One file with a message: opened so that nothing else is read than this file, and taken apart as far as its envelope.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mail_parser::{Address, MessageParser};

use crate::smtp::address::{ForwardPath, ReversePath};

/// Longest header section.
const MAX_HEAD: usize = 1 << 20;
/// Octets read at once.
const CHUNK: usize = 64 << 10;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The system says no.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a link, a pipe.
    #[error("it is no plain file")]
    NotAFile,
    /// More than a message may have.
    #[error("it has {size} bytes; {most} are allowed (messages.maxSize)")]
    TooLarge {
        /// Its size.
        size: u64,
        /// What is allowed.
        most: u64,
    },
    /// Nothing is in it.
    #[error("it is empty")]
    Empty,
    /// No message begins like this.
    #[error("line {0} is no header field")]
    NotAHeader(usize),
    /// Its header does not end.
    #[error("its header section is longer than 1 MiB")]
    HeadTooLong,
    /// An address that is none.
    #[error("{0:?} is no address: {1}")]
    Address(String, String),
    /// It does not say whose it is.
    #[error("neither x-sender nor Sender nor From says who sends it")]
    NoSender,
    /// It does not say for whom it is.
    #[error("neither x-receiver nor To, Cc or Bcc says for whom it is")]
    NoRecipient,
    /// Too many.
    #[error("it has more than {0} recipients (messages.maxRecipients)")]
    TooManyRecipients(usize),
}

/// Where the envelope stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnvelopeFrom {
    /// In `x-sender` and `x-receiver` lines, at least the recipients.
    Lines,
    /// In fields of the header.
    Header,
}

/// The beginning of a file, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The header section as it is queued: CRLF, without envelope lines and Bcc, without the empty line.
    pub(super) fields: Vec<u8>,
    /// Where the content behind the empty line begins.
    pub(super) body_at: u64,
    pub(super) sender: Option<ReversePath>,
    pub(super) recipients: Vec<ForwardPath>,
    pub(super) envelope: EnvelopeFrom,
    pub(super) has_date: bool,
    pub(super) has_message_id: bool,
}

/// A file with a message.
#[derive(Debug)]
pub(super) struct Mail {
    file: File,
    pub(super) head: Head,
    /// Octets over 127 are in it.
    pub(super) is_eight_bit: bool,
    /// BLAKE3 of the whole file.
    pub(super) hash: blake3::Hash,
}

impl Mail {
    /// Reads a file once: all of it for what it is made of, its beginning for its envelope. Blocks.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub(super) fn open(path: &Path, max_size: u64, max_recipients: usize) -> Result<Mail, Unreadable> {
        let mut file = open_plain(path, max_size)?;
        let mut start = Vec::new();
        let (mut hasher, mut is_eight_bit, mut total) = (blake3::Hasher::new(), false, 0u64);
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk)?;
            let Some(part) = chunk.get(..count).filter(|part| !part.is_empty()) else { break };
            total += count as u64;
            // it may have grown since it was opened
            if total > max_size {
                return Err(Unreadable::TooLarge { size: total, most: max_size });
            }
            hasher.update(part);
            is_eight_bit |= !part.is_ascii();
            let room = (MAX_HEAD + 1).saturating_sub(start.len());
            start.extend_from_slice(part.get(..count.min(room)).unwrap_or(part));
        }
        let head = head(&start)?;
        if head.recipients.len() > max_recipients {
            return Err(Unreadable::TooManyRecipients(max_recipients));
        }
        Ok(Mail { file, head, is_eight_bit, hash: hasher.finalize() })
    }

    /// A file that is taken as it is, with an envelope that the caller knows. Blocks.
    ///
    /// # Errors
    /// When it is no plain file, or too large.
    pub(super) fn open_with(
        path: &Path,
        max_size: u64,
        sender: ReversePath,
        recipient: ForwardPath,
    ) -> Result<Mail, Unreadable> {
        let mut file = open_plain(path, max_size)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader((&mut file).take(max_size))?;
        let head = Head {
            fields: Vec::new(),
            body_at: 0,
            sender: Some(sender),
            recipients: vec![recipient],
            envelope: EnvelopeFrom::Header,
            has_date: false,
            has_message_id: false,
        };
        Ok(Mail { file, head, is_eight_bit: true, hash: hasher.finalize() })
    }

    /// What lies behind the header, chunk by chunk, with CRLF line ends. Blocks.
    pub(super) fn body(&mut self) -> io::Result<Body<'_>> {
        self.file.seek(SeekFrom::Start(self.head.body_at))?;
        Ok(Body { file: &mut self.file, after_cr: false })
    }
}

/// Opens a plain file for reading: never what a link leads to, never what could block.
pub(super) fn open_plain(path: &Path, max_size: u64) -> Result<File, Unreadable> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => Unreadable::NotAFile,
        _ => Unreadable::Io(error),
    })?;
    let about = file.metadata()?;
    match (about.is_file(), about.len()) {
        (false, _) => Err(Unreadable::NotAFile),
        (true, 0) => Err(Unreadable::Empty),
        (true, size) if size > max_size => Err(Unreadable::TooLarge { size, most: max_size }),
        (true, _) => Ok(file),
    }
}

/// The content of a file behind its header.
pub(super) struct Body<'a> {
    file: &'a mut File,
    after_cr: bool,
}

impl Body<'_> {
    /// The next octets; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = vec![0; CHUNK];
        let count = self.file.read(&mut chunk)?;
        if count == 0 {
            return Ok(None);
        }
        chunk.truncate(count);
        Ok(Some(with_crlf(&chunk, &mut self.after_cr)))
    }
}

/// Every CR, LF and CRLF becomes CRLF. `after_cr`: the chunk before ended with a CR, which is written already.
fn with_crlf(chunk: &[u8], after_cr: &mut bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.len() + chunk.len() / 32);
    for octet in chunk {
        match octet {
            b'\n' if *after_cr => {}
            b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(*other),
        }
        *after_cr = *octet == b'\r';
    }
    out
}

/// Takes the beginning of a file apart: the whole file, or more than [`MAX_HEAD`] of it.
pub(super) fn head(start: &[u8]) -> Result<Head, Unreadable> {
    let mut at = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut head = Head {
        fields: Vec::new(),
        body_at: start.len() as u64,
        sender: None,
        recipients: Vec::new(),
        envelope: EnvelopeFrom::Lines,
        has_date: false,
        has_message_id: false,
    };
    // with Bcc, for the envelope
    let mut whole = Vec::new();
    let (mut number, mut leading, mut skipped) = (0, true, false);
    while at < start.len() {
        let rest = &start[at..];
        let (line, length) = match memchr::memchr2(b'\r', b'\n', rest) {
            Some(end) if rest[end..].starts_with(b"\r\n") => (&rest[..end], end + 2),
            Some(end) => (&rest[..end], end + 1),
            None => (rest, rest.len()),
        };
        at += length;
        number += 1;
        if line.is_empty() {
            head.body_at = at as u64;
            break;
        }
        if at > MAX_HEAD {
            return Err(Unreadable::HeadTooLong);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            if number == 1 || leading {
                return Err(Unreadable::NotAHeader(number));
            }
        } else {
            let Some((name, value)) = field(line) else { return Err(Unreadable::NotAHeader(number)) };
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            if leading && is("x-sender") {
                head.sender = Some(address(value)?);
                continue;
            }
            if leading && is("x-receiver") {
                head.recipients.push(address(value)?);
                continue;
            }
            leading = false;
            head.has_date |= is("date");
            head.has_message_id |= is("message-id");
            skipped = is("bcc");
        }
        for (to, wanted) in [(&mut whole, true), (&mut head.fields, !skipped)] {
            if wanted {
                to.extend_from_slice(line);
                to.extend_from_slice(b"\r\n");
            }
        }
    }
    if head.fields.is_empty() && head.recipients.is_empty() {
        return Err(Unreadable::NotAHeader(number.max(1)));
    }
    complete(&mut head, &whole)?;
    Ok(head)
}

/// What the envelope lines leave open is taken from the header.
fn complete(head: &mut Head, fields: &[u8]) -> Result<(), Unreadable> {
    if head.sender.is_some() && !head.recipients.is_empty() {
        return Ok(());
    }
    let parsed = MessageParser::default().parse_headers(fields);
    let of = |address: Option<&Address<'_>>| -> Vec<String> {
        let each = address.into_iter().flat_map(|address| address.iter());
        each.filter_map(|one| one.address().map(str::to_owned)).collect()
    };
    let parsed = parsed.as_ref();
    if head.sender.is_none() {
        let senders = [parsed.and_then(|it| it.sender()), parsed.and_then(|it| it.from())];
        let first = senders.into_iter().find_map(|field| of(field).into_iter().next());
        head.sender = Some(address(first.ok_or(Unreadable::NoSender)?.as_bytes())?);
    }
    if head.recipients.is_empty() {
        head.envelope = EnvelopeFrom::Header;
        let fields = [parsed.and_then(|it| it.to()), parsed.and_then(|it| it.cc()), parsed.and_then(|it| it.bcc())];
        let all = fields.into_iter().flat_map(of).map(|text| address(text.as_bytes()));
        head.recipients = all.collect::<Result<_, _>>()?;
    }
    if head.recipients.is_empty() { Err(Unreadable::NoRecipient) } else { Ok(()) }
}

/// A line as a field: its name and what is behind the colon.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(|octet| (33..=126).contains(octet));
    is_name.then_some((name, &line[colon + 1..]))
}

fn address<T: std::str::FromStr<Err: std::fmt::Display>>(text: &[u8]) -> Result<T, Unreadable> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    let shown = || text.chars().take(100).collect();
    bare.parse().map_err(|error: T::Err| Unreadable::Address(shown(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> Result<(String, Vec<String>, String, String), Unreadable> {
        let head = head(text.as_bytes())?;
        let recipients = head.recipients.iter().map(ToString::to_string).collect();
        let body = text[usize::try_from(head.body_at).unwrap()..].to_owned();
        let fields = String::from_utf8(head.fields).unwrap();
        Ok((head.sender.unwrap().to_string(), recipients, fields, body))
    }

    #[test]
    fn envelope_lines_come_first_and_are_taken_out() {
        let text = "x-sender: <a@s.test>\r\nX-Receiver: b@r.test\nx-receiver: c@r.test\r\nFrom: x@y.test\r\nBcc: d@r.test,\r\n e@r.test\r\nTo: u@v.test\r\n\r\n.\r\nhello";
        let (sender, recipients, fields, body) = parts(text).unwrap();
        assert_eq!((sender.as_str(), recipients.as_slice()), ("a@s.test", &["b@r.test".into(), "c@r.test".into()][..]));
        assert_eq!((fields.as_str(), body.as_str()), ("From: x@y.test\r\nTo: u@v.test\r\n", ".\r\nhello"));
        let (sender, ..) = parts("x-sender: <>\nx-receiver: b@r.test\nSubject: x\n\nhi").unwrap();
        assert_eq!(sender, ReversePath::Null.to_string());
        // behind a field of the message they are fields like any other
        let (_, recipients, fields, _) = parts("From: a@s.test\nx-receiver: no@r.test\nTo: b@r.test\n\n").unwrap();
        assert_eq!(recipients, ["b@r.test"]);
        assert!(fields.contains("x-receiver: no@r.test"));
    }

    #[test]
    fn without_them_the_header_says_it() {
        let text = "From: Ada <a@s.test>\nSender: \"The list\" <l@s.test>\nTo: friends: b@r.test, c@r.test;\nCc: Dä <d@r.test>\nBcc: e@r.test\n\nx";
        let (sender, recipients, fields, _) = parts(text).unwrap();
        assert_eq!(sender, "l@s.test");
        assert_eq!(recipients, ["b@r.test", "c@r.test", "d@r.test", "e@r.test"]);
        assert!(!fields.contains("e@r.test"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("\r\nFrom: a@b.test\r\n", "line 1"),
            ("hello\n", "line 1"),
            ("From: a@b.test\nhello\n\n", "line 2"),
            (" folded\n", "line 1"),
            ("From: a@b.test\n\nx", "for whom"),
            ("To: a@b.test\n\nx", "who sends"),
            ("x-sender: a@b.test\nx-receiver: two words@x\n\n", "no address"),
            ("From: a@b.test\nTo: undisclosed-recipients:;\n\n", "for whom"),
        ] {
            let error = parts(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let long = format!("x-sender: a@b.test\nx-receiver: a@b.test\nX: {}\n\n", "y".repeat(MAX_HEAD));
        assert!(matches!(head(long.as_bytes()), Err(Unreadable::HeadTooLong)));
    }

    #[test]
    fn a_link_is_not_followed_and_a_pipe_does_not_block() {
        let root = tempfile::tempdir().unwrap();
        let secret = root.path().join("secret");
        std::fs::write(&secret, "From: a@b.test\nTo: c@d.test\n\nsecret").unwrap();
        let link = root.path().join("link.eml");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(matches!(Mail::open(&link, 1_000, 10), Err(Unreadable::NotAFile)));
        assert!(matches!(Mail::open(root.path(), 1_000, 10), Err(Unreadable::NotAFile)));
        assert!(matches!(Mail::open(&secret, 10, 10), Err(Unreadable::TooLarge { size: 35, most: 10 })));
        assert!(matches!(Mail::open(&secret, 1_000, 0), Err(Unreadable::TooManyRecipients(0))));
        let mut mail = Mail::open(&secret, 1_000, 10).unwrap();
        assert_eq!(mail.body().unwrap().next().unwrap().unwrap(), b"secret");
    }

    proptest! {
        #[test]
        fn line_ends_are_the_same_however_it_is_cut(text in "[a\r\n.]{0,40}", cut in 0usize..40) {
            let whole = with_crlf(text.as_bytes(), &mut false);
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            let mut after_cr = false;
            let parts = [with_crlf(one, &mut after_cr), with_crlf(two, &mut after_cr)].concat();
            prop_assert_eq!(&whole, &parts);
            let text = String::from_utf8(whole).unwrap();
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = head(&bytes);
        }
    }
}
