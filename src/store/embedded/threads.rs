//! The two threads: the journal's, which answers, and the database's, which follows.
//!
//! Both sleep without a clock while there is nothing to do.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::Config;
use super::engine::{Engine, Shared};

/// Octets of journal that the database may lag behind before new groups wait.
const MAX_LAG: u64 = 64 << 20;
/// The same in changes.
const MAX_BACKLOG: usize = 200_000;
/// From here on the database does not wait for mail to be gone before it has to look at it.
const HURRY_LAG: u64 = 16 << 20;
const HURRY_BACKLOG: usize = 20_000;
/// So old is mail before the database takes it.
const SETTLE: Duration = Duration::from_millis(250);
/// Time between flushes while something changes.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Time between attempts to write again.
const HEAL_EVERY: Duration = Duration::from_secs(1);
/// Time between attempts of the database after an error.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A database that failed for so long will not recover.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Wakes the database thread, and those who wait for it.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<Rung>,
    wake: Condvar,
    progress: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    /// There is something to do.
    rung: bool,
    /// And it does not wait for the clock.
    hurry: bool,
    end: bool,
}

impl Bell {
    /// There is something to do.
    pub fn ring(&self) {
        let mut state = self.lock();
        if !state.rung {
            state.rung = true;
            self.wake.notify_one();
        }
    }

    /// There is something to do at once.
    fn hurry(&self) {
        let mut state = self.lock();
        (state.rung, state.hurry) = (true, true);
        self.wake.notify_one();
    }

    fn end(&self) {
        self.lock().end = true;
        self.wake.notify_one();
    }

    /// Sleeps for a time, or until rung; true at the end.
    fn sleep(&self, time: Option<Duration>) -> bool {
        let mut state = self.lock();
        let until = time.map(|time| Instant::now() + time);
        while !state.end && !state.hurry {
            state = match until {
                None if state.rung => break,
                None => self.wake.wait(state).expect("no panic under this lock"),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.wake.wait_timeout(state, left).expect("no panic under this lock").0
                }
            };
        }
        (state.rung, state.hurry) = (false, false);
        state.end
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// Starts both.
///
/// `give_up` is called when the database has failed for long: sled does not recover from a failed write before
/// it is opened anew.
pub fn spawn(
    engine: Engine,
    config: &Arc<Config>,
    bell: &Arc<Bell>,
    give_up: Box<dyn Fn() + Send>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let shared = engine.shared.clone();
    let journal = {
        let bell = bell.clone();
        std::thread::Builder::new().name("journal".into()).spawn(move || journal(engine, &bell))?
    };
    let database = {
        let (bell, config) = (bell.clone(), config.clone());
        std::thread::Builder::new()
            .name("database".into())
            .spawn(move || database(&shared, &config, &bell, &give_up))?
    };
    Ok(vec![journal, database])
}

fn journal(mut engine: Engine, bell: &Bell) {
    let mut more = true;
    let mut heal_at: Option<Instant> = None;
    loop {
        let until = if more { Some(Instant::now()) } else { heal_at };
        let next = engine.shared.inbox.next(until);
        if heal_at.is_some_and(|at| at <= Instant::now()) {
            heal_at = None;
            engine.heal();
        }
        if !next.jobs.is_empty() {
            wait_for_database(&engine.shared, bell);
            engine.process(next.jobs);
            bell.ring();
        }
        engine.tell_point();
        more = engine.reclaim();
        if engine.is_fenced() && heal_at.is_none() {
            heal_at = Some(Instant::now() + HEAL_EVERY);
        }
        let wanted = engine.shared.flush_wanted.load(Ordering::Acquire);
        if wanted > engine.shared.flushed.load(Ordering::Acquire) {
            bell.hurry();
        }
        if next.closed {
            break;
        }
    }
    engine.close();
    bell.end();
}

/// Whether the database is so far behind that nothing new should come.
pub fn is_behind(shared: &Shared) -> bool {
    let state = shared.state();
    state.lag > MAX_LAG || state.backlog() > MAX_BACKLOG
}

/// The journal waits only when the database is far behind.
fn wait_for_database(shared: &Shared, bell: &Bell) {
    while is_behind(shared) {
        bell.hurry();
        let state = bell.lock();
        // a clock besides: the database may have made its progress just before
        drop(bell.progress.wait_timeout(state, Duration::from_millis(50)));
    }
}

fn database(shared: &Shared, config: &Config, bell: &Bell, give_up: &dyn Fn()) {
    let mut settled = 0; // groups up to here are old enough
    let mut unflushed = false;
    let mut flushed_at = Instant::now();
    let mut end = false;
    let mut failing_since: Option<Instant> = None;
    loop {
        let (durable, lag, backlog) = {
            let state = shared.state();
            (state.durable, state.lag, state.backlog())
        };
        let wanted = shared.flush_wanted.load(Ordering::Acquire) > shared.flushed.load(Ordering::Acquire);
        let hurry = end || wanted || lag > HURRY_LAG || backlog > HURRY_BACKLOG;
        let upto = if hurry { durable } else { settled };
        settled = durable;
        let worked = work(shared, config, bell, upto, wanted || end, &mut unflushed).and_then(|()| {
            if unflushed && (end || wanted || flushed_at.elapsed() >= FLUSH_EVERY) {
                shared.flush()?;
                unflushed = false;
                flushed_at = Instant::now();
                if wanted {
                    shared.inbox.poke();
                }
            }
            Ok(())
        });
        if end {
            if let Err(error) = worked {
                tracing::error!(error = %error, "the database was left behind; the next start catches up");
            }
            return;
        }
        let pause = match worked {
            Err(error) => {
                tracing::error!(error = %error, "the database failed");
                shared.ready.store(false, Ordering::Release);
                if failing_since.get_or_insert_with(Instant::now).elapsed() >= GIVE_UP_AFTER {
                    give_up();
                }
                Some(RETRY_EVERY)
            }
            Ok(()) => {
                shared.ready.store(true, Ordering::Release);
                failing_since = None;
                let busy = unflushed || shared.state().backlog() > 0;
                if config.is_moving() { Some(Duration::ZERO) } else { busy.then_some(SETTLE) }
            }
        };
        end = bell.sleep(pause);
    }
}

fn work(
    shared: &Shared,
    config: &Config,
    bell: &Bell,
    upto: u64,
    all: bool,
    unflushed: &mut bool,
) -> Result<(), crate::store::StoreError> {
    *unflushed |= config.take()?;
    while shared.take(upto, all)? {
        *unflushed = true;
        bell.progress.notify_all();
        if config.has_fresh() {
            config.take()?;
        }
    }
    bell.progress.notify_all();
    Ok(())
}
