//! MTA-STS (RFC 8461): the policy of a domain for those who send to it, got over HTTPS and remembered.
//!
//! A domain says by a TXT record at `_mta-sts` that it has a policy, and which; the policy is at
//! `https://mta-sts.<domain>/.well-known/mta-sts.txt`. It is got without redirects, in 60 seconds, at most 64 KiB, from a host whose
//! certificate the system trusts. It is remembered for as long as it says, and got again once a day, at half its
//! life, or when the record names another. What cannot be got or read changes nothing: the policy that is remembered holds, and
//! without one there is none. What is remembered is [kept](Keep) over a restart, unless it is longer than what can be kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::Clock;
use super::http::words;
use super::resolver::Resolver;
use crate::model::http_url::is_off_limits;

/// Longest time for one policy.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest policy, in octets.
const MOST_OCTETS: usize = 64 * 1024;
/// Most host patterns of one policy.
const MOST_HOSTS: usize = 1_000;
/// Most addresses of the policy's host that are tried.
const MOST_ADDRESSES: usize = 5;
/// Longest life of a policy (RFC 8461, 3.2).
const MOST_AGE: u64 = 31_557_600;
/// How long what could not be got is not asked for again (RFC 8461, 3.3).
const REST: Duration = Duration::from_secs(300);
/// How long a policy is not looked for again while its record stays the same, at most.
const FRESH: Duration = Duration::from_secs(86_400);
/// Most domains that are remembered.
const MOST_DOMAINS: usize = 4_096;

/// What is to be done about a host that a policy does not name, or whose certificate is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MtaStsMode)]
pub enum Mode {
    /// It gets no mail.
    Enforce,
    /// Nothing but to tell.
    Testing,
    /// Nothing: the domain takes its policy back.
    None,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is to be kept.
    pub mode: Mode,
    /// How long it may be remembered.
    pub max_age: Duration,
    hosts: Vec<String>,
}

/// Why a domain that says that it has a policy has none (RFC 8460, 4.3.2.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHad {
    /// It could not be got.
    #[error("{0}")]
    Fetch(String),
    /// Its host's certificate is not good.
    #[error("{0}")]
    Certificate(String),
    /// It is no policy.
    #[error("the policy is not valid: {0}")]
    Invalid(&'static str),
}

impl From<String> for NotHad {
    fn from(why: String) -> Self {
        NotHad::Fetch(why)
    }
}

/// What holds for a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its policy.
    pub policy: Option<Arc<Policy>>,
    /// Why there is none though the domain says so.
    pub fault: Option<NotHad>,
}

impl Policy {
    /// Reads one.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (mut version, mut mode, mut max_age, mut hosts) = (None, None, None, Vec::new());
        for line in text.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':').ok_or("a line has no colon")?;
            let value = value.trim();
            match key.trim_end() {
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(max_age.get_or_insert(value)),
                "mx" if hosts.len() < MOST_HOSTS => hosts.push(value.trim_end_matches('.').to_ascii_lowercase()),
                "mx" => return Err("it names too many hosts"),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err("its version is not STSv1");
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err("its mode is none of enforce, testing and none"),
        };
        let digits = max_age.filter(|age| (1..=10).contains(&age.len()) && age.bytes().all(|b| b.is_ascii_digit()));
        let seconds: u64 = digits.and_then(|age| age.parse().ok()).ok_or("its max_age is no number of seconds")?;
        if hosts.is_empty() && mode != Mode::None {
            return Err("it names no host");
        }
        Ok(Policy { mode, max_age: Duration::from_secs(seconds.min(MOST_AGE)), hosts })
    }

    /// The hosts that it names, as it names them.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// As a policy is written, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mode = match self.mode {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        };
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {mode}")];
        lines.extend(self.hosts.iter().map(|host| format!("mx: {host}")));
        lines.push(format!("max_age: {}", self.max_age.as_secs()));
        lines
    }

    /// Whether it names the host (RFC 8461, 4.1): `*.` stands for one label.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => *pattern == host,
        })
    }
}

