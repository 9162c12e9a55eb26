//! Resolvers by the name servers they ask: one for each list of name servers that is configured, so that all who ask the
//! same servers share a cache.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::resolver::{HickoryResolver, Resolver, ResolverSetupError};
use crate::model::host::NameServer;

/// Most resolvers that are kept. Configurations come and go; resolvers that nobody asks any more shall not stay.
const MOST: usize = 64;

/// Resolvers; made when they are first needed.
#[derive(Debug, Default)]
pub struct Resolvers {
    system: Option<Arc<dyn Resolver>>,
    made: Mutex<HashMap<Vec<SocketAddr>, Arc<dyn Resolver>>>,
}

impl Resolvers {
    /// With the system's name servers where none are configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this resolver instead of the system's.
    pub fn with_system(system: Arc<dyn Resolver>) -> Self {
        Resolvers { system: Some(system), made: Mutex::default() }
    }

    /// The resolver that asks these name servers; the system's when the list is empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(&self, servers: &[NameServer]) -> Result<Arc<dyn Resolver>, ResolverSetupError> {
        if let Some(system) = self.system.as_ref().filter(|_| servers.is_empty()) {
            return Ok(system.clone());
        }
        let servers: Vec<SocketAddr> = servers.iter().map(|server| server.0).collect();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = made.get(&servers) {
            return Ok(resolver.clone());
        }
        let resolver =
            if servers.is_empty() { HickoryResolver::system() } else { HickoryResolver::with_servers(&servers) };
        let resolver: Arc<dyn Resolver> = Arc::new(resolver?);
        if made.len() >= MOST {
            made.clear();
        }
        made.insert(servers, resolver.clone());
        Ok(resolver)
    }
}
