//! Content on its way out: any chunking gives the same, what is not to be changed stays, what is converted is what the next
//! hop takes and needs no second conversion.

#![no_main]

use std::collections::VecDeque;

use bridgehead_fuzz::input::{Input, chunks};
use bridgehead_fuzz::mime::{Adapter, Fit, Plan, SenderChange, Senders, Survey};
use bridgehead_fuzz::reference;
use bridgehead_fuzz::smtp::address::Mailbox;
use bridgehead_fuzz::smtp::parameters::Body;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// The first letter decides.
struct Rules;

impl Senders for Rules {
    fn change(&self, sender: &Mailbox) -> Option<SenderChange> {
        match sender.local().as_bytes()[0] {
            b'a' => Some(SenderChange::Domain("m.example".parse().expect("valid"))),
            b'b' => Some(SenderChange::Mailbox("box@m.example".parse().expect("valid"))),
            b'c' => Some(SenderChange::Mailbox(sender.clone())),
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

fuzz_target!(|octets: &[u8]| {
    let mut input = Input::new(octets);
    let cuts = input.take(3);
    let content = input.rest();
    let (one, other) = (survey(content, &[]), survey(content, cuts));
    assert_eq!(one.has_ascii_headers(), other.has_ascii_headers());
    for declared in [Body::SevenBit, Body::EightBitMime, Body::Binary] {
        for takes in [Body::SevenBit, Body::EightBitMime, Body::Binary] {
            let fit = one.fit(declared, takes);
            assert_eq!(fit, other.fit(declared, takes), "another chunking, another judgement");
            let Ok(Fit { body, plan }) = fit else { continue };
            let senders = adapt(content, Some(Rules), plan.clone(), &[]);
            assert_eq!(senders, adapt(content, Some(Rules), plan.clone(), cuts), "another chunking, another content");
            let converts = plan.is_some();
            let out = adapt(content, Some(Nobody), plan, cuts);
            if !converts {
                assert_eq!(out, content, "changed for nothing");
            }
            if takes == Body::SevenBit {
                assert!(out.is_ascii());
            }
            if declared == Body::Binary && takes != Body::Binary {
                assert!(!reference::has_bare(&out), "lines end where none did");
            }
            let again = survey(&out, &[]).fit(body, takes).expect("it was converted to that");
            assert_eq!(again, Fit { body, plan: None });
        }
    }
});

fn survey(content: &[u8], cuts: &[u8]) -> Survey {
    let mut survey = Survey::default();
    chunks(content, cuts).into_iter().for_each(|chunk| survey.push(chunk));
    survey.finish();
    survey
}

fn adapt<S: Senders>(content: &[u8], senders: Option<S>, plan: Option<Plan>, cuts: &[u8]) -> Vec<u8> {
    let mut adapter = Adapter::new(senders, plan);
    let mut out = VecDeque::new();
    for chunk in chunks(content, cuts) {
        adapter.push(Bytes::copy_from_slice(chunk), &mut out);
    }
    adapter.finish(&mut out);
    out.into_iter().flatten().collect()
}
