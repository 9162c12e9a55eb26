//! Carries octets between a stream and a server [`Session`], and questions to policy.
//!
//! Guarantees: replies leave in order and in as few writes as can be; while a question is open nothing is
//! consumed, but the end of the stream is seen; an answer to [`Question::Commit`] is awaited to its end, whatever
//! happens to the connection. A future of any other question may be dropped when the client has gone.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::clock::Clock;
use super::tls::Secured;
use crate::smtp::address::Domain;
use crate::smtp::command::Verb;
use crate::smtp::reply::Reply;
use crate::smtp::server::{Answer, Note, Question, Session, Step};

/// Policy, as the driver sees it: answers questions, takes content.
pub trait Answers: Send {
    /// Answers a question. Only for [`Question::Commit`] is the future never dropped before its end.
    fn answer(&mut self, question: Question) -> impl Future<Output = Answer> + Send;

    /// Takes a slice of the content, between `Begin` and `Commit`.
    ///
    /// # Errors
    /// With a reply the session reads to the end of the content, then gives that reply; no `Commit` follows.
    fn body(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Reply>> + Send;

    /// The open transaction was abandoned or refused: drop its draft. May come where there is none; never between an
    /// answered `Commit` and the next `Mail`.
    fn reset(&mut self);

    /// A command and its reply, for logs.
    fn note(&mut self, note: Note);

    /// TLS is active behind STARTTLS: whatever was known of the client is not true any more.
    fn tls_started(&mut self, secured: Secured);

    /// The domain that completes addresses without one, if this client is trusted that far; asked after
    /// [`Question::Connect`] and [`Question::Auth`], and when TLS has begun.
    fn completion(&self) -> Option<Domain>;
}

/// A connection that may begin TLS where it stands.
pub trait ServerStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The handshake, as the server.
    ///
    /// # Errors
    /// When the client cannot, or does not keep to it; the stream is of no more use then.
    fn start_tls(&mut self) -> impl Future<Output = io::Result<Secured>> + Send;
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The session closed it: QUIT, 421, 554, a time-out.
    Closed,
    /// The client did, or the connection broke.
    Gone,
    /// ATRN: from here on we are the client, and the caller has the stream.
    TurnedRound,
}

/// Longest time that a client may take to read one block of replies.
const WRITE_LIMIT: Duration = Duration::from_secs(300);
/// Longest time that a TLS handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection that we close first is still read from, so that our last reply is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
///
/// When `stop` holds a reply (421), the session ends with it as soon as it has nothing complete at hand.
pub async fn serve<S, A>(
    stream: &mut S,
    mut session: Session,
    answers: &mut A,
    clock: &dyn Clock,
    mut stop: watch::Receiver<Option<Reply>>,
) -> Ended
where
    S: ServerStream,
    A: Answers,
{
    let (mut ended, mut quit) = (Ended::Closed, false);
    let mut stops = true;
    if let Some(reply) = stop.borrow_and_update().clone() {
        session.stop(reply);
    }
    loop {
        match session.next(clock.now()) {
            Step::Send(replies) => {
                if write(stream, replies).await.is_err() {
                    ended = Ended::Gone;
                    session.abandon();
                }
            }
            Step::NeedInput { until } => match read(stream, &mut session, until, clock, &mut stop, &mut stops).await {
                Read::Octets => session.received(clock.now()),
                Read::TimedOut => session.timeout(clock.now().max(until)),
                Read::Stop(reply) => session.stop(reply),
                Read::End => {
                    ended = Ended::Gone;
                    session.eof();
                }
            },
            Step::Wait { until } => {
                tokio::time::sleep_until(until.into()).await;
                session.timeout(clock.now().max(until));
            }
            Step::Ask(question) => {
                if !ask(stream, &mut session, answers, question, clock).await {
                    ended = Ended::Gone;
                    session.abandon();
                }
            }
            Step::Body(chunk) => {
                if let Err(reply) = answers.body(chunk).await {
                    session.body_failed(reply);
                }
            }
            Step::StartTls => match tokio::time::timeout(HANDSHAKE_LIMIT, stream.start_tls()).await {
                Ok(Ok(secured)) => {
                    session.tls_started();
                    answers.tls_started(secured);
                    // who is trusted by address is so still
                    session.complete_with(answers.completion());
                }
                failed => {
                    let error = failed.map_or_else(
                        |_| "timed out".to_owned(),
                        |failed| failed.map_or_else(|e| e.to_string(), |_| String::new()),
                    );
                    tracing::debug!(error, "the TLS handshake failed");
                    ended = Ended::Gone;
                    session.abandon();
                }
            },
            Step::TurnAround => return Ended::TurnedRound,
            Step::Reset => answers.reset(),
            Step::Note(note) => {
                quit = note.verb == Verb::Quit;
                answers.note(note);
            }
            // every question is answered or given up in `ask`
            Step::NeedAnswer => session.abandon(),
            Step::Close => break,
        }
    }
    if ended == Ended::Closed {
        let _ = tokio::time::timeout(LINGER, close(stream, quit)).await;
    }
    ended
}

