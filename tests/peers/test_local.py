"""Local mail: Maildir, drop directory, Dovecot by LMTP, webhooks; unknown recipients and relaying refused at RCPT."""

import base64
import glob
import hashlib
import hmac
import http.server
import json
import os
import smtplib
import subprocess
import threading
import unittest

import dovecot
from dovecot import Dovecot
from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Sink


def swaks(port, *more):
    return subprocess.run(["swaks", "--server", "127.0.0.1", "--port", str(port), *more],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@only_bridgehead
class Local(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.it = make_sut("local").start()
        cls.sink = Sink()
        cls.it.local_domain("local.test")
        cls.it.route_to(cls.sink.port)
        cls.box = cls.it.mailbox("alice")

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def find(self, id, box=None, count=1):
        mark = f"X-Test-Id: {id}".encode()
        return wait_for(f"{id} in the Maildir", lambda: [m for m in (box or self.box).messages() if mark in m], 15)

    def test_swaks_to_a_maildir(self):
        id = new_id()
        r = swaks(self.it.smtp_port, "--from", "someone@far.test", "--to", "alice@local.test", "--header", f"X-Test-Id: {id}", "--body", "Hello.")
        self.assertEqual(r.returncode, 0, r.stdout)
        m = self.find(id)[0]
        self.assertTrue(m.startswith(b"Return-Path: <someone@far.test>"), m[:200])
        self.assertIn(b"Received: from ", m)
        self.assertIn(b"Hello.", m)
        self.assertEqual(os.listdir(os.path.join(self.box.path, "tmp")), [])

    def test_smtplib_to_a_maildir(self):
        id = new_id()
        with smtplib.SMTP("127.0.0.1", self.it.smtp_port) as c:
            c.sendmail("someone@far.test", ["ALICE@Local.Test"], f"X-Test-Id: {id}\r\nSubject: x\r\n\r\n.dot\r\nGr\u00fc\u00dfe\r\n".encode(), mail_options=["BODY=8BITMIME"])
        m = self.find(id)[0].replace(b"\r\n", b"\n")
        self.assertTrue(m.endswith("\n\n.dot\nGrüße\n".encode()), m)

    def test_many_to_a_maildir_arrive_once(self):
        box = self.it.mailbox("many")
        ids = [new_id() for _ in range(200)]
        with Smtp(self.it.smtp_port) as c:
            for id in ids:
                c.transaction("a@far.test", ["many@local.test"], message(id, 500))
        wait_for("200 files", lambda: len(box.files()) >= 200, 20)
        text = b"".join(box.messages())
        self.assertEqual([i for i in ids if text.count(f"Message-ID: <{i}@".encode()) != 1], [])

    def test_unknown_recipient_is_refused_at_rcpt(self):
        r = swaks(self.it.smtp_port, "--from", "someone@far.test", "--to", "nobody@local.test")
        self.assertEqual(r.returncode, 24, r.stdout)
        self.assertIn("550 5.1.1", r.stdout)
        # And from a client that may relay too.
        with Smtp(self.it.smtp_port) as c:
            c.expect("MAIL", 250, line="MAIL FROM:<a@far.test>")
            code, text = c.command("RCPT TO:<nobody@local.test>")
            self.assertEqual((code, text[:5]), (550, "5.1.1"))
            self.assertEqual(c.command("RCPT TO:<alice@local.test>")[0], 250)

    def test_relaying_is_refused_by_default(self):
        r = swaks(self.it.smtp_port, "--from", "someone@far.test", "--to", "someone@else.test")
        self.assertEqual(r.returncode, 24, r.stdout)
        self.assertIn("550 5.7.1", r.stdout)
        self.assertEqual(self.sink.deliveries, [])

    def test_postmaster_is_always_there(self):
        for address in ("postmaster", "Postmaster", "postmaster@local.test"):
            with Smtp(self.it.smtp_port) as c:
                c.expect("MAIL", 250, line="MAIL FROM:<a@far.test>")
                self.assertEqual(c.command(f"RCPT TO:<{address}>")[0], 250, address)

    def test_a_drop_directory(self):
        self.it.rest.ok("PUT", "/api/v1/mailbox-stores/app", {"spec": {"type": "drop"}})
        self.it.mailbox("one", mailboxStore="app")
        self.it.mailbox("two", mailboxStore="app")
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("from@far.test", ["one@local.test", "two@local.test"], message(id, 3000))
        def dropped():
            files = [p for p in glob.glob(os.path.join(self.it.data, "drop/app/*.eml"))]
            texts = [open(p, "rb").read() for p in files]
            texts = [t for t in texts if id.encode() in t]
            return texts if sum(t.lower().count(b"x-receiver:") for t in texts) >= 2 else None
        texts = wait_for("the drop files", dropped, 15)
        receivers = []
        for t in texts:
            lines = t.replace(b"\r\n", b"\n").split(b"\n")
            self.assertEqual(lines[0].lower(), b"x-sender: from@far.test")
            n = 1
            while lines[n].lower().startswith(b"x-receiver: "):
                receivers.append(lines[n][12:])
                n += 1
            self.assertGreater(n, 1)
        self.assertEqual(sorted(receivers), [b"one@local.test", b"two@local.test"])

    def test_a_name_cannot_leave_the_directory(self):
        a = self.it.rest.call("PUT", "/api/v1/recipients/..%2f..%2fevil", {"spec": {"type": "mailbox"}})
        self.assertIn(a.status, (400, 404, 422), a)
        a = self.it.rest.call("PUT", "/api/v1/mailbox-stores/evil", {"spec": {"type": "drop", "path": "../../evil"}})
        self.assertIn(a.status, (400, 422), a)


@only_bridgehead
@unittest.skipIf(dovecot.why_not(), dovecot.why_not())
class ByLmtp(unittest.TestCase):
    """Dovecot takes it, and IMAP shows it."""

    @classmethod
    def setUpClass(cls):
        cls.box = Dovecot([f"{name}@local.test" for name in ("anna", "bert", "many", "late", "full")],
                          quotas={"full@local.test": 20_000}).start()
        cls.it = make_sut("lmtp").start()
        cls.it.local_domain("local.test")
        cls.it.server(delivery={"local": {"glitchRetry": {"after": "1s", "times": 100}}})
        cls.it.mailbox("sender")
        cls.store("tcp", host="127.0.0.1", port=cls.box.lmtp_port)
        cls.store("unix", socket=cls.box.socket)

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.box.stop()

    @classmethod
    def store(cls, name, **spec):
        cls.it.rest.ok("PUT", f"/api/v1/mailbox-stores/{name}", {"spec": {"type": "lmtp", **spec}})

    def send(self, to, content):
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", [f"{name}@local.test" for name in to], content)

    def find(self, name, id, timeout=15):
        mark = id.encode()
        def found():
            return [m for m in self.box.messages(f"{name}@local.test") if mark in m]
        return wait_for(f"{id} in the box of {name}", found, timeout)

    def reports(self, id):
        """Delivery reports about a message, which Anna's server sent to the sender's Maildir."""
        box = os.path.join(self.it.data, "mail/default/sender/new")
        texts = [open(p, "rb").read() for p in glob.glob(os.path.join(box, "*"))] if os.path.isdir(box) else []
        return [t.decode("latin-1") for t in texts if id.encode() in t and b"multipart/report" in t]

    def drained(self, store):
        wait_for(f"the queue of {store} to drain", lambda: not (self.it.queue(f"local:{store}") or {}).get("messages"), 20)

    def test_both_transports_bring_the_same_octets(self):
        for transport in ("tcp", "unix"):
            self.it.mailbox("anna", mailboxStore=transport)
            self.it.mailbox("bert", mailboxStore=transport)
            id = new_id()
            content = f"X-Test-Id: {id}\r\nSubject: x\r\n\r\n.\r\n..\r\nGr\u00fc\u00dfe {'x' * 900}\r\n\r\n".encode()
            self.send(["anna", "bert"], content)
            for name in ("anna", "bert"):
                found = self.find(name, id)
                self.assertEqual(len(found), 1, transport)
                self.assertTrue(found[0].endswith(content), found[0])
                self.assertIn(b"Return-Path: <sender@local.test>", found[0])
            self.drained(transport)

    def test_many_arrive_once(self):
        self.it.mailbox("many", mailboxStore="unix")
        ids = [new_id() for _ in range(300)]
        with Smtp(self.it.smtp_port) as c:
            for id in ids:
                c.transaction("sender@local.test", ["many@local.test"], message(id, 500))
        self.drained("unix")
        text = b"".join(self.box.messages("many@local.test"))
        self.assertEqual([i for i in ids if text.count(f"Message-ID: <{i}@".encode()) != 1], [])

    def test_each_recipient_has_the_answer_that_dovecot_gave_for_it(self):
        # `full` is over its quota behind the dot, `ghost` is unknown at RCPT; the others have their mail
        for name in ("anna", "bert", "full", "ghost"):
            self.it.mailbox(name, mailboxStore="tcp")
        id = new_id()
        self.send(["anna", "full", "ghost", "bert"], message(id, 40_000))
        for name in ("anna", "bert"):
            self.assertEqual(len(self.find(name, id)), 1)
        wait_for("two recipients reported", lambda: sum(r.count("Final-Recipient:") for r in self.reports(id)) >= 2, 15)
        text = "".join(self.reports(id))
        self.assertIn("Final-Recipient: rfc822; full@local.test", text)
        self.assertIn("Status: 5.2.2", text)
        self.assertIn("Final-Recipient: rfc822; ghost@local.test", text)
        self.assertIn("Status: 5.1.1", text)
        self.drained("tcp")
        self.assertEqual(self.box.messages("full@local.test"), [])

    def test_mail_waits_while_dovecot_is_down(self):
        other = Dovecot(["late@local.test"])
        self.store("late", socket=other.socket)
        self.it.mailbox("late", mailboxStore="late")
        ids = [new_id() for _ in range(20)]
        for id in ids:
            self.send(["late"], message(id, 500))
        queue = wait_for("the queue to say why", lambda: (self.it.queue("local:late") or {}).get("lastError") and self.it.queue("local:late"), 10)
        self.assertEqual(queue["messages"], 20)
        self.assertEqual(queue["lastError"]["status"], "4.4.1")
        other.start()
        try:
            self.drained("late")
            text = b"".join(other.messages("late@local.test"))
            self.assertEqual([i for i in ids if text.count(f"Message-ID: <{i}@".encode()) != 1], [])
        finally:
            other.stop()


class App(http.server.BaseHTTPRequestHandler):
    """What an application of somebody else's makes of a webhook, with nothing but Python's library."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.headers, body))
        answer = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@only_bridgehead
class ByWebhook(unittest.TestCase):
    SECRET = "whsec-of-the-tests"

    @classmethod
    def setUpClass(cls):
        cls.it = make_sut("webhook").start()
        cls.it.local_domain("local.test")
        cls.it.server(delivery={"local": {"glitchRetry": {"after": "1s", "times": 100}}})

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()

    def app(self, name, format, answers=()):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        server.requests, server.answers = [], list(answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        spec = {"type": "webhook", "url": f"http://127.0.0.1:{server.server_port}/in", "format": format, "secret": {"value": self.SECRET}}
        self.it.rest.ok("PUT", f"/api/v1/mailbox-stores/{name}", {"spec": spec})
        self.it.mailbox(f"to-{name}", mailboxStore=name)
        return server

    def send(self, name, content):
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", [f"to-{name}@local.test"], content)

    def signed(self, headers, *parts):
        fields = dict(part.split("=", 1) for part in headers["Bridgehead-Signature"].split(","))
        text = b".".join([fields["t"].encode(), *parts])
        self.assertTrue(hmac.compare_digest(fields["v1"], hmac.new(self.SECRET.encode(), text, hashlib.sha256).hexdigest()))

    def test_raw_twenty_megabytes_after_trouble(self):
        app = self.app("raw", "raw", answers=[500, 503])
        id = new_id()
        content = message(id, 20 << 20)
        self.send("raw", content)
        wait_for("three requests", lambda: len(app.requests) == 3, 30)
        self.assertEqual(len({h["Bridgehead-Delivery"] for h, _ in app.requests}), 1, "the same delivery each time")
        for headers, body in app.requests:
            self.assertTrue(body.endswith(content))
            self.assertEqual(json.loads(headers["Bridgehead-Envelope"]), {"from": "a@far.test", "to": ["to-raw@local.test"]})
            self.signed(headers, headers["Bridgehead-Envelope"].encode(), body)

    def test_json(self):
        app = self.app("json", "json")
        part = base64.b64encode(b"\0\1\2" * 1000).decode()
        lines = ["Subject: parts", "MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=b", "", "--b", "Content-Type: text/plain", "",
                 "hello", "--b", "Content-Type: application/x-thing; name=a.bin", "Content-Transfer-Encoding: base64", "",
                 *[part[i:i + 76] for i in range(0, len(part), 76)], "--b--", ""]
        self.send("json", "\r\n".join(lines).encode())
        wait_for("a request", lambda: app.requests, 15)
        headers, body = app.requests[0]
        self.signed(headers, body)
        told = json.loads(body)
        self.assertEqual((told["subject"], told["text"]), ("parts", "hello"))
        self.assertEqual(base64.b64decode(told["attachments"][0]["content"]), b"\0\1\2" * 1000)
        self.assertEqual(told["envelope"], {"from": "a@far.test", "to": ["to-json@local.test"]})
