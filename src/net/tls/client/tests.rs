use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::{AskClients, Oldest, Secured, ServerTls};
use super::*;

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("issuer {}", uuid::Uuid::new_v4()));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity(
    name: &str,
    by: &CertifiedIssuer<'_, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Arc<Identity> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    Arc::new(Identity::load(&params.signed_by(&key, by).unwrap().pem(), &key.serialize_pem()).unwrap())
}

type Ended = (Result<(TlsStream<DuplexStream>, Agreed), TlsFault>, io::Result<Secured>);

/// Both sides; what the client says is read, so that a refusal of TLS 1.3 shows.
async fn meet(tls: &Arc<ClientTls>, check: Check, name: &str, server: &ServerTls) -> Ended {
    let (near, far) = tokio::io::duplex(1 << 16);
    let handshake = Handshake { tls: tls.clone(), name: server_name(name).unwrap(), check };
    let server = async {
        let (mut stream, secured) = server.accept(far).await?;
        stream.write_all(b"x").await?;
        Ok(secured)
    };
    let both = async { tokio::join!(handshake.run(near), server) };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap()
}

fn server(identity: &Arc<Identity>) -> ServerTls {
    ServerTls::new(std::slice::from_ref(identity), Oldest::Tls12, AskClients::No).unwrap()
}

#[tokio::test]
async fn a_certificate_is_good_for_its_name_of_a_known_issuer_and_in_its_time() {
    let (known, stranger) = (issuer(), issuer());
    let tls = Arc::new(ClientTls::new(Some(&known.pem()), None).unwrap());
    let old = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    for (identity, asked, good) in [
        (identity("mx.example", &known, |_| {}), "mx.example", true),
        (identity("mx.example", &known, |_| {}), "MX.example.", true),
        (identity("*.d.example", &known, |_| {}), "mx.d.example", true),
        (identity("192.0.2.1", &known, |_| {}), "192.0.2.1", true),
        (identity("other.example", &known, |_| {}), "mx.example", false),
        (identity("mx.example", &known, |_| {}), "192.0.2.1", false),
        (identity("mx.example", &stranger, |_| {}), "mx.example", false),
        (identity("mx.example", &known, old), "mx.example", false),
    ] {
        let server = server(&identity);
        let (checked, _) = meet(&tls, Check::Name, asked, &server).await;
        match checked {
            Ok((_, agreed)) => assert!(good && agreed.verified && agreed.version == "TLSv1.3", "{identity:?} {asked}"),
            Err(why) => assert!(!good && why.words.contains("certificate"), "{identity:?} {asked}: {why}"),
        }
        let (unchecked, _) = meet(&tls, Check::Nothing, asked, &server).await;
        let (_, agreed) = unchecked.unwrap();
        assert!(!agreed.verified && agreed.cipher.starts_with("TLS_"));
        assert_eq!(agreed.chain[0].fingerprint, identity.facts().fingerprint);
    }
}

#[tokio::test]
async fn a_server_may_sign_for_itself_when_its_certificate_was_given() {
    let signed = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
        change(&mut params);
        let pem = params.self_signed(&key).unwrap().pem();
        (Arc::new(Identity::load(&pem, &key.serialize_pem()).unwrap()), pem)
    };
    // as `openssl req -x509` makes them
    let as_issuer = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let over = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let not_yet = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    for (change, asked, good) in [
        ((|_| {}) as fn(&mut CertificateParams), "mx.example", true),
        (as_issuer, "mx.example", true),
        (as_issuer, "other.example", false),
        (over, "mx.example", false),
        (not_yet, "mx.example", false),
    ] {
        let (identity, pem) = signed(change);
        let given = Arc::new(ClientTls::new(Some(&pem), None).unwrap());
        let (checked, _) = meet(&given, Check::Name, asked, &server(&identity)).await;
        assert_eq!(checked.is_ok(), good, "{identity:?} {asked}: {:?}", checked.err());
        // the same names of another key
        let (other, _) = signed(change);
        let (checked, _) = meet(&given, Check::Name, asked, &server(&other)).await;
        assert!(checked.is_err());
    }
}

#[tokio::test]
async fn the_system_does_not_trust_our_issuers_and_what_was_not_checked_is_not_resumed_as_if_it_were() {
    let known = issuer();
    let server = server(&identity("mx.example", &known, |_| {}));
    let tls = Arc::new(ClientTls::default());
    for _ in 0..2 {
        let (unchecked, _) = meet(&tls, Check::Nothing, "mx.example", &server).await;
        // the ticket comes behind the handshake
        unchecked.unwrap().0.read_exact(&mut [0]).await.unwrap();
    }
    let (checked, _) = meet(&tls, Check::Name, "mx.example", &server).await;
    assert!(checked.is_err());
}

#[tokio::test]
async fn our_own_certificate_is_shown_to_who_asks() {
    let known = issuer();
    let pem = known.pem();
    let own = identity("client.example", &known, |_| {});
    let of_server = identity("mx.example", &known, |_| {});
    let server = ServerTls::new(std::slice::from_ref(&of_server), Oldest::Tls12, AskClients::Must(&pem)).unwrap();
    let with = Arc::new(ClientTls::new(Some(&pem), Some(own.clone())).unwrap());
    let without = Arc::new(ClientTls::new(Some(&pem), None).unwrap());
    for check in [Check::Nothing, Check::Name] {
        let (_, secured) = meet(&with, check.clone(), "mx.example", &server).await;
        assert_eq!(secured.unwrap().client.unwrap().fingerprint, own.facts().fingerprint);
        assert!(meet(&without, check, "mx.example", &server).await.1.is_err());
    }
    assert!(with != without && with.is_made_of(Some(&pem), Some(&*own)) && !with.is_made_of(None, Some(&*own)));
    assert!(!format!("{with:?}").contains("PRIVATE"));
}

#[test]
fn what_cannot_be_trusted_or_asked_for() {
    assert!(ClientTls::new(Some("no PEM"), None).unwrap_err().contains("no PEM certificate"));
    for host in ["mx.example", "mx.example.", "192.0.2.1", "2001:db8::1", "under_score.example"] {
        assert!(server_name(host).is_some(), "{host}");
    }
    for host in ["", "a b", "ü.example", "[192.0.2.1]"] {
        assert!(server_name(host).is_none(), "{host}");
    }
}

#[tokio::test]
async fn what_is_only_tried_holds_and_tells_its_doubt() {
    let (known, stranger) = (issuer(), issuer());
    let tls = Arc::new(ClientTls::new(Some(&known.pem()), None).unwrap());
    let old = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    for (identity, doubt) in [
        (identity("mx.example", &known, |_| {}), None),
        (identity("other.example", &known, |_| {}), Some(TlsFaultKind::HostMismatch)),
        (identity("mx.example", &stranger, |_| {}), Some(TlsFaultKind::NotTrusted)),
        (identity("mx.example", &known, old), Some(TlsFaultKind::Expired)),
    ] {
        let (tried, _) = meet(&tls, Check::Tried, "mx.example", &server(&identity)).await;
        let agreed = tried.unwrap().1;
        assert_eq!(agreed.doubt.map(|doubt| doubt.kind), doubt);
        assert!(!agreed.verified, "nothing follows from it");
        let (checked, _) = meet(&tls, Check::Name, "mx.example", &server(&identity)).await;
        assert_eq!(checked.err().map(|fault| fault.kind), doubt);
    }
}
