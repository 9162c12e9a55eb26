//! The content of a message as RFC 5322 and MIME see it, and what must become of it for the next hop. No IO, no clock, no
//! policy: octets in, octets out.
//!
//! Two things change content on its way out. **Senders**: addresses in From and Sender become others
//! ([`Senders`]; Exchange: masquerade domain), and nothing else of these fields changes. **Conversion**: what is 8-bit or
//! binary becomes quoted-printable or base64 for a next hop that does not carry it (RFC 6152, section 3; RFC 3030).
//!
//! Conversion needs two passes, because whether it can be done must be known before MAIL. [`Survey`] reads the content once
//! and says whether it fits as it is, which parts have to be converted, or why that cannot be ([`Fit`]). [`Adapter`]
//! then changes it while it is sent.
//!
//! Guarantees: any chunking of the same octets gives the same octets. Memory is bounded whatever comes: a header field
//! that is longer than 64 KiB is passed on in pieces and as it is, a line of a body is never held. What is not understood is
//! left as it is, or refused: nothing comes out broken that went in whole. Parts of multipart/signed and
//! multipart/encrypted are never changed (RFC 1847), nor is what is already encoded.
//!
//! A conversion breaks a DKIM signature over the body, and another sender one over the header; a signature is made after this.
//!
//! In the order of the way: `lines` cuts chunks, `walk` follows the structure, `entity` reads a header, `survey` judges,
//! `adapt` changes, with `addresses` and `encode`.

mod adapt;
mod addresses;
mod encode;
mod entity;
mod lines;
mod survey;
#[cfg(test)]
mod tests;
mod walk;

pub use adapt::Adapter;
pub use addresses::{SenderChange, Senders};
pub use survey::{Fit, Plan, Survey};
