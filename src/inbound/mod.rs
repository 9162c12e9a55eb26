//! Sockets in: one listener per binding of a virtual server, one task per connection.
//!
//! `listener` keeps what is open equal to what is configured; `connection` drives one session and answers its questions
//! by `intake`. A binding that cannot be opened is a condition on its server and is tried again; the others serve.

mod connection;
mod listener;

pub use listener::{BindCheck, Inbound};
