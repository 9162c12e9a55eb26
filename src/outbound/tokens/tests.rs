//! With a scripted endpoint, on a clock that is moved by hand.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::*;
use crate::net::clock::ManualClock;
use crate::net::oauth::Grant;
use crate::smtp::sasl::client::Mechanism;

/// What an endpoint does, request by request; when that is used up it is silent for ever.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Issued, TokenFault>>>,
    /// The refresh token that each request came with instead of the configured one.
    asked: Mutex<Vec<Option<String>>>,
    takes: Duration,
}

#[async_trait]
impl TokenEndpoint for Script {
    async fn ask(&self, _: &TokenRequest, rotated: Option<&SecretText>) -> Result<Issued, TokenFault> {
        self.asked.lock().unwrap().push(rotated.map(|text| text.reveal().to_owned()));
        let answer = self.answers.lock().unwrap().pop_front();
        tokio::time::sleep(self.takes).await;
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

struct Bench {
    tokens: Arc<Tokens>,
    script: Arc<Script>,
    login: TokenLogin,
}

fn issued(token: &str, seconds: u64) -> Result<Issued, TokenFault> {
    Ok(Issued { token: SecretText::new(token), life: Duration::from_secs(seconds), refresh_token: None })
}

fn refused() -> Result<Issued, TokenFault> {
    Err(TokenFault::Refused("https://t.example".to_owned(), "invalid_grant".to_owned()))
}

fn broken() -> Result<Issued, TokenFault> {
    Err(TokenFault::Answer("https://t.example".to_owned(), "500".to_owned()))
}

fn login(secret: &str) -> TokenLogin {
    let request = TokenRequest {
        url: "https://t.example/token".parse().unwrap(),
        client_id: "app".parse().unwrap(),
        grant: Grant::ClientCredentials { client_secret: SecretText::new(secret) },
        scopes: Vec::new(),
    };
    TokenLogin { mechanism: Mechanism::Xoauth2, username: "user".to_owned(), request: Arc::new(request) }
}

fn bench(answers: impl IntoIterator<Item = Result<Issued, TokenFault>>) -> Bench {
    let takes = Duration::from_millis(100);
    let script = Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), takes, ..Script::default() });
    let clock = Arc::new(ManualClock::new(0));
    Bench { tokens: Arc::new(Tokens::new(clock, script.clone())), script, login: login("secret") }
}

impl Bench {
    async fn get(&self) -> Result<Credentials, TokenFault> {
        self.tokens.get(&hub(), &self.login).await
    }

    /// Which token it is.
    fn is(&self, token: &str) -> Result<Credentials, TokenFault> {
        Ok(Credentials::new(Mechanism::Xoauth2, "user", token).unwrap())
    }

    fn asked(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }

    fn status(&self) -> TokenStatus {
        self.tokens.status(&hub(), &self.login.request).unwrap()
    }
}

