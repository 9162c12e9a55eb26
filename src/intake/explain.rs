//! What would become of a message, and why: every decision in order, by the functions that real mail goes through.
//!
//! ```text
//!   connect ▶ mail ▶ rcpt ▶ directory ▶ route ▶ hours          asked here, of the same rules as at the door
//!                                              └▶ next hops     asked by the caller, of `outbound`
//! ```
//!
//! Nothing is counted, kept or sent: quotas are looked at only, and what filters do is not in the metrics. DNS is asked, where
//! real mail would ask it. What the protocol itself refuses (a size over the limit, a missing login) is told too, from the
//! same settings.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::admission::{Client, Refusal};
use super::filters::{Fate, Filtering};
use super::{Intake, limits, staging, verify};
use crate::accounts::Account;
use crate::config::{Snapshot, VirtualServer};
use crate::directory::Distributor;
use crate::model::mail::{Message, Recipient};
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::spec::connector::VerifyRecipients;
use crate::model::time::Timestamp;
use crate::net::resolver::verified_name;
use crate::observe::metrics::Metrics;
use crate::queue::{self, Assignment, Sending, Way};
use crate::routing::{Considered, Exclusion, Route, Verdict};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::parameters::MailParameters;
use crate::smtp::reply::{EnhancedStatus, Reply};

/// Most members of a group that are told.
const MOST_MEMBERS: usize = 100;
/// Longest wait for the reverse name of the client.
const NAME_LIMIT: Duration = Duration::from_secs(5);

/// A message as it might come in.
#[derive(Debug, Clone)]
pub struct Question {
    /// The virtual server it comes to.
    pub server: Arc<VirtualServer>,
    /// The port of the binding it comes in by; `None`: the first binding.
    pub port: Option<u16>,
    /// Where the client is.
    pub client: IpAddr,
    /// Who it has authenticated as.
    pub account: Option<Arc<Account>>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The reverse-path.
    pub sender: ReversePath,
    /// The forward-path.
    pub recipient: ForwardPath,
    /// Octets of content.
    pub size: u64,
    /// Its priority (RFC 6710), as the client asks for it.
    pub priority: i8,
}

/// Where in the house a decision is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ExplainedStage)]
pub enum Stage {
    /// When the client connects.
    Connect,
    /// At MAIL.
    Mail,
    /// At RCPT.
    Rcpt,
    /// Who the recipient is.
    Directory,
    /// Which connector carries it.
    Route,
    /// When it is carried.
    Hours,
    /// Which hosts it goes to, and how.
    NextHop,
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ExplainedOutcome)]
pub enum Outcome {
    /// Nothing speaks against it.
    Passed,
    /// The client would be refused, with `reply`.
    Refused,
    /// This is the one.
    Chosen,
    /// It was looked at, and is not the one.
    PassedOver,
    /// It waits.
    Waits,
    /// The message would not be delivered: it fails, is archived or dropped.
    Ends,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ExplainedDecision, example = json!({
    "stage": "route", "rule": "cost", "outcome": "chosen", "object": "connectors/hub", "detail": "address space *.example.com at cost 10"
}))]
pub struct Decision {
    /// Where it is made.
    pub stage: Stage,
    /// The rule, by its name.
    pub rule: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// The object that it is about, as `collection/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub object: Option<String>,
    /// What the client would be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reply: Option<String>,
    /// Why, for people; absent where the rule says enough.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub detail: String,
}

/// A queue that the message would wait in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The queue.
    pub queue: QueueName,
    /// The virtual server under whose settings it goes out: the one that took it, or the connector's bridgehead.
    pub took: Name,
}

/// The decisions, and where they lead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// In the order in which they are made.
    pub decisions: Vec<Decision>,
    /// The reply that refuses the recipient; `None`: it is taken.
    pub refused: Option<String>,
    /// Where it would wait; `None` when it is refused, or goes nowhere.
    pub destination: Option<Destination>,
}

impl Explanation {
    fn note(&mut self, stage: Stage, rule: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.decisions.push(Decision { stage, rule, outcome, object: None, reply: None, detail: detail.into() });
    }

    fn about(&mut self, object: String, stage: Stage, rule: &'static str, outcome: Outcome, detail: impl Into<String>) {
        let object = Some(object);
        self.decisions.push(Decision { stage, rule, outcome, object, reply: None, detail: detail.into() });
    }

