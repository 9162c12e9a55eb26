//! HTTP requests of ours to URLs that somebody configured: webhooks.
//!
//! One client for the process, made when it is first needed. It follows no redirect, uses no proxy of the environment, and
//! connects to no address that is [off limits](is_off_limits): names are resolved here, by the system, and such addresses are
//! left out of the answer, so what was checked is what is connected to. Addresses in a URL are checked by
//! [`HttpUrl`](crate::model::http_url::HttpUrl).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::sync::OnceCell;

use crate::model::http_url::is_off_limits;

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
}

impl Http {
    /// The client; it is made when there is none yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, for want of root certificates for instance.
    pub async fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        let build = || async {
            reqwest::Client::builder()
                .redirect(Policy::none())
                .no_proxy()
                .referer(false)
                .dns_resolver(Guarded)
                .connect_timeout(CONNECT_LIMIT)
                .pool_idle_timeout(IDLE)
                .user_agent(concat!("Bridgehead/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        self.client.get_or_try_init(build).await
    }
}

/// The system's resolver without the addresses that are off limits.
#[derive(Debug)]
struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(allowed(found)?)
        })
    }
}

/// What may be connected to.
fn allowed(found: impl Iterator<Item = SocketAddr>) -> io::Result<Addrs> {
    let mut all = found.peekable();
    let some = all.peek().is_some();
    let may: Vec<SocketAddr> = all.filter(|address| !is_off_limits(address.ip())).take(MOST).collect();
    if some && may.is_empty() {
        let words = "the name leads to link-local or metadata addresses only, and nothing is sent there";
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
        assert_eq!(allowed(both.into_iter()).unwrap().collect::<Vec<_>>(), addresses(&["192.0.2.1:0"]));
        assert!(allowed(addresses(&["169.254.169.254:0", "[fd00:ec2::254]:0"]).into_iter()).is_err());
        assert_eq!(allowed(std::iter::empty()).unwrap().count(), 0);
    }
}
