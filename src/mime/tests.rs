//! What holds whatever comes in: chunking, memory, what stays. What comes out for which sender and structure, is below.

use std::collections::VecDeque;

use bytes::Bytes;
use mail_parser::{MessageParser, PartType};
use proptest::prelude::*;

use super::walk::MAX_FIELD;
use super::*;
use crate::smtp::address::Mailbox;
use crate::smtp::parameters::Body;

mod conversion;
mod senders;

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
        // 100 MB in the first line of all, less where it takes longer
        let many = if start.is_empty() { 1600 } else { 160 };
        for chunk in std::iter::once(Bytes::copy_from_slice(start)).chain(std::iter::repeat_n(chunk.clone(), many)) {
            let mut out = VecDeque::new();
            survey.push(&chunk);
            adapter.push(chunk, &mut out);
            octets += out.iter().map(Bytes::len).sum::<usize>();
            assert!(adapter.held() <= 3 * MAX_FIELD, "{}", adapter.held());
        }
        assert!(octets >= many << 16, "{octets}");
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
    let some =
        |words: &[&'static str], most| proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..most);
    // often a header that is one, so that there is something to convert
    let header = ["From: Ada <a@old.example>\r\n", "Content-Type: multipart/mixed; boundary=b\r\n", "X: y\r\n z\r\n"];
    (some(&header, 3), any::<bool>(), some(&words, 40)).prop_map(|(header, end, words)| {
        format!("{}{}{}", header.concat(), if end { "\r\n" } else { "" }, words.concat()).into_bytes()
    })
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
