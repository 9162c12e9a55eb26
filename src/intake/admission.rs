//! Who may do what: named rules, asked in order, the first refusal counts.
//!
//! | asked at | rule | refusal |
//! |---|---|---|
//! | connect | `connectionControl` | 554 5.7.1 |
//! | MAIL | `sendAs`: the account may not send under this reverse-path | 550 5.7.1 |
//! | MAIL, RCPT | `quotas`: the account, the API key, or whoever sends from this domain, has sent as much as it may (`super::limits`) | 452 4.7.1 |
//! | RCPT | `recipientsPerMessage`: a message with more recipients than they may have | 452 4.5.3 |
//! | RCPT | `suppression`: the recipient is on the suppression list | 550 5.7.1 |
//! | MAIL | `overload`: too much is queued, or too little memory is left | 452 4.3.1 |
//! | MAIL | `reserve`: free space, a store that can write | 452 4.3.1, 451 4.3.0 |
//! | MAIL | `futureRelease`: who may not relay here may not have mail held (RFC 4865), nobody for more than 45 days | 550 5.7.1, 501 5.5.4 |
//! | RCPT | `restriction`: the recipient takes nothing so large, or nothing from this sender | 552 5.2.3, 550 5.7.1 |
//! | RCPT | `unknownRecipient`: authoritative domain, no such recipient | 550 5.1.1 |
//! | RCPT | `verifyRecipients`: the connector wants to know, and there is no such recipient (`super::verify`) | 550 5.1.1 |
//! | RCPT | `routedLocalPart`: a local part that hides another address (`u%d`, `d!u`, `"u@d"`) | 550 5.7.1 |
//! | RCPT | `staging`: a system that must not reach real people, and this is not one of those allowed | 550 5.7.1 |
//! | ETRN | `etrn`: the client may not relay, or the mail is others' to ask for (`remoteTriggered`) | 459 4.7.1 |
//! | RCPT | `relay`: the recipient lives elsewhere, and nothing lets this client relay there | 550 5.7.1 |
//!
//! Filters, which a binding may name, are asked apart, and before these rules: see [`super::filters`].
//!
//! A priority above 0 is a matter of trust too (RFC 6710, section 5): from a client that may not relay it counts as 0, and
//! the reply to MAIL says so.
//!
//! Texts to the peer are generic; [`Refusal::rule`] and [`Refusal::detail`] are for the operator.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Intake;
use super::filters::Filtering;
use crate::accounts::Account;
use crate::config::{Peer, Snapshot, VirtualServer};
use crate::directory::Restriction;
use crate::model::host::HostName;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::net::tls::Secured;
use crate::queue::{Assignment, Sending, assign, is_ours, restriction_failure};
use crate::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath};
use crate::smtp::extension::MaxHold;
use crate::smtp::parameters::{Hold, MailParameters};
use crate::smtp::reply::{EnhancedStatus, Reply};
use crate::status::Overloaded;
use crate::store::StoreError;

/// The longest that mail is held (RFC 4865).
const MAX_HOLD: Duration = Duration::from_secs(45 * 24 * 60 * 60);

/// The rule of messages with more recipients than their sender may have in one.
pub const RECIPIENTS_PER_MESSAGE: &str = "recipientsPerMessage";
/// The rule of recipients that do not exist.
pub(super) const UNKNOWN_RECIPIENT: &str = "unknownRecipient";

/// How long mail is held at most, as EHLO tells it.
pub fn max_hold(now: Timestamp) -> MaxHold {
    let seconds = MAX_HOLD.as_secs();
    let until = (now + MAX_HOLD).millis().div_euclid(1000);
    MaxHold { seconds: u32::try_from(seconds).unwrap_or(u32::MAX), until }
}

/// Who hands in mail.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Its reverse name, when that was looked up and has its address.
    pub name: Option<HostName>,
    /// The virtual server it came to, as it was when the connection opened or the transaction began.
    pub server: Arc<VirtualServer>,
    /// Who it has authenticated as.
    pub account: Option<Arc<Account>>,
    /// Its encryption.
    pub tls: Option<Arc<Secured>>,
    /// What its filters know of the connection.
    pub filtering: Arc<Filtering>,
    /// It comes in by a door that opens only to who may relay: REST, a pickup directory.
    pub trusted: bool,
}

