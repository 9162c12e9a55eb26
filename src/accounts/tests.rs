//! Logins end to end, without a socket but that of the issuer's keys.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::provider::KeysAt;
use super::*;
use crate::net::clock::{Clock, SystemClock};
use crate::smtp::sasl::Mechanism;
use crate::smtp::sasl::scram::{ChannelBindings, ScramKeys, hmac};

pub(super) fn account(username: &str, password: Option<&str>) -> Account {
    Account {
        name: username.split('@').next().unwrap().to_ascii_lowercase().parse().unwrap(),
        generation: 1,
        username: username.to_owned(),
        labels: Labels::default(),
        verifier: Ok(password.map(|password| Arc::new(Verifier::derive(password).unwrap()))),
        may_relay: true,
        send_as: None,
        quotas: AccountQuotas::default(),
    }
}

fn realm(accounts: impl IntoIterator<Item = Account>) -> Realm {
    let accounts = Accounts::build(accounts.into_iter().map(Arc::new)).unwrap();
    Realm { accounts: Arc::new(accounts), ..Realm::default() }
}

fn authenticator() -> Arc<Authenticator> {
    Authenticator::new(Arc::new(SystemClock), [7; 32]).unwrap()
}

fn client() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

async fn plain(authenticator: &Arc<Authenticator>, realm: &Realm, username: &str, password: &str) -> Outcome {
    let message = format!("\0{username}\0{password}");
    let bindings = ChannelBindings::default();
    let begun = authenticator.begin(Mechanism::Plain, client(), realm.clone(), Some(message.as_bytes()), bindings);
    begun.await.1
}

fn who(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Accepted(account) => &account.username,
        other => panic!("not accepted: {other:?}"),
    }
}

fn why(outcome: Outcome) -> (u16, Refusal) {
    match outcome {
        Outcome::Refused { reply, reason } | Outcome::Unavailable { reply, reason } => (reply.code, reason),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_exist_costs_what_a_wrong_password_costs_and_a_verified_login_nothing() {
    let authenticator = authenticator();
    let realm = realm([account("ada", Some("secret")), account("tokens-only", None)]);
    let mut computed = 0;
    let mut costs = |authenticator: &Authenticator| {
        let before = std::mem::replace(&mut computed, authenticator.computed());
        computed - before
    };
    assert_eq!(who(&plain(&authenticator, &realm, "Ada", "secret").await), "ada", "case does not count");
    assert_eq!(costs(&authenticator), 1);
    for (user, password, reason) in [
        ("ada", "Secret", Refusal::WrongPassword("ada".into())),
        ("bob", "secret", Refusal::UnknownUser("bob".into())),
        ("tokens-only", "secret", Refusal::NoPassword("tokens-only".into())),
    ] {
        let refused = plain(&authenticator, &realm, user, password).await;
        assert_eq!(costs(&authenticator), 1, "{user}");
        assert_eq!(why(refused), (535, reason));
    }
    for _ in 0..100 {
        assert_eq!(who(&plain(&authenticator, &realm, "ada", "secret").await), "ada");
    }
    assert_eq!(costs(&authenticator), 0, "it was verified a moment ago");
    tokio::time::advance(Duration::from_secs(301)).await;
    assert_eq!(who(&plain(&authenticator, &realm, "ada", "secret").await), "ada");
    assert_eq!(costs(&authenticator), 1, "that was too long ago");

    let changed = self::realm([account("ada", Some("changed"))]);
    assert_eq!(why(plain(&authenticator, &changed, "ada", "secret").await).0, 535, "the old password at once");
    assert_eq!(who(&plain(&authenticator, &changed, "ada", "changed").await), "ada");
    assert_eq!(costs(&authenticator), 2);
    let gone = self::realm([account("bob", Some("x"))]);
    assert_eq!(why(plain(&authenticator, &gone, "ada", "changed").await).0, 535);
}

#[tokio::test(start_paused = true)]
async fn guessing_is_refused_unseen_in_the_end() {
    let authenticator = authenticator();
    let realm = realm([account("ada", Some("secret"))]);
    let mut tries = 0;
    let (code, reason) = loop {
        tries += 1;
        assert!(tries < 50, "it never ends");
        let (code, reason) = why(plain(&authenticator, &realm, "ada", &format!("guess {tries}")).await);
        if code != 535 {
            break (code, reason);
        }
    };
    assert_eq!((code, reason), (454, Refusal::TooManyFailures("ada".into())));
    let computed = authenticator.computed();
    assert_eq!(computed, tries - 1);
    assert_eq!(why(plain(&authenticator, &realm, "ada", "secret").await).0, 454, "not even the right one is looked at");
    assert_eq!(authenticator.computed(), computed);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(who(&plain(&authenticator, &realm, "ada", "secret").await), "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_login_a_hundred_times_at_once_is_computed_a_few_times() {
    let authenticator = authenticator();
    let realm = realm([account("ada", Some("secret"))]);
    let logins = (0..100).map(|_| {
        let (authenticator, realm) = (authenticator.clone(), realm.clone());
        tokio::spawn(async move { plain(&authenticator, &realm, "ada", "secret").await })
    });
    for login in logins.collect::<Vec<_>>() {
        assert_eq!(who(&login.await.unwrap()), "ada");
    }
    assert!((1..=8).contains(&authenticator.computed()), "{}", authenticator.computed());
}

#[tokio::test]
async fn a_realm_lets_in_whom_its_selector_picks() {
    let authenticator = authenticator();
    let mut ada = account("ada@example.com", Some("secret"));
    ada.labels.0.insert("team".into(), "mail".into());
    let everybody = realm([ada, account("bob", Some("secret"))]);
    let realm = Realm {
        selector: "team=mail".parse().unwrap(),
        default_domain: Some("example.com".parse().unwrap()),
        ..everybody.clone()
    };
    assert_eq!(who(&plain(&authenticator, &realm, "ada@example.com", "secret").await), "ada@example.com");
    assert_eq!(who(&plain(&authenticator, &realm, "ada", "secret").await), "ada@example.com", "completed");
    assert_eq!(who(&plain(&authenticator, &everybody, "bob", "secret").await), "bob");
    assert_eq!(why(plain(&authenticator, &realm, "bob", "secret").await), (535, Refusal::UnknownUser("bob".into())));
    assert_eq!(why(plain(&authenticator, &Realm::default(), "bob", "secret").await).0, 535);
    let malformed = authenticator.begin(Mechanism::Plain, client(), realm, Some(b""), ChannelBindings::default());
    assert_eq!(why(malformed.await.1).0, 501);
}

#[test]
fn usernames_are_unique_in_every_case() {
    let ada = |name: &str, username: &str| Arc::new(Account { name: name.parse().unwrap(), ..account(username, None) });
    let taken = Accounts::build([ada("a", "Ada"), ada("b", "bob"), ada("c", "aDA")]).unwrap_err();
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].first.as_str(), taken[0].second.as_str()), ("a", "c"));
}

