//! What goes in and what comes out, for each form of sender and structure; chunking; memory.

use std::collections::VecDeque;

use bytes::Bytes;
use mail_parser::{MessageParser, PartType};
use proptest::prelude::*;

use super::walk::MAX_FIELD;
use super::*;
use crate::smtp::address::Mailbox;
use crate::smtp::parameters::Body;

/// `local.example` is masqueraded as `m.example`; whoever is at `old.example` becomes `box@m365.example`.
struct Rules;

impl Senders for Rules {
    fn change(&self, sender: &Mailbox) -> Option<SenderChange> {
        match sender.domain().to_string().as_str() {
            "old.example" => Some(SenderChange::Mailbox("box@m365.example".parse().unwrap())),
            "local.example" => Some(SenderChange::Domain("m.example".parse().unwrap())),
            _ => None,
        }
    }
}

/// Nobody becomes another.
struct Nobody;

impl Senders for Nobody {
    fn change(&self, _: &Mailbox) -> Option<SenderChange> {
        None
    }
}

fn adapt<S: Senders>(content: &[u8], senders: Option<S>, plan: Option<Plan>, chunks: &[usize]) -> Vec<u8> {
    let mut adapter = Adapter::new(senders, plan);
    let mut out = VecDeque::new();
    for chunk in split(content, chunks) {
        adapter.push(Bytes::copy_from_slice(chunk), &mut out);
    }
    adapter.finish(&mut out);
    out.into_iter().flatten().collect()
}

/// Cut into pieces of these lengths, in turn.
fn split<'a>(mut content: &'a [u8], chunks: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in chunks.iter().copied().chain(std::iter::repeat(usize::MAX)) {
        if content.is_empty() {
            break;
        }
        let (piece, rest) = content.split_at(length.min(content.len()));
        pieces.push(piece);
        content = rest;
    }
    pieces
}

fn survey(content: &[u8], chunks: &[usize]) -> Survey {
    let mut survey = Survey::default();
    split(content, chunks).into_iter().for_each(|chunk| survey.push(chunk));
    survey.finish();
    survey
}

fn senders(header: &str) -> String {
    String::from_utf8(adapt(format!("{header}\r\nbody\r\n").as_bytes(), Some(Rules), None, &[])).unwrap()
}

#[test]
fn senders_change_in_every_form_that_clients_write() {
    for (before, after) in [
        (" a@local.example", " a@m.example"),
        (" <a@LOCAL.example>", " <a@m.example>"),
        ("a@local.example", "a@m.example"),
        (" Ada Lovelace <a@local.example>", " Ada Lovelace <a@m.example>"),
        (" \"Lovelace, Ada\" <a@local.example>", " \"Lovelace, Ada\" <a@m.example>"),
        (" \"a@local.example\" <a@local.example>", " \"a@local.example\" <a@m.example>"),
        // unquoted, against the rules
        (" a@local.example <a@local.example>", " a@local.example <a@m.example>"),
        (" J. R. Smith <a@local.example>", " J. R. Smith <a@m.example>"),
        (" =?UTF-8?Q?J=C3=BCrgen?= <a@local.example>", " =?UTF-8?Q?J=C3=BCrgen?= <a@m.example>"),
        (" J\u{fc}rgen <a@local.example>", " J\u{fc}rgen <a@m.example>"),
        (" a@local.example (Ada (x) \\) y@local.example)", " a@m.example (Ada (x) \\) y@local.example)"),
        (" (x) a@local.example", " (x) a@m.example"),
        ("\r\n Ada\r\n\t<a@local.example>", "\r\n Ada\r\n\t<a@m.example>"),
        (" \"a b\"@local.example", " \"a b\"@m.example"),
        (" \"a\\\"b\"@local.example", " \"a\\\"b\"@m.example"),
        (" <\"a@b\"@local.example>", " <\"a@b\"@m.example>"),
        (" a+tag.x@local.example", " a+tag.x@m.example"),
        (
            " A <a@local.example>, b@other.example, <c@local.example>",
            " A <a@m.example>, b@other.example, <c@m.example>",
        ),
        (
            " Team: A <a@local.example>, b@local.example; , c@local.example",
            " Team: A <a@m.example>, b@m.example; , c@m.example",
        ),
        // an element that is no address does not keep the others
        (" Lovelace, Ada <a@local.example>", " Lovelace, Ada <a@m.example>"),
        (" < a@local.example >", " < a@m.example >"),
        (" a@local.example,", " a@m.example,"),
        (" a . b@local.example", " a . b@m.example"),
    ] {
        assert_eq!(senders(&format!("From:{before}\r\n")), format!("From:{after}\r\n\r\nbody\r\n"), "{before}");
        assert_eq!(senders(&format!("SENDER :{before}\r\n")), format!("SENDER:{after}\r\n\r\nbody\r\n"), "{before}");
    }
}