    /// Notes what a rule says; true when it lets pass.
    fn judged<T>(&mut self, stage: Stage, rule: &'static str, judged: Result<T, Refusal>) -> Option<T> {
        match judged {
            Ok(value) => {
                self.note(stage, rule, Outcome::Passed, "");
                Some(value)
            }
            Err(refusal) => {
                let reply = refusal.reply.to_string();
                self.decisions.push(Decision {
                    stage,
                    rule: refusal.rule,
                    outcome: Outcome::Refused,
                    object: None,
                    reply: Some(reply.clone()),
                    detail: refusal.detail,
                });
                self.refused.get_or_insert(reply);
                None
            }
        }
    }
}

/// Explains. [`Intake`] does.
#[async_trait]
pub trait Explain: Send + Sync {
    /// What would become of such a message.
    async fn coming(&self, snapshot: &Arc<Snapshot>, question: Question) -> Explanation;

    /// What becomes of a recipient of a message that was taken: it is assigned anew.
    fn taken(&self, snapshot: &Snapshot, message: &Message, recipient: &Recipient) -> Explanation;
}

#[async_trait]
impl Explain for Intake {
    async fn coming(&self, snapshot: &Arc<Snapshot>, question: Question) -> Explanation {
        coming(self, snapshot, question).await
    }

    fn taken(&self, snapshot: &Snapshot, message: &Message, recipient: &Recipient) -> Explanation {
        taken(self, snapshot, message, recipient)
    }
}

async fn coming(intake: &Intake, snapshot: &Arc<Snapshot>, question: Question) -> Explanation {
    // what is asked here is no traffic
    let intake = Intake { metrics: Metrics::new(&mut Registry::default()), ..intake.clone() };
    let mut told = Explanation::default();
    let priority = match at_the_door(&intake, snapshot, &question, &mut told).await {
        Some(priority) => priority,
        None => return told,
    };
    let down = intake.queue.down();
    let sending = Sending {
        sender: &question.sender,
        size: question.size,
        priority,
        virtual_server: &question.server.name,
        spread: 0,
        down: &down,
    };
    let path = match staging::apply(&question.server, &question.recipient) {
        Ok(Some(instead)) => {
            told.note(Stage::Rcpt, "staging", Outcome::Passed, format!("staging.redirectTo sends it to {instead}"));
            instead
        }
        _ => question.recipient.clone(),
    };
    let assigned = queue::assign(snapshot, &*intake.recipients, &path, sending);
    onward(&intake, snapshot, &path, &assigned, sending, &mut told);
    if let Assignment::Queue(queue, _) = &assigned {
        stands_still(&intake, queue, &mut told);
    }
    told
}

fn taken(intake: &Intake, snapshot: &Snapshot, message: &Message, recipient: &Recipient) -> Explanation {
    let mut told = Explanation::default();
    let down = intake.queue.down();
    let assigned = queue::assign_again(snapshot, &*intake.recipients, message, recipient, &down);
    let sending = Sending::of(message, &down);
    match chosen(snapshot, message, recipient, &assigned, &mut told) {
        Some(queue) => hours(intake, snapshot, queue, message.size, &mut told),
        None => onward(intake, snapshot, &recipient.forward_path, &assigned, sending, &mut told),
    }
    if let Assignment::Queue(queue, _) = &assigned {
        kept_back(intake, message, recipient, queue, &mut told);
    }
    told
}

/// The operator's choice of a connector, if there is one; the queue that the recipient waits in, if it holds.
fn chosen<'a>(
    snapshot: &Snapshot,
    message: &Message,
    recipient: &Recipient,
    assigned: &'a Assignment,
    told: &mut Explanation,
) -> Option<&'a QueueName> {
    const RULE: &str = "chosenByOperator";
    let name = message.connector.as_ref().filter(|_| assigned.is_remote())?;
    let object = format!("connectors/{name}");
    let (Assignment::Queue(queue, _), ForwardPath::Mailbox(mailbox)) = (assigned, &recipient.forward_path) else {
        return None;
    };
    if queue::pinned(snapshot, message).is_none() {
        let words = "it is gone or switched off: the message is routed as usual";
        told.about(object, Stage::Route, RULE, Outcome::PassedOver, words);
        return None;
    }
    told.note(Stage::Directory, "recipient", Outcome::Passed, elsewhere(snapshot, mailbox));
    told.about(object, Stage::Route, RULE, Outcome::Chosen, "whatever its address spaces and restrictions say");
    let took = &message.origin.virtual_server;
    let took = snapshot.delivery_server(took).map_or(took, |server| &server.name).clone();
    told.destination = Some(Destination { queue: queue.clone(), took });
    Some(queue)
}

