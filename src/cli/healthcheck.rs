//! `bridgehead healthcheck`: asks a running appliance how it is, and says so by its exit status: for the `HEALTHCHECK` of
//! the image, where there is no shell and no curl, and for whoever wants to know whether SMTP answers at an address.
//!
//! Without an address it asks the health listener that the environment names, or else the API. It waits for
//! [`PATIENCE`] in all for each address and reads [`MAX_ANSWER`] octets at most ([`MAX_METRICS`] of metrics). What is not a
//! clear yes (no connection, silence, another protocol, any other status) is a no: exit status 1, with the reason on stderr.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

/// Time for one address, from its name to the whole answer. Below the time-out of the image's `HEALTHCHECK`.
const PATIENCE: Duration = Duration::from_secs(4);

/// Most that is read of an answer; only its first line counts.
const MAX_ANSWER: u64 = 4096;

/// Most that is read of metrics.
const MAX_METRICS: u64 = 16 << 20;

/// What metrics say of the watched directory.
const ACCEPTED: &str = "bridgehead_config_accepted ";

/// What is asked, and of whom.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// HOST:PORT of the health or API listener; without one, and without --smtp: the listener of the appliance on this machine.
    #[arg(value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Which question.
    #[arg(long, default_value = "ready")]
    pub probe: Probe,
    /// HOST:PORT where SMTP must greet with 220 (can be given many times).
    #[arg(long, value_name = "ADDRESS")]
    pub smtp: Vec<String>,
    /// The health listener of the appliance on this machine.
    #[arg(long, env = "BRIDGEHEAD_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,
    /// The API listener of the appliance on this machine, asked when it has no health listener.
    #[arg(long, env = "BRIDGEHEAD_API_LISTEN", default_value = "127.0.0.1:8025", value_name = "ADDRESS")]
    pub api_listen: SocketAddr,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Does it take mail?
    Ready,
    /// Does it answer at all?
    Live,
    /// Has it started?
    Startup,
    /// Is what the files of its watched directory say in force? It may be ready with what they said before.
    Configured,
}

impl Healthcheck {
    /// Asks all that was given.
    ///
    /// # Errors
    /// With the first that is not well, and why.
    pub fn run(&self) -> anyhow::Result<()> {
        if self.address.is_some() || self.smtp.is_empty() {
            let address = self.address.clone().unwrap_or_else(|| self.own().to_string());
            http(&address, self.probe).with_context(|| address.clone())?;
        }
        for address in &self.smtp {
            smtp(address).with_context(|| address.clone())?;
        }
        Ok(())
    }

    /// Where the appliance on this machine is asked: a wildcard address is reached on the loopback.
    fn own(&self) -> SocketAddr {
        let mut address = self.health_listen.unwrap_or(self.api_listen);
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        address
    }
}

fn http(address: &str, probe: Probe) -> anyhow::Result<()> {
    let path = match probe {
        Probe::Ready => "/readyz",
        Probe::Live => "/livez",
        Probe::Startup => "/startupz",
        Probe::Configured => "/metrics",
    };
    let mut asked = Asked::connect(address)?;
    // of HTTP/1.0, as its answers come in one piece
    asked.say(&format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))?;
    let (line, rest) = asked.first_line()?;
    let mut words = line.split(' ');
    ensure!(words.next().is_some_and(|version| version.starts_with("HTTP/1.")), "this is not HTTP: {line:?}");
    match words.next() {
        Some("200") if probe == Probe::Configured => configured(&asked.all(rest)?),
        Some("200") => Ok(()),
        _ => bail!("{path} says {line:?}"),
    }
}

fn configured(metrics: &str) -> anyhow::Result<()> {
    match metrics.lines().find_map(|line| line.strip_prefix(ACCEPTED)) {
        Some("1") => Ok(()),
        Some(_) => {
            bail!("what the watched directory says is not in force; its log says why, and so does /api/v1/settings")
        }
        None => bail!("it watches no directory, or has not looked at it yet"),
    }
}

fn smtp(address: &str) -> anyhow::Result<()> {
    let mut asked = Asked::connect(address)?;
    let (line, _) = asked.first_line()?;
    ensure!(line.starts_with("220 ") || line.starts_with("220-"), "SMTP greets with {line:?}");
    // the answer does not matter: it serves
    let _ = asked.say("QUIT\r\n");
    Ok(())
}

/// A connection with one deadline for everything.
struct Asked {
    stream: TcpStream,
    until: Instant,
}