#[test]
fn what_is_not_understood_is_left_alone() {
    for field in [
        " a@other.example",
        " a@sub.local.example",
        " a@local.example.org",
        " root",
        " <>",
        "",
        " undisclosed:;",
        " \"Ada <a@local.example>",
        " (Ada <a@local.example>",
        " Ada <a@local.example",
        " Ada a@local.example>",
        " <a@local.example> Ada",
        " <<a@local.example>>",
        " a@b@local.example",
        " @local.example",
        " <@x.example:a@local.example>",
        " a@local . example",
        " a b@local.example",
        " a@[local.example]",
        " a..b@local.example",
        " \"a\\",
    ] {
        let header = format!("From:{field}\r\n");
        assert_eq!(senders(&header), format!("{header}\r\nbody\r\n"), "{field}");
    }
    for header in [
        "Reply-To: a@local.example\r\n",
        "To: a@old.example\r\n",
        "X-From: a@local.example\r\n",
        "From a@local.example\r\n",
    ] {
        assert_eq!(senders(header), format!("{header}\r\nbody\r\n"));
    }
    // the local part fills what an address may have
    let long = format!("From: a@local.example, {}@local.example{}\r\n", "a".repeat(64), " (x)".repeat(240));
    assert_eq!(senders(&long), format!("{}\r\nbody\r\n", long.replace("local", "m")), "lines became no longer");
    // not valid UTF-8
    let octets = b"From: \xff@local.example\r\n\r\n";
    assert_eq!(adapt(octets, Some(Rules), None, &[]), octets);
    // only in the header of the message itself
    let inner =
        "Subject: x\r\nContent-Type: message/rfc822\r\n\r\nFrom: a@local.example\r\n\r\nFrom: a@local.example\r\n";
    assert_eq!(adapt(inner.as_bytes(), Some(Rules), None, &[]), inner.as_bytes());
}

#[test]
fn a_longer_line_than_lines_may_be_is_not_made() {
    struct Longer;
    impl Senders for Longer {
        fn change(&self, _: &Mailbox) -> Option<SenderChange> {
            Some(SenderChange::Domain("a-much-longer-domain.example".parse().unwrap()))
        }
    }
    let fits = format!("From: a@l.example{}\r\n\r\n", " ".repeat(900));
    let too_long = format!("From: a@l.example{}\r\n\r\n", " ".repeat(980));
    assert_ne!(adapt(fits.as_bytes(), Some(Longer), None, &[]), fits.as_bytes());
    assert_eq!(adapt(too_long.as_bytes(), Some(Longer), None, &[]), too_long.as_bytes());
}

#[test]
fn who_becomes_another_mailbox_still_gets_the_replies() {
    for (before, after) in [
        (
            "From: Ada <a@old.example>\r\nTo: b@c\r\n",
            "From: Ada <box@m365.example>\r\nTo: b@c\r\nReply-To: Ada <a@old.example>\r\n",
        ),
        (
            "From: Ada <a@old.example>\r\nReply-To: r@x.example\r\n",
            "From: Ada <box@m365.example>\r\nReply-To: r@x.example\r\n",
        ),
        ("reply-to:\r\nFrom: a@old.example\r\n", "reply-to:\r\nFrom: box@m365.example\r\n"),
        (
            "From: a@old.example,\r\n b@local.example\r\nX: y\r\n",
            "From: box@m365.example,\r\n b@m.example\r\nX: y\r\nReply-To: a@old.example,\r\n b@local.example\r\n",
        ),
        // nothing is lost by another domain: the mailbox is the same
        ("From: a@local.example\r\n", "From: a@m.example\r\n"),
        ("Sender: a@old.example\r\nFrom: a@x.example\r\n", "Sender: box@m365.example\r\nFrom: a@x.example\r\n"),
    ] {
        assert_eq!(senders(before), format!("{after}\r\nbody\r\n"));
    }
    // a header that just ends
    for header in ["From: a@old.example", "From: a@old.example\r\n"] {
        let out = adapt(header.as_bytes(), Some(Rules), None, &[]);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "From: box@m365.example\r\nReply-To: a@old.example\r\n");
    }
}

