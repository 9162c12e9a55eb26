//! Lines and commands: any chunking gives the same lines; any line is parsed under any grammar, refusals are 5xx; what a command
//! says about mail is the same when it is written and read again.

#![no_main]

use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::smtp::address::Domain;
use bridgehead_fuzz::smtp::command::{self, Command, Grammar};
use bridgehead_fuzz::smtp::extension::Extensions;
use bridgehead_fuzz::smtp::line::{Line, LineReader};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let bits = input.byte();
    let cuts = input.take(3);
    let wire = input.rest();
    let limit = if bits & 1 == 0 { 512 } else { 20 };
    let lines = read(limit, chunks(wire, cuts));
    assert_eq!(lines, read(limit, chunks(wire, &[0])), "another chunking, other lines");
    let local: Domain = "local.example".parse().expect("valid");
    let every = Extensions { atrn: true, ..Extensions::default() };
    let few = Extensions { smtputf8: false, dsn: false, size: false, chunking: false, ..every };
    for line in &lines {
        let Line::Command(line) = line else { continue };
        for extensions in [&every, &few] {
            let grammar = Grammar {
                lmtp: bits & 2 != 0,
                start_tls: bits & 4 != 0,
                auth: bits & 8 != 0,
                smtputf8: bits & 16 != 0,
                completion: (bits & 32 != 0).then_some(&local),
                ..Grammar::new(extensions)
            };
            let parsed = command::parse(line, &grammar);
            assert!(parsed.argument <= line.len());
            match parsed.command {
                Err(reply) => assert!(reply.code >= 500 && !reply.text.contains(['\r', '\n'])),
                Ok(Command::Helo(name) | Command::Ehlo(name) | Command::Lhlo(name) | Command::Etrn(name)) => {
                    assert!(!name.is_empty() && name.bytes().all(|b| b > b' ' && b < 127));
                }
                Ok(Command::Vrfy(what)) => assert!(!what.chars().any(char::is_control)),
                Ok(_) => {}
            }
        }
    }
});

fn read(limit: usize, chunks: Vec<&[u8]>) -> Vec<Line> {
    let (mut reader, mut input, mut lines) = (LineReader::new(limit), BytesMut::new(), Vec::new());
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            match reader.next(&mut input) {
                Line::NeedMore => break,
                line => lines.push(line),
            }
        }
        assert!(input.len() <= limit, "{} octets are kept of a line", input.len());
    }
    lines
}