impl Asked {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let until = Instant::now() + PATIENCE;
        let mut error = anyhow::anyhow!("the name has no address");
        for address in address.to_socket_addrs().context("this is no HOST:PORT that leads somewhere")? {
            match remaining(until).and_then(|time| Ok(TcpStream::connect_timeout(&address, time)?)) {
                Ok(stream) => return Ok(Asked { stream, until }),
                Err(why) => error = why,
            }
        }
        Err(error.context("no connection"))
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.stream.set_write_timeout(Some(remaining(self.until)?))?;
        self.stream.write_all(text.as_bytes()).context("the question could not be sent")
    }

    /// The first line of what comes, without its end, and what came behind it.
    fn first_line(&mut self) -> anyhow::Result<(String, Vec<u8>)> {
        let mut heard = Vec::new();
        let mut piece = [0; 512];
        while !heard.contains(&b'\n') && (heard.len() as u64) < MAX_ANSWER {
            self.stream.set_read_timeout(Some(remaining(self.until)?))?;
            match self.stream.read(&mut piece).context("no answer")? {
                0 => break,
                length => heard.extend_from_slice(&piece[..length]),
            }
        }
        let end = heard.iter().position(|octet| *octet == b'\n').context("it ended before a whole line came")?;
        let rest = heard.split_off(end + 1);
        Ok((String::from_utf8_lossy(&heard[..end]).trim_end_matches('\r').to_owned(), rest))
    }

    /// All that comes until the end.
    fn all(&mut self, mut heard: Vec<u8>) -> anyhow::Result<String> {
        let mut piece = [0; 16 << 10];
        loop {
            self.stream.set_read_timeout(Some(remaining(self.until)?))?;
            match self.stream.read(&mut piece).context("the answer does not end")? {
                0 => return Ok(String::from_utf8_lossy(&heard).into_owned()),
                length => heard.extend_from_slice(&piece[..length]),
            }
            ensure!((heard.len() as u64) < MAX_METRICS, "the answer has more than {MAX_METRICS} octets");
        }
    }
}

/// What is left until then; zero would mean no time-out at all.
fn remaining(until: Instant) -> anyhow::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "no answer in {} s", PATIENCE.as_secs());
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Answers one connection, and gives what it was told.
    fn answering(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            heard
        });
        (address, served)
    }

    fn asking(address: Option<String>, smtp: Vec<String>, health: Option<&str>) -> Healthcheck {
        Healthcheck {
            address,
            probe: Probe::Ready,
            smtp,
            health_listen: health.map(|address| address.parse().unwrap()),
            api_listen: "127.0.0.1:8025".parse().unwrap(),
        }
    }

    #[test]
    fn only_200_is_a_yes() {
        let (address, served) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        asking(Some(address), Vec::new(), None).run().unwrap();
        assert!(served.join().unwrap().starts_with("GET /readyz HTTP/1.0\r\n"));
        for answer in
            ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "220 mail ESMTP\r\n", "HTTP/1.1 2000\r\n", "HTTP/1.1 200", ""]
        {
            let (address, served) = answering(answer);
            assert!(asking(Some(address), Vec::new(), None).run().is_err(), "{answer:?}");
            served.join().unwrap();
        }
    }

    #[test]
    fn files_that_are_not_in_force_are_a_no() {
        for (answer, said) in [
            ("HTTP/1.1 200 OK\r\n\r\nup 1\nbridgehead_config_accepted 1\n", ""),
            ("HTTP/1.1 200 OK\r\n\r\nup 1\nbridgehead_config_accepted 0\n", "not in force"),
            ("HTTP/1.1 200 OK\r\n\r\nup 1\n", "watches no directory"),
            ("HTTP/1.1 503 Unavailable\r\n\r\nbridgehead_config_accepted 1\n", "/metrics says"),
        ] {
            let (address, served) = answering(answer);
            let told = Healthcheck { probe: Probe::Configured, ..asking(Some(address), Vec::new(), None) }.run();
            let told = told.err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(if said.is_empty() { told.is_empty() } else { told.contains(said) }, "{answer:?}: {told:?}");
            assert!(served.join().unwrap().starts_with("GET /metrics "));
        }
    }

    #[test]
    fn smtp_must_greet() {
        for (answer, well) in [
            ("220 mail ESMTP\r\n", true),
            ("220-mail\r\n220 ESMTP\r\n", true),
            ("421 busy\r\n", false),
            ("2200\r\n", false),
        ] {
            let (address, served) = answering(answer);
            assert_eq!(asking(None, vec![address], None).run().is_ok(), well, "{answer:?}");
            assert_eq!(served.join().unwrap().contains("QUIT"), well);
        }
    }

    #[test]
    fn nobody_there_is_a_no() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert!(asking(Some(gone), Vec::new(), None).run().is_err());
        assert!(asking(Some("no port".to_owned()), Vec::new(), None).run().is_err());
    }

    #[test]
    fn the_own_listener_is_reached_on_the_loopback() {
        assert_eq!(asking(None, Vec::new(), Some("0.0.0.0:8026")).own().to_string(), "127.0.0.1:8026");
        assert_eq!(asking(None, Vec::new(), Some("[::]:8026")).own().to_string(), "[::1]:8026");
        assert_eq!(asking(None, Vec::new(), Some("10.0.0.7:8026")).own().to_string(), "10.0.0.7:8026");
        assert_eq!(asking(None, Vec::new(), None).own().to_string(), "127.0.0.1:8025");
    }
}
