"""Hostile clients: the relay table and the ends of data, with a ledger that proves that nothing extra arrives."""

import itertools
import re
import threading
import time
import unittest

from harness import make_sut, only_bridgehead, sut, wait_for
from load import Smtp, message, new_id, stuff
from sink import Sink

L, D, D2, S, IP = "local.test", "foreign.test", "second.test", "relay.test", "[127.0.0.1]"

SENDERS = ["<>", f"<a@{D2}>", f"<a@{D}>", f"<a@{L}>", f"<a@{S}>", "<a@[127.0.0.1]>", "<a@localhost>", "<a>", f"<{L}!a>"]
RECIPIENTS = [
    f"<u@{D}>", f"u@{D}", f"<u%{D}>", f"<u%{D}@{L}>", f"<u%{D}@{S}>", f"<u%{D}@{IP}>", f'<"u@{D}">', f'<"u%{D}">',
    f"<u@{D}@{L}>", f"<u@{D}@{S}>", f"<u@{D}@{IP}>", f'<"u@{D}"@{L}>', f'<"u@{D}"@{S}>', f'<"u@{D}"@{IP}>',
    f"<@{L}:u@{D}>", f"<@{S}:u@{D}>", f"<@{IP}:u@{D}>", f"<@{S},@{L}:u@{D}>", f"<{D}!u>", f"<{D}!u@{L}>", f"<{D}!u@{S}>",
    f"<{D}!u@{IP}>", f"<{L}!{D}!u>", f"<u@{D}.>", f"<v@{L}>,<u@{D}>", f"<v@{L} u@{D}>", f"<u@{L}%{D}>", f'<"u"@{D}>',
]
ALLOWED = f"<v@{L}> ORCPT=rfc822;u@{D}"