#[test]
fn an_account_sends_as_itself_and_as_it_is_told() {
    let local = |domain: &Domain| domain.to_string() == "example.com";
    let may = |account: &Account, sender: &str| {
        let path = if sender.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(sender.parse().unwrap()) };
        account.may_send_as(&path, local)
    };
    let mut ada = account("ada@elsewhere.example", None);
    assert!(may(&ada, "") && may(&ada, "bob@example.com") && may(&ada, "Ada@Elsewhere.example"));
    assert!(!may(&ada, "bob@elsewhere.example"));
    ada.send_as = Some(Vec::new());
    assert!(may(&ada, "") && may(&ada, "ada@elsewhere.example") && !may(&ada, "bob@example.com"));
    ada.send_as = Some(vec!["*@example.com".parse().unwrap(), "news@shop.example".parse().unwrap()]);
    assert!(may(&ada, "bob@example.com") && may(&ada, "news@shop.example") && !may(&ada, "a@shop.example"));
    let bob = account("bob", None);
    assert!(may(&bob, "x@example.com") && !may(&bob, "bob@elsewhere.example"));
}

/// A SCRAM client: its first message, what it answers to the server's, and what it keeps to do so.
async fn scram(
    authenticator: &Arc<Authenticator>,
    realm: &Realm,
    user: &str,
    password: Option<&ScramKeys>,
) -> (String, Outcome) {
    let bare = format!("n={user},r=abc");
    let first = format!("n,,{bare}");
    let bindings = ChannelBindings::default();
    let begun = authenticator.begin(Mechanism::ScramSha256, client(), realm.clone(), Some(first.as_bytes()), bindings);
    let (mut session, outcome) = begun.await;
    let Outcome::Challenge(server) = outcome else { return (String::new(), outcome) };
    let server = String::from_utf8(server).unwrap();
    let nonce = server[2..].split(',').next().unwrap();
    let last = format!("c=biws,r={nonce}");
    // what a client derives from the password; here by way of the password's salted hash
    let salted = password.map_or([0; 32], |_| {
        let salt = STANDARD.decode(server.split(",s=").nth(1).unwrap().split(',').next().unwrap()).unwrap();
        let mut salted = [0; 32];
        let iterations = NonZeroU32::new(65_536).unwrap();
        aws_lc_rs::pbkdf2::derive(aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, b"secret", &mut salted);
        salted
    });
    let client_key = hmac(&salted, &[b"Client Key"]);
    let signature = hmac(&Sha256::digest(client_key), &[format!("{bare},{server},{last}").as_bytes()]);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let outcome = session.respond(format!("{last},p={}", STANDARD.encode(proof)).as_bytes()).await;
    let outcome = if matches!(outcome, Outcome::Challenge(_)) { session.respond(b"").await } else { outcome };
    (server, outcome)
}

