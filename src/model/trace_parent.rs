//! `traceparent`: the trace that somebody who asks something of us is at (W3C Trace Context, 3.2).

use std::fmt;
use std::str::FromStr;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// The span in it.
    pub span: u64,
    /// Flags; bit 0: it is recorded.
    pub flags: u8,
}

/// The text is no `traceparent`. Who sends one is not refused for it: it counts as not given (3.2.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct NotATraceParent;

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let hex = |part: Option<&str>, digits: usize| {
            let part = part.filter(|part| part.len() == digits).ok_or(NotATraceParent)?;
            let lower = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if lower { u128::from_str_radix(part, 16).map_err(|_| NotATraceParent) } else { Err(NotATraceParent) }
        };
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next(), 2)?;
        let (trace, span, flags) = (hex(parts.next(), 32)?, hex(parts.next(), 16)?, hex(parts.next(), 2)?);
        // a later version may say more behind it
        let ends = parts.next().is_none() || version > 0;
        if version == 0xff || !ends || trace == 0 || span == 0 {
            return Err(NotATraceParent);
        }
        let (span, flags) = (u64::try_from(span), u8::try_from(flags));
        Ok(TraceParent { trace, span: span.map_err(|_| NotATraceParent)?, flags: flags.map_err(|_| NotATraceParent)? })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_takes_is_taken() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), text);
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(later.parse::<TraceParent>().is_ok());
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319ü-b7ad6b7169203331-01",
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(NotATraceParent), "{wrong:?}");
        }
    }
}
