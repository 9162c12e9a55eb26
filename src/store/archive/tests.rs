//! Archives that are whole, cut, damaged, and made by somebody who means harm.

use std::collections::BTreeMap;

use super::*;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        version: "1".to_owned(),
        store: "00".to_owned(),
        taken_at: Timestamp::from_millis(1_795_000_000_000),
        group: 7,
        revision: 3,
        files: 2,
        bytes: 9,
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&mut out, &manifest()).unwrap();
    for (name, content) in files {
        let mut read = |at: u64, piece: &mut [u8]| {
            let rest = &content[at as usize..];
            let len = rest.len().min(piece.len());
            piece[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        };
        writer.file(name, content.len() as u64, &mut read).unwrap();
    }
    writer.end().unwrap();
    out
}

#[derive(Default)]
struct Kept {
    files: BTreeMap<String, Vec<u8>>,
    now: String,
}

impl Take for Kept {
    fn begin(&mut self, name: &str, _: u64) -> io::Result<()> {
        self.now = name.to_owned();
        self.files.insert(name.to_owned(), Vec::new());
        Ok(())
    }

    fn octets(&mut self, octets: &[u8]) -> io::Result<()> {
        self.files.get_mut(&self.now).unwrap().extend_from_slice(octets);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<Kept, ArchiveError> {
    let mut kept = Kept::default();
    Reader::open(bytes)?.read(&mut kept).map(|_| kept)
}

#[test]
fn what_was_written_comes_back() {
    let long = format!("mail/{}/new/{}", "m".repeat(200), "n".repeat(250));
    let large = vec![9; 600_000];
    let files: Vec<(&str, &[u8])> = vec![("store", b"id"), ("journal/1.seg", &large), ("empty", b""), (&long, b"x")];
    let bytes = archive(&files);
    let kept = read(&bytes).unwrap();
    assert_eq!(kept.files.len(), 4);
    assert!(files.iter().all(|(name, content)| kept.files[*name] == *content));
    assert_eq!(Reader::open(&bytes[..]).unwrap().manifest(), &manifest());
    // more files than one list of checksums has
    let names: Vec<String> = (0..FILES_IN_SUMS * 2 + 1).map(|n| format!("mail/{n}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    assert_eq!(read(&archive(&many)).unwrap().files.len(), names.len());
}

#[test]
fn a_standard_tar_unpacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("mail/{}/new/{}", "m".repeat(200), "n".repeat(250));
    let file = dir.path().join("b.tar");
    std::fs::write(&file, archive(&[("store", b"id"), (&long, b"letter")])).unwrap();
    let done = std::process::Command::new("tar").arg("xf").arg(&file).arg("-C").arg(dir.path()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read(dir.path().join("data/store")).unwrap(), b"id");
    assert_eq!(std::fs::read(dir.path().join("data").join(long)).unwrap(), b"letter");
}

#[test]
fn one_that_is_cut_anywhere_is_refused() {
    let bytes = archive(&[("store", b"id"), ("journal/1.seg", &[7; 3_000])]);
    for len in 0..bytes.len() {
        let refused = read(&bytes[..len]).err().unwrap_or_else(|| panic!("cut at {len}"));
        assert!(matches!(refused, ArchiveError::Cut { .. }), "{len}: {refused}");
    }
    assert!(read(&[&bytes[..], b"x"].concat()).is_err(), "something behind it");
    assert!(read(&[&bytes[..], &[0; 512]].concat()).is_err(), "even zeros");
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let bytes = archive(&[("store", b"id"), ("journal/1.seg", &[7; 700])]);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit}");
    }
    let mut bytes = bytes;
    let at = bytes.iter().rposition(|byte| *byte == 7).unwrap();
    bytes[at] ^= 1;
    let refused = read(&bytes).err().unwrap().to_string();
    assert!(refused.contains("data/journal/1.seg does not fit its checksum"), "{refused}");
}

#[test]
fn a_newer_and_a_foreign_one_are_told_apart() {
    let newer = Manifest { format: FORMAT + 1, ..manifest() };
    let mut bytes = Vec::new();
    Writer::begin(&mut bytes, &newer).unwrap();
    assert!(matches!(read(&bytes), Err(ArchiveError::Newer { found }) if found == FORMAT + 1));
    assert!(matches!(read(&[b'x'; 2_000]), Err(ArchiveError::Foreign(_))));
    assert!(matches!(read(&[0; 2_000]), Err(ArchiveError::Foreign(_))));
    assert!(matches!(read(b""), Err(ArchiveError::Cut { at: 0, .. })));
}

/// A tar entry as somebody else writes it: any name, size and kind, with the right sum.
fn entry(name: &str, kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = member::head("data/x", 0, 1_795_000_000).unwrap();
    bytes[..6].fill(0);
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[124..136].copy_from_slice(&format!("{size:011o}\0").as_bytes()[..12]);
    bytes[156] = kind;
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn a_hostile_archive_gets_nowhere() {
    let mut begin = Vec::new();
    Writer::begin(&mut begin, &manifest()).unwrap();
    let behind = |entries: &[Vec<u8>]| [&begin[..], &entries.concat()].concat();
    for name in ["data/../../etc/passwd", "data//etc/passwd", "data/a/../b", "data/", "data/./a", "data/a\\b"] {
        let refused = read(&behind(&[entry(name, b'0', 1, b"x")])).err().unwrap().to_string();
        assert!(refused.contains("leads elsewhere"), "{name}: {refused}");
    }
    for name in ["/etc/passwd", "../data/a", "etc/passwd", "sums-000002.json", "name"] {
        let refused = read(&behind(&[entry(name, b'0', 1, b"x")])).err().unwrap().to_string();
        assert!(refused.contains("does not belong there"), "{name}: {refused}");
    }
    for kind in *b"\x001234567xgLKS" {
        let refused = read(&behind(&[entry("data/a", kind, 0, b"")])).err().unwrap().to_string();
        assert!(refused.contains("none that a backup has"), "kind {kind}: {refused}");
    }
}

#[test]
fn an_archive_that_lies_is_found_out() {
    let mut begin = Vec::new();
    Writer::begin(&mut begin, &manifest()).unwrap();
    let behind = |entries: &[Vec<u8>]| [&begin[..], &entries.concat()].concat();
    let twice = behind(&[entry("data/a", b'0', 1, b"x"), entry("data/a", b'0', 1, b"y")]);
    assert!(read(&twice).err().unwrap().to_string().contains("is there twice"));
    let lies = behind(&[entry("data/a", b'0', 8 << 30, b"x")]);
    assert!(read(&lies).is_err(), "a size that does not fit the field");
    let lies = behind(&[entry("data/a", b'0', (8 << 30) - 1, b"x")]);
    assert!(matches!(read(&lies), Err(ArchiveError::Cut { .. })), "a size with nothing behind it");
    let manifest = [entry(MANIFEST, b'0', 1 << 30, b"{}")].concat();
    assert!(read(&manifest).err().unwrap().to_string().contains("1073741824 octets"));
    // files without end and without checksums
    let endless: Vec<Vec<u8>> = (0..=FILES_IN_SUMS).map(|n| entry(&format!("data/{n}"), b'0', 0, b"")).collect();
    assert!(read(&behind(&endless)).err().unwrap().to_string().contains("checksums is missing"));
}
