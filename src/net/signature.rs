//! The signature of requests to webhooks and event sinks: HMAC-SHA-256 over the time and what is signed, `t=<Unix time>,v1=<hex>`.
//!
//! The time is signed too, so that a receiver can refuse what is old; `v1` names the scheme, so that there may be another.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// A signature in the making: parts come as they are read, so that a large body need not be in memory.
pub struct Signature {
    time: i64,
    mac: Hmac<Sha256>,
}

impl Signature {
    /// Begins with `<time>.`; the time in seconds.
    pub fn begin(secret: &[u8], time: i64) -> Signature {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).expect("a key of any length will do (RFC 2104, 2)");
        let mut signature = Signature { time, mac };
        signature.update(format!("{time}.").as_bytes());
        signature
    }

    /// The next part.
    pub fn update(&mut self, part: &[u8]) {
        self.mac.update(part);
    }

    /// The value of the header.
    pub fn header(self) -> String {
        let digest: String = self.mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        format!("t={},v1={digest}", self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret`
    #[test]
    fn it_is_the_hmac_of_time_and_body() {
        let mut signature = Signature::begin(b"secret", 1_700_000_000);
        signature.update(b"{\"a\"");
        signature.update(b":1}");
        assert_eq!(signature.header(), format!("t=1700000000,v1={EXPECTED}"));
    }

    const EXPECTED: &str = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
}
