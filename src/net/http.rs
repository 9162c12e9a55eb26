//! HTTP requests of ours to URLs that somebody configured: webhooks; and to those that strangers name ([`super::post`]).
//!
//! One client for the process, made when it is first needed. It follows no redirect, uses no proxy of the environment, and
//! connects to no address that is [off limits](is_off_limits): names are resolved here, by the system, and such addresses are
//! left out of the answer, so what was checked is what is connected to. Addresses in a URL are checked by
//! [`HttpUrl`](crate::model::http_url::HttpUrl).

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::sync::OnceCell;

use crate::model::http_url::{is_off_limits, is_public};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long an idle connection is kept: less than the 5 s after which common servers close theirs.
const IDLE: Duration = Duration::from_secs(4);
/// Most addresses of a name that are tried.
const MOST: usize = 5;

/// The client.
#[derive(Debug, Default)]
pub struct Http {
    client: OnceCell<reqwest::Client>,
    public: OnceCell<reqwest::Client>,
}

impl Http {
    /// The client; it is made when there is none yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, for want of root certificates for instance.
    pub async fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        self.client.get_or_try_init(|| async { build(|address| !is_off_limits(address)) }).await
    }

    /// One that connects to public addresses only, whatever a name says. Addresses in a URL are the caller's to check.
    ///
    /// # Errors
    /// As [`Http::client`].
    pub async fn public_client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        self.public.get_or_try_init(|| async { build(is_public) }).await
    }
}

fn build(may: fn(IpAddr) -> bool) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .dns_resolver(Guarded(may))
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("Bridgehead/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What is read of an answer at most, so that the connection can be used again.
const MOST_ANSWER: usize = 16 << 10;
/// What is kept of it.
const MOST_WORDS: usize = 300;

/// The first words of an answer. What there is beyond them is read a little, so that the connection can be used again.
pub async fn first_words(mut answer: reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_ANSWER {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MOST_WORDS)]).into_owned();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WORDS).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error with what caused it, without the URL, which may hold a token.
pub fn causes(error: &reqwest::Error) -> String {
    let mut all = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        all.push(cause.to_string());
        next = cause.source();
    }
    all.dedup();
    if all.is_empty() { "the request could not be sent".to_owned() } else { all.join(": ") }
}

/// An error with what caused it.
pub(super) fn words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// The system's resolver without the addresses that must not be connected to.
#[derive(Debug)]
struct Guarded(fn(IpAddr) -> bool);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let may = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(allowed(found, may)?)
        })
    }
}

/// What may be connected to.
fn allowed(found: impl Iterator<Item = SocketAddr>, may: fn(IpAddr) -> bool) -> io::Result<Addrs> {
    let mut all = found.peekable();
    let some = all.peek().is_some();
    let may: Vec<SocketAddr> = all.filter(|address| may(address.ip())).take(MOST).collect();
    if some && may.is_empty() {
        let words = "the name leads only to addresses that nothing is sent to";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    Ok(Box::new(may.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_metadata_leads_nowhere() {
        let addresses = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let both = addresses(&["169.254.169.254:0", "192.0.2.1:0", "[fe80::1]:0"]);
        assert_eq!(
            allowed(both.into_iter(), |ip| !is_off_limits(ip)).unwrap().collect::<Vec<_>>(),
            addresses(&["192.0.2.1:0"])
        );
        let metadata = addresses(&["169.254.169.254:0", "[fd00:ec2::254]:0"]);
        assert!(allowed(metadata.into_iter(), |ip| !is_off_limits(ip)).is_err());
        let near = addresses(&["10.0.0.1:0", "127.0.0.1:0", "[::1]:0", "192.168.1.1:0"]);
        assert!(allowed(near.clone().into_iter(), is_public).is_err());
        assert_eq!(allowed(near.into_iter(), |ip| !is_off_limits(ip)).unwrap().count(), 4);
        assert_eq!(allowed(std::iter::empty(), is_public).unwrap().count(), 0);
    }
}
