//! Why there is no token to log in with ([`TokenFault`]). What it means for mail is [`super::failure`]'s to say.

/// Why a token endpoint gave no token. The words are cleaned and bounded, and hold neither secret nor token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It could not be asked: no connection, no TLS with it, or it broke off.
    #[error("the token endpoint {0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// It did not answer in time.
    #[error("the token endpoint {0} did not answer in {1} s")]
    Silent(String, u64),
    /// It refused: who we are to it, or what we have the right to.
    #[error("the token endpoint {0} refused: {1}")]
    Refused(String, String),
    /// It answered with what is no token: an error of its own, a redirect, a page.
    #[error("the token endpoint {0} answered {1}")]
    Answer(String, String),
}

impl TokenFault {
    /// For programs: the reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            TokenFault::Unreachable(..) => "endpointUnreachable",
            TokenFault::Silent(..) => "endpointSilent",
            TokenFault::Refused(..) => "endpointRefused",
            TokenFault::Answer(..) => "endpointAnswer",
        }
    }

    /// Whether it is about us, so that asking again is of no use until somebody has changed something.
    pub fn is_refusal(&self) -> bool {
        matches!(self, TokenFault::Refused(..))
    }
}