ENDS = [b"\n.\n", b"\n.\r", b"\n.\r\n", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n. \r\n", b"\r\n..\r\n"]
SMUGGLED = f"MAIL FROM:<evil@{D2}>\r\nRCPT TO:<evil@{D}>\r\nDATA\r\nX-Test-Id: smuggled\r\n\r\nevil\r\n.\r\n".encode()


class Replies:
    """A client that counts every reply that comes."""

    def __init__(self, port, source=None):
        self.c = Smtp(port, source=source, timeout=20)

    def data(self, sender, recipient):
        self.c.expect("MAIL", 250, line=f"MAIL FROM:{sender}")
        self.c.expect("RCPT", 250, line=f"RCPT TO:{recipient}")
        self.c.expect("DATA", 354, line="DATA")


@only_bridgehead
class RelayTable(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("relay").start()
        cls.it.local_domain(L)
        cls.it.server(fqdn=S)
        cls.it.relay_for("127.0.0.1/32")
        cls.it.route_to(cls.sink.port)
        cls.box = cls.it.mailbox("v")

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def sessions(self, rows, source):
        """Each row with a session, a new one every few rows: too many errors end a session, and slow it before."""
        rows = list(rows)
        for n in range(0, len(rows), 3):
            with Smtp(self.it.smtp_port, source=source) as c:
                for row in rows[n:n + 3]:
                    yield c, row

    def refusal(self, code, text, enhanced):
        return code in (501, 553) or (code == 550 and text.startswith(enhanced))

    def test_an_untrusted_client_relays_in_no_spelling(self):
        wrong = []
        for c, (sender, recipient) in self.sessions(itertools.product(SENDERS, RECIPIENTS), "127.0.0.2"):
            code, text = c.command(f"MAIL FROM:{sender}")
            if code != 250:
                if not self.refusal(code, text, ("5.7.1", "5.1.7", "5.1.8")):
                    wrong.append((sender, "MAIL", code, text))
                continue
            code, text = c.command(f"RCPT TO:{recipient}")
            # An address in L that nobody has is unknown, not foreign: both refuse.
            if not self.refusal(code, text, ("5.7.1", "5.1.1")):
                wrong.append((sender, recipient, code, text))
            code, text = c.command("DATA")
            if code not in (503, 554):
                wrong.append((sender, recipient, "DATA", code, text))
                break
            c.command("RSET")
        self.assertEqual(wrong, [])
        # The plain form is refused as relaying, by name.
        with Smtp(self.it.smtp_port, source="127.0.0.2") as c:
            c.expect("MAIL", 250, line=f"MAIL FROM:<a@{D2}>")
            code, text = c.command(f"RCPT TO:<u@{D}>")
            self.assertEqual((code, text[:5]), (550, "5.7.1"))
        time.sleep(0.5)
        self.assertEqual(self.sink.deliveries, [])

    def test_the_original_recipient_is_no_recipient(self):
        sent = 0
        for sender in SENDERS:
            with Smtp(self.it.smtp_port, source="127.0.0.2") as c:
                if c.command(f"MAIL FROM:{sender}")[0] != 250:
                    continue
                c.expect("RCPT", 250, line=f"RCPT TO:{ALLOWED}")
                c.expect("DATA", 354, line="DATA")
                c.send(stuff(message(new_id(), 500)))
                self.assertEqual(c.reply()[0], 250)
                sent += 1
        self.assertGreaterEqual(sent, 5)
        wait_for("them in v's Maildir", lambda: len(self.box.files()) == sent, 15)
        time.sleep(0.5)
        self.assertEqual(self.sink.deliveries, [])

    def test_a_trusted_client_reaches_nobody_it_did_not_name(self):
        wrong = []
        for c, (sender, recipient) in self.sessions(itertools.product(SENDERS, RECIPIENTS + [ALLOWED]), None):
            code, text = c.command(f"MAIL FROM:{sender}")
            if code != 250:
                if code not in (501, 550, 553):
                    wrong.append((sender, code, text))
                continue
            code, text = c.command(f"RCPT TO:{recipient}")
            if code not in (250, 501, 550, 553):
                wrong.append((sender, recipient, code, text))
            c.command("RSET")
        self.assertEqual(wrong, [])
        self.assertEqual([d.recipients for d in self.sink.deliveries], [])


class EndOfData(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("ends").start()
        cls.it.relay_for("127.0.0.0/8")
        cls.it.route_to(cls.sink.port)
        cls.sent_ok = set()
        cls.lock = threading.Lock()

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def one(self, end, cuts, before=b"", size_exceeded=False):
        """One body with `end` in it and a smuggled message behind that, sent in pieces; gives what was wrong, or None."""
        id = new_id()
        # Distinct transactions of the sink: the first X-Test-Id of a body is ours, smuggled ones would come alone.
        head = f"X-Test-Id: {id}\r\nFrom: <a@{D2}>\r\n\r\n".encode() + before + b"text"
        data = head + end + SMUGGLED
        with Smtp(self.it.smtp_port, timeout=20) as c:
            c.expect("MAIL", 250, line=f"MAIL FROM:<a@{D2}>")
            c.expect("RCPT", 250, line=f"RCPT TO:<u@{D}>")
            c.expect("DATA", 354, line="DATA")
            if cuts == "each":
                c.send(head[:-4])
                pieces = [data[i:i + 1] for i in range(len(head) - 4, len(data))]
                for p in pieces:
                    c.send(p)
            else:
                at = len(head) + cuts
                c.send(data[:at])
                time.sleep(0.0015)
                c.send(data[at:])
            code, text = c.reply()
            # Exactly one reply: the next one is that of the NOOP.
            try:
                noop = c.command("NOOP this-is-the-end")
            except ConnectionError:
                noop = None
            if noop is not None and noop[0] != 250:
                return f"{end!r} {cuts}: after {code} {text} came {noop}"
            if noop is not None:
                quit_ = c.command("QUIT")
                if quit_[0] != 221:
                    return f"{end!r} {cuts}: QUIT got {quit_}"
            if c.buffer:
                return f"{end!r} {cuts}: more replies {c.buffer!r}"
            bare = re.search(rb"\r(?!\n)|(?<!\r)\n", end) is not None
            if size_exceeded:
                if code != 552:
                    return f"{end!r}: {code} {text} instead of 552"
            elif sut() == "bridgehead" and bare and (code, text[:6]) != (550, "5.6.11"):
                return f"{end!r} {cuts}: {code} {text} instead of 550 5.6.11"
            elif sut() == "bridgehead" and not bare and b"\0" not in end and code != 250:
                return f"{end!r} {cuts}: {code} {text} instead of 250"
            if code == 250:
                with self.lock:
                    self.sent_ok.add(id)
        return None

    def run_all(self, jobs):
        jobs, wrong = list(jobs), []
        it = iter(jobs)

        def work():
            while True:
                with self.lock:
                    job = next(it, None)
                if job is None:
                    return
                try:
                    fault = self.one(*job[0], **job[1])
                except Exception as e:
                    fault = f"{job[0]}: {e!r}"
                if fault:
                    wrong.append(fault)
        threads = [threading.Thread(target=work) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong[:20], [])
        self.assertEqual(self.sink.wait_accepted(self.sent_ok, 60), set())
        time.sleep(0.5)
        smuggled = [d for d in self.sink.deliveries if d.sender.startswith("evil") or any(r.startswith("evil") for r in d.recipients)]
        self.assertEqual(len(smuggled), 0)
        self.assertEqual(set(self.sink.ids()), self.sent_ok)
        self.assertEqual({n for n in self.sink.ids().values()} - {1}, set())
        return len(jobs)

    def test_only_one_end_of_data_split_at_every_byte(self):
        n = self.run_all([((end, cut), {}) for end in ENDS for cut in range(-5, len(end) + len(SMUGGLED), 1)]
                         + [((end, "each"), {}) for end in ENDS])
        print(f"      {n} sessions")

    def test_two_ends_in_a_row(self):
        self.run_all([((a + b, cut), {}) for a in ENDS for b in ENDS
                      if b"\r\n.\r\n" not in a + b for cut in (0, len(a), len(a + b))])

    @only_bridgehead
    def test_the_same_past_the_size_limit(self):
        self.it.server(messages={"maxSize": "64KiB"})
        try:
            filler = b"0123456789" * 7 + b"\r\n"
            self.run_all([((end, cut), {"before": filler * 1200, "size_exceeded": True}) for end in ENDS for cut in range(0, len(end) + 1)])
        finally:
            self.it.server(messages={"maxSize": None})

    def test_a_dot_as_the_very_first_line(self):
        for pieces in ([b".\r\n"], [b".", b"\r\n"], [b".\r", b"\n"], [b".", b"\r", b"\n"]):
            with Smtp(self.it.smtp_port) as c:
                c.expect("MAIL", 250, line=f"MAIL FROM:<a@{D2}>")
                c.expect("RCPT", 250, line=f"RCPT TO:<u@{D}>")
                c.expect("DATA", 354, line="DATA")
                for p in pieces:
                    c.send(p)
                    time.sleep(0.01)
                self.assertEqual(c.reply()[0], 250)
                self.assertEqual(c.command("NOOP")[0], 250)
        # They have no id; the ledger of the other tests does not count them.
        wait_for("the empty messages", lambda: len([d for d in self.sink.accepted() if d.id is None]) >= 4, 15)
        self.sink.deliveries[:] = [d for d in self.sink.deliveries if d.id is not None]

    @only_bridgehead
    def test_an_outbound_body_is_clean_on_every_path(self):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction(f"a@{D2}", [f"u@{D}"], message(id, body=b".\r\n..\r\nx\r\n"))
        self.assertEqual(self.sink.wait_accepted([id], 15), set())
        raw = self.sink.by_id(id)[0].raw
        self.assertIsNone(re.search(rb"\r(?!\n)|(?<!\r)\n", raw))
        self.sent_ok.add(id)


@only_bridgehead
class Limits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.it = make_sut("limits").start()
        cls.it.local_domain(L)
        cls.it.mailbox("v")

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()

    def rss(self):
        with open(f"/proc/{self.it.pid()}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024

    def test_a_line_without_end_costs_no_memory(self):
        before = self.rss()
        c = Smtp(self.it.smtp_port, timeout=20)
        c.sock.settimeout(20)
        sent = 0
        try:
            for _ in range(1600):
                c.send(b"X" * 65536)
                sent += 65536
        except (ConnectionError, TimeoutError):
            pass
        self.assertLess(self.rss() - before, 32 << 20)
        c.close()
        with Smtp(self.it.smtp_port) as again:
            self.assertEqual(again.command("NOOP")[0], 250)

    def test_lengths(self):
        with Smtp(self.it.smtp_port) as c:
            for n, good in ((63, True), (64, True), (65, False), (70000, False)):
                code, _ = c.command("MAIL FROM:<%s@far.test>" % ("a" * n))
                self.assertEqual(code == 250, good, n)
                if not good:
                    self.assertIn(code, (500, 501, 550, 553))
                else:
                    c.command("RSET")
            for line in (b"MAIL FROM:<a\0b@far.test>\r\n", b"MAIL FROM:<\xff\xfe@far.test>\r\n", b"MAIL FROM:<a@\xc3\x28.test>\r\n",
                         b"\xff\xff\xff\xff\r\n", b"MAIL FROM:<a@far.test\r\n", b"MAIL FROM:a@far.test>\r\n", b"MAIL FROM\r\n", b"\r\n", b"RCPT\r\n"):
                c.send(line)
                code, text = c.reply()
                self.assertIn(code, (500, 501, 502, 503, 550, 553), (line, code, text))
            self.assertEqual(c.command("NOOP")[0], 250)

    def test_sequence(self):
        with Smtp(self.it.smtp_port) as c:
            self.assertEqual(c.command(f"RCPT TO:<v@{L}>")[0], 503)
            self.assertEqual(c.command("DATA")[0], 503)
            self.assertEqual(c.command("MAIL FROM:<a@far.test>")[0], 250)
            self.assertEqual(c.command("MAIL FROM:<a@far.test>")[0], 503)
            self.assertIn(c.command("DATA")[0], (503, 554))
            self.assertEqual(c.command(f"VRFY v@{L}")[0], 252)
            self.assertEqual(c.command("EXPN list")[0], 502)
            self.assertEqual(c.command("RSET")[0], 250)
            self.assertEqual(c.command("TURN")[0], 502)
            self.assertEqual(c.command("HELP")[0], 214)
            self.assertEqual(c.command("QUIT")[0], 221)
            self.assertTrue(c.at_end())

    def test_other_protocols_on_the_port(self):
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, bytes(range(256)) * 50):
            c = Smtp(self.it.smtp_port, greet=False, timeout=10)
            c.expect("banner", 220)
            c.send(data)
            got = b""
            try:
                c.sock.settimeout(1.5)
                while True:
                    more = c.sock.recv(65536)
                    if not more:
                        break
                    got += more
            except (TimeoutError, ConnectionError):
                pass
            self.assertNotRegex(got, rb"(?m)^2\d\d")
            c.close()
        with Smtp(self.it.smtp_port) as again:
            self.assertEqual(again.command("NOOP")[0], 250)

    def test_pipelined_commands_get_a_reply_each_in_order(self):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.send(f"MAIL FROM:<a@far.test>\r\nRCPT TO:<v@{L}>\r\nRCPT TO:<nobody@{L}>\r\nDATA\r\n".encode())
            self.assertEqual([c.reply()[0] for _ in range(4)], [250, 250, 550, 354])
            c.send(stuff(message(id, 500)) + b"MAIL FROM:<b@far.test>\r\nNOOP\r\nQUIT\r\n")
            self.assertEqual([c.reply()[0] for _ in range(4)], [250, 250, 250, 221])
