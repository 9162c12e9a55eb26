//! Commands: from a line to a value, or to the reply that refuses it (RFC 5321, 4.1.1).
//!
//! Strict in grammar, kind in two places: spaces at the end of a line and one space behind `FROM:` and `TO:` are
//! let through, since real clients send them. Source routes are dropped (RFC 5321, appendix C). The parameters of
//! an extension that is switched off are unknown. Lengths are those of RFC 5321, 4.5.3.1, plus what the extensions
//! add. Control characters and octets that are not UTF-8 are refused everywhere; addresses beyond ASCII need SMTPUTF8
//! (RFC 6531). A refusal never ends a session by itself.

use std::borrow::Cow;

use bytes::Bytes;

pub use super::verb::{Grammar, MAX_AUTH_LINE, MAX_COMMAND_LINE, Verb, max_line};

use super::address::{AddressError, Domain, ForwardPath, MAX_PATH, Mailbox, ReversePath};
use super::extension::Extensions;
use super::parameters::{
    Body, ByMode, DeliverBy, Hold, MAX_ENVID, MAX_ORCPT, MailParameters, Notify, OriginalRecipient, RcptParameters,
    Ret, decode_utf8_xtext, decode_xtext, decode_xtext_of_utf8, is_address_type,
};
use super::reply::{EnhancedStatus, Reply};

/// A command that is right in itself; whether it is right in sequence is for the session to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// HELO with the name.
    Helo(String),
    /// EHLO with the name.
    Ehlo(String),
    /// LHLO with the name.
    Lhlo(String),
    /// STARTTLS.
    StartTls,
    /// AUTH with the mechanism's name, in upper case, and the initial response, decoded.
    Auth(String, Option<Bytes>),
    /// MAIL.
    Mail(ReversePath, MailParameters),
    /// RCPT.
    Rcpt(ForwardPath, RcptParameters),
    /// DATA.
    Data,
    /// BDAT.
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY with what to verify.
    Vrfy(String),
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// ETRN with what to start: a domain, `@domain`, or `#queue`.
    Etrn(String),
    /// ATRN with the domains; none means all that the client may fetch.
    Atrn(Vec<Domain>),
}

/// What BDAT announces (RFC 3030, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command.
    pub size: u64,
    /// It is the last chunk of the message.
    pub last: bool,
}

/// A line that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The verb, even of a command that is refused.
    pub verb: Verb,
    /// Where in the line the argument begins; for `Other`, 0.
    pub argument: usize,
    /// The command, or the reply that refuses it.
    pub command: Result<Command, Reply>,
}

/// Reads a line without its CRLF.
pub fn parse(line: &[u8], grammar: &Grammar<'_>) -> Parsed {
    let word_end = memchr::memchr2(b' ', b'\t', line).unwrap_or(line.len());
    let word = &line[..word_end];
    let mut commands = Verb::COMMANDS.into_iter().filter(|verb| grammar.knows(*verb));
    let Some(verb) = commands.find(|verb| word.eq_ignore_ascii_case(verb.as_str().as_bytes())) else {
        return Parsed { verb: Verb::Other, argument: 0, command: Err(unknown(word)) };
    };
    let command = if line.len() + 2 > verb.max_line(grammar.extensions) {
        Err(line_too_long())
    } else {
        let blank: &[char] = &[' ', '\t'];
        match std::str::from_utf8(&line[word_end..]).map(|rest| rest.trim_matches(blank)) {
            Ok(rest) if !rest.chars().any(char::is_control) => read(verb, rest, grammar),
            _ => Err(refuse(501, 5, 2, "Syntax error: control characters or invalid UTF-8")),
        }
    };
    Parsed { verb, argument: (word_end + 1).min(line.len()), command }
}

/// The reply to a line over the limit.
pub fn line_too_long() -> Reply {
    refuse(500, 5, 2, "Line too long")
}

fn refuse(code: u16, subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Reply {
    Reply::new(code, EnhancedStatus::permanent(subject, detail), text)
}

fn unknown(word: &[u8]) -> Reply {
    const NOT_HERE: [&str; 13] =
        ["STARTTLS", "AUTH", "BDAT", "TURN", "ETRN", "ATRN", "SEND", "SOML", "SAML", "BURL", "HELO", "EHLO", "LHLO"];
    if NOT_HERE.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes())) {
        refuse(502, 5, 1, "Command not implemented")
    } else if !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric) {
        refuse(500, 5, 1, "Command not recognized")
    } else {
        refuse(500, 5, 2, "Syntax error")
    }
}