#[tokio::test(start_paused = true)]
async fn scram_does_not_tell_who_exists() {
    let authenticator = authenticator();
    let ada = account("ada", Some("secret"));
    let hashed = Account {
        verifier: Ok(Some(Arc::new(Verifier::from_hash(ada.verifier().unwrap().hash().clone())))),
        ..account("hashed", None)
    };
    let keys = ada.verifier().unwrap().scram().unwrap().clone();
    let realm = realm([ada, hashed]);
    assert_eq!(who(&scram(&authenticator, &realm, "ada", Some(&keys)).await.1), "ada");
    assert_eq!(who(&plain(&authenticator, &realm, "hashed", "secret").await), "hashed");

    let shape = |server: &str| {
        let parts: Vec<String> = server.split(',').map(str::to_owned).collect();
        assert!(parts[0].len() > "r=abc".len() + 20);
        (parts[0].len(), parts[1].len(), parts[1].clone(), parts[2].clone())
    };
    let (known, outcome) = scram(&authenticator, &realm, "ada", None).await;
    assert_eq!(why(outcome), (535, Refusal::WrongPassword("ada".into())));
    for (user, reason) in
        [("bob", Refusal::UnknownUser("bob".into())), ("hashed", Refusal::NoPassword("hashed".into()))]
    {
        let (first, outcome) = scram(&authenticator, &realm, user, None).await;
        assert_eq!(why(outcome), (535, reason));
        let (second, _) = scram(&authenticator, &realm, user, None).await;
        assert_ne!(first, second, "the nonce is new");
        let (a, b, known) = (shape(&first), shape(&second), shape(&known));
        assert_eq!(a.2, b.2, "the salt is the same each time");
        assert_eq!((a.0, a.1, &a.3), (known.0, known.1, &known.3), "as of somebody who exists");
    }
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(why(scram(&authenticator, &realm, "ada", None).await.1).0);
    }
    assert_eq!((codes.first(), codes.last()), (Some(&535), Some(&454)), "guessing is throttled");
    assert_eq!(authenticator.computed(), 1, "the one PLAIN");
}

/// An issuer: a key, and a server that gives it out.
struct Issuer {
    uri: String,
    asked: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    keys: Arc<Mutex<Value>>,
}

struct SigningKey {
    kid: &'static str,
    pair: rcgen::KeyPair,
}

impl SigningKey {
    fn new(kid: &'static str) -> Self {
        SigningKey { kid, pair: rcgen::KeyPair::generate().unwrap() }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": text(x), "y": text(y)})
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

impl Issuer {
    async fn start(key: &SigningKey) -> Issuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let unknown = json!({"kty": "AKP", "alg": "ML-DSA-65", "kid": "new", "pub": "AAAA"});
        let issuer = Issuer {
            uri: uri.clone(),
            asked: Arc::default(),
            down: Arc::default(),
            keys: Arc::new(Mutex::new(json!({"keys": [unknown, key.jwk()]}))),
        };
        let (asked, down, keys) = (issuer.asked.clone(), issuer.down.clone(), issuer.keys.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let (status, body) = if down.load(Ordering::SeqCst) {
                    ("500 Sorry", String::new())
                } else if request.starts_with("GET /.well-known/openid-configuration ") {
                    ("200 OK", json!({"issuer": uri, "jwks_uri": format!("{uri}/keys")}).to_string())
                } else if request.starts_with("GET /keys ") {
                    asked.fetch_add(1, Ordering::SeqCst);
                    ("200 OK", keys.lock().unwrap().to_string())
                } else if request.starts_with("GET /large ") {
                    ("200 OK", " ".repeat((1 << 20) + 1))
                } else {
                    ("302 Found", String::new())
                };
                let head = format!("HTTP/1.1 {status}\r\nLocation: {uri}/keys\r\nContent-Length: {}\r\n", body.len());
                let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await;
            }
        });
        issuer
    }

    fn provider(&self) -> IdentityProvider {
        IdentityProvider {
            name: "login".parse().unwrap(),
            generation: 1,
            issuer: self.uri.clone(),
            audience: "smtp".to_owned(),
            keys: KeysAt::Uri(format!("{}/keys", self.uri).parse().unwrap()),
            username_claim: None,
            for_smtp: true,
            roles: None,
        }
    }

    fn claims(&self) -> Value {
        let exp = SystemClock.unix_millis() / 1_000 + 600;
        json!({"iss": self.uri, "aud": ["smtp", "imap"], "exp": exp, "sub": "1", "email": "ada@example.com"})
    }
}