fn hub() -> Name {
    "hub".parse().unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_kept_and_renewed_before_it_expires() {
    let bench = bench([issued("one", 1_000), issued("two", 1_000)]);
    assert!(bench.tokens.status(&hub(), &bench.login.request).is_none());
    for _ in 0..3 {
        assert_eq!(bench.get().await, bench.is("one"));
        pass(260).await;
    }
    assert_eq!(bench.asked(), 1);
    assert_eq!(bench.status().expires, Some(Timestamp::from_millis(1_000_100)));
    // 780 s are over, then more than four fifths of 1000 s
    pass(25).await;
    assert_eq!(bench.get().await, bench.is("two"));
    assert_eq!(bench.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_meanwhile_shares_what_comes_of_it() {
    for (answer, again) in [(issued("one", 1_000), 1), (broken(), 2)] {
        let bench = Arc::new(bench([answer.clone(), issued("two", 1_000)]));
        let get = |_| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.get().await })
        };
        let all: Vec<_> = (0..20).map(get).collect();
        for one in all {
            assert_eq!(one.await.unwrap().is_ok(), answer.is_ok());
        }
        assert_eq!(bench.asked(), 1, "{answer:?}");
        // a fault is not remembered
        bench.get().await.unwrap();
        assert_eq!(bench.asked(), again);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_gives_up_waiting_takes_nobody_with_it() {
    let bench = bench([issued("lost", 1_000), issued("one", 1_000)]);
    assert!(tokio::time::timeout(Duration::from_millis(10), bench.get()).await.is_err());
    assert_eq!(bench.get().await, bench.is("one"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_leaves_the_old_token_as_long_as_it_is_good() {
    let bench = bench([issued("one", 1_000), broken(), broken(), broken(), issued("two", 1_000)]);
    bench.get().await.unwrap();
    pass(850).await;
    for _ in 0..3 {
        assert_eq!(bench.get().await, bench.is("one"));
    }
    assert_eq!(bench.asked(), 2, "another try only after a while");
    assert!(bench.status().fault.is_some() && bench.status().expires.is_some());
    pass(40).await;
    assert_eq!(bench.get().await, bench.is("one"));
    assert_eq!(bench.asked(), 3);
    pass(120).await;
    assert!(bench.get().await.is_err(), "it has expired");
    assert_eq!(bench.get().await, bench.is("two"));
    assert_eq!(bench.status().fault, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_renewal_while_the_old_token_is_good() {
    // the endpoint hangs at the second request
    let bench = Arc::new(bench([issued("one", 1_000)]));
    bench.get().await.unwrap();
    pass(850).await;
    let renewing = tokio::spawn({
        let bench = bench.clone();
        async move { bench.get().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(bench.asked(), 2);
    let at_once = tokio::time::timeout(Duration::ZERO, bench.get());
    assert_eq!(at_once.await.unwrap(), bench.is("one"));
    renewing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_is_renewed_once() {
    let bench = Arc::new(bench([issued("one", 1_000), issued("two", 1_000), issued("three", 1_000)]));
    let one = bench.get().await.unwrap();
    // many sessions were refused with it
    let renew = |_| {
        let (bench, one) = (bench.clone(), one.clone());
        tokio::spawn(async move { bench.tokens.instead_of(&hub(), &bench.login, &one).await })
    };
    let all: Vec<_> = (0..10).map(renew).collect();
    for other in all {
        assert_eq!(other.await.unwrap().map(Option::unwrap), bench.is("two"));
    }
    assert_eq!(bench.asked(), 2);
    // that one is refused as well
    let two = bench.get().await.unwrap();
    assert_eq!(bench.tokens.instead_of(&hub(), &bench.login, &two).await, Ok(None));
    bench.tokens.answered(&hub(), &bench.login, Err("535 no".to_owned()));
    assert_eq!(bench.status().login, Some(Err("535 no".to_owned())));
    assert_eq!(bench.asked(), 2);
    pass(31).await;
    let three = bench.tokens.instead_of(&hub(), &bench.login, &two).await;
    assert_eq!(three.map(Option::unwrap), bench.is("three"));
    assert_eq!(bench.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_given_up_even_when_there_is_no_other() {
    let bench = bench([issued("one", 1_000), broken(), issued("two", 1_000)]);
    let one = bench.get().await.unwrap();
    assert!(bench.tokens.instead_of(&hub(), &bench.login, &one).await.is_err());
    assert!(bench.status().expires.is_none() && bench.status().fault.is_some());
    assert_eq!(bench.get().await, bench.is("two"));
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_is_used_until_it_is_refused() {
    let rotated = |token: &str, refresh: Option<&str>| {
        issued(token, 10).map(|issued| Issued { refresh_token: refresh.map(SecretText::new), ..issued })
    };
    let bench = bench([
        rotated("one", Some("next")),
        rotated("two", None),
        broken(),
        refused(),
        rotated("three", Some("other")),
        rotated("four", None),
    ]);
    for ok in [true, true, false, false, true, true] {
        assert_eq!(bench.get().await.is_ok(), ok);
        pass(20).await;
    }
    let asked = bench.script.asked.lock().unwrap().clone();
    let asked: Vec<_> = asked.iter().map(Option::as_deref).collect();
    assert_eq!(asked, [None, Some("next"), Some("next"), Some("next"), None, Some("other")]);
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_another_login() {
    let mut bench = bench([issued("one", 1_000), issued("two", 1_000)]);
    bench.get().await.unwrap();
    let before = bench.login.clone();
    bench.login = login("another secret");
    assert!(bench.tokens.status(&hub(), &bench.login.request).is_none());
    assert_eq!(bench.get().await, bench.is("two"));
    assert!(bench.tokens.status(&hub(), &before.request).is_none());
    assert_eq!(bench.asked(), 2);
}