/// What an operator, or its sender, does against its going.
fn kept_back(intake: &Intake, message: &Message, recipient: &Recipient, queue: &QueueName, told: &mut Explanation) {
    if let Some(hold) = intake.queue.held_by(message, recipient, queue) {
        let words = format!("held by {:?}: {}", hold.by, hold.reason);
        told.about(format!("holds/{}", hold.id), Stage::Hours, "hold", Outcome::Waits, words);
    }
    if message.frozen {
        let words = "an operator has frozen the message";
        told.about(format!("messages/{}", message.id), Stage::Hours, "frozen", Outcome::Waits, words);
    }
    let released = message.released_at();
    if released > Timestamp::from_millis(intake.clock.unix_millis()) {
        told.note(Stage::Hours, "sendAt", Outcome::Waits, format!("until {released}, as its sender wants"));
    }
    stands_still(intake, queue, told);
}

/// What an operator does against the going of anything in a queue.
fn stands_still(intake: &Intake, queue: &QueueName, told: &mut Explanation) {
    if intake.queue.is_frozen(queue) {
        let words = "an operator has frozen the queue";
        told.about(format!("queues/{queue}"), Stage::Hours, "frozen", Outcome::Waits, words);
    }
    if let Some((connector, by)) = queue.connector().and_then(|name| Some((name, intake.queue.suspended(name)?))) {
        let words = format!("suspended by {:?}", by.by);
        told.about(format!("connectors/{connector}"), Stage::Hours, "suspended", Outcome::Waits, words);
    }
}

/// Everything that can refuse a client. The priority that it is granted.
async fn at_the_door(
    intake: &Intake,
    snapshot: &Arc<Snapshot>,
    question: &Question,
    told: &mut Explanation,
) -> Option<i8> {
    let Question { server, client: address, account, sender, recipient, size, .. } = question;
    let bindings = &server.spec.bindings;
    let binding = bindings.iter().find(|binding| question.port.is_none_or(|port| binding.port == port));
    let Some(binding) = binding.filter(|_| server.spec.enabled) else {
        told.note(Stage::Connect, "bindings", Outcome::Refused, "the virtual server does not listen there");
        told.refused = Some("no connection".to_owned());
        return None;
    };
    let name = reverse_name(intake, server, *address).await;
    let client = Client {
        address: *address,
        name,
        server: server.clone(),
        account: account.clone(),
        tls: None,
        filtering: Filtering::new(binding),
        trusted: false,
    };
    told.judged(Stage::Connect, "connectionControl", client.admit_connection())?;
    told.judged(Stage::Mail, "tls", protocol_wants(server, question))?;
    told.judged(Stage::Mail, "maxSize", fits(server, *size))?;
    told.judged(Stage::Mail, "sendAs", client.check_sender(intake, snapshot, sender))?;
    if let Some(judged) = limits::judged(intake, snapshot, account.as_deref(), sender) {
        told.judged(Stage::Mail, "quotas", judged)?;
    }
    let fate = told.judged(Stage::Mail, "senderFilter", client.filter_sender(intake, snapshot, sender))?;
    let now = Timestamp::from_millis(intake.clock.unix_millis());
    let asked = MailParameters { priority: Some(question.priority), ..MailParameters::default() };
    let granted = client.admit_parameters(now, asked).ok().and_then(|granted| granted.priority).unwrap_or_default();
    if granted != question.priority {
        told.note(Stage::Mail, "priority", Outcome::Passed, "from a client that may not relay it counts as 0");
    }
    told.judged(Stage::Rcpt, "staging", staging::apply(server, recipient))?;
    let fate = match fate {
        Fate::Deliver => {
            told.judged(Stage::Rcpt, "filters", client.filter_recipient(intake, snapshot, recipient).await)?
        }
        decided => decided,
    };
    let down = intake.queue.down();
    let sending =
        Sending { sender, size: *size, priority: granted, virtual_server: &server.name, spread: 0, down: &down };
    let admitted = client.admit_recipient(intake, snapshot, sending, recipient);
    let queue = admitted.as_ref().ok().map(|(queue, _)| queue.clone());
    let why = if client.is_trusted() { "the client may relay" } else { "" };
    told.judged(Stage::Rcpt, "recipient", admitted)?;
    if let Some(last) = told.decisions.last_mut() {
        last.detail = why.to_owned();
    }
    if let Some(waits) = queue.as_ref().filter(|_| !intake.queue.suppressions().is_empty()) {
        let allowed = limits::admit_unsuppressed(intake, recipient, queue::is_ours(waits));
        told.judged(Stage::Rcpt, "suppression", allowed)?;
    }
    let verified = queue.filter(|queue| verify::wanted(snapshot, queue) != VerifyRecipients::None);
    let stays = matches!(staging::apply(server, recipient), Ok(None));
    if let Some(queue) = verified.filter(|_| stays && matches!(fate, Fate::Deliver)) {
        let verified = client.verify_recipient(intake, snapshot, &queue, recipient).await;
        told.judged(Stage::Rcpt, verify::RULE, verified)?;
    }
    match fate {
        Fate::Deliver => Some(granted),
        Fate::Archive(found) | Fate::Discard(found) => {
            told.note(Stage::Rcpt, found.rule, Outcome::Ends, found.detail);
            None
        }
    }
}

