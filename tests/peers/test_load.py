"""Too many clients, slow ones and curious ones: memory is bounded, and whoever is not to blame is served.

Times here are generous bounds against a hang, and lower bounds of what is to be slow; nothing is measured.
"""

import base64
import itertools
import re
import resource
import socket
import threading
import time
import unittest

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Sink
from test_hostile import ALLOWED, RECIPIENTS, SENDERS, D, D2, IP, L, S
from test_split_at_every_byte import ACCOUNTS

PROMPT = 5.0
"""Seconds within which a server that is not under attack answers, and REST."""
IDLE = 10_000


def files(count):
    """Lets this process, and those it starts, have so many files open; false where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return True
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))
        return True
    except (ValueError, OSError):
        return False


def server(it, name, **spec):
    it.rest.ok("PUT", f"/api/v1/virtual-servers/{name}", {"spec": {"bindings": [{"address": "127.0.0.1", "port": 0}], **spec}})
    return int(wait_for(f"{name} to listen", lambda: it.listener("smtp", name), 10).rsplit(":", 1)[1])


def rss(it):
    with open(f"/proc/{it.pid()}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024


class Elsewhere(threading.Thread):
    """Sends by another virtual server and asks REST, again and again; keeps how long each took and what went wrong."""

    def __init__(self, it, port):
        super().__init__(daemon=True)
        self.it, self.port = it, port
        self.stopping, self.sent, self.asked, self.wrong = threading.Event(), [], 0, []

    def run(self):
        while not self.stopping.is_set():
            try:
                began = time.monotonic()
                id = new_id()
                with Smtp(self.port, source="127.0.0.9", timeout=PROMPT) as c:
                    c.transaction(f"a@{D2}", [f"u@{D}"], message(id, 500, to=f"u@{D}"))
                self.sent.append(id)
                answer = self.it.rest.call("GET", "/api/v1/virtual-servers", timeout=PROMPT)
                if answer.status != 200:
                    self.wrong.append(answer)
                self.asked += 1
                if time.monotonic() - began > 2 * PROMPT:
                    self.wrong.append(f"took {time.monotonic() - began:.1f} s")
            except Exception as e:
                self.wrong.append(repr(e))
            time.sleep(0.02)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.join(30)


@only_bridgehead
class Load(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = files(IDLE + 2000)
        cls.sink = Sink()
        cls.it = make_sut("load").start()
        cls.it.local_domain(L)
        cls.it.mailbox("v")
        cls.it.route_to(cls.sink.port)
        cls.elsewhere = server(cls.it, "elsewhere", relay={"allow": ["127.0.0.9"]})

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def judge(self, elsewhere, least):
        """Whoever is not to blame was served, at least so often."""
        self.assertEqual(elsewhere.wrong[:5], [])
        self.assertGreaterEqual(len(elsewhere.sent), least)
        self.assertGreaterEqual(elsewhere.asked, least)
        self.assertEqual(self.sink.wait_accepted(elsewhere.sent, 30), set())
        self.assertEqual([d for d in self.sink.deliveries if d.id not in elsewhere.sent], [])
        self.sink.deliveries.clear()

    def test_idle_sessions_take_little_memory(self):
        if not self.files:
            self.skipTest(f"{IDLE} sessions need a limit of {IDLE + 2000} open files")
        port = server(self.it, "idle", connections={"max": IDLE + 100})
        before = rss(self.it)
        sessions = []
        try:
            # from several addresses, as one has but 28,000 ports
            for n in range(0, IDLE, 250):
                batch = []
                for k in range(250):
                    s = socket.socket()
                    s.bind((f"127.0.0.{20 + n // 2500}", 0))
                    s.settimeout(30)
                    s.connect(("127.0.0.1", port))
                    batch.append(s)
                for s in batch:
                    self.assertTrue(s.recv(1000).startswith(b"220 "))
                    s.sendall(b"EHLO idle.test\r\n")
                for s in batch:
                    got = b""
                    while not re.search(rb"(^|\n)250 [^\n]*\n", got):
                        got += s.recv(4000)
                sessions += batch
            with Elsewhere(self.it, self.elsewhere) as elsewhere:
                time.sleep(2)
                after = rss(self.it)
            self.judge(elsewhere, 3)
            print(f"      {len(sessions)} idle sessions: {before >> 20} MB before, {after >> 20} MB with them, "
                  f"{(after - before) // len(sessions)} octets each")
            self.assertLessEqual(after, 200 << 20)
            # and they are alive
            for s in sessions[::100]:
                s.sendall(b"NOOP\r\n")
                self.assertTrue(s.recv(1000).startswith(b"250 "))
        finally:
            for s in sessions:
                s.close()
        wait_for("the sessions to be over", lambda: self.open_sessions("idle") == 0, 30)

    def open_sessions(self, name):
        text = self.it.rest.get("/metrics").body.decode()
        found = re.search(r'^bridgehead_smtp_sessions\{name="%s"\} (\d+)$' % name, text, re.M)
        return int(found.group(1)) if found else None

    def test_a_flood_of_connections_hurts_nobody_else(self):
        port = server(self.it, "flooded", connections={"max": 200, "maxPerClient": 20})
        greeted, refused, others = [], 0, 0
        with Elsewhere(self.it, self.elsewhere) as elsewhere:
            for n in range(3000):
                s = socket.create_connection(("127.0.0.1", port), 20, source_address=("127.0.0.2", 0))
                first = s.recv(1000)
                if first.startswith(b"220 "):
                    greeted.append(s)
                else:
                    self.assertTrue(first.startswith(b"421 4.7.0 "), first)
                    refused += 1
                    s.close()
                if n % 300 == 0:
                    # another client of the same server is served all the while
                    with Smtp(port, source="127.0.0.3", timeout=PROMPT) as c:
                        self.assertEqual(c.command("NOOP")[0], 250)
                    others += 1
        self.assertEqual((len(greeted), refused, others), (20, 2980, 10))
        self.judge(elsewhere, 3)
        for s in greeted:
            s.close()
        # and when it is over the client is welcome again
        wait_for("a greeting", lambda: self.greeted(port), 10)

    def greeted(self, port):
        with socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.0.2", 0)) as s:
            return s.recv(1000).startswith(b"220 ")

    def test_a_flood_from_everywhere_is_bounded(self):
        port = server(self.it, "full", connections={"max": 50})
        held = []
        with Elsewhere(self.it, self.elsewhere) as elsewhere:
            for n in range(500):
                s = socket.create_connection(("127.0.0.1", port), 20, source_address=(f"127.0.1.{n % 250 + 1}", 0))
                first = s.recv(1000)
                self.assertTrue(first.startswith(b"220 " if n < 50 else b"421 4.3.2 "), (n, first))
                held.append(s)
        self.judge(elsewhere, 1)
        for s in held:
            s.close()

    def test_a_harvest_of_recipients_is_slowed_and_ended(self):
        port = server(self.it, "harvested")
        told, lock = [], threading.Lock()

        def harvest(n):
            began, codes = time.monotonic(), []
            with Smtp(port, source="127.0.0.2", timeout=60) as c:
                c.expect("MAIL", 250, line=f"MAIL FROM:<a@{D2}>")
                try:
                    for k in range(100):
                        code, text = c.command(f"RCPT TO:<guess{n}.{k}@{L}>")
                        codes.append(code)
                        if code == 421:
                            break
                    ended = c.at_end()
                except ConnectionError:
                    ended = True
            with lock:
                told.append((codes, ended, time.monotonic() - began))
        threads = [threading.Thread(target=harvest, args=(n,)) for n in range(50)]
        with Elsewhere(self.it, self.elsewhere) as elsewhere:
            for t in threads:
                t.start()
            for t in threads:
                t.join(120)
        self.judge(elsewhere, 5)
        self.assertEqual(len(told), 50)
        for codes, ended, spent in told:
            self.assertEqual(codes, [550] * (len(codes) - 1) + [421])
            self.assertTrue(ended and len(codes) <= 20, codes)
            # those behind the tenth are held for a second each
            self.assertGreater(spent, 5)

    def test_a_command_octet_by_octet_has_its_deadline(self):
        port = server(self.it, "slow", connections={"idleTimeout": "3s"})
        with Smtp(port, timeout=20) as c:
            c.sock.setblocking(False)
            began, got = time.monotonic(), b""
            while time.monotonic() - began < 20:
                try:
                    got = c.sock.recv(1000)
                    break
                except BlockingIOError:
                    pass
                try:
                    c.sock.send(b"N")
                except OSError:
                    break
                time.sleep(0.25)
            self.assertTrue(got.startswith(b"421 4.4.2 "), got)
            self.assertGreater(time.monotonic() - began, 2)
            c.sock.settimeout(10)
            self.assertTrue(c.at_end())

    def test_recipients_over_the_limit_come_with_the_next_message(self):
        port = server(self.it, "hundred", relay={"allow": ["127.0.0.9"]}, messages={"maxRecipients": 100})
        id = new_id()
        with Smtp(port, source="127.0.0.9") as c:
            c.expect("MAIL", 250, line=f"MAIL FROM:<a@{D2}>")
            codes = [c.command(f"RCPT TO:<u{n}@{D}>") for n in range(130)]
            self.assertEqual([code for code, _ in codes], [250] * 100 + [452] * 30)
            self.assertTrue(all(text.startswith("4.5.3") for _, text in codes[100:]))
            c.expect("DATA", 354, line="DATA")
            c.send(message(id, 500) + b".\r\n")
            c.expect("dot", 250)
        wait_for("a hundred recipients", lambda: sum(len(d.recipients) for d in self.sink.by_id(id)) == 100, 20)
        self.assertEqual({d.id for d in self.sink.deliveries}, {id})
        self.sink.deliveries.clear()


@only_bridgehead
class RelayOnEachServer(unittest.TestCase):
    """The relay table of hostile.md, on servers that trust different clients."""

    LOGIN = {"authentication": {"mechanisms": ["plain"], "requireTls": False}} if ACCOUNTS else {}
    SERVERS = {
        "nobody": {"relay": {}},
        "lan": {"relay": {"allow": ["127.0.0.0/24"], "deny": ["127.0.0.2"]}},
        "one": {"relay": {"allow": ["127.0.0.2"]}, **LOGIN},
        "no-login": {"relay": {"authenticated": False}, **LOGIN},
    }
    if ACCOUNTS:
        SERVERS["login"] = {"relay": {"authenticated": True}, **LOGIN}
    # from where, and as whom; eve's account may not relay
    CLIENTS = [("127.0.0.2", None), ("127.0.0.3", None), ("127.0.2.1", None), ("127.0.2.1", "ada"), ("127.0.2.1", "eve")]
    # who is trusted where: the longest prefix decides, or the account
    TRUSTED = {("lan", "127.0.0.3", None), ("one", "127.0.0.2", None)}
    if ACCOUNTS:
        TRUSTED |= {("one", "127.0.2.1", "ada"), ("login", "127.0.2.1", "ada")}

    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("relays").start()
        cls.it.local_domain(L)
        cls.it.mailbox("v")
        cls.it.route_to(cls.sink.port)
        for name in ("ada", "eve") if ACCOUNTS else ():
            cls.it.rest.ok("PUT", f"/api/v1/accounts/{name}", {"spec": {
                "password": {"value": "secret"}, "sendAs": ["*"], "mayRelay": name == "ada"}})
        cls.ports = {name: server(cls.it, name, fqdn=S, **spec) for name, spec in cls.SERVERS.items()}

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def rows(self, port, source, login):
        """(client, sender, recipient), a new session every few rows: too many errors end one, and slow it before."""
        rows = list(itertools.product(SENDERS, RECIPIENTS + [ALLOWED]))
        for n in range(0, len(rows), 4):
            with Smtp(port, source=source) as c:
                if login:
                    c.expect("AUTH", 235, line="AUTH PLAIN " + base64.b64encode(f"\0{login}\0secret".encode()).decode())
                for sender, recipient in rows[n:n + 4]:
                    code, text = c.command(f"MAIL FROM:{sender}")
                    yield sender, recipient, code, text, c
                    c.command("RSET")

    def test_the_relay_table_on_each_server(self):
        wrong, tried, named, lock = [], [], [], threading.Lock()

        def client(name, source, login):
            trusted = (name, source, login) in self.TRUSTED
            for sender, recipient, code, text, c in self.rows(self.ports[name], source, login):
                if code != 250:
                    good = code in (501, 553) or code == 550 and text.startswith(("5.7.1", "5.1.7", "5.1.8"))
                else:
                    code, text = c.command(f"RCPT TO:{recipient}")
                    good = code in (501, 553) or code == 550 and text.startswith(("5.7.1", "5.1.1"))
                    if recipient == ALLOWED:
                        good = code == 250
                    elif trusted and recipient in (f"<u@{D}>", f'<"u"@{D}>'):
                        # the foreign recipient in its plain form is what trust is about
                        good = code == 250
                    elif trusted and code == 250:
                        # whatever else is taken names its own domain behind the last @, and that alone
                        good = recipient in self.FOREIGN
                    if code == 250:
                        named.append((name, source, login, recipient))
                with lock:
                    tried.append(1)
                    if not good:
                        wrong.append((name, source, login, sender, recipient, code, text))
        who = [(name, *c) for name, spec in self.SERVERS.items() for c in self.CLIENTS if c[1] is None or "authentication" in spec]
        threads = [threading.Thread(target=client, args=args) for args in who]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        self.assertEqual(wrong[:12], [], len(wrong))
        self.assertEqual(len(tried), len(who) * len(SENDERS) * (len(RECIPIENTS) + 1))
        # trust was tried: it opens the plain form, on the servers and for the clients that have it and nowhere else
        plain = {client[:3] for client in named if client[3] == f"<u@{D}>"}
        self.assertEqual(plain, self.TRUSTED)
        time.sleep(0.5)
        self.assertEqual(self.sink.deliveries, [])

    # forms whose domain is D itself (or a literal or a name that is not local): relayed for who may relay, as any other address
    FOREIGN = {f"u@{D}", f'<"u"@{D}>', f"<u@{D}>", f"<u%{D}@{S}>", f"<u%{D}@{IP}>", f'<"u@{D}"@{S}>', f'<"u@{D}"@{IP}>',
               f"<{D}!u@{S}>", f"<{D}!u@{IP}>", f"<@{L}:u@{D}>", f"<@{S}:u@{D}>", f"<@{IP}:u@{D}>", f"<@{S},@{L}:u@{D}>"}
