//! Addresses in From and Sender (RFC 5322, 3.4), changed where they stand.
//!
//! Each address of a list is changed by itself; display names, comments, groups, line ends and whatever else the field
//! holds stay octet for octet. An element that is no address is left alone, and so is the whole field when quotes, comments or
//! angle brackets do not close, or a line of it would become longer than lines may be.

use crate::smtp::address::{Domain, Mailbox};

/// Longest line without its CRLF (RFC 5322, 2.1.1).
const MAX_LINE: usize = 998;

/// Which senders become others.
pub trait Senders {
    /// What the sender becomes; `None`: it stays.
    fn change(&self, sender: &Mailbox) -> Option<SenderChange>;
}

/// What becomes of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderChange {
    /// The same local part in this domain. It must be ASCII where the sender was.
    Domain(Domain),
    /// Another mailbox. The old From becomes Reply-To, if there is none.
    Mailbox(Mailbox),
}

impl SenderChange {
    /// The sender as it becomes; `None` when that would be too long for an address: then it stays.
    pub fn apply(&self, sender: &Mailbox) -> Option<Mailbox> {
        match self {
            SenderChange::Domain(domain) => Mailbox::new(sender.local(), domain.clone()).ok(),
            SenderChange::Mailbox(mailbox) => Some(mailbox.clone()),
        }
    }
}

/// A field with other senders.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// What stands behind the colon.
    pub body: Vec<u8>,
    /// A mailbox became another one, so that replies would not come back.
    pub keep_old: bool,
}

/// The body of the field with its senders changed; `None` when nothing is.
pub(super) fn rewrite(body: &[u8], senders: &impl Senders) -> Option<Changed> {
    let tokens = tokens(body)?;
    let mut changed = Changed { body: Vec::with_capacity(body.len() + 64), keep_old: false };
    let mut done = 0;
    for element in elements(&tokens)? {
        let Some(found) = address(body, element) else { continue };
        let Some(change) = senders.change(&found.mailbox) else { continue };
        let Some(new) = change.apply(&found.mailbox).filter(|new| *new != found.mailbox) else { continue };
        let (at, text) = match change {
            // the local part stays as it is written
            SenderChange::Domain(domain) => (found.domain, domain.to_string()),
            SenderChange::Mailbox(_) => {
                changed.keep_old = true;
                (found.start, new.to_string())
            }
        };
        changed.body.extend_from_slice(&body[done..at]);
        changed.body.extend_from_slice(text.as_bytes());
        done = found.end;
    }
    if done == 0 {
        return None;
    }
    changed.body.extend_from_slice(&body[done..]);
    let longest = |text: &[u8]| text.split(|octet| *octet == b'\n').map(<[u8]>::len).max().unwrap_or(0);
    (longest(&changed.body) <= MAX_LINE.max(longest(body))).then_some(changed)
}

/// What text is made of; comments and white space are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Atoms with dots, or a part of them.
    Word,
    /// A quoted string.
    Quoted,
    /// A domain literal.
    Literal,
    /// `<`, `>`, `@`, `,`, `:`, `;` or another character that stands for itself.
    Special(u8),
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// `None` when something does not close.
fn tokens(body: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(octet) = body.get(at) {
        let start = at;
        let kind = match octet {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'(' => {
                at = close(body, at, b')', true)?;
                continue;
            }
            b'"' => {
                at = close(body, at, b'"', false)?;
                Kind::Quoted
            }
            b'[' => {
                at = close(body, at, b']', false)?;
                Kind::Literal
            }
            octet if is_word(*octet) => {
                at += body[at..].iter().position(|octet| !is_word(*octet)).unwrap_or(body.len() - at);
                Kind::Word
            }
            octet => {
                at += 1;
                Kind::Special(*octet)
            }
        };
        tokens.push(Token { kind, start, end: at });
    }
    Some(tokens)
}

/// Behind what closes what opens here.
fn close(body: &[u8], open: usize, by: u8, nests: bool) -> Option<usize> {
    let (mut at, mut depth) = (open + 1, 1usize);
    loop {
        match *body.get(at)? {
            b'\\' => at += 1,
            octet if octet == by => depth -= 1,
            octet if nests && octet == body[open] => depth += 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return (at <= body.len()).then_some(at);
        }
    }
}

/// `atext`, dots, and what is beyond ASCII.
fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet >= 0x80 || b"!#$%&'*+-/=?^_`{|}~.".contains(&octet)
}

/// The elements of the list: what stands between commas, and in groups, but not in angle brackets.
fn elements(tokens: &[Token]) -> Option<Vec<&[Token]>> {
    let mut elements = Vec::new();
    let (mut start, mut angle) = (0, false);
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Special(b'<') if angle => return None,
            Kind::Special(b'<') => angle = true,
            Kind::Special(b'>') if !angle => return None,
            Kind::Special(b'>') => angle = false,
            Kind::Special(b',' | b';') if !angle => {
                elements.push(&tokens[start..index]);
                start = index + 1;
            }
            // the name of a group is no address
            Kind::Special(b':') if !angle => start = index + 1,
            _ => {}
        }
    }
    elements.push(&tokens[start..]);
    (!angle).then_some(elements)
}

/// An address, and where it stands.
struct Found {
    mailbox: Mailbox,
    start: usize,
    domain: usize,
    end: usize,
}

/// The address of an element: in angle brackets at its end, else all of it.
fn address(body: &[u8], element: &[Token]) -> Option<Found> {
    let spec = match element.iter().position(|token| token.kind == Kind::Special(b'<')) {
        Some(open) => match element.split_last()? {
            (Token { kind: Kind::Special(b'>'), .. }, rest) => &rest[open + 1..],
            _ => return None,
        },
        None => element,
    };
    let at = spec.iter().position(|token| token.kind == Kind::Special(b'@'))?;
    let (local, domain) = (&spec[..at], &spec[at + 1..]);
    let text_of = |token: &Token| &body[token.start..token.end];
    let whole = local.iter().all(|token| matches!(token.kind, Kind::Word | Kind::Quoted))
        // two words without a dot between them are a display name without brackets, or nothing
        && local.windows(2).all(|pair| text_of(&pair[0]).ends_with(b".") || text_of(&pair[1]).starts_with(b"."));
    // white space within a domain is obsolete, and then it is not clear what is to stay
    let [Token { kind: Kind::Word | Kind::Literal, start: domain_at, end }] = domain else { return None };
    if !whole || local.is_empty() {
        return None;
    }
    let mut text = String::new();
    for token in local.iter().chain(&spec[at..]) {
        text.push_str(std::str::from_utf8(text_of(token)).ok()?);
    }
    // a quoted string may be folded
    let mailbox = text.replace("\r\n", "").parse().ok()?;
    Some(Found { mailbox, start: local[0].start, domain: *domain_at, end: *end })
}
