//! A connection to whichever of a host's addresses answers first (RFC 8305 in spirit), from the addresses that are ours to use.
//!
//! The next address is tried when the one before has failed, or has been silent for a quarter of a second; the first that
//! connects wins and the others are given up. So an address that swallows packets costs little, and one that is only slower
//! is not preferred to one that stands before it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::connect::{Connect, Connected, Target};

/// How long one address is waited for alone (RFC 8305, section 8: 250 ms).
const ALONE: Duration = Duration::from_millis(250);

/// An address that may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The peer.
    pub address: SocketAddr,
    /// Our addresses, in the order in which they are used: the next one only when this machine does not have the one before.
    /// Empty: the system chooses.
    pub sources: Vec<IpAddr>,
}

/// The race is decided.
pub struct Won {
    /// Which of the candidates it is.
    pub at: usize,
    /// The connection.
    pub connected: Connected,
    /// Those that failed before.
    pub failed: Vec<usize>,
}

/// Connects to one of the candidates; `timeout` is how long each is tried.
///
/// # Errors
/// That of the last one to fail, when all have; [`io::ErrorKind::AddrNotAvailable`] without candidates.
pub async fn first_to_connect(
    connect: &dyn Connect,
    candidates: &[Candidate],
    timeout: Duration,
) -> Result<Won, io::Error> {
    let mut waiting = candidates.iter().enumerate();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let begin = |(at, candidate)| async move { (at, connect_from(connect, candidate, timeout).await) };
    running.extend(waiting.next().map(begin));
    while !running.is_empty() {
        tokio::select! {
            Some((at, result)) = running.next() => match result {
                Ok(connected) => return Ok(Won { at, connected, failed }),
                Err(error) => {
                    failed.push(at);
                    last = error;
                    running.extend(waiting.next().map(begin));
                }
            },
            () = tokio::time::sleep(ALONE), if waiting.len() > 0 => running.extend(waiting.next().map(begin)),
        }
    }
    Err(last)
}

/// Connects to one candidate.
///
/// # Errors
/// Those of [`Connect::connect`].
pub async fn connect_from(connect: &dyn Connect, candidate: &Candidate, timeout: Duration) -> io::Result<Connected> {
    let target = |source| Target { address: candidate.address, source, timeout };
    let mut last = None;
    for source in &candidate.sources {
        match connect.connect(&target(Some(*source))).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::warn!(source = %source, error = %error, "a source address cannot be used");
                last = Some(error);
            }
            result => return result,
        }
    }
    match last {
        Some(error) => Err(error),
        None => connect.connect(&target(None)).await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    /// What an address does, and after how many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Connects(u64),
        Fails(u64),
        Nothing,
    }

    #[derive(Default)]
    struct Scripted {
        by_port: HashMap<u16, Does>,
        has: Vec<IpAddr>,
        asked: Mutex<Vec<(u16, Option<IpAddr>)>>,
    }

    #[async_trait]
    impl Connect for Scripted {
        async fn connect(&self, target: &Target) -> io::Result<Connected> {
            self.asked.lock().unwrap().push((target.address.port(), target.source));
            if target.source.is_some_and(|source| !self.has.contains(&source)) {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            let after = |millis| tokio::time::sleep(Duration::from_millis(millis));
            match self.by_port[&target.address.port()] {
                Does::Connects(millis) => after(millis).await,
                Does::Fails(millis) => {
                    after(millis).await;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Does::Nothing => {
                    tokio::time::sleep(target.timeout).await;
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            let (stream, _) = tokio::io::duplex(16);
            Ok(Connected { stream: Box::new(stream), local: target.address, peer: target.address })
        }
    }

    fn candidates(count: u16) -> Vec<Candidate> {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (0..count).map(|port| Candidate { address: address(port), sources: Vec::new() }).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_connects_wins_and_a_dead_one_costs_a_quarter_of_a_second() {
        use Does::{Connects, Fails, Nothing};
        // which wins, when, who failed before, how many were tried
        for (does, expected) in [
            (vec![Connects(10), Connects(1)], (Some(0), 10, vec![], 1)),
            (vec![Nothing, Connects(10)], (Some(1), 260, vec![], 2)),
            (vec![Fails(5), Connects(10)], (Some(1), 15, vec![0], 2)),
            (vec![Connects(400), Connects(100)], (Some(1), 350, vec![], 2)),
            (vec![Connects(300), Connects(100)], (Some(0), 300, vec![], 2)),
            (vec![Nothing, Nothing, Nothing, Nothing, Connects(0)], (Some(4), 1_000, vec![], 5)),
            (vec![Fails(5), Fails(5)], (None, 10, vec![], 2)),
            (vec![Nothing, Fails(5)], (None, 30_000, vec![], 2)),
            (vec![], (None, 0, vec![], 0)),
        ] {
            let count = does.len();
            let scripted = Scripted { by_port: (0..).zip(does).collect(), ..Scripted::default() };
            let start = tokio::time::Instant::now();
            let list = candidates(u16::try_from(count).unwrap());
            let result = first_to_connect(&scripted, &list, Duration::from_secs(30)).await;
            let took = start.elapsed().as_millis();
            let (at, failed) = result.map_or((None, vec![]), |won| (Some(won.at), won.failed));
            let tried = scripted.asked.lock().unwrap().len();
            assert_eq!((at, took, failed, tried), expected, "{count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_this_machine_does_not_have_is_passed_over_and_never_left_to_the_system() {
        let [gone, here]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let by_port = HashMap::from([(0, Does::Connects(0))]);
        let scripted = Scripted { by_port, has: vec![here], ..Scripted::default() };
        let mut candidate = candidates(1).remove(0);
        candidate.sources = vec![gone, here];
        assert!(connect_from(&scripted, &candidate, ALONE).await.is_ok());
        candidate.sources = vec![gone];
        let error = connect_from(&scripted, &candidate, ALONE).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(*scripted.asked.lock().unwrap(), [(0, Some(gone)), (0, Some(here)), (0, Some(gone))]);
    }
}
