//! A house for the tests of the API: a configuration over a store in memory, a made-up queue, the real HTTP server on a
//! port of its own, and a client that speaks HTTP by hand, so that no library corrects a request.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bridgehead::alerts::{Alerts, Deliver, Letter, Observe, Observed};
use bridgehead::api::{
    AdminKey, Api, ApiKeySource, BoundAddress, Check, Condition, ConditionStatus, ConditionType, FirstKey, Handles,
    Health, Keys, Listen, Probe, Server, StartError, VirtualServerState, VirtualServerStatus,
};
use bridgehead::config::VirtualServer;
use bridgehead::config::watching::AlertMail;
use bridgehead::config::{Configuration, FirstStart, OpenOptions, Snapshot};
use bridgehead::directory::suppressions::Suppressions;
use bridgehead::intake::explain::{Explain, Explanation, Question};
use bridgehead::intake::submit::{Claimed, NotTaken, Submission, Submit, Submitting};
use bridgehead::mailroot::import::{Import, ImportError, Importing, Wanted};
use bridgehead::model::failure::{Failure, Scope};
use bridgehead::model::mail::{Message, MessageId, Origin, Protocol, Recipient, RecipientStatus, Waits};
use bridgehead::model::name::Name;
use bridgehead::model::queue_name::QueueName;
use bridgehead::model::time::Timestamp;
use bridgehead::net::clock::ManualClock;
use bridgehead::observe::metrics::Metrics;
use bridgehead::queue::bulk::{Bulk, BulkAction, BulkError, Operation, Order, Preview};
use bridgehead::queue::history::{Counts, EventFilter, EventPage, GroupBy, History};
use bridgehead::queue::operate::{
    ActionError, MessageFilter, MessagePage, MessageState, Operate, QueueKind, QueueState, QueueView,
};
use bridgehead::queue::whereabouts::{Inquiry, Whereabouts};
use bridgehead::routing::Connector;
use bridgehead::routing::probe::{NextHops, Probe as NextHopProbe, TestResult};
use bridgehead::status::{KeyUse, Running, Sessions};
use bridgehead::store::history::{Chunk, Position};
use bridgehead::store::{
    Backup, BackupError, ConfigDraft, ConfigStore, ControlStore, Copying, InMemoryDraft, NoteStore, PageKey, StoreError,
};
use bridgehead::tlsrpt::TlsReports;
use bridgehead::tlsrpt::kept::Files;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const KEY: &str = "test-key-of-the-owner";

/// A running API and what is behind it.
pub struct House {
    pub server: Server,
    pub queue: Arc<Queue>,
    pub ready: Arc<AtomicBool>,
    pub sessions: Arc<Sessions>,
    pub first_key: String,
    pub configuration: Arc<Configuration>,
    /// The secrets directory; it holds a pair `smtp/tls.crt` and `smtp/tls.key` for mail.example.com.
    pub secrets: tempfile::TempDir,
    /// What time `tls_reports` has.
    pub clock: Arc<ManualClock>,
    /// What came of TLS.
    pub tls_reports: Arc<TlsReports>,
}

