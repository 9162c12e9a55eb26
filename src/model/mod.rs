//! Configuration and mail as valid values, and nothing else: no IO, no clock, no policy.

pub mod dns_list;
pub mod duration;
pub mod event_kind;
pub mod failure;
pub mod host;
pub mod http_url;
pub mod labels;
pub mod mail;
pub mod mailbox_pattern;
pub mod name;
pub mod password_hash;
pub mod path;
pub mod pattern;
pub mod queue_name;
pub mod rate;
pub mod recipient_ref;
pub mod schedule;
pub mod secret;
pub mod size;
pub mod spec;
pub mod template;
pub(crate) mod text;
pub mod time;
pub mod token_fault;
pub mod username;
pub mod web;