/// A refusal, for the peer and for the operator.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What the peer is told.
    pub reply: Reply,
    /// The rule that refused.
    pub rule: &'static str,
    /// What the operator is told.
    pub detail: String,
    /// The session ends with it.
    pub closes: bool,
    /// When it is worth to come again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The session goes on after it.
    pub fn new(rule: &'static str, reply: Reply, detail: impl Into<String>) -> Self {
        Refusal { reply, rule, detail: detail.into(), closes: false, retry_after: None }
    }

    /// What the failure of the store means for the client.
    pub fn of_store(error: &StoreError) -> Self {
        let reply = match error {
            StoreError::NoSpace { .. } => {
                Reply::new(452, EnhancedStatus::transient(3, 1), "Insufficient system storage, try again later")
            }
            _ => Reply::new(451, EnhancedStatus::transient(3, 0), "Local error, try again later"),
        };
        Refusal::new("reserve", reply, error.to_string())
    }

    /// There is more than the appliance can carry.
    pub fn of_overload(over: &Overloaded) -> Self {
        let reply = Reply::new(452, EnhancedStatus::transient(3, 1), "Too busy, try again later");
        Refusal::new("overload", reply, over.to_string())
    }
}

/// What a client asks for by ETRN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The domain.
    pub domain: Domain,
    /// And those below it.
    pub below: bool,
}

impl Client {
    fn peer(&self) -> Peer<'_> {
        Peer { address: self.address, name: self.name.as_ref() }
    }

    /// May it relay to any domain: by its door, by its address or name, or as an account?
    pub fn is_trusted(&self) -> bool {
        let account = self.account.as_ref().is_some_and(|account| account.may_relay);
        self.trusted || self.server.may_relay(self.peer()) || account && self.server.relays_authenticated()
    }

    /// May it talk to this server at all?
    ///
    /// # Errors
    /// A 554 for the greeting.
    pub fn admit_connection(&self) -> Result<(), Refusal> {
        if self.server.may_connect(self.peer()) {
            return Ok(());
        }
        let reply = Reply::new(554, EnhancedStatus::permanent(7, 1), "Access denied");
        Err(Refusal::new("connectionControl", reply, "the virtual server's connectionControl refuses this address"))
    }

    /// May it begin a message under this reverse-path? Quotas are asked apart ([`super::limits`]).
    ///
    /// # Errors
    /// 452 or 451 when the store takes nothing new; 550 for an account that may not.
    pub(super) fn check_sender(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        sender: &ReversePath,
    ) -> Result<(), Refusal> {
        if let Some(account) = &self.account
            && !account.may_send_as(sender, |domain| snapshot.domains.find(domain).is_some())
        {
            let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "You may not send under this address");
            let detail = format!("account {} may not send as {sender}", account.name);
            return Err(Refusal::new("sendAs", reply, detail));
        }
        if let Some(over) = intake.overload.now() {
            return Err(Refusal::of_overload(&over));
        }
        intake.store.has_room().map_err(|error| Refusal::of_store(&error))
    }

    /// May it have the queue tried for a domain, or `@domain` for those below it too (RFC 1985, 5.2)? Mail that waits to be asked for
    /// is asked for by accounts that its connector names, all other mail by clients that may relay.
    ///
    /// # Errors
    /// 459 when it may not. 458 for what is no domain: queues have no names that clients know.
    pub fn admit_etrn(&self, snapshot: &Snapshot, what: &str) -> Result<Asked, Refusal> {
        let (domain, below) = what.strip_prefix('@').map_or((what, false), |domain| (domain, true));
        let not_allowed = |why: String| {
            let reply = Reply::new(459, EnhancedStatus::transient(7, 1), "Not allowed to you");
            Err(Refusal::new("etrn", reply, format!("ETRN {what} by {why}")))
        };
        let Ok(domain) = domain.parse::<Domain>() else {
            if !self.is_trusted() {
                return not_allowed("a client that may not relay".to_owned());
            }
            let reply = Reply::new(458, EnhancedStatus::transient(5, 4), "Cannot start queues but those of a domain");
            return Err(Refusal::new("etrn", reply, format!("ETRN {what}: not a domain")));
        };
        let is_named = self.account.as_ref().is_some_and(|account| {
            let mut theirs = snapshot.routes.connectors().filter(|connector| connector.is_fetched_by(&account.name));
            theirs.any(|connector| connector.covers(&domain, below))
        });
        match () {
            () if is_named => Ok(Asked { domain, below }),
            () if !self.is_trusted() => not_allowed("a client that may not relay".to_owned()),
            () if snapshot.routes.is_remote_triggered(&domain) => {
                not_allowed(format!("who is not named in remoteTriggered of the connector for {domain}"))
            }
            () => Ok(Asked { domain, below }),
        }
    }

    /// What of the parameters of MAIL is granted. `now` is the time of MAIL.
    ///
    /// # Errors
    /// 550 or 501 for a hold.
    pub fn admit_parameters(&self, now: Timestamp, parameters: MailParameters) -> Result<MailParameters, Refusal> {
        let until = match parameters.hold {
            None => now,
            Some(Hold::For(seconds)) => now + Duration::from_secs(u64::from(seconds)),
            Some(Hold::Until(seconds)) => Timestamp::from_millis(seconds.saturating_mul(1000)),
        };
        if parameters.hold.is_some() && !self.is_trusted() {
            let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "Mail is not held for this client");
            return Err(Refusal::new("futureRelease", reply, "relay.allow does not list this client"));
        }
        if until > now + MAX_HOLD {
            let reply = Reply::new(501, EnhancedStatus::permanent(5, 4), "Mail is not held for so long");
            return Err(Refusal::new("futureRelease", reply, "mail is held for 45 days at most"));
        }
        let granted = parameters.priority.map(|priority| if self.is_trusted() { priority } else { priority.min(0) });
        Ok(MailParameters { priority: granted, ..parameters })
    }

    /// May it send to this recipient, and where does that one wait?
    ///
    /// # Errors
    /// See the table of this module.
    pub fn admit_recipient(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        sending: Sending<'_>,
        path: &ForwardPath,
    ) -> Result<(QueueName, Option<crate::model::name::Name>), Refusal> {
        match assign(snapshot, &*intake.recipients, path, sending) {
            Assignment::Refused(restriction) => Err(restricted(restriction, path)),
            Assignment::Unknown => Err(unknown(path)),
            Assignment::TryLater => {
                let reply = Reply::new(451, EnhancedStatus::transient(3, 0), "Local error, try again later");
                Err(Refusal::new("directory", reply, "the directory cannot be read now"))
            }
            Assignment::Queue(queue, name) if is_ours(&queue) => Ok((queue, name)),
            // a shared domain, or one that a connector opens: what hides another address would be relayed from within
            Assignment::Queue(..) if hides_an_address(path) && !self.is_trusted() => {
                Err(relay_denied("routedLocalPart", path))
            }
            Assignment::Queue(queue, name) => match path {
                ForwardPath::Mailbox(mailbox) if self.may_relay(snapshot, mailbox) => Ok((queue, name)),
                // a bare postmaster is always ours, wherever its mail goes
                ForwardPath::Postmaster => Ok((queue, name)),
                ForwardPath::Mailbox(mailbox) => {
                    let ours = snapshot.domains.find(mailbox.domain()).is_some();
                    if ours { Ok((queue, name)) } else { Err(relay_denied("relay", path)) }
                }
            },
        }
    }

    fn may_relay(&self, snapshot: &Snapshot, to: &Mailbox) -> bool {
        self.is_trusted() || snapshot.routes.allows_relay(to.domain(), &self.server.name)
    }
}

