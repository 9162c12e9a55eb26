//! Alerts: what is wrong with the appliance is told to its operators by mail, past everything that may be wrong.
//!
//! One task looks every [`LOOK_EVERY`] at what the appliance knows of itself ([`observed`]), keeps what is wrong in a list of
//! its own ([`standing`]), and tells it: once when it begins, again while it lasts, once when it is over. The causes are those of
//! the chart's alert rules ([`AlertCause`](crate::model::alert_cause::AlertCause)).
//!
//! A message goes to the smart host of `settings.alerts` directly ([`send`]): not through the queue, and nothing of it is stored, so
//! it goes with a full disk and a fenced store too. What cannot be told now is told later, later and later ([`FIRST_WAIT`] to
//! [`LONGEST_WAIT`]); what is over by then is told as over. In an hour there are at most `maxPerHour` messages, of which the
//! last tells all that is left. A restart forgets what was told: what is still wrong is told again.
//!
//! Nobody waits for this task, and it waits for nothing without a limit.

mod mail;
mod observed;
mod send;
mod standing;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};

use crate::config::Live;
use crate::config::watching::AlertMail;
use crate::model::time::Timestamp;
use crate::net::clock::Clock;
use crate::observe::metrics::{ByResult, Metrics};
use crate::smtp::reply::Reply;
use mail::News;
use standing::{Due, Register};

pub use mail::Letter;
pub use observed::{Appliance, Observe, Observed, Waiting};
pub use send::Direct;
pub use standing::Alert;

/// How often it looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The first wait after a message that nobody took; each one after it is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait between messages that nobody takes.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// What `maxPerHour` counts in.
const HOUR: Duration = Duration::from_secs(3_600);

/// Hands messages to the smart host. [`Direct`] does.
#[async_trait]
pub trait Deliver: Send + Sync {
    /// One message to one recipient, now. Ends within a minute.
    ///
    /// # Errors
    /// Why it was not taken, in words for operators.
    async fn deliver(&self, way: &AlertMail, letter: &Letter, recipient: &str) -> Result<(), String>;
}

/// What came of a message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The recipient.
    pub recipient: String,
    /// Taken by the smart host, or why not.
    pub result: Result<(), String>,
}

/// Why no test is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTest {
    /// Nobody is told.
    #[error("settings.alerts tells nobody: it is not enabled, or has no recipients")]
    Off,
    /// Another test is under way.
    #[error("another test is under way")]
    Busy,
}

/// The alerts of a process.
pub struct Alerts {
    live: Live,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    observe: Box<dyn Observe>,
    deliver: Box<dyn Deliver>,
    register: Mutex<Register>,
    /// One test at a time.
    testing: Semaphore,
}

/// What was sent, and when the next may go.
#[derive(Default)]
struct Sending {
    /// When messages of the last hour went.
    sent: VecDeque<Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Alerts {
    /// None is looked for before [`Alerts::run`].
    pub fn new(
        live: Live,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        observe: Box<dyn Observe>,
        deliver: Box<dyn Deliver>,
    ) -> Arc<Self> {
        let (register, testing) = (Mutex::default(), Semaphore::new(1));
        Arc::new(Alerts { live, clock, metrics, observe, deliver, register, testing })
    }

    /// What is wrong now, the worst first.
    pub fn list(&self) -> Vec<Alert> {
        self.register().list()
    }

    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        self.live.current().alerts.is_some()
    }

    /// Sends a message that says that it is a test, to every recipient.
    ///
    /// # Errors
    /// See [`NoTest`].
    pub async fn test(&self) -> Result<Vec<Handed>, NoTest> {
        let snapshot = self.live.current();
        let way = snapshot.alerts.as_ref().ok_or(NoTest::Off)?;
        let _one = self.testing.try_acquire().map_err(|_| NoTest::Busy)?;
        Ok(self.hand_over(way, &News::Test).await)
    }

    /// Looks and tells until the process stops.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<Option<Reply>>) {
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => {}
            () = self.look_and_tell() => {}
        }
    }

    async fn look_and_tell(&self) {
        let mut changes = self.live.subscribe();
        let mut sending = Sending::default();
        let mut window = observed::Window::default();
        let mut again = tokio::time::interval(LOOK_EVERY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            let snapshot = self.live.current();
            let terms = &snapshot.settings.alerts;
            let seen = self.observe.observe().await;
            let found = window.judge(&seen, terms, self.clock.now());
            self.register().update(&found, terms, self.clock.now(), seen.now);
            let Some(way) = &snapshot.alerts else {
                self.register().forget_what_is_over();
                continue;
            };
            // messages go one by one; what else happens meanwhile is seen at the next look
            self.tell(way, &mut sending).await;
        }
    }

    /// Tells what there is to tell, as long as it is taken and the hour has room.
    async fn tell(&self, way: &Arc<AlertMail>, sending: &mut Sending) {
        let began = self.clock.now();
        loop {
            let now = self.clock.now();
            while sending.sent.front().is_some_and(|sent| now.saturating_duration_since(*sent) >= HOUR) {
                sending.sent.pop_front();
            }
            let room = usize::from(way.spec.max_per_hour).saturating_sub(sending.sent.len());
            let waits = sending.not_before.is_some_and(|time| now < time);
            let due = self.register().due(way.spec.repeat_every.std(), now);
            // a slow smart host does not keep us from looking
            let is_long = now.saturating_duration_since(began) >= LOOK_EVERY;
            if due.is_empty() || room == 0 || waits || is_long {
                return;
            }
            let together = if room == 1 { due.as_slice() } else { &due[..1] };
            let handed = self.hand_over(way, &News::of(together)).await;
            let now = self.clock.now();
            if handed.iter().any(|one| one.result.is_ok()) {
                sending.sent.push_back(now);
                (sending.failures, sending.not_before) = (0, None);
            } else {
                let wait = FIRST_WAIT.saturating_mul(1 << sending.failures.min(16)).min(LONGEST_WAIT);
                sending.failures = sending.failures.saturating_add(1);
                sending.not_before = Some(now + wait);
            }
            self.note(together, &handed, now);
        }
    }

    /// Remembers what came of telling.
    fn note(&self, told: &[Due], handed: &[Handed], now: Instant) {
        let wrong = handed.iter().find_map(|one| {
            let why = one.result.as_ref().err()?;
            Some(format!("{}: {why}", one.recipient))
        });
        let taken = handed.iter().any(|one| one.result.is_ok());
        self.register().note(told, taken, wrong.as_deref(), now, self.wall());
    }

    /// One message to all recipients, each for himself: one who is refused does not keep it from the others.
    async fn hand_over(&self, way: &AlertMail, news: &News) -> Vec<Handed> {
        let letter = Letter::new(&self.live.current(), way, news, self.wall());
        let each = way.spec.recipients.iter().map(|recipient| async {
            let recipient = recipient.to_string();
            let result = match &letter {
                Ok(letter) => self.deliver.deliver(way, letter, &recipient).await,
                Err(why) => Err(why.clone()),
            };
            let word = if result.is_ok() { "sent" } else { "failed" };
            self.metrics.alerts.get_or_create(&ByResult { result: word }).inc();
            match &result {
                Ok(()) => tracing::info!(recipient, subject = news.subject(), "an alert was sent"),
                Err(why) => tracing::warn!(recipient, subject = news.subject(), why, "an alert could not be sent"),
            }
            Handed { recipient, result }
        });
        futures_util::future::join_all(each).await
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }
}
