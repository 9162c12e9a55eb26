use std::time::Duration;

use super::*;
use proptest::prelude::*;

/// A driver without a socket: answers at once, keeps everything.
struct Bench {
    session: Session,
    now: Instant,
    policy: fn(&Question) -> Answer,
    out: Vec<u8>,
    body: Vec<u8>,
    committed: Vec<Vec<u8>>,
    notes: Vec<(Verb, u16)>,
    resets: usize,
    closed: bool,
    turned: bool,
    until: Instant,
}

fn yes(_: &Question) -> Answer {
    Answer::Proceed
}

impl Bench {
    fn with(policy: fn(&Question) -> Answer, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("mx.example");
        change(&mut settings);
        let now = Instant::now();
        let mut bench = Bench {
            session: Session::new(Arc::new(settings), now),
            now,
            policy,
            out: Vec::new(),
            body: Vec::new(),
            committed: Vec::new(),
            notes: Vec::new(),
            resets: 0,
            closed: false,
            turned: false,
            until: now,
        };
        bench.run();
        bench.session.timeout(now);
        bench.run();
        bench
    }

    fn new() -> Self {
        Bench::with(yes, |_| {})
    }

    /// In a transaction, behind 354, with nothing in the output.
    fn in_data(change: impl FnOnce(&mut Settings)) -> Self {
        let mut bench = Bench::with(yes, change);
        bench.feed(b"EHLO c.example\r\n");
        bench.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
        assert!(bench.codes().ends_with(&[354]));
        bench.out.clear();
        bench
    }

