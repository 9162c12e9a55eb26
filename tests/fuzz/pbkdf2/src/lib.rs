//! The one function of aws-lc-rs that `src/smtp` calls, so that a fuzz build needs no C library of minutes. Checked against a
//! published vector in `fuzz_targets/sasl.rs`.

pub mod pbkdf2 {
    use std::num::NonZeroU32;

    use hmac::{Hmac, Mac};
    use sha2::Sha256;

    /// The only algorithm there is here.
    pub const PBKDF2_HMAC_SHA256: () = ();

    /// PBKDF2 (RFC 8018, 5.2), for keys of one block.
    pub fn derive(_: (), iterations: NonZeroU32, salt: &[u8], secret: &[u8], out: &mut [u8]) {
        let sign = |parts: &[&[u8]]| -> [u8; 32] {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().into()
        };
        let mut block = sign(&[salt, &[0, 0, 0, 1]]);
        let mut sum = block;
        for _ in 1..iterations.get() {
            block = sign(&[&block]);
            sum.iter_mut().zip(block).for_each(|(sum, octet)| *sum ^= octet);
        }
        out.copy_from_slice(&sum);
    }
}
