//! The network behind small traits: clock, resolver, connect; TLS and the PROXY header of connections that come in; and
//! the drivers that carry octets between a stream and the session cores of [`crate::smtp`].

pub mod client_driver;
pub mod clock;
pub mod connect;
pub mod dns_list;
pub mod http;
pub mod local_socket;
pub mod mta_sts;
pub mod oauth;
pub mod post;
pub mod proxy_protocol;
pub mod race;
pub mod resolver;
pub mod server_driver;
pub mod signature;
pub mod stream;
pub mod tls;
pub mod transcript;