    /// Steps until input is needed or the connection is closed; a loop that does not end fails.
    fn run(&mut self) {
        for _ in 0..100_000 {
            match self.session.next(self.now) {
                Step::Send(octets) => self.out.extend_from_slice(&octets),
                Step::NeedInput { until } => {
                    assert!(self.session.flush().is_none(), "replies are held back");
                    self.until = until;
                    return;
                }
                Step::Wait { until } => {
                    self.now = self.now.max(until);
                    self.session.timeout(self.now);
                }
                Step::Ask(question) => {
                    if question == Question::Begin {
                        self.body.clear();
                    }
                    let answer = (self.policy)(&question);
                    if question == Question::Commit {
                        self.committed.push(mem::take(&mut self.body));
                    }
                    self.session.answer(answer, self.now);
                }
                Step::NeedAnswer => panic!("no question is open"),
                Step::Body(chunk) => self.body.extend_from_slice(&chunk),
                Step::Reset => self.resets += 1,
                Step::Note(note) => self.notes.push((note.verb, note.code)),
                Step::StartTls => self.session.tls_started(),
                Step::TurnAround => {
                    self.turned = true;
                    return;
                }
                Step::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("the session does not come to rest");
    }

    fn feed(&mut self, octets: &[u8]) {
        if !self.closed {
            self.session.buffer().extend_from_slice(octets);
            self.session.received(self.now);
            self.run();
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.timeout(self.now);
        self.run();
    }

    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// The code of each reply.
    fn codes(&self) -> Vec<u16> {
        let text = self.text();
        assert!(text.is_empty() || text.ends_with("\r\n"));
        let last = text.lines().filter(|line| line.as_bytes()[3] == b' ');
        last.map(|line| line[..3].parse().unwrap()).collect()
    }
}

#[test]
fn a_transaction_in_lockstep_and_in_groups() {
    let mut bench = Bench::new();
    assert_eq!(bench.text(), "220 mx.example ESMTP Bridgehead\r\n");
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n");
    // the next envelope follows the dot
    bench.feed(b"one\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
    bench.feed(b"two\r\n..\r\n.\r\nQUIT\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 250, 250, 354, 250, 250, 250, 354, 250, 221]);
    assert_eq!(bench.committed, [b"one\r\n".to_vec(), b"two\r\n.\r\n".to_vec()]);
    assert!(bench.closed);
    assert_eq!(bench.resets, 0);
    let noted: Vec<u16> = bench.notes.iter().map(|(_, code)| *code).collect();
    assert_eq!(noted, bench.codes());
}

/// hostile.md, "End of data": behind a text line none of these is an end; true: the message is then refused.
const NOT_THE_END: [(&[u8], bool); 14] = [
    (b"\n.\n", true),
    (b"\n.\r", true),
    (b"\n.\r\n", true),
    (b"\r.\r", true),
    (b"\r.\n", true),
    (b"\r.\r\n", true),
    (b"\r\n.\n", true),
    (b"\r\n.\r", true),
    (b"\r\n.\r\r\n", true),
    (b"\r\r\n.\r\r\n", true),
    (b"\r\n\0.\r\n", false),
    (b"\r\n.\0\r\n", false),
    (b"\r\n. \r\n", false),
    (b"\r\n..\r\n", false),
];

#[test]
fn nothing_but_the_true_end_ends_the_content() {
    for (row, refused) in NOT_THE_END {
        let wire = [b"text", row, b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<x@d.example>\r\n.\r\nNOOP\r\n"].concat();
        for at in 0..=wire.len() {
            for limit in [None, Some(2)] {
                let mut bench = Bench::in_data(|settings| settings.max_size = limit);
                bench.feed(&wire[..at]);
                bench.feed(&wire[at..]);
                let text = bench.text();
                let expected = match (limit, refused) {
                    (Some(_), _) => "552 5.3.4 ",
                    (None, true) => "550 5.6.11 ",
                    (None, false) => "250 2.0.0 ",
                };
                assert!(text.starts_with(expected), "{row:?} at {at}: {text}");
                assert_eq!(bench.codes().len(), 2, "{row:?} at {at}: one reply, then NOOP");
                assert_eq!(bench.committed.len(), usize::from(limit.is_none() && !refused));
                assert_eq!(bench.resets, 1 - bench.committed.len());
            }
        }
    }
}

#[test]
fn a_trusted_binding_normalises_bare_line_ends() {
    for (row, _) in NOT_THE_END.iter().filter(|(_, refused)| *refused) {
        let mut bench = Bench::in_data(|settings| settings.bare_line_ends = BareLineEnds::Normalise);
        bench.feed(&[b"text", *row, b"MAIL FROM:<evil@b.example>\r\n.\r\n"].concat());
        assert_eq!(bench.codes(), [250], "{row:?}");
        assert_eq!(bench.committed.len(), 1);
        assert!(bench.committed[0].ends_with(b"MAIL FROM:<evil@b.example>\r\n"));
    }
}

#[test]
fn the_size_limit_counts_what_is_stored() {
    for (length, code) in [(9, 250), (10, 250), (11, 552)] {
        let mut bench = Bench::in_data(|settings| settings.max_size = Some(10));
        bench.feed(&[b"..", vec![b'x'; length - 3].as_slice(), b"\r\n.\r\n"].concat());
        assert_eq!(bench.codes(), [code], "{length}");
    }
    let mut bench = Bench::new();
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<a@b> SIZE=26214400\r\nRSET\r\nMAIL FROM:<a@b> SIZE=26214401\r\n");
    assert!(bench.text().ends_with("552 5.3.4 The message is too large\r\n"));
}

#[test]
fn a_long_line_is_refused_at_the_end() {
    for (length, code) in [(998, 250), (999, 552), (65_536, 552)] {
        let mut bench = Bench::in_data(|_| {});
        bench.feed(&[vec![b'x'; length].as_slice(), b"\r\nrest\r\n.\r\n"].concat());
        assert_eq!(bench.codes(), [code], "{length}");
    }
}

#[test]
fn content_that_cannot_be_taken_is_read_to_its_end() {
    let mut bench = Bench::in_data(|_| {});
    bench.session.body_failed(Reply::new(452, EnhancedStatus::transient(3, 1), "Full"));
    bench.feed(b"one\r\n");
    bench.feed(b"two\r\n.\r\nNOOP\r\n");
    assert_eq!(bench.codes(), [452, 250]);
    assert!(bench.committed.is_empty() && bench.body.is_empty());
    assert_eq!(bench.resets, 1);
}

#[test]
fn of_several_objections_the_reply_is_the_same_for_any_chunking() {
    let wire = [vec![b'x'; 1200].as_slice(), b"\r\na\nb\r\n.\r\n"].concat();
    for size in [1, 100, 5000] {
        let mut bench = Bench::in_data(|_| {});
        wire.chunks(size).for_each(|chunk| bench.feed(chunk));
        assert!(bench.text().starts_with("550 5.6.11 "), "{size}: {}", bench.text());
    }
}

#[test]
fn a_flood_of_content_takes_no_memory() {
    let mut bench = Bench::in_data(|settings| settings.max_size = Some(1000));
    for _ in 0..64 {
        bench.feed(&[b'x'; 64 << 10]);
        assert!(bench.session.input.is_empty());
    }
    bench.feed(b"\r\n.\r\n");
    assert_eq!(bench.codes(), [552]);
    assert!(bench.body.len() <= 64 << 10);
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let mut bench = Bench::new();
    bench.feed(b"EHLO c.example\r\n");
    bench.session.release();
    assert_eq!(bench.session.input.capacity() + bench.session.output.capacity(), 0);
    assert!(mem::size_of::<Session>() < 1024);
}

#[test]
fn the_end_of_the_stream_commits_nothing() {
    for sent in [&b"text"[..], b"text\r\n", b"text\r\n.", b"text\r\n.\r", b""] {
        let mut bench = Bench::in_data(|_| {});
        bench.feed(sent);
        bench.session.eof();
        bench.run();
        assert!(bench.closed && bench.committed.is_empty() && bench.resets == 1);
    }
    // but what was complete before it is served
    let mut bench = Bench::in_data(|_| {});
    bench.session.buffer().extend_from_slice(b"text\r\n.\r\nNOOP\r\n");
    bench.session.eof();
    bench.run();
    assert_eq!(bench.codes(), [250, 250]);
    assert!(bench.closed && bench.committed.len() == 1 && bench.resets == 0);
}

#[test]
fn an_early_talker_is_turned_away() {
    let now = Instant::now();
    let mut session = Session::new(Arc::new(Settings::new("mx.example")), now);
    assert_eq!(session.next(now), Step::Ask(Question::Connect));
    session.answer(Answer::Proceed, now);
    assert_eq!(session.next(now), Step::NeedInput { until: now });
    session.buffer().extend_from_slice(b"EHLO x\r\n");
    session.received(now);
    assert!(matches!(session.next(now), Step::Note(Note { code: 554, .. })));
    assert!(matches!(session.next(now), Step::Send(reply) if reply.starts_with(b"554 5.5.1 ")));
    assert_eq!(session.next(now), Step::Close);
}

#[test]
fn other_protocols_get_one_reply() {
    for octets in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00",
        b"\xff\xfb\x01",
    ] {
        let mut bench = Bench::new();
        bench.feed(octets);
        assert_eq!(bench.codes(), [220, 554], "{octets:?}");
        assert!(bench.closed);
    }
}

#[test]
fn binary_in_a_line_that_is_too_long_is_not_the_first_octet() {
    let wire = [vec![b'x'; 70_000].as_slice(), b"\x01\xff\r\nNOOP\r\n"].concat();
    for size in [1, 69_999, 70_000, wire.len()] {
        let mut bench = Bench::new();
        wire.chunks(size).for_each(|chunk| bench.feed(chunk));
        assert_eq!(bench.codes(), [220, 500, 250], "{size}");
    }
}

#[test]
fn commands_pipelined_where_they_must_not_be_close() {
    let mut bench = Bench::new();
    bench.feed(b"EHLO c.example\r\nMAIL FROM:<>\r\n");
    assert_eq!(bench.codes(), [220, 503]);
    assert!(bench.closed);
    let mut bench = Bench::new();
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 250, 503]);
    assert!(bench.closed && bench.committed.is_empty() && bench.resets == 1);
}

#[test]
fn recipients_over_the_limit_wait_for_the_next_message() {
    let mut bench = Bench::with(yes, |settings| settings.max_recipients = 2);
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<b@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 250, 250, 452, 354]);
}

#[test]
fn refused_recipients_are_no_recipients() {
    let no = |question: &Question| match question {
        Question::Rcpt { .. } => Answer::Reply(Reply::new(550, EnhancedStatus::permanent(1, 1), "No such user")),
        _ => Answer::Proceed,
    };
    let mut bench = Bench::with(no, |_| {});
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 550, 554]);
    bench.feed(b"RSET\r\nQUIT\r\n");
    assert_eq!(bench.resets, 1);
}

