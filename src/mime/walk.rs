//! Follows the structure of a message: headers, bodies, delimiter lines (RFC 2046, 5.1), as deep as parts are nested.
//!
//! A delimiter line is `--boundary` or `--boundary--` with nothing but white space behind it, for the boundary of any
//! multipart that is open. What could be one for some readers and not for others ([`Broken::Delimiter`]), what is nested too
//! deep and what is no header field is told as `broken`: whoever wants to change something below must not.

use std::ops::ControlFlow;

use super::entity::{Entity, Kind, is_name, split_field};
use super::lines::{Lines, Piece};

/// Longest header field that is looked at, in octets.
pub(super) const MAX_FIELD: usize = 64 << 10;
/// Longest delimiter line: the longest text line of RFC 5321 (4.5.3.1.6).
const MAX_DELIMITER: usize = 1000;
/// Most multiparts that are open at a time.
const MAX_LEVELS: usize = 100;

/// What comes next. The tokens of a message are its octets, all of them and in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'a> {
    /// A header field, whole.
    Field(&'a [u8]),
    /// A piece of a header field that is too long.
    Overlong {
        octets: &'a [u8],
        /// The field begins here.
        first: bool,
    },
    /// The empty line behind a header; without octets where the header ends without one.
    HeaderEnd(&'a [u8]),
    /// A piece of a body; a CRLF is never split.
    Body(&'a [u8]),
    /// A delimiter line.
    Delimiter(&'a [u8]),
}

/// Why the structure cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A line of a header is no field, or a field stands twice that says what the body is.
    Header,
    /// A field that says what the body is, is too long.
    FieldTooLong,
    /// A multipart without a boundary that can be read, or with one that is used already.
    Boundary,
    /// A line that is a delimiter line for some readers only.
    Delimiter,
    /// Nested too deep.
    TooDeep,
}

/// An open multipart.
#[derive(Debug)]
struct Level {
    boundary: Vec<u8>,
    frozen: bool,
    digest: bool,
}

/// The state between chunks.
#[derive(Debug, Default)]
pub(super) struct Walker {
    lines: Lines,
    in_body: bool,
    /// The open line of a header, or what may become a delimiter line.
    line: Vec<u8>,
    /// The open line of a body may become a delimiter line.
    undecided: bool,
    /// The open field.
    field: Vec<u8>,
    /// The open field, and within it the open line, is too long.
    overlong: bool,
    overlong_line: bool,
    levels: Vec<Level>,
    entity: Entity,
    entities: u32,
    broken: Option<Broken>,
}

/// What takes the tokens, each with what is known of the entity that it belongs to. It breaks to be left alone from there
/// on; it may only where a whole line was taken.
pub(super) trait Take: FnMut(&Entity, Token<'_>) -> ControlFlow<()> {}
impl<F: FnMut(&Entity, Token<'_>) -> ControlFlow<()>> Take for F {}

impl Walker {
    pub fn new() -> Self {
        Walker { entity: Entity { is_message: true, ..Entity::default() }, ..Walker::default() }
    }

    /// Octets that are held between chunks.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.line.capacity() + self.field.capacity()
    }

    /// The first thing that was wrong.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Takes a chunk; gives how many of its octets were taken before `take` broke.
    pub fn feed(&mut self, chunk: &[u8], take: &mut impl Take) -> usize {
        let mut lines = std::mem::take(&mut self.lines);
        let taken = lines.feed(chunk, |piece| self.piece(piece, take));
        self.lines = lines;
        taken
    }

    /// The end of the content.
    pub fn finish(&mut self, take: &mut impl Take) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(|piece| self.piece(piece, take));
        let line = std::mem::take(&mut self.line);
        if self.in_body {
            let _ = if std::mem::take(&mut self.undecided) {
                self.whole_line(&line, take)
            } else {
                ControlFlow::Continue(())
            };
        } else if !line.is_empty() {
            let _ = self.header_line(line, take);
        }
        if !self.in_body {
            self.end_field(take);
            let _ = take(&self.entity, Token::HeaderEnd(b""));
        }
    }

    fn piece(&mut self, piece: Piece<'_>, take: &mut impl Take) -> ControlFlow<()> {
        if self.in_body { self.body(piece, take) } else { self.header(piece, take) }
    }

    fn break_at(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    // --- headers ---

    fn header(&mut self, piece: Piece<'_>, take: &mut impl Take) -> ControlFlow<()> {
        if self.overlong_line {
            self.overlong_line = !piece.last;
            return take(&self.entity, Token::Overlong { octets: piece.text, first: false });
        }
        self.line.extend_from_slice(piece.text);
        if piece.last {
            let line = std::mem::take(&mut self.line);
            return self.header_line(line, take);
        }
        if self.line.len() > MAX_FIELD {
            let line = std::mem::take(&mut self.line);
            self.overlong_line = true;
            return self.field_line(line, take);
        }
        ControlFlow::Continue(())
    }

    /// A whole line of a header.
    fn header_line(&mut self, line: Vec<u8>, take: &mut impl Take) -> ControlFlow<()> {
        if line == b"\r\n" {
            self.end_field(take);
            self.resolve();
            let result = take(&self.entity, Token::HeaderEnd(&line));
            self.enter_body();
            return result;
        }
        if let Some((level, close)) = self.delimiter(&line) {
            self.end_field(take);
            let _ = take(&self.entity, Token::HeaderEnd(b""));
            return self.pass_delimiter(&line, level, close, take);
        }
        self.field_line(line, take)
    }

    /// A line that belongs to a field: the first one, or one more; or so much of it as is too long already.
    fn field_line(&mut self, mut line: Vec<u8>, take: &mut impl Take) -> ControlFlow<()> {
        let continues = line.starts_with(b" ") || line.starts_with(b"\t");
        let open = self.overlong || !self.field.is_empty();
        if !continues || !open {
            self.end_field(take);
            // of a line that is too long the start decides, however much of it has come
            if split_field(&line[..line.len().min(MAX_FIELD)]).is_none() {
                self.break_at(Broken::Header);
            }
        }
        if !self.overlong && self.field.len() + line.len() <= MAX_FIELD {
            if self.field.is_empty() {
                std::mem::swap(&mut self.field, &mut line);
            } else {
                self.field.extend_from_slice(&line);
            }
            return ControlFlow::Continue(());
        }
        let mut first = !self.overlong;
        if first {
            self.overlong = true;
            let start = if self.field.is_empty() { &line } else { &self.field };
            let (name, _) = split_field(&start[..start.len().min(MAX_FIELD)]).unwrap_or_default();
            if ["content-type", "content-transfer-encoding", "mime-version"].iter().any(|known| is_name(name, known)) {
                self.break_at(Broken::FieldTooLong);
            }
            let field = std::mem::take(&mut self.field);
            if !field.is_empty() {
                let _ = take(&self.entity, Token::Overlong { octets: &field, first });
                first = false;
            }
        }
        take(&self.entity, Token::Overlong { octets: &line, first })
    }

    fn end_field(&mut self, take: &mut impl Take) {
        self.overlong = false;
        if self.field.is_empty() {
            return;
        }
        let field = std::mem::take(&mut self.field);
        if !self.entity.note(&field) {
            self.break_at(Broken::Header);
        }
        let _ = take(&self.entity, Token::Field(&field));
    }

    /// The header is over: what is its body?
    fn resolve(&mut self) {
        self.entity.kind = self.entity.declared_kind();
        if self.entity.kind != Kind::Multipart {
            return;
        }
        let known = self.entity.content_type.clone().unwrap_or_default();
        let frozen = self.entity.frozen || matches!(known.subtype.as_str(), "signed" | "encrypted");
        match known.boundary {
            Some(_) if self.levels.len() >= MAX_LEVELS => self.not_entered(Broken::TooDeep),
            Some(boundary) if self.levels.iter().all(|level| level.boundary != boundary) => {
                self.levels.push(Level { boundary, frozen, digest: known.subtype == "digest" });
                self.entity.frozen = frozen;
            }
            _ => self.not_entered(Broken::Boundary),
        }
    }

    fn not_entered(&mut self, broken: Broken) {
        self.break_at(broken);
        self.entity.kind = Kind::Between;
    }

    fn enter_body(&mut self) {
        self.in_body = self.entity.kind != Kind::Message;
        if self.in_body {
            if self.entity.kind == Kind::Multipart {
                self.entity.kind = Kind::Between;
            }
        } else {
            self.begin(true, self.entity.frozen, false);
        }
    }

    fn begin(&mut self, is_message: bool, frozen: bool, in_digest: bool) {
        self.entities = self.entities.saturating_add(1);
        self.entity = Entity { number: self.entities, is_message, frozen, in_digest, ..Entity::default() };
        self.in_body = false;
    }

    // --- bodies ---

    fn body(&mut self, piece: Piece<'_>, take: &mut impl Take) -> ControlFlow<()> {
        self.undecided |= piece.first && !self.levels.is_empty();
        if !self.undecided {
            return take(&self.entity, Token::Body(piece.text));
        }
        if self.line.is_empty() && (piece.last || !b"--".starts_with(&piece.text[..piece.text.len().min(2)])) {
            self.undecided = false;
            return self.whole_line(piece.text, take);
        }
        self.line.extend_from_slice(piece.text);
        let possible = b"--".starts_with(&self.line[..self.line.len().min(2)]) && self.line.len() <= MAX_DELIMITER;
        if possible && !piece.last {
            return ControlFlow::Continue(());
        }
        self.undecided = false;
        let line = std::mem::take(&mut self.line);
        self.whole_line(&line, take)
    }

    /// A whole line of a body, or so much of it as shows that it is no delimiter line.
    fn whole_line(&mut self, line: &[u8], take: &mut impl Take) -> ControlFlow<()> {
        match self.delimiter(line) {
            Some((level, close)) => self.pass_delimiter(line, level, close, take),
            None if line.is_empty() => ControlFlow::Continue(()),
            None => take(&self.entity, Token::Body(line)),
        }
    }

    /// The level that the line is a delimiter line of, and whether it is the closing one. The innermost counts.
    fn delimiter(&mut self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line).strip_prefix(b"--")?;
        if self.levels.is_empty() {
            return None;
        }
        let behind = |level: &Level| text.strip_prefix(level.boundary.as_slice());
        let exact = self.levels.iter().enumerate().rev().find_map(|(index, level)| {
            match without_padding(behind(level).filter(|_| line.len() <= MAX_DELIMITER)?) {
                b"" => Some((index, false)),
                b"--" => Some((index, true)),
                _ => None,
            }
        });
        if exact.is_none() && self.levels.iter().any(|level| behind(level).is_some()) {
            self.break_at(Broken::Delimiter);
        }
        exact
    }

    fn pass_delimiter(&mut self, line: &[u8], level: usize, close: bool, take: &mut impl Take) -> ControlFlow<()> {
        let result = take(&self.entity, Token::Delimiter(line));
        self.levels.truncate(level + 1);
        let Level { frozen, digest, .. } = self.levels[level];
        if close {
            self.levels.pop();
            self.entity = Entity { number: u32::MAX, frozen, kind: Kind::Between, ..Entity::default() };
            self.in_body = true;
        } else {
            self.begin(false, frozen, digest);
        }
        result
    }
}

/// Without the white space that may stand behind a delimiter.
fn without_padding(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|octet| !b" \t".contains(octet)).map_or(0, |at| at + 1);
    &text[..end]
}
