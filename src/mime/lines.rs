//! Cuts chunks at line ends. Only CRLF ends a line; a CR or LF that stands alone is text.

use std::ops::ControlFlow;

use memchr::memchr_iter;

/// Text of one line, or a piece of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    /// With the CRLF, which is never split.
    pub text: &'a [u8],
    /// It begins the line.
    pub first: bool,
    /// It ends the line.
    pub last: bool,
}

/// What is open between chunks: whether a line is, and a CR whose LF may come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    within: bool,
    cr: bool,
}

impl Lines {
    /// Cuts a chunk. When `take` breaks, which it may do behind a line end, the rest is left: gives the octets that were taken.
    pub fn feed(&mut self, chunk: &[u8], mut take: impl FnMut(Piece<'_>) -> ControlFlow<()>) -> usize {
        let mut at = 0;
        if self.cr && !chunk.is_empty() {
            self.cr = false;
            let last = chunk[0] == b'\n';
            at = usize::from(last);
            if self.give(if last { b"\r\n" } else { b"\r" }, last, &mut take).is_break() {
                return at;
            }
        }
        for end in memchr_iter(b'\n', chunk) {
            if end > at && chunk[end - 1] == b'\r' {
                let line = &chunk[at..=end];
                at = end + 1;
                if self.give(line, true, &mut take).is_break() {
                    return at;
                }
            }
        }
        let rest = &chunk[at..];
        let text = rest.strip_suffix(b"\r").unwrap_or(rest);
        self.cr |= text.len() < rest.len();
        if !text.is_empty() {
            let _ = self.give(text, false, &mut take);
        }
        chunk.len()
    }

    /// The end: a CR whose LF did not come is text.
    pub fn finish(&mut self, mut take: impl FnMut(Piece<'_>) -> ControlFlow<()>) {
        if std::mem::take(&mut self.cr) {
            let _ = self.give(b"\r", false, &mut take);
        }
    }

    fn give(
        &mut self,
        text: &[u8],
        last: bool,
        take: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let first = !std::mem::replace(&mut self.within, !last);
        take(Piece { text, first, last })
    }
}
