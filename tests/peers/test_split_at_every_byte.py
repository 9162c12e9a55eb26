"""Hostile conversations, each split at every byte, thousands at a time, with ledgers that prove that nothing extra arrives.

What is said: the corpus tests/dialogs, and the ends of data of hostile.md in DATA, in one BDAT, and in two whose boundary stands at
every byte. How: in clear, behind STARTTLS, in implicit TLS (`PASSES`). `SPLITS` in the environment bounds how often one
conversation is split (default 150); where it is bounded the places are chosen by `SEED`.
"""

import functools
import os
import random
import re
import socket
import ssl
import subprocess
import time
import unittest

from crowd import anybody, play, run_all
from dialogs import corpus
from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, new_id
from sink import Sink

PASSES = ("clear", "starttls", "implicit")
ACCOUNTS = True
"""Plays the dialogs about AUTH too, and the relay table from those who authenticate. False for a binary without accounts."""

SPLITS = int(os.environ.get("SPLITS", "150"))
SEED = int(os.environ.get("SEED", str(random.randrange(1 << 32))))
L, D = "local.example", "foreign.test"

ENDS = [b"\n.\n", b"\n.\r", b"\n.\r\n", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n. \r\n", b"\r\n..\r\n"]
# What stands before the end that is none: text, an empty line, a line that begins with a dot, the longest line there may be.
BEFORE = [b"text", b"text\r\n\r\n", b"text\r\n..", b"text\r\n" + b"x" * 998 + b"\r\n"]
SMUGGLED = f"MAIL FROM:<evil@{D}>\r\nRCPT TO:<evil@{D}>\r\nDATA\r\nX-Test-Id: smuggled\r\n\r\nevil\r\n.\r\n".encode()

BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def certificate(it):
    """A certificate of our own, named `test`; gives the file that a client would have to trust."""
    key, chain = os.path.join(it.dir, "key.pem"), os.path.join(it.dir, "chain.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=mx.local.example", "-addext", "subjectAltName=DNS:mx.local.example,DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    with open(key) as k, open(chain) as c:
        it.rest.ok("PUT", "/api/v1/certificates/test", {"spec": {"chain": {"value": c.read()}, "privateKey": {"value": k.read()}}})
    return chain


def bound(tls):
    return {} if tls == "clear" else {"tls": tls}


def server(it, name, binding, **spec):
    """A virtual server of its own; gives its port."""
    binding = {"address": "127.0.0.1", "port": 0, **binding}
    if "tls" in binding:
        spec["certificates"] = ["test"]
    it.rest.ok("PUT", f"/api/v1/virtual-servers/{name}", {"spec": {"bindings": [binding], "fqdn": "mx.local.example", **spec}})
    address = wait_for(f"{name} to listen", lambda: it.listener("smtp", name), 10)
    return int(address.rsplit(":", 1)[1])


def places(length, salt):
    """Where octets are cut: everywhere, or at SPLITS places."""
    everywhere = range(1, length)
    if len(everywhere) <= SPLITS:
        return list(everywhere)
    return sorted(random.Random(f"{SEED}{salt}").sample(everywhere, SPLITS))


def told(test, results, names):
    """Fails with what went wrong, and how often."""
    wrong = [f"{name}: {result!r}" for result, name in zip(results, names) if isinstance(result, Exception)]
    test.assertEqual(wrong[:15], [], f"{len(wrong)} of {len(results)} sessions; SEED={SEED}")


class Secret:
    """TLS on a socket whose octets below it stay in our hands."""

    def __init__(self, s):
        self.s, self.inward, self.outward = s, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = anybody().wrap_bio(self.inward, self.outward)
        self.do(self.tls.do_handshake)

    def do(self, what, *args):
        while True:
            try:
                return what(*args)
            except ssl.SSLWantReadError:
                self.flush()
                got = self.s.recv(65536)
                if not got:
                    raise ConnectionResetError("closed") from None
                self.inward.write(got)
            finally:
                self.flush()

    def flush(self):
        if self.outward.pending:
            self.s.sendall(self.outward.read())

    def read(self):
        return self.do(self.tls.read, 65536)

    def write(self, octets):
        self.do(self.tls.write, octets)

    def end(self):
        """Says that TLS is over, and waits for no answer."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self.flush()


@only_bridgehead
class Corpus(unittest.TestCase):
    """Every dialog that the binary can play, split at every byte."""

    # What is said before the greeting has no pieces; logins that fail are slowed for everybody who comes from here.
    LEFT_OUT = {"early-talker", "too-many-errors", "auth-failures"}

    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("corpus").start()
        cls.it.rest.ok("PUT", "/api/v1/recipient-policies/default",
                       {"spec": {"addresses": [{"template": f"%m@{L}", "primary": True, "authoritative": True}]}})
        cls.boxes = [cls.it.mailbox(name) for name in ("u", "v", "w")]
        cls.boxes.append(cls.it.mailbox("o-umlaut", addresses=["ö@local.example"]))
        # whatever is relayed by mistake lands here
        cls.it.route_to(cls.sink.port)
        certificate(cls.it)
        if ACCOUNTS:
            cls.it.rest.ok("PUT", "/api/v1/accounts/u", {"spec": {"password": {"value": "p"}, "sendAs": ["*"]}})

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    OFF = {"PIPELINING": "pipelining", "SIZE": "size", "8BITMIME": "eightBitMime", "SMTPUTF8": "smtpUtf8",
           "ENHANCEDSTATUSCODES": "enhancedStatusCodes", "DSN": "dsn", "CHUNKING": "chunking", "ETRN": "etrn", "LIMITS": "limits",
           "FUTURERELEASE": "futureRelease", "DELIVERBY": "deliverBy", "MT-PRIORITY": "mtPriority"}
    MECHANISMS = {"PLAIN": "plain", "LOGIN": "login", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-256-PLUS": "scramSha256Plus"}

    def spec(self, dialog, tls):
        """The virtual server that a dialog asks for, and how it is bound; None where REST allows no limit so low."""
        spec, binding = {}, bound(tls)
        for name, value in dialog.settings:
            if name == "off":
                spec.setdefault("extensions", {})[self.OFF[value]] = False
            elif name == "normalise":
                binding["bareLineEnds"] = "normalise"
            elif name == "lmtp":
                binding["protocol"] = "lmtp"
            elif name == "starttls":
                binding["tls"] = "starttls"
            elif name == "require-tls":
                spec["tls"] = {"required": True}
            elif name == "auth" and ACCOUNTS:
                spec.setdefault("authentication", {})["mechanisms"] = [self.MECHANISMS[word] for word in value.split()]
            elif name == "auth-in-clear":
                spec.setdefault("authentication", {})["requireTls"] = False
            elif name == "auth-required":
                spec.setdefault("authentication", {})["required"] = True
            else:
                return None
        return spec, binding

    def split(self, tls):
        jobs, waits, left_out = [], [], set()
        for dialog in corpus():
            asked = self.spec(dialog, tls)
            # what is said about TLS in clear is not true in TLS, and TLS has no half-closed connection
            told_of_tls = any("TLS" in value for kind, value in dialog.steps if kind in ("S+", "S-"))
            about_tls = "tls" in dialog.name or b"TLS" in dialog.said().upper() or told_of_tls or dialog.has("E")
            if dialog.name in self.LEFT_OUT or asked is None or dialog.has("T") or tls != "clear" and about_tls:
                left_out.add(dialog.name)
                continue
            spec, binding = asked
            port = server(self.it, f"{dialog.name}.{tls}"[:63], binding, **spec)
            refusals = sum(1 for kind, value in dialog.steps if kind == "S" and value.startswith("5"))
            hello = "LHLO" if binding.get("protocol") == "lmtp" else "EHLO"
            cuts = [None]
            if not dialog.name.startswith("whole-"):
                # each refusal behind the tenth is held for a second, and a dialog of many octets takes its time
                most = 4 if refusals > 10 else SPLITS
                length = len(dialog.said())
                cuts += places(length, dialog.name)[:most] + (["each"] if length < 5000 else [])
            for cut in cuts:
                job = functools.partial(play, dialog.steps, port, cut, tls=tls, hello=hello)
                (waits if refusals > 10 else jobs).append((job, f"{dialog.name} at {cut}"))
        # those that wait go first: the others fill the time
        jobs, names = zip(*(waits + jobs))
        before = self.taken()
        results = run_all(list(jobs))
        told(self, results, names)
        print(f"      {len(jobs)} sessions {tls}, {len(left_out)} dialogs left out: {', '.join(sorted(left_out))}")
        self.assertGreater(len(jobs), 20 * min(SPLITS, 100), "the corpus is not played any more")
        # As many messages were taken as the dialogs say, each is in a mailbox, and nothing was relayed.
        self.assertEqual(self.taken() - before, sum(results))
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 60, 0.5)
        files = sum(len(box.files()) for box in self.boxes)
        self.assertGreaterEqual(files, self.taken())
        self.assertEqual(self.sink.deliveries, [])

    def taken(self):
        """How many messages were answered 250 after their end."""
        text = self.it.rest.get("/metrics").body.decode()
        return sum(int(count) for count in re.findall(r"^bridgehead_messages_accepted_total\{.*\} (\d+)$", text, re.M))

    def test_the_corpus_split_at_every_byte(self):
        for tls in PASSES:
            with self.subTest(tls=tls):
                self.split(tls)


@only_bridgehead
class Smuggling(unittest.TestCase):
    """Nothing but the true end ends a message, and what follows it is part of it: the ledger of the next hop decides."""

    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("smuggling").start()
        cls.it.route_to(cls.sink.port)
        certificate(cls.it)
        cls.ports = {tls: server(cls.it, f"s-{tls}", bound(tls), relay={"allow": ["127.0.0.0/8"]}) for tls in PASSES}
        cls.small = {tls: server(cls.it, f"small-{tls}", bound(tls), relay={"allow": ["127.0.0.0/8"]}, messages={"maxSize": "64KiB"})
                     for tls in PASSES}

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    ENVELOPE = f"MAIL FROM:<a@{D}>\r\nRCPT TO:<u@{D}>\r\n".encode()
    BEGIN = [("S", "220"), ("C", b"EHLO c.example\r\n"), ("S", "250")]
    END = [("S", "250 2.0.0"), ("S", "221"), ("X", "")]

    def data(self, id, before, end):
        """The steps, where the body begins in what is said, what is sent of it, whether it is taken."""
        body = f"X-Test-Id: {id}\r\n\r\n".encode() + before + end + SMUGGLED
        said = len(b"EHLO c.example\r\n" + self.ENVELOPE + b"DATA\r\n")
        taken = not BARE.search(body)
        steps = self.BEGIN + [
            ("C", self.ENVELOPE + b"DATA\r\n"), ("S", "250"), ("S", "250"), ("S", "354"),
            ("C", body + b"NOOP\r\nQUIT\r\n"), ("S", "250 2.0.0" if taken else "550 5.6.11")] + self.END
        return steps, said, body, taken

    def chunks(self, id, before, end, boundary):
        """The same in BDAT: what would be an end in DATA is content here. With a boundary in two chunks."""
        body = f"X-Test-Id: {id}\r\n\r\n".encode() + before + end + SMUGGLED
        parts = [body] if boundary is None else [body[:boundary], body[boundary:]]
        wire, replies, taken = self.ENVELOPE, [("S", "250"), ("S", "250")], not BARE.search(body)
        gone = False
        for n, part in enumerate(parts):
            last = n + 1 == len(parts)
            wire += b"BDAT %d%s\r\n" % (len(part), b" LAST" if last else b"") + part
            # what a CR at the end of a chunk means, the next chunk says
            seen = body if last else part[:-1] if part.endswith(b"\r") else part
            refused = BARE.search(seen) is not None
            replies.append(("S", "503" if gone else "550 5.6.11" if refused else "250"))
            gone = gone or refused
        steps = self.BEGIN + [("C", wire + b"NOOP\r\nQUIT\r\n")] + replies + self.END
        return steps, len(b"EHLO c.example\r\n" + self.ENVELOPE), body, taken

    def run_rows(self, rows):
        """Rows of (what, port, tls, cut, steps, id, the content that has to arrive or None)."""
        rows = list(rows)
        results = run_all([functools.partial(play, row[4], row[1], row[3], tls=row[2]) for row in rows])
        told(self, results, [f"{row[0]} {row[2]} at {row[3]}" for row in rows])
        expected = {row[5]: row[6] for row in rows if row[6] is not None}
        self.assertEqual(self.sink.wait_accepted(expected, 120), set())
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 60)
        self.assertEqual([d for d in self.sink.deliveries if d.sender != f"a@{D}" or d.recipients != [f"u@{D}"]], [])
        self.assertEqual(set(self.sink.ids()), set(expected))
        self.assertEqual(set(self.sink.ids().values()), {1})
        for d in self.sink.accepted():
            self.assertIsNone(BARE.search(d.raw), d.id)
            self.assertTrue(d.content.endswith(expected[d.id]), (d.id, d.content[-300:], expected[d.id][-300:]))
        self.sink.deliveries.clear()
        print(f"      {len(rows)} sessions, {len(expected)} messages")

    def data_rows(self, tls):
        # in TLS it is the same session core behind another stream: the plainest contexts are enough
        for before in BEFORE if tls == "clear" else BEFORE[:2]:
            for end in ENDS:
                _, said, body, _ = self.data("0" * len(new_id()), before, end)
                # from a little before the end that is none to behind the true one
                first = len(body) - len(end) - len(SMUGGLED) - 6
                for cut in ["each", *range(first, len(body) + 12)]:
                    id = new_id()
                    steps, said, body, taken = self.data(id, before, end)
                    content = re.sub(rb"\r\n\.", b"\r\n", body[:-3]) if taken else None
                    yield (f"DATA {before[-9:]!r}{end!r}", self.ports[tls], tls, cut if cut == "each" else said + cut,
                           steps, id, content)

    def bdat_rows(self, tls):
        for before in BEFORE[:3] if tls == "clear" else BEFORE[:1]:
            for end in ENDS:
                _, said, body, _ = self.chunks("0" * len(new_id()), before, end, None)
                first = len(body) - len(end) - len(SMUGGLED) - 6
                for boundary in (False, True):
                    for cut in ["each", *range(first, len(body))]:
                        id = new_id()
                        at = cut if boundary and cut != "each" else None
                        steps, said, body, taken = self.chunks(id, before, end, at)
                        where = cut if cut == "each" else None if boundary else said + 16 + cut
                        yield (f"BDAT {before[-9:]!r}{end!r} boundary {at}", self.ports[tls], tls, where, steps, id,
                               body if taken else None)

    def test_data_split_at_every_byte(self):
        for tls in PASSES:
            with self.subTest(tls=tls):
                self.run_rows(self.data_rows(tls))

    def test_bdat_split_and_bounded_at_every_byte(self):
        for tls in PASSES:
            with self.subTest(tls=tls):
                self.run_rows(self.bdat_rows(tls))

    def test_data_past_the_size_limit(self):
        filler = (b"0123456789" * 7 + b"\r\n") * 920
        for tls in PASSES:
            with self.subTest(tls=tls):
                rows = []
                for end in ENDS:
                    steps, said, body, _ = self.data(new_id(), filler, end)
                    steps = [(k, "552 5.3.4" if v in ("250 2.0.0", "550 5.6.11") and n == len(self.BEGIN) + 5 else v)
                             for n, (k, v) in enumerate(steps)]
                    rows += [(f"too large {end!r}", self.small[tls], tls, said + cut, steps, None, None)
                             for cut in range(len(body) - len(end) - len(SMUGGLED) - 2, len(body) + 2, 3)]
                results = run_all([functools.partial(play, row[4], row[1], row[3], tls=tls) for row in rows])
                told(self, results, [f"{row[0]} at {row[3]}" for row in rows])
                time.sleep(0.5)
                self.assertEqual(self.sink.deliveries, [])

    def test_tls_that_ends_in_the_content_ends_everything(self):
        """A client that closes TLS in the middle of a message and goes on in clear: no reply, no message."""
        body = b"X-Test-Id: half\r\n\r\ntext\r\n"
        begins = {"DATA": (self.ENVELOPE + b"DATA\r\n", body), "BDAT": (self.ENVELOPE + b"BDAT 1000 LAST\r\n", body),
                  "between chunks": (self.ENVELOPE + b"BDAT %d\r\n" % len(body), body), "command": (self.ENVELOPE, b"DAT")}
        for tls in PASSES[1:]:
            for what, (wire, content) in begins.items():
                with self.subTest(tls=tls, what=what):
                    with socket.create_connection(("127.0.0.1", self.ports[tls]), 10) as s:
                        if tls == "starttls":
                            for line in (b"EHLO c.example\r\n", b"STARTTLS\r\n"):
                                s.recv(4000)
                                s.sendall(line)
                            self.assertTrue(s.recv(4000).startswith(b"220"))
                        secret = Secret(s)
                        if tls == "implicit":
                            secret.read()
                        for octets in (b"EHLO c.example\r\n", wire):
                            secret.write(octets)
                            time.sleep(0.1)
                        secret.write(content)
                        time.sleep(0.1)
                        secret.end()
                        try:
                            s.sendall(b"A\r\n" * 400 + b"\r\n.\r\nBDAT 0 LAST\r\nQUIT\r\n")
                            s.settimeout(10)
                            while s.recv(65536):
                                pass
                        except ConnectionError:
                            pass
        with Smtp(self.ports["clear"]) as c:
            self.assertEqual(c.command("NOOP")[0], 250)
        time.sleep(0.5)
        self.assertEqual(self.sink.deliveries, [])

    def test_a_million_chunks_of_one_octet(self):
        """In steps of a thousand, as a client would that waits for replies; memory is flat."""
        count = int(os.environ.get("CHUNKS", "100000"))

        def rss():
            with open(f"/proc/{self.it.pid()}/status") as f:
                return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024
        id = new_id()
        head = f"X-Test-Id: {id}\r\n\r\n".encode()
        with Smtp(self.ports["clear"], timeout=60) as c:
            c.send(self.ENVELOPE + b"BDAT %d\r\n" % len(head) + head)
            for _ in range(3):
                c.expect("envelope", 250)
            before = rss()
            for _ in range(count // 1000):
                c.send(b"BDAT 1\r\nx" * 499 + b"BDAT 2\r\n\r\n" * 2 + b"BDAT 1\r\n." * 499)
                for _ in range(1000):
                    c.expect("chunk", 250)
            self.assertLess(rss() - before, 32 << 20)
            c.expect("last", 250, line=b"BDAT 0 LAST\r\n")
            self.assertEqual(c.command("NOOP")[0], 250)
        self.assertEqual(self.sink.wait_accepted({id}, 60), set())
        self.assertEqual(len(self.sink.deliveries), 1)
        self.sink.deliveries.clear()
