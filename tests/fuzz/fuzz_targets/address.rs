//! Addresses: what is valid has the lengths of RFC 5321 and no control characters, and is the same when it is written and read again.

#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use bridgehead_fuzz::smtp::address::{Domain, ForwardPath, MAX_DOMAIN, MAX_LOCAL_PART, MAX_PATH, Mailbox, ReversePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let text = String::from_utf8_lossy(octets);
    if let Some(mailbox) = round::<Mailbox>(&text) {
        check(&mailbox);
        assert_eq!(mailbox.to_string().parse::<Mailbox>().map(|again| again.key()), Ok(mailbox.key()));
    }
    if let Some(domain) = round::<Domain>(&text) {
        assert!(domain.to_string().len() <= MAX_DOMAIN + 10);
        // any text is a local part, when it is quoted as it has to be
        if let Ok(mailbox) = Mailbox::new(&text, domain) {
            check(&mailbox);
        }
    }
    round::<ReversePath>(&text);
    round::<ForwardPath>(&text);
    let domain: Domain = "example.net".parse().expect("valid");
    if let Ok(mailbox) = Mailbox::new(&text, domain) {
        check(&mailbox);
        assert_eq!(mailbox.local(), text);
    }
});

fn check(mailbox: &Mailbox) {
    let text = mailbox.to_string();
    assert!(mailbox.local().len() <= MAX_LOCAL_PART && text.len() <= MAX_PATH - 2);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(text.parse().as_ref(), Ok(mailbox), "{text:?}");
}

fn round<T: FromStr<Err: PartialEq + std::fmt::Debug> + Display + PartialEq + std::fmt::Debug>(
    text: &str,
) -> Option<T> {
    let value: T = text.parse().ok()?;
    let written = value.to_string();
    assert!(!written.chars().any(char::is_control), "{written:?}");
    assert_eq!(written.parse::<T>().as_ref(), Ok(&value), "{written:?}");
    Some(value)
}
