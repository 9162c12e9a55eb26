//! What a server wrote, held to the grammar of replies (RFC 5321, 4.2).

/// The code of each reply. Panics when this is not a sequence of complete, well-formed replies.
pub fn codes(wire: &[u8]) -> Vec<u16> {
    let text = std::str::from_utf8(wire).expect("replies are UTF-8");
    assert!(text.is_empty() || text.ends_with("\r\n"), "the last reply is not complete: {text:?}");
    let mut codes = Vec::new();
    let mut open: Option<u16> = None;
    for line in text.split_terminator("\r\n") {
        assert!(!line.chars().any(char::is_control), "a control character in a reply: {line:?}");
        assert!(line.len() <= 1024, "a reply line of {} octets", line.len());
        let code: u16 = line.get(..3).and_then(|code| code.parse().ok()).expect("a reply begins with a code");
        assert!((200..600).contains(&code), "{line:?}");
        assert!(open.is_none_or(|open| open == code), "codes differ within a reply: {text:?}");
        match line.as_bytes().get(3) {
            Some(b'-') => open = Some(code),
            Some(b' ') | None => {
                open = None;
                codes.push(code);
            }
            Some(_) => panic!("not a reply line: {line:?}"),
        }
    }
    assert!(open.is_none(), "a reply without its last line");
    codes
}
