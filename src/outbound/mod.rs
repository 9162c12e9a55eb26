//! Sockets out: workers that carry the mail of one link queue to its next hop.
//!
//! `worker` is one worker's life: find hosts, open a session, carry messages over it as long as there are any, again.
//! `hosts` says which addresses to try, `tlsa` what their owners ask by DNS, `session` opens one with each, encrypted and logged in, by
//! a token of `tokens` if need be; `counted` notes what came of TLS, for reports; `sources` says from which of our addresses, `callout` asks them for recipients. `turned` is a
//! session over a connection that was turned round, `request` asks for mail that waits elsewhere. `slots` bounds sessions over all
//! queues. [`crate::queue::carrier`] hands messages to
//! the session one by one and turns results into outcomes.

mod callout;
mod counted;
mod hosts;
mod kept;
mod probe;
mod request;
mod session;
mod slots;
mod sources;
mod tlsa;
mod tokens;
mod turned;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::net::connect::Connect;
use crate::net::mta_sts::{Keep, OverHttps, Policies};
use crate::net::oauth::TokenEndpoint;
use crate::net::resolver::Resolvers;
use crate::observe::metrics::Metrics;
use crate::queue::{Hand, Queue};
use crate::routing::Connector;
use crate::routing::access::Login;
use crate::status::Listeners;
use crate::tlsrpt::TlsReports;

use hosts::LookUp;
pub use kept::KeptPolicies;
use slots::Slots;
pub use tokens::TokenStatus;
use tokens::Tokens;

/// Everything a worker needs.
pub struct Outbound {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    connect: Arc<dyn Connect>,
    resolvers: Arc<Resolvers>,
    listeners: Arc<Listeners>,
    policies: Policies,
    metrics: Metrics,
    slots: Slots,
    tokens: Tokens,
    tls_reports: Arc<TlsReports>,
    /// Counts sessions, so that source addresses are used by turns.
    sessions: AtomicUsize,
    /// What next hops have said of recipients.
    callouts: callout::Answers,
}

/// What is around workers: how they reach others, and what they ask.
pub struct Surroundings {
    /// Makes connections.
    pub connect: Arc<dyn Connect>,
    /// Asks DNS.
    pub resolvers: Arc<Resolvers>,
    /// Which addresses are our own.
    pub listeners: Arc<Listeners>,
    /// Keeps policies of MTA-STS.
    pub policies: Arc<dyn Keep>,
    /// Gives the tokens that connectors log in with.
    pub tokens: Arc<dyn TokenEndpoint>,
    /// Counts what comes of TLS.
    pub tls_reports: Arc<TlsReports>,
}

impl Outbound {
    /// For a queue.
    pub fn new(queue: Arc<Queue>, clock: Arc<dyn Clock>, metrics: Metrics, around: Surroundings) -> Arc<Self> {
        let Surroundings { connect, resolvers, listeners, policies, tokens, tls_reports } = around;
        let tokens = Tokens::new(clock.clone(), tokens);
        Arc::new(Outbound {
            queue,
            clock: clock.clone(),
            connect,
            resolvers,
            listeners,
            policies: Policies::new(clock, Arc::new(OverHttps), policies),
            metrics,
            slots: Slots::default(),
            tokens,
            tls_reports,
            sessions: AtomicUsize::new(0),
            callouts: callout::Answers::default(),
        })
    }

    /// How the connector stands with the tokens that it logs in with; `None`: no session has needed one, with these settings.
    pub fn tokens_of(&self, connector: &Connector) -> Option<TokenStatus> {
        match &connector.access.login {
            Some(Login::Token(login)) => self.tokens.status(&connector.name, &login.request),
            Some(Login::Password(_)) | None => None,
        }
    }

    fn look_up(&self) -> LookUp<'_> {
        LookUp { resolvers: &self.resolvers, policies: &self.policies, listeners: &self.listeners }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// Starts a worker; the queue counts it by its hand and awaits it at the end.
    pub fn employ(self: &Arc<Self>, hand: Hand) {
        drop(tokio::spawn(worker::work(self.clone(), hand)));
    }
}
