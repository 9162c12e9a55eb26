//! A next hop that answers as a script says, and keeps who came and what was said.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::appliance::{PATIENCE, next_line};

/// The reply to a line, where it is not the usual one: from the number of the connection (from 0), that of the messages that it
/// has taken, and the line. After 421 the hop closes.
pub type Script = fn(usize, usize, &str) -> Option<&'static str>;

/// See above.
pub struct Hop {
    /// Where it listens.
    pub address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
}

/// What a hop has seen.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Who came, connection by connection.
    pub clients: Vec<IpAddr>,
    /// The lines of all connections, but content.
    pub lines: Vec<String>,
    /// The recipients of each message that was taken, and when.
    pub taken: Vec<(Vec<String>, Instant)>,
}

impl Ledger {
    /// How many lines begin so.
    pub fn count(&self, begin: &str) -> usize {
        self.lines.iter().filter(|line| line.starts_with(begin)).count()
    }
}

impl Hop {
    /// On a loopback address and a port of its own.
    pub fn up(script: Script) -> Hop {
        Hop::at("127.0.0.1:0", script)
    }

    /// On this address.
    pub fn at(address: &str, script: Script) -> Hop {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let seen = ledger.clone();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let seen = seen.clone();
                seen.lock().unwrap().clients.push(stream.peer_addr().unwrap().ip());
                thread::spawn(move || drop(serve(number, &stream, &seen, script)));
            }
        });
        Hop { address, ledger }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Ledger {
        self.ledger.lock().unwrap().clone()
    }
}

fn serve(number: usize, stream: &TcpStream, ledger: &Mutex<Ledger>, script: Script) -> Result<(), String> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut input = BufReader::new(stream);
    let mut output = stream;
    let (mut to, mut taken) = (Vec::new(), 0);
    let mut say = |text: &str| output.write_all(format!("{text}\r\n").as_bytes()).map_err(|error| error.to_string());
    let banner = script(number, 0, "").unwrap_or("220 hop.example ESMTP");
    say(banner)?;
    if banner.starts_with("421") {
        return Ok(());
    }
    while let Some(line) = next_line(&mut input)? {
        let line = String::from_utf8_lossy(&line).into_owned();
        ledger.lock().unwrap().lines.push(line.clone());
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let mut reply = script(number, taken, &line).unwrap_or(match verb.as_str() {
            "EHLO" => "250-hop.example\r\n250 ENHANCEDSTATUSCODES",
            "DATA" => "354 go ahead",
            "QUIT" => "221 2.0.0 bye",
            _ => "250 2.0.0 ok",
        });
        if verb == "MAIL" {
            to.clear();
        }
        if verb == "RCPT" && reply.starts_with('2') {
            to.push(line.clone());
        }
        if reply.starts_with("354") {
            say(reply)?;
            while next_line(&mut input)?.ok_or("the end of the stream in the content")? != b"." {}
            reply = script(number, taken, ".").unwrap_or("250 2.0.0 taken");
            if reply.starts_with('2') {
                taken += 1;
                ledger.lock().unwrap().taken.push((std::mem::take(&mut to), Instant::now()));
            }
        }
        say(reply)?;
        if reply.starts_with("221") || reply.starts_with("421") {
            return Ok(());
        }
    }
    Ok(())
}
