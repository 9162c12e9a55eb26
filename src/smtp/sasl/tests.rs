//! The mechanisms as their documents show them, and what must never happen on any input.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::scram::hmac;
use super::*;

fn start(mechanism: Mechanism, initial: &[u8]) -> (Exchange, Step) {
    Exchange::start(mechanism, Some(initial), ChannelBindings::default())
}

fn password(username: &str, password: &str) -> Step {
    let (username, password) = (username.to_owned(), Zeroizing::new(password.to_owned()));
    Step::Verify(Credentials::Password { username, password })
}

fn token(username: Option<&str>, token: &str) -> Step {
    let (username, token) = (username.map(str::to_owned), Zeroizing::new(token.to_owned()));
    Step::Verify(Credentials::Token { username, token })
}

fn keys(password: &str, salt: &[u8]) -> ScramKeys {
    ScramKeys::derive(password, salt, NonZeroU32::new(4096).unwrap())
}

#[test]
fn names_are_known_in_any_case_and_only_these() {
    for mechanism in Mechanism::ALL {
        assert_eq!(mechanism.keyword().to_lowercase().parse(), Ok(mechanism));
    }
    for unknown in ["", "CRAM-MD5", "SCRAM-SHA-1", "PLAIN ", "NTLM", "ANONYMOUS"] {
        assert_eq!(unknown.parse::<Mechanism>(), Err(UnknownMechanism));
    }
    assert!(Mechanism::OauthBearer.is_plaintext() && !Mechanism::ScramSha256.is_plaintext());
}

#[test]
fn plain() {
    let first = |message: &[u8]| start(Mechanism::Plain, message).1;
    assert_eq!(first(b"\0tim\0tanstaaftanstaaf"), password("tim", "tanstaaftanstaaf"));
    assert_eq!(first(b"tim\0tim\0secret"), password("tim", "secret"));
    assert_eq!(first("\0ada\0pa\u{aa}\u{ad}ss".as_bytes()), password("ada", "paass"), "prepared");
    assert_eq!(first(b"Ursel\0Kurt\0xipj3plmq"), Step::Fail(SaslError::AuthorizationIdentity));
    for malformed in [&b""[..], b"tim", b"\0tim"] {
        assert_eq!(first(malformed), Step::Fail(SaslError::Malformed), "{malformed:?}");
    }
    // an empty name, a NUL in the password, not UTF-8, control characters
    for identity in [&b"\0\0secret"[..], b"\0tim\0sec\0ret", b"\0tim\0\xff", b"\0t\x07m\0x", b"a\rb\0tim\0x"] {
        assert_eq!(first(identity), Step::Fail(SaslError::Identity), "{identity:?}");
    }
    let (mut exchange, step) = Exchange::start(Mechanism::Plain, None, ChannelBindings::default());
    assert_eq!(step, Step::Challenge(Vec::new()));
    assert_eq!(exchange.respond(b"\0tim\0x"), password("tim", "x"));
    assert_eq!(exchange.verdict(Err(BearerError::InvalidToken)), Step::Fail(SaslError::Refused));
    assert_eq!(exchange.verdict(Ok(())), Step::Fail(SaslError::Malformed), "only once");
}

#[test]
fn login() {
    let (mut exchange, step) = Exchange::start(Mechanism::Login, None, ChannelBindings::default());
    assert_eq!(step, Step::Challenge(b"Username:".to_vec()));
    assert_eq!(exchange.respond(b"tim"), Step::Challenge(b"Password:".to_vec()));
    assert_eq!(exchange.respond(b"secret"), password("tim", "secret"));
    assert_eq!(exchange.verdict(Ok(())), Step::Done);
    let (mut exchange, step) = start(Mechanism::Login, b"tim");
    assert_eq!(step, Step::Challenge(b"Password:".to_vec()));
    assert_eq!(exchange.respond(b"a\0b"), Step::Fail(SaslError::Identity));
    assert_eq!(exchange.respond(b"secret"), Step::Fail(SaslError::Malformed), "it is over");
    assert_eq!(start(Mechanism::Login, b"").1, Step::Fail(SaslError::Identity));
}

