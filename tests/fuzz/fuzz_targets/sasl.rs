//! SASL: whatever a client says, an exchange comes to its end in a few steps; nobody is let in whose password, proof or token was not
//! believed; names and passwords that come out are prepared, without control characters; no debug print shows a secret.
//!
//! A client that knows the password is played too: it gets in by SCRAM, and by no other password.

#![no_main]

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bridgehead_fuzz::input::Input;
use bridgehead_fuzz::smtp::sasl::oauth::BearerError;
use bridgehead_fuzz::smtp::sasl::scram::{ChannelBindings, ScramKeys, hmac};
use bridgehead_fuzz::smtp::sasl::{Credentials, Exchange, Mechanism, Step, prepare};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const NONCE: &str = "3rfcNHYJY1ZVvWVs7j";

fuzz_target!(init: known_vector(), |octets: &[u8]| {
    let mut input = Input::new(octets);
    let mechanism = Mechanism::ALL[usize::from(input.byte()) % Mechanism::ALL.len()];
    let bits = input.byte();
    if bits & 16 != 0 {
        return honest(input.rest());
    }
    let bindings = ChannelBindings {
        tls_server_end_point: (bits & 1 != 0).then(|| vec![7; 32]),
        tls_exporter: (bits & 2 != 0).then(|| vec![9; 32]),
        plus_offered: bits & 4 != 0,
    };
    let believed = bits & 8 != 0;
    let next = |input: &mut Input<'_>| {
        let length = usize::from(input.byte());
        input.take(length).to_vec()
    };
    let initial = (bits & 32 == 0).then(|| next(&mut input));
    let (mut exchange, mut step) = Exchange::start(mechanism, initial.as_deref(), bindings);
    let mut verified = false;
    for _ in 0..12 {
        step = match step {
            Step::Challenge(challenge) => {
                assert!(challenge.len() <= 4096);
                exchange.respond(&next(&mut input))
            }
            Step::Verify(credentials) => {
                check(&credentials);
                verified = true;
                exchange.verdict(if believed { Ok(()) } else { Err(BearerError::InvalidToken) })
            }
            Step::NeedScramKeys { username } => {
                clean(&username);
                let keys = ScramKeys { salt: vec![1; 16], iterations: 4096, stored_key: [2; 32], server_key: [3; 32] };
                exchange.scram_keys(keys, NONCE)
            }
            Step::Proven { .. } => panic!("a proof for a key that nobody has"),
            Step::Done => {
                assert!(verified && believed, "let in and not believed");
                return over(exchange);
            }
            Step::Fail(_) => return over(exchange),
        };
    }
    panic!("the exchange does not end");
});

/// What is over stays over.
fn over(mut exchange: Exchange) {
    assert!(matches!(exchange.respond(b""), Step::Fail(_)));
    assert!(matches!(exchange.verdict(Ok(())), Step::Fail(_)));
}

fn check(credentials: &Credentials) {
    let printed = format!("{credentials:?}");
    match credentials {
        Credentials::Password { username, password } => {
            clean(username);
            assert!(!username.is_empty() && !password.chars().any(char::is_control));
            assert_eq!(printed, format!("Password({username:?}, …)"), "nothing of a password is printed");
        }
        Credentials::Token { username, .. } => {
            username.iter().for_each(|name| clean(name));
            assert_eq!(printed, format!("Token({username:?}, …)"), "nothing of a token is printed");
        }
    }
}

fn clean(name: &str) {
    assert!(!name.chars().any(char::is_control), "{name:?}");
}

/// SCRAM by a client that knows the password, and by one that thinks that it does.
fn honest(password: &[u8]) {
    let text = String::from_utf8_lossy(password);
    let Ok(password) = prepare(&text) else { return };
    let iterations = NonZeroU32::MIN.saturating_add(1);
    let salt = [5; 16];
    let keys = ScramKeys::derive(&password, &salt, iterations);
    for (tried, gets_in) in [(password.clone(), true), (format!("{password}x"), false)] {
        let bare = "n=user,r=abc";
        let (mut exchange, step) =
            Exchange::start(Mechanism::ScramSha256, Some(format!("n,,{bare}").as_bytes()), ChannelBindings::default());
        assert_eq!(step, Step::NeedScramKeys { username: "user".to_owned() });
        let Step::Challenge(first) = exchange.scram_keys(keys.clone(), NONCE) else { panic!("no challenge") };
        let first = String::from_utf8(first).expect("ASCII");
        let last = format!("c=biws,r=abc{NONCE}");
        let proof = proof(&tried, &salt, iterations, &format!("{bare},{first},{last}"));
        let step = exchange.respond(format!("{last},p={}", STANDARD.encode(proof)).as_bytes());
        if !gets_in {
            assert!(matches!(step, Step::Fail(_)), "in with a wrong password");
            continue;
        }
        assert!(matches!(&step, Step::Challenge(signature) if signature.starts_with(b"v=")), "{step:?}");
        assert_eq!(exchange.respond(b""), Step::Proven { username: "user".to_owned() });
    }
}

fn proof(password: &str, salt: &[u8], iterations: NonZeroU32, signed: &str) -> [u8; 32] {
    let mut salted = [0; 32];
    aws_lc_rs::pbkdf2::derive((), iterations, salt, password.as_bytes(), &mut salted);
    let client_key = hmac(&salted, &[b"Client Key"]);
    let stored: [u8; 32] = Sha256::digest(client_key).into();
    let signature = hmac(&stored, &[signed.as_bytes()]);
    std::array::from_fn(|at| client_key[at] ^ signature[at])
}

/// RFC 7677, 3: the stand-in for PBKDF2 computes what the standard says.
fn known_vector() {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
    let signed = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                  c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = proof("pencil", &salt, NonZeroU32::MIN.saturating_add(4095), signed);
    assert_eq!(STANDARD.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
}