#[test]
fn a_body_is_passed_on_without_being_copied() {
    let content = Bytes::from("From: a@local.example\r\n\r\nbody\r\n".repeat(100));
    let mut adapter = Adapter::new(Some(Rules), None);
    let mut out = VecDeque::new();
    adapter.push(content.clone(), &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(out[1].as_ptr() as usize - content.as_ptr() as usize, 25);
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let chunk = Bytes::from(vec![b'x'; 1 << 16]);
    let starts: [&[u8]; 5] = [
        b"",
        b"From: ",
        b"From: a\r\n ",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b",
        b"Content-Type: text/plain\r\n\r\n\xc3\xbc",
    ];
    for start in starts {
        let plan = Plan { body: Body::SevenBit, quoted_printable: vec![0], base64: Vec::new() };
        let mut adapter = Adapter::new(Some(Rules), Some(plan));
        let mut survey = Survey::default();
        let mut octets = 0;
        for chunk in std::iter::once(Bytes::copy_from_slice(start)).chain(std::iter::repeat_n(chunk.clone(), 1600)) {
            let mut out = VecDeque::new();
            survey.push(&chunk);
            adapter.push(chunk, &mut out);
            octets += out.iter().map(Bytes::len).sum::<usize>();
            assert!(adapter.held() <= 3 * MAX_FIELD, "{}", adapter.held());
        }
        assert!(octets > 100_000_000, "{octets}");
        survey.finish();
    }
}

#[test]
fn a_field_that_is_too_long_is_left_as_it_is() {
    let field = format!("From: {}\r\n a@old.example\r\nSubject: x\r\n\r\nbody\r\n", "(x)".repeat(350_000));
    assert_eq!(adapt(field.as_bytes(), Some(Rules), None, &[]), field.as_bytes());
    let kind = format!("Content-Type: text/plain; x={}\r\n\r\n\u{fc}\r\n", "x".repeat(1 << 20));
    let why = survey(kind.as_bytes(), &[]).fit(Body::EightBitMime, Body::SevenBit).unwrap_err();
    assert!(why.contains("too long"), "{why}");
}

/// The content as it goes to a next hop that takes only so much.
fn convert(content: &[u8], declared: Body, takes: Body) -> Result<Vec<u8>, &'static str> {
    let fit = survey(content, &[]).fit(declared, takes)?;
    Ok(match fit.plan {
        None => content.to_vec(),
        plan => adapt::<Nobody>(content, None, plan, &[]),
    })
}

fn seven_bit(content: &str) -> Result<String, &'static str> {
    convert(content.as_bytes(), Body::SevenBit, Body::SevenBit).map(|out| String::from_utf8(out).unwrap())
}

#[test]
fn text_becomes_quoted_printable() {
    let head = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n";
    let label = "Content-Transfer-Encoding: quoted-printable\r\n";
    for (before, after) in [
        ("ü = x\r\n", "=C3=BC =3D x\r\n"),
        ("ü \r\n\t\r\n.\r\n", "=C3=BC=20\r\n=09\r\n.\r\n"),
        ("ü", "=C3=BC"),
        ("ü ", "=C3=BC=20"),
    ] {
        let content = format!("{head}Content-Transfer-Encoding: 8bit\r\n\r\n{before}");
        assert_eq!(seven_bit(&content).unwrap(), format!("{head}{label}\r\n{after}"));
        assert_eq!(seven_bit(&format!("{head}\r\n{before}")).unwrap(), format!("{head}{label}\r\n{after}"));
    }
    let long = format!("{head}\r\n{}\r\n", "ü".repeat(100));
    assert!(seven_bit(&long).unwrap().lines().all(|line| line.len() <= 76));
    // nobody has said what it is
    assert_eq!(
        seven_bit("Subject: x\r\n\r\nü\r\n").unwrap(),
        format!(
            "Subject: x\r\n{label}MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\r\n=C3=BC\r\n"
        )
    );
    // nothing to do, whatever it says
    let ascii = format!("{head}Content-Transfer-Encoding: 8bit\r\n\r\nx\r\n");
    assert_eq!(seven_bit(&ascii).unwrap(), ascii);
}

