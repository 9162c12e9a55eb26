//! `backup` and `restore`: the appliance as one file, and back.
//!
//! A backup is `POST /backup`, verified as it comes: it has its name only when all of it is there, proven and synced. A restore
//! needs no appliance; it makes a data directory, and [`doctor`](super::doctor) looks at it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use reqwest::Method;

use super::client::{Body, Client, Which};
use super::doctor;
use super::output::{Progress, octets, print_octets, say};
use crate::store::archive::{ArchiveError, Checked, End, MEDIA_TYPE, Manifest, Reader};
use crate::store::embedded;

/// Pieces that wait for the one who verifies.
const PIECES: usize = 16;

/// `bridgehead backup`
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// Where to; `-` for stdout.
    file: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    which: Which,
}

/// `bridgehead restore`
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The backup; `-` for stdin.
    file: PathBuf,
    /// The data directory to make; it must be empty, or not there.
    #[arg(long, env = "BRIDGEHEAD_DATA_DIR", required_unless_present = "check", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Let what was queued go on at once, instead of freezing it before the first attempt: where nothing can have been delivered
    /// since the backup.
    #[arg(long, conflicts_with = "check")]
    release: bool,
    /// Only verify the backup.
    #[arg(long)]
    check: bool,
}

impl Backup {
    /// Does it.
    ///
    /// # Errors
    /// When the appliance refuses or cannot be reached, or what comes is not whole, or cannot be kept.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut to = Target::of(&self.file, self.force)?;
        let client = Client::of(&self.which)?;
        let mut answer = client.ask_as(Method::POST, "/api/v1/backup", &[], Body::None, MEDIA_TYPE).await?;
        let (pieces, came) = mpsc::sync_channel(PIECES);
        let verifying = std::thread::spawn(move || verify(Pieces { came, now: Bytes::new() }));
        let mut progress = Progress::new();
        let mut size = 0;
        let mut cut = None;
        loop {
            let piece = match answer.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    cut = Some(error);
                    break;
                }
            };
            size += piece.len() as u64;
            to.write(&piece)?;
            progress.show(size, 0, &octets(size));
            // who verifies has found something, and says what
            if pieces.send(piece).is_err() {
                break;
            }
        }
        drop((pieces, progress));
        let verified = verifying.join().map_err(|_| anyhow::anyhow!("the verification ended in a panic"))?;
        if let Some(cut) = cut {
            return Err(cut).context("the backup was cut; the appliance's log says why");
        }
        let (manifest, end) = verified.context("what came is no whole backup")?;
        to.keep()?;
        say(&format!("{} in {} files, verified: {}", octets(size), end.files, words(&manifest)));
        warn_left_out(&end);
        Ok(())
    }
}

impl Restore {
    /// Does it. What goes wrong is printed.
    pub fn run(self) -> ExitCode {
        match self.done() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("bridgehead: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }

    fn done(self) -> anyhow::Result<()> {
        let input: Box<dyn Read> = match self.file.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => {
                let file = fs::File::open(&self.file);
                Box::new(file.with_context(|| format!("{} cannot be read", self.file.display()))?)
            }
        };
        let Some(dir) = self.data_dir.filter(|_| !self.check) else {
            let (manifest, end) = verify(input).context("the backup is not to be trusted")?;
            say(&format!("whole: {} in {} files: {}", octets(end.bytes), end.files, words(&manifest)));
            warn_left_out(&end);
            return Ok(());
        };
        let mut bar = Progress::new();
        let mut progress = |manifest: &Manifest, done: u64| bar.show(done, manifest.bytes.max(done), &octets(done));
        let restored = embedded::restore(input, &dir, !self.release, &mut progress);
        drop(bar);
        let restored = restored.context("nothing was restored")?;
        let (manifest, end) = (&restored.manifest, &restored.end);
        say(&format!("{} in {} files are in {}: {}", octets(end.bytes), end.files, dir.display(), words(manifest)));
        warn_left_out(end);
        match self.release {
            true => say("what is queued goes on at the next start"),
            false => say(
                "what is queued is frozen before the first attempt: it may have been delivered since. Look at it, then let go of \
                 it: bridgehead message thaw --filter state=frozen",
            ),
        }
        doctor::tell_after_restore(&dir)
    }
}

fn words(manifest: &Manifest) -> String {
    let Manifest { taken_at, group, revision, version, .. } = manifest;
    format!("taken {taken_at} by version {version}, mail up to group {group}, configuration revision {revision}")
}

fn warn_left_out(end: &End) {
    if end.left_out > 0 {
        say(&format!(
            "{} files beside the store could not be taken along; the appliance's log names them",
            end.left_out
        ));
    }
}

fn verify(input: impl Read) -> Result<(Manifest, End), ArchiveError> {
    let reader = Reader::open(input)?;
    let manifest = reader.manifest().clone();
    Ok((manifest, reader.read(&mut Checked)?))
}

/// Where a backup goes: stdout, or a file that has its name only at the end.
enum Target {
    Stdout,
    File { fresh: PathBuf, file: fs::File, to: PathBuf, force: bool, kept: bool },
}

impl Target {
    fn of(to: &Path, force: bool) -> anyhow::Result<Self> {
        if to.as_os_str() == "-" {
            return Ok(Target::Stdout);
        }
        refuse_existing(to, force)?;
        let mut fresh = to.as_os_str().to_owned();
        fresh.push(".partial");
        let fresh = PathBuf::from(fresh);
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let file = file.with_context(|| format!("{} cannot be written", fresh.display()))?;
        Ok(Target::File { fresh, file, to: to.to_owned(), force, kept: false })
    }

    fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        match self {
            Target::Stdout => print_octets(piece),
            Target::File { file, fresh, .. } => {
                file.write_all(piece).with_context(|| format!("{} cannot be written", fresh.display()))
            }
        }
    }

    fn keep(&mut self) -> anyhow::Result<()> {
        let Target::File { fresh, file, to, force, kept } = self else { return Ok(()) };
        refuse_existing(to, *force)?;
        let renamed = file.sync_all().and_then(|()| fs::rename(&*fresh, &*to)).and_then(|()| {
            *kept = true;
            let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(dir)?.sync_all()
        });
        renamed.with_context(|| format!("{} cannot be written", to.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::File { fresh, kept: false, .. } = self {
            // what is not whole is of no use
            let _ = fs::remove_file(fresh);
        }
    }
}

fn refuse_existing(to: &Path, force: bool) -> anyhow::Result<()> {
    if !force && to.exists() {
        bail!("{} is there already; --force replaces it", to.display());
    }
    Ok(())
}

/// What has come, as a stream to read from.
struct Pieces {
    came: mpsc::Receiver<Bytes>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.came.recv() {
                Ok(piece) => self.now = piece,
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let len = self.now.len().min(out.len());
        self.now.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}
