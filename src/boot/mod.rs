//! The only place where parts are put together.
//!
//! **Start**: logging, store (replayed before anything listens), configuration (made on an empty store), queue, workers, listeners,
//! REST. **End** (SIGTERM, SIGINT): listeners close, sessions end with 421 as soon as they have nothing complete at hand,
//! workers finish the message they are at, REST stops, the store writes down what is on its way. What does not end within
//! the grace time is cut: nothing that was acknowledged depends on a clean end.

mod api_tls;
mod exposition;
mod keys;
mod limits;
mod logging;
mod overload;
mod redact;
mod status;
mod watch;
mod welcome;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::accounts::{Authenticator, Quotas};
use crate::alerts::{self, Alerts};
use crate::api::{Api, Handles, Listen, Logins};
use crate::cli::{LogRedact, Serve};
use crate::config::directory::Watcher;
use crate::config::openapi;
use crate::config::{Configuration, FirstStart, OpenOptions, StoredRecipients};
use crate::inbound::{BindCheck, Inbound, ProtocolLogs, Receiver};
use crate::intake::Intake;
use crate::intake::submit::Desk;
use crate::local::Local;
use crate::mailroot::import::{Importer, Imports};
use crate::mailroot::pickup::Pickup;
use crate::model::name::Name;
use crate::model::queue_name::QueueName;
use crate::model::time::Timestamp;
use crate::net::clock::{Clock, SystemClock};
use crate::net::connect::TcpConnect;
use crate::net::http::Http;
use crate::net::local_socket;
use crate::net::resolver::Resolvers;
use crate::observe::metrics::Metrics;
use crate::outbound::{self, KeptPolicies, Outbound};
use crate::queue::turn::Turned;
use crate::queue::{Hand, Operator, Queue, Workforce};
use crate::routing::Connector;
use crate::sinks::EventSinks;
use crate::status::{Drain, KeyUse, Listeners, Masks, Overload, Running, Sessions};
use crate::store::embedded::disk::RealDisk;
use crate::store::embedded::{self, Embedded, OpenReport, Options};
use crate::store::{Store, TrackingStore};
use crate::tlsrpt::{self, TlsReports};
use crate::traces::Traces;

/// How long sessions and workers may take to end.
const GRACE: Duration = Duration::from_secs(8);

/// The socket in the data directory by which the machine's owner gets in without a key.
const ADMIN_SOCKET: &str = "admin.sock";

/// Prints the OpenAPI document.
///
/// # Errors
/// When stdout is closed.
pub fn print_openapi() -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", openapi::text().trim_end()).context("the document could not be printed")
}

/// Runs the appliance until it is told to stop.
///
/// # Errors
/// When something that it cannot do without is missing: the store, the API's address, a valid configuration.
pub fn serve(options: Serve) -> anyhow::Result<()> {
    // the allocator would take 2 MiB for each first octet: an idle appliance would have more than twice the memory
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let _logs = logging::start(&options.log, options.log_format, options.log_redact)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("bridgehead")
        .build()
        .context("the runtime could not be started")?;
    // boxed: the runtime has a copy of what it runs for each way to run it
    let result = runtime.block_on(run(options).boxed_local());
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "stopped");
    }
    result
}

/// Outbound and local workers, by the kind of queue.
struct Workers {
    outbound: Arc<Outbound>,
    local: Arc<Local>,
    queue: Arc<Queue>,
}

#[async_trait]
impl Workforce for Workers {
    async fn carry_turned(&self, turned: Turned) {
        self.outbound.carry_turned(turned).await;
    }

    fn employ(&self, hand: Hand) {
        match hand.link().name {
            QueueName::Local(_) => self.local.employ(hand),
            QueueName::Directory => drop(tokio::spawn(self.queue.clone().distribute(hand))),
            _ => self.outbound.employ(hand),
        }
    }
}