fn read(verb: Verb, rest: &str, grammar: &Grammar<'_>) -> Result<Command, Reply> {
    match verb {
        Verb::Helo => host(rest).map(Command::Helo),
        Verb::Ehlo => host(rest).map(Command::Ehlo),
        Verb::Lhlo => host(rest).map(Command::Lhlo),
        Verb::StartTls => alone(rest, Command::StartTls),
        Verb::Auth => auth(rest),
        Verb::Mail => mail(rest, grammar),
        Verb::Rcpt => rcpt(rest, grammar),
        Verb::Data => alone(rest, Command::Data),
        Verb::Bdat => bdat(rest).map(Command::Bdat),
        Verb::Etrn if rest.is_empty() || rest.contains([' ', '\t']) => Err(refuse(501, 5, 4, "Syntax: ETRN domain")),
        Verb::Etrn if !rest.is_ascii() => Err(not_ascii()),
        Verb::Etrn => Ok(Command::Etrn(rest.to_owned())),
        Verb::Atrn => atrn(rest),
        Verb::Rset => alone(rest, Command::Rset),
        Verb::Quit => alone(rest, Command::Quit),
        Verb::Noop => Ok(Command::Noop),
        Verb::Help => Ok(Command::Help),
        Verb::Expn => Ok(Command::Expn),
        Verb::Vrfy if rest.is_empty() => Err(refuse(501, 5, 4, "VRFY needs an argument")),
        Verb::Vrfy if !rest.is_ascii() => Err(not_ascii()),
        Verb::Vrfy => Ok(Command::Vrfy(rest.to_owned())),
        Verb::Connect | Verb::Content | Verb::Other => Err(refuse(500, 5, 1, "Command not recognized")),
    }
}

fn alone(rest: &str, command: Command) -> Result<Command, Reply> {
    if rest.is_empty() { Ok(command) } else { Err(refuse(501, 5, 4, "No argument allowed")) }
}

/// The name of a client: nearly anything, since real ones call themselves nearly anything.
fn host(rest: &str) -> Result<String, Reply> {
    if rest.is_empty() || rest.len() > 255 || !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse(501, 5, 4, "A domain or an address literal is needed"));
    }
    Ok(rest.to_owned())
}

/// `AUTH mechanism [initial-response]`; `=` is an empty response (RFC 4954, 4).
fn auth(rest: &str) -> Result<Command, Reply> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let mechanism = words.next().ok_or_else(|| refuse(501, 5, 4, "Syntax: AUTH mechanism [initial-response]"))?;
    let initial = match (words.next(), words.next()) {
        (None, _) => None,
        (Some("="), None) => Some(Bytes::new()),
        (Some(response), None) => Some(decode_response(response.as_bytes())?),
        (Some(_), Some(_)) => return Err(refuse(501, 5, 4, "Syntax: AUTH mechanism [initial-response]")),
    };
    // RFC 4422, 3.1: 1 to 20 letters, digits, hyphens and underscores
    let named = mechanism.len() <= 20 && mechanism.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !named {
        return Err(unknown_mechanism());
    }
    Ok(Command::Auth(mechanism.to_ascii_uppercase(), initial))
}

/// One line of an AUTH exchange, decoded; an empty line is an empty response.
///
/// # Errors
/// 501 5.5.2 for what is no base64.
pub fn decode_response(line: &[u8]) -> Result<Bytes, Reply> {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(line);
    decoded.map(Bytes::from).map_err(|_| refuse(501, 5, 2, "Not base64"))
}

/// The reply to a mechanism that is not on offer (RFC 4954, 4).
pub fn unknown_mechanism() -> Reply {
    refuse(504, 5, 4, "Authentication mechanism not supported")
}

/// `BDAT size [LAST]`. What cannot be read leaves the framing unknown: the session cannot go on after it.
fn bdat(rest: &str) -> Result<Chunk, Reply> {
    let wrong = || refuse(501, 5, 4, "Syntax: BDAT size [LAST]");
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let digits = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
    let size = digits.parse().ok().filter(|size| *size <= MAX_CHUNK).ok_or_else(wrong)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") && words.next().is_none() => true,
        Some(_) => return Err(wrong()),
    };
    Ok(Chunk { size, last })
}

/// Largest chunk that BDAT may announce, in octets: far over any size limit, and still a number one can count down.
const MAX_CHUNK: u64 = 1 << 62;