#[test]
fn harvesters_are_slowed_then_turned_away() {
    let no = |question: &Question| match question {
        Question::Rcpt { .. } => Answer::Reply(Reply::new(550, EnhancedStatus::permanent(1, 1), "No such user")),
        _ => Answer::Proceed,
    };
    let mut bench = Bench::with(no, |_| {});
    let began = bench.now;
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(&[b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b>\r\n".repeat(30).as_slice()].concat());
    let codes = bench.codes();
    assert_eq!(codes.iter().filter(|code| **code == 550).count(), 19);
    assert_eq!(codes.last(), Some(&421));
    assert!(bench.closed && bench.text().contains("421 4.7.0 "));
    assert_eq!(bench.now - began, Duration::from_secs(9));
}

#[test]
fn commands_without_mail_come_to_an_end() {
    let mut bench = Bench::new();
    bench.feed(&b"NOOP\r\n".repeat(200));
    assert_eq!(bench.codes().len(), 102);
    assert!(bench.closed && bench.text().contains("421 4.7.0 "));
}

#[test]
fn transactions_are_counted() {
    let mut bench = Bench::with(yes, |settings| settings.max_transactions = Some(1));
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 250, 421]);
    assert!(bench.closed);
}

#[test]
fn an_idle_client_and_a_slow_one_are_cut() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(599));
    assert!(!bench.closed);
    bench.pass(Duration::from_secs(2));
    assert!(bench.closed && bench.text().ends_with("421 4.4.2 Timed out\r\n"));

    // a command has less time, and single octets do not extend it
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(200));
    for _ in 0..29 {
        bench.feed(b"E");
        bench.pass(Duration::from_secs(10));
    }
    assert!(!bench.closed);
    bench.pass(Duration::from_secs(11));
    assert!(bench.closed && bench.text().ends_with("421 4.4.2 Timed out\r\n"));

    let mut bench = Bench::in_data(|_| {});
    let mut octets = 0;
    while !bench.closed && octets < 1000 {
        bench.feed(b"x");
        octets += 1;
        bench.pass(Duration::from_secs(10));
    }
    assert!((29..33).contains(&octets), "{octets}");
    assert!(bench.text().starts_with("421 4.4.2 ") && bench.resets == 1);

    let mut bench = Bench::in_data(|_| {});
    bench.pass(Duration::from_secs(181));
    assert!(bench.closed && bench.resets == 1);
}