async fn reverse_name(
    intake: &Intake,
    server: &VirtualServer,
    address: IpAddr,
) -> Option<crate::model::host::HostName> {
    if !server.looks_up_names() {
        return None;
    }
    let resolver = intake.resolvers.of(&server.name_servers()).ok()?;
    let name = tokio::time::timeout(NAME_LIMIT, verified_name(&*resolver, address)).await;
    name.ok()?.ok()??.parse().ok()
}

/// What the protocol core refuses by these settings.
fn protocol_wants(server: &VirtualServer, question: &Question) -> Result<(), Refusal> {
    let spec = &server.spec;
    if spec.tls.required && !question.encrypted {
        let reply = Reply::new(530, EnhancedStatus::permanent(7, 0), "Must issue a STARTTLS command first");
        return Err(Refusal::new("tls", reply, "tls.required: the connection is not encrypted"));
    }
    if spec.authentication.required && question.account.is_none() {
        let reply = Reply::new(530, EnhancedStatus::permanent(7, 0), "Authentication required");
        return Err(Refusal::new("authentication", reply, "authentication.required: the client has not logged in"));
    }
    Ok(())
}

fn fits(server: &VirtualServer, size: u64) -> Result<(), Refusal> {
    let most = server.spec.messages.max_size;
    if size <= most.bytes() {
        return Ok(());
    }
    let reply = Reply::new(552, EnhancedStatus::permanent(3, 4), "Message too large");
    Err(Refusal::new("maxSize", reply, format!("messages.maxSize of virtual server {} is {most}", server.name)))
}

/// Who is meant, and which way the mail goes.
fn onward(
    intake: &Intake,
    snapshot: &Snapshot,
    path: &ForwardPath,
    assigned: &Assignment,
    sending: Sending<'_>,
    told: &mut Explanation,
) {
    let took = snapshot.delivery_server(sending.virtual_server).map_or(sending.virtual_server, |server| &server.name);
    let destination = |queue: &QueueName| Some(Destination { queue: queue.clone(), took: took.clone() });
    match assigned {
        Assignment::Queue(queue @ QueueName::Local(store), name) => {
            let recipient = name.as_ref().map_or_else(|| path.to_string(), |name| format!("recipients/{name}"));
            told.about(recipient, Stage::Directory, "recipient", Outcome::Chosen, "");
            told.about(format!("mailbox-stores/{store}"), Stage::Route, "mailboxStore", Outcome::Chosen, "");
            told.destination = destination(queue);
        }
        Assignment::Queue(queue @ QueueName::Directory, _) => {
            members(intake, snapshot, path, sending, told);
            told.destination = destination(queue);
        }
        Assignment::Queue(queue, _) => {
            let ForwardPath::Mailbox(mailbox) = path else { return };
            told.note(Stage::Directory, "recipient", Outcome::Passed, elsewhere(snapshot, mailbox));
            routed(intake, snapshot, mailbox, sending, told);
            told.destination = destination(queue);
            hours(intake, snapshot, queue, sending.size, told);
        }
        Assignment::Refused(restriction) => {
            told.note(Stage::Directory, "restriction", Outcome::Ends, restriction.to_string());
        }
        Assignment::Unknown => {
            told.note(
                Stage::Directory,
                "unknownRecipient",
                Outcome::Ends,
                "there is no such recipient in the directory",
            );
        }
        Assignment::TryLater => {
            told.note(Stage::Directory, "directory", Outcome::Waits, "the directory cannot be read now");
        }
    }
}

fn elsewhere(snapshot: &Snapshot, mailbox: &Mailbox) -> String {
    match snapshot.domains.find(mailbox.domain()) {
        Some(_) => format!("{} is shared, and the directory has no {mailbox}", mailbox.domain()),
        None => format!("{} is not local", mailbox.domain()),
    }
}

