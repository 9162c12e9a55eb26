//! STARTTLS, implicit TLS and AUTH.

use super::*;
use crate::smtp::sasl::client::{Credentials, Fault, Mechanism};

const OFFERS: &[u8] = b"250-mx.example\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n250 PIPELINING\r\n";
/// As a server answers inside TLS.
const INSIDE: &[u8] = b"250-mx.example\r\n250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n250 SIZE 1000\r\n";
const MAIL: &str = "MAIL FROM:<a@b.example> SIZE=7\r\n";

fn login(mechanism: Mechanism) -> Login {
    Login {
        credentials: Credentials::new(mechanism, "user", "pencil").unwrap(),
        nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
        in_clear: false,
    }
}

/// Past the banner.
fn begun(encryption: Encryption, mechanism: Option<Mechanism>) -> Bench {
    let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| {
        settings.encryption = encryption;
        settings.login = mechanism.map(login);
    });
    bench.say(b"220 mx.example\r\n");
    let first = if encryption == Encryption::Implicit { "<TLS>EHLO c.example\r\n" } else { "EHLO c.example\r\n" };
    assert_eq!(bench.take(), first);
    bench
}

/// Past STARTTLS and the second EHLO.
fn secured(mechanism: Option<Mechanism>) -> Bench {
    let mut bench = begun(Encryption::Required, mechanism);
    bench.say(OFFERS);
    assert_eq!(bench.take(), "STARTTLS\r\n");
    bench.say(b"220 go\r\n");
    assert_eq!(bench.take(), "<TLS>EHLO c.example\r\n");
    bench.say(INSIDE);
    bench
}

#[test]
fn starttls_then_ehlo_again_and_what_was_offered_in_clear_is_forgotten() {
    let mut bench = secured(None);
    assert!(bench.opened && bench.session.is_encrypted());
    let peer = bench.session.extensions();
    assert!(!peer.pipelining && !peer.starttls && peer.size == Some(Some(1000)));
    assert_eq!(bench.take(), MAIL, "without PIPELINING, which was offered in clear only");
    // where TLS was there from the beginning, STARTTLS is not used even if it is offered
    let mut bench = begun(Encryption::Implicit, None);
    bench.say(OFFERS);
    assert!(bench.opened && bench.take().starts_with("MAIL"));
}

/// hostile.md, next hops: `220 go\r\n250 AUTH PLAIN\r\n` in one segment on STARTTLS.
#[test]
fn text_behind_the_220_is_never_used_inside_tls() {
    for behind in [&b"250 AUTH PLAIN\r\n"[..], b"250-mx\r\n250 AUTH PLAIN\r\n", b"2", b"\0", b"\r\n"] {
        for encryption in [Encryption::Opportunistic, Encryption::Required] {
            let mut bench = begun(encryption, Some(Mechanism::Plain));
            bench.say(OFFERS);
            bench.take();
            bench.say(&[b"220 go\r\n", behind].concat());
            assert_eq!(bench.take(), "", "no handshake: {behind:?}");
            assert_eq!(bench.failed, Some(OpenError::Broken { phase: Phase::StartTls, cause: Cause::Garbage }));
            assert!(bench.closed && bench.taken == 0);
        }
    }
    // the 220 itself, before STARTTLS was said
    let mut bench = begun(Encryption::Required, None);
    bench.say(&[OFFERS, b"220 go\r\n"].concat());
    assert_eq!((bench.take().as_str(), bench.closed), ("", true));
    assert_eq!(bench.failed, Some(OpenError::Broken { phase: Phase::Hello, cause: Cause::Garbage }));
}

#[test]
fn what_is_required_and_not_to_be_had() {
    for (said, opens) in [(&b"454 4.7.0 not now\r\n"[..], true), (b"502 5.5.1 what\r\n", true), (b"421 bye\r\n", false)]
    {
        for encryption in [Encryption::Opportunistic, Encryption::Required] {
            let mut bench = begun(encryption, None);
            bench.say(OFFERS);
            assert_eq!(bench.take(), "STARTTLS\r\n");
            bench.say(said);
            let opens = opens && encryption == Encryption::Opportunistic;
            assert_eq!(bench.opened, opens, "{encryption:?} {said:?}");
            assert_eq!(bench.take().starts_with("MAIL"), opens);
            if !opens {
                let phase = Phase::StartTls;
                assert!(matches!(bench.failed, Some(OpenError::Refused { phase: at, .. }) if at == phase));
            }
        }
    }
    for (hello, ehlo) in [(Hello::Ehlo, &b"250 mx.example\r\n"[..]), (Hello::Helo, b"250 mx.example\r\n")] {
        for encryption in [Encryption::None, Encryption::Opportunistic, Encryption::Required] {
            let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| {
                settings.hello = hello;
                settings.encryption = encryption;
            });
            bench.say(b"220 x\r\n");
            bench.take();
            bench.say(ehlo);
            assert_eq!(bench.opened, encryption != Encryption::Required);
            assert_eq!(bench.take().is_empty(), encryption == Encryption::Required, "nothing in clear");
            let expected = (encryption == Encryption::Required).then_some(OpenError::NoStartTls);
            assert_eq!(bench.failed, expected);
        }
    }
}