/// The id in the TXT records of `_mta-sts`; `None` unless exactly one of them is one of MTA-STS, and well formed.
pub fn policy_id(records: &[String]) -> Option<String> {
    let mut ours = records.iter().filter(|text| {
        text.strip_prefix("v=STSv1").is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
    });
    let (record, None) = (ours.next()?, ours.next()) else { return None };
    let fields = record.split(';').skip(1).filter_map(|field| field.split_once('='));
    let mut ids = fields.filter(|(key, _)| key.trim() == "id").map(|(_, value)| value.trim());
    let id = ids.next()?;
    let good = (1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    (good && ids.next().is_none()).then(|| id.to_owned())
}

/// Gets the text of a domain's policy.
#[async_trait]
pub trait GetPolicy: Send + Sync {
    /// # Errors
    /// Why it cannot be had.
    async fn get(&self, domain: &str, resolver: &dyn Resolver) -> Result<String, NotHad>;
}

/// Gets policies as RFC 8461, 3.3 says.
#[derive(Debug, Default)]
pub struct OverHttps;

#[async_trait]
impl GetPolicy for OverHttps {
    async fn get(&self, domain: &str, resolver: &dyn Resolver) -> Result<String, NotHad> {
        let host = format!("mta-sts.{domain}");
        let found = resolver.addresses(&host).await.map_err(|error| format!("{host}: {error}"))?;
        let addresses: Vec<_> = found
            .into_iter()
            .filter(|address| !is_off_limits(*address))
            .take(MOST_ADDRESSES)
            .map(|address| (address, 443).into())
            .collect();
        if addresses.is_empty() {
            return Err(format!("{host} leads to link-local or metadata addresses only").into());
        }
        let client = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .resolve_to_addrs(&host, &addresses)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("Bridgehead/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| words(&error))?;
        let get = async {
            let url = format!("https://{host}/.well-known/mta-sts.txt");
            let mut response = client.get(url).send().await.map_err(|error| not_sent(&error))?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(format!("{host} answers {}", response.status()).into());
            }
            let kind = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if !kind.is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("text/plain")) {
                return Err(format!("{host} answers with something else than text/plain").into());
            }
            let mut text = Vec::new();
            while let Some(more) = response.chunk().await.map_err(|error| words(&error))? {
                if text.len() + more.len() > MOST_OCTETS {
                    return Err("the policy is longer than 64 KiB".to_owned().into());
                }
                text.extend_from_slice(&more);
            }
            String::from_utf8(text).map_err(|_| NotHad::Invalid("it is no text"))
        };
        let late = || NotHad::Fetch(format!("{host} takes longer than 60 seconds"));
        tokio::time::timeout(LIMIT, get).await.unwrap_or_else(|_| Err(late()))
    }
}

/// A certificate that is not good is told apart.
fn not_sent(error: &reqwest::Error) -> NotHad {
    let words = words(error);
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if is_of_certificate(error) {
            return NotHad::Certificate(words);
        }
        cause = error.source();
    }
    NotHad::Fetch(words)
}

/// Errors of IO hold those of TLS, also one in the other, where `source` does not come by.
fn is_of_certificate(mut error: &(dyn std::error::Error + 'static)) -> bool {
    while let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        error = inner;
    }
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
}

/// Keeps policies over a restart.
#[async_trait]
pub trait Keep: Send + Sync {
    /// What was kept, by domain.
    fn all(&self) -> Vec<(String, Vec<u8>)>;

    /// Keeps one in place of the one before; `None` forgets it. What cannot be kept is a warning in the log.
    async fn keep(&self, domain: &str, policy: Option<Vec<u8>>);
}

/// A policy as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    mode: Mode,
    max_age: u64,
    hosts: Vec<String>,
    id: String,
    /// Milliseconds since 1970.
    got: i64,
}

/// What is known of a domain.
#[derive(Debug, Default)]
struct Known {
    policy: Option<Remembered>,
    /// What was asked for last and could not be had, and when.
    failed: Option<(String, Instant, NotHad)>,
}

#[derive(Debug)]
struct Remembered {
    policy: Arc<Policy>,
    id: String,
    fresh_until: Instant,
    holds_until: Instant,
}

impl Remembered {
    /// One that was got so long ago.
    fn new(policy: Policy, id: String, age: Duration, now: Instant) -> Self {
        let until = |life: Duration| now + life.saturating_sub(age);
        let (fresh_until, holds_until) = (until(FRESH.min(policy.max_age / 2)), until(policy.max_age));
        Remembered { policy: Arc::new(policy), id, fresh_until, holds_until }
    }
}

