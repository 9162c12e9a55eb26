//! The usual replies of the server, where policy has no words of its own (RFC 5321, 4.2.3; RFC 3463).

use crate::smtp::reply::{EnhancedStatus, Reply};

pub(super) fn ok(text: &'static str) -> Reply {
    Reply::new(250, EnhancedStatus::success(0, 0), text)
}

pub(super) fn authenticated() -> Reply {
    Reply::new(235, EnhancedStatus::success(7, 0), "Authentication successful")
}

pub(super) fn sender_ok() -> Reply {
    Reply::new(250, EnhancedStatus::success(1, 0), "Sender OK")
}

pub(super) fn recipient_ok() -> Reply {
    Reply::new(250, EnhancedStatus::success(1, 5), "Recipient OK")
}

pub(super) fn cannot_verify() -> Reply {
    Reply::new(252, EnhancedStatus::success(5, 0), "Cannot verify, but will take mail and try")
}

pub(super) fn too_large() -> Reply {
    Reply::new(552, EnhancedStatus::permanent(3, 4), "The message is too large")
}

pub(super) fn timed_out() -> Reply {
    Reply::new(421, EnhancedStatus::transient(4, 2), "Timed out")
}
