//! The way of an alert: lettre's SMTP client, straight to the smart host, past the queue and everything that mail goes through.
//!
//! TLS is ours (`net::tls`), so that one place says whom we trust. lettre sees a stream of octets that carries no more of what a
//! host says than [`MOST_HEARD`]. At STARTTLS (RFC 3207) what was heard in clear goes with lettre's session, and a new one begins in
//! TLS. All of it ends within [`LIMIT`].

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use lettre::Address;
use lettre::address::Envelope;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::Starttls;
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Deliver;
use super::mail::Letter;
use crate::config::watching::AlertMail;
use crate::model::host::Host;
use crate::model::spec::watching::AlertTls;
use crate::net::connect::{Connected, Stream, TcpConnect};
use crate::net::race::{Candidate, first_to_connect};
use crate::net::resolver::Resolvers;
use crate::net::tls::client::{Check, Handshake, server_name};

/// How long a message may take, from looking the host up to its last reply.
const LIMIT: Duration = Duration::from_secs(45);
/// How long each address of the host is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long the end of a session may take, when the message is taken.
const QUIT_LIMIT: Duration = Duration::from_secs(2);
/// Most addresses of the host that are tried.
const MOST_ADDRESSES: usize = 5;
/// Octets of a host's replies in one session. lettre reads a reply anew with each of its lines, so that a long one costs its
/// square.
const MOST_HEARD: usize = 16 << 10;
/// lettre waits for a greeting, and after STARTTLS there is none: this one is ours.
const NO_GREETING: &[u8] = b"220 in TLS\r\n";
/// Most characters of why it failed.
const MOST_WORDS: usize = 300;

/// Sends directly.
pub struct Direct {
    resolvers: Arc<Resolvers>,
    limit: Duration,
}

impl Direct {
    /// With these to look the host up.
    pub fn new(resolvers: Arc<Resolvers>) -> Self {
        Direct { resolvers, limit: LIMIT }
    }
}

#[async_trait]
impl Deliver for Direct {
    async fn deliver(&self, way: &AlertMail, letter: &Letter, recipient: &str) -> Result<(), String> {
        let done = tokio::time::timeout(self.limit, self.hand_over(way, letter, recipient)).await;
        let done = done.unwrap_or_else(|_| Err(format!("it took longer than {} s", self.limit.as_secs())));
        done.map_err(|why| {
            let cleaned = why.chars().map(|c| if c.is_control() { ' ' } else { c });
            format!("{}:{}: {}", way.host.host, way.host.port, cleaned.take(MOST_WORDS).collect::<String>())
        })
    }
}

impl Direct {
    async fn hand_over(&self, way: &AlertMail, letter: &Letter, recipient: &str) -> Result<(), String> {
        let address = |text: &str| text.parse::<Address>().map_err(|error| format!("{text}: {error}"));
        let envelope = Envelope::new(Some(address(&letter.from)?), vec![address(recipient)?]);
        let envelope = envelope.map_err(|error| error.to_string())?;
        let us = ClientId::Domain(letter.host.clone());
        let connected = self.connect(way).await?;
        let peer = connected.peer;
        let mut session = match way.host.tls {
            AlertTls::None => greet(Wire::new(connected.stream, peer, b""), &us).await?,
            AlertTls::Implicit => greet(in_tls(way, connected.stream, peer, b"").await?, &us).await?,
            AlertTls::Starttls => {
                let clear = Wire::new(connected.stream, peer, b"");
                let mut session = greet(clear.clone(), &us).await?;
                if !session.can_starttls() {
                    return Err("the host does not offer STARTTLS (settings.alerts.smartHost.tls)".to_owned());
                }
                session.command(Starttls).await.map_err(|error| words(&error))?;
                let stream = clear.take().ok_or("the connection is gone")?;
                // what the host has said beyond its reply goes with the session
                drop(session);
                greet(in_tls(way, stream, peer, NO_GREETING).await?, &us).await?
            }
        };
        if let (Some(username), Some(password)) = (&way.host.username, &way.password) {
            let password = password.as_ref().map_err(|why| format!("there is no password: {why}"))?;
            if way.host.tls == AlertTls::None && !peer.ip().to_canonical().is_loopback() {
                return Err("a password is not sent in clear to another machine".to_owned());
            }
            let credentials = Credentials::new(username.as_str().to_owned(), password.reveal().to_owned());
            let logged_in = session.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
            logged_in.map_err(|error| format!("it does not let us log in: {}", words(&error)))?;
        }
        session.send(&envelope, &letter.content).await.map_err(|error| words(&error))?;
        // it is taken, whatever comes of the goodbye
        let _ = tokio::time::timeout(QUIT_LIMIT, session.quit()).await;
        Ok(())
    }

    async fn connect(&self, way: &AlertMail) -> Result<Connected, String> {
        let addresses = match &way.host.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let resolver = self.resolvers.of(&[]).map_err(|error| error.to_string())?;
                resolver.addresses(name.as_str()).await.map_err(|error| format!("it cannot be looked up: {error}"))?
            }
        };
        let candidate = |address| Candidate { address: SocketAddr::new(address, way.host.port), sources: Vec::new() };
        let candidates: Vec<Candidate> = addresses.into_iter().take(MOST_ADDRESSES).map(candidate).collect();
        let won = first_to_connect(&TcpConnect, &candidates, CONNECT_LIMIT).await;
        won.map(|won| won.connected).map_err(|error| format!("no connection: {error}"))
    }
}

