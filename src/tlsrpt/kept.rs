//! The counts of a day in a file of its own: `tls-reports/2026-11-29.json` below the data directory.
//!
//! A file is replaced as a whole: written beside it, synced, renamed. So a crash leaves the one or the other, and costs what was
//! counted since: half a minute at most, while messages themselves are none of its matter. A file that cannot be read is
//! told in the log and counts as empty.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::counts::{Day, DayNumber, MOST_DAYS};

/// Largest file that is read. What is counted is far less.
const MOST_OCTETS: u64 = 256 << 20;

/// Keeps days over a restart. May block.
pub trait Keep: Send + Sync {
    /// What was kept, at most [`MOST_DAYS`], the latest.
    fn all(&self) -> Vec<(DayNumber, Day)>;

    /// Keeps a day in place of what was kept of it.
    ///
    /// # Errors
    /// When it cannot be written: then what was there is there.
    fn keep(&self, day: DayNumber, counted: &Day) -> io::Result<()>;

    /// Forgets a day.
    fn forget(&self, day: DayNumber);
}

/// Files in a directory.
#[derive(Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In this data directory.
    pub fn below(data_dir: &Path) -> Self {
        Files(data_dir.join("tls-reports"))
    }

    fn path(&self, day: DayNumber) -> PathBuf {
        self.0.join(format!("{day}.json"))
    }
}

impl Keep for Files {
    fn all(&self) -> Vec<(DayNumber, Day)> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let day = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse::<DayNumber>().ok();
        let mut days: Vec<DayNumber> = entries.flatten().filter_map(day).collect();
        days.sort();
        let old = days.len().saturating_sub(MOST_DAYS);
        days.drain(..old).for_each(|day| self.forget(day));
        let read = |day: DayNumber| {
            read(&self.path(day))
                .map(|counted| (day, counted))
                .inspect_err(|error| tracing::warn!(%day, %error, "what was counted of TLS on a day cannot be read"))
                .ok()
        };
        days.into_iter().filter_map(read).collect()
    }

    fn keep(&self, day: DayNumber, counted: &Day) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let (path, beside) = (self.path(day), self.0.join("next"));
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(counted)?)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(&self.0)?.sync_all()
    }

    fn forget(&self, day: DayNumber) {
        let path = self.path(day);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "an old file cannot be removed");
        }
    }
}

fn read(path: &Path) -> io::Result<Day> {
    let mut octets = Vec::new();
    File::open(path)?.take(MOST_OCTETS).read_to_end(&mut octets)?;
    serde_json::from_slice(&octets).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlsrpt::counts::{Policy, PolicyType, Seen};

    #[test]
    fn what_was_kept_comes_back_and_what_is_broken_counts_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::below(directory.path());
        assert!(files.all().is_empty(), "a first start");
        let mut counted = Day::default();
        let policy = Policy::bare(PolicyType::NoPolicyFound);
        counted.count(Seen { domain: "d.example".to_owned(), policy, failed: None });
        let days: Vec<DayNumber> = (1..=10).map(|n| format!("2026-11-{n:02}").parse().unwrap()).collect();
        days.iter().for_each(|day| files.keep(*day, &counted).unwrap());
        fs::write(files.path(days[9]), b"{\"domains\": ").unwrap();
        fs::write(files.0.join("notes.txt"), b"somebody else's").unwrap();
        let expected: Vec<_> = days[2..9].iter().map(|day| (*day, counted.clone())).collect();
        assert_eq!(files.all(), expected);
        assert!(!files.path(days[1]).exists(), "what is too old goes");
    }
}
