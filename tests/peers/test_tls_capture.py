"""What a packet capture shows where TLS is demanded: by a connector (`required`, `verified`, `dane`), by TLSA records, by an MTA-STS policy
in force. Every octet between the appliance and its hop goes through a recorder, which also plays the man in the middle: it takes
STARTTLS away, refuses it, answers garbage, injects text, breaks the handshake, puts a certificate of its own in between. In clear there is a greeting,
EHLO and STARTTLS and nothing more; behind STARTTLS there are records of TLS and nothing else; and no octet of an address, a
subject or a body is ever seen.
"""

import http.server
import socket
import ssl
import threading
import time
import unittest

import signedzone
from authority import Authority, tlsa
from harness import make_sut, only_bridgehead, wait_for
from load import Smtp
from signedzone import SignedDns
from tlshop import TlsHop

HOP, WIRE, WEB = "127.0.0.31", "127.0.0.32", "127.0.0.33"
WAYS = ("required", "verified", "dane", "tlsa", "sts")
# what stands in between: whether mail gets through it, where the certificate is not looked at and where it is
ATTACKS = {"nothing": (True, True), "strip": (False, False), "refuse": (False, False), "garbage": (False, False), "inject": (False, False),
           "close": (False, False), "alert": (False, False), "own-certificate": (True, False)}