/// A multipart with nested parts of all kinds.
fn nested() -> Vec<u8> {
    concat!(
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/mixed; boundary=\"outer\"\r\n",
        "Content-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n",
        "--outer\r\nContent-Type: multipart/alternative; boundary=in\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
        "--in\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße \r\n-- \r\nÄ\r\n",
        "--in \t\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Grüße</p>\r\n\r\n--in--\r\n",
        "--outer\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
        "Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=third\r\n\r\n",
        "--third\r\n\r\nplain\r\n--third\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nöffentlich\r\n--third--\r\n",
        "--outer\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n",
        "--outer\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC\r\n",
        "--outer\r\nContent-Type: application/x-data\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\u{e9}=\u{e9}\r\n",
        "--outer--\r\nepilogue\r\n"
    )
    .as_bytes()
    .to_vec()
}

/// Every part that is no container, decoded by another implementation.
fn decoded(content: &[u8]) -> Vec<Vec<u8>> {
    let message = MessageParser::default().parse(content).unwrap();
    let mut bodies = Vec::new();
    let mut open = vec![message];
    while let Some(message) = open.pop() {
        for part in &message.parts {
            match &part.body {
                PartType::Message(inner) => open.push(inner.clone()),
                PartType::Multipart(_) => {}
                _ => bodies.push(part.contents().to_vec()),
            }
        }
    }
    bodies
}

#[test]
fn parts_are_converted_and_mean_the_same() {
    let before = nested();
    let after = convert(&before, Body::EightBitMime, Body::SevenBit).unwrap();
    assert!(after.is_ascii());
    assert_eq!(decoded(&after), decoded(&before));
    assert_eq!(decoded(&before).len(), 7);
    let text = String::from_utf8(after).unwrap();
    assert!(text.contains("\r\n-- \r\n") || text.contains("\r\n--=20\r\n"), "{text}");
    assert!(!text.to_lowercase().contains("8bit"), "{text}");
    assert!(text.contains("base64\r\n\r\nAAEC\r\n") && text.contains("quoted-printable\r\n\r\n=C3=BC\r\n--outer"));
    // and once more, there is nothing to do
    assert_eq!(seven_bit(&text).unwrap(), text);
}

#[test]
fn binary_parts_become_base64() {
    let mut content =
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n\
        --b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n"
            .to_vec();
    let octets: Vec<u8> = (0..=255).cycle().take(1000).chain(*b"\r\n--\r\n\n--b\r").collect();
    content.extend_from_slice(&octets);
    content.extend_from_slice(
        "\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nü\r\n--b--\r\n"
            .as_bytes(),
    );
    assert!(survey(&content, &[]).fit(Body::Binary, Body::Binary).unwrap().plan.is_none());
    for (takes, label) in [(Body::EightBitMime, "8bit"), (Body::SevenBit, "7bit")] {
        let after = convert(&content, Body::Binary, takes).unwrap();
        assert_eq!(decoded(&after)[0], octets, "{takes:?}");
        assert_eq!(decoded(&after)[1], "ü".as_bytes());
        assert_eq!(after.is_ascii(), takes == Body::SevenBit);
        let top = format!("boundary=b\r\nContent-Transfer-Encoding: {label}\r\n\r\n--b\r\n");
        assert!(String::from_utf8_lossy(&after).contains(&top));
        assert_eq!(survey(&content, &[]).fit(Body::Binary, takes).unwrap().body, takes);
    }
    // the last CRLF of a message belongs to it
    let whole = b"Content-Transfer-Encoding: binary\r\n\r\n\xff\n\r\n";
    let after = convert(whole, Body::Binary, Body::SevenBit).unwrap();
    assert!(after.ends_with(b"\r\n\r\n/woNCg==\r\n"), "{}", String::from_utf8_lossy(&after));
    let bare = convert(b"Subject: x\r\n\r\na\nb\r\n", Body::Binary, Body::EightBitMime);
    assert!(bare.unwrap_err().contains("CR or LF"));
}

