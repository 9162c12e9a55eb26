//! Argon2 hashes of passwords as texts: PHC strings (`$argon2id$v=19$m=19456,t=2,p=1$salt$hash`).

use std::fmt;
use std::str::FromStr;

use argon2::Params;
use argon2::password_hash::phc;

use super::text::text_value;

/// Most memory that checking one hash may take, in KiB.
const MOST_MEMORY: u32 = 128 << 10;
/// Most blocks that checking one hash may compute: memory times passes.
const MOST_WORK: u32 = 1 << 20;
/// Most lanes.
const MOST_LANES: u32 = 16;
/// Shortest salt and hash, in octets.
const SHORTEST: usize = 8;

/// An Argon2 hash, with salt and parameters, that can be checked within bounds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PasswordHash(String);

/// The text is no such hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an Argon2 hash is a PHC string such as $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>, with at most 128 MiB of memory, \
     16 lanes, and 1,048,576 for memory times passes"
)]
pub struct NotAPasswordHash;

impl PasswordHash {
    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PasswordHash {
    type Err = NotAPasswordHash;

    fn from_str(text: &str) -> Result<Self, NotAPasswordHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| NotAPasswordHash)?;
        let known = ["argon2id", "argon2i", "argon2d"].contains(&hash.algorithm.as_str());
        let version = hash.version.is_none_or(|version| version == 0x10 || version == 0x13);
        let params = Params::try_from(&hash).map_err(|_| NotAPasswordHash)?;
        let bounded = params.m_cost() <= MOST_MEMORY
            && params.p_cost() <= MOST_LANES
            && params.m_cost().checked_mul(params.t_cost()).is_some_and(|work| work <= MOST_WORK);
        let whole = hash.salt.is_some_and(|salt| salt.len() >= SHORTEST)
            && hash.hash.is_some_and(|hash| hash.len() >= SHORTEST);
        if known && version && bounded && whole { Ok(PasswordHash(text.to_owned())) } else { Err(NotAPasswordHash) }
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not the hash: it can be guessed from.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

text_value!(
    PasswordHash,
    "PasswordHash",
    "bridgehead-password-hash",
    "An Argon2 hash of a password as a PHC string, with at most 128 MiB of memory and 16 lanes. Only written, never read back.",
    ["$argon2id$v=19$m=19456,t=2,p=1$YnJpZGdlaGVhZC1zYWx0$Tpx9zVXcLAUBBW0cqHyYWiRTDMREDdmC0rqZvsHGfyY"]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_known_and_bounded() {
        let of = |params: &str| {
            format!("$argon2id$v=19${params}$YnJpZGdlaGVhZC1zYWx0$Tpx9zVXcLAUBBW0cqHyYWiRTDMREDdmC0rqZvsHGfyY")
        };
        let good = of("m=19456,t=2,p=1");
        assert_eq!(good.parse::<PasswordHash>().unwrap().to_string(), good);
        assert!(good.replace("argon2id", "argon2i").parse::<PasswordHash>().is_ok());
        for wrong in [
            "".to_owned(),
            "secret".to_owned(),
            "$2b$12$KIXQe3Y1n7h3h7h3h7h3hu".to_owned(),
            good.replace("argon2id", "scrypt"),
            good.replace("v=19", "v=20"),
            of("m=4194304,t=1,p=1"),
            of("m=131072,t=9,p=1"),
            of("m=65536,t=4294967295,p=1"),
            of("m=19456,t=2,p=17"),
            of("m=0,t=2,p=1"),
            good.rsplit_once('$').unwrap().0.to_owned(),
        ] {
            assert!(wrong.parse::<PasswordHash>().is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", good.parse::<PasswordHash>()).contains("Tpx9"));
    }
}
