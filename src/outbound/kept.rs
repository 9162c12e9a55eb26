//! Policies of MTA-STS in the store, as controls `mtaSts/<domain>`.

use std::sync::Arc;

use async_trait::async_trait;

use crate::net::mta_sts::Keep;
use crate::store::Store;

const PREFIX: &str = "mtaSts/";
/// Most octets of a control.
const MOST: usize = 1024;

/// The store as a memory of policies.
pub struct KeptPolicies(pub Arc<dyn Store>);

#[async_trait]
impl Keep for KeptPolicies {
    fn all(&self) -> Vec<(String, Vec<u8>)> {
        let domain = |(key, value): (String, Vec<u8>)| Some((key.strip_prefix(PREFIX)?.to_owned(), value));
        self.0.all(PREFIX).into_iter().filter_map(domain).collect()
    }

    async fn keep(&self, domain: &str, policy: Option<Vec<u8>>) {
        let policy = policy.filter(|policy| policy.len() <= MOST);
        if let Err(error) = self.0.set(&format!("{PREFIX}{domain}"), policy).await {
            tracing::warn!(domain, %error, "the MTA-STS policy cannot be kept over a restart");
        }
    }
}