#[test]
fn what_cannot_be_converted_is_told_and_not_touched() {
    let multipart = |subtype: &str, parts: &str| {
        format!("MIME-Version: 1.0\r\nContent-Type: multipart/{subtype}; boundary=b\r\n\r\n{parts}")
    };
    for (content, word) in [
        ("Subject: ü\r\n\r\nü\r\n".to_owned(), "header"),
        (multipart("mixed", "--b\r\nX: ü\r\n\r\nx\r\n--b--\r\n"), "header"),
        (multipart("signed", "--b\r\n\r\nü\r\n--b\r\n\r\nx\r\n--b--\r\n"), "signed"),
        (multipart("encrypted", "--b\r\n\r\nü\r\n--b--\r\n"), "signed"),
        (
            multipart(
                "signed",
                "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nü\r\n--c--\r\n--b--\r\n",
            ),
            "signed",
        ),
        (multipart("signed", "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\nü\r\n--b--\r\n"), "signed"),
        (multipart("mixed", "ü\r\n--b\r\n\r\nx\r\n--b--\r\n"), "outside"),
        (multipart("mixed", "--b\r\n\r\nx\r\n--b--\r\nü\r\n"), "outside"),
        (multipart("mixed", "--b\r\nContent-Transfer-Encoding: base64\r\n\r\nü\r\n--b--\r\n"), "encoded"),
        (multipart("mixed", "--b\r\nContent-Type: message/delivery-status\r\n\r\nX: ü\r\n--b--\r\n"), "must not be"),
        ("Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\nü\r\n".to_owned(), "outside"),
        (multipart("mixed", "--b\r\n\r\nü\r\n--bx\r\n--b--\r\n"), "ambiguous"),
        (multipart("mixed", &format!("--b\r\n\r\nü\r\n--b{}\r\n--b--\r\n", " ".repeat(2000))), "ambiguous"),
        (
            multipart(
                "mixed",
                "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nx\r\n--b\r\n\r\nü\r\n--b--\r\n",
            ),
            "boundary",
        ),
        ("Content-Type: text/plain\r\nno field\r\n\r\nü\r\n".to_owned(), "malformed"),
        ("Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\nü\r\n".to_owned(), "malformed"),
        ("Subject: x\r\n\r\nü\nx\r\n".to_owned(), "CR or LF"),
    ] {
        let why = seven_bit(&content).unwrap_err();
        assert!(why.contains(word), "{content}: {why}");
        // without a single 8-bit character, it is nobody's business
        let ascii = content.replace('ü', "u");
        assert_eq!(seven_bit(&ascii).unwrap(), ascii);
    }
}

#[test]
fn structure_is_bounded() {
    let mut deep = "MIME-Version: 1.0\r\n".to_owned();
    for level in 0..10_000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary={level}x\r\n\r\n--{level}x\r\n"));
    }
    deep.push_str("\r\nü\r\n");
    assert!(seven_bit(&deep).unwrap_err().contains("outside"));
    let many =
        format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n", "--b\r\n\r\nü\r\n".repeat(10_001));
    assert!(seven_bit(&many).unwrap_err().contains("too many"));
}

/// Quoted-printable, decoded.
fn unquoted(text: &str) -> String {
    let joined = text.replace("=\r\n", "");
    let (mut octets, mut rest) = (Vec::new(), joined.as_bytes());
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let encoded = digits.filter(|_| *first == b'=').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        octets.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(octets).unwrap()
}