#[test]
fn content_that_keeps_to_the_least_rate_may_take_its_time() {
    let cut_after = |rate: u64, octets: usize| {
        let mut bench = Bench::in_data(|settings| settings.timeouts.data_least_rate = rate);
        let piece = [vec![b'x'; octets - 2], b"\r\n".to_vec()].concat();
        // half an hour
        (0..180).find(|_| {
            bench.feed(&piece);
            bench.pass(Duration::from_secs(10));
            bench.closed
        })
    };
    assert_eq!(cut_after(256, 2_560), None);
    // 300 s and one more for each so many octets: half of the time beyond the first 300 s is granted
    assert_eq!(cut_after(256, 1_280), Some(59));
    assert_eq!(cut_after(0, 3), None);
}

#[test]
fn a_stopped_session_ends_what_is_complete() {
    let reply = || Reply::new(421, EnhancedStatus::transient(3, 2), "Going down");
    let mut bench = Bench::in_data(|_| {});
    bench.session.stop(reply());
    bench.feed(b"text\r\n.\r\n");
    assert_eq!(bench.codes(), [250, 421]);
    assert!(bench.closed && bench.committed.len() == 1);
    let mut bench = Bench::in_data(|_| {});
    bench.session.stop(reply());
    bench.run();
    assert_eq!(bench.codes(), [421]);
    assert!(bench.closed && bench.resets == 1);
}