/// The policies of the domains that mail goes to.
pub struct Policies {
    clock: Arc<dyn Clock>,
    get: Arc<dyn GetPolicy>,
    keep: Arc<dyn Keep>,
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

impl Policies {
    /// Those that were kept.
    pub fn new(clock: Arc<dyn Clock>, get: Arc<dyn GetPolicy>, keep: Arc<dyn Keep>) -> Self {
        let read = |(domain, kept): (String, Vec<u8>)| {
            let kept: Kept = serde_json::from_slice(&kept).ok()?;
            let age =
                Duration::from_millis(clock.unix_millis().saturating_sub(kept.got).try_into().unwrap_or_default());
            let max_age = Duration::from_secs(kept.max_age.min(MOST_AGE));
            let policy = Policy { mode: kept.mode, max_age, hosts: kept.hosts };
            let policy = Some(Remembered::new(policy, kept.id, age, clock.now()));
            Some((domain, Arc::new(tokio::sync::Mutex::new(Known { policy, failed: None }))))
        };
        let known = keep.all().into_iter().take(MOST_DOMAINS).filter_map(read).collect();
        Policies { clock, get, keep, known: Mutex::new(known) }
    }

    async fn remember(&self, domain: &str, policy: Policy, id: String) -> Remembered {
        let kept = Kept {
            mode: policy.mode,
            max_age: policy.max_age.as_secs(),
            hosts: policy.hosts.clone(),
            id: id.clone(),
            got: self.clock.unix_millis(),
        };
        let kept = serde_json::to_vec(&kept).ok().filter(|_| policy.mode != Mode::None);
        self.keep.keep(domain, kept).await;
        Remembered::new(policy, id, Duration::ZERO, self.clock.now())
    }

    /// The policy that holds for a domain now. Asked for by many at once, it is got once.
    pub async fn of(&self, domain: &str, resolver: &dyn Resolver) -> Found {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let texts = resolver.texts(&format!("_mta-sts.{domain}")).await.unwrap_or_default();
        let id = policy_id(&texts);
        let (known, gone) = self.entry(&domain, id.is_some());
        for other in gone {
            self.keep.keep(&other, None).await;
        }
        let Some(known) = known else { return Found::default() };
        let mut known = known.lock().await;
        let now = self.clock.now();
        let promised = id.clone();
        if let Some(id) = id {
            let fresh = known.policy.as_ref().is_some_and(|old| old.id == id && now < old.fresh_until);
            let failed = known.failed.as_ref();
            let rests = failed.is_some_and(|(of, at, _)| *of == id && now.saturating_duration_since(*at) < REST);
            if !fresh && !rests {
                let got = self.get.get(&domain, resolver).await;
                let now = self.clock.now();
                match got.and_then(|text| Policy::parse(&text).map_err(NotHad::Invalid)) {
                    Ok(policy) => {
                        known.policy = Some(self.remember(&domain, policy, id).await);
                        known.failed = None;
                    }
                    Err(why) => {
                        tracing::warn!(domain, %why, "the MTA-STS policy cannot be had");
                        known.failed = Some((id, now, why));
                    }
                }
            }
        }
        let now = self.clock.now();
        let held = known.policy.as_ref().filter(|policy| now < policy.holds_until);
        let policy = held.map(|remembered| remembered.policy.clone());
        // what is remembered holds, whatever came of getting it anew
        let failed = known.failed.as_ref().filter(|(of, ..)| policy.is_none() && promised.as_ref() == Some(of));
        Found { fault: failed.map(|(_, _, why)| why.clone()), policy }
    }

    /// What is known of a domain, and which others had to go to make room for it.
    fn entry(&self, domain: &str, make: bool) -> (Option<Arc<tokio::sync::Mutex<Known>>>, Vec<String>) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !make || all.contains_key(domain) {
            return (all.get(domain).cloned(), Vec::new());
        }
        let mut gone = Vec::new();
        if all.len() >= MOST_DOMAINS {
            let now = self.clock.now();
            let over = |known: &Known| known.policy.as_ref().is_none_or(|policy| now >= policy.holds_until);
            // one that is being asked for is kept
            let is_over = |known: &Arc<tokio::sync::Mutex<Known>>| known.try_lock().is_ok_and(|known| over(&known));
            gone.extend(all.iter().filter(|(_, known)| is_over(known)).map(|(domain, _)| domain.clone()));
            if gone.is_empty() {
                gone.extend(all.keys().next().cloned());
            }
            gone.iter().for_each(|domain| drop(all.remove(domain)));
        }
        (Some(all.entry(domain.to_owned()).or_default().clone()), gone)
    }
}

#[cfg(test)]
mod tests;
