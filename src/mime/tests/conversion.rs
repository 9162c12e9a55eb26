//! What parts become for a next hop that takes less, and what is left as it is.

use super::*;

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
    let bare = convert(b"Subject: x\nX: y\r\n\r\na\r\n", Body::Binary, Body::EightBitMime);
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
        (multipart("mixed", "--b\r\n\r\nü\r\n--b\n\r\n--b--\r\n"), "ambiguous"),
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
