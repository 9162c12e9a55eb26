//! What lies in a data directory, and what becomes of each thing when the appliance is copied or examined: the one list.

/// What a thing at the top of the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Part of the store: the engine copies it at a point in time, and examines it.
    Store,
    /// Files beside the store that are copied as they lie, after the store: what was delivered into them may then be queued too,
    /// which costs a duplicate, and is never missing in both.
    Beside,
    /// Not copied: it is made again, belongs to this machine or process, or is only on its way in.
    Here,
}

/// A thing at the top of the data directory.
#[derive(Debug, Clone, Copy)]
pub struct Thing {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub kind: Kind,
}

/// Everything that we make there.
pub const THINGS: [Thing; 22] = [
    of("store", Kind::Store),
    of("config", Kind::Store),
    of("requests", Kind::Store),
    of("journal", Kind::Store),
    of("large", Kind::Store),
    of("tracking", Kind::Store),
    // what mailbox stores took in, and what was counted
    of("mail", Kind::Beside),
    of("drop", Kind::Beside),
    of("badmail", Kind::Beside),
    of("tls-reports", Kind::Beside),
    // rebuilt
    of("db", Kind::Here),
    of("db.aside", Kind::Here),
    of("drafts", Kind::Here),
    of(ASIDE, Kind::Here),
    // of this process or machine
    of("lock", Kind::Here),
    of("admin.sock", Kind::Here),
    of(RESTORING, Kind::Here),
    of(RESTORED_FROM, Kind::Here),
    of("protocol-logs", Kind::Here),
    // a key in plain text is copied nowhere
    of("first-key", Kind::Here),
    // not taken yet: a restored appliance would send it without asking, perhaps again
    of("pickup", Kind::Here),
    of("imports", Kind::Here),
];

/// Where a restore gathers what it has not verified yet.
pub const RESTORING: &str = "restoring";
/// Names the copy that was restored, until its mail is held.
pub const RESTORED_FROM: &str = "restored-from";
/// What `doctor --repair` took out of the way.
pub const ASIDE: &str = "aside";

const fn of(name: &'static str, kind: Kind) -> Thing {
    Thing { name, kind }
}

/// What is of this kind.
pub fn all(kind: Kind) -> impl Iterator<Item = &'static str> {
    THINGS.iter().filter(move |thing| thing.kind == kind).map(|thing| thing.name)
}

/// Whether something of this name is known there; also what the system puts at the top of a volume.
pub fn is_known(name: &str) -> bool {
    THINGS.iter().any(|thing| thing.name == name)
        || name.starts_with("db-stalled-")
        || name.starts_with(".admin.sock")
        || name == LOST_AND_FOUND
}

/// What `fsck` keeps at the top of a volume.
pub const LOST_AND_FOUND: &str = "lost+found";
