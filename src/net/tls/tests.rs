use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::Sha384;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate for these names, signed by its own key: chain and key as PEM.
fn pair(names: &[&str], key: &KeyPair) -> (String, String) {
    let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    (params.self_signed(key).unwrap().pem(), key.serialize_pem())
}

fn ecdsa() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn identity(names: &[&str]) -> Arc<Identity> {
    let (chain, key) = pair(names, &ecdsa());
    Arc::new(Identity::load(&chain, &key).unwrap())
}

/// A client that trusts these.
fn client(identities: &[Arc<Identity>], versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for identity in identities {
        roots.add(identity.key().cert[0].clone()).unwrap();
    }
    ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

type Ended = io::Result<(tokio_rustls::client::TlsStream<DuplexStream>, TlsStream<DuplexStream>, Secured)>;

async fn handshake(server: &ServerTls, client: ClientConfig, host: &str) -> Ended {
    let (near, far) = tokio::io::duplex(1 << 16);
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let both = async { tokio::join!(connector.connect(name, near), server.accept(far)) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    let (stream, secured) = server?;
    Ok((client?, stream, secured))
}

const ALL: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_host_it_names() {
    let identities = [identity(&["first.example"]), identity(&["*.wild.example"]), identity(&["a.wild.example"])];
    let server = ServerTls::new(&identities, Oldest::Tls12, AskClients::No).unwrap();
    for (host, chosen) in [("first.example", 0), ("b.wild.example", 1), ("a.wild.example", 2)] {
        let (client, _, secured) = handshake(&server, client(&identities, ALL), host).await.unwrap();
        let shown = &client.get_ref().1.peer_certificates().unwrap()[0];
        assert_eq!(*shown, identities[chosen].key().cert[0], "{host}");
        assert_eq!((secured.version, secured.sni.as_deref()), ("TLSv1.3", Some(host)));
        assert!(secured.cipher.starts_with("TLS_"), "{}", secured.cipher);
        assert_eq!(secured.client, None);
        assert_eq!(secured.end_point, Sha256::digest(shown).to_vec());
    }
    for other in ["other.example", "a.b.wild.example", "wild.example"] {
        let (chosen, _) = server.choose(Some(other), &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        assert_eq!(chosen, &identities[0], "{other}");
    }
}

#[tokio::test]
async fn data_flows_and_both_sides_have_one_channel_binding() {
    let identities = [identity(&["mx.example"])];
    let server = ServerTls::new(&identities, Oldest::Tls12, AskClients::No).unwrap();
    let (mut near, mut far, secured) = handshake(&server, client(&identities, ALL), "mx.example").await.unwrap();
    near.write_all(b"hello").await.unwrap();
    near.flush().await.unwrap();
    let mut read = [0; 5];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
    let own = near.get_ref().1.export_keying_material([0_u8; 32], b"EXPORTER-Channel-Binding", None).unwrap();
    assert_eq!(secured.exporter.as_deref(), Some(&own[..]));
    let group = near.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768, "post-quantum is preferred");
}

#[tokio::test]
async fn versions() {
    let identities = [identity(&["mx.example"])];
    let old: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let both = ServerTls::new(&identities, Oldest::Tls12, AskClients::No).unwrap();
    let (.., secured) = handshake(&both, client(&identities, old), "mx.example").await.unwrap();
    assert_eq!((secured.version, secured.exporter), ("TLSv1.2", None));
    let new = ServerTls::new(&identities, Oldest::Tls13, AskClients::No).unwrap();
    assert!(handshake(&new, client(&identities, old), "mx.example").await.is_err());
}

#[tokio::test]
async fn sessions_are_resumed() {
    let identities = [identity(&["mx.example"])];
    let server = ServerTls::new(&identities, Oldest::Tls12, AskClients::No).unwrap();
    let config = client(&identities, ALL);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (mut near, mut far, _) = handshake(&server, config.clone(), "mx.example").await.unwrap();
        // the client takes the tickets when it reads
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        kinds.push(near.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds[1], rustls::HandshakeKind::Resumed);
}

#[tokio::test]
async fn client_certificates_are_checked() {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params.clone(), ecdsa()).unwrap();
    let stranger = CertifiedIssuer::self_signed(params, ecdsa()).unwrap();
    let issue = |by: &CertifiedIssuer<'_, KeyPair>| {
        let key = ecdsa();
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Client One");
        let certificate = params.signed_by(&key, by).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let identities = [identity(&["mx.example"])];
    let with = |shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>| {
        let mut roots = RootCertStore::empty();
        roots.add(identities[0].key().cert[0].clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(ALL).unwrap();
        let builder = builder.with_root_certificates(roots);
        match shown {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        }
    };
    let pem = ca.pem();
    for (asks, none) in [(AskClients::May(&pem), true), (AskClients::Must(&pem), false)] {
        let server = ServerTls::new(&identities, Oldest::Tls12, asks).unwrap();
        let (.., secured) = handshake(&server, with(Some(issue(&ca))), "mx.example").await.unwrap();
        let shown = secured.client.unwrap();
        assert!(shown.subject.contains("Client One") && shown.fingerprint.len() == 64, "{shown:?}");
        assert!(handshake(&server, with(Some(issue(&stranger))), "mx.example").await.is_err());
        assert_eq!(handshake(&server, with(None), "mx.example").await.is_ok(), none);
    }
    for wrong in ["", "no PEM"] {
        let error = ServerTls::new(&identities, Oldest::Tls12, AskClients::Must(wrong)).unwrap_err();
        assert!(matches!(error, ServerTlsError::ClientCa(_)), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_tls_ends() {
    let server = ServerTls::new(&[identity(&["mx.example"])], Oldest::Tls12, AskClients::No).unwrap();
    for sent in [&b"EHLO client.example\r\n"[..], b"", b"\x16\x03\x01\xff\xff"] {
        let (mut near, far) = tokio::io::duplex(1 << 12);
        near.write_all(sent).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(server.accept(far).await.is_err());
    }
    assert!(matches!(ServerTls::new(&[], Oldest::Tls12, AskClients::No), Err(ServerTlsError::NoIdentity)));
}

#[test]
fn a_client_gets_a_key_that_it_can_check() {
    let (chain, key) = pair(&["mx.example"], &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let identities = [identity(&["mx.example"]), Arc::new(Identity::load(&chain, &key).unwrap())];
    let server = ServerTls::new(&identities, Oldest::Tls12, AskClients::No).unwrap();
    let chosen = |schemes: &[SignatureScheme]| server.choose(Some("mx.example"), schemes).0.clone();
    assert_eq!(chosen(&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256]), identities[0]);
    assert_eq!(chosen(&[SignatureScheme::RSA_PSS_SHA256]), identities[1]);
}

#[test]
fn pairs_that_are_none_are_refused_in_words() {
    let (chain, key) = pair(&["a.example"], &ecdsa());
    let (other_chain, other_key) = pair(&["b.example"], &ecdsa());
    let cut = &chain[..chain.len() / 2];
    let garbled = chain.replacen("MII", "MIX", 1);
    for (chain, key, part, word) in [
        ("", key.as_str(), Part::Chain, "no PEM certificate"),
        ("nothing", &key, Part::Chain, "no PEM certificate"),
        (cut, &key, Part::Chain, "PEM"),
        (&garbled, &key, Part::Chain, "cannot be"),
        (&key, &key, Part::Chain, "no PEM certificate"),
        (&chain, "", Part::Key, "no private key"),
        (&chain, &chain, Part::Key, "no private key"),
        (&chain, &other_key, Part::Key, "does not belong"),
        (&other_chain, &key, Part::Key, "does not belong"),
        (&chain.repeat(21), &key, Part::Chain, "more than 20"),
    ] {
        let error = Identity::load(chain, key).unwrap_err();
        assert_eq!(error.part, part, "{error}");
        assert!(error.words.contains(word), "{error}");
    }
    assert!(!format!("{:?}", Identity::load(&chain, &key).unwrap()).contains("PRIVATE"));
}

#[test]
fn facts_and_end_point() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let (chain, key) = pair(&["MX.Example", "*.a.example", "192.0.2.1"], &key);
    let identity = Identity::load(&chain, &key).unwrap();
    let facts = identity.facts();
    assert_eq!(facts.names, ["mx.example", "*.a.example", "192.0.2.1"]);
    assert!(facts.not_before < facts.not_after);
    for (host, exact, wild) in [
        ("mx.EXAMPLE", true, true),
        ("b.a.example", false, true),
        ("a.example", false, false),
        ("c.b.a.example", false, false),
    ] {
        assert_eq!((facts.is_for(host, false), facts.is_for(host, true)), (exact, wild), "{host}");
    }
    assert_eq!(identity.end_point(), Sha384::digest(&identity.key().cert[0]).as_slice());
}
