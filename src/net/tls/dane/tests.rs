use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::net::tls::client::{Check, ClientTls, Handshake, server_name};
use crate::net::tls::{AskClients, Identity, Oldest, ServerTls};

const HOST: &str = "mx.example";
const DOMAIN: &str = "d.example";

fn authority(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("issuer {}", uuid::Uuid::new_v4()));
    change(&mut params);
    params
}

fn over(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
}

/// A server's certificate, by an issuer that a root has made; the server shows the three in this order.
struct Chain {
    leaf: CertificateDer<'static>,
    middle: CertificateDer<'static>,
    root: CertificateDer<'static>,
    server: ServerTls,
}

fn chain(
    name: &str,
    leaf: impl FnOnce(&mut CertificateParams),
    middle: impl FnOnce(&mut CertificateParams),
    shows: &[usize],
) -> Chain {
    let root = CertifiedIssuer::self_signed(authority(|_| {}), KeyPair::generate().unwrap()).unwrap();
    let middle = CertifiedIssuer::signed_by(authority(middle), KeyPair::generate().unwrap(), &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf(&mut params);
    let pems = [params.signed_by(&key, &middle).unwrap().pem(), middle.pem(), root.pem()];
    let shown: String = shows.iter().map(|at| pems[*at].as_str()).collect();
    let identity = Arc::new(Identity::load(&shown, &key.serialize_pem()).unwrap());
    let server = ServerTls::new(&[identity], Oldest::Tls12, AskClients::No).unwrap();
    let [leaf, middle, root] = pems.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    Chain { leaf, middle, root, server }
}

fn of(certificate: &CertificateDer<'_>, usage: u8, selector: u8, matching: u8) -> Tlsa {
    let part = match selector {
        0 => certificate.to_vec(),
        _ => ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info().to_vec(),
    };
    let data = match matching {
        0 => part,
        1 => Sha256::digest(&part).to_vec(),
        _ => Sha512::digest(&part).to_vec(),
    };
    Tlsa::new(usage, selector, matching, &data).unwrap()
}

async fn meet(chain: &Chain, records: &[Tlsa]) -> Result<(), String> {
    let names = [HOST, DOMAIN].into_iter().filter_map(server_name).collect();
    let dane = Arc::new(Dane::new(records, names).unwrap());
    let handshake =
        Handshake { tls: Arc::new(ClientTls::default()), name: dane.name().clone(), check: Check::Dane(dane) };
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = async {
        let (mut stream, _) = chain.server.accept(far).await.map_err(drop)?;
        stream.write_all(b"x").await.map_err(drop)
    };
    let both = async { tokio::join!(handshake.run(near), server) };
    let (client, _) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    client.map(|(_, agreed)| assert!(agreed.verified)).map_err(|fault| fault.words)
}

#[test]
fn what_can_be_used() {
    let chain = chain(HOST, |_| {}, |_| {}, &[0]);
    let key = ParsedCertificate::try_from(&chain.leaf).unwrap().subject_public_key_info().to_vec();
    for (usage, selector, matching, data, usable) in [
        (3, 1, 1, &[0u8; 32][..], true),
        (2, 0, 2, &[0; 64], true),
        (3, 0, 0, &chain.leaf, true),
        (3, 1, 0, &key, true),
        (0, 1, 1, &[0; 32], false),
        (1, 1, 1, &[0; 32], false),
        (4, 1, 1, &[0; 32], false),
        (255, 1, 1, &[0; 32], false),
        (3, 2, 1, &[0; 32], false),
        (3, 1, 3, &[0; 32], false),
        (3, 1, 1, &[0; 31], false),
        (3, 1, 1, &[], false),
        (3, 1, 2, &[0; 32], false),
        (3, 0, 0, &[], false),
        (3, 0, 0, b"no certificate", false),
        (3, 1, 0, &chain.leaf, false),
        (2, 0, 0, &key, false),
    ] {
        let record = Tlsa::new(usage, selector, matching, data);
        assert_eq!(record.is_some(), usable, "{usage} {selector} {matching} {}", data.len());
    }
    assert_eq!(Tlsa::new(3, 1, 1, &[0xab; 32]).unwrap().to_string(), format!("3 1 1 {}", "ab".repeat(32)));
    assert!(Dane::new(&[], vec![server_name(HOST).unwrap()]).is_none());
}

#[tokio::test]
async fn usage_3_is_the_server_itself_whatever_its_name_and_time() {
    let chain = chain("other.example", over, |_| {}, &[0]);
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            assert_eq!(meet(&chain, &[of(&chain.leaf, 3, selector, matching)]).await, Ok(()), "{selector} {matching}");
            assert!(meet(&chain, &[of(&chain.middle, 3, selector, matching)]).await.is_err(), "an issuer is no server");
        }
    }
}