async fn greet(wire: Wire, us: &ClientId) -> Result<AsyncSmtpConnection, String> {
    AsyncSmtpConnection::connect_with_transport(Box::new(wire), us).await.map_err(|error| words(&error))
}

async fn in_tls(
    way: &AlertMail,
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    greeting: &'static [u8],
) -> Result<Wire, String> {
    let host = way.host.host.to_string();
    let name = server_name(&host).ok_or_else(|| format!("no certificate can be for {host}"))?;
    let tls = way.tls.clone()?;
    let handshake = Handshake { tls, name, check: Check::Name };
    let (stream, _) = handshake.run(stream).await.map_err(|fault| format!("TLS: {}", fault.words))?;
    Ok(Wire::new(Box::new(stream), peer, greeting))
}

/// An error with what caused it.
fn words(error: &lettre::transport::smtp::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words
}

/// A stream as lettre wants it, which can be taken back, and which carries only so much of what the other side says.
#[derive(Clone)]
struct Wire(Arc<Mutex<Ends>>);

struct Ends {
    stream: Option<Box<dyn Stream>>,
    peer: SocketAddr,
    greeting: &'static [u8],
    left: usize,
}

impl Wire {
    fn new(stream: Box<dyn Stream>, peer: SocketAddr, greeting: &'static [u8]) -> Self {
        Wire(Arc::new(Mutex::new(Ends { stream: Some(stream), peer, greeting, left: MOST_HEARD })))
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Box<dyn Stream>> {
        self.ends().stream.take()
    }

    fn write<T>(&self, write: impl FnOnce(Pin<&mut dyn Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.ends().stream {
            Some(stream) => write(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.ends().peer)
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.ends().peer)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        let Ends { stream, greeting, left, .. } = &mut *ends;
        if !greeting.is_empty() {
            let (now, later) = greeting.split_at(greeting.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *greeting = later;
            return Poll::Ready(Ok(()));
        }
        if *left == 0 {
            let words = format!("the host said more than {} KiB", MOST_HEARD >> 10);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
        }
        let Some(stream) = stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        *left = left.saturating_sub(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(context, octets))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|stream| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::alerts::tests::way;

    /// What it is told when a host says this, again and again, to whoever comes.
    async fn told(says: &'static [u8], pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(says).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        });
        let way = way(json!({"smartHost": {"host": "127.0.0.1", "port": port, "tls": "none"}}));
        let direct = Direct { limit: Duration::from_secs(2), ..Direct::new(Arc::default()) };
        let letter = Letter { host: "us.example".into(), from: "a@us.example".into(), content: b"x\r\n".to_vec() };
        let result = direct.deliver(&way, &letter, "ops@us.example").await;
        host.abort();
        result.unwrap_err()
    }

    #[tokio::test]
    async fn a_host_that_says_too_much_or_takes_its_time_is_left() {
        let endless = told(&[b'a'; 8 << 10], Duration::ZERO).await;
        assert!(endless.contains("more than 16 KiB"), "{endless}");
        let lines = told(b"220-a line\r\n".repeat(1_000).leak(), Duration::ZERO).await;
        assert!(lines.contains("more than 16 KiB"), "{lines}");
        let slow = told(b"2", Duration::from_millis(50)).await;
        assert!(slow.contains("longer than 2 s"), "{slow}");
        let garbage = told(b"\x00\xff\r\n", Duration::from_secs(60)).await;
        assert!(garbage.starts_with("127.0.0.1:") && !garbage.contains("longer"), "{garbage}");
        let refused = told(b"554 5.7.1 not\x1b[31m you\r\n", Duration::from_secs(60)).await;
        assert!(refused.contains("5.7.1 not [31m you"), "{refused}");
    }

    #[tokio::test]
    async fn what_is_said_behind_starttls_in_clear_is_not_heard_and_no_tls_is_no_mail() {
        for offers in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                let mut buffer = [0; 1024];
                stream.write_all(b"220 hop\r\n").await.unwrap();
                heard.push(stream.read(&mut buffer).await.unwrap());
                let answer: &[u8] = if offers { b"250-hop\r\n250 STARTTLS\r\n" } else { b"250 hop\r\n" };
                stream.write_all(answer).await.unwrap();
                heard.push(stream.read(&mut buffer).await.unwrap());
                // no TLS, but all that a session needs
                let _ = stream.write_all(b"220 go\r\n220 x\r\n250 x\r\n250 x\r\n250 x\r\n354 x\r\n250 x\r\n").await;
                let mut rest = vec![0; 4096];
                let length = stream.read(&mut rest).await.unwrap_or_default();
                rest.truncate(length);
                rest
            });
            let way = way(json!({"smartHost": {"host": "127.0.0.1", "port": port}}));
            let direct = Direct { limit: Duration::from_secs(5), ..Direct::new(Arc::default()) };
            let letter = Letter { host: "us.example".into(), from: "a@us.example".into(), content: b"x\r\n".to_vec() };
            let why = direct.deliver(&way, &letter, "ops@us.example").await.unwrap_err();
            assert!(why.contains(if offers { "TLS" } else { "does not offer STARTTLS" }), "{why}");
            let rest = host.await.unwrap();
            assert!(!rest.windows(4).any(|four| four == b"MAIL"), "{offers}: {:?}", String::from_utf8_lossy(&rest));
        }
    }
}