/// `ATRN [domain *("," domain)]` (RFC 2645, 5.2.1).
fn atrn(rest: &str) -> Result<Command, Reply> {
    let domains = rest.split(',').map(str::trim).filter(|_| !rest.is_empty());
    let domains: Result<Vec<Domain>, _> = domains.map(str::parse).collect();
    domains.map(Command::Atrn).map_err(|_| refuse(501, 5, 4, "Syntax: ATRN [domain,domain…]"))
}

fn mail(rest: &str, grammar: &Grammar<'_>) -> Result<Command, Reply> {
    let rest = keyword(rest, "FROM:").ok_or_else(|| refuse(501, 5, 2, "Syntax: MAIL FROM:<address> [parameters]"))?;
    let (path, rest) = path(rest).ok_or_else(|| refuse(501, 1, 7, "Bad sender address syntax"))?;
    let parameters = mail_parameters(rest, grammar)?;
    if !parameters.smtputf8 && !path.is_ascii() {
        return Err(not_ascii());
    }
    let reverse_path = if path.is_empty() {
        ReversePath::Null
    } else {
        ReversePath::Mailbox(mailbox(path, grammar).map_err(|error| refuse(501, 1, 7, address_text(error)))?)
    };
    Ok(Command::Mail(reverse_path, parameters))
}

fn rcpt(rest: &str, grammar: &Grammar<'_>) -> Result<Command, Reply> {
    let rest = keyword(rest, "TO:").ok_or_else(|| refuse(501, 5, 2, "Syntax: RCPT TO:<address> [parameters]"))?;
    let (path, rest) = path(rest).ok_or_else(|| refuse(501, 1, 3, "Bad recipient address syntax"))?;
    if !grammar.smtputf8 && !path.is_ascii() {
        return Err(not_ascii());
    }
    let forward_path = if path.eq_ignore_ascii_case("postmaster") {
        ForwardPath::Postmaster
    } else {
        ForwardPath::Mailbox(mailbox(path, grammar).map_err(|error| refuse(501, 1, 3, address_text(error)))?)
    };
    Ok(Command::Rcpt(forward_path, rcpt_parameters(rest, grammar.extensions)?))
}

/// RFC 6531, 3.7.4: 553 where a mailbox name is not allowed.
fn not_ascii() -> Reply {
    refuse(553, 6, 7, "Addresses beyond ASCII need SMTPUTF8")
}

fn address_text(error: AddressError) -> &'static str {
    match error {
        AddressError::LocalPart => "Bad local part",
        AddressError::Domain => "Bad domain",
        AddressError::Unqualified => "A domain is needed",
        AddressError::TooLong => "Path too long",
    }
}

/// What stands behind a keyword, without one space.
fn keyword<'a>(rest: &'a str, word: &str) -> Option<&'a str> {
    let (head, tail) = rest.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then(|| tail.strip_prefix(' ').unwrap_or(tail))
}

/// `"<" [content] ">"` and what follows; quoted strings may hold angle brackets.
fn path(rest: &str) -> Option<(&str, &str)> {
    let inner = rest.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return true,
            _ => {}
        }
        false
    })?;
    let behind = &inner[end + 1..];
    (end + 2 <= MAX_PATH && (behind.is_empty() || behind.starts_with(' '))).then(|| (&inner[..end], behind))
}

/// A mailbox behind an optional source route, which is dropped.
fn mailbox(path: &str, grammar: &Grammar<'_>) -> Result<Mailbox, AddressError> {
    let mut rest = path;
    while let Some(at_domain) = rest.strip_prefix('@') {
        // an IPv6 literal has colons of its own
        let literal = at_domain.find(']').filter(|_| at_domain.starts_with('[')).unwrap_or(0);
        let end = literal + at_domain[literal..].find([',', ':']).ok_or(AddressError::LocalPart)?;
        at_domain[..end].parse::<Domain>()?;
        rest = &at_domain[end + 1..];
        let last = at_domain.as_bytes()[end] == b':';
        if last == rest.starts_with('@') {
            return Err(AddressError::LocalPart);
        }
    }
    match (rest.parse(), grammar.completion) {
        (Err(AddressError::Unqualified), Some(domain)) => format!("{rest}@{domain}").parse(),
        (parsed, _) => parsed,
    }
}