#[tokio::test]
async fn usage_2_is_an_issuer_whose_chain_names_and_time_are_checked() {
    let (good, all) = (|_: &mut CertificateParams| {}, &[0, 1, 2][..]);
    let fine = chain(HOST, good, good, all);
    let stranger = chain(HOST, good, good, all);
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            for anchor in [&fine.middle, &fine.root] {
                let record = of(anchor, 2, selector, matching);
                assert_eq!(meet(&fine, std::slice::from_ref(&record)).await, Ok(()), "{selector} {matching}");
                assert!(meet(&stranger, &[record]).await.is_err());
            }
            let own = of(&fine.leaf, 2, selector, matching);
            assert!(meet(&fine, &[own]).await.is_err(), "a server's own certificate is no issuer");
        }
    }
    let for_domain = chain(DOMAIN, good, good, all);
    assert_eq!(meet(&for_domain, &[of(&for_domain.root, 2, 0, 1)]).await, Ok(()), "the domain's name will do");
    for (what, chain) in [
        ("another name", chain("other.example", good, good, all)),
        ("over", chain(HOST, over, good, all)),
        ("the issuer is over", chain(HOST, good, over, all)),
    ] {
        assert!(meet(&chain, &[of(&chain.middle, 2, 1, 1)]).await.is_err(), "{what}");
        assert_eq!(meet(&chain, &[of(&chain.leaf, 3, 1, 1)]).await, Ok(()), "{what}: for usage 3 it is none");
    }
    // an issuer that is not shown is known only when the record is it
    let short = chain(HOST, good, good, &[0]);
    assert!(meet(&short, &[of(&short.middle, 2, 0, 1)]).await.is_err());
    assert_eq!(meet(&short, &[of(&short.middle, 2, 0, 0)]).await, Ok(()));
    // shown by whom it did not make
    let leaf_of_stranger = [stranger.leaf.clone(), fine.middle.clone(), fine.root.clone()];
    let dane = Dane::new(&[of(&fine.middle, 2, 0, 1)], vec![server_name(HOST).unwrap()]).unwrap();
    let [leaf, links @ ..] = &leaf_of_stranger;
    assert!(dane.verify_server_cert(leaf, links, dane.name(), &[], UnixTime::now()).is_err());
}

#[tokio::test]
async fn one_that_fits_is_enough_and_a_stronger_digest_counts_alone() {
    let (chain, other) = (chain(HOST, |_| {}, |_| {}, &[0, 1]), chain(HOST, |_| {}, |_| {}, &[0]));
    let wrong = of(&other.leaf, 3, 1, 1);
    for right in [of(&chain.leaf, 3, 1, 1), of(&chain.leaf, 3, 0, 2), of(&chain.middle, 2, 0, 1)] {
        assert_eq!(meet(&chain, &[wrong.clone(), right.clone()]).await, Ok(()));
        assert_eq!(meet(&chain, &[right, wrong.clone()]).await, Ok(()));
    }
    let (weak, strong) = (of(&chain.leaf, 3, 1, 1), of(&other.leaf, 3, 1, 2));
    assert!(meet(&chain, &[weak.clone(), strong]).await.is_err(), "RFC 7671, 9");
    let (elsewhere, whole) = (of(&other.leaf, 3, 0, 2), of(&other.leaf, 3, 1, 0));
    assert_eq!(meet(&chain, &[weak, elsewhere, whole]).await, Ok(()), "of another selector, or no digest");
}
