//! What two sides said in a session, written down for a person: bounded, clean, without secrets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Most lines that are kept.
const MOST_LINES: usize = 200;
/// Longest line that is kept, in characters.
const LONGEST: usize = 512;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We did.
    Client,
    /// The peer did.
    Server,
}

/// A line of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who said it.
    pub side: Side,
    /// The line without its end; control characters are spaces.
    pub text: String,
    /// When, from the beginning.
    pub at: std::time::Duration,
}

/// A record of one session. All clones write into the same.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    lines: Vec<Line>,
    /// What the peer has said of a line that has not ended.
    open: Vec<u8>,
}

impl Transcript {
    /// An empty one that begins now.
    pub fn new(now: Instant) -> Self {
        Transcript(Arc::new(Mutex::new(Inner { began: now, lines: Vec::new(), open: Vec::new() })))
    }

    /// Octets that we sent: whole lines.
    pub fn sent(&self, octets: &[u8], now: Instant) {
        let mut inner = self.inner();
        for line in octets.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            inner.add(Side::Client, line, now);
        }
    }

    /// Something that nobody shall read was sent.
    pub fn sent_secret(&self, now: Instant) {
        self.inner().add(Side::Client, b"***", now);
    }

    /// Octets that came.
    pub fn came(&self, octets: &[u8], now: Instant) {
        let mut inner = self.inner();
        for octet in octets {
            if *octet == b'\n' {
                let line = std::mem::take(&mut inner.open);
                inner.add(Side::Server, &line, now);
            } else if inner.open.len() < LONGEST * 4 {
                inner.open.push(*octet);
            }
        }
    }

    /// A remark of ours between the lines, such as that TLS has begun.
    pub fn remark(&self, words: &str, now: Instant) {
        self.inner().add(Side::Client, words.as_bytes(), now);
    }

    /// What was said so far; a line of the peer that has not ended is the last.
    pub fn lines(&self) -> Vec<Line> {
        let inner = self.inner();
        let mut lines = inner.lines.clone();
        if !inner.open.is_empty() && lines.len() < MOST_LINES {
            let at = lines.last().map_or(std::time::Duration::ZERO, |line| line.at);
            lines.push(Line { side: Side::Server, text: clean(&inner.open), at });
        }
        lines
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, side: Side, line: &[u8], now: Instant) {
        if self.lines.len() < MOST_LINES {
            let at = now.saturating_duration_since(self.began);
            self.lines.push(Line { side, text: clean(line), at });
        }
    }
}

fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_cleaned_and_bounded() {
        let now = Instant::now();
        let transcript = Transcript::new(now);
        transcript.came(b"220 mx.ex", now);
        transcript.came(b"ample\r\n250-a\x1b[31m\r\n250 b", now);
        transcript.sent(b"EHLO us\r\nQUIT\r\n", now);
        transcript.sent_secret(now);
        let said: Vec<(Side, String)> = transcript.lines().into_iter().map(|line| (line.side, line.text)).collect();
        let server = |text: &str| (Side::Server, text.to_owned());
        let client = |text: &str| (Side::Client, text.to_owned());
        assert_eq!(
            said,
            [
                server("220 mx.example"),
                server("250-a [31m"),
                client("EHLO us"),
                client("QUIT"),
                client("***"),
                server("250 b")
            ]
        );
        transcript.came(&vec![b'x'; 1 << 20], now);
        transcript.came("\n".repeat(10_000).as_bytes(), now);
        assert!(transcript.lines().len() <= MOST_LINES);
        assert!(transcript.lines().iter().all(|line| line.text.len() <= LONGEST));
    }
}