/// A certificate for this host, signed by its own key, and the key: PEM.
pub fn pair(host: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    // whatever the clock of the house says
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Explains nothing, and knows no next hops.
struct Silent;

#[async_trait]
impl Explain for Silent {
    async fn coming(&self, _: &Arc<Snapshot>, _: Question) -> Explanation {
        Explanation::default()
    }

    fn taken(&self, _: &Snapshot, _: &Message, _: &Recipient) -> Explanation {
        Explanation::default()
    }
}

#[async_trait]
impl bridgehead::api::Exposition for Silent {
    async fn text(&self) -> String {
        "# EOF\n".to_owned()
    }
}

/// Is never asked, as no task looks.
#[async_trait]
impl Observe for Silent {
    async fn observe(&self) -> Observed {
        unreachable!("nobody looks")
    }
}

/// Takes what is for `ops@`, and nothing else.
#[async_trait]
impl Deliver for Silent {
    async fn deliver(&self, _: &AlertMail, _: &Letter, recipient: &str) -> Result<(), String> {
        if recipient.starts_with("ops@") { Ok(()) } else { Err("550 5.1.1 unknown".to_owned()) }
    }
}

#[async_trait]
impl Backup for Silent {
    async fn backup(&self) -> Result<Copying, BackupError> {
        Err(BackupError::Running)
    }
}

#[async_trait]
impl Importing for Silent {
    async fn begin(&self, _: Wanted) -> Result<Import, ImportError> {
        Err(ImportError::Running)
    }

    fn all(&self) -> Vec<Import> {
        Vec::new()
    }
}

/// Nothing has happened.
#[async_trait]
impl History for Silent {
    async fn find_events(
        &self,
        _: &EventFilter,
        _: bool,
        _: Option<Position>,
        _: usize,
    ) -> Result<EventPage, ActionError> {
        Ok(EventPage::default())
    }

    async fn count_events(&self, _: &EventFilter, _: GroupBy, _: Option<Position>) -> Result<Counts, ActionError> {
        Ok(Counts::default())
    }

    async fn whereabouts(&self, _: &Inquiry) -> Result<Whereabouts, ActionError> {
        Ok(Whereabouts::default())
    }

    async fn read_events(&self, from: Position, _: usize) -> Result<Chunk, ActionError> {
        Ok(Chunk { next: from, ..Chunk::default() })
    }

    fn tail(&self) -> tokio::sync::watch::Receiver<Position> {
        tokio::sync::watch::Sender::new(Position::START).subscribe()
    }
}

/// Begins nothing.
#[async_trait]
impl Bulk for Silent {
    async fn preview(&self, _: BulkAction, _: &MessageFilter) -> Result<Preview, BulkError> {
        Err(BulkError::EmptySelector)
    }

    async fn begin(&self, _: Order, _: MessageFilter, _: String) -> Result<Operation, BulkError> {
        Err(BulkError::EmptySelector)
    }

    fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }

    async fn cancel(&self, _: uuid::Uuid) -> Result<Operation, BulkError> {
        Err(BulkError::NotFound)
    }
}

/// Takes nothing.
#[async_trait]
impl Submit for Silent {
    fn server(&self, _: Option<&Name>) -> Result<Arc<VirtualServer>, NotTaken> {
        Err(NotTaken::UnknownServer)
    }

    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }

    async fn claim(&self, _: [u8; 32]) -> Result<Claimed, NotTaken> {
        Err(NotTaken::Busy)
    }

    async fn begin(&self, _: Submission) -> Result<Box<dyn Submitting>, NotTaken> {
        Err(NotTaken::UnknownServer)
    }
}

#[async_trait]
impl NextHopProbe for Silent {
    async fn next_hops(&self, _: &QueueName, _: &Name) -> Option<NextHops> {
        None
    }

    async fn test(&self, _: &Name, _: Option<&bridgehead::smtp::address::Domain>) -> Option<TestResult> {
        None
    }
}

impl House {
    /// Starts it, with the configuration of a first start.
    pub async fn open() -> Self {
        House::open_at("127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    /// Starts it with REST on this address.
    pub async fn open_at(address: std::net::SocketAddr) -> Result<Self, StartError> {
        let secrets = tempfile::tempdir().unwrap();
        std::fs::create_dir(secrets.path().join("smtp")).unwrap();
        let (chain, key) = pair("mail.example.com");
        std::fs::write(secrets.path().join("smtp/tls.crt"), chain).unwrap();
        std::fs::write(secrets.path().join("smtp/tls.key"), key).unwrap();
        let options = OpenOptions {
            host_name: "relay.example.com".parse().unwrap(),
            secrets_dir: secrets.path().to_owned(),
            files: false,
            now: Arc::new(|| Timestamp::from_millis(1_795_000_000_000)),
        };
        let configuration = Configuration::open(Arc::new(Memory::default()), options).await.unwrap();
        configuration.first_start(&FirstStart { smtp_listen: "127.0.0.1:2525".parse().unwrap() }).await.unwrap();
        let first_key = configuration.make_first_key(false).await.unwrap().unwrap().to_string();
        let queue = Arc::new(Queue::default());
        let ready = Arc::new(AtomicBool::new(true));
        let sessions = Arc::new(Sessions::default());
        let key_use = Arc::new(KeyUse::new(Arc::new(Controls::default())));
        let keys: Vec<Box<dyn Keys>> = vec![
            Box::new(FirstKey::new(configuration.clone())),
            Box::new(AdminKey::new(KEY)),
            Box::new(ApiKeySource::new(configuration.clone(), key_use.clone())),
        ];
        let clock = Arc::new(ManualClock::new(1_795_000_000_000));
        let files = Arc::new(Files::below(secrets.path()));
        let tls_reports = Arc::new(TlsReports::new(clock.clone(), files));
        let metrics = Metrics::new(&mut Default::default());
        let alerts =
            Alerts::new(configuration.live().clone(), clock.clone(), metrics, Box::new(Silent), Box::new(Silent));
        let handles = Handles {
            configuration: configuration.clone(),
            operate: queue.clone(),
            health: Arc::new(Probes(ready.clone())),
            metrics: Arc::new(Silent),
            keys: Arc::new(keys),
            key_use,
            listeners: Arc::new(|name: &Name| (name.as_str() == "default").then(listening)),
            sessions: sessions.clone(),
            drain: Arc::default(),
            running: Arc::new(Running::new(Arc::new(Controls::default()))),
            issuers: Arc::new(|_: &Name| None),
            logins: Arc::new(|_: &Connector| None),
            explain: Arc::new(Silent),
            bulk: Arc::new(Silent),
            steer: queue.clone(),
            suppressions: Arc::new(Suppressions::new(Arc::new(Notes::default()))),
            imports: Arc::new(Silent),
            quotas: Arc::default(),
            probe: Arc::new(Silent),
            alerts,
            tls_reports: tls_reports.clone(),
            submit: Arc::new(Silent),
            history: Arc::new(Silent),
            sinks: None,
            backup: Arc::new(Silent),
            draining: tokio::sync::watch::Sender::new(None).subscribe(),
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Api::start(handles, &Listen { api: vec![address], health: vec![any], ..Listen::default() })?;
        Ok(House { server, queue, ready, sessions, first_key, configuration, secrets, clock, tls_reports })
    }

    /// A request with the key.
    pub async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[("Authorization", &format!("Bearer {KEY}"))], b"").await
    }

    /// A PUT of JSON with the key.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.write("PUT", path, "application/json", &[], body.to_string().as_bytes()).await
    }

