//! The server's side of a connection: in clear, or in TLS from the beginning or from STARTTLS on.
//!
//! A handshake that fails leaves a stream of no more use: nothing goes on in clear behind it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::server_driver::ServerStream;

/// What is known of a connection's TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// `TLSv1.3`, `TLSv1.2`.
    pub version: String,
    /// The cipher suite, by its IANA name.
    pub cipher: String,
    /// The host name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// SHA-256 of the client's certificate, which was verified, in hexadecimal.
    pub client_certificate: Option<String>,
    /// The channel binding `tls-exporter` (RFC 9266); TLS 1.3 only.
    pub exporter: Option<Vec<u8>>,
}

/// A stream that a client opened.
pub struct Accepted {
    stream: Stream,
    config: Option<Arc<ServerConfig>>,
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed, or is under way.
    Gone,
}

impl Accepted {
    /// In clear; `config` is what TLS is begun with, if it is.
    pub fn new(stream: TcpStream, config: Option<Arc<ServerConfig>>) -> Self {
        Accepted { stream: Stream::Clear(stream), config }
    }
}

impl ServerStream for Accepted {
    async fn start_tls(&mut self) -> io::Result<TlsFacts> {
        let config = self.config.clone().ok_or(io::ErrorKind::Unsupported)?;
        let Stream::Clear(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let facts = facts(&stream);
        self.stream = Stream::Tls(Box::new(stream));
        Ok(facts)
    }
}

fn facts(stream: &TlsStream<TcpStream>) -> TlsFacts {
    let (_, connection) = stream.get_ref();
    let version = connection.protocol_version();
    let exporter = version
        .filter(|version| *version == rustls::ProtocolVersion::TLSv1_3)
        .and_then(|_| connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(&[])).ok());
    TlsFacts {
        version: version.and_then(|version| version.as_str()).unwrap_or("TLS").replace('_', "."),
        cipher: connection.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        server_name: connection.server_name().map(str::to_owned),
        client_certificate: None,
        exporter,
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_write(cx, octets),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}