/// RFC 7677, section 3.
#[test]
fn scram_as_in_the_rfc() {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let (mut exchange, step) = start(Mechanism::ScramSha256, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    assert_eq!(step, Step::NeedScramKeys { username: "user".to_owned() });
    let step = exchange.scram_keys(keys("pencil", &salt), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(step, Step::Challenge(expected.into()));
    let step = exchange.respond(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    );
    assert_eq!(step, Step::Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec()));
    assert_eq!(exchange.respond(b""), Step::Proven { username: "user".to_owned() });
}

/// A SCRAM client, written against the RFC: gives the last step.
fn scram(header: &str, binding: &[u8], plus: bool, offered: ChannelBindings, right: bool) -> Step {
    let mechanism = if plus { Mechanism::ScramSha256Plus } else { Mechanism::ScramSha256 };
    let bare = "n=ada=2C=3D,r=abc";
    let (mut exchange, step) = Exchange::start(mechanism, Some(format!("{header}{bare}").as_bytes()), offered);
    if !matches!(step, Step::NeedScramKeys { .. }) {
        return step;
    }
    assert_eq!(step, Step::NeedScramKeys { username: "ada,=".to_owned() });
    let Step::Challenge(server) = exchange.scram_keys(keys("secret", b"salt"), "def") else { panic!("a challenge") };
    let server = String::from_utf8(server).unwrap();
    assert_eq!(server, "r=abcdef,s=c2FsdA==,i=4096");
    let mut salted = [0; 32];
    let password = if right { "secret" } else { "Secret" };
    let iterations = NonZeroU32::new(4096).unwrap();
    aws_lc_rs::pbkdf2::derive(
        aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        b"salt",
        password.as_bytes(),
        &mut salted,
    );
    let client_key = hmac(&salted, &[b"Client Key"]);
    let stored_key = Sha256::digest(client_key);
    let last = format!("c={},r=abcdef", STANDARD.encode([header.as_bytes(), binding].concat()));
    let signature = hmac(&stored_key, &[format!("{bare},{server},{last}").as_bytes()]);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    match exchange.respond(format!("{last},p={}", STANDARD.encode(proof)).as_bytes()) {
        Step::Challenge(last) => {
            let signed =
                format!("{bare},{server},c={},r=abcdef", STANDARD.encode([header.as_bytes(), binding].concat()));
            let server_key = hmac(&salted, &[b"Server Key"]);
            let expected = format!("v={}", STANDARD.encode(hmac(&server_key, &[signed.as_bytes()])));
            assert_eq!(String::from_utf8(last).unwrap(), expected, "the server proves itself too");
            exchange.respond(b"")
        }
        step => step,
    }
}

#[test]
fn scram_binds_to_the_channel() {
    let proven = Step::Proven { username: "ada,=".to_owned() };
    let refused = Step::Fail(SaslError::ChannelBinding);
    let without = ChannelBindings::default();
    let tls = ChannelBindings {
        tls_server_end_point: Some(b"hash".to_vec()),
        tls_exporter: Some(b"exporter".to_vec()),
        plus_offered: true,
    };
    assert_eq!(scram("n,,", b"", false, without.clone(), true), proven);
    assert_eq!(scram("y,,", b"", false, without.clone(), true), proven, "we offered none");
    assert_eq!(scram("n,a=ada=2C=3D,", b"", false, without.clone(), true), proven);
    assert_eq!(scram("n,,", b"", false, tls.clone(), true), proven);
    assert_eq!(scram("p=tls-server-end-point,,", b"hash", true, tls.clone(), true), proven);
    assert_eq!(scram("p=tls-exporter,,", b"exporter", true, tls.clone(), true), proven);

    assert_eq!(scram("n,,", b"", false, tls.clone(), false), Step::Fail(SaslError::Refused), "a wrong password");
    assert_eq!(scram("y,,", b"", false, tls.clone(), true), refused, "somebody took -PLUS out of our offer");
    assert_eq!(scram("p=tls-exporter,,", b"another", true, tls.clone(), true), refused, "another connection");
    assert_eq!(scram("p=tls-exporter,,", b"", true, tls.clone(), true), refused);
    assert_eq!(scram("p=tls-unique,,", b"hash", true, tls.clone(), true), refused);
    assert_eq!(scram("p=tls-exporter,,", b"exporter", false, tls.clone(), true), refused, "not -PLUS");
    assert_eq!(scram("n,,", b"", true, tls.clone(), true), refused, "-PLUS without a binding");
    assert_eq!(scram("p=tls-exporter,,", b"exporter", true, without, true), refused, "without TLS");
    assert_eq!(scram("n,a=bob,", b"", false, tls, true), Step::Fail(SaslError::AuthorizationIdentity));
}

#[test]
fn scram_refuses_what_is_malformed() {
    for first in [
        &b""[..],
        b"n",
        b"n,,",
        b"n,,r=abc",
        b"n,,n=ada",
        b"n,,n=ada,r=",
        b"n,,n=a=da,r=abc",
        b"n,,m=x,n=ada,r=abc",
        b"x,,n=ada,r=abc",
        b"n,b=x,n=ada,r=abc",
        b"n,,n=ada,r=a c",
        b"n,,n=\xff,r=abc",
    ] {
        assert_eq!(start(Mechanism::ScramSha256, first).1, Step::Fail(SaslError::Malformed), "{first:?}");
    }
    assert_eq!(start(Mechanism::ScramSha256, b"n,,n=,r=abc").1, Step::Fail(SaslError::Identity));
    assert_eq!(start(Mechanism::ScramSha256, b"n,,n=a\0b,r=abc").1, Step::Fail(SaslError::Identity));
    for last in [&b""[..], b"c=biws,r=abcdef", b"c=biws,r=abcxyz,p=", b"c=biws,r=abc,p=QQ==", b"p=QQ==", b"c=biws,p=!"]
    {
        let (mut exchange, _) = start(Mechanism::ScramSha256, b"n,,n=ada,r=abc");
        exchange.scram_keys(keys("x", b"salt"), "def");
        assert_eq!(exchange.respond(last), Step::Fail(SaslError::Malformed), "{last:?}");
    }
    // another nonce, with a proof of the right length
    let (mut exchange, _) = start(Mechanism::ScramSha256, b"n,,n=ada,r=abc");
    exchange.scram_keys(keys("x", b"salt"), "def");
    let last = format!("c=biws,r=abc,p={}", STANDARD.encode([0; 32]));
    assert_eq!(exchange.respond(last.as_bytes()), Step::Fail(SaslError::Malformed));
    // calls out of turn
    let (mut exchange, _) = start(Mechanism::ScramSha256, b"n,,n=ada,r=abc");
    assert_eq!(exchange.respond(b"x"), Step::Fail(SaslError::Malformed));
    assert_eq!(exchange.scram_keys(keys("x", b"salt"), "def"), Step::Fail(SaslError::Malformed));
}

#[test]
fn oauthbearer() {
    let first = |message: &str| start(Mechanism::OauthBearer, message.as_bytes()).1;
    let known = "n,a=user@example.com,\x01host=server.example.com\x01port=587\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
    assert_eq!(first(known), token(Some("user@example.com"), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="));
    assert_eq!(first("n,,\x01auth=bearer a.b-c\x01\x01"), token(None, "a.b-c"));
    assert_eq!(first("y,a=a=2Cb,\x01auth=Bearer x\x01\x01"), token(Some("a,b"), "x"));
    for malformed in [
        "",
        "n,,",
        "n,,\x01",
        "n,,\x01\x01",
        "n,,\x01auth=Bearer x\x01",
        "n,,\x01auth=Bearer x",
        "n,,\x01auth=Basic x\x01\x01",
        "n,,\x01auth=Bearer \x01\x01",
        "n,,\x01auth=Bearer x y\x01\x01",
        "n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01",
        "p=tls-exporter,,\x01auth=Bearer x\x01\x01",
        "n,x,\x01auth=Bearer x\x01\x01",
        "n,a=b,c\x01auth=Bearer x\x01\x01",
        "n,a=a=2,\x01auth=Bearer x\x01\x01",
    ] {
        assert_eq!(first(malformed), Step::Fail(SaslError::Malformed), "{malformed:?}");
    }
    let (mut exchange, _) = start(Mechanism::OauthBearer, known.as_bytes());
    let step = exchange.verdict(Err(BearerError::InvalidToken));
    assert_eq!(step, Step::Challenge(br#"{"status":"invalid_token"}"#.to_vec()));
    assert_eq!(exchange.respond(b"\x01"), Step::Fail(SaslError::Refused));
    let (mut exchange, _) = start(Mechanism::OauthBearer, known.as_bytes());
    assert_eq!(exchange.verdict(Ok(())), Step::Done);
}

#[test]
fn xoauth2() {
    let known = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01";
    let (mut exchange, step) = start(Mechanism::Xoauth2, known);
    assert_eq!(step, token(Some("someuser@example.com"), "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"));
    let Step::Challenge(reason) = exchange.verdict(Err(BearerError::InvalidToken)) else { panic!("a challenge") };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&reason).unwrap()["status"], "401");
    assert_eq!(exchange.respond(b""), Step::Fail(SaslError::Refused));
    for malformed in [&b""[..], b"user=a", b"user=a\x01auth=Bearer x", b"auth=Bearer x\x01\x01", b"user=a\x01x\x01\x01"]
    {
        assert_eq!(start(Mechanism::Xoauth2, malformed).1, Step::Fail(SaslError::Malformed), "{malformed:?}");
    }
    assert_eq!(start(Mechanism::Xoauth2, b"user=\x01auth=Bearer x\x01\x01").1, Step::Fail(SaslError::Identity));
    assert_eq!(start(Mechanism::Xoauth2, b"user=a\0\x01auth=Bearer x\x01\x01").1, Step::Fail(SaslError::Identity));
}

#[test]
fn nothing_secret_is_printed() {
    let (exchange, step) = start(Mechanism::Plain, b"\0ada\0letmein");
    assert!(!format!("{exchange:?} {step:?} {:?}", keys("letmein", b"salt")).contains("letmein"));
    let (_, step) = start(Mechanism::Xoauth2, b"user=a\x01auth=Bearer sesame\x01\x01");
    assert!(!format!("{step:?}").contains("sesame"));
}

/// Octets as a client may send them: parts of real messages in any order.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(&b"\0"[..]),
        Just(&b","[..]),
        Just(&b"n,,n=ada,r=abc"[..]),
        Just(&b"p=tls-exporter,"[..]),
        Just(&b"a=ada=2C"[..]),
        Just(&b"c=biws,r=abcdef,p="[..]),
        Just(&b"\x01auth=Bearer x\x01\x01"[..]),
        Just(&b"user=ada"[..]),
        Just(&b"="[..]),
        Just(&b"\xc3\xa9"[..]),
    ];
    let any = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![any, proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())]
}

