//! How the house is at this moment: which listeners are open, who is connected, what an operator has paused or stopped,
//! whether it is on its way out.
//!
//! Running state, not configuration. Only what an operator did ([`Running`]) is stored, to hold over a restart.

mod key_use;
mod masks;
mod overload;
mod rates;
mod running;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::config::{Snapshot, VirtualServer};
use crate::model::name::Name;
use crate::smtp::reply::{EnhancedStatus, Reply};

pub use key_use::KeyUse;
pub use masks::Masks;
pub use overload::{Load, Measured, Overload, Overloaded};
pub use running::{Halt, Halted, Running};
pub use sessions::{
    Limits, Opening, Session, SessionFilter, SessionGuard, SessionId, SessionState, SessionView, Sessions, TooMany,
};

/// One binding of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// As it is configured.
    pub configured: SocketAddr,
    /// The address that is open, with the real port; or why it is not open.
    pub bound: Result<SocketAddr, String>,
}

/// Listeners of all virtual servers.
#[derive(Debug, Default)]
pub struct Listeners {
    servers: Mutex<BTreeMap<Name, Vec<Listening>>>,
}

impl Listeners {
    fn servers(&self) -> MutexGuard<'_, BTreeMap<Name, Vec<Listening>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is known of one server; an empty list forgets it.
    pub fn set(&self, server: &Name, bindings: Vec<Listening>) {
        if bindings.is_empty() {
            self.servers().remove(server);
        } else {
            self.servers().insert(server.clone(), bindings);
        }
    }

    /// The bindings of one server.
    pub fn of(&self, server: &str) -> Vec<Listening> {
        self.servers().get(server).cloned().unwrap_or_default()
    }

    /// Of each virtual server that shall listen whether all its bindings are open. One that is not enabled, or that an operator
    /// has stopped, is as it shall be.
    pub fn whole(&self, snapshot: &Snapshot, running: &Running) -> Vec<(Name, bool)> {
        let wanted = |server: &&Arc<VirtualServer>| server.spec.enabled && running.listens(&server.name);
        let whole = |server: &Arc<VirtualServer>| {
            let bindings = self.of(server.name.as_str());
            let all = bindings.len() >= server.spec.bindings.len() && bindings.iter().all(|one| one.bound.is_ok());
            (server.name.clone(), all)
        };
        snapshot.virtual_servers.values().filter(wanted).map(whole).collect()
    }

    /// All servers.
    pub fn all(&self) -> Vec<(Name, Vec<Listening>)> {
        self.servers().iter().map(|(name, bindings)| (name.clone(), bindings.clone())).collect()
    }
}

/// The switch that ends the process: listeners close, and nothing new begins. Sessions are ended by [`Sessions::drain`].
/// And the one that an operator throws, which only closes the doors.
#[derive(Debug)]
pub struct Drain {
    stop: watch::Sender<Option<Reply>>,
    closed: AtomicBool,
}

impl Default for Drain {
    fn default() -> Self {
        Drain { stop: watch::Sender::new(None), closed: AtomicBool::new(false) }
    }
}

impl Drain {
    /// To watch.
    pub fn watch(&self) -> watch::Receiver<Option<Reply>> {
        self.stop.subscribe()
    }

    /// Throws it. The reply is what sessions are to be ended with.
    pub fn begin(&self) -> Reply {
        let reply = Reply::new(421, EnhancedStatus::transient(3, 2), "Service is shutting down, try again later");
        self.stop.send_replace(Some(reply.clone()));
        reply
    }

    /// Takes no new mail from now on, or takes it again.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
    }

    /// True when an operator wants no new mail to be taken.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True when it was thrown.
    pub fn is_on(&self) -> bool {
        self.stop.borrow().is_some()
    }
}
