//! A second opinion on the framing of content (RFC 5321, 4.5.2), written to be obviously right and not to be quick. It shares
//! nothing with `src/smtp/data.rs`.

/// How many octets of `raw` are the content of DATA with its end; `None` when there is no end. Only `CRLF . CRLF` is one, or
/// `. CRLF` at the very beginning.
pub fn end_of_data(raw: &[u8]) -> Option<usize> {
    (0..raw.len()).find(|at| raw[*at..].starts_with(b".\r\n") && is_line_start(raw, *at)).map(|at| at + 3)
}

/// The message in a content with its end: without that, and without the dots that were stuffed.
pub fn message(raw: &[u8]) -> Vec<u8> {
    let raw = raw.strip_suffix(b".\r\n").expect("a content with its end");
    let kept = (0..raw.len()).filter(|at| !(raw[*at] == b'.' && is_line_start(raw, *at)));
    kept.map(|at| raw[at]).collect()
}

/// True when a CR or an LF stands alone.
pub fn has_bare(text: &[u8]) -> bool {
    (0..text.len()).any(|at| is_bare(text, at))
}

/// The text with a CRLF for each CR or LF that stands alone.
pub fn normalise(text: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(text.len());
    for at in 0..text.len() {
        if is_bare(text, at) { normal.extend_from_slice(b"\r\n") } else { normal.push(text[at]) }
    }
    normal
}

fn is_line_start(raw: &[u8], at: usize) -> bool {
    at == 0 || raw[..at].ends_with(b"\r\n")
}

fn is_bare(text: &[u8], at: usize) -> bool {
    match text[at] {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        b'\n' => !text[..at].ends_with(b"\r"),
        _ => false,
    }
}