#[test]
fn a_refused_commit_is_the_reply_and_nothing_else() {
    let no = |question: &Question| match question {
        Question::Commit => Answer::Reply(Reply::new(451, EnhancedStatus::transient(3, 0), "Not now")),
        _ => Answer::Proceed,
    };
    let mut bench = Bench::with(no, |_| {});
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n");
    bench.feed(b"x\r\n.\r\nMAIL FROM:<>\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 250, 354, 451, 250]);
    assert_eq!(bench.resets, 0);
}

#[test]
fn an_answer_may_close() {
    let close = |question: &Question| match question {
        Question::Rcpt { .. } => Answer::Close(Reply::new(421, EnhancedStatus::transient(7, 1), "Later")),
        _ => Answer::Proceed,
    };
    let mut bench = Bench::with(close, |_| {});
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\n");
    assert_eq!(bench.codes(), [220, 250, 250, 421]);
    assert!(bench.closed && bench.resets == 1);
    let mut bench = Bench::with(|_| Answer::Close(Reply::plain(554, "No")), |_| {});
    bench.feed(b"");
    assert_eq!(bench.text(), "554 No\r\n");
    assert!(bench.closed);
}

#[test]
fn nothing_is_consumed_while_a_question_is_open() {
    let now = Instant::now();
    let settings = Settings { refuse_early_talkers: false, ..Settings::new("mx.example") };
    let mut session = Session::new(Arc::new(settings), now);
    session.next(now);
    session.answer(Answer::Proceed, now);
    session.buffer().extend_from_slice(b"EHLO x\r\n");
    while session.next(now) != (Step::Ask(Question::Helo { name: "x".into(), extended: true })) {}
    session.buffer().extend_from_slice(b"NOOP\r\n");
    for _ in 0..3 {
        assert_eq!(session.next(now), Step::NeedAnswer);
        assert_eq!(&session.input[..], b"NOOP\r\n");
    }
    assert!(session.flush().is_some(), "the greeting was held for more");
}

/// What comes before the 250 to ATRN is a command, or the greeting of who is the server afterwards: nobody knows.
#[test]
fn nothing_may_come_while_it_is_asked_whether_the_connection_turns() {
    let turn = |early: &[u8]| {
        let mut settings = Settings::new("mx.example");
        settings.extensions.atrn = true;
        settings.auth.mechanisms = vec![crate::smtp::sasl::Mechanism::Plain];
        settings.auth.require_tls = false;
        let now = Instant::now();
        let mut session = Session::new(Arc::new(settings), now);
        let (mut last, mut said) = (None, Vec::new());
        let lines = ["EHLO c.example\r\n", "AUTH PLAIN AHUAcA==\r\n", "ATRN\r\n"];
        let mut lines = lines.into_iter();
        for _ in 0..100 {
            match session.next(now) {
                Step::Send(octets) => said.extend_from_slice(&octets),
                Step::Wait { .. } => session.timeout(now),
                Step::NeedInput { .. } if session.deadline() == Some(now) => session.timeout(now),
                Step::NeedInput { .. } => session.buffer().extend_from_slice(lines.next().unwrap().as_bytes()),
                Step::Ask(question) => {
                    if matches!(question, Question::Turn(_)) {
                        session.buffer().extend_from_slice(early);
                    }
                    session.answer(Answer::Proceed, now);
                }
                step @ (Step::TurnAround | Step::Close) => {
                    last = Some(step);
                    break;
                }
                _ => {}
            }
        }
        (last, String::from_utf8(said).unwrap())
    };
    let (last, said) = turn(b"");
    assert_eq!(last, Some(Step::TurnAround), "{said}");
    let (last, said) = turn(b"220 c.example\r\n");
    assert_eq!(last, Some(Step::Close), "{said}");
    assert!(said.lines().last().unwrap().starts_with("503 "), "{said}");
}

#[test]
fn without_enhanced_status_codes_there_are_none() {
    let mut bench = Bench::with(yes, |settings| settings.extensions.enhanced_status_codes = false);
    bench.feed(b"EHLO c.example\r\n");
    bench.feed(b"NOOP\r\nEXPN x\r\n");
    let text = bench.text();
    assert!(text.ends_with("250 OK\r\n502 Lists are not expanded here\r\n") && !text.contains("ENHANCED"));
}

/// Groups as a client that follows RFC 2920 sends them: each but the last ends in a command that must end one.
fn groups() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let command = prop_oneof![
        Just(&b"MAIL FROM:<a@b.example>\r\n"[..]),
        Just(&b"MAIL FROM:<>  SIZE=3\r\n"[..]),
        Just(&b"RCPT TO:<c@d.example>\r\n"[..]),
        Just(&b"RCPT TO:<postmaster>\r\n"[..]),
        Just(&b"RSET\r\n"[..]),
        Just(&b"NOOP x\r\n"[..]),
        Just(&b"bogus\r\n"[..]),
        Just(&b"NOOP\n"[..]),
        Just(&b"VRFY x\r\n"[..]),
        Just(&b"RCPT TO:<\xff@d>\r\n"[..]),
        Just(&b"MAIL FROM:<\0>\r\n"[..]),
        Just(&b"\r\n"[..]),
    ];
    let last = prop_oneof![Just(&b"EHLO c.example\r\n"[..]), Just(&b"HELO c.example\r\n"[..])];
    let message = prop_oneof![
        Just(&b"text\r\n.\r\n"[..]),
        Just(&b".\r\n"[..]),
        Just(&b"a\nb\r\n..\r\n.\r\n"[..]),
        Just(&b"\r.\r\n\r\n.\r\n"[..]),
    ];
    let transaction = message.prop_map(|message| {
        let envelope = b"RSET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n".to_vec();
        vec![envelope, message.to_vec()]
    });
    let plain = (proptest::collection::vec(command, 0..6), last)
        .prop_map(|(commands, last)| vec![[commands.concat(), last.to_vec()].concat()]);
    proptest::collection::vec(prop_oneof![plain, transaction], 1..5).prop_map(|parts| {
        let mut groups = vec![b"EHLO c.example\r\n".to_vec()];
        groups.extend(parts.concat());
        groups
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_chunking_gives_the_same_replies(groups in groups(), sizes in proptest::collection::vec(1usize..20, 1..8)) {
        let patient = |settings: &mut Settings| settings.max_errors = 1000;
        let (mut whole, mut chunked) = (Bench::with(yes, patient), Bench::with(yes, patient));
        let mut sizes = sizes.into_iter().cycle();
        for group in &groups {
            whole.feed(group);
            let mut rest = &group[..];
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                chunked.feed(chunk);
                rest = behind;
            }
        }
        prop_assert_eq!(whole.text(), chunked.text());
        prop_assert_eq!(&whole.committed, &chunked.committed);
        prop_assert_eq!(&whole.notes, &chunked.notes);
        prop_assert_eq!(whole.resets, chunked.resets);
        let lines: usize = groups.iter().map(|g| g.iter().filter(|b| **b == b'\n').count()).sum();
        prop_assert_eq!(whole.notes.iter().map(|(_, code)| *code).collect::<Vec<_>>(), whole.codes());
        prop_assert!(whole.codes().len() <= lines + 1);
    }

    #[test]
    fn any_octets_come_to_rest_in_bounded_memory(
        octets in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'.')], 0..3000),
        size in 1usize..700,
        data in any::<bool>(),
    ) {
        let mut bench = if data { Bench::in_data(|_| {}) } else { Bench::new() };
        for chunk in octets.chunks(size) {
            bench.feed(chunk);
            prop_assert!(bench.closed || bench.session.input.len() <= 2048);
        }
        bench.session.eof();
        if !bench.closed {
            bench.run();
        }
        prop_assert!(bench.closed);
    }
}