async fn bearer(authenticator: &Arc<Authenticator>, realm: &Realm, user: Option<&str>, token: &str) -> Outcome {
    let identity = user.map(|user| format!("a={user}")).unwrap_or_default();
    let message = format!("n,{identity},\x01auth=Bearer {token}\x01\x01");
    let bindings = ChannelBindings::default();
    // every try from a network of its own: this is not about the throttle
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let client = IpAddr::from(u32::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).unwrap().to_be_bytes());
    let begun = authenticator.begin(Mechanism::OauthBearer, client, realm.clone(), Some(message.as_bytes()), bindings);
    let (mut session, outcome) = begun.await;
    match outcome {
        Outcome::Challenge(reason) => {
            assert_eq!(reason, br#"{"status":"invalid_token"}"#);
            session.respond(b"\x01").await
        }
        outcome => outcome,
    }
}

fn with(mut claims: Value, changes: Value) -> Value {
    json_patch::merge(&mut claims, &changes);
    claims
}

#[tokio::test]
async fn a_token_of_the_issuer_names_an_account() {
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key).await;
    let authenticator = authenticator();
    let accounts = realm([account("ada@example.com", None), account("bob@example.com", None)]);
    let realm = Realm { providers: vec![Arc::new(issuer.provider())], ..accounts };
    let claims = issuer.claims();

    assert_eq!(authenticator.provider_status(&"login".parse().unwrap()), None);
    let good = key.token(&claims);
    assert_eq!(who(&bearer(&authenticator, &realm, Some("ADA@example.com"), &good).await), "ada@example.com");
    assert_eq!(who(&bearer(&authenticator, &realm, None, &good).await), "ada@example.com");
    let xoauth2 = format!("user=ada@example.com\x01auth=Bearer {good}\x01\x01");
    let bindings = ChannelBindings::default();
    let begun =
        authenticator.begin(Mechanism::Xoauth2, client(), realm.clone(), Some(xoauth2.as_bytes()), bindings).await;
    assert_eq!(who(&begun.1), "ada@example.com");
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "keys are kept");
    assert_eq!(authenticator.provider_status(&"login".parse().unwrap()).unwrap().result, Ok(1));

    let now = SystemClock.unix_millis() / 1_000;
    let other = SigningKey::new("one");
    let forged_header = |header: Value, token: &str| {
        let rest = token.split_once('.').unwrap().1;
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let hmac_with_public_key = {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some("one".to_owned());
        let secret = jsonwebtoken::EncodingKey::from_secret(key.pair.public_key_raw());
        jsonwebtoken::encode(&header, &claims, &secret).unwrap()
    };
    let refused = [
        ("another audience", key.token(&with(claims.clone(), json!({"aud": "imap"})))),
        ("no audience", key.token(&with(claims.clone(), json!({"aud": null})))),
        ("another issuer", key.token(&with(claims.clone(), json!({"iss": "https://evil.example"})))),
        ("no issuer", key.token(&with(claims.clone(), json!({"iss": null})))),
        ("expired", key.token(&with(claims.clone(), json!({"exp": now - 61})))),
        ("never expires", key.token(&with(claims.clone(), json!({"exp": null})))),
        ("not yet valid", key.token(&with(claims.clone(), json!({"nbf": now + 90})))),
        ("nobody's", key.token(&with(claims.clone(), json!({"email": "eve@example.com"})))),
        ("of another key", other.token(&claims)),
        ("of a public key as a secret", hmac_with_public_key),
        ("unsigned", forged_header(json!({"alg": "none", "typ": "JWT"}), &good)),
        ("with extensions", forged_header(json!({"alg": "ES256", "kid": "one", "crit": ["x"]}), &good)),
        ("an unverified address", key.token(&with(claims.clone(), json!({"email_verified": false})))),
        ("cut", good[..good.len() - 2].to_owned()),
        ("nothing", "x".to_owned()),
    ];
    for (what, token) in refused {
        assert_eq!(why(bearer(&authenticator, &realm, None, &token).await).0, 535, "{what}");
    }
    let late = key.token(&with(claims.clone(), json!({"exp": now - 30, "nbf": now + 30, "email_verified": true})));
    assert_eq!(who(&bearer(&authenticator, &realm, None, &late).await), "ada@example.com", "clocks differ");
    let (code, reason) = why(bearer(&authenticator, &realm, Some("bob@example.com"), &good).await);
    let expected = Refusal::OtherUser { claimed: "bob@example.com".into(), token: "ada@example.com".into() };
    assert_eq!((code, reason), (535, expected));
    let elsewhere = Realm { providers: Vec::new(), ..realm.clone() };
    let (_, reason) = why(bearer(&authenticator, &elsewhere, None, &good).await);
    assert_eq!(reason, Refusal::Token(TokenError::UnknownIssuer), "this server does not take its tokens");
    let by_subject = IdentityProvider { username_claim: Some("sub".into()), ..issuer.provider() };
    let realm = Realm { providers: vec![Arc::new(by_subject)], ..realm };
    let (_, reason) = why(bearer(&authenticator, &realm, None, &good).await);
    assert_eq!(reason, Refusal::UnknownUser("1".into()));
}

