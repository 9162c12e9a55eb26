//! A client asks for mail that waits for it: by ETRN (RFC 1985), or by ATRN (RFC 2645) over its own connection.

use crate::config::{Snapshot, VirtualServer};
use crate::intake::{Asked, Client, Refusal};
use crate::model::spec::virtual_server::{Binding, BindingTls, Protocol};
use crate::queue::turn::{Fetch, NotFetched};
use crate::queue::{Asker, Queue};
use crate::routing::Connector;
use crate::smtp::address::Domain;
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::smtp::server::Auth;

/// Whether ATRN is of any use on a binding: there is mail to fetch, and a way to log in.
pub(super) fn is_possible(server: &VirtualServer, binding: &Binding, snapshot: &Snapshot) -> bool {
    let authentication = &server.spec.authentication;
    let auth = Auth { require_tls: authentication.require_tls, ..Auth::default() };
    let tls = binding.tls != BindingTls::None && server.tls.is_some();
    binding.protocol == Protocol::Smtp
        && authentication.mechanisms.iter().any(|mechanism| auth.allows(mechanism.sasl(), tls))
        && snapshot.routes.connectors().any(|connector| Connector::is_remote_triggered(connector))
}

/// The answer to ETRN by a client that may ask.
pub(super) fn etrn(queue: &Queue, client: &Client, asked: &Asked) -> Reply {
    let Asked { domain, below } = asked;
    let asker =
        Asker { account: client.account.as_ref().map(|account| &account.name), is_trusted: client.is_trusted() };
    match queue.dequeue(domain, *below, asker) {
        0 => Reply::new(251, EnhancedStatus::success(0, 0), format!("No messages wait for {domain}")),
        waiting => {
            Reply::new(253, EnhancedStatus::success(0, 0), format!("{waiting} pending messages for {domain} started"))
        }
    }
}

/// What a client that has logged in fetches by ATRN (RFC 2645, 5.2.1).
///
/// # Errors
/// 450 where it may not have all of it, or not now; 550 where it may have nothing; 453 when nothing waits.
pub(super) fn atrn(queue: &std::sync::Arc<Queue>, client: &Client, domains: &[Domain]) -> Result<Vec<Fetch>, Refusal> {
    let Some(account) = &client.account else {
        // the core asks for nobody who has not logged in
        let reply = Reply::new(530, EnhancedStatus::permanent(7, 0), "Authentication required");
        return Err(Refusal::new("atrn", reply, "ATRN without an account"));
    };
    let fetched = queue.fetch(&account.name, domains);
    fetched.map_err(|why| {
        let transient =
            |code, subject, detail, text: String| Reply::new(code, EnhancedStatus::transient(subject, detail), text);
        let reply = match &why {
            NotFetched::Nobody => {
                Reply::new(550, EnhancedStatus::permanent(7, 1), "No mail is kept for your account to fetch")
            }
            NotFetched::NotYours(domain) => transient(450, 7, 1, format!("Mail for {domain} is not yours to fetch")),
            NotFetched::Nothing => transient(453, 0, 0, "You have no mail".to_owned()),
            NotFetched::NotNow => transient(450, 3, 2, "Your mail cannot be fetched now, try again later".to_owned()),
        };
        Refusal::new("atrn", reply, format!("account {}: {why}", account.name))
    })
}

/// How who fetches goes by in logs and reports.
pub(super) fn label(client: &Client) -> String {
    let account = client.account.as_ref().map_or("nobody", |account| account.name.as_str());
    format!("{account} ({}, by ATRN)", client.address)
}
