//! Sockets in: one listener per binding of a virtual server, one task per connection.
//!
//! `listener` keeps what is open equal to what is configured; `connection` drives one session and answers its questions
//! by `intake`. `fetching` is ETRN and ATRN, `reversed` a connection
//! that we have made ourselves to fetch mail. `protocol_log` writes down what was said. A binding that cannot be opened is a condition on its server and is tried again; the others serve.

mod connection;
mod fetching;
mod listener;
mod protocol_log;
mod reversed;

pub use listener::{BindCheck, Inbound};
pub use protocol_log::ProtocolLogs;
pub use reversed::Receiver;