#[test]
fn a_line_that_is_wrapped_never_becomes_a_delimiter_line() {
    for length in 60..90 {
        let content = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{}--b\r\nü{}--b--\r\n--b--\r\n",
            "x".repeat(length),
            " ".repeat(length)
        );
        let after = seven_bit(&content).unwrap();
        let body = |text: &str| {
            text.split_once("\r\n--b\r\n").unwrap().1.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
        };
        assert!(after.lines().filter(|line| line.starts_with("--")).count() == 2, "{after}");
        assert_eq!(unquoted(&body(&after).unwrap()), content.split_once("--b\r\n\r\n").unwrap().1, "{length}");
    }
}

#[test]
fn only_headers_make_a_message_need_smtputf8() {
    let ascii = |content: &str| survey(content.as_bytes(), &[]).has_ascii_headers();
    assert!(ascii("Subject: x\r\n\r\nü\r\n"));
    assert!(!ascii("Subject: ü\r\n\r\nx\r\n"));
    assert!(!ascii("Content-Type: message/rfc822\r\n\r\nSubject: ü\r\n\r\nx\r\n"));
    assert!(!ascii("Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\nX: ü\r\n\r\nx\r\n--b--\r\n"));
    assert!(!ascii("Content-Type: multipart/mixed\r\n\r\n--b\r\nX: ü\r\n\r\nx\r\n--b--\r\n"));
    assert!(ascii("Content-Type: multipart/mixed\r\n\r\n--b\r\nX: u\r\n\r\nx\r\n--b--\r\n"));
}

/// Content that is made of what matters.
fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "\r\n",
        "\r\n",
        "\r\n",
        "\r",
        "\n",
        "-",
        "--",
        "--b",
        "--b--",
        "--cc",
        "--cc--",
        " ",
        "\t",
        "ü",
        "x",
        "=",
        ".",
        "From: Ada <a@old.example>\r\n",
        "From: a@local.example\r\n",
        "Reply-To: x\r\n",
        "\r\n--b\r\n",
        "\r\n--cc\r\n",
        "\r\n--b--\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Type: multipart/mixed;\r\n boundary=cc\r\n",
        "Content-Type: multipart/signed; boundary=cc\r\n",
        "Content-Type: message/rfc822\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Transfer-Encoding: 8bit\r\n",
        "Content-Transfer-Encoding: binary\r\n",
        "Content-Transfer-Encoding: base64\r\n",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40)
        .prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_chunking_gives_the_same(content in any_content(), chunks in proptest::collection::vec(1usize..9, 0..200)) {
        let (one, other) = (survey(&content, &[]), survey(&content, &chunks));
        prop_assert_eq!(one.has_ascii_headers(), other.has_ascii_headers());
        for declared in [Body::SevenBit, Body::Binary] {
            for takes in [Body::SevenBit, Body::EightBitMime] {
                let fit = one.fit(declared, takes);
                prop_assert_eq!(&fit, &other.fit(declared, takes));
                if let Ok(Fit { plan, .. }) = fit {
                    let whole = adapt(&content, Some(Rules), plan.clone(), &[]);
                    prop_assert_eq!(&whole, &adapt(&content, Some(Rules), plan, &chunks));
                }
            }
        }
    }

    #[test]
    fn what_is_not_to_be_changed_stays(content in any_content(), chunks in proptest::collection::vec(1usize..9, 0..200)) {
        let nothing = Plan { body: Body::Binary, quoted_printable: Vec::new(), base64: Vec::new() };
        prop_assert_eq!(&adapt(&content, Some(Nobody), Some(nothing), &chunks), &content);
        prop_assert_eq!(&adapt(&content, Some(Nobody), None, &chunks), &content);
    }

    #[test]
    fn what_is_converted_is_ascii_and_stays_so(content in any_content()) {
        if let Ok(after) = convert(&content, Body::SevenBit, Body::SevenBit) {
            prop_assert!(after.is_ascii());
            prop_assert_eq!(&convert(&after, Body::SevenBit, Body::SevenBit).unwrap(), &after);
        }
    }

    #[test]
    fn text_comes_back_from_another_parser(text in "[ -~üé\t\r\n]{0,400}") {
        let text = text.replace(['\r', '\n'], "\r\n");
        let content = format!("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}");
        let after = convert(content.as_bytes(), Body::SevenBit, Body::SevenBit).unwrap();
        prop_assert_eq!(decoded(&after), decoded(content.as_bytes()));
    }
}
