//! Address templates of recipient policies: `%g.%s@example.com` (Exchange: recipient policy, E-Mail Addresses).
//!
//! | token | stands for |
//! |---|---|
//! | `%g` `%s` `%i` `%d` `%m` | given name, surname, initials, display name, alias |
//! | `%<n>g` … | the first n characters of it (1–64) |
//! | `%rxy` | x is replaced by y in all tokens that follow, not in text; deleted when x = y |
//! | `%%` | a per cent sign |
//!
//! Without a part before the `@` the alias is taken. An empty token collapses with its dots. Expansion is in `directory`.
//! A `y` that an address could not hold is refused here, so that a replacement never vanishes silently.

use std::fmt;
use std::str::FromStr;

use super::text::text_value;
use crate::smtp::address::Domain;

/// A template: how the local part is made, and the domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    domain: Domain,
}

/// A part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A character as it stands.
    Character(char),
    /// An attribute of the recipient, cut at so many characters.
    Token(Token, Option<u8>),
    /// `%rxy`.
    Replace(char, char),
}

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    /// `%g`
    GivenName,
    /// `%s`
    Surname,
    /// `%i`
    Initials,
    /// `%d`
    DisplayName,
    /// `%m`
    Alias,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotATemplate {
    /// There is no `@` with a domain behind it.
    #[error(
        "a template is [local part]@domain, such as %g.%s@example.com or @example.com; the part behind the last @ must be a domain name"
    )]
    Domain,
    /// A `%` with something unknown behind it.
    #[error(
        "unknown token {0}: known are %g, %s, %i, %d, %m, a number from 1 to 64 before the letter (%1g), %rxy and %%"
    )]
    Token(String),
    /// A character that a local part cannot have without quotes.
    #[error("the character {0:?} cannot stand in a local part")]
    Character(char),
    /// More than 64 characters and tokens before the `@`.
    #[error("a template has at most 64 characters and tokens before the @")]
    TooLong,
}

impl Template {
    /// The parts of the local part, in order; `%m` alone when the template has none.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The template of the alias at the same domain.
    pub fn with_alias(&self) -> Template {
        let (text, domain) = (format!("@{}", self.domain), self.domain.clone());
        Template { text, parts: vec![Part::Token(Token::Alias, None)], domain }
    }

    /// The domain, always a name.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

impl FromStr for Template {
    type Err = NotATemplate;

    fn from_str(text: &str) -> Result<Self, NotATemplate> {
        let (local, domain) = text.rsplit_once('@').ok_or(NotATemplate::Domain)?;
        let domain = match domain.parse() {
            Ok(domain @ Domain::Name(_)) if text.len() <= 512 => domain,
            _ => return Err(NotATemplate::Domain),
        };
        let mut parts = parse_local(local)?;
        if parts.len() > 64 {
            return Err(NotATemplate::TooLong);
        }
        if parts.is_empty() {
            parts.push(Part::Token(Token::Alias, None));
        }
        Ok(Template { text: format!("{local}@{domain}"), parts, domain })
    }
}

fn parse_local(local: &str) -> Result<Vec<Part>, NotATemplate> {
    let mut parts = Vec::new();
    let mut chars = local.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            if !may_stand(c) {
                return Err(NotATemplate::Character(c));
            }
            parts.push(Part::Character(c));
            continue;
        }
        let mut digits = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let letter = chars.next();
        let unknown = || NotATemplate::Token(format!("%{digits}{}", letter.map(String::from).unwrap_or_default()));
        let token = match letter {
            Some('g' | 'G') => Token::GivenName,
            Some('s' | 'S') => Token::Surname,
            Some('i' | 'I') => Token::Initials,
            Some('d' | 'D') => Token::DisplayName,
            Some('m' | 'M') => Token::Alias,
            Some('%') if digits.is_empty() => {
                parts.push(Part::Character('%'));
                continue;
            }
            Some('r' | 'R') if digits.is_empty() => {
                let (from, to) = chars.next().zip(chars.next()).ok_or_else(unknown)?;
                if from != to && !may_stand(to) {
                    return Err(NotATemplate::Character(to));
                }
                parts.push(Part::Replace(from, to));
                continue;
            }
            _ => return Err(unknown()),
        };
        let length = match digits.as_str() {
            "" => None,
            digits => match digits.parse() {
                Ok(length @ 1..=64) => Some(length),
                _ => return Err(unknown()),
            },
        };
        parts.push(Part::Token(token, length));
    }
    Ok(parts)
}

/// Whether a local part can have the character without quotes (RFC 5321, 4.1.2: atext and the dot).
pub fn may_stand(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_value!(
    Template,
    "AddressTemplate",
    "bridgehead-address-template",
    "How an address is made: `%g` given name, `%s` surname, `%i` initials, `%d` display name, `%m` alias, `%<n>g` the first n characters, `%rxy` replaces x by y in what follows (deletes it when x = y), `%%` a per cent sign. Without a part before the @ the alias is taken. An empty token collapses with its dots.",
    ["%g.%s@example.com", "%1g%s@example.com", "@example.com"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_parse() {
        for text in
            ["@example.com", "%g.%s@example.com", "%1g%r''%s@example.com", "%r _%d@example.com", "%%x@example.com"]
        {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "x",
            "%x@example.com",
            "%@example.com",
            "%0g@example.com",
            "%65g@example.com",
            "%r@example.com",
            "a b@example.com",
            "%ra(%g@example.com",
            "%ra @example.com",
            "%raü%g@example.com",
            "x@",
            "x@[192.0.2.1]",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
        assert!(format!("{}@example.com", "%g".repeat(64)).parse::<Template>().is_ok());
        assert!(format!("{}@example.com", "%g".repeat(65)).parse::<Template>().is_err());
    }
}
