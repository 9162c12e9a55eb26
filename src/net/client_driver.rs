//! Carries octets between a stream and a client session core, and mail from a [`Work`] to it.
//!
//! Guarantees: each transaction that [`Work::next`] hands out gets exactly one [`Work::finished`], in order,
//! also when the connection breaks or never carried it. Every wait has the deadline of its phase, a TLS handshake
//! [`HANDSHAKE_LIMIT`] at most.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::clock::Clock;
use super::server_driver::HANDSHAKE_LIMIT;
use super::stream::MaybeTls;
use super::tls::client::{Agreed, Handshake};
use super::transcript::Transcript;
use crate::smtp::client::{
    Cause, OpenError, Phase, RecipientResult, RemoteReply, Session, Settings, Step, Transaction,
};
use crate::smtp::extension::PeerExtensions;

/// Where the mail for a connection comes from.
pub trait Work: Send {
    /// The next transaction for this connection, or `None` when there is no more.
    ///
    /// With `wait` false only if it is there at once: it will be pipelined behind the dot, while the content
    /// before it is still unanswered. With `wait` true the implementor decides how long an idle connection
    /// is kept; the driver drops the future when the peer closes meanwhile, so it must be cancel-safe: what
    /// it has taken out, it must hand out.
    fn next(&mut self, wait: bool) -> impl Future<Output = Option<Transaction>> + Send;

    /// The content of the transaction handed out last, chunk by chunk; `Ok(None)` at its end.
    ///
    /// # Errors
    /// The connection is given up before the dot; nothing is delivered ([`Cause::ContentUnavailable`]).
    fn content(&mut self) -> impl Future<Output = Result<Option<Bytes>, ContentUnavailable>> + Send;

    /// The results of the oldest transaction without results, one per recipient in their order.
    fn finished(&mut self, results: Vec<RecipientResult>) -> impl Future<Output = ()> + Send;
}

/// The content of a message could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content of the message could not be read")]
pub struct ContentUnavailable;

/// How an opened connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// There was no more work: QUIT was sent.
    Quit,
    /// It broke, or the peer closed it.
    Broken {
        /// Why.
        cause: Cause,
        /// The 421 with which the peer ended it, if it did.
        reply: Option<RemoteReply>,
    },
}

/// A connection that is ready for mail.
pub struct Connection<S> {
    stream: MaybeTls<S>,
    session: Session,
    /// How to begin TLS, until it was.
    handshake: Option<Handshake>,
    agreed: Option<Agreed>,
    /// Somebody wants to read what was said.
    transcript: Option<Transcript>,
}