/// The parameters of a command, `KEYWORD` or `KEYWORD=value`, each at most once.
fn parameters(rest: &str, mut take: impl FnMut(&str, Option<&str>) -> Result<(), Reply>) -> Result<(), Reply> {
    let mut seen: Vec<&str> = Vec::new();
    for parameter in rest.split(' ').filter(|p| !p.is_empty()) {
        let (key, value) = match parameter.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (parameter, None),
        };
        if seen.iter().any(|other| other.eq_ignore_ascii_case(key)) {
            return Err(refuse(555, 5, 4, "A parameter is given twice"));
        }
        seen.push(key);
        take(&key.to_ascii_uppercase(), value)?;
    }
    Ok(())
}

fn unknown_parameter() -> Reply {
    refuse(555, 5, 4, "Parameter not recognized or not implemented")
}

fn bad_value(key: &'static str) -> Reply {
    refuse(501, 5, 4, format!("Bad value of {key}"))
}

fn mail_parameters(rest: &str, grammar: &Grammar<'_>) -> Result<MailParameters, Reply> {
    let extensions = grammar.extensions;
    let mut found = MailParameters::default();
    parameters(rest, |key, value| {
        match key {
            "SIZE" if extensions.size => found.size = Some(size(value).ok_or_else(|| bad_value("SIZE"))?),
            "BODY" if extensions.eight_bit_mime || extensions.binary_mime => {
                found.body = match value.map(str::to_ascii_uppercase).as_deref() {
                    Some("7BIT") => Body::SevenBit,
                    Some("8BITMIME") if extensions.eight_bit_mime => Body::EightBitMime,
                    Some("BINARYMIME") if extensions.binary_mime => Body::Binary,
                    _ => return Err(bad_value("BODY")),
                }
            }
            "SMTPUTF8" if extensions.smtputf8 => match value {
                None => found.smtputf8 = true,
                Some(_) => return Err(bad_value("SMTPUTF8")),
            },
            "RET" if extensions.dsn => {
                found.ret = match value.map(str::to_ascii_uppercase).as_deref() {
                    Some("FULL") => Some(Ret::Full),
                    Some("HDRS") => Some(Ret::Hdrs),
                    _ => return Err(bad_value("RET")),
                }
            }
            "ENVID" if extensions.dsn => {
                let text = value.filter(|v| !v.is_empty() && v.len() <= MAX_ENVID).and_then(decode_xtext);
                found.envid = Some(text.ok_or_else(|| bad_value("ENVID"))?);
            }
            // RFC 4954, 5: it must be known where AUTH is; nobody is believed on it, so every sender is as good as `<>`
            "AUTH" if grammar.auth => {
                value.filter(|value| !value.is_empty()).and_then(decode_xtext).ok_or_else(|| bad_value("AUTH"))?;
            }
            "HOLDFOR" | "HOLDUNTIL" if extensions.future_release => {
                if found.hold.is_some() {
                    return Err(refuse(501, 5, 4, "HOLDFOR and HOLDUNTIL exclude each other"));
                }
                let hold = if key == "HOLDFOR" { hold_for(value) } else { hold_until(value) };
                found.hold = Some(hold.ok_or_else(|| bad_value("HOLDFOR or HOLDUNTIL"))?);
            }
            "BY" if extensions.deliver_by => {
                found.deliver_by = Some(value.and_then(deliver_by).ok_or_else(|| bad_value("BY"))?);
            }
            "MT-PRIORITY" if extensions.mt_priority => {
                found.priority = Some(value.and_then(priority).ok_or_else(|| bad_value("MT-PRIORITY"))?);
            }
            "REQUIRETLS" if extensions.require_tls => match value {
                None => found.require_tls = true,
                Some(_) => return Err(bad_value("REQUIRETLS")),
            },
            _ => return Err(unknown_parameter()),
        }
        Ok(())
    })?;
    Ok(found)
}

