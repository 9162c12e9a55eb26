use std::time::Duration;

mod secure;

use super::*;
use crate::smtp::parameters::{Body, MailParameters};
use proptest::prelude::*;

/// A driver without a socket: hands out transactions, keeps everything.
struct Bench {
    session: Session,
    now: Instant,
    work: VecDeque<Transaction>,
    taken: usize,
    chunks: VecDeque<Bytes>,
    content: Vec<Bytes>,
    content_fails: bool,
    no_tls: Option<&'static str>,
    sent: Vec<Vec<u8>>,
    results: Vec<Vec<RecipientResult>>,
    opened: bool,
    failed: Option<OpenError>,
    closed: bool,
    until: Option<Instant>,
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        reverse_path: "a@b.example".parse().unwrap(),
        parameters: MailParameters::default(),
        recipients: recipients.iter().map(|text| (text.parse().unwrap(), Default::default())).collect(),
        size: 7,
        treatment: Treatment::AsTaken,
    }
}

const EHLO: &[u8] = b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 DSN\r\n";
const PLAIN: &[u8] = b"250 mx.example\r\n";

impl Bench {
    fn with(work: Vec<Transaction>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("c.example");
        change(&mut settings);
        let mut bench = Bench {
            session: Session::new(settings),
            now: Instant::now(),
            work: work.into(),
            taken: 0,
            chunks: VecDeque::new(),
            content: vec![Bytes::from_static(b".text\r\n")],
            content_fails: false,
            no_tls: None,
            sent: Vec::new(),
            results: Vec::new(),
            opened: false,
            failed: None,
            closed: false,
            until: None,
        };
        bench.run();
        bench
    }

    /// Past EHLO, the first envelope (or QUIT) sent.
    fn ready(ehlo: &[u8], work: Vec<Transaction>) -> Self {
        Bench::opened(Hello::Ehlo, ehlo, work)
    }

