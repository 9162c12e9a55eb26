//! What an operator does besides changing configuration, in the same audit log.

use serde_json::{Value, json};

use super::answer::{Actor, ChangeError};
use super::configuration::Configuration;

impl Configuration {
    /// Writes down that an operator does something to an object (`virtual-servers/default`). Durable when it returns; to
    /// be called before it is done.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn record_action(&self, object: &str, action: &str, actor: &Actor) -> Result<(), ChangeError> {
        let audit: Value = json!({"object": object, "action": action});
        let state = self.lock().await;
        let (_, committed) = self.commit(state, self.store.clone().draft(), audit, actor, None).await?;
        committed.map(|_| ()).map_err(ChangeError::from)
    }
}
