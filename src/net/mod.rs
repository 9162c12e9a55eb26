//! The network behind small traits: clock, resolver, connect; and the drivers that carry octets between a
//! stream and the session cores of [`crate::smtp`].

pub mod client_driver;
pub mod clock;
pub mod connect;
pub mod dns_list;
pub mod proxy_protocol;
pub mod resolver;
pub mod resolvers;
pub mod server_driver;
pub mod stream;
