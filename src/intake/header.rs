//! Looks at the header section of a message while it streams in: counts Received fields, remembers Message-ID and Subject.
//!
//! It never changes a byte and never keeps more than one line's beginning. The section has a limit: a header of a
//! gibibyte is refused, not read to its end in hope.

/// Longest header section, in octets.
pub const MAX_HEADER: u64 = 1024 * 1024;
/// How much of a line is looked at.
const MAX_LINE: usize = 1024;

/// A scanner for one message.
#[derive(Debug, Default)]
pub struct HeaderScanner {
    line: Vec<u8>,
    seen: u64,
    done: bool,
    /// The field body of the Message-ID may be on the next line (folding).
    expects_id: bool,
    received: u32,
    message_id: Option<String>,
    /// The line before belongs to the Subject.
    in_subject: bool,
    /// The field as it came, folded lines and all.
    subject: Option<Vec<u8>>,
}

impl HeaderScanner {
    /// Looks at the next octets of content (CRLF line ends).
    pub fn feed(&mut self, mut chunk: &[u8]) {
        while !self.done && !chunk.is_empty() {
            let (part, ended) = match memchr::memchr(b'\n', chunk) {
                Some(at) => (&chunk[..=at], true),
                None => (chunk, false),
            };
            chunk = &chunk[part.len()..];
            self.seen += part.len() as u64;
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if ended {
                self.end_line();
            }
        }
    }

    /// Received fields so far: hops that the message has made.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// True when the header section is longer than a message may have.
    pub fn is_too_long(&self) -> bool {
        self.seen > MAX_HEADER
    }

    /// The Subject, decoded (RFC 2047), without control characters, at most 255 octets.
    pub fn subject(&self) -> Option<String> {
        let field = [b"Subject:", self.subject.as_deref()?, b"\r\n\r\n"].concat();
        let message = mail_parser::MessageParser::new().header_text("Subject").parse(&field)?;
        Some(cut(message.subject()?.trim()))
    }

    /// The Message-ID without angle brackets, at most 255 octets.
    pub fn into_message_id(self) -> Option<String> {
        self.message_id
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        while matches!(line.last(), Some(b'\r' | b'\n')) {
            line.pop();
        }
        if line.is_empty() {
            self.done = true;
            return;
        }
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        if folded {
            if self.expects_id {
                self.take_id(&line);
            }
            if let Some(subject) = self.subject.as_mut().filter(|_| self.in_subject) {
                let room = MAX_LINE.saturating_sub(subject.len() + 2);
                if room > 0 {
                    subject.extend_from_slice(b"\r\n");
                    subject.extend_from_slice(&line[..line.len().min(room)]);
                }
            }
        } else {
            self.expects_id = false;
            self.in_subject = false;
            if has_name(&line, b"received:") {
                self.received = self.received.saturating_add(1);
            } else if self.message_id.is_none() && has_name(&line, b"message-id:") {
                self.expects_id = true;
                self.take_id(&line[b"message-id:".len()..]);
            } else if self.subject.is_none() && has_name(&line, b"subject:") {
                self.in_subject = true;
                self.subject = Some(line[b"subject:".len()..].to_vec());
            }
        }
        line.clear();
        self.line = line;
    }

    fn take_id(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let id = text.trim().trim_start_matches('<').trim_end_matches('>');
        if !id.is_empty() {
            self.message_id = Some(cut(id));
            self.expects_id = false;
        }
    }
}

/// The beginning of a text, without control characters.
fn cut(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > 255 {
            break;
        }
        kept.push(c);
    }
    kept
}

fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(content: &[u8], chunk: usize) -> HeaderScanner {
        let mut scanner = HeaderScanner::default();
        for part in content.chunks(chunk) {
            scanner.feed(part);
        }
        scanner
    }

    #[test]
    fn counts_hops_and_finds_the_id_however_it_is_cut() {
        let content = b"Received: a\r\n by b\r\nRECEIVED: c\r\nMessage-ID:\r\n <x@y>\r\nX: y\r\n\r\nReceived: body\r\nMessage-ID: <no>\r\n";
        for chunk in 1..content.len() {
            let scanner = scan(content, chunk);
            assert_eq!(scanner.received(), 2);
            assert_eq!(scanner.into_message_id().as_deref(), Some("x@y"));
        }
    }

    #[test]
    fn the_first_subject_is_read_as_people_do_and_cut() {
        let subject = |content: &str| scan(content.as_bytes(), 7).subject();
        assert_eq!(
            subject("SUBJECT: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_an_alle?=\r\nSubject: no\r\n\r\n").as_deref(),
            Some("Grüße an alle")
        );
        assert_eq!(subject("Subject: plain\r\n\tfolded\r\nX: y\r\n\r\n").as_deref(), Some("plain folded"));
        assert_eq!(subject("X: y\r\n\r\nSubject: in the body\r\n"), None);
        assert_eq!(subject("Subject: a\u{7}b\r\n\r\n").as_deref(), Some("ab"));
        assert_eq!(
            subject(&format!("Subject: {}\r\n {}\r\n\r\n", "ü".repeat(400), "x".repeat(900))).unwrap().len(),
            254
        );
    }

    #[test]
    fn memory_and_patience_are_bounded() {
        let scanner = scan(&vec![b'a'; 3 << 20], 4096);
        assert!(scanner.is_too_long());
        assert!(scanner.line.capacity() <= 4 * MAX_LINE);
        assert!(!scan(b"Subject: x\r\n\r\n", 3).is_too_long());
    }
}