/// `size-value`: 1 to 20 digits (RFC 1870, section 4). What 64 bits cannot hold is larger than any limit.
fn size(value: Option<&str>) -> Option<u64> {
    let digits = value?;
    let valid = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// 1 to so many digits.
fn digits<T: std::str::FromStr>(text: &str, most: usize) -> Option<T> {
    let valid = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

/// `future-release-integer`: 1 to 9 digits, not 0 (RFC 4865, section 4).
fn hold_for(value: Option<&str>) -> Option<Hold> {
    value.and_then(|value| digits(value, 9)).filter(|seconds| *seconds > 0).map(Hold::For)
}

/// `Internet-style-date-time-UTC` (RFC 4865, section 4; RFC 3339): the date, `T`, the time, `Z`.
fn hold_until(value: Option<&str>) -> Option<Hold> {
    let text =
        value.filter(|text| text.len() <= 30 && text.as_bytes().get(10) == Some(&b'T') && text.ends_with('Z'))?;
    text.parse::<jiff::Timestamp>().ok().map(|time| Hold::Until(time.as_second()))
}

/// `by-time ";" by-mode [by-trace]` (RFC 2852, section 4). What has to be returned in no time cannot be taken.
fn deliver_by(value: &str) -> Option<DeliverBy> {
    let (time, mode) = value.split_once(';')?;
    let (sign, time) = match time.as_bytes().first()? {
        b'-' => (-1, &time[1..]),
        b'+' => (1, &time[1..]),
        _ => (1, time),
    };
    let seconds = sign * digits::<i64>(time, 9)?;
    let (mode, trace) = match mode.to_ascii_uppercase().as_str() {
        "R" => (ByMode::Return, false),
        "RT" => (ByMode::Return, true),
        "N" => (ByMode::Notify, false),
        "NT" => (ByMode::Notify, true),
        _ => return None,
    };
    (mode == ByMode::Notify || seconds > 0).then_some(DeliverBy { seconds, mode, trace })
}

/// `priority-value`: -9 to 9 (RFC 6710, section 6).
fn priority(value: &str) -> Option<i8> {
    match value.strip_prefix('-') {
        Some(digit) => digits::<i8>(digit, 1).filter(|n| *n > 0).map(|n| -n),
        None => digits(value, 1),
    }
}

fn rcpt_parameters(rest: &str, extensions: &Extensions) -> Result<RcptParameters, Reply> {
    let mut found = RcptParameters::default();
    parameters(rest, |key, value| {
        match key {
            "NOTIFY" if extensions.dsn => {
                found.notify = Some(value.and_then(notify).ok_or_else(|| bad_value("NOTIFY"))?);
            }
            "ORCPT" if extensions.dsn => {
                found.orcpt = Some(value.and_then(original_recipient).ok_or_else(|| bad_value("ORCPT"))?);
            }
            _ => return Err(unknown_parameter()),
        }
        Ok(())
    })?;
    Ok(found)
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut success,
            "FAILURE" => &mut failure,
            "DELAY" => &mut delay,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    Some(Notify::On { success, failure, delay })
}

fn original_recipient(value: &str) -> Option<OriginalRecipient> {
    let (address_type, address) = value.split_once(';').filter(|_| value.len() <= MAX_ORCPT)?;
    if address.is_empty() || !is_address_type(address_type) {
        return None;
    }
    if address_type.eq_ignore_ascii_case("utf-8") {
        return Some(OriginalRecipient { address_type: address_type.to_owned(), address: decode_utf8_xtext(address)? });
    }
    let address = decode_xtext_of_utf8(address)?;
    // what is beyond ASCII has a type of its own (RFC 6533, 3), which Postfix does not use
    let beyond = address_type.eq_ignore_ascii_case("rfc822") && !address.is_ascii();
    (beyond || address.is_ascii())
        .then(|| OriginalRecipient { address_type: if beyond { "utf-8" } else { address_type }.to_owned(), address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utf8(extensions: &Extensions) -> Grammar<'_> {
        Grammar { smtputf8: true, ..Grammar::new(extensions) }
    }

    fn read(line: &str) -> Result<Command, Reply> {
        parse(line.as_bytes(), &Grammar::new(&Extensions::default())).command
    }

    fn code(line: impl AsRef<[u8]>) -> String {
        match parse(line.as_ref(), &Grammar::new(&Extensions::default())).command {
            Ok(_) => "ok".to_owned(),
            Err(reply) => format!("{} {}", reply.code, reply.status.unwrap()),
        }
    }

    fn recipient(line: &str) -> Option<String> {
        match read(line) {
            Ok(Command::Rcpt(path, _)) => Some(path.to_string()),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_the_relay_table_is_refused_or_shown_as_it_is() {
        for (path, seen) in [
            ("<u@d.example>", Some("u@d.example")),
            ("u@d.example", None),
            ("<u%d.example>", None),
            ("<u%d.example@l.example>", Some("u%d.example@l.example")),
            ("<u%d.example@[192.0.2.1]>", Some("u%d.example@[192.0.2.1]")),
            ("<\"u@d.example\">", None),
            ("<\"u%d.example\">", None),
            ("<u@d.example@l.example>", None),
            ("<u@d.example@[192.0.2.1]>", None),
            ("<\"u@d.example\"@l.example>", Some("\"u@d.example\"@l.example")),
            ("<@l.example:u@d.example>", Some("u@d.example")),
            ("<@[192.0.2.1]:u@d.example>", Some("u@d.example")),
            ("<@[IPv6:2001:db8::1]:u@d.example>", Some("u@d.example")),
            ("<@s.example,@l.example:u@d.example>", Some("u@d.example")),
            ("<@s.example,l.example:u@d.example>", None),
            ("<@s.example:@l.example:u@d.example>", None),
            ("<@s.example>", None),
            ("<@>", None),
            ("<d.example!u>", None),
            ("<d.example!u@l.example>", Some("d.example!u@l.example")),
            ("<l.example!d.example!u>", None),
            ("<u@d.example.>", None),
            ("<v@l.example>,<u@d.example>", None),
            ("<v@l.example u@d.example>", None),
            ("<v@l.example> ORCPT=rfc822;u@d.example", Some("v@l.example")),
            ("<u@l.example%d.example>", None),
            ("<\"u\"@d.example>", Some("u@d.example")),
            ("<Postmaster>", Some("postmaster")),
            ("<u>", None),
            ("<>", None),
            (" <u@d.example>", Some("u@d.example")),
            ("  <u@d.example>", None),
            ("<u@d.example", None),
            ("<u@d.example>x", None),
            ("<\">\"@d.example>", Some("\">\"@d.example")),
        ] {
            assert_eq!(recipient(&format!("RCPT TO:{path}")).as_deref(), seen, "{path}");
            if seen.is_none() {
                assert!(code(format!("RCPT TO:{path}")).starts_with("501 5.1.3"), "{path}");
            }
        }
    }

    #[test]
    fn commands_are_read_without_regard_to_case_and_trailing_space() {
        assert_eq!(read("noop"), Ok(Command::Noop));
        assert_eq!(read("QuIt  "), Ok(Command::Quit));
        assert_eq!(read("ehlo a.example "), Ok(Command::Ehlo("a.example".into())));
        assert_eq!(read("mail from:<>"), Ok(Command::Mail(ReversePath::Null, MailParameters::default())));
        assert_eq!(read("VRFY a b"), Ok(Command::Vrfy("a b".into())));
        for (line, expected) in [
            ("", "500 5.5.2"),
            ("XYZZY", "500 5.5.1"),
            ("MAILFROM:<>", "500 5.5.2"),
            ("STARTTLS", "502 5.5.1"),
            ("auth PLAIN", "502 5.5.1"),
            ("HELO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("DATA now", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("MAIL", "501 5.5.2"),
            ("MAIL TO:<>", "501 5.5.2"),
            ("MAIL FROM:", "501 5.1.7"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<postmaster>", "501 5.1.7"),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }

    #[test]
    fn parameters_of_mail() {
        let Ok(Command::Mail(_, found)) = read("MAIL FROM:<a@b> size=10 body=8bitmime SMTPUTF8 RET=hdrs ENVID=a+2Bb")
        else {
            panic!()
        };
        assert_eq!(
            found,
            MailParameters {
                size: Some(10),
                body: Body::EightBitMime,
                smtputf8: true,
                ret: Some(Ret::Hdrs),
                envid: Some("a+b".into()),
                ..MailParameters::default()
            }
        );
        for (parameters, expected) in [
            ("SIZE", "501 5.5.4"),
            ("SIZE=", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE=x", "501 5.5.4"),
            ("SIZE=99999999999999999999", "ok"),
            ("SIZE=999999999999999999999", "501 5.5.4"),
            ("SIZE=1 SIZE=1", "555 5.5.4"),
            ("BODY=BINARYMIME", "ok"),
            ("SMTPUTF8=1", "501 5.5.4"),
            ("RET=ALL", "501 5.5.4"),
            ("ENVID=", "501 5.5.4"),
            ("ENVID=a+2b", "501 5.5.4"),
            ("ENVID=a+0A", "501 5.5.4"),
            ("AUTH=<>", "555 5.5.4"),
            ("X", "555 5.5.4"),
            ("NOTIFY=NEVER", "555 5.5.4"),
        ] {
            assert_eq!(code(format!("MAIL FROM:<a@b> {parameters}")), expected, "{parameters}");
        }
    }

    #[test]
    fn parameters_of_when_and_how() {
        let all = Extensions { chunking: true, binary_mime: true, ..Extensions::default() }.in_force(true);
        let read = |parameters: &str| {
            let parsed = parse(format!("MAIL FROM:<a@b> {parameters}").as_bytes(), &Grammar::new(&all));
            match parsed.command {
                Ok(Command::Mail(_, found)) => Ok(found),
                Ok(other) => panic!("{other:?}"),
                Err(reply) => Err(format!("{} {}", reply.code, reply.status.unwrap())),
            }
        };
        let plain = MailParameters::default;
        let by =
            |seconds, mode, trace| MailParameters { deliver_by: Some(DeliverBy { seconds, mode, trace }), ..plain() };
        for (text, expected) in [
            ("HOLDFOR=1", MailParameters { hold: Some(Hold::For(1)), ..plain() }),
            ("holdfor=999999999", MailParameters { hold: Some(Hold::For(999_999_999)), ..plain() }),
            ("HOLDUNTIL=2026-11-18T11:06:40Z", MailParameters { hold: Some(Hold::Until(1_795_000_000)), ..plain() }),
            ("BY=120;R", by(120, ByMode::Return, false)),
            ("BY=+120;rt", by(120, ByMode::Return, true)),
            ("BY=-999999999;N", by(-999_999_999, ByMode::Notify, false)),
            ("BY=0;NT", by(0, ByMode::Notify, true)),
            ("MT-PRIORITY=9", MailParameters { priority: Some(9), ..plain() }),
            ("MT-PRIORITY=-9", MailParameters { priority: Some(-9), ..plain() }),
            ("MT-PRIORITY=0", MailParameters { priority: Some(0), ..plain() }),
            ("REQUIRETLS", MailParameters { require_tls: true, ..plain() }),
            ("BODY=BINARYMIME", MailParameters { body: Body::Binary, ..plain() }),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for text in [
            "HOLDFOR",
            "HOLDFOR=0",
            "HOLDFOR=-1",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=2026-11-18",
            "HOLDUNTIL=2026-11-18T11:06:40",
            "HOLDUNTIL=2026-13-18T11:06:40Z",
            "HOLDUNTIL=2026-11-18T11:06:40+01:00",
            "HOLDFOR=1 HOLDUNTIL=2026-11-18T11:06:40Z",
            "BY",
            "BY=120",
            "BY=;R",
            "BY=0;R",
            "BY=-1;R",
            "BY=1;T",
            "BY=1;RN",
            "BY=--1;N",
            "BY=1234567890;N",
            "BY=1;R;T",
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=-0",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=",
            "REQUIRETLS=1",
        ] {
            assert_eq!(read(text), Err("501 5.5.4".to_owned()), "{text}");
        }
        assert_eq!(read("HOLDFOR=1 HOLDFOR=2"), Err("555 5.5.4".to_owned()));
    }

    #[test]
    fn parameters_of_rcpt() {
        let Ok(Command::Rcpt(_, found)) = read("RCPT TO:<a@b> NOTIFY=SUCCESS,delay ORCPT=rfc822;x+20y@z") else {
            panic!()
        };
        assert_eq!(found.notify, Some(Notify::On { success: true, failure: false, delay: true }));
        assert_eq!(found.orcpt, Some(OriginalRecipient { address_type: "rfc822".into(), address: "x y@z".into() }));
        for (parameters, expected) in [
            ("NOTIFY=NEVER", "ok"),
            ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("NOTIFY=", "501 5.5.4"),
            ("NOTIFY=DELAY,DELAY", "501 5.5.4"),
            ("NOTIFY=DELAY NOTIFY=DELAY", "555 5.5.4"),
            ("ORCPT=u@d", "501 5.5.4"),
            ("ORCPT=rfc822;a+0D+0ARCPT", "501 5.5.4"),
            ("ORCPT=rfc822;gr+C3+BC+C3+9Fe@x", "ok"),
            ("ORCPT=x400;gr+C3+BC", "501 5.5.4"),
            ("ORCPT=rfc822;gr+C3+28@x", "501 5.5.4"),
            ("ORCPT=rfc822;a+C2+85b@x", "501 5.5.4"),
            ("ORCPT=utf-8;\\x{FC}@d", "ok"),
            ("ORCPT=utf-8;\\x{D800}@d", "501 5.5.4"),
            ("SIZE=1", "555 5.5.4"),
        ] {
            assert_eq!(code(format!("RCPT TO:<a@b> {parameters}")), expected, "{parameters}");
        }
    }

    #[test]
    fn switched_off_extensions_are_unknown() {
        let off = Extensions {
            size: false,
            eight_bit_mime: false,
            smtputf8: false,
            dsn: false,
            binary_mime: false,
            future_release: false,
            deliver_by: false,
            mt_priority: false,
            ..Extensions::default()
        }
        .in_force(false);
        for line in [
            "SIZE=1",
            "BODY=7BIT",
            "SMTPUTF8",
            "RET=FULL",
            "ENVID=x",
            "HOLDFOR=1",
            "HOLDUNTIL=2026-11-18T11:06:40Z",
            "BY=1;R",
            "MT-PRIORITY=1",
            "REQUIRETLS",
        ]
        .map(|p| format!("MAIL FROM:<> {p}"))
        {
            assert_eq!(parse(line.as_bytes(), &Grammar::new(&off)).command.unwrap_err().code, 555, "{line}");
        }
    }

    #[test]
    fn lengths_hold_at_their_limits() {
        let mailbox = |local: usize, domain: usize| {
            let labels = "d".repeat(63) + "." + &"d".repeat(63) + "." + &"d".repeat(63) + "." + &"d".repeat(63);
            format!("RCPT TO:<{}@{}>", "l".repeat(local), &labels[labels.len() - domain..])
        };
        assert_eq!(code(mailbox(64, 10)), "ok");
        assert_eq!(code(mailbox(65, 10)), "501 5.1.3");
        assert_eq!(code(mailbox(1, 252)), "ok");
        assert_eq!(code(mailbox(1, 253)), "501 5.1.3");
        assert_eq!(code(mailbox(64, 189)), "ok");
        assert_eq!(code(mailbox(64, 190)), "501 5.1.3");
        for (length, expected) in [(511, "ok"), (512, "ok"), (513, "500 5.5.2")] {
            assert_eq!(code(format!("NOOP {}", "x".repeat(length - 7))), expected, "{length}");
        }
        let orcpt = |n: usize| format!("RCPT TO:<a@b> ORCPT=rfc822;{}", "x".repeat(n - 7));
        assert_eq!(code(orcpt(500)), "ok");
        assert_eq!(code(orcpt(501)), "501 5.5.4");
        assert_eq!(code(format!("MAIL FROM:<> ENVID={}", "x".repeat(100))), "ok");
        assert_eq!(code(format!("MAIL FROM:<> ENVID={}", "x".repeat(101))), "501 5.5.4");
    }

    #[test]
    fn octets_beyond_ascii() {
        for (line, expected) in [
            (&b"MAIL FROM:<\xc3\xbc@b.example>"[..], "553 5.6.7"),
            (b"MAIL FROM:<\xc3\xbc@b.example> SMTPUTF8", "ok"),
            (b"RCPT TO:<\xc3\xbc@b.example>", "553 5.6.7"),
            (b"RCPT TO:<\xff@b.example>", "501 5.5.2"),
            (b"MAIL FROM:<\xc0\xaf@b.example> SMTPUTF8", "501 5.5.2"),
            (b"MAIL FROM:<\xed\xa0\x80@b.example> SMTPUTF8", "501 5.5.2"),
            (b"MAIL FROM:<a\0@b.example>", "501 5.5.2"),
            (b"MAIL FROM:<a\r@b.example>", "501 5.5.2"),
            (b"MAIL FROM:<a@b.example>\tSIZE=1", "501 5.5.2"),
            (b"MAIL FROM:<a\xc2\x85@b.example> SMTPUTF8", "501 5.5.2"),
            (b"EHLO b\xc3\xbc", "501 5.5.4"),
            (b"\0", "500 5.5.2"),
            (b"NOOP \r", "501 5.5.2"),
        ] {
            assert_eq!(code(line), expected, "{:?}", String::from_utf8_lossy(line));
        }
        let inside = parse("RCPT TO:<ü@b.example>".as_bytes(), &utf8(&Extensions::default()));
        assert!(inside.command.is_ok());
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200), verb in 0usize..11) {
            let _ = parse(&line, &utf8(&Extensions::default()));
            let with_verb = [Verb::COMMANDS[verb].as_str().as_bytes(), b" ", &line].concat();
            let _ = parse(&with_verb, &utf8(&Extensions::default()));
        }

        #[test]
        fn no_path_panics(text in "[<>@,:\\[\\]\"\\\\.a%! =;+]{0,40}") {
            for line in [format!("RCPT TO:{text}"), format!("RCPT TO:<{text}>"), format!("MAIL FROM:<{text}> {text}")] {
                if let Ok(Command::Rcpt(ForwardPath::Mailbox(mailbox), _)) = read(&line) {
                    prop_assert_eq!(mailbox.to_string().parse::<Mailbox>(), Ok(mailbox));
                }
            }
        }
    }
}