    fn opened(hello: Hello, ehlo: &[u8], work: Vec<Transaction>) -> Self {
        let mut bench = Bench::with(work, |settings| settings.hello = hello);
        bench.say(b"220 mx.example\r\n");
        assert_eq!(bench.take(), if hello == Hello::Lhlo { "LHLO c.example\r\n" } else { "EHLO c.example\r\n" });
        bench.say(ehlo);
        assert!(bench.opened);
        bench
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            match self.session.next(self.now) {
                Step::Send(octets) => self.sent.push(octets.to_vec()),
                Step::SendSecret(octets) => self.sent.push(octets.reveal().to_vec()),
                Step::StartTls => {
                    assert!(self.session.buffer().is_empty(), "text before TLS would be read inside of it");
                    self.sent.push(b"<TLS>".to_vec());
                    match self.no_tls {
                        Some(why) => self.session.tls_failed(why),
                        None => self.session.tls_started(),
                    }
                }
                Step::Derive(derivation) => self.session.derived(&derivation.run()),
                Step::NeedInput { until } => {
                    self.until = Some(until);
                    return;
                }
                Step::Opened => self.opened = true,
                Step::OpenFailed(error) => self.failed = Some(error),
                Step::NeedTransaction { .. } => {
                    let next = self.work.pop_front();
                    self.taken += usize::from(next.is_some());
                    if next.is_some() {
                        self.chunks = self.content.clone().into();
                    }
                    self.session.transaction(next);
                }
                Step::Content if self.content_fails => self.session.content_failed(),
                Step::Content => {
                    let chunk = self.chunks.pop_front();
                    self.session.content(chunk);
                }
                Step::Finished(results) => self.results.push(results),
                Step::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("the session does not come to rest");
    }

    fn say(&mut self, octets: &[u8]) {
        self.session.buffer().extend_from_slice(octets);
        self.run();
    }

    /// As a server says it: what stands behind a 354 comes when there was a dot.
    fn say_in_turn(&mut self, octets: &[u8]) {
        let text = std::str::from_utf8(octets).unwrap();
        let (mut from, mut line) = (0, 0);
        for (at, _) in text.match_indices('\n') {
            if text[line..].starts_with("354") {
                self.say(&octets[from..=at]);
                from = at + 1;
            }
            line = at + 1;
        }
        self.say(&octets[from..]);
    }

    fn cut(&mut self) {
        self.session.eof();
        self.run();
    }

    /// What was sent since the last call.
    fn take(&mut self) -> String {
        String::from_utf8(mem::take(&mut self.sent).concat()).unwrap()
    }

    /// The results as short texts.
    fn told(&self) -> Vec<Vec<String>> {
        let short = |result: &RecipientResult| match result {
            RecipientResult::Delivered(reply) => format!("delivered {}", reply.code),
            RecipientResult::Refused { phase, reply } => format!("refused {phase:?} {}", reply.code),
            RecipientResult::Broken { phase, cause } => format!("broken {phase:?} {cause:?}"),
            RecipientResult::CutAfterDot { cause } => format!("after dot {cause:?}"),
            RecipientResult::Unsupported { status, .. } => format!("unsupported {status}"),
        };
        self.results.iter().map(|results| results.iter().map(short).collect()).collect()
    }
}

#[test]
fn the_next_envelope_follows_the_dot() {
    let mut bench =
        Bench::ready(EHLO, vec![transaction(&["x@d.example"]), transaction(&["y@d.example", "postmaster"])]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<x@d.example>\r\nDATA\r\n");
    bench.say(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(bench.sent.len(), 1, "content, dot and envelope in one write");
    assert_eq!(
        bench.take(),
        "..text\r\n.\r\nMAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<y@d.example>\r\nRCPT TO:<postmaster>\r\nDATA\r\n"
    );
    bench.say(b"250 2.0.0 taken\r\n250 ok\r\n250 ok\r\n");
    assert_eq!(bench.told(), [["delivered 250"]]);
    bench.say(b"550 5.1.1 no\r\n354 go\r\n");
    assert_eq!(bench.take(), "..text\r\n.\r\n");
    bench.say(b"250 taken\r\n");
    assert_eq!(bench.told()[1], ["delivered 250", "refused Rcpt 550"]);
    assert_eq!(bench.take(), "QUIT\r\n");
    bench.say(b"221 bye\r\n");
    assert!(bench.closed && bench.session.end().is_none());
}

#[test]
fn without_pipelining_each_command_waits() {
    let two = || vec![transaction(&["x@d.example", "y@d.example"]), transaction(&["z@d.example"])];
    let mut bench = Bench::ready(PLAIN, two());
    for (reply, command) in [
        (&b""[..], "MAIL FROM:<a@b.example>\r\n"),
        (b"250 ok\r\n", "RCPT TO:<x@d.example>\r\n"),
        (b"450 later\r\n", "RCPT TO:<y@d.example>\r\n"),
        (b"251 ok\r\n", "DATA\r\n"),
        (b"354 go\r\n", "..text\r\n.\r\n"),
        (b"250 ok\r\n", "MAIL FROM:<a@b.example>\r\n"),
        (b"250 ok\r\n", "RCPT TO:<z@d.example>\r\n"),
        (b"550 no\r\n", "QUIT\r\n"),
    ] {
        bench.say(reply);
        assert_eq!(bench.take(), command);
    }
    assert_eq!(bench.told(), [vec!["refused Rcpt 450", "delivered 250"], vec!["refused Rcpt 550"]]);
    // a refused MAIL is followed by RSET
    let mut bench = Bench::ready(PLAIN, two());
    bench.take();
    bench.say(b"451 no\r\n");
    assert_eq!(bench.take(), "RSET\r\nMAIL FROM:<a@b.example>\r\n");
    bench.say(b"250 ok\r\n250 ok\r\n");
    assert_eq!(bench.take(), "RCPT TO:<z@d.example>\r\n");
    assert_eq!(bench.told(), [["refused Mail 451", "refused Mail 451"]]);
}

#[test]
fn content_without_accepted_recipients_is_a_lone_dot() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"]), transaction(&["y@d.example"])]);
    bench.take();
    bench.say(b"250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!(bench.take(), ".\r\n");
    assert!(bench.results.is_empty());
    bench.say(b"554 nobody\r\n");
    assert_eq!(bench.told(), [["refused Rcpt 550"]]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<y@d.example>\r\nDATA\r\n");
    // and where DATA is refused, the peer is reset
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"]), transaction(&["y@d.example"])]);
    bench.take();
    bench.say(b"250 ok\r\n550 no\r\n554 nobody\r\n");
    assert_eq!(bench.take(), "RSET\r\nMAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<y@d.example>\r\nDATA\r\n");
    bench.say(b"250 ok\r\n550 no\r\n503 no\r\n503 no\r\n");
    assert_eq!(bench.told()[1], ["refused Mail 550"]);
}

/// LMTP past LHLO, the first envelope sent.
fn lmtp(work: Vec<Transaction>) -> Bench {
    let bench = Bench::opened(Hello::Lhlo, EHLO, work);
    assert!(!bench.session.extensions().dsn, "whoever speaks LMTP reports itself");
    bench
}

#[test]
fn lmtp_answers_for_each_accepted_recipient_behind_the_dot() {
    let three = transaction(&["x@d.example", "no@d.example", "y@d.example", "z@d.example"]);
    let mut bench = lmtp(vec![three, transaction(&["w@d.example"])]);
    bench.take();
    bench.say(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(
        bench.take(),
        "..text\r\n.\r\nMAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<w@d.example>\r\nDATA\r\n",
        "the next envelope follows the dot"
    );
    bench.say(b"250 2.0.0 in\r\n452 4.2.2 full\r\n");
    assert!(bench.results.is_empty(), "one reply is missing");
    bench.say(b"552 5.2.2 too much\r\n");
    assert_eq!(bench.told(), [["delivered 250", "refused Rcpt 550", "refused Delivery 452", "refused Delivery 552"]]);
    bench.say_in_turn(b"250 ok\r\n250 ok\r\n354 go\r\n250 in\r\n");
    assert_eq!(bench.told()[1], ["delivered 250"]);
    assert_eq!(bench.take(), "..text\r\n.\r\nQUIT\r\n");
}

#[test]
fn lmtp_that_ends_between_the_replies_to_the_dot_leaves_the_rest_open() {
    let begun = || {
        let mut bench = lmtp(vec![transaction(&["x@d.example", "y@d.example", "z@d.example"])]);
        bench.say_in_turn(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 in\r\n");
        bench
    };
    let mut bench = begun();
    bench.cut();
    assert_eq!(bench.told(), [["delivered 250", "after dot Cut", "after dot Cut"]]);
    let mut bench = begun();
    bench.say(b"421 4.3.2 going down\r\n");
    assert_eq!(bench.told(), [["delivered 250", "refused Delivery 421", "after dot Closing"]]);
    let mut bench = begun();
    bench.session.timeout();
    bench.run();
    assert_eq!(bench.told(), [["delivered 250", "after dot TimedOut", "after dot TimedOut"]]);
    let mut bench = begun();
    bench.say(b"250-half\r\n251 in\r\n");
    assert_eq!(bench.told(), [["delivered 250", "after dot Garbage", "after dot Garbage"]]);
}

#[test]
fn lmtp_has_no_helo_and_no_content_for_nobody() {
    let mut bench = Bench::with(vec![], |settings| settings.hello = Hello::Lhlo);
    bench.say(b"220 x\r\n");
    assert_eq!(bench.take(), "LHLO c.example\r\n");
    bench.say(b"500 what?\r\n");
    assert_eq!(bench.take(), "");
    assert!(matches!(bench.failed, Some(OpenError::Refused { phase: Phase::Hello, .. })) && bench.closed);

    let mut bench = lmtp(vec![transaction(&["x@d.example"])]);
    bench.take();
    bench.say(b"250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!((bench.take().as_str(), bench.closed), ("", true), "its replies to a dot could not be told apart");
    assert_eq!(bench.told(), [["refused Rcpt 550"]]);
}

#[test]
fn a_reply_before_the_dot_is_none_to_it() {
    // found by tests/fuzz: the second 250 came with the 354, and was taken for that to a dot that was still to be sent
    for (early, expected) in [
        (&b"250 taken\r\n"[..], "broken Content Garbage"),
        (b"250 ta", "broken Content Garbage"),
        (b"552 too much\r\n", "refused Content 552"),
        (b"421 bye\r\n", "refused Content 421"),
    ] {
        for ehlo in [EHLO, PLAIN] {
            let mut bench = Bench::ready(ehlo, vec![transaction(&["x@d.example"])]);
            if ehlo == PLAIN {
                bench.say(b"250 ok\r\n");
                bench.say(b"250 ok\r\n");
                bench.say(&[b"354 go\r\n", early].concat());
            } else {
                bench.say(&[b"250 ok\r\n250 ok\r\n354 go\r\n", early].concat());
            }
            assert_eq!(bench.told(), [[expected]]);
            assert!(bench.closed && !bench.take().contains("\r\n.\r\n"), "no dot");
        }
    }
}

#[test]
fn extensions_that_a_peer_lacks() {
    let mut utf8 = transaction(&["x@d.example"]);
    utf8.parameters.smtputf8 = true;
    let mut large = transaction(&["x@d.example"]);
    large.size = 1001;
    let mixed = transaction(&["ü@d.example", "x@d.example"]);
    let mut bench = Bench::ready(EHLO, vec![utf8.clone(), large, mixed]);
    assert_eq!(bench.told(), [["unsupported 5.6.7"], ["unsupported 5.3.4"]]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example> SIZE=7\r\nRCPT TO:<x@d.example>\r\nDATA\r\n");
    bench.say_in_turn(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n");
    assert_eq!(bench.told()[2], ["unsupported 5.6.7", "delivered 250"]);
    let mut bench = Bench::ready(b"250-mx\r\n250 SMTPUTF8\r\n", vec![transaction(&["ü@d.example"])]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example> SMTPUTF8\r\n");
    // an unsupported transaction behind the dot keeps the order
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"]), utf8, transaction(&["y@d.example"])]);
    bench.say(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert!(bench.told().is_empty());
    bench.say(b"250 ok\r\n");
    assert_eq!(bench.told(), [["delivered 250"], ["unsupported 5.6.7"]]);
    assert!(bench.take().ends_with("RCPT TO:<y@d.example>\r\nDATA\r\n"));
}

#[test]
fn content_that_is_changed_has_no_size_and_content_that_does_not_fit_stays() {
    let with = |body, treatment| {
        let mut transaction = transaction(&["x@d.example"]);
        (transaction.parameters.body, transaction.treatment) = (body, treatment);
        transaction
    };
    let work = vec![
        with(Body::SevenBit, Treatment::Unfit("it is signed")),
        with(Body::Binary, Treatment::Unfit("it is signed")),
        with(Body::EightBitMime, Treatment::AsTaken),
        with(Body::SevenBit, Treatment::Changed),
    ];
    let mut bench = Bench::ready(EHLO, work);
    assert_eq!(bench.told(), [["unsupported 5.6.3"], ["unsupported 5.6.3"], ["unsupported 5.6.3"]]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example>\r\nRCPT TO:<x@d.example>\r\nDATA\r\n");
}

#[test]
fn opening_fails_in_every_way() {
    let open = |replies: &[&[u8]], end: fn(&mut Bench)| {
        let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |_| {});
        replies.iter().for_each(|reply| bench.say(reply));
        end(&mut bench);
        assert!(bench.closed && !bench.opened && bench.taken == 0);
        bench.failed.unwrap()
    };
    let hangs = |bench: &mut Bench| {
        assert!(bench.until.unwrap() == bench.now + Duration::from_secs(300));
        bench.session.timeout();
        bench.run();
    };
    let broken = |phase, cause| OpenError::Broken { phase, cause };
    assert_eq!(open(&[], Bench::cut), broken(Phase::Banner, Cause::Cut));
    assert_eq!(open(&[], hangs), broken(Phase::Banner, Cause::TimedOut));
    assert_eq!(open(&[b"22"], hangs), broken(Phase::Banner, Cause::TimedOut));
    assert_eq!(open(&[b"HTTP/1.1 400 Bad Request\r\n"], |_| {}), broken(Phase::Banner, Cause::Garbage));
    assert_eq!(open(&[b"250 ok\r\n"], |_| {}), broken(Phase::Banner, Cause::Garbage));
    assert_eq!(open(&[b"220 ok\r\n", b"25"], Bench::cut), broken(Phase::Hello, Cause::Cut));
    assert_eq!(open(&[b"220 ok\r\n", b"354 ok\r\n"], |_| {}), broken(Phase::Hello, Cause::Garbage));
    for (replies, phase, code) in [
        (&[&b"554 go away\r\n"[..]][..], Phase::Banner, 554),
        (&[b"421 later\r\n"], Phase::Banner, 421),
        (&[b"220 ok\r\n", b"421 later\r\n"], Phase::Hello, 421),
        (&[b"220 ok\r\n", b"500 what\r\n", b"550 no\r\n"], Phase::Hello, 550),
    ] {
        match open(replies, |_| {}) {
            OpenError::Refused { phase: at, reply } => assert_eq!((at, reply.code), (phase, code)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn helo_when_ehlo_is_not_known_or_not_wanted() {
    let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |_| {});
    bench.say(b"220-hello\r\n220 world\r\n");
    bench.say(b"502 what\r\n");
    assert_eq!(bench.take(), "EHLO c.example\r\nHELO c.example\r\n");
    bench.say(EHLO);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example>\r\n", "no extension after HELO");
    let mut bench = Bench::with(vec![], |settings| settings.hello = Hello::Helo);
    bench.say(b"220 x\r\n");
    assert_eq!(bench.take(), "HELO c.example\r\n");
}

/// What is said before it ends, and what comes of the two transactions, by how it ends: cut, time-out, garbage, 421.
#[test]
fn the_end_at_each_phase() {
    let rows: [(&[u8], [&str; 4], usize); 7] = [
        (b"", ["broken Mail Cut", "broken Mail TimedOut", "broken Mail Garbage", "refused Mail 421"], 1),
        (b"250 a\r\n", ["broken Rcpt Cut", "broken Rcpt TimedOut", "broken Rcpt Garbage", "refused Rcpt 421"], 1),
        (
            b"250 a\r\n250 b\r\n",
            ["broken Data Cut", "broken Data TimedOut", "broken Data Garbage", "refused Data 421"],
            1,
        ),
        (
            b"250 a\r\n250 b\r\n354 c\r\n",
            ["after dot Cut", "after dot TimedOut", "after dot Garbage", "refused Dot 421"],
            2,
        ),
        (b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n", ["delivered 250"; 4], 2),
        (b"250 a\r\n250 b\r\n354 c\r\n451 d\r\n", ["refused Dot 451"; 4], 2),
        (b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n250 e\r\n", ["delivered 250"; 4], 2),
    ];
    for (said, expected, taken) in rows {
        for (how, expected) in expected.into_iter().enumerate() {
            let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"]), transaction(&["y@d.example"])]);
            bench.say_in_turn(said);
            match how {
                0 => bench.cut(),
                1 => {
                    bench.session.timeout();
                    bench.run();
                }
                2 => bench.say(b"25 x\r\n"),
                _ => bench.say(b"421 4.3.2 going\r\n"),
            }
            let told = bench.told();
            assert!(bench.closed, "{said:?} {how}");
            assert_eq!(told[0], [expected], "{said:?} {how}");
            assert_eq!((bench.taken, told.len()), (taken, taken));
            if taken == 2 && how < 3 {
                let cause = ["Cut", "TimedOut", "Garbage"][how];
                assert!(told[1][0].starts_with("broken ") && told[1][0].ends_with(cause), "{told:?}");
            }
            let (cause, reply) = bench.session.end().unwrap();
            assert_eq!(cause, [Cause::Cut, Cause::TimedOut, Cause::Garbage, Cause::Closing][how]);
            assert_eq!(reply.is_some(), how == 3);
        }
    }
}

#[test]
fn a_cut_at_any_octet_delivers_only_what_was_confirmed() {
    let said = b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n250 e\r\n250 f\r\n354 g\r\n250 h\r\n";
    for at in 0..=said.len() {
        let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"]), transaction(&["y@d.example"])]);
        bench.say_in_turn(&said[..at]);
        bench.cut();
        let told = bench.told();
        let expected = |confirmed: usize, asked: usize| match at {
            at if at >= confirmed => "delivered",
            at if at >= asked => "after dot",
            _ => "broken",
        };
        assert!(told[0][0].starts_with(expected(28, 21)), "{at}: {told:?}");
        assert_eq!(told.len(), if at >= 21 { 2 } else { 1 }, "{at}");
        if let Some(second) = told.get(1) {
            assert!(second[0].starts_with(expected(56, 49)), "{at}: {told:?}");
        }
    }
}

#[test]
fn a_421_to_one_recipient_breaks_the_others() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example", "y@d.example", "z@d.example"])]);
    bench.say(b"250 a\r\n250 x\r\n421 enough\r\n");
    assert_eq!(bench.told(), [["broken Rcpt Closing", "refused Rcpt 421", "broken Rcpt Closing"]]);
}

#[test]
fn a_cut_after_success_is_success() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"])]);
    bench.say_in_turn(b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n");
    bench.cut();
    assert_eq!(bench.told(), [["delivered 250"]]);
    assert!(bench.closed && bench.session.end().is_none(), "QUIT was sent");
}

#[test]
fn content_that_cannot_be_had_sends_no_dot() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"])]);
    bench.take();
    bench.content_fails = true;
    bench.say(b"250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(bench.told(), [["broken Content ContentUnavailable"]]);
    assert!(bench.closed && bench.take().is_empty());
}

#[test]
fn a_reply_in_the_middle_of_the_content_counts() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"])]);
    bench.say(b"250 a\r\n250 b\r\n");
    // the peer says 552 behind its 354 and closes; the driver's write fails
    bench.session.buffer().extend_from_slice(b"354 c\r\n552 5.3.4 too large\r\n");
    bench.session.eof();
    bench.run();
    assert_eq!(bench.told(), [["refused Content 552"]]);
}

#[test]
fn each_phase_has_its_deadline() {
    let table = Timeouts {
        banner: Duration::from_secs(1),
        mail: Duration::from_secs(2),
        rcpt: Duration::from_secs(3),
        ..Timeouts::default()
    };
    let mut bench = Bench::with(vec![transaction(&["x@d.example"])], |settings| settings.timeouts = table);
    let began = bench.now;
    assert_eq!(bench.until, Some(began + Duration::from_secs(1)));
    bench.now += Duration::from_millis(900);
    bench.say(b"22");
    assert_eq!(bench.until, Some(began + Duration::from_secs(1)), "octets do not extend it");
    bench.say(b"0 x\r\n");
    bench.say(EHLO);
    assert_eq!(bench.until, Some(bench.now + Duration::from_secs(2)));
    bench.say(b"250 a\r\n");
    assert_eq!(bench.until, Some(bench.now + Duration::from_secs(3)));
    bench.say(b"250 a\r\n");
    assert_eq!(bench.until, Some(bench.now + Duration::from_secs(120)));
    bench.say(b"354 a\r\n");
    assert_eq!(bench.until, Some(bench.now + Duration::from_secs(600)));
}

#[test]
fn an_idle_connection_notices_a_421() {
    let mut session = Session::new(Settings::new("c.example"));
    let now = Instant::now();
    session.buffer().extend_from_slice(&[b"220 x\r\n", EHLO].concat());
    while session.next(now) != (Step::NeedTransaction { wait: true }) {}
    session.buffer().extend_from_slice(b"421 idle");
    assert_eq!(session.next(now), Step::NeedTransaction { wait: true });
    session.buffer().extend_from_slice(b" too long\r\n");
    assert_eq!(session.next(now), Step::Close);
    assert_eq!(session.end().unwrap().0, Cause::Closing);
    // a transaction that comes too late is not lost
    session.transaction(Some(transaction(&["x@d.example"])));
    assert!(matches!(session.next(now), Step::Finished(results) if results.len() == 1));
}

#[test]
fn large_chunks_are_passed_on_and_small_ones_gathered() {
    let mut bench = Bench::ready(EHLO, vec![transaction(&["x@d.example"])]);
    bench.content = vec![Bytes::from_static(b"a\r\n"); 3];
    bench.content.push(Bytes::from(vec![b'x'; 40_000]));
    bench.chunks = bench.content.clone().into();
    bench.take();
    bench.say(b"250 a\r\n250 b\r\n354 c\r\n");
    let sizes: Vec<usize> = bench.sent.iter().map(Vec::len).collect();
    assert_eq!(sizes, [9, 40_000, 5]);
}

const BINARY: &[u8] = b"250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n";
const BINARY_PLAIN: &[u8] = b"250-mx.example\r\n250-CHUNKING\r\n250 BINARYMIME\r\n";

fn binary(recipients: &[&str]) -> Transaction {
    let parameters = MailParameters { body: Body::Binary, ..MailParameters::default() };
    Transaction { parameters, ..transaction(recipients) }
}

#[test]
fn binary_content_goes_in_chunks_as_it_is() {
    let mut bench = Bench::ready(BINARY, vec![binary(&["x@d.example", "y@d.example"]), transaction(&["z@d.example"])]);
    bench.chunks = [Bytes::from_static(b".\n\r\0"), Bytes::new(), Bytes::from_static(b"\r\n.\r\nQUIT\r\n")].into();
    assert_eq!(
        bench.take(),
        "MAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<x@d.example>\r\nRCPT TO:<y@d.example>\r\n"
    );
    bench.say(b"250 ok\r\n550 no\r\n");
    assert_eq!(bench.take(), "", "the last recipient is not answered for");
    bench.say(b"250 ok\r\n");
    assert_eq!(bench.take(), "BDAT 4\r\n.\n\r\0");
    assert_eq!(bench.until, Some(bench.now + Duration::from_secs(180)));
    bench.say(b"250 4 octets\r\n");
    assert_eq!(bench.take(), "BDAT 11 LAST\r\n\r\n.\r\nQUIT\r\n");
    bench.say(b"250 taken\r\n");
    assert_eq!(bench.told(), [["refused Rcpt 550", "delivered 250"]]);
    assert_eq!(bench.take(), "MAIL FROM:<a@b.example>\r\nRCPT TO:<z@d.example>\r\nDATA\r\n", "no RSET");
}

#[test]
fn binary_content_without_pipelining_without_octets_and_without_recipients() {
    let mut bench = Bench::ready(BINARY_PLAIN, vec![binary(&["x@d.example"]), binary(&["y@d.example"])]);
    bench.chunks.clear();
    for (reply, command) in [
        (&b""[..], "MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n"),
        (b"250 ok\r\n", "RCPT TO:<x@d.example>\r\n"),
        (b"250 ok\r\n", "BDAT 0 LAST\r\n"),
        (b"250 ok\r\n", "MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n"),
        (b"250 ok\r\n", "RCPT TO:<y@d.example>\r\n"),
        (b"550 no\r\n", "QUIT\r\n"),
    ] {
        bench.say(reply);
        assert_eq!(bench.take(), command);
    }
    assert_eq!(bench.told(), [["delivered 250"], ["refused Rcpt 550"]]);
}

#[test]
fn a_refused_chunk_is_followed_by_rset_and_a_cut_tells_what_it_cut() {
    let two = || {
        let mut bench = Bench::ready(BINARY, vec![binary(&["x@d.example"]), transaction(&["y@d.example"])]);
        bench.chunks = [Bytes::from_static(b"a"), Bytes::from_static(b"b")].into();
        bench.say(b"250 ok\r\n250 ok\r\n");
        bench.take();
        bench
    };
    for last in [false, true] {
        let mut bench = two();
        if last {
            bench.say(b"250 ok\r\n");
            assert_eq!(bench.take(), "BDAT 1 LAST\r\nb");
        }
        bench.say(b"452 full\r\n");
        let phase = if last { "refused Dot 452" } else { "refused Content 452" };
        assert_eq!(bench.told(), [[phase]]);
        assert!(bench.take().starts_with("RSET\r\nMAIL FROM:<a@b.example>\r\n"));
        let mut bench = two();
        if last {
            bench.say(b"250 ok\r\n");
        }
        bench.cut();
        assert_eq!(bench.told(), [[if last { "after dot Cut" } else { "broken Content Cut" }]]);
    }
}

#[test]
fn what_a_peer_does_not_carry_is_not_sent() {
    let mut secret = transaction(&["x@d.example"]);
    secret.parameters.require_tls = true;
    let bench = Bench::ready(EHLO, vec![binary(&["x@d.example"]), secret.clone()]);
    assert_eq!(bench.told(), [["unsupported 5.6.1"], ["unsupported 5.7.30"]]);
    // REQUIRETLS counts only where TLS was verified
    for (verified, expected) in [(false, ""), (true, "MAIL FROM:<a@b.example> REQUIRETLS\r\n")] {
        let mut bench = Bench::with(vec![secret.clone()], |settings| {
            settings.encryption = Encryption::Implicit;
            settings.verified_tls = verified;
        });
        bench.say(b"220 x\r\n");
        bench.take();
        bench.say(b"250-x\r\n250 REQUIRETLS\r\n");
        assert!(bench.take().starts_with(expected), "{verified}");
        assert_eq!(bench.told().len(), usize::from(!verified));
    }
}

fn peer() -> impl Strategy<Value = Vec<u8>> {
    let reply = prop_oneof![
        6 => Just(&b"250 ok\r\n"[..]), 3 => Just(&b"354 go\r\n"[..]), 2 => Just(&b"550 no\r\n"[..]),
        2 => Just(&b"450-later\r\n450 x\r\n"[..]), 1 => Just(&b"421 bye\r\n"[..]), 1 => Just(&b"25"[..]),
        1 => Just(&b"220 x\r\n"[..]), 1 => Just(&b"\r\n"[..]), 1 => Just(&b"250 x\n"[..]), 1 => Just(&b"\0"[..]),
    ];
    proptest::collection::vec(reply, 0..30).prop_map(|replies| replies.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_a_peer_says_each_recipient_has_one_result(
        said in peer(),
        size in 1usize..40,
        pipelining in any::<bool>(),
        in_chunks in any::<bool>(),
        cut in any::<bool>(),
        speaks_lmtp in any::<bool>(),
    ) {
        let first = if in_chunks && !speaks_lmtp { binary } else { transaction };
        let ehlo = match (in_chunks && !speaks_lmtp, pipelining) {
            (false, true) => EHLO,
            (false, false) => PLAIN,
            (true, true) => BINARY,
            (true, false) => BINARY_PLAIN,
        };
        let work = vec![first(&["x@d.example", "y@d.example"]), transaction(&["z@d.example"]), transaction(&["ü@d.example"])];
        let hello = if speaks_lmtp { Hello::Lhlo } else { Hello::Ehlo };
        let mut bench = Bench::opened(hello, ehlo, work);
        for chunk in said.chunks(size) {
            bench.say(chunk);
        }
        if cut { bench.cut() } else {
            bench.session.timeout();
            bench.run();
        }
        prop_assert!(bench.closed);
        prop_assert_eq!(bench.results.len(), bench.taken);
        for (results, recipients) in bench.results.iter().zip([2, 1, 1]) {
            prop_assert_eq!(results.len(), recipients);
        }
    }

    #[test]
    fn no_octets_of_a_peer_panic(said in proptest::collection::vec(any::<u8>(), 0..500), ready in any::<bool>()) {
        let work = vec![transaction(&["x@d.example"])];
        let mut bench = if ready { Bench::ready(EHLO, work) } else { Bench::with(work, |_| {}) };
        bench.say(&said);
        bench.cut();
        prop_assert!(bench.closed && bench.results.len() == bench.taken);
    }
}

#[test]
fn a_session_that_only_asks_sends_no_content() {
    for ehlo in [EHLO, PLAIN] {
        let work = vec![transaction(&["a@x.example", "no@x.example"]), transaction(&["c@x.example"])];
        let mut bench = Bench::with(work, |settings| settings.envelope_only = true);
        bench.say(b"220 mx.example\r\n");
        bench.take();
        bench.say(ehlo);
        let mut said = String::new();
        while !bench.closed {
            let sent = bench.take();
            assert!(!sent.is_empty(), "{said}");
            for line in sent.lines() {
                let reply: &[u8] = match line {
                    _ if line.starts_with("RCPT TO:<no@") => b"550 5.1.1 nobody\r\n",
                    "QUIT" => b"221 bye\r\n",
                    _ => b"250 ok\r\n",
                };
                bench.say(reply);
            }
            said += &sent;
        }
        assert!(!said.contains("DATA") && said.contains("RSET\r\nMAIL") && said.ends_with("QUIT\r\n"), "{said}");
        let taken = |result: &RecipientResult| matches!(result, RecipientResult::Delivered(_));
        let results: Vec<Vec<bool>> = bench.results.iter().map(|all| all.iter().map(taken).collect()).collect();
        assert_eq!(results, [vec![true, false], vec![true]], "{:?}", bench.results);
    }
}