/// Who gets mail for one that stands for others.
fn members(intake: &Intake, snapshot: &Snapshot, path: &ForwardPath, sending: Sending<'_>, told: &mut Explanation) {
    let mut distributor = Distributor::new(&snapshot.domains, &*intake.recipients, sending.sender, sending.size);
    match distributor.members(path) {
        Ok(reached) => {
            let words = format!("{path} stands for {}", reached.members.len());
            told.note(Stage::Directory, "distribution", Outcome::Chosen, words);
            for member in reached.members.iter().take(MOST_MEMBERS) {
                let by = member.owner.as_ref().map_or_else(String::new, |owner| format!(", with the sender {owner}"));
                told.note(Stage::Directory, "member", Outcome::Chosen, format!("{}{by}", member.path));
            }
            for refused in reached.turned_away.iter().take(MOST_MEMBERS) {
                let words = format!("{}: {}", refused.path, refused.restriction);
                told.note(Stage::Directory, "restriction", Outcome::PassedOver, words);
            }
        }
        Err(error) => told.note(Stage::Directory, "distribution", Outcome::Ends, error.to_string()),
    }
}

/// Which connector, and what was thought of the others.
fn routed(intake: &Intake, snapshot: &Snapshot, mailbox: &Mailbox, sending: Sending<'_>, told: &mut Explanation) {
    let way = queue::way(snapshot, &*intake.recipients, mailbox, sending);
    let server = |field: &str| {
        let name = snapshot.delivery_server(sending.virtual_server).map(|server| server.name.to_string());
        (format!("virtual-servers/{}", name.unwrap_or_default()), format!("{field} of the virtual server"))
    };
    if let Way::Unresolved(_) = way {
        let (object, detail) = server("messages.forwardUnresolvedTo");
        return told.about(object, Stage::Route, "forwardUnresolvedTo", Outcome::Chosen, detail);
    }
    for considered in queue::considered(snapshot, &*intake.recipients, mailbox, sending) {
        let (rule, outcome, detail) = thought_of(&considered);
        told.about(format!("connectors/{}", considered.connector), Stage::Route, rule, outcome, detail);
    }
    match way {
        Way::SmartHost(_) => {
            let (object, detail) = server("outbound.smartHost");
            told.about(object, Stage::Route, "smartHost", Outcome::Chosen, detail);
        }
        Way::Routed(Route::NoRoute) => {
            told.note(Stage::Route, "addressSpace", Outcome::Waits, "no connector carries mail for this recipient");
        }
        Way::Routed(Route::TryLater) => {
            told.note(Stage::Route, "restrictions", Outcome::Waits, "the directory cannot be read now");
        }
        Way::Unresolved(_) | Way::Routed(Route::Connector { .. }) => {}
    }
}

fn thought_of(considered: &Considered) -> (&'static str, Outcome, String) {
    let space = format!("address space {} at cost {}", considered.pattern, considered.cost);
    let with = |why: &str| format!("{space}: {why}");
    match considered.verdict {
        Verdict::Chosen => ("addressSpace", Outcome::Chosen, space),
        Verdict::Shares => {
            ("cost", Outcome::PassedOver, with("it shares the load, and this message falls to another connector"))
        }
        Verdict::Costlier => ("cost", Outcome::PassedOver, with("another connector costs less")),
        Verdict::LessSpecific => ("addressSpace", Outcome::PassedOver, with("another connector's is more specific")),
        Verdict::Down => ("health", Outcome::PassedOver, with("none of its smart hosts can be reached now")),
        Verdict::Unclear => (
            "restrictions",
            Outcome::PassedOver,
            with("it cannot be told now whether the sender is one that it carries"),
        ),
        Verdict::Excluded(exclusion) => {
            let (rule, why) = match exclusion {
                Exclusion::Size => ("restrictions.maxSize", "the message is too large"),
                Exclusion::Priority => ("restrictions.priorities", "the message has another priority"),
                Exclusion::System => ("restrictions.system", "it carries no system messages"),
                Exclusion::NonSystem => ("restrictions.nonSystem", "it carries system messages only"),
                Exclusion::Sender => ("restrictions.acceptFrom", "acceptFrom and rejectFrom leave this sender out"),
            };
            (rule, Outcome::PassedOver, with(why))
        }
    }
}

/// When the connector carries it.
fn hours(intake: &Intake, snapshot: &Snapshot, queue: &QueueName, size: u64, told: &mut Explanation) {
    let Some(connector) = queue.connector().and_then(|name| snapshot.routes.connector(name)) else { return };
    if connector.schedule_for(size).is_none() {
        return;
    }
    let now = Timestamp::from_millis(intake.clock.unix_millis());
    let opens = connector.opens_for(size, now);
    let (outcome, detail) = match opens > now {
        true => (Outcome::Waits, format!("until {opens}")),
        false => (Outcome::Passed, "it is carried now".to_owned()),
    };
    told.about(format!("connectors/{}", connector.name), Stage::Hours, "schedule", outcome, detail);
}