/// What came of reading.
enum Read {
    Octets,
    TimedOut,
    Stop(Reply),
    End,
}

async fn read<S: AsyncRead + Unpin + Send>(
    stream: &mut S,
    session: &mut Session,
    until: Instant,
    clock: &dyn Clock,
    stop: &mut watch::Receiver<Option<Reply>>,
    stops: &mut bool,
) -> Read {
    // mostly something is there: then no timer is set
    if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(poll_read(stream, session, cx))).await {
        return read;
    }
    if until <= clock.now() {
        return Read::TimedOut;
    }
    let deadline = tokio::time::sleep_until(until.into());
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            biased;
            read = poll_fn(|cx| poll_read(stream, session, cx)) => return read,
            () = &mut deadline => return Read::TimedOut,
            changed = stop.changed(), if *stops => match changed {
                Ok(()) => {
                    if let Some(reply) = stop.borrow_and_update().clone() {
                        return Read::Stop(reply);
                    }
                }
                Err(_) => *stops = false,
            },
        }
    }
}

/// Reads once into the session's buffer, which is given back while nothing is there.
fn poll_read<S: AsyncRead + Unpin + Send>(stream: &mut S, session: &mut Session, cx: &mut Context<'_>) -> Poll<Read> {
    let read = std::pin::pin!(stream.read_buf(session.buffer())).poll(cx);
    match read {
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Read::End),
        Poll::Ready(Ok(_)) => Poll::Ready(Read::Octets),
        Poll::Pending => {
            session.release();
            Poll::Pending
        }
    }
}