    /// A POST of JSON with the key.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.write("POST", path, "application/json", &[], body.to_string().as_bytes()).await
    }

    /// A merge patch with the key.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.write("PATCH", path, "application/merge-patch+json", &[], body.to_string().as_bytes()).await
    }

    /// A body with the key.
    pub async fn write(&self, method: &str, path: &str, media: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let key = format!("Bearer {KEY}");
        let mut all = vec![("Authorization", key.as_str()), ("Content-Type", media)];
        all.extend(headers);
        self.send(method, path, &all, body).await
    }

    /// Exactly this.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        request(self.server.addresses()[0], method, path, headers, body).await
    }

    /// To the health listener.
    pub async fn probe(&self, method: &str, path: &str) -> Answer {
        request(self.server.health_addresses()[0], method, path, &[], b"").await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// It is this problem, in full.
    #[track_caller]
    pub fn is_problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:bridgehead:problem:{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }

    /// Pointers (or parameters) and codes of all its errors.
    pub fn errors(&self) -> BTreeSet<(String, String)> {
        let json = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = |error: &Value| text(error.get("pointer").unwrap_or(&error["parameter"]));
        json["errors"].as_array().into_iter().flatten().map(|error| (place(error), text(&error["code"]))).collect()
    }
}

async fn request(
    address: std::net::SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    // A server that refuses a body may close before it has read all of it.
    let _ = stream.write_all(body).await;
    let answer = read(&mut stream).await;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..split].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    Answer { status, headers, body: String::from_utf8_lossy(&answer[split + 4..]).into_owned() }
}

/// Until the end, or as much as the head announces: after a refused body the server lingers a while.
async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut answer).await {
        let Some(split) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..split]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let empty = head.starts_with("http/1.1 204") || head.starts_with("http/1.1 304");
        // a stream of events has no end
        let endless = head.contains("content-type: text/event-stream");
        if empty || endless || length.is_some_and(|length| answer.len() >= split + 4 + length) {
            break;
        }
    }
    answer
}

fn listening() -> VirtualServerStatus {
    VirtualServerStatus {
        state: VirtualServerState::Running,
        listeners: vec![BoundAddress { address: "127.0.0.1".parse().unwrap(), port: 40_025 }],
        conditions: vec![Condition {
            kind: ConditionType::Listening,
            status: ConditionStatus::True,
            reason: "bound".into(),
            message: "all bindings are open".into(),
            last_transition_time: Some(Timestamp::EPOCH),
            observed_generation: Some(1),
        }],
    }
}

struct Probes(Arc<AtomicBool>);