/// `u%d`, `d!u`, `"u@d"` as a local part: old ways to say where mail shall go on to.
fn hides_an_address(path: &ForwardPath) -> bool {
    matches!(path, ForwardPath::Mailbox(mailbox) if mailbox.local().contains(['%', '!', '@']))
}

fn unknown(path: &ForwardPath) -> Refusal {
    if hides_an_address(path) {
        return relay_denied("routedLocalPart", path);
    }
    let reply = Reply::new(550, EnhancedStatus::permanent(1, 1), "No such recipient here");
    Refusal::new(UNKNOWN_RECIPIENT, reply, format!("{path} is not in the directory, and its domain is authoritative"))
}

/// A recipient that may not be written to.
pub(super) fn restricted(restriction: Restriction, path: &ForwardPath) -> Refusal {
    let (code, words) = match restriction {
        Restriction::TooLarge { .. } => (552, "The message is too large for this recipient"),
        Restriction::Sender => (550, "You may not send to this recipient"),
    };
    let reply = Reply::new(code, restriction_failure(restriction).status, words);
    Refusal::new("restriction", reply, format!("{path}: {restriction}"))
}

fn relay_denied(rule: &'static str, path: &ForwardPath) -> Refusal {
    let reply = Reply::new(550, EnhancedStatus::permanent(7, 1), "Relaying denied");
    Refusal::new(
        rule,
        reply,
        format!("{path} lives elsewhere, and neither relay.allow nor a connector lets this client relay"),
    )
}
