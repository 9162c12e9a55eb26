//! A small name server for tests: a few names by script, NXDOMAIN for the rest.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// Types of records (RFC 1035, 3.2.2).
const A: u8 = 1;
const PTR: u8 = 12;
const TXT: u8 = 16;

/// What a name server says of a name.
#[derive(Clone, Copy)]
pub enum Says {
    /// It has this address.
    Address([u8; 4]),
    /// It stands for this name: what a reverse name does.
    Name(&'static str),
    /// It has this text, of at most 255 octets.
    Text(&'static str),
    /// SERVFAIL.
    ServFail,
}

/// A name server that knows a few names and says NXDOMAIN to the rest. Its thread lasts as long as the test run.
pub struct Dns {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    /// One that knows these names.
    pub fn start(names: &[(&str, Says)]) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names: Vec<(String, Says)> = names.iter().map(|(name, says)| ((*name).to_owned(), *says)).collect();
        let log = asked.clone();
        thread::spawn(move || {
            let mut octets = [0; 2048];
            while let Ok((length, client)) = socket.recv_from(&mut octets) {
                let (name, end) = question(&octets[..length]);
                let says = names.iter().find(|(known, _)| *known == name).map(|(_, says)| *says);
                log.lock().unwrap().push(name);
                let _ = socket.send_to(&reply(&octets[..end], says), client);
            }
        });
        Dns { address, asked }
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }
}

/// Id, flags and counts, then the question as it came, then a record if there is one of the type that is asked for (RFC
/// 1035, 4.1).
fn reply(request: &[u8], says: Option<Says>) -> Vec<u8> {
    let wanted = request[request.len() - 3];
    let (code, record) = match says {
        Some(Says::Address(address)) => (0, (wanted == A).then(|| (A, address.to_vec()))),
        Some(Says::Name(name)) => (0, (wanted == PTR).then(|| (PTR, wire(name)))),
        Some(Says::Text(text)) => {
            let data = std::iter::once(u8::try_from(text.len()).unwrap()).chain(text.bytes()).collect();
            (0, (wanted == TXT).then_some((TXT, data)))
        }
        Some(Says::ServFail) => (2, None),
        None => (3, None),
    };
    let mut reply = request[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    reply.extend_from_slice(&request[12..]);
    if let Some((kind, data)) = record {
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
        reply.extend(data);
    }
    reply
}

/// The name that is asked for, and where the question ends.
fn question(octets: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while octets[at] != 0 {
        let end = at + 1 + usize::from(octets[at]);
        labels.push(String::from_utf8_lossy(&octets[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), at + 5)
}

/// The name as labels with their lengths.
fn wire(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets
}
