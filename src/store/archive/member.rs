//! The entries of the tar (POSIX.1-2017, pax, section "ustar Interchange Format"): regular files, owned by nobody, mode 0600.
//!
//! A name that the 256 octets of a ustar header do not hold is preceded by a pax header with its `path`. Octets of a file are filled
//! up to blocks of 512 with zeros. Two blocks of zeros end the archive.

/// Octets of a block.
pub(super) const BLOCK: usize = 512;
/// The largest file: what eleven octal digits say.
pub(super) const MOST_SIZE: u64 = (1 << 33) - 1;
/// Longest name.
const MOST_NAME: usize = 1_024;
/// Longest part of a name.
const MOST_PART: usize = 255;
/// What kind of entry a header begins.
const FILE: u8 = b'0';
const PAX: u8 = b'x';
/// What a pax header calls itself; nobody unpacks it.
const PAX_NAME: &str = "name";

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A file; its name when it is not in a pax header before.
    File { name: String, size: u64 },
    /// A pax header of so many octets.
    Pax { size: u64 },
    /// A block of zeros.
    Zero,
}

/// Whether a name stays where it is put: relative, without steps up, in characters that are no trouble to anybody.
pub fn is_harmless(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.len() <= MOST_PART && part != "." && part != "..";
    name.len() <= MOST_NAME && !name.contains(['\0', '\\', '\n', '\r']) && name.split('/').all(part)
}

/// The headers of a file, a pax header in front when its name needs one. `None` when it is too large, or its name is none of ours.
pub(super) fn head(name: &str, size: u64, mtime: u64) -> Option<Vec<u8>> {
    if size > MOST_SIZE || !is_harmless(name) {
        return None;
    }
    if let Some((prefix, last)) = split(name) {
        return Some(block(FILE, prefix, last, size, mtime).to_vec());
    }
    let record = pax_record(name);
    let mut out = block(PAX, "", PAX_NAME, record.len() as u64, mtime).to_vec();
    out.extend_from_slice(&record);
    out.resize(out.len() + padding(record.len() as u64), 0);
    // what reads no pax headers sees a short name
    out.extend_from_slice(&block(FILE, "", PAX_NAME, size, mtime));
    Some(out)
}

/// Zeros behind a file of this size.
pub(super) fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// Reads a header; `None` unless it is, octet for octet, one that [`head`] writes with this time (any time, at first).
pub(super) fn parse(bytes: &[u8; BLOCK], mtime: &mut Option<u64>) -> Option<Head> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(Head::Zero);
    }
    let text = |from: usize, len: usize| {
        let field = &bytes[from..from + len];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(len);
        std::str::from_utf8(&field[..end]).ok()
    };
    let size = u64::from_str_radix(text(124, 12)?, 8).ok()?;
    let time = u64::from_str_radix(text(136, 12)?, 8).ok()?;
    let (name, prefix) = (text(0, 100)?, text(345, 155)?);
    if *mtime.get_or_insert(time) != time || block(bytes[156], prefix, name, size, time) != *bytes {
        return None;
    }
    match bytes[156] {
        FILE if prefix.is_empty() => Some(Head::File { name: name.to_owned(), size }),
        FILE => Some(Head::File { name: format!("{prefix}/{name}"), size }),
        PAX if prefix.is_empty() && name == PAX_NAME && size <= MOST_NAME as u64 + 32 => Some(Head::Pax { size }),
        _ => None,
    }
}

/// The name in a pax header, if it holds exactly one that needs it.
pub(super) fn pax_name(record: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(record).ok()?;
    let name = text.split_once(" path=")?.1.strip_suffix('\n')?;
    (pax_record(name) == record && split(name).is_none()).then(|| name.to_owned())
}

/// Whether a file of this header may stand behind a pax header.
pub(super) fn is_named_before(name: &str) -> bool {
    name == PAX_NAME
}

/// "length path=name\n", where the length counts itself.
fn pax_record(name: &str) -> Vec<u8> {
    let rest = format!(" path={name}\n");
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}").into_bytes()
}

/// The name in the two fields of a header, the last part as long as it can be.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= 100 {
        return Some(("", name));
    }
    let slash = name.char_indices().find(|(at, c)| *c == '/' && name.len() - at - 1 <= 100)?.0;
    (slash <= 155).then(|| (&name[..slash], &name[slash + 1..]))
}

fn block(kind: u8, prefix: &str, name: &str, size: u64, mtime: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| bytes[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", mtime & MOST_SIZE).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_where_they_are_put() {
        for name in ["a", "a/b", "a.b/..c", "a/b,S=1:2,S", "ä"] {
            assert!(is_harmless(name), "{name}");
        }
        for name in ["", "/a", "a/", "a//b", "..", "a/..", "../a", "a/../b", ".", "a/./b", "a\0b", "a\\b", "a\nb"] {
            assert!(!is_harmless(name), "{name:?}");
        }
        assert!(!is_harmless(&"a".repeat(256)) && !is_harmless(&"a/".repeat(600)));
    }

    #[test]
    fn every_name_comes_back() {
        let long = "n".repeat(200);
        for name in ["a", &format!("data/{}/{}", "p".repeat(120), "n".repeat(100)), &format!("data/{long}/{long}")] {
            let head = head(name, 77, 1_795_000_000).unwrap();
            let (mut mtime, mut at, mut before) = (None, 0, None);
            let found = loop {
                let bytes: &[u8; BLOCK] = head[at..at + BLOCK].try_into().unwrap();
                at += BLOCK;
                match parse(bytes, &mut mtime).unwrap() {
                    Head::Pax { size } => {
                        before = pax_name(&head[at..at + size as usize]);
                        at += size as usize + padding(size);
                    }
                    Head::File { name, size } => break (before.unwrap_or(name), size),
                    Head::Zero => panic!(),
                }
            };
            assert_eq!(found, (name.to_owned(), 77));
            assert_eq!((at, mtime), (head.len(), Some(1_795_000_000)));
        }
        assert_eq!(head("a", MOST_SIZE + 1, 0), None, "too large");
        assert_eq!(head("../a", 1, 0), None);
    }

    #[test]
    fn a_header_that_differs_in_one_bit_is_none() {
        let good: [u8; BLOCK] = head("data/journal/0000000000000001.seg", 4_096, 7).unwrap().try_into().unwrap();
        for bit in 0..BLOCK * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bytes, &mut Some(7)), None, "bit {bit}");
        }
    }
}
