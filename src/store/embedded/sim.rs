//! A simulated disk for tests: it loses power, tears writes at 512 bytes, forgets names that were not synced,
//! and fails at the call it is told to. Everything follows from a seed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, File};

const BLOCK: usize = 512;

/// A small generator; good enough to choose.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Eio,
    Enospc,
    /// A write that ends early without an error; any other call fails with EIO.
    Short,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    /// What survives a power cut for certain.
    durable: Vec<u8>,
    /// What a read sees.
    current: Vec<u8>,
    /// What was written since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum NameOp {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

#[derive(Debug)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameOp>,
    rng: Rng,
    calls: u64,
    fault: Option<(u64, Fault)>,
    /// From this call on every write and sync fails, until it is set to `None`.
    broken: Option<Fault>,
    cut_at: Option<u64>,
    off: bool,
}

/// The disk. A clone is the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    /// Files that were open when the power went stay dead.
    _path: PathBuf,
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(Inner {
            inodes: BTreeMap::new(),
            next: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            rng: Rng::new(seed),
            calls: 0,
            fault: None,
            broken: None,
            cut_at: None,
            off: false,
        })))
    }

    /// One fault at the n-th call from now (0 is the next).
    pub fn fail_at(&self, n: u64, fault: Fault) {
        let mut inner = self.inner();
        let at = inner.calls + n;
        inner.fault = Some((at, fault));
    }

    /// Every write and sync fails from now on, or no longer.
    pub fn set_broken(&self, fault: Option<Fault>) {
        self.inner().broken = fault;
    }

    /// The power goes at the n-th call from now.
    pub fn cut_at(&self, n: u64) {
        let mut inner = self.inner();
        inner.cut_at = Some(inner.calls + n);
    }

    /// Whether the power has gone.
    pub fn is_off(&self) -> bool {
        self.inner().off
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// The disk after a power cut: a new disk with what survived. Handles to the old one are dead.
    pub fn after_power_cut(&self) -> SimDisk {
        let mut inner = self.inner();
        inner.off = true;
        let mut rng = inner.rng.clone();
        let keep_all = rng.chance(20);
        let drop_all = !keep_all && rng.chance(25);
        let mut inodes = BTreeMap::new();
        for (number, inode) in &inner.inodes {
            let mut content = inode.durable.clone();
            for (offset, data) in &inode.pending {
                let mut at = 0;
                while at < data.len() {
                    let end = (((offset + at) / BLOCK + 1) * BLOCK - offset).min(data.len());
                    if keep_all || (!drop_all && rng.chance(60)) {
                        put(&mut content, offset + at, &data[at..end]);
                    }
                    at = end;
                }
            }
            inodes.insert(*number, Inode { durable: content.clone(), current: content, pending: Vec::new() });
        }
        let mut names = inner.durable_names.clone();
        for op in &inner.pending_names {
            if keep_all || (!drop_all && rng.chance(50)) {
                apply(&mut names, op);
            }
        }
        inodes.retain(|number, _| names.values().any(|named| named == number));
        SimDisk(Arc::new(Mutex::new(Inner {
            inodes,
            next: inner.next,
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
            rng: Rng::new(rng.next()),
            calls: 0,
            fault: None,
            broken: None,
            cut_at: None,
            off: false,
        })))
    }

    /// The disk after kill -9: everything the kernel has seen stays.
    pub fn after_kill(&self) -> SimDisk {
        let inner = self.inner();
        SimDisk(Arc::new(Mutex::new(Inner {
            inodes: inner.inodes.clone(),
            next: inner.next,
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            pending_names: inner.pending_names.clone(),
            rng: inner.rng.clone(),
            calls: 0,
            fault: None,
            broken: None,
            cut_at: None,
            off: false,
        })))
    }

    /// The whole content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.names.get(path).map(|number| inner.inodes[number].current.clone())
    }

    /// Replaces the content of a file, durably: damage.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let number = inner.names[path];
        let inode = inner.inodes.get_mut(&number).unwrap();
        change(&mut inode.current);
        inode.durable = inode.current.clone();
        inode.pending.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Counts a call; a fault or the power cut comes out here.
    fn call(&self, writes: bool) -> Result<(MutexGuard<'_, Inner>, Option<Fault>), io::Error> {
        let mut inner = self.inner();
        let number = inner.calls;
        inner.calls += 1;
        if inner.cut_at.is_some_and(|at| number >= at) {
            inner.off = true;
        }
        if inner.off {
            return Err(error(Fault::Eio));
        }
        let mut fault = inner.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        if writes {
            fault = fault.or(inner.broken);
        }
        Ok((inner, fault))
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Enospc => io::Error::from_raw_os_error(28),
        _ => io::Error::from_raw_os_error(5),
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, op: &NameOp) {
    match op {
        NameOp::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameOp::Unlink(path) => {
            names.remove(path);
        }
        NameOp::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}

impl File for SimFile {
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut inner, fault) = self.disk.call(true)?;
        let mut data = Vec::new();
        for part in parts {
            data.extend_from_slice(part);
        }
        if let Some(fault) = fault {
            // a failing write may have written some of it
            let keep = inner.rng.below(data.len() as u64 + 1) as usize;
            data.truncate(keep);
            if fault == Fault::Short && keep == 0 {
                return Err(error(fault));
            }
        }
        let inode = inner.inodes.get_mut(&self.inode).unwrap();
        put(&mut inode.current, offset as usize, &data);
        let written = data.len();
        inode.pending.push((offset as usize, data));
        match fault {
            None | Some(Fault::Short) => Ok(written),
            Some(fault) => Err(error(fault)),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (inner, fault) = self.disk.call(false)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let content = &inner.inodes[&self.inode].current;
        let from = (offset as usize).min(content.len());
        let len = buf.len().min(content.len() - from);
        buf[..len].copy_from_slice(&content[from..from + len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, fault) = self.disk.call(true)?;
        if let Some(fault) = fault {
            // like Linux: the pages count as clean afterwards although some never reached the disk
            let mut rng = inner.rng.clone();
            let inode = inner.inodes.get_mut(&self.inode).unwrap();
            for (offset, data) in std::mem::take(&mut inode.pending) {
                if rng.chance(50) {
                    put(&mut inode.durable, offset, &data);
                }
            }
            inner.rng = rng;
            return Err(error(fault));
        }
        let inode = inner.inodes.get_mut(&self.inode).unwrap();
        for (offset, data) in std::mem::take(&mut inode.pending) {
            put(&mut inode.durable, offset, &data);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (inner, fault) = self.disk.call(false)?;
        match fault {
            Some(fault) => Err(error(fault)),
            None => Ok(inner.inodes[&self.inode].current.len() as u64),
        }
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let (mut inner, fault) = self.call(true)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let number = inner.next;
        inner.next += 1;
        inner.inodes.insert(number, Inode::default());
        let op = NameOp::Link(path.to_owned(), number);
        apply(&mut inner.names, &op);
        inner.pending_names.push(op);
        Ok(Arc::new(SimFile { disk: self.clone(), inode: number, _path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let (inner, fault) = self.call(false)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let inode = *inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, _path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut inner, fault) = self.call(true)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let inode = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let op = NameOp::Rename(from.to_owned(), to.to_owned(), inode);
        apply(&mut inner.names, &op);
        inner.pending_names.push(op);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut inner, fault) = self.call(true)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        if !inner.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let op = NameOp::Unlink(path.to_owned());
        apply(&mut inner.names, &op);
        inner.pending_names.push(op);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let (inner, fault) = self.call(false)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        Ok(inner
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, fault) = self.call(true)?;
        if let Some(fault) = fault {
            return Err(error(fault));
        }
        let in_dir = |path: &Path| path.parent() == Some(dir);
        let ops = std::mem::take(&mut inner.pending_names);
        for op in ops {
            let here = match &op {
                NameOp::Link(path, _) | NameOp::Unlink(path) => in_dir(path),
                NameOp::Rename(from, to, _) => in_dir(from) || in_dir(to),
            };
            if here {
                apply(&mut inner.durable_names, &op);
            } else {
                inner.pending_names.push(op);
            }
        }
        Ok(())
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}