#[test]
fn a_handshake_that_fails_ends_the_session() {
    for encryption in [Encryption::Opportunistic, Encryption::Required, Encryption::Implicit] {
        let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| settings.encryption = encryption);
        if encryption == Encryption::Implicit {
            bench = Bench::with(vec![], |_| {});
            bench.session = Session::new(Settings { encryption, ..Settings::new("c.example") });
        }
        bench.no_tls = Some("no cipher");
        bench.say(if encryption == Encryption::Implicit { b"" } else { b"220 x\r\n" });
        if encryption != Encryption::Implicit {
            bench.say(OFFERS);
            bench.say(b"220 go\r\n");
        }
        assert_eq!(bench.failed, Some(OpenError::Handshake("no cipher".into())));
        assert!(bench.closed && bench.take().ends_with("<TLS>") && bench.taken == 0);
    }
}

#[test]
fn starttls_is_cut_silent_or_garbage() {
    let broken = |cause| Some(OpenError::Broken { phase: Phase::StartTls, cause });
    let asked = || {
        let mut bench = begun(Encryption::Opportunistic, None);
        bench.say(OFFERS);
        bench
    };
    let mut bench = asked();
    bench.cut();
    assert_eq!(bench.failed, broken(Cause::Cut));
    let mut bench = asked();
    bench.session.timeout();
    bench.run();
    assert_eq!(bench.failed, broken(Cause::TimedOut));
    for garbage in [&b"250 ok\r\n"[..], b"334 x\r\n", b"2x0\r\n"] {
        let mut bench = asked();
        bench.say(garbage);
        assert_eq!(bench.failed, broken(Cause::Garbage));
    }
}

#[test]
fn plain_and_login() {
    let mut bench = secured(Some(Mechanism::Plain));
    assert!(!bench.opened);
    assert_eq!(bench.take(), "AUTH PLAIN AHVzZXIAcGVuY2ls\r\n");
    bench.say(b"235 2.7.0 in\r\n");
    assert!(bench.opened);
    assert_eq!(bench.take(), MAIL);

    let mut bench = secured(Some(Mechanism::Login));
    for (said, sent) in [
        (&b""[..], "AUTH LOGIN\r\n"),
        (b"334 VXNlcm5hbWU6\r\n", "dXNlcg==\r\n"),
        (b"334 whatever\r\n", "cGVuY2ls\r\n"),
        (b"235 in\r\n", MAIL),
    ] {
        bench.say(said);
        assert_eq!(bench.take(), sent);
    }
    // a name and password that do not fit beside the command follow it
    let long = "p".repeat(400);
    let mut bench = Bench::with(vec![], |settings| {
        settings.encryption = Encryption::Implicit;
        let credentials = Credentials::new(Mechanism::Plain, "user", &long).unwrap();
        settings.login = Some(Login { credentials, ..login(Mechanism::Plain) });
    });
    bench.say(b"220 x\r\n");
    bench.say(INSIDE);
    assert!(bench.take().ends_with("AUTH PLAIN\r\n"));
    bench.say(b"334\r\n");
    assert_eq!(bench.take().len(), (6 + 400_usize).div_ceil(3) * 4 + 2);
}

