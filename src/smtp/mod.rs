//! The wire language of SMTP: addresses, commands, replies, framing, and the two session cores.
//!
//! Nothing in this module reads a socket, a clock or a configuration. Bytes and answers go in,
//! replies and questions come out; what they mean for *policy* is decided on higher floors.

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod extension;
pub mod line;
pub mod parameters;
pub mod reply;
pub mod sasl;
pub mod server;
pub mod verb;
