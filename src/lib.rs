//! Bridgehead: the SMTP relay that you configure by API, that tells you where your mail is, and that
//! never loses it after 250.
//!
//! This page is the map of the house. Read the modules in the order in which they stand below and you follow a
//! message; every room begins with what it is for, what it guarantees and what happens on failure.
//!
//! # A message
//!
//! ```text
//!  client                                                                          next hop
//!    │                                                                                 ▲
//!    ▼                                                                                 │
//!  inbound::listener ─▶ inbound::connection ─ drives ─▶ smtp::server (no IO)   smtp::client (no IO)
//!                          │ answers its questions                                     ▲ drives
//!                          ▼                                                           │
//!                     intake::admission   who may: named rules               outbound::worker
//!                          │   ├─ accounts   who it is                      local  (mailbox stores)
//!                          │   └─ directory  who is meant                              │
//!                          ▼                                                           ▲
//!                     intake::accept      content streams in                           │
//!                          │                                                           │
//!                          ▼                                                           │
//!                     store::Spool        durable: only now 250                        │
//!                          │                                                           │
//!                          ▼                                                           │
//!                     queue::enqueue ─▶ queue::link (one per next hop) ────────────────┘
//!                          ▲                 ▲                                         │ results
//!                          │                 │ due, assigned anew by routing           ▼
//!                          │            queue::scheduler ◀── store ◀────────── queue::outcome
//!                          │                                                           │
//!                          └──────────── dsn, with the null reverse-path ◀─────────────┘
//! ```
//!
//! *Walk along.* A client connects; `inbound::listener` counts it against the limits of its virtual server and starts
//! `inbound::connection`. That drives `smtp::server::Session`, which knows the protocol and nothing else: it asks one
//! question at a time (may this one connect, is it who it says, may it send, send to this one?), and [`intake`] answers by
//! the rules of `intake::admission`, with the snapshot of the configuration that was in force at MAIL; who a client has
//! authenticated as [`accounts`] says. For each recipient the
//! [`directory`] says who is meant and [`routing`] which connector carries it, so the queue it will wait in is known at
//! RCPT. Content streams through `intake::accept` into a draft of the [`store`]; at the final dot the draft is
//! committed, with the envelope and a state per recipient, and when that is synced the client gets its 250. The
//! committed message comes back leased and still in memory; `queue::enqueue` puts it into the link queue of each next
//! hop (mail for groups, contacts and forwards first into the queue `directory`, where `queue::distribution` makes it mail
//! for those who get it), where a worker of [`outbound`] (or [`local`]) takes it, drives `smtp::client` with it (in TLS as
//! `routing::security` says, with content that [`mime`] has changed where the next hop needs that), and
//! reports one result per recipient. `model::failure` says what a failure means, `queue::conclusion` what becomes of the recipient;
//! `queue::outcome` records the new state in one step with the notification it may cause, which goes back into the queue like any
//! mail.
//! Mail that programs submit over REST enters by `intake::submit`, mail from files (pickup, an old mailroot) by [`mailroot`]: both
//! ask `intake` the same questions. What an operator holds back or suspends waits in the queue (`queue::holds`, `queue::suspension`).
//! Each step is an event of message tracking (`queue::track`), which [`sinks`] pass on and [`traces`] are made of; what is wrong
//! [`alerts`] tell, past all of this; what came of TLS is counted ([`tlsrpt`]).
//! Mail that waits to be fetched goes when it is asked for; by ATRN it goes over the connection of who asks, which `inbound`
//! hands through [`queue::turn`] to `outbound`. Mail that we fetch elsewhere comes the same way back.
//!
//! # A change of configuration
//!
//! ```text
//!  api ─▶ config::change ─▶ config::compile ─▶ store::ConfigStore ─▶ config::live ─▶ listeners, sessions, workers
//!         whose, which       all violations     compare and set,      publish the      reconcile; the next MAIL,
//!         generation,        at once            synced, with its      snapshot         the next attempt see it
//!         preflight (bind)                      audit entry
//! ```
//!
//! *Walk along.* `PUT /api/v1/connectors/hub` reaches [`api`], which hands the JSON to `config::change`. It is
//! validated against the schema of the OpenAPI document (every violation with its pointer), compiled together with
//! everything else into a candidate `config::Snapshot`, and tried: can its new bindings be opened? Then it is committed
//! with the revision it was based on, synced, and only then published. `inbound::listener` opens and closes bindings; a
//! session sees the new policy at its next MAIL, never inside a transaction; queued mail that belongs elsewhere now is moved
//! (`queue::rerouting`).
//!
//! Who may change what is asked in `config::plan` too (`config::authority`), so that no way goes past it; REST has asked for the
//! scope of the operation before (`api::access`).
//!
//! A whole document (`POST /config/apply`, the watched directory, `bridgehead check`) walks the same way: `config::document`
//! reads it, `config::apply` says whose it is, and `config::plan`, where one change and a set of them meet, does the rest.
//! `config::history` keeps what it takes to go back.
//!
//! `POST /explain` walks the first way without mail: `intake::explain` asks the same functions for every decision, and
//! `outbound` for the next hops.
//!
//! # Floors
//!
//! A module imports only from lower floors, never from a sibling. `tests/it/shape.rs` checks it.
//!
//! | floor | modules | role |
//! |---|---|---|
//! | 0 | [`smtp`] | the wire language and both session cores; no IO, no clock, no policy |
//! | 1 | [`model`], [`observe`], [`mime`] | configuration and mail as valid values; names of events and metrics; content, and what a next hop needs of it |
//! | 2 | [`net`], [`store`] | clock, resolver, connections, the drivers of both cores; what is kept |
//! | 3 | [`directory`], [`routing`], [`dsn`], [`accounts`] | tables built from `model`, and pure functions over them |
//! | 4 | [`config`] | compiles those tables, publishes them |
//! | 5 | [`queue`], [`status`] | what waits and moves; what is open now |
//! | 6 | [`intake`], [`tlsrpt`] | who may, and taking it; what came of TLS, and telling those whose hosts it was with |
//! | 7 | [`inbound`], [`outbound`], [`local`], [`mailroot`], [`sinks`], [`traces`], [`alerts`] | sockets in, sockets out, mailbox stores, mail from files, who is told what happens, and what is wrong |
//! | 8 | [`api`], [`cli`] | REST; the command line |
//! | 9 | [`boot`] | the only place where parts are put together |
//!
//! # What 250 means
//!
//! The answer 250 after the final dot means **synced**: envelope and content are in the journal, and `fdatasync` of that
//! journal segment has returned, in a group that may hold other messages too. From then on the message survives a
//! killed process, an out-of-memory kill and a power loss on storage that honours fsync. It is delivered, or a
//! notification about it is queued, or it is visible in the dead-letter queue until its retention ends or an operator
//! removes it. The same holds for whatever a person asked for and was answered (freeze, thaw, delete, retry). A plain
//! delivery outcome may lag by 20 ms: what that can cost is a duplicate, never a message. sled follows the journal and
//! can be rebuilt from it at any time. A copy of the running store (`POST /backup`) is one [`store::archive`] with all that was
//! acknowledged before; `bridgehead restore` makes a data directory of it, and `bridgehead doctor` says whether one is whole.

pub mod smtp;

pub mod mime;
pub mod model;
pub mod observe;

pub mod net;
pub mod store;

pub mod accounts;
pub mod directory;
pub mod dsn;
pub mod routing;

pub mod config;

pub mod queue;
pub mod status;

pub mod intake;
pub mod tlsrpt;

pub mod alerts;
pub mod inbound;
pub mod local;
pub mod mailroot;
pub mod outbound;
pub mod sinks;
pub mod traces;

pub mod api;
pub mod cli;

pub mod boot;