#[tokio::test]
async fn keys_are_fetched_again_when_one_is_unknown_and_kept_while_the_issuer_is_down() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new key"));
    let issuer = Issuer::start(&old).await;
    let clock = Arc::new(crate::net::clock::ManualClock::new(0));
    let authenticator = Authenticator::new(clock.clone(), [7; 32]).unwrap();
    let accounts = realm([account("ada@example.com", None)]);
    let discovered = IdentityProvider { keys: KeysAt::of_issuer(&issuer.uri).unwrap(), ..issuer.provider() };
    let realm = Realm { providers: vec![Arc::new(discovered)], ..accounts };
    let asked = || issuer.asked.load(Ordering::SeqCst);
    let code = async |key: &SigningKey| match bearer(&authenticator, &realm, None, &key.token(&issuer.claims())).await {
        Outcome::Accepted(_) => 235,
        refused => why(refused).0,
    };

    issuer.down.store(true, Ordering::SeqCst);
    assert_eq!(code(&old).await, 454, "there are no keys yet");
    issuer.down.store(false, Ordering::SeqCst);
    assert_eq!(code(&old).await, 454, "asked a moment ago");
    clock.advance(Duration::from_secs(30));
    assert_eq!((code(&old).await, asked()), (235, 1));
    assert_eq!((code(&new).await, asked()), (535, 1), "unknown, and the keys were fetched a moment ago");
    *issuer.keys.lock().unwrap() = json!({"keys": [new.jwk()]});
    clock.advance(Duration::from_secs(30));
    assert_eq!((code(&new).await, asked()), (235, 2), "fetched again");
    for _ in 0..10 {
        assert_eq!((code(&old).await, asked()), (535, 2), "no flood of fetches for a key that is gone");
    }
    issuer.down.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(100_000));
    assert_eq!(code(&new).await, 235, "the last keys hold");
    let status = authenticator.provider_status(&"login".parse().unwrap()).unwrap();
    assert!(status.result.unwrap_err().contains("500"));
}

#[tokio::test]
async fn redirects_are_not_followed_and_large_answers_not_read() {
    let key = SigningKey::new("one");
    let issuer = Issuer::start(&key).await;
    let accounts = realm([account("ada@example.com", None)]);
    for (path, expected) in [("redirect", "302"), ("large", "1 MiB")] {
        let authenticator = authenticator();
        let keys = KeysAt::Uri(format!("{}/{path}", issuer.uri).parse().unwrap());
        let provider = Arc::new(IdentityProvider { keys, ..issuer.provider() });
        let realm = Realm { providers: vec![provider], ..accounts.clone() };
        let (code, reason) = why(bearer(&authenticator, &realm, None, &key.token(&issuer.claims())).await);
        assert_eq!(code, 454);
        assert!(reason.to_string().contains(expected), "{reason}");
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 0);
}