/// Finds the answer. False when the client has gone and the question was given up.
async fn ask<S, A>(
    stream: &mut S,
    session: &mut Session,
    answers: &mut A,
    question: Question,
    clock: &dyn Clock,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Answers,
{
    let commit = question == Question::Commit;
    let trusts = matches!(question, Question::Connect | Question::Auth(_));
    let answered = find(stream, session, answers, question, commit, clock).await;
    if trusts {
        session.complete_with(answers.completion());
    }
    match answered {
        Some(answer) => {
            session.answer(answer, clock.now());
            true
        }
        None => false,
    }
}

/// `None` when the client has gone and the question was given up.
async fn find<S, A>(
    stream: &mut S,
    session: &mut Session,
    answers: &mut A,
    question: Question,
    commit: bool,
    clock: &dyn Clock,
) -> Option<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Answers,
{
    let mut answer = std::pin::pin!(answers.answer(question));
    if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
        return Some(answer);
    }
    let mut gone = false;
    if let Some(replies) = session.flush() {
        gone = write(stream, replies).await.is_err();
        if gone {
            session.eof();
            if !commit {
                return None;
            }
        }
    }
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        while !gone && session.wants_input() {
            match poll_read(stream, session, cx) {
                Poll::Ready(Read::End) => {
                    gone = true;
                    session.eof();
                }
                Poll::Ready(_) => session.received(clock.now()),
                Poll::Pending => break,
            }
        }
        // commands that were sent before the end are still to be served
        if gone && !commit && !session.has_input() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, octets: Bytes) -> io::Result<()> {
    tokio::time::timeout(WRITE_LIMIT, async {
        stream.write_all(&octets).await?;
        stream.flush().await
    })
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Ends our side; unless the client said QUIT, reads on for a moment.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, quit: bool) {
    if stream.shutdown().await.is_err() || quit {
        return;
    }
    let mut sink = [0; 1024];
    for _ in 0..1024 {
        if !matches!(stream.read(&mut sink).await, Ok(1..)) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::DuplexStream;

    use super::*;
    use crate::net::clock::SystemClock;
    use crate::smtp::reply::EnhancedStatus;
    use crate::smtp::server::Settings;

    /// Policy that takes its time and remembers.
    #[derive(Default)]
    struct Slow {
        commit: Duration,
        rcpt: Duration,
        committed: usize,
        asked_rcpt: usize,
        answered_rcpt: usize,
        resets: usize,
        body: Vec<u8>,
    }

    impl Answers for Slow {
        async fn answer(&mut self, question: Question) -> Answer {
            match question {
                Question::Commit => {
                    tokio::time::sleep(self.commit).await;
                    self.committed += 1;
                }
                Question::Rcpt { .. } => {
                    self.asked_rcpt += 1;
                    tokio::time::sleep(self.rcpt).await;
                    self.answered_rcpt += 1;
                }
                _ => {}
            }
            Answer::Proceed
        }

        async fn body(&mut self, chunk: Bytes) -> Result<(), Reply> {
            self.body.extend_from_slice(&chunk);
            Ok(())
        }

        fn reset(&mut self) {
            self.resets += 1;
        }

        fn note(&mut self, _: Note) {}

        fn tls_started(&mut self, _: Secured) {}

        fn completion(&self) -> Option<Domain> {
            None
        }
    }

    impl ServerStream for DuplexStream {
        async fn start_tls(&mut self) -> io::Result<Secured> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl ServerStream for tokio::net::TcpStream {
        async fn start_tls(&mut self) -> io::Result<Secured> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    struct Running {
        client: DuplexStream,
        stop: watch::Sender<Option<Reply>>,
        task: tokio::task::JoinHandle<(Ended, Slow)>,
    }

    fn start(mut policy: Slow) -> Running {
        let (client, mut server) = tokio::io::duplex(64 << 10);
        let (stop, stopped) = watch::channel(None);
        let session = Session::new(Arc::new(Settings::new("mx.example")), SystemClock.now());
        let task = tokio::spawn(async move {
            let ended = serve(&mut server, session, &mut policy, &SystemClock, stopped).await;
            (ended, policy)
        });
        Running { client, stop, task }
    }

    impl Running {
        /// Reads until so many complete replies are there.
        async fn replies(&mut self, count: usize) -> Vec<u16> {
            let (mut text, mut codes) = (String::new(), Vec::new());
            let mut octets = [0; 4096];
            while codes.len() < count {
                let read = self.client.read(&mut octets).await.unwrap();
                assert!(read > 0, "closed after {text}");
                text.push_str(std::str::from_utf8(&octets[..read]).unwrap());
                let last = text.lines().filter(|line| line.as_bytes()[3] == b' ');
                codes = last.map(|line| line[..3].parse().unwrap()).collect();
            }
            codes
        }

        async fn envelope(&mut self) {
            assert_eq!(self.replies(1).await, [220]);
            self.client.write_all(b"EHLO c.example\r\n").await.unwrap();
            assert_eq!(self.replies(1).await, [250]);
            self.client.write_all(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n").await.unwrap();
        }

        async fn content(&mut self) {
            self.envelope().await;
            self.client.write_all(b"DATA\r\n").await.unwrap();
            assert_eq!(self.replies(3).await, [250, 250, 354]);
        }
    }

    const SLOW: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_commit_in_flight_outlives_its_client() {
        let mut running = start(Slow { commit: SLOW, ..Slow::default() });
        running.content().await;
        running.client.write_all(b"text\r\n.\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(running.client);
        let (ended, policy) = running.task.await.unwrap();
        assert_eq!((ended, policy.committed, policy.resets), (Ended::Gone, 1, 0));
        assert_eq!(policy.body, b"text\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn another_question_is_dropped_with_its_client() {
        let mut running = start(Slow { rcpt: SLOW, ..Slow::default() });
        running.envelope().await;
        assert_eq!(running.replies(1).await, [250], "what is gathered leaves while an answer takes long");
        drop(running.client);
        let (ended, policy) = running.task.await.unwrap();
        assert_eq!((ended, policy.asked_rcpt, policy.answered_rcpt), (Ended::Gone, 1, 0));
        assert_eq!(policy.resets, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_sent_before_the_end_of_the_stream_are_served() {
        let mut running = start(Slow { rcpt: SLOW, ..Slow::default() });
        running.envelope().await;
        running.client.write_all(b"NOOP\r\nQUIT\r\n").await.unwrap();
        running.client.shutdown().await.unwrap();
        assert_eq!(running.replies(4).await, [250, 250, 250, 221]);
        let (_, policy) = running.task.await.unwrap();
        assert_eq!((policy.answered_rcpt, policy.resets), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_cut() {
        let mut running = start(Slow::default());
        assert_eq!(running.replies(2).await, [220, 421]);
        assert_eq!(running.task.await.unwrap().0, Ended::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_ends_an_idle_session() {
        let mut running = start(Slow::default());
        assert_eq!(running.replies(1).await, [220]);
        let reply = Reply::new(421, EnhancedStatus::transient(3, 2), "Going down");
        running.stop.send(Some(reply)).unwrap();
        assert_eq!(running.replies(1).await, [421]);
        assert_eq!(running.task.await.unwrap().0, Ended::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_talker_is_turned_away() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(b"EHLO c.example\r\n").await.unwrap();
        let session = Session::new(Arc::new(Settings::new("mx.example")), SystemClock.now());
        let (_stop, stopped) = watch::channel(None);
        let ended = serve(&mut server, session, &mut Slow::default(), &SystemClock, stopped).await;
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("554 5.5.1 "), "{text}");
        assert_eq!(ended, Ended::Closed);
    }

    /// Over TCP, unread octets at close would make a reset that takes the last reply with it.
    #[tokio::test]
    async fn the_last_reply_is_not_lost_to_a_reset() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let task = tokio::spawn(async move {
            let session = Session::new(Arc::new(Settings::new("mx.example")), SystemClock.now());
            let (_stop, stopped) = watch::channel(None);
            serve(&mut server, session, &mut Slow::default(), &SystemClock, stopped).await
        });
        let mut octets = [0; 512];
        assert!(client.read(&mut octets).await.unwrap() > 0);
        let flood = [b"EHLO c.example\r\n".as_slice(), &[b'x'; 200_000]].concat();
        client.write_all(&flood).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("503 5.5.1 "), "{text}");
        drop(client);
        assert_eq!(task.await.unwrap(), Ended::Closed);
    }
}