class Recorder:
    """Passes octets on to the hop and keeps them: for each connection what came from the appliance, and what went to it."""

    def __init__(self, to, port, chain, key):
        self.to, self.connections, self.attack = to, [], "nothing"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain, key)
        self.socket = socket.create_server((WIRE, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.socket.accept()
            except OSError:
                return
            record = {"sent": b"", "said": b"", "attack": self.attack}
            self.connections.append(record)
            threading.Thread(target=self._serve, args=(near, record), daemon=True).start()

    def _serve(self, near, record):
        near.settimeout(20)
        try:
            with near, socket.create_connection(self.to, 20) as far:
                self._pass(near, far, record)
        except OSError:
            pass

    def _pass(self, near, far, record):
        attack, in_tls = record["attack"], False

        def say(octets):
            record["said"] += octets
            near.sendall(octets)

        def down():
            try:
                while octets := far.recv(65536):
                    if attack == "strip" and not in_tls:
                        octets = octets.replace(b"250-STARTTLS\r\n", b"")
                    say(octets)
            except OSError:
                pass
            finally:
                try:
                    near.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

        threading.Thread(target=down, daemon=True).start()
        while octets := near.recv(65536):
            record["sent"] += octets
            if octets.upper().startswith(b"STARTTLS") and attack not in ("nothing", "strip"):
                return self._answer(attack, near, far, say, record)
            far.sendall(octets)

    def _answer(self, attack, near, far, say, record):
        say({"refuse": b"454 4.7.0 not now\r\n", "inject": b"220 go\r\n250 ok\r\n"}.get(attack, b"220 go\r\n"))
        if attack == "close":
            near.shutdown(socket.SHUT_RDWR)
        elif attack == "garbage":
            say(b"250 what is TLS?\r\n" * 50)
        elif attack == "own-certificate":
            return self._between(near, say, record)
        while octets := near.recv(65536):
            record["sent"] += octets
            if attack == "alert":
                say(bytes.fromhex("15030300020228"))      # handshake_failure
                return

    def _between(self, near, say, record):
        """TLS of our own, with the octets of the wire recorded: what is said inside is a hop's."""
        come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(come, go, server_side=True)

        def more():
            if go.pending:
                say(go.read())
            octets = near.recv(65536)
            record["sent"] += octets
            come.write(octets) if octets else come.write_eof()
            return octets

        def do(what, *arguments):
            while True:
                try:
                    return what(*arguments)
                except ssl.SSLWantReadError:
                    if not more():
                        raise OSError("the end")
                finally:
                    if go.pending:
                        say(go.read())

        do(tls.do_handshake)
        data, line = False, b""
        while octets := do(tls.read, 65536):
            line += octets
            while b"\r\n" in line:
                one, line = line.split(b"\r\n", 1)
                if data:
                    if one == b".":
                        data = False
                        record["taken"] = True
                        do(tls.write, b"250 taken\r\n")
                    continue
                verb = one[:4].upper()
                data = verb == b"DATA"
                reply = {b"EHLO": b"250-hop.test\r\n250 8BITMIME", b"DATA": b"354 go", b"QUIT": b"221 bye"}.get(verb, b"250 ok")
                do(tls.write, reply + b"\r\n")

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


def records(octets):
    """The types of the TLS records that the octets are; what is cut at the end may be. Raises when it is anything else."""
    types, at = [], 0
    while at < len(octets):
        kind, major, length = octets[at], octets[at + 1:at + 2], octets[at + 3:at + 5]
        if not 20 <= kind <= 23 or major not in (b"\x03", b""):
            raise AssertionError(f"no TLS record at {at}: {octets[at:at + 40]!r}")
        types.append(kind)
        at += 5 + int.from_bytes(length, "big")
    return types


@only_bridgehead
class TlsCapture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := signedzone.why_not():
            raise unittest.SkipTest(reason)
        authority = Authority()
        domains = [f"{way}-{attack}" for way in WAYS for attack in ATTACKS] + ["opportunistic-strip"]
        key, chain = authority.issue([f"mx.{domain}.test" for domain in domains])
        cls.hop = TlsHop(HOP, 0, chain, key)
        cls.addClassCleanup(cls.hop.close)
        other_key, other_chain = Authority("a man in the middle").issue([f"mx.{domain}.test" for domain in domains])
        cls.recorder = Recorder((HOP, cls.hop.port), cls.hop.port, other_chain, other_key)
        cls.addClassCleanup(cls.recorder.close)
        cls.web = cls.policies(authority, [f"mta-sts.sts-{attack}.test" for attack in ATTACKS])
        zone = []
        for domain in domains:
            zone += [f"{domain}.test. MX 10 mx.{domain}.test.", f"mx.{domain}.test. A {WIRE}"]
            if domain.startswith(("dane", "tlsa")):
                zone.append(f"_{cls.hop.port}._tcp.mx.{domain}.test. TLSA {tlsa(3, 1, 1, chain)}")
            if domain.startswith("sts"):
                zone += [f'_mta-sts.{domain}.test. TXT "v=STSv1; id=1;"', f"mta-sts.{domain}.test. A {WEB}"]
        cls.dns = SignedDns(zone)
        cls.addClassCleanup(cls.dns.close)
        env = {"BRIDGEHEAD_DNSSEC_TRUST_ANCHORS": cls.dns.anchors, "SSL_CERT_FILE": authority.certificate}
        cls.it = make_sut("tls-capture", env=env).start()
        cls.addClassCleanup(cls.it.destroy)
        cls.it.relay_for("127.0.0.0/8")
        cls.it.quick_retries("1s")
        cls.it.server(dnsServers=[cls.dns.address], outbound={"port": cls.hop.port, "timeout": "10s"})

    @classmethod
    def policies(cls, authority, names):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                domain = self.headers["Host"].split(":")[0].removeprefix("mta-sts.")
                body = f"version: STSv1\r\nmode: enforce\r\nmx: mx.{domain}\r\nmax_age: 86400\r\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        key, chain = authority.issue(names)
        server = http.server.ThreadingHTTPServer((WEB, 443), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)

    def connector(self, way):
        security = {"tls": way} if way in ("required", "verified", "dane") else {}
        self.it.rest.ok("PUT", "/api/v1/connectors/default", {"spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}},
                                                                       "security": security}})

    def send(self, domain, mark):
        content = f"From: <from-{mark}@local.test>\r\nTo: <to-{mark}@{domain}.test>\r\nSubject: subject-{mark}\r\n\r\nbody-{mark}\r\n".encode()
        with Smtp(self.it.smtp_port) as c:
            c.transaction(f"from-{mark}@local.test", [f"to-{mark}@{domain}.test"], content)

    def captured(self, way, attack):
        """Sends a message; what its connections were, once it was tried twice or has arrived, and whether it arrived."""
        domain, mark = f"{way}-{attack}", f"M{time.monotonic_ns()}"
        begun, self.recorder.attack = len(self.recorder.connections), attack
        mine = lambda: self.recorder.connections[begun:]
        arrived = lambda: any(mark.encode() in content for _, _, content in self.hop.taken) or any(c.get("taken") for c in mine())
        self.send(domain, mark)
        wait_for(f"{domain} to be tried", lambda: arrived() or len(mine()) >= 2, 30)

        def gone():
            left = self.it.messages(recipient=f"to-{mark}@{domain}.test")
            for message in left if not arrived() else ():
                self.it.rest.call("DELETE", f"/api/v1/messages/{message['id']}")      # 409 while it is being tried
            return not left
        wait_for("the mail to be gone", gone, 30)
        return mine(), arrived(), mark

    def judge(self, way, attack):
        connections, arrived, mark = self.captured(way, attack)
        # MTA-STS, TLSA and `verified` look at the certificate
        self.assertEqual(arrived, ATTACKS[attack][way != "required"])
        self.assertTrue(connections)
        for one in connections:
            self.assertNotIn(mark.encode(), one["sent"] + one["said"])
            clear, starttls, secret = one["sent"].partition(b"STARTTLS\r\n")
            lines = clear.split(b"\r\n")
            self.assertEqual(lines.pop(), b"", one)
            if not starttls:
                # nothing was said but who we are, and that we go
                lines = [line for line in lines if line != b"QUIT"]
            self.assertLessEqual(len(lines), 1, one)
            self.assertTrue(all(line.startswith(b"EHLO ") for line in lines), one)
            if attack in ("refuse", "inject"):
                self.assertIn(secret, (b"", b"QUIT\r\n"), one)
            elif starttls:
                types = records(secret)
                self.assertTrue(attack == "close" or types[:1] == [22], types)
            if arrived:
                self.assertIn(23, records(secret))

    def test_nothing_that_matters_is_in_clear(self):
        for way in WAYS:
            self.connector(way)
            for attack in ATTACKS:
                with self.subTest(way=way, attack=attack):
                    self.judge(way, attack)

    def test_the_capture_shows_what_goes_in_clear(self):
        """Without this row those above could pass with a recorder that sees nothing."""
        self.connector("opportunistic")
        connections, arrived, mark = self.captured("opportunistic", "strip")
        self.assertTrue(arrived)
        sent = b"".join(one["sent"] for one in connections)
        for what in (f"MAIL FROM:<from-{mark}@", f"RCPT TO:<to-{mark}@", f"Subject: subject-{mark}", f"body-{mark}"):
            self.assertIn(what.encode(), sent)
