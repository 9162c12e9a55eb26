//! Who may call: the sources of keys, put together.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context;
use async_trait::async_trait;

use crate::accounts::Authenticator;
use crate::api::{AdminKey, ApiKeySource, BearerTokens, FirstKey, KeyFault, Keys, Principal};
use crate::cli::Serve;
use crate::config::Configuration;
use crate::status::KeyUse;

/// Longest key file that is read.
const MAX_KEY_FILE: u64 = 4096;

/// The owner key that the process was given, if it was.
pub(super) enum Given {
    Nothing,
    Key(AdminKey),
    File(PathBuf, Mutex<(Option<SystemTime>, Option<AdminKey>)>),
}

impl Given {
    /// As the options say.
    pub(super) fn new(options: &Serve) -> anyhow::Result<Self> {
        Ok(match (&options.admin_key, &options.admin_key_file) {
            (Some(key), _) => {
                anyhow::ensure!(key.len() >= 16, "BRIDGEHEAD_ADMIN_KEY must have at least 16 characters");
                Given::Key(AdminKey::new(key))
            }
            (None, Some(path)) => {
                let key = read_key(path).with_context(|| format!("the key file {} cannot be used", path.display()))?;
                Given::File(path.clone(), Mutex::new((modified(path), Some(AdminKey::new(&key)))))
            }
            (None, None) => Given::Nothing,
        })
    }

    /// A key was given; none has to be made.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Given::Nothing)
    }

    fn is(&self, shown: &str) -> bool {
        match self {
            Given::Nothing => false,
            Given::Key(given) => given.is(shown),
            Given::File(path, known) => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let now = modified(path);
                if known.0 != now {
                    // a file that is gone or broken is no key; the next change is read again
                    let fresh = read_key(path).map(|key| AdminKey::new(&key)).ok();
                    if fresh.is_none() {
                        tracing::error!(file = %path.display(), "the owner key file cannot be read; no key is valid");
                    }
                    *known = (now, fresh);
                }
                known.1.as_ref().is_some_and(|given| given.is(shown))
            }
        }
    }
}

#[async_trait]
impl Keys for Given {
    async fn verify(&self, shown: &str, _: Option<IpAddr>) -> Result<Option<Principal>, KeyFault> {
        Ok(self.is(shown).then(|| Principal::owner("bootstrap")))
    }
}

/// All sources.
pub(super) fn all(
    given: Given,
    configuration: &Arc<Configuration>,
    uses: &Arc<KeyUse>,
    authenticator: &Arc<Authenticator>,
) -> Arc<dyn Keys> {
    let live = configuration.live().clone();
    let sources: Vec<Box<dyn Keys>> = vec![
        Box::new(given),
        Box::new(FirstKey::new(configuration.clone())),
        Box::new(ApiKeySource::new(configuration.clone(), uses.clone())),
        Box::new(BearerTokens::new(authenticator.clone(), live)),
    ];
    Arc::new(sources)
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn read_key(path: &PathBuf) -> anyhow::Result<String> {
    anyhow::ensure!(std::fs::metadata(path)?.len() <= MAX_KEY_FILE, "it is too large for a key");
    let key = std::fs::read_to_string(path)?;
    let key = key.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(key.len() >= 16, "a key must have at least 16 characters");
    Ok(key.to_owned())
}