/// RFC 7677, section 3, in the dress of RFC 4954.
#[test]
fn scram_proves_both_sides() {
    let challenge = |text: &str| format!("334 {}\r\n", encoded(text)).into_bytes();
    let to_proof = || {
        let mut bench = secured(Some(Mechanism::ScramSha256));
        assert_eq!(bench.take(), format!("AUTH SCRAM-SHA-256 {}\r\n", encoded("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")));
        bench.say(&challenge("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(bench.take(), format!("{}\r\n", encoded(last)));
        bench
    };
    let mut bench = to_proof();
    bench.say(&challenge("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    assert_eq!(bench.take(), "\r\n");
    bench.say(b"235 in\r\n");
    assert!(bench.opened);
    // a server that lets us in without its proof, or with a wrong one, is not the one that knows the password
    let wrong = challenge("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=");
    for said in [&b"235 in\r\n"[..], &wrong, b"334 ???\r\n", b"334\r\n"] {
        let mut bench = to_proof();
        bench.say(said);
        let why = LoginError::Fault(Fault::NotProven);
        assert_eq!(bench.failed, Some(OpenError::Login { mechanism: Mechanism::ScramSha256, why }));
        assert!(bench.closed && !bench.opened && bench.taken == 0);
    }
    let mut bench = secured(Some(Mechanism::ScramSha256));
    bench.say(&challenge("r=rOprNGfwEbeRWgbNEkqO%x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000"));
    let why = LoginError::Fault(Fault::Iterations(4_000_000));
    assert_eq!(bench.failed, Some(OpenError::Login { mechanism: Mechanism::ScramSha256, why }));
}

#[test]
fn a_token_that_is_refused_with_a_reason() {
    let offers = b"250-mx.example\r\n250 AUTH XOAUTH2 OAUTHBEARER\r\n";
    let refused = format!("334 {}\r\n", encoded(r#"{"status":"401","schemes":"bearer"}"#)).into_bytes();
    for (mechanism, shown, nothing) in [
        (Mechanism::Xoauth2, "AUTH XOAUTH2 dXNlcj11c2VyAWF1dGg9QmVhcmVyIHBlbmNpbAEB\r\n", "\r\n"),
        (Mechanism::OauthBearer, "AUTH OAUTHBEARER bixhPXVzZXIsAWF1dGg9QmVhcmVyIHBlbmNpbAEB\r\n", "AQ==\r\n"),
    ] {
        let shows = || {
            let mut bench = begun(Encryption::Implicit, Some(mechanism));
            bench.say(offers);
            assert_eq!(bench.take(), shown);
            bench
        };
        let mut bench = shows();
        bench.say(b"235 in\r\n");
        assert!(bench.opened);
        let mut bench = shows();
        bench.say(&refused);
        assert_eq!(bench.take(), nothing);
        bench.say(b"535 5.7.8 no pencil\r\n");
        let Some(OpenError::Login { why, .. }) = &bench.failed else { panic!("{:?}", bench.failed) };
        assert_eq!(why.to_string(), "535 5.7.8 (status 401)");
        assert!(why.is_about_credentials() && bench.closed && bench.taken == 0);
        // let in after all: that is not what was said
        let mut bench = shows();
        bench.say(&refused);
        bench.say(b"235 in\r\n");
        let why = LoginError::Fault(Fault::Malformed);
        assert_eq!(bench.failed, Some(OpenError::Login { mechanism, why }));
        // refused for now, which another token does not mend
        let mut bench = shows();
        bench.say(b"454 4.7.0 later\r\n");
        let Some(OpenError::Login { why, .. }) = &bench.failed else { panic!("{:?}", bench.failed) };
        assert!(!why.is_about_credentials());
    }
}

fn encoded(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_login_that_fails_sends_no_mail() {
    let refused = |bench: &Bench| match &bench.failed {
        Some(OpenError::Login { why: LoginError::Refused(reply), .. }) => reply.to_string(),
        other => panic!("{other:?}"),
    };
    for said in ["535 5.7.8 no", "454 4.7.0 later", "421 4.3.2 bye", "534 5.7.9 too weak"] {
        let mut bench = secured(Some(Mechanism::Plain));
        bench.take();
        bench.say(format!("{said}\r\n").as_bytes());
        assert_eq!(refused(&bench), said);
        assert!(bench.closed && bench.take().is_empty() && bench.taken == 0);
    }
    // what a server says back is not told
    for text in ["pencil is wrong", "AHVzZXIAcGVuY2ls", "no cGVuY2ls"] {
        let mut bench = secured(Some(Mechanism::Plain));
        bench.say(format!("535 5.7.8 {text}\r\n").as_bytes());
        assert_eq!(refused(&bench), "535 5.7.8");
    }
    // not offered inside TLS, whatever was said before
    let mut bench = begun(Encryption::Required, Some(Mechanism::ScramSha256));
    bench.say(OFFERS);
    bench.say(b"220 go\r\n");
    bench.say(b"250-mx\r\n250 AUTH PLAIN\r\n");
    let why = LoginError::NotOffered;
    assert_eq!(bench.failed, Some(OpenError::Login { mechanism: Mechanism::ScramSha256, why }));
    for (said, cause) in [(&b"250 ok\r\n"[..], Cause::Garbage), (b"x\r\n", Cause::Garbage), (b"235 in\r\n", Cause::Cut)]
    {
        let mut bench = secured(Some(Mechanism::Login));
        if cause == Cause::Cut {
            bench.cut()
        } else {
            bench.say(said)
        }
        assert_eq!(bench.failed, Some(OpenError::Broken { phase: Phase::Auth, cause }));
    }
    // let in before the password was asked for
    let mut bench = secured(Some(Mechanism::Login));
    bench.say(b"235 in\r\n");
    assert!(matches!(bench.failed, Some(OpenError::Login { why: LoginError::Fault(Fault::Malformed), .. })));
}

#[test]
fn nothing_of_a_login_goes_in_clear_unless_that_was_said() {
    for encryption in [Encryption::None, Encryption::Opportunistic] {
        for in_clear in [false, true] {
            let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| {
                settings.encryption = encryption;
                settings.login = Some(Login { in_clear, ..login(Mechanism::Plain) });
            });
            bench.say(b"220 x\r\n");
            bench.say(b"250-mx\r\n250 AUTH PLAIN\r\n");
            assert_eq!(bench.take().contains("AUTH"), in_clear);
            let expected = OpenError::Login { mechanism: Mechanism::Plain, why: LoginError::InClear };
            assert_eq!(bench.failed, (!in_clear).then_some(expected));
        }
    }
}

#[test]
fn no_step_and_no_session_shows_a_password() {
    for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256] {
        let mut session = Session::new(Settings {
            encryption: Encryption::Implicit,
            login: Some(login(mechanism)),
            ..Settings::new("c.example")
        });
        let mut shown = String::new();
        for said in [&b"220 x\r\n"[..], INSIDE, b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n"] {
            session.buffer().extend_from_slice(said);
            loop {
                let step = session.next(Instant::now());
                shown += &format!("{session:?} {step:?}\n");
                match step {
                    Step::StartTls => session.tls_started(),
                    Step::NeedInput { .. } | Step::Close => break,
                    _ => {}
                }
            }
        }
        assert!(shown.contains("SendSecret(…)"), "{shown}");
        assert!(!shown.contains("pencil") && !shown.contains("cGVuY2ls"), "{shown}");
    }
}

fn peer() -> impl Strategy<Value = Vec<u8>> {
    let reply = prop_oneof![
        4 => Just(OFFERS), 4 => Just(INSIDE), 4 => Just(&b"220 go\r\n"[..]), 4 => Just(&b"235 in\r\n"[..]),
        3 => Just(&b"334 VXNlcm5hbWU6\r\n"[..]), 2 => Just(&b"250 ok\r\n"[..]), 1 => Just(&b"354 go\r\n"[..]),
        1 => Just(&b"535 no\r\n"[..]), 1 => Just(&b"454 no\r\n"[..]), 1 => Just(&b"25"[..]), 1 => Just(&b"\0"[..]),
    ];
    proptest::collection::vec(reply, 0..14).prop_map(|replies| replies.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However a peer cuts what it says: no mail before what was asked for, no handshake with text behind it.
    #[test]
    fn whatever_a_peer_says_nothing_is_sent_too_early(
        said in peer(),
        size in 1usize..60,
        offered_first in any::<bool>(),
        encryption in prop_oneof![
            Just(Encryption::None), Just(Encryption::Opportunistic), Just(Encryption::Required), Just(Encryption::Implicit)
        ],
        mechanism in prop_oneof![Just(None), Just(Some(Mechanism::Plain)), Just(Some(Mechanism::Login))],
    ) {
        let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| {
            settings.encryption = encryption;
            settings.login = mechanism.map(login);
        });
        bench.say(b"220 x\r\n");
        if offered_first {
            bench.say(OFFERS);
        }
        for chunk in said.chunks(size) {
            bench.say(chunk);
        }
        bench.cut();
        prop_assert!(bench.closed && bench.results.len() == bench.taken);
        let sent = bench.take();
        let at = |what: &str| sent.find(what);
        if let Some(mail) = at("MAIL FROM") {
            if matches!(encryption, Encryption::Required | Encryption::Implicit) {
                prop_assert!(at("<TLS>").is_some_and(|tls| tls < mail), "{}", sent);
            }
            if mechanism.is_some() {
                prop_assert!(at("AUTH ").is_some_and(|auth| auth < mail), "{}", sent);
            }
        }
        if let Some(auth) = at("AUTH ") {
            prop_assert!(at("<TLS>").is_some_and(|tls| tls < auth), "{}", sent);
        }
        prop_assert!(bench.opened || bench.failed.is_some());
    }
}