async fn run(options: Serve) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let store = open_store(&options, &metrics)?;
    let tracked = *store.tail().borrow();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let configuration = open_configuration(&options, &store, &clock).await?;
    let live = configuration.live().clone();
    let given = keys::Given::new(&options)?;
    let first_key = if given.is_given() { None } else { configuration.make_first_key(false).await? };

    let api_tls = api_tls::ApiTls::new(&options, &mut registry)?;
    let recipients = Arc::new(StoredRecipients(store.clone()));
    let queue = Queue::new(store.clone(), live.clone(), recipients.clone(), clock.clone(), metrics.clone());
    if let Some(copy) = options.restored_from.as_deref().filter(|copy| !copy.is_empty()) {
        let held = tokio::select! {
            held = queue.hold_restored(copy) => held.context("the mail of the restored store could not be frozen")?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tracing::info!(copy, held, "restored: what was queued in the copy is frozen, until somebody lets go of it");
    }
    if let Some(copy) =
        embedded::to_be_held(&options.data_dir).context("whether the store was restored cannot be told")?
    {
        let held = tokio::select! {
            held = queue.hold_queued() => held.context("the mail of the restored store could not be frozen")?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        embedded::is_held(&options.data_dir).context("that the restored mail is frozen could not be kept")?;
        tracing::info!(copy, held, "restored: what was queued in the copy is frozen, until somebody lets go of it");
    }
    let listeners = Arc::new(Listeners::default());
    let sessions = Arc::new(Sessions::default());
    let masks = Arc::new(Masks::default());
    let running = Arc::new(Running::new(store.clone()));
    let key_use = Arc::new(KeyUse::new(store.clone()));
    let drain = Arc::new(Drain::default());
    let overload = Arc::new(Overload::default());

    let resolvers = Arc::new(match &options.dnssec_trust_anchors {
        Some(file) => Resolvers::with_anchor_file(file).context("--dnssec-trust-anchors")?,
        None => Resolvers::new(),
    });
    let tls_reports = Arc::new(TlsReports::new(clock.clone(), Arc::new(tlsrpt::kept::Files::below(&options.data_dir))));
    let around = outbound::Surroundings {
        connect: Arc::new(TcpConnect),
        resolvers: resolvers.clone(),
        listeners: listeners.clone(),
        policies: Arc::new(KeptPolicies(store.clone())),
        tokens: Arc::new(Http::default()),
        tls_reports: tls_reports.clone(),
    };
    let outbound = Outbound::new(queue.clone(), clock.clone(), metrics.clone(), around);
    let connect = Arc::new(TcpConnect);
    let local = Local::new(queue.clone(), clock.clone(), connect, Http::default(), options.data_dir.clone());
    let scheduling =
        tokio::spawn(queue.clone().run(Arc::new(Workers { outbound: outbound.clone(), local, queue: queue.clone() })));

    configuration.register(Arc::new(BindCheck));
    configuration.tell_of_mail(queue.clone());
    let mut watcher = options.config_dir.clone().map(|directory| Watcher::new(configuration.clone(), directory));
    if let Some(watcher) = &mut watcher {
        // before anything listens
        watcher.look().await;
    }
    let logs = ProtocolLogs::start(options.data_dir.join("protocol-logs"), metrics.protocol_log_dropped.clone());
    let protocol_logs = Arc::new(logs.context("the writer of protocol logs could not be started")?);
    let authenticator = Authenticator::new(clock.clone(), configuration.login_key())?;
    let reporting = tlsrpt::Sending {
        reports: tls_reports.clone(),
        queue: queue.clone(),
        store: store.clone(),
        recipients: recipients.clone(),
        resolvers: resolvers.clone(),
        post: Arc::new(Http::default()),
        clock: clock.clone(),
    };
    let reporting = tokio::spawn(reporting.run(drain.watch()));
    let quotas = Arc::new(Quotas::default());
    let kept = Arc::new(limits::Kept {
        store: store.clone(),
        quotas: quotas.clone(),
        queue: queue.clone(),
        clock: clock.clone(),
    });
    kept.restore();
    let intake = Intake {
        store: store.clone(),
        recipients,
        queue: queue.clone(),
        quotas: quotas.clone(),
        overload: overload.clone(),
        clock: clock.clone(),
        resolvers: resolvers.clone(),
        callout: outbound.clone(),
        metrics: metrics.clone(),
    };
    let explain = Arc::new(intake.clone());
    let submit = Arc::new(Desk::new(intake.clone(), live.clone(), running.clone(), drain.clone()));
    let pickup = Pickup { intake: intake.clone(), live: live.clone(), data_dir: options.data_dir.clone() };
    let import_dir = options.import_dir.clone().unwrap_or_else(|| options.data_dir.join("imports"));
    let imports = Arc::new(Importer(Imports::new(intake.clone(), live.clone(), import_dir)));
    let alerts = Alerts::new(
        live.clone(),
        clock.clone(),
        metrics.clone(),
        Box::new(alerts::Appliance {
            operate: Arc::new(Operator(queue.clone())),
            store: store.clone(),
            live: live.clone(),
            configuration: configuration.clone(),
            listeners: listeners.clone(),
            running: running.clone(),
            drain: drain.clone(),
            overload: overload.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        }),
        Box::new(alerts::Direct::new(resolvers.clone())),
    );
    let inbound = Arc::new(Inbound {
        intake,
        live: live.clone(),
        masks: masks.clone(),
        authenticator: authenticator.clone(),
        resolvers,
        listeners: listeners.clone(),
        sessions: sessions.clone(),
        running: running.clone(),
        protocol_logs: protocol_logs.clone(),
        drain: drain.clone(),
    });

    let traces = Traces {
        store: store.clone(),
        begin: tracked,
        live: live.clone(),
        clock: clock.clone(),
        metrics,
        redact: options.log_redact == LogRedact::Addresses,
        collector: Box::new(Http::default()),
    };
    let event_sinks = EventSinks::new(store.clone(), live.clone(), clock.clone());
    let handles = Handles {
        configuration: configuration.clone(),
        operate: Arc::new(Operator(queue.clone())),
        bulk: Arc::new(Operator(queue.clone())),
        steer: Arc::new(Operator(queue.clone())),
        health: Arc::new(status::Health {
            store: store.clone(),
            live: live.clone(),
            listeners: listeners.clone(),
            running: running.clone(),
            drain: drain.clone(),
            overload: overload.clone(),
            configuration: configuration.clone(),
        }),
        metrics: Arc::new(exposition::Exposition {
            registry,
            operate: Arc::new(Operator(queue.clone())),
            store: store.clone(),
            live: live.clone(),
            configuration: configuration.clone(),
            listeners: listeners.clone(),
            sessions: sessions.clone(),
            running: running.clone(),
            drain: drain.clone(),
            overload: overload.clone(),
            clock: clock.clone(),
            started: std::time::Instant::now(),
        }),
        keys: keys::all(given, &configuration, &key_use, &authenticator),
        key_use,
        listeners: status::of_servers(live.clone(), listeners.clone(), running.clone(), masks),
        sessions: sessions.clone(),
        running,
        drain: drain.clone(),
        issuers: Arc::new(move |name: &Name| authenticator.provider_status(name)),
        explain,
        suppressions: queue.suppressions().clone(),
        quotas,
        imports,
        logins: logins(outbound.clone()),
        probe: outbound.clone(),
        alerts: alerts.clone(),
        tls_reports: tls_reports.clone(),
        submit,
        history: queue.clone(),
        sinks: Some(event_sinks.clone()),
        backup: store.clone(),
        draining: drain.watch(),
    };
    let (api_tls, tls) = api_tls.unzip();
    let listen = Listen {
        api: vec![options.api_listen],
        health: options.health_listen.into_iter().collect(),
        tls,
        proxies: options.api_proxies.0.clone(),
        socket: admin_socket(&options),
    };
    let api = Api::start(handles, &listen)?;
    for address in api.addresses() {
        let tls = listen.tls.is_some();
        tracing::info!(listener = "api", address = %address, tls, "listening");
        if !tls && !address.ip().is_loopback() {
            tracing::warn!(
                listener = "api", address = %address,
                "REST is served without TLS beyond this machine: keys and secrets can be read on the way; give it \
                 BRIDGEHEAD_API_TLS_CERT and BRIDGEHEAD_API_TLS_KEY, or a proxy that encrypts"
            );
        }
    }
    for address in api.health_addresses() {
        tracing::info!(listener = "health", address = %address, "listening");
    }
    let receiver = Arc::new(Receiver(inbound.clone()));
    let requesting = tokio::spawn(outbound.request_mail(receiver, drain.watch()));
    let accepting = tokio::spawn(inbound.run());
    let picking_up = tokio::spawn(pickup.run(drain.clone()));
    let keeping = tokio::spawn(kept.clone().run(drain.clone()));
    let telling = tokio::spawn(event_sinks.run(drain.watch()));
    let alerting = tokio::spawn(alerts.run(drain.watch()));
    let tracing_mail = tokio::spawn(traces.run(drain.watch()));
    let remembering = tokio::spawn(watch::retention(live.clone(), store.clone(), drain.watch()));
    let watching = tokio::spawn(watch::files(configuration.clone(), drain.clone()));
    let watching_tls = api_tls.map(|tls| tokio::spawn(tls.watch(drain.clone())));
    let weighing = tokio::spawn(overload::watch(overload, store.clone(), live.clone(), drain.clone()));
    let following = watcher.map(|watcher| tokio::spawn(watch::directory(watcher, drain.clone())));
    welcome::show(&options, &live, &listeners, api.addresses(), first_key.as_ref()).await?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: sessions end, what is queued stays queued");
    let farewell = drain.begin();
    sessions.drain(&farewell);
    let ended = tokio::time::timeout(GRACE, async {
        let _ = accepting.await;
        let _ = requesting.await;
        let _ = watching.await;
        if let Some(watching) = watching_tls {
            let _ = watching.await;
        }
        let _ = weighing.await;
        let _ = reporting.await;
        if let Some(following) = following {
            let _ = following.await;
        }
        let _ = keeping.await;
        let _ = picking_up.await;
        let _ = telling.await;
        let _ = alerting.await;
        let _ = tracing_mail.await;
        let _ = remembering.await;
        sessions.all_gone().await;
        queue.stop().await;
        let _ = scheduling.await;
    });
    if ended.await.is_err() {
        tracing::warn!(sessions = sessions.count(), "the grace time is over; what is left is cut");
    }
    api.stop().await;
    if listen.socket.is_some() {
        let _ = std::fs::remove_file(options.data_dir.join(ADMIN_SOCKET));
    }
    kept.save().await;
    tokio::task::spawn_blocking(move || {
        // sessions have gone on for a while
        tls_reports.write();
        protocol_logs.close();
        store.close();
    })
    .await
    .context("the store did not close")?;
    tracing::info!("stopped");
    Ok(())
}

/// How connectors stand with the tokens that they log in with.
fn logins(outbound: Arc<Outbound>) -> Arc<dyn Logins> {
    Arc::new(move |connector: &Connector| outbound.tokens_of(connector))
}

/// Opens `admin.sock`. The store is locked by then, so whatever lies there is of a dead process. Without it the appliance works,
/// only commands on the machine need a key.
fn admin_socket(options: &Serve) -> Option<Arc<UnixListener>> {
    match local_socket::listen(&options.data_dir, ADMIN_SOCKET) {
        Ok(socket) => Some(Arc::new(socket)),
        Err(error) => {
            tracing::warn!(%error, "admin.sock cannot be opened; commands on this machine need a key");
            None
        }
    }
}

fn open_store(options: &Serve, metrics: &Metrics) -> anyhow::Result<Arc<Embedded>> {
    let settings = Options {
        reserve: options.reserve,
        sync_seconds: metrics.sync_seconds.clone(),
        ..Options::new(&options.data_dir)
    };
    let (store, report) = Embedded::open(settings, Arc::new(RealDisk))
        .with_context(|| format!("the store in {} cannot be opened", options.data_dir.display()))?;
    tell(&report);
    Ok(Arc::new(store))
}

async fn open_configuration(
    options: &Serve,
    store: &Arc<Embedded>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<Configuration>> {
    let clock = clock.clone();
    let now = Arc::new(move || Timestamp::from_millis(clock.unix_millis()));
    let files = options.config_dir.is_some();
    let open = OpenOptions { host_name: welcome::host_name(), secrets_dir: options.secrets_dir.clone(), files, now };
    let configuration =
        Configuration::open(store.clone(), open).await.context("the stored configuration cannot be used")?;
    if configuration.is_empty().context("the stored configuration cannot be read")? {
        let first = FirstStart { smtp_listen: options.smtp_listen };
        let made = match files {
            true => configuration.first_start_for_files().await,
            false => configuration.first_start(&first).await,
        };
        made.context("the first configuration could not be made")?;
    }
    Ok(configuration)
}

/// Says what opening the store found.
fn tell(report: &OpenReport) {
    if report.created {
        tracing::info!("a new store was made");
    }
    if let Some(why) = &report.rebuilt {
        tracing::warn!(why, "the database was rebuilt from the journal");
    }
    for what in &report.damaged {
        tracing::error!(what, "damaged record; it is quarantined");
    }
    for what in &report.torn {
        tracing::warn!(what, "the end of a segment was torn by a crash; nothing in it was acknowledged");
    }
    for id in &report.possible_duplicates {
        tracing::warn!(message.id = %id, "was being delivered when the process ended; it may arrive twice");
    }
    for id in &report.frozen {
        tracing::error!(message.id = %id, "was being delivered at three crashes; it is frozen in the dead-letter queue");
    }
    if report.orphans > 0 {
        tracing::info!(files = report.orphans, "content files that belonged to no message were removed");
    }
}
