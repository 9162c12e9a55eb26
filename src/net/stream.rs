//! A connection in clear or in TLS, and the server's side of one: in TLS from the beginning or from STARTTLS on.
//!
//! A handshake that fails leaves a stream of no more use: nothing goes on in clear behind it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::server_driver::ServerStream;
use super::tls::{Secured, ServerTls};

/// A stream that is in clear, and may become TLS.
pub enum MaybeTls<S> {
    /// In clear.
    Clear(S),
    /// In TLS, whichever side of it is ours.
    Tls(Box<tokio_rustls::TlsStream<S>>),
    /// A handshake failed, or is under way.
    Gone,
}

impl<S> MaybeTls<S> {
    /// The stream in clear, for a handshake: until one has succeeded, nothing is here.
    ///
    /// # Errors
    /// When it is not in clear any more.
    pub fn take_clear(&mut self) -> io::Result<S> {
        match std::mem::replace(self, MaybeTls::Gone) {
            MaybeTls::Clear(stream) => Ok(stream),
            MaybeTls::Tls(_) | MaybeTls::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            MaybeTls::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            MaybeTls::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            MaybeTls::Clear(stream) => Pin::new(stream).poll_write(cx, octets),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
            MaybeTls::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            MaybeTls::Clear(stream) => Pin::new(stream).poll_flush(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_flush(cx),
            MaybeTls::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            MaybeTls::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTls::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// A stream that a client opened.
pub struct Accepted<S = TcpStream> {
    stream: MaybeTls<S>,
    tls: Option<Arc<ServerTls>>,
}

impl<S> Accepted<S> {
    /// In clear; `tls` is what TLS is begun with, if it is.
    pub fn new(stream: S, tls: Option<Arc<ServerTls>>) -> Self {
        Accepted { stream: MaybeTls::Clear(stream), tls }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ServerStream for Accepted<S> {
    async fn start_tls(&mut self) -> io::Result<Secured> {
        let tls = self.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
        let (stream, secured) = tls.accept(self.stream.take_clear()?).await?;
        self.stream = MaybeTls::Tls(Box::new(stream.into()));
        Ok(secured)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
