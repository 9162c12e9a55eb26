//! Connections to next hops behind a trait, so that a test can hand out streams of its own.
//!
//! [`TcpConnect`] binds a source address if one is given, sets TCP_NODELAY, and gives up at a time-out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// A stream of octets in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where to connect to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The peer.
    pub address: SocketAddr,
    /// Our address; `None`: the system chooses.
    pub source: Option<IpAddr>,
    /// How long to try.
    pub timeout: Duration,
}

/// A connection that was made.
pub struct Connected {
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub peer: SocketAddr,
}

/// Makes connections.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Connects.
    ///
    /// # Errors
    /// That of the system; [`io::ErrorKind::TimedOut`] after the time-out.
    async fn connect(&self, target: &Target) -> io::Result<Connected>;
}

/// TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnect;

#[async_trait]
impl Connect for TcpConnect {
    async fn connect(&self, target: &Target) -> io::Result<Connected> {
        let stream = tokio::time::timeout(target.timeout, tcp(target))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the connection was not made in time"))??;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        Ok(Connected { stream: Box::new(stream), local, peer })
    }
}

async fn tcp(target: &Target) -> io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = target.source {
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| {
            let words = format!("this machine cannot send from its source address {source}: {error}");
            io::Error::new(io::ErrorKind::AddrNotAvailable, words)
        })?;
    }
    let stream = socket.connect(target.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connects_from_the_source_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            address: listener.local_addr().unwrap(),
            source: Some("127.0.0.2".parse().unwrap()),
            timeout: Duration::from_secs(5),
        };
        let connected = TcpConnect.connect(&target).await.unwrap();
        assert_eq!(connected.local.ip(), target.source.unwrap());
        assert_eq!(connected.peer, target.address);
    }

    #[tokio::test]
    async fn a_source_address_of_another_machine_is_named() {
        let address = "127.0.0.1:9".parse().unwrap();
        let source = Some("192.0.2.77".parse().unwrap());
        let error =
            TcpConnect.connect(&Target { address, source, timeout: Duration::from_secs(5) }).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("192.0.2.77"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let target = Target { address, source: None, timeout: Duration::from_secs(5) };
        assert!(TcpConnect.connect(&target).await.is_err());
    }
}
