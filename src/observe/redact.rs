//! Text without local parts of addresses (`BRIDGEHEAD_LOG_REDACT=addresses`): of what looks like an address only the domain
//! stays, wherever it stands, also in what a next hop has said and in Message-IDs.
//!
//! It works on finished lines of a log, or JSON of a trace, so that no statement can forget it.

/// What stands for a local part.
const MASK: &[u8] = b"***";

/// A line without local parts. A local part is what stands in front of an `@` up to a space or a character that no unquoted local
/// part has; a quoted one up to its opening quote.
pub fn redacted(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = memchr::memchr(b'@', rest) {
        let begin = local_part(&rest[..at]);
        out.extend_from_slice(&rest[..begin]);
        if begin < at {
            out.extend_from_slice(MASK);
        }
        out.push(b'@');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out
}

/// Where the local part that ends here begins.
fn local_part(text: &[u8]) -> usize {
    // in a line of JSON the quotes of a local part are \"
    if let Some(inside) = text.strip_suffix(b"\\\"") {
        return inside.windows(2).rposition(|two| two == b"\\\"").unwrap_or(0);
    }
    if let Some(inside) = text.strip_suffix(b"\"") {
        return inside.iter().rposition(|octet| *octet == b'"').unwrap_or(0);
    }
    let ends = |octet: &u8| octet.is_ascii_whitespace() || br#""<>()[],;:\@"#.contains(octet);
    text.iter().rposition(ends).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_domain_of_an_address_stays_wherever_it_stands() {
        let redact = |text: &str| String::from_utf8(redacted(text.as_bytes())).unwrap();
        for (line, shown) in [
            (r#"{"sender":"ada@example.com","x":1}"#, r#"{"sender":"***@example.com","x":1}"#),
            (r#"{"sender":"<>","size":7}"#, r#"{"sender":"<>","size":7}"#),
            (
                r#"{"reply":"550 5.1.1 <bob.x+y=z@b.example>: unknown"}"#,
                r#"{"reply":"550 5.1.1 <***@b.example>: unknown"}"#,
            ),
            (r#"{"recipient":"\"two words\"@b.example"}"#, r#"{"recipient":"***@b.example"}"#),
            ("to a@b.example, c@d.example", "to ***@b.example, ***@d.example"),
            ("grüße@b.example", "***@b.example"),
            ("@b.example @", "@b.example @"),
        ] {
            assert_eq!(redact(line), shown);
        }
        let flood = "@".repeat(10_000);
        assert_eq!(redact(&flood), flood);
    }
}
