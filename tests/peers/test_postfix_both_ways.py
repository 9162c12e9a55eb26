"""Postfix → the appliance → Postfix, bytes compared; 10,000 messages arrive exactly once."""

import base64
import os
import random
import subprocess
import time
import unittest

from harness import make_sut, wait_for
from load import Smtp, new_id, stuff
from postfix import Postfix, smtp_source
from sink import Sink

MESSAGES = int(os.environ.get("MESSAGES", "10000"))


def attachment(size):
    raw = random.Random(5).randbytes(size)
    b = base64.b64encode(raw)
    lines = b"\r\n".join(b[i:i + 76] for i in range(0, len(b), 76))
    return (b'--edge\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n'
            b'Content-Disposition: attachment; filename="a.bin"\r\n\r\n' + lines + b"\r\n--edge--\r\n")


HEAD = b"From: <sender@example.org>\r\nTo: <rcpt@example.net>\r\nSubject: bytes\r\nMessage-ID: <%s@bytes.test>\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n"
CASES = {
    "plain": HEAD + b"\r\nHello.\r\n",
    "dots": HEAD + b"\r\n.\r\n..\r\n...\r\n.x\r\nx.\r\n \r\n.\r\n. \r\n\r\n.\r\n",
    "only a dot": HEAD + b"\r\n.\r\n",
    "empty body": HEAD + b"\r\n",
    "header only": HEAD,
    "empty lines at the end": HEAD + b"\r\nx\r\n\r\n\r\n\r\n",
    "long lines": HEAD + b"\r\n" + (b"x" * 998 + b"\r\n") * 20 + b"." + b"y" * 997 + b"\r\n",
    "8 bit": HEAD + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
             + "Grüße aus Köln – schön\r\n".encode() + bytes(range(0x80, 0x100)) + b"\r\n",
    "folded header": HEAD + b"X-Folded: one\r\n two\r\n\tthree\r\nReceived: from a by b; Tue, 24 Nov 2026 09:00:00 +0000\r\n\r\nx\r\n",
    "tabs and spaces": HEAD + b"\r\n\t \r\n trailing   \r\n\t\r\n",
    "many headers": HEAD + b"".join(b"X-H%d: v\r\n" % i for i in range(300)) + b"\r\nx\r\n",
    "attachment of 5 MiB": HEAD + b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="edge"\r\n\r\n' + attachment(5 << 20),
}


def submit(port, id, template):
    data = b"X-Test-Id: " + id.encode() + b"\r\n" + template.replace(b"<%s@", b"<" + id.encode() + b"@")
    with Smtp(port, timeout=60) as c:
        body = "BODY=8BITMIME" if any(b > 127 for b in data) else ""
        c.transaction("sender@example.org", ["rcpt@example.net"], stuff(data), mail=body, raw=True)
    return data


class BothWays(unittest.TestCase):
    def test_bytes_from_postfix_to_postfix(self):
        last = Postfix("last", {"smtpd_relay_restrictions": "permit_mynetworks, reject"}, mailbox_domain="example.net").start()
        self.addCleanup(last.stop)
        it = make_sut("middle").start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.0/8")
        it.route_to(last.port)
        first = Postfix("first", {"relayhost": f"[127.0.0.1]:{it.smtp_port}"}).start()
        self.addCleanup(first.stop)
        sent = {}
        for name, template in CASES.items():
            id = new_id()
            sent[id] = (name, submit(first.port, id, template))
        box = last.maildir()
        wait_for(f"{len(CASES)} messages in the last Postfix", lambda: len(box.files()) >= len(CASES), 60)
        time.sleep(0.5)
        got = box.messages()
        self.assertEqual(len(got), len(CASES))
        for id, (name, data) in sent.items():
            with self.subTest(name):
                mark = b"X-Test-Id: " + id.encode()
                found = [m for m in got if b"\n" + mark + b"\n" in m]
                self.assertEqual(len(found), 1)
                at = found[0].index(mark)
                trace, content = found[0][:at], found[0][at:]
                expected = data.replace(b"\r\n", b"\n")
                if name == "header only":
                    # A relay may add the empty line that ends the header.
                    content, expected = content.rstrip(b"\n"), expected.rstrip(b"\n")
                self.assertEqual(content == expected, True, f"{content[:300]!r} … is not {expected[:300]!r}")
                fields = {l.split(b":")[0].lower() for l in trace.split(b"\n") if l and not l[:1].isspace()}
                self.assertEqual(fields - {b"return-path", b"received", b"delivered-to", b"x-original-to"}, set(), "more than trace headers")
                self.assertEqual(trace.lower().count(b"\nreceived:"), 3, trace)

    def test_the_body_parameter_goes_along(self):
        sink = Sink()
        self.addCleanup(sink.close)
        it = make_sut("body").start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.0/8")
        it.route_to(sink.port)
        data = submit(it.smtp_port, new_id(), CASES["8 bit"])
        d = sink.wait(1)[0]
        self.assertIn("BODY=8BITMIME", d.mail_args.upper())
        self.assertTrue(d.content.endswith(data), d.content[:500])
        self.assertEqual(d.sender, "sender@example.org")
        self.assertEqual(d.recipients, ["rcpt@example.net"])

    def test_every_message_of_smtp_source_arrives_once(self):
        sink = Sink(keep_raw=False)
        self.addCleanup(sink.close)
        it = make_sut("many").start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.0/8")
        it.route_to(sink.port)
        seconds = smtp_source(it.smtp_port, MESSAGES, 20, 2048, more=("-N",))
        wait_for(f"{MESSAGES} messages", lambda: len(sink.deliveries) >= MESSAGES, 120, 0.2)
        time.sleep(1)
        counts = {}
        for d in sink.accepted():
            for r in d.recipients:
                counts[r] = counts.get(r, 0) + 1
        print(f"      {MESSAGES} accepted in {seconds:.1f} s over {sink.connections} outbound connections")
        self.assertEqual(len(counts), MESSAGES)
        self.assertEqual({r: n for r, n in counts.items() if n != 1}, {})
        wait_for("the queue to be empty", lambda: it.waiting() == 0, 20)
        self.assertLess(sink.connections, MESSAGES / 2, "connections are not reused")

    def test_swaks_is_served(self):
        sink = Sink()
        self.addCleanup(sink.close)
        it = make_sut("swaks").start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.0/8")
        it.route_to(sink.port)
        id = new_id()
        for more in ((), ("--pipeline",), ("--protocol", "SMTP"), ("--attach", "@/bin/ls")):
            r = subprocess.run(["swaks", "--server", "127.0.0.1", "--port", str(it.smtp_port), "--from", "sender@example.org",
                                "--to", "rcpt@example.net,second@example.net", "--header", f"X-Test-Id: {id}", *more],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            self.assertEqual(r.returncode, 0, r.stdout[-1500:] + r.stderr)
        wait_for("four messages to two recipients", lambda: sum(len(d.recipients) for d in sink.by_id(id)) == 8, 20)
