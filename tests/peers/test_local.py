"""Local mail: Maildir and drop directory; unknown recipients and relaying refused at RCPT."""

import glob
import os
import smtplib
import subprocess
import unittest

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
