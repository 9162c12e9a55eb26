//! Mail that lies in files, as the SMTP service of Windows and Exchange 2000 kept it below `Mailroot`.
//!
//! * `file`: one file: what is in it, and for whom. Files are opened without following links, and never changed.
//! * `hand_in`: it goes into the house by [`intake`](crate::intake), like mail from a client that may relay.
//! * [`pickup`]: the live pickup directories of virtual servers.
//! * [`import`]: brings in an old mailroot, once.
//!
//! The form of a file in Pickup and Drop: optional lines `x-sender:` and `x-receiver:` first, which are the envelope, then a
//! message (RFC 5322). Without them the envelope is taken from the header: Sender, else From; To, Cc and Bcc. Line ends become
//! CRLF, a Bcc field is removed, and Date and Message-ID are added where there is none.

mod file;
mod hand_in;
pub mod import;
pub mod pickup;
