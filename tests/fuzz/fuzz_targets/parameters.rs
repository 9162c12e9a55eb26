//! Parameters of MAIL and RCPT: what was understood is the same when it is written for a peer that offers everything and read again;
//! xtext carries any text of printable ASCII.

#![no_main]

use bridgehead_fuzz::smtp::command::{self, Command, Grammar};
use bridgehead_fuzz::smtp::extension::{Extensions, Offer, PeerExtensions};
use bridgehead_fuzz::smtp::parameters::{MAX_ENVID, MAX_ORCPT, decode_utf8_xtext, decode_xtext, encode_xtext};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let text = String::from_utf8_lossy(octets);
    let extensions = Extensions::default();
    let grammar = Grammar { smtputf8: true, auth: true, ..Grammar::new(&extensions) };
    let lines = extensions.lines(&Offer { tls_active: true, ..Offer::default() });
    let peer = PeerExtensions::parse(lines.iter().map(String::as_str));
    let read = |line: &str| command::parse(line.as_bytes(), &grammar).command.ok();

    if let Some(Command::Mail(sender, parameters)) = read(&format!("MAIL FROM:<a@b.example> {text}")) {
        let envid = parameters.envid.as_ref();
        assert!(
            envid.is_none_or(|envid| envid.len() <= MAX_ENVID && envid.bytes().all(|b| (b' '..=b'~').contains(&b)))
        );
        let mut line = format!("MAIL FROM:<{sender}>");
        parameters.write(parameters.size.unwrap_or(0), &peer, &mut line);
        assert!(!line.chars().any(char::is_control));
        let mut expected = parameters;
        expected.size = expected.size.filter(|size| *size > 0);
        // it is never passed on
        expected.hold = None;
        assert_eq!(read(&line), Some(Command::Mail(sender, expected)), "{line:?}");
    }
    if let Some(Command::Rcpt(recipient, parameters)) = read(&format!("RCPT TO:<a@b.example> {text}")) {
        let mut line = format!("RCPT TO:<{recipient}>");
        parameters.write(&peer, &mut line);
        assert!(!line.chars().any(char::is_control));
        // an ORCPT of UTF-8 grows when it is escaped, and may then be longer than it may be
        if line.len() <= MAX_ORCPT {
            assert_eq!(read(&line), Some(Command::Rcpt(recipient, parameters)), "{line:?}");
        }
    }
    if let Some(decoded) = decode_xtext(&text) {
        let mut encoded = String::new();
        encode_xtext(&decoded, &mut encoded);
        assert_eq!(decode_xtext(&encoded), Some(decoded));
    }
    if let Some(decoded) = decode_utf8_xtext(&text) {
        assert!(!decoded.chars().any(char::is_control));
    }
});