impl Health for Probes {
    fn checks(&self, probe: Probe) -> Vec<Check> {
        let passed = probe != Probe::Ready || self.0.load(Ordering::Relaxed);
        vec![Check { name: "store".into(), passed, detail: "a secret reason".into() }]
    }
}

/// Controls in memory.
#[derive(Default)]
struct Controls(Mutex<BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl ControlStore for Controls {
    async fn set(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let mut controls = self.0.lock().unwrap();
        match value {
            Some(value) => controls.insert(key.to_owned(), value),
            None => controls.remove(key),
        };
        Ok(())
    }

    fn all(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let controls = self.0.lock().unwrap();
        controls.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// Notes in memory.
#[derive(Default)]
struct Notes(Mutex<BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl NoteStore for Notes {
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let notes = self.0.lock().unwrap();
        let rows =
            notes.iter().filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        Ok(rows.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    async fn write_notes(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut notes = self.0.lock().unwrap();
        for (key, value) in writes {
            match value {
                Some(value) => drop(notes.insert(key, value)),
                None => drop(notes.remove(&key)),
            }
        }
        Ok(())
    }
}

/// A configuration store in memory.
#[derive(Default)]
struct Memory(Mutex<(u64, BTreeMap<String, Vec<u8>>)>);

#[async_trait]
impl ConfigStore for Memory {
    fn revision(&self) -> u64 {
        self.0.lock().unwrap().0
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().1.get(key).cloned())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let state = self.0.lock().unwrap();
        let rows = state.1.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let rows = rows.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        Ok(rows.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, expected: u64, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64, StoreError> {
        let mut state = self.0.lock().unwrap();
        if state.0 != expected {
            return Err(StoreError::Conflict { expected, found: state.0 });
        }
        for (key, value) in writes {
            match value {
                Some(value) => state.1.insert(key, value),
                None => state.1.remove(&key),
            };
        }
        state.0 += 1;
        Ok(state.0)
    }

    async fn annotate(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap();
        for (key, value) in writes {
            match value {
                Some(value) => state.1.insert(key, value),
                None => state.1.remove(&key),
            };
        }
        Ok(())
    }

    fn draft(self: Arc<Self>) -> Box<dyn ConfigDraft> {
        Box::new(InMemoryDraft::new(self))
    }
}

/// A made-up queue: messages in order of reception, some of them in a worker's hands.
#[derive(Default)]
pub struct Queue {
    messages: Mutex<Vec<Message>>,
    pub leased: Mutex<BTreeSet<MessageId>>,
    frozen: Mutex<BTreeSet<QueueName>>,
    /// Deleted messages, and whether their senders were told.
    pub deleted: Mutex<Vec<(MessageId, bool)>>,
    pub retried: Mutex<Vec<QueueName>>,
}

impl Queue {
    /// A message that waits.
    pub fn add(&self, sender: &str, recipient: &str, queue: &str) -> MessageId {
        let mut messages = self.messages.lock().unwrap();
        let (id, size) = (MessageId::generate(), 1_000 * messages.len() as u64);
        let received_at = Timestamp::from_millis(1_795_000_000_000 + messages.len() as i64);
        messages.push(Message {
            id,
            received_at,
            origin: Origin {
                protocol: Protocol::Esmtp,
                virtual_server: "default".parse().unwrap(),
                client: Some("192.0.2.7".parse().unwrap()),
                helo: Some("<img src=x>".into()),
                account: None,
                api_key: None,
            },
            reverse_path: sender.parse().unwrap(),
            parameters: Default::default(),
            size,
            message_id_header: Some("1@example.net".into()),
            subject: None,
            frozen: false,
            connector: None,
            idempotency: None,
            recipients: vec![Recipient {
                forward_path: recipient.parse().unwrap(),
                parameters: Default::default(),
                directory_name: None,
                status: RecipientStatus::Pending,
                waits: Some(Waits { queue: queue.parse().unwrap(), due: received_at }),
                attempts: 1,
                delay_notified: false,
                last_failure: Some(Failure {
                    scope: Scope::Host,
                    status: "4.4.1".parse().unwrap(),
                    diagnostic: "connection refused".into(),
                    remote_code: None,
                    remote_mta: Some("mx.example.com".into()),
                }),
            }],
        });
        id
    }

    fn change(&self, id: MessageId, change: impl FnOnce(&mut Message)) -> Result<(), ActionError> {
        if self.leased.lock().unwrap().contains(&id) {
            return Err(ActionError::Leased);
        }
        let mut messages = self.messages.lock().unwrap();
        change(messages.iter_mut().find(|message| message.id == id).ok_or(ActionError::NotFound)?);
        Ok(())
    }
}

#[async_trait]
impl Operate for Queue {
    async fn queues_behind(&self, after: Option<&str>, limit: usize) -> Result<Vec<QueueView>, ActionError> {
        let messages = self.messages.lock().unwrap();
        let mut names: BTreeSet<QueueName> = self.frozen.lock().unwrap().clone();
        names.extend(messages.iter().flat_map(|message| message.waiting()).map(|(queue, _)| queue));
        let view = |id: QueueName| {
            let here: Vec<_> = messages.iter().filter(|m| m.waiting().iter().any(|(queue, _)| *queue == id)).collect();
            QueueView {
                kind: QueueKind::of(&id),
                state: if self.frozen.lock().unwrap().contains(&id) { QueueState::Frozen } else { QueueState::Retry },
                connector: id.connector().cloned(),
                next_hop: None,
                messages: here.len() as u64,
                bytes: here.iter().map(|message| message.size).sum(),
                oldest: here.first().map(|message| message.received_at),
                next_retry: None,
                last_error: None,
                id,
            }
        };
        let mut views: Vec<_> = names.into_iter().map(view).collect();
        views.sort_by_cached_key(|view| view.id.to_string());
        views.retain(|view| after.is_none_or(|after| view.id.to_string().as_str() > after));
        views.truncate(limit);
        Ok(views)
    }

    async fn queue(&self, queue: &QueueName) -> Result<QueueView, ActionError> {
        self.queues().await?.into_iter().find(|view| view.id == *queue).ok_or(ActionError::NotFound)
    }

    async fn freeze_queue(&self, queue: &QueueName) -> Result<(), ActionError> {
        self.frozen.lock().unwrap().insert(queue.clone());
        Ok(())
    }

    async fn thaw_queue(&self, queue: &QueueName) -> Result<(), ActionError> {
        self.frozen.lock().unwrap().remove(queue);
        Ok(())
    }

    async fn retry_queue(&self, queue: &QueueName, _by: &str) -> Result<(), ActionError> {
        self.queue(queue).await?;
        self.retried.lock().unwrap().push(queue.clone());
        Ok(())
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<MessagePage, ActionError> {
        let messages = self.messages.lock().unwrap();
        let key = |message: &Message| PageKey { received_at: message.received_at, id: message.id };
        let meets = |message: &&Message| {
            filter.state.is_none_or(|state| MessageState::of(message) == state)
                && filter.queue.as_ref().is_none_or(|queue| message.waiting().iter().any(|(name, _)| name == queue))
                && filter.sender.as_ref().is_none_or(|sender| sender.matches(message.reverse_path.mailbox()))
                && filter.larger_than.is_none_or(|size| message.size > size.bytes())
                && after.is_none_or(|after| key(message) > after)
        };
        let mut rest = messages.iter().filter(meets).peekable();
        let items: Vec<_> = rest.by_ref().take(limit).cloned().map(Arc::new).collect();
        let next = rest.peek().and(items.last()).map(|message| key(message));
        Ok(MessagePage { items, next, scanned: messages.len() as u64 })
    }

    async fn message(&self, id: MessageId) -> Result<Arc<Message>, ActionError> {
        let messages = self.messages.lock().unwrap();
        messages.iter().find(|message| message.id == id).cloned().map(Arc::new).ok_or(ActionError::NotFound)
    }

    async fn events(&self, id: MessageId, _: Option<Position>, _: usize) -> Result<EventPage, ActionError> {
        self.message(id).await?;
        let items = vec![serde_json::json!({"at": "2026-11-24T00:00:00Z", "event": "received"})];
        Ok(EventPage { items, ..EventPage::default() })
    }

    async fn freeze(&self, id: MessageId, _: &str) -> Result<(), ActionError> {
        self.change(id, |message| message.frozen = true)
    }

    async fn thaw(&self, id: MessageId, _: &str) -> Result<(), ActionError> {
        self.change(id, |message| message.frozen = false)
    }

    async fn retry(&self, id: MessageId, _: &str) -> Result<(), ActionError> {
        self.change(id, |_| {})
    }

    async fn delete(&self, id: MessageId, ndr: bool, _: &str) -> Result<(), ActionError> {
        self.change(id, |_| {})?;
        self.messages.lock().unwrap().retain(|message| message.id != id);
        self.deleted.lock().unwrap().push((id, ndr));
        Ok(())
    }
}
