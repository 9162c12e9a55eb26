//! The writer of the tracking log: gathers for a moment, writes with one call, syncs at intervals.
//!
//! It sleeps while it gathers, so that nobody who appends has to wake it. Whoever wants to read what was just written sends a
//! barrier and wakes it. After an error the file is left, and a new one begun: a place in a file never means two events.

use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Catalogue, FILE_BYTES, File};
use crate::store::history::Position;

/// The writer gathers for this long.
const GATHER: Duration = Duration::from_millis(50);
/// Time between syncs.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Octets that are gathered at most before they are written.
const BUFFER: usize = 1 << 20;

/// What the writer is told.
pub(super) enum Item {
    /// To be appended.
    Event(Vec<u8>),
    /// Answered when everything before is in the file.
    Barrier(mpsc::SyncSender<()>),
    /// Begin a new file.
    Roll,
    /// Everything was sent.
    End,
}

/// The thread's state.
pub(super) struct Writer {
    catalogue: Arc<Catalogue>,
    /// A file is full.
    nudge: mpsc::SyncSender<()>,
    tail: watch::Sender<Position>,
    open: Option<(fs::File, Arc<File>)>,
    buffer: Vec<u8>,
    unsynced: Option<Instant>,
}

impl Writer {
    /// Begins the first file.
    pub(super) fn begin(catalogue: Arc<Catalogue>, nudge: mpsc::SyncSender<()>) -> std::io::Result<Writer> {
        let open = catalogue.begin_file()?;
        let tail = watch::Sender::new(Position { file: open.1.number, offset: 0 });
        Ok(Writer { catalogue, nudge, tail, open: Some(open), buffer: Vec::new(), unsynced: None })
    }

    /// Where the next event will stand.
    pub(super) fn tail(&self) -> watch::Receiver<Position> {
        self.tail.subscribe()
    }

    /// Writes until it is told to end.
    pub(super) fn run(&mut self, items: &mpsc::Receiver<Item>) {
        let mut end = false;
        while !end {
            let first = match self.unsynced {
                None => items.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(since) => items.recv_timeout(SYNC_EVERY.saturating_sub(since.elapsed())),
            };
            match first {
                Ok(item) => {
                    let calm = matches!(item, Item::Event(..));
                    end |= self.take(item);
                    if calm {
                        std::thread::park_timeout(GATHER);
                    }
                    while let Ok(item) = items.try_recv() {
                        end |= self.take(item);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => end = true,
            }
            self.write();
            if self.unsynced.is_some_and(|since| end || since.elapsed() >= SYNC_EVERY) {
                self.sync();
            }
        }
        // the other thread ends when nobody can nudge it
    }

    fn take(&mut self, item: Item) -> bool {
        match item {
            Item::Event(event) => {
                self.buffer.extend_from_slice(&event);
                self.buffer.push(b'\n');
                if self.buffer.len() > BUFFER {
                    self.write();
                }
                false
            }
            Item::Barrier(done) => {
                self.write();
                // who asked may have given up
                let _ = done.send(());
                false
            }
            Item::Roll => {
                self.write();
                let written = self.open.as_ref().is_some_and(|(_, file)| file.size.load(Ordering::Relaxed) > 0);
                if written {
                    self.leave();
                    // at once, so that what is full is no longer the last one, and may go
                    self.open();
                }
                false
            }
            Item::End => true,
        }
    }

    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.open.as_ref().is_some_and(|(_, file)| file.size.load(Ordering::Relaxed) >= FILE_BYTES) {
            self.leave();
        }
        self.open();
        let written = match &mut self.open {
            Some((open, file)) => open.write_all(&self.buffer).map(|()| {
                let size = file.size.fetch_add(self.buffer.len() as u64, Ordering::AcqRel) + self.buffer.len() as u64;
                let now = jiff::Timestamp::now().as_millisecond();
                let _ = file.began.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                Position { file: file.number, offset: size }
            }),
            None => Err(std::io::Error::other("there is no file")),
        };
        match written {
            Ok(tail) => {
                self.unsynced.get_or_insert_with(Instant::now);
                self.tail.send_replace(tail);
            }
            Err(error) => {
                tracing::warn!(error = %error, "tracking events could not be written");
                let lost = memchr::memchr_iter(b'\n', &self.buffer).count() as u64;
                self.catalogue.dropped.fetch_add(lost, Ordering::Relaxed);
                self.leave();
            }
        }
        self.buffer.clear();
    }

    /// A file to write to, if none is open.
    fn open(&mut self) {
        if self.open.is_some() {
            return;
        }
        match self.catalogue.begin_file() {
            Ok(open) => {
                self.tail.send_replace(Position { file: open.1.number, offset: 0 });
                self.open = Some(open);
                let _ = self.nudge.try_send(());
            }
            Err(error) => tracing::warn!(error = %error, "no tracking file could be made"),
        }
    }

    /// This file is written to no more.
    fn leave(&mut self) {
        self.sync();
        self.open = None;
    }

    fn sync(&mut self) {
        if self.unsynced.take().is_some()
            && let Some(Err(error)) = self.open.as_ref().map(|(open, _)| open.sync_data())
        {
            tracing::warn!(error = %error, "tracking could not be synced");
            self.open = None;
        }
    }
}