/// How long to look for the reply that explains why the peer takes nothing more.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Reads the greeting and says EHLO; encrypts and logs in as the settings say, with `handshake` if it comes to that.
    ///
    /// # Errors
    /// When the peer refuses us or the connection breaks before it is ready for mail.
    pub async fn open(
        stream: S,
        settings: Settings,
        handshake: Option<Handshake>,
        clock: &dyn Clock,
    ) -> Result<Self, OpenError> {
        Self::open_told(stream, settings, handshake, clock, None).await
    }

    /// The same, and what is said is written down.
    ///
    /// # Errors
    /// Those of [`Connection::open`].
    pub async fn open_told(
        stream: S,
        settings: Settings,
        handshake: Option<Handshake>,
        clock: &dyn Clock,
        transcript: Option<Transcript>,
    ) -> Result<Self, OpenError> {
        let (stream, session) = (MaybeTls::Clear(stream), Session::new(settings));
        let mut connection = Connection { stream, session, handshake, agreed: None, transcript };
        loop {
            match connection.session.next(clock.now()) {
                Step::Opened => return Ok(connection),
                Step::OpenFailed(error) => return Err(error),
                Step::Send(octets) => connection.send(octets, clock).await,
                Step::SendSecret(octets) => {
                    connection.transcript.iter().for_each(|transcript| transcript.sent_secret(clock.now()));
                    connection.write(octets.reveal()).await;
                }
                Step::NeedInput { until } => connection.read(until, clock).await,
                Step::StartTls => {
                    connection.start_tls().await;
                    if let (Some(transcript), Some(agreed)) = (&connection.transcript, &connection.agreed) {
                        transcript.remark(&format!("({} begins)", agreed.version), clock.now());
                    }
                }
                Step::Derive(derivation) => match tokio::task::spawn_blocking(move || derivation.run()).await {
                    Ok(keys) => connection.session.derived(&keys),
                    // the runtime ends
                    Err(_) => connection.session.timeout(),
                },
                // these do not come before one of the first two
                Step::NeedTransaction { .. } | Step::Content | Step::Finished(_) | Step::Close => {
                    return Err(OpenError::Broken { phase: Phase::Hello, cause: Cause::Cut });
                }
            }
        }
    }

    async fn start_tls(&mut self) {
        let limit = HANDSHAKE_LIMIT.min(self.session.timeouts().hello);
        let (stream, handshake) = (self.stream.take_clear(), self.handshake.take());
        let (Ok(stream), Some(handshake)) = (stream, handshake) else {
            return self.session.tls_failed("it was not prepared");
        };
        match tokio::time::timeout(limit, handshake.run(stream)).await {
            Ok(Ok((stream, agreed))) => {
                self.stream = MaybeTls::Tls(Box::new(stream.into()));
                self.agreed = Some(agreed);
                self.session.tls_started();
            }
            Ok(Err(why)) => self.session.tls_failed(why),
            Err(_) => self.session.tls_failed("the server did not answer in time"),
        }
    }

    /// What was agreed on TLS; `None` in clear.
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// What the peer offers.
    pub fn extensions(&self) -> &PeerExtensions {
        self.session.extensions()
    }

    /// Says a command that moves no mail, and waits for its reply.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn ask(&mut self, command: &str, clock: &dyn Clock) -> Result<RemoteReply, Cause> {
        self.session.command(command);
        loop {
            let step = self.session.next(clock.now());
            if let Some(reply) = self.session.take_answer() {
                return Ok(reply);
            }
            match step {
                Step::Send(octets) => self.send(octets, clock).await,
                Step::NeedInput { until } => self.read(until, clock).await,
                // nothing else comes while a command waits for its reply
                _ => return Err(self.session.end().map_or(Cause::Cut, |(cause, _)| cause)),
            }
        }
    }

    /// The connection itself, when the other side has turned it round (ATRN). `None` when it has said anything behind its reply,
    /// or is gone.
    pub fn into_stream(self) -> Option<MaybeTls<S>> {
        let clean = self.session.end().is_none() && self.session.read_ahead().is_empty();
        clean.then_some(self.stream)
    }

    /// Sends mail until there is no more work or the connection ends.
    pub async fn run<W: Work>(mut self, work: &mut W, clock: &dyn Clock) -> Ended {
        loop {
            match self.session.next(clock.now()) {
                Step::Send(octets) => self.send(octets, clock).await,
                Step::NeedInput { until } => self.read(until, clock).await,
                Step::NeedTransaction { wait: true } => self.wait_for(work).await,
                Step::NeedTransaction { wait: false } => {
                    let next = work.next(false).await;
                    self.session.transaction(next);
                }
                Step::Content => match work.content().await {
                    Ok(chunk) => self.session.content(chunk),
                    Err(ContentUnavailable) => self.session.content_failed(),
                },
                Step::Finished(results) => work.finished(results).await,
                // these come before
                Step::Opened | Step::OpenFailed(_) | Step::SendSecret(_) | Step::StartTls | Step::Derive(_) => {}
                Step::Close => break,
            }
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.stream.shutdown()).await;
        match self.session.end() {
            None => Ended::Quit,
            Some((cause, reply)) => Ended::Broken { cause, reply: reply.cloned() },
        }
    }

    /// Waits for a transaction and watches the peer meanwhile.
    async fn wait_for<W: Work>(&mut self, work: &mut W) {
        let Connection { stream, session, .. } = self;
        let mut next = std::pin::pin!(work.next(true));
        let taken = poll_fn(|cx| {
            if let Poll::Ready(next) = next.as_mut().poll(cx) {
                return Poll::Ready(Some(next));
            }
            poll_read(stream, session, cx).map(|()| None)
        })
        .await;
        if let Some(next) = taken {
            session.transaction(next);
        }
    }

    async fn send(&mut self, octets: Bytes, clock: &dyn Clock) {
        let Some(transcript) = self.transcript.clone() else { return self.write(octets).await };
        transcript.sent(&octets, clock.now());
        let known = self.session.read_ahead().len();
        self.write(octets).await;
        transcript.came(self.session.read_ahead().get(known..).unwrap_or_default(), clock.now());
    }

    async fn read(&mut self, until: Instant, clock: &dyn Clock) {
        let known = self.session.read_ahead().len();
        self.read_some(until, clock).await;
        if let Some(transcript) = &self.transcript {
            transcript.came(self.session.read_ahead().get(known..).unwrap_or_default(), clock.now());
        }
    }

    async fn read_some(&mut self, until: Instant, clock: &dyn Clock) {
        let Connection { stream, session, .. } = self;
        if poll_fn(|cx| Poll::Ready(poll_read(stream, session, cx))).await.is_ready() {
            return;
        }
        if until <= clock.now() {
            return session.timeout();
        }
        if tokio::time::timeout_at(until.into(), poll_fn(|cx| poll_read(stream, session, cx))).await.is_err() {
            session.timeout();
        }
    }

    /// Writes, and reads meanwhile what the peer has to say, so that neither waits for the other for ever.
    async fn write(&mut self, octets: Bytes) {
        let limit = self.session.timeouts().block;
        let Connection { stream, session, .. } = self;
        let mut rest = octets;
        let written = tokio::time::timeout(
            limit,
            poll_fn(|cx| {
                loop {
                    let polled = if rest.is_empty() {
                        match Pin::new(&mut *stream).poll_flush(cx) {
                            Poll::Ready(done) => return Poll::Ready(done.is_ok()),
                            Poll::Pending => Poll::Pending,
                        }
                    } else {
                        Pin::new(&mut *stream).poll_write(cx, &rest)
                    };
                    match polled {
                        Poll::Ready(Ok(octets @ 1..)) => rest.advance(octets),
                        Poll::Ready(_) => return Poll::Ready(false),
                        Poll::Pending if !session.wants_input() => return Poll::Pending,
                        Poll::Pending => match poll_read(stream, session, cx) {
                            Poll::Ready(()) => {}
                            Poll::Pending => return Poll::Pending,
                        },
                    }
                }
            }),
        )
        .await;
        match written {
            Ok(true) => {}
            Err(_) => session.timeout(),
            Ok(false) => {
                // it may have said why
                let listen = poll_fn(|cx| {
                    while session.wants_input() {
                        if poll_read(stream, session, cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Poll::Ready(())
                });
                let _ = tokio::time::timeout(LAST_WORDS, listen).await;
                session.eof();
            }
        }
    }
}

/// Reads once into the session's buffer, which is given back while nothing is there. The end is told to the session.
fn poll_read<S: AsyncRead + Unpin + Send>(stream: &mut S, session: &mut Session, cx: &mut Context<'_>) -> Poll<()> {
    let read = std::pin::pin!(stream.read_buf(session.buffer())).poll(cx);
    match read {
        Poll::Ready(Ok(1..)) => Poll::Ready(()),
        Poll::Ready(_) => {
            session.eof();
            Poll::Ready(())
        }
        Poll::Pending => {
            session.release();
            Poll::Pending
        }
    }
}

/// [`Connection::open`] in clear, then [`Connection::run`].
///
/// # Errors
/// Those of `open`; then no transaction was taken from `work`.
pub async fn run<S, W>(stream: S, settings: Settings, work: &mut W, clock: &dyn Clock) -> Result<Ended, OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    W: Work,
{
    let connection = Connection::open(stream, settings, None, clock).await?;
    Ok(connection.run(work, clock).await)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use tokio::io::DuplexStream;
    use tokio::sync::watch;

    use super::*;
    use crate::net::clock::SystemClock;
    use crate::net::server_driver::{Answers, ServerStream as _, serve};
    use crate::net::stream::Accepted;
    use crate::net::tls::client::{Check, ClientTls, server_name};
    use crate::net::tls::{AskClients, Identity, Oldest, ServerTls};
    use crate::smtp::client::Encryption;
    use crate::smtp::reply::Reply;
    use crate::smtp::server;

    #[derive(Default)]
    struct Queue {
        waiting: VecDeque<(Transaction, Vec<u8>)>,
        chunks: VecDeque<Bytes>,
        results: Vec<Vec<RecipientResult>>,
        linger: Option<Duration>,
    }

    impl Work for Queue {
        async fn next(&mut self, wait: bool) -> Option<Transaction> {
            if let (true, true, Some(linger)) = (wait, self.waiting.is_empty(), self.linger) {
                tokio::time::sleep(linger).await;
            }
            let (transaction, content) = self.waiting.pop_front()?;
            self.chunks = content.chunks(1000).map(Bytes::copy_from_slice).collect();
            Some(transaction)
        }

        async fn content(&mut self) -> Result<Option<Bytes>, ContentUnavailable> {
            Ok(self.chunks.pop_front())
        }

        async fn finished(&mut self, results: Vec<RecipientResult>) {
            self.results.push(results);
        }
    }

    fn transaction(recipients: usize) -> Transaction {
        Transaction {
            reverse_path: "a@b.example".parse().unwrap(),
            parameters: Default::default(),
            recipients: (0..recipients)
                .map(|n| (format!("r{n}@d.example").parse().unwrap(), Default::default()))
                .collect(),
            size: 0,
            treatment: Default::default(),
        }
    }

    /// Takes everything.
    #[derive(Default)]
    struct Sink {
        open: Vec<u8>,
        messages: Vec<Vec<u8>>,
    }

    impl Answers for Sink {
        async fn answer(&mut self, question: server::Question) -> server::Answer {
            if question == server::Question::Commit {
                self.messages.push(std::mem::take(&mut self.open));
            }
            server::Answer::Proceed
        }
        async fn body(&mut self, chunk: Bytes) -> Result<(), Reply> {
            self.open.extend_from_slice(&chunk);
            Ok(())
        }
        fn reset(&mut self) {
            self.open.clear();
        }
        fn tls_started(&mut self, _: crate::net::tls::Secured) {}

        fn completion(&self) -> Option<crate::smtp::address::Domain> {
            None
        }

        fn note(&mut self, _: server::Note) {}
    }

    /// Both cores and both drivers, on a pipe so narrow that each write waits for the other side.
    #[tokio::test(start_paused = true)]
    async fn what_is_sent_arrives_even_through_a_narrow_pipe() {
        for (width, pipelining) in [(1 << 16, true), (60, true), (60, false)] {
            let contents: Vec<Vec<u8>> = (0..5)
                .map(|n| format!("Subject: {n}\r\n\r\n.\r\n..dots\r\n").repeat(1 + n * 50).into_bytes())
                .collect();
            let mut queue = Queue {
                waiting: contents.iter().map(|content| (transaction(300), content.clone())).collect(),
                ..Queue::default()
            };
            let (client, mut server) = tokio::io::duplex(width);
            let task = tokio::spawn(async move {
                let mut settings = server::Settings::new("mx.example");
                settings.extensions.pipelining = pipelining;
                let session = server::Session::new(Arc::new(settings), SystemClock.now());
                let (_stop, stopped) = watch::channel(None);
                let mut sink = Sink::default();
                serve(&mut server, session, &mut sink, &SystemClock, stopped).await;
                sink
            });
            let ended = run(client, Settings::new("c.example"), &mut queue, &SystemClock).await;
            assert_eq!(ended, Ok(Ended::Quit));
            assert_eq!(task.await.unwrap().messages, contents);
            assert_eq!(queue.results.len(), 5);
            for results in &queue.results {
                assert!(results.len() == 300 && results.iter().all(|r| matches!(r, RecipientResult::Delivered(_))));
            }
        }
    }

    /// The same in TLS, from the beginning and by STARTTLS.
    #[tokio::test]
    async fn what_is_sent_arrives_in_tls_even_through_a_narrow_pipe() {
        let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).unwrap();
        let identity = Identity::load(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap();
        let server_tls = Arc::new(ServerTls::new(&[Arc::new(identity)], Oldest::Tls12, AskClients::No).unwrap());
        let client_tls = Arc::new(ClientTls::new(Some(&made.cert.pem()), None).unwrap());
        for (width, encryption) in
            [(1 << 16, Encryption::Required), (60, Encryption::Required), (60, Encryption::Implicit)]
        {
            let content = "Subject: x\r\n\r\n.\r\n..dots\r\n".repeat(2_000).into_bytes();
            let mut queue = Queue { waiting: [(transaction(30), content.clone())].into(), ..Queue::default() };
            let (client, server) = tokio::io::duplex(width);
            let server_tls = server_tls.clone();
            let task = tokio::spawn(async move {
                let mut stream = Accepted::new(server, Some(server_tls));
                let mut settings = server::Settings::new("mx.example");
                if encryption == Encryption::Implicit {
                    stream.start_tls().await.unwrap();
                } else {
                    settings.start_tls = true;
                }
                let session = server::Session::new(Arc::new(settings), SystemClock.now());
                let (_stop, stopped) = watch::channel(None);
                let mut sink = Sink::default();
                serve(&mut stream, session, &mut sink, &SystemClock, stopped).await;
                sink
            });
            let settings = Settings { encryption, verified_tls: true, ..Settings::new("c.example") };
            let name = server_name("mx.example").unwrap();
            let handshake = Handshake { tls: client_tls.clone(), name, check: Check::Name };
            let connection = Connection::open(client, settings, Some(handshake), &SystemClock).await.unwrap();
            assert!(connection.agreed().is_some_and(|agreed| agreed.verified && agreed.chain.len() == 1));
            assert_eq!(connection.run(&mut queue, &SystemClock).await, Ended::Quit);
            assert_eq!(task.await.unwrap().messages, [content]);
            assert!(queue.results[0].iter().all(|result| matches!(result, RecipientResult::Delivered(_))));
        }
    }

    /// hostile.md, next hops: no handshake behind injected text, and none that lasts for ever.
    #[tokio::test(start_paused = true)]
    async fn starttls_that_is_not_what_it_seems() {
        let tls = Arc::new(ClientTls::default());
        let open = |last: &'static str| {
            let (client, peer) = tokio::io::duplex(4096);
            let task = scripted(peer, vec!["220 x\r\n", "250-x\r\n250 STARTTLS\r\n", last]);
            let handshake =
                Handshake { tls: tls.clone(), name: server_name("x.example").unwrap(), check: Check::Nothing };
            let settings = Settings { encryption: Encryption::Required, ..Settings::new("c.example") };
            async move {
                let opened = Connection::open(client, settings, Some(handshake), &SystemClock).await;
                let mut said = Vec::new();
                task.await.unwrap().read_to_end(&mut said).await.unwrap();
                (opened.err().unwrap(), said)
            }
        };
        let (error, said) = open("220 go\r\n250 AUTH PLAIN\r\n").await;
        assert_eq!(error, OpenError::Broken { phase: Phase::StartTls, cause: Cause::Garbage });
        assert!(said.is_empty(), "no hello of TLS");
        let (error, said) = open("220 go\r\n").await;
        assert_eq!(error, OpenError::Handshake("the server did not answer in time".into()));
        assert_eq!(said[0], 22, "a hello of TLS");
    }

    /// A peer by script: says the first, then after each read the next.
    fn scripted(mut peer: DuplexStream, script: Vec<&'static str>) -> tokio::task::JoinHandle<DuplexStream> {
        tokio::spawn(async move {
            let mut octets = [0; 65_536];
            for (index, line) in script.into_iter().enumerate() {
                if index > 0 {
                    let _ = peer.read(&mut octets).await;
                }
                peer.write_all(line.as_bytes()).await.unwrap();
            }
            peer
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_closes_an_idle_connection_is_noticed() {
        let (client, peer) = tokio::io::duplex(4096);
        let task = scripted(peer, vec!["220 x\r\n", "250 x\r\n"]);
        let mut queue = Queue { linger: Some(Duration::from_secs(3600)), ..Queue::default() };
        let closing = async {
            let peer = task.await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(peer);
        };
        let (ended, ()) = tokio::join!(run(client, Settings::new("c.example"), &mut queue, &SystemClock), closing);
        assert_eq!(ended, Ok(Ended::Broken { cause: Cause::Cut, reply: None }));
        assert!(queue.results.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_times_out_in_its_phase() {
        let (client, _peer) = tokio::io::duplex(4096);
        let ended = run(client, Settings::new("c.example"), &mut Queue::default(), &SystemClock).await;
        assert_eq!(ended, Err(OpenError::Broken { phase: Phase::Banner, cause: Cause::TimedOut }));

        let (client, peer) = tokio::io::duplex(4096);
        let task = scripted(peer, vec!["220 x\r\n", "250 x\r\n", "250 x\r\n"]);
        let mut queue = Queue { waiting: [(transaction(1), vec![])].into(), ..Queue::default() };
        let ended = run(client, Settings::new("c.example"), &mut queue, &SystemClock).await;
        assert_eq!(ended, Ok(Ended::Broken { cause: Cause::TimedOut, reply: None }));
        assert_eq!(queue.results, [[RecipientResult::Broken { phase: Phase::Rcpt, cause: Cause::TimedOut }]]);
        drop(task);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_given_up_and_one_that_speaks_is_heard() {
        for (last, expected) in [
            ("354 x\r\n", RecipientResult::Broken { phase: Phase::Content, cause: Cause::TimedOut }),
            (
                "354 x\r\n552 5.3.4 too much\r\n",
                RecipientResult::Refused {
                    phase: Phase::Content,
                    reply: RemoteReply { code: 552, status: "5.3.4".parse().ok(), text: "too much".into() },
                },
            ),
        ] {
            let (client, peer) = tokio::io::duplex(4096);
            let speaks = last.contains("552");
            let task = scripted(peer, vec!["220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", last]);
            let mut queue = Queue { waiting: [(transaction(1), vec![b'x'; 1 << 20])].into(), ..Queue::default() };
            let closing = async {
                let peer = task.await.unwrap();
                if speaks {
                    drop(peer);
                } else {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
            };
            let settings = Settings::new("c.example");
            tokio::join!(async { run(client, settings, &mut queue, &SystemClock).await.unwrap() }, closing);
            assert_eq!(queue.results, [[expected]]);
        }
    }
}
