//! A whole session: arbitrary octets, chunking, settings and answers. The same octets give the same replies and messages for any
//! chunking; the content ends where a second opinion says; one reply per command; memory bounded; every loop ends. Then
//! once more with time-outs, failures and answers that nobody asked for, where only the promises about rest and replies hold.

#![no_main]

use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::server::{Bench, in_chunks, octet_by_octet, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let settings = settings(&mut input);
    let length = usize::from(input.byte() % 16);
    let policy = input.take(length);
    let cuts = input.take(4);
    let wire = input.rest();

    let (slow, stops) = octet_by_octet(&settings, policy, wire);
    for cuts in [cuts, &[]] {
        let quick = in_chunks(&settings, policy, wire, &stops, cuts);
        assert_eq!(quick.events, slow.events, "another chunking, another session");
        assert_eq!(String::from_utf8_lossy(&quick.out), String::from_utf8_lossy(&slow.out));
    }

    let mut chaos = Bench::connected(settings, policy);
    let mut whims = cuts.iter().cycle();
    for chunk in chunks(wire, cuts) {
        chaos.feed(chunk);
        if let Some(whim) = whims.next() {
            chaos.interfere(*whim);
        }
    }
    chaos.end();
    chaos.codes();
});
