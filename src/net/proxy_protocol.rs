//! The header by which a proxy or load balancer tells who its client is (PROXY protocol, versions 1 and 2).
//!
//! The caller decides whose header is believed; here it is only read. Exactly the header is taken from the stream, so that
//! what follows it (a TLS hello, an early talker) is found where it belongs. A header is at most 107 octets in version 1 and
//! 16 + 2,048 in version 2; whoever sends something else, or nothing in time, is no proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How long a proxy may take for its header.
pub const LIMIT: Duration = Duration::from_secs(5);
const LONGEST_V1: usize = 107;
const LONGEST_V2_REST: usize = 2_048;
/// Signature, version and command, family and protocol, length of the rest.
const HEAD_OF_V2: usize = 16;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Nothing, or not all of it, in time.
    #[error("no PROXY header within {} s", LIMIT.as_secs())]
    TimedOut,
    /// What came is none.
    #[error("what the proxy sent is no PROXY header")]
    NotAHeader,
    /// The connection broke.
    #[error("the connection ended in the PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header. `None`: the proxy speaks for itself (`LOCAL`, `UNKNOWN`: a health check), so the peer is the client.
///
/// # Errors
/// When there is none; the connection is of no use then.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    tokio::time::timeout(LIMIT, header(stream)).await.unwrap_or(Err(ProxyError::TimedOut))
}

async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    let mut octets = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut octets).await?;
    if octets == v2::PROTOCOL_PREFIX { second(stream, octets).await } else { first(stream, octets).await }
}

async fn first<S: AsyncRead + Unpin>(stream: &mut S, mut line: Vec<u8>) -> Result<Option<SocketAddr>, ProxyError> {
    if !line.starts_with(b"PROXY ") {
        return Err(ProxyError::NotAHeader);
    }
    // octet by octet, so that nothing behind the line is taken
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_V1 {
            return Err(ProxyError::NotAHeader);
        }
        line.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(line.as_slice()).map_err(|_| ProxyError::NotAHeader)?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(tcp) => Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port)),
        v1::Addresses::Tcp6(tcp) => Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port)),
    })
}

async fn second<S: AsyncRead + Unpin>(stream: &mut S, mut octets: Vec<u8>) -> Result<Option<SocketAddr>, ProxyError> {
    octets.resize(HEAD_OF_V2, 0);
    stream.read_exact(&mut octets[v2::PROTOCOL_PREFIX.len()..]).await?;
    let rest = usize::from(u16::from_be_bytes([octets[14], octets[15]]));
    if rest > LONGEST_V2_REST {
        return Err(ProxyError::NotAHeader);
    }
    octets.resize(HEAD_OF_V2 + rest, 0);
    stream.read_exact(&mut octets[HEAD_OF_V2..]).await?;
    let header = v2::Header::try_from(octets.as_slice()).map_err(|_| ProxyError::NotAHeader)?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    match (header.protocol, header.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(tcp)) => {
            Ok(Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port)))
        }
        (v2::Protocol::Stream, v2::Addresses::IPv6(tcp)) => {
            Ok(Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port)))
        }
        (_, v2::Addresses::Unspecified) => Ok(None),
        _ => Err(ProxyError::NotAHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(octets: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
        let mut rest = octets;
        let found = read_header(&mut rest).await;
        (found, rest.to_vec())
    }

    fn second(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut octets = v2::PROTOCOL_PREFIX.to_vec();
        octets.extend([0x20 | command, family]);
        octets.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        octets.extend(addresses);
        octets
    }

    #[tokio::test]
    async fn both_versions_are_read_and_nothing_behind_them() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x1f, 0x90, 0, 25];
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (1, 7);
        let unix = [0; 216];
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 8080 25\r\n".to_vec(), Some("192.0.2.1:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 25\r\n".to_vec(), Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (second(1, 0x11, &v4), Some("192.0.2.1:8080")),
            (second(1, 0x11, &[v4.as_slice(), &[3, 0, 1, 0]].concat()), Some("192.0.2.1:8080")),
            (second(1, 0x21, &v6), Some("[::1]:7")),
            (second(0, 0, &[]), None),
            (second(0, 0x11, &v4), None),
            (second(1, 0, &[]), None),
        ] {
            let (found, rest) = read(&[header.as_slice(), b"EHLO x\r\n"].concat()).await;
            assert_eq!(found.unwrap(), expected.map(|text| text.parse().unwrap()), "{header:?}");
            assert_eq!(rest, b"EHLO x\r\n", "{header:?}");
        }
        for header in [
            b"EHLO client.example\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.999 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 70000\r\n".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
            second(1, 0x11, &v4[..4]),
            second(1, 0x31, &unix),
            second(1, 0x12, &v4),
            second(2, 0x11, &v4),
            second(1, 0x11, &[0; 4_000]),
        ] {
            assert!(matches!(read(&header).await.0, Err(ProxyError::NotAHeader)), "{header:?}");
        }
    }

    #[tokio::test]
    async fn every_cut_of_a_header_is_an_error() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x1f, 0x90, 0, 25];
        for header in [b"PROXY TCP4 192.0.2.1 198.51.100.1 8080 25\r\n".to_vec(), second(1, 0x11, &v4)] {
            for end in 0..header.len() {
                assert!(matches!(read(&header[..end]).await.0, Err(ProxyError::Io(_))), "{end}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_proxy_is_not_waited_for() {
        let (_client, mut server) = tokio::io::duplex(64);
        assert!(matches!(read_header(&mut server).await, Err(ProxyError::TimedOut)));
    }
}
