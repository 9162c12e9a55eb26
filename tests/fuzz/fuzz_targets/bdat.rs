//! BDAT (RFC 3030). Whatever the octets of a chunk are, exactly as many as were announced are content, in and out of a
//! transaction, over the limit or not: every command behind a chunk is read as one, and what is taken is what was sent.

#![no_main]

use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::reference;
use bridgehead_fuzz::server::{Bench, Event};
use bridgehead_fuzz::smtp::server::{BareLineEnds, Settings};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 300;

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let bits = input.byte();
    let normalise = bits & 1 != 0;
    let mut settings = Settings::new("mx.example");
    settings.bare_line_ends = if normalise { BareLineEnds::Normalise } else { BareLineEnds::Refuse };
    // a message that is normalised grows, and the limit is on what is stored
    settings.max_size = (!normalise).then_some(MAX as u64);
    settings.max_text_line = 0;
    (settings.max_errors, settings.soft_errors, settings.max_idle_commands) = (u32::MAX, u32::MAX, u32::MAX);
    let limit = (!normalise).then_some(MAX);
    let lines = if normalise { Lines::Normalise } else { Lines::Refuse };
    let cuts = input.take(3);

    let mut wire = Vec::new();
    let (mut codes, mut messages) = (Vec::new(), Vec::new());
    // the message under way, when there is a transaction, and whether lines mean nothing in it
    let mut open: Option<Vec<u8>> = None;
    let mut binary = false;
    while !input.is_empty() {
        match input.byte() {
            kind @ 0..=31 if open.is_none() => {
                binary = kind > 15;
                let body = if binary { " BODY=BINARYMIME" } else { "" };
                wire.extend_from_slice(
                    format!("MAIL FROM:<a@b.example>{body}\r\nRCPT TO:<c@d.example>\r\n").as_bytes(),
                );
                codes.extend([250, 250]);
                open = Some(Vec::new());
            }
            32..=39 => {
                wire.extend_from_slice(b"RSET\r\n");
                codes.push(250);
                open = None;
            }
            40..=47 => {
                wire.extend_from_slice(b"NOOP\r\n");
                codes.push(250);
            }
            kind => {
                let announced = usize::from(input.byte());
                let content = input.take(announced);
                let last = kind & 1 != 0;
                let end = if last { " LAST" } else { "" };
                wire.extend_from_slice(format!("BDAT {}{end}\r\n", content.len()).as_bytes());
                wire.extend_from_slice(content);
                let lines = if binary { Lines::Any } else { lines };
                codes.push(chunk(&mut open, content, last, limit, lines, &mut messages));
            }
        }
    }
    wire.extend_from_slice(b"NOOP\r\nQUIT\r\n");
    codes.extend([250, 221]);

    let mut bench = Bench::open(settings, &[]);
    bench.feed(b"EHLO c.example\r\n");
    let before = bench.codes().len();
    for piece in chunks(&wire, cuts) {
        bench.feed(piece);
    }
    assert_eq!(bench.codes()[before..], codes, "out of step");
    let taken = bench.events.iter().filter_map(|event| match event {
        Event::Commit(content) => Some(content),
        _ => None,
    });
    assert!(taken.eq(&messages), "what was taken is not what was sent");
});

/// What becomes of a CR or LF that stands alone.
#[derive(Clone, Copy, PartialEq)]
enum Lines {
    Refuse,
    Normalise,
    Any,
}

/// What has to come of a chunk.
fn chunk(
    open: &mut Option<Vec<u8>>,
    content: &[u8],
    last: bool,
    limit: Option<usize>,
    lines: Lines,
    messages: &mut Vec<Vec<u8>>,
) -> u16 {
    let Some(message) = open else { return 503 };
    message.extend_from_slice(content);
    // what a CR at the end of a chunk means, the next one tells
    let decided = if last { &message[..] } else { message.strip_suffix(b"\r").unwrap_or(message) };
    if limit.is_some_and(|limit| message.len() > limit) {
        *open = None;
        return 552;
    }
    if lines == Lines::Refuse && reference::has_bare(decided) {
        *open = None;
        return 550;
    }
    if last {
        messages.push(if lines == Lines::Normalise { reference::normalise(message) } else { message.clone() });
        *open = None;
    }
    250
}
