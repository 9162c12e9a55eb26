//! One request to a URL that a stranger named: what it is, whether it was taken, and whether trying again can help.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::http::Http;
use crate::model::http_url::{HttpUrl, is_public};

/// Longest time for a request and its answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Why nobody has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct PostFault {
    /// In words.
    pub words: String,
    /// Trying again makes no sense.
    pub permanent: bool,
}

/// Makes requests.
#[async_trait]
pub trait Post: Send + Sync {
    /// Posts this. Without `any`, only to addresses that are public: nobody makes us knock at doors of our own network.
    ///
    /// # Errors
    /// When there is no answer of 2xx. 4xx but 408, 425 and 429, and redirects, which are not followed, are permanent.
    async fn post(&self, url: &HttpUrl, media_type: &str, body: Bytes, any: bool) -> Result<(), PostFault>;
}

#[async_trait]
impl Post for Http {
    async fn post(&self, url: &HttpUrl, media_type: &str, body: Bytes, any: bool) -> Result<(), PostFault> {
        let later = |words: String| PostFault { words, permanent: false };
        let literal = match url.url().host() {
            Some(url::Host::Ipv4(address)) => Some(address.into()),
            Some(url::Host::Ipv6(address)) => Some(address.into()),
            _ => None,
        };
        if !any && literal.is_some_and(|address| !is_public(address)) {
            let words = "its address is not public (settings: tlsReporting.allowPrivateAddresses)".to_owned();
            return Err(PostFault { words, permanent: true });
        }
        let client = if any { self.client().await } else { self.public_client().await };
        let client = client.map_err(|error| later(super::http::words(&error)))?;
        let request =
            client.post(url.url().clone()).header(reqwest::header::CONTENT_TYPE, media_type).body(body).timeout(LIMIT);
        // the body of the answer is not read
        let response = request.send().await.map_err(|error| later(super::http::words(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let again = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
        Err(PostFault { words: format!("it answers {status}"), permanent: !again })
    }
}
