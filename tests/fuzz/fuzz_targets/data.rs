//! The content of DATA, both ways. The decoder finds the end and the text that a second opinion finds, in any chunking; what
//! the encoder writes, of whatever octets, holds no CR or LF that stands alone, and the decoder reads it back.

#![no_main]

use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::reference;
use bridgehead_fuzz::smtp::data::{BareLineEnds, Decoder, Encoder, Piece};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let cuts = input.take(3);
    let wire = input.rest();
    for mode in [BareLineEnds::Refuse, BareLineEnds::Normalise] {
        for cuts in [cuts, &[0], &[]] {
            decodes(mode, wire, cuts);
        }
    }
    encodes(wire, cuts);
});

fn decodes(mode: BareLineEnds, wire: &[u8], cuts: &[u8]) {
    let (text, left, decoder) = decode(mode, wire, cuts);
    let Some(end) = reference::end_of_data(wire) else {
        assert!(left.is_none(), "ended without an end");
        return;
    };
    assert_eq!(left, Some(wire.len() - end), "the content ends where it ends");
    let expected = reference::message(&wire[..end]);
    assert_eq!(decoder.has_bare_line_ends(), reference::has_bare(&expected));
    match mode {
        BareLineEnds::Refuse => assert_eq!(text, expected),
        BareLineEnds::Normalise => assert_eq!(text, reference::normalise(&expected)),
    }
}

fn encodes(content: &[u8], cuts: &[u8]) {
    let mut wires = Vec::new();
    for cuts in [cuts, &[0], &[]] {
        let mut encoder = Encoder::default();
        let mut wire = Vec::new();
        for chunk in chunks(content, cuts) {
            wire.extend_from_slice(&encoder.encode(Bytes::copy_from_slice(chunk)));
        }
        wire.extend_from_slice(encoder.finish());
        wires.push(wire);
    }
    assert!(wires.iter().all(|wire| *wire == wires[0]), "another chunking, another content");
    let wire = &wires[0];
    assert!(!reference::has_bare(wire), "a CR or LF that stands alone leaves");
    assert_eq!(reference::end_of_data(wire), Some(wire.len()), "one end, at the end");
    let (text, left, _) = decode(BareLineEnds::Refuse, wire, cuts);
    let mut expected = reference::normalise(content);
    if !expected.is_empty() && !expected.ends_with(b"\r\n") {
        expected.extend_from_slice(b"\r\n");
    }
    assert_eq!((text, left), (expected, Some(0)), "what was written is not what is read");
}

/// The text, and how many octets are left behind the end, if there was one.
fn decode(mode: BareLineEnds, wire: &[u8], cuts: &[u8]) -> (Vec<u8>, Option<usize>, Decoder) {
    let mut decoder = Decoder::new(mode, 1000);
    let (mut input, mut text, mut fed) = (BytesMut::new(), Vec::new(), 0);
    for chunk in chunks(wire, cuts) {
        input.extend_from_slice(chunk);
        fed += chunk.len();
        loop {
            match decoder.next(&mut input) {
                Piece::Text(piece) => {
                    assert!(!piece.is_empty());
                    text.extend_from_slice(&piece);
                }
                Piece::NeedMore => {
                    assert!(input.len() <= 2, "{} octets are held back", input.len());
                    break;
                }
                Piece::End => return (text, Some(input.len() + wire.len() - fed), decoder),
            }
        }
    }
    (text, None, decoder)
}
