//! What the fuzz targets share: the wire language itself, mounted from `src/smtp` and `src/mime`, a way to read decisions out of random
//! octets, a second opinion on the framing of content, and drivers that hold both session cores to their promises.
//!
//! A target fails by a panic: of the code under test, of a driver here, or of libFuzzer over time and memory.

#[path = "../../../src/mime/mod.rs"]
pub mod mime;
#[path = "../../../src/smtp/mod.rs"]
pub mod smtp;

pub mod client;
pub mod input;
pub mod reference;
pub mod replies;
pub mod server;