proptest! {
    #[test]
    fn no_input_panics_loops_or_gets_in(
        mechanism in proptest::sample::select(&Mechanism::ALL[..]),
        sent in proptest::collection::vec(messages(), 1..6),
        with_initial in any::<bool>(),
    ) {
        let mut sent = sent.into_iter();
        let initial = if with_initial { sent.next() } else { None };
        let bindings = ChannelBindings { tls_exporter: Some(b"x".to_vec()), ..ChannelBindings::default() };
        let (mut exchange, mut step) = Exchange::start(mechanism, initial.as_deref(), bindings);
        for _ in 0..10 {
            step = match step {
                Step::Challenge(_) => match sent.next() {
                    Some(message) => exchange.respond(&message),
                    None => break,
                },
                Step::Verify(_) => exchange.verdict(Err(BearerError::InvalidToken)),
                Step::NeedScramKeys { .. } => {
                    let keys = ScramKeys { salt: vec![1], iterations: 1, stored_key: [7; 32], server_key: [7; 32] };
                    exchange.scram_keys(keys, "def")
                }
                Step::Fail(_) => break,
                Step::Proven { .. } | Step::Done => panic!("nobody may get in"),
            };
        }
        prop_assert!(matches!(step, Step::Challenge(_) | Step::Fail(_)));
    }

    #[test]
    fn plain_gives_back_what_was_sent(name in "[ -~]{1,30}", secret in "[ -~]{0,30}") {
        let message = format!("\0{name}\0{secret}");
        prop_assert_eq!(start(Mechanism::Plain, message.as_bytes()).1, password(&name, &secret));
    }
}
