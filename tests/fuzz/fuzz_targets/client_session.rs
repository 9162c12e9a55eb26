//! The client's session against a hostile server: each transaction has one result for each recipient, nothing is delivered whose
//! dot was not sent, texts of the peer are cleaned and bounded, what is sent holds no CR or LF that stands alone.

#![no_main]

use bridgehead_fuzz::client::{Work, play};
use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::smtp::client::{Encryption, Hello, Login, Settings, Transaction};
use bridgehead_fuzz::smtp::sasl::client::{Credentials, Mechanism};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let bits = input.byte();
    let mut settings = Settings::new("c.example");
    settings.pipelining = bits & 1 == 0;
    settings.pipeline_transactions = bits & 2 == 0;
    settings.hello = if bits & 4 == 0 { Hello::Ehlo } else { Hello::Helo };
    let recipients = 1 + usize::from(bits >> 4 & 3);
    let transaction = |number: usize| Transaction {
        reverse_path: "a@b.example".parse().expect("valid"),
        parameters: Default::default(),
        recipients: (0..recipients)
            .map(|at| (format!("r{at}@d{number}.example").parse().expect("valid"), Default::default()))
            .collect(),
        size: 7,
        treatment: Default::default(),
    };
    let more = input.byte();
    settings.encryption = match more >> 4 & 3 {
        0 => Encryption::None,
        1 => Encryption::Opportunistic,
        2 => Encryption::Required,
        _ => Encryption::Implicit,
    };
    let mechanism = match more >> 6 {
        0 => None,
        1 => Some(Mechanism::Plain),
        2 => Some(Mechanism::Login),
        _ => Some(Mechanism::ScramSha256),
    };
    settings.login = mechanism.map(|mechanism| Login {
        credentials: Credentials::new(mechanism, "user", "pencil").expect("valid"),
        nonce: "nonce".to_owned(),
        in_clear: bits & 8 != 0,
    });
    let length = usize::from(input.byte());
    let cuts = input.take(3);
    let work = Work {
        transactions: (0..1 + usize::from(more & 3)).map(transaction).collect(),
        content: chunks(input.take(length), cuts),
        content_fails: more & 4 != 0,
    };
    let wire = input.rest();
    // as it comes, or as a server would: a reply at a time
    let wire = if bits & 8 == 0 { replies(wire) } else { chunks(wire, cuts) };
    play(settings, work, &wire, more & 8 != 0);
});

/// Cut behind each last line of a reply.
fn replies(wire: &[u8]) -> Vec<&[u8]> {
    let mut chunks: Vec<&[u8]> = Vec::new();
    let (mut from, mut line) = (0, 0);
    for (at, octet) in wire.iter().enumerate() {
        if *octet == b'\n' {
            if wire.get(line + 3) != Some(&b'-') {
                chunks.push(&wire[from..=at]);
                from = at + 1;
            }
            line = at + 1;
        }
    }
    if from < wire.len() {
        chunks.push(&wire[from..]);
    }
    chunks
}
