"""What content becomes for a next hop that does not carry 8-bit mail, and senders that become others, read by Python's parser."""

import email
import email.policy
import os
import quopri
import random
import unittest
from email.message import EmailMessage

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, new_id
from postfix import Postfix
from sink import Sink

SENTENCES = ["Grüße aus Köln.", "naïve café — déjà vu", "日本語のテキスト", "plain words only", "-- ", "tab\tand trailing ", "=3D is no escape",
             "From here to there", ".", "..dots", "x" * 200, "ü" * 200, "--not-a-boundary", ""]


def some_text(rng):
    return "\n".join(rng.choice(SENTENCES) for _ in range(rng.randrange(1, 30))) + "\n"


def leaf(rng):
    m = EmailMessage(policy=email.policy.SMTP)
    kind = rng.randrange(6)
    if kind < 3:
        m.set_content(some_text(rng), subtype=rng.choice(["plain", "html"]), charset="utf-8",
                      cte=rng.choice(["8bit", "8bit", "quoted-printable", "base64"]))
    elif kind == 3:
        m.set_content(rng.randbytes(rng.randrange(500)), "application", "octet-stream", filename="a.bin")
    elif kind == 4:
        m.set_content("only ASCII\n")
    else:
        m.set_content(some_text(rng), charset="utf-8", cte="8bit", disposition="attachment", filename="x.txt")
    return m


def tree(rng, depth):
    if depth == 0 or rng.random() < 0.3:
        return leaf(rng)
    m = EmailMessage(policy=email.policy.SMTP)
    if rng.random() < 0.25:
        inner = tree(rng, depth - 1)
        inner["Subject"] = "inner"
        inner["From"] = "inner@sender.test"
        m.set_content(inner, cte="8bit")
        return m
    m["Content-Type"] = "multipart/" + rng.choice(["mixed", "alternative", "related"])
    m["MIME-Version"] = "1.0"
    if rng.random() < 0.5:
        m["Content-Transfer-Encoding"] = "8bit"
    m.preamble = rng.choice([None, "This is MIME.\n"])
    for _ in range(rng.randrange(1, 4)):
        part = tree(rng, depth - 1)
        del part["MIME-Version"]
        m.attach(part)
    return m


def leaves(raw):
    """(type, decoded octets, file name) of everything that is no container, in order."""
    out = []
    for part in email.message_from_bytes(raw, policy=email.policy.SMTP).walk():
        assert not part.defects, (part.defects, part.get_content_type())
        if not part.is_multipart():
            out.append((part.get_content_type(), part.get_payload(decode=True).replace(b"\r\n", b"\n"), part.get_filename()))
        else:
            out.append((part.get_content_type(), None, None))
    return out


def from_of(raw):
    """(display name, local part, domain) of each address in From."""
    m = email.message_from_bytes(raw, policy=email.policy.SMTP)
    return [(a.display_name, a.username, a.domain) for a in m["From"].addresses]


@only_bridgehead
class OutgoingContent(unittest.TestCase):
    def start(self, extensions=("PIPELINING", "SIZE", "ENHANCEDSTATUSCODES")):
        self.sink = Sink(extensions=extensions)
        self.addCleanup(self.sink.close)
        self.it = make_sut("content").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("sender")
        self.it.relay_for("127.0.0.0/8")
        self.it.route_to(self.sink.port)

    def test_every_tree_of_parts_means_the_same_in_7_bit(self):
        self.start()
        seed = random.randrange(1 << 30)
        print(f"      seed {seed}")
        rng = random.Random(seed)
        sent = {}
        with Smtp(self.it.smtp_port) as c:
            for _ in range(150):
                id = new_id()
                m = tree(rng, 4)
                m["From"], m["To"], m["X-Test-Id"] = "sender@local.test", "u@far.test", id
                raw = m.as_bytes()
                sent[id] = raw
                c.transaction("sender@local.test", ["u@far.test"], raw, mail=rng.choice(["", "BODY=8BITMIME"]))
        self.assertEqual(self.sink.wait_accepted(list(sent), 60), set())
        changed = 0
        for d in self.sink.accepted():
            raw = sent[d.id]
            self.assertTrue(d.content.isascii(), d.id)
            self.assertNotIn("BODY", d.mail_args)
            self.assertEqual(leaves(d.content), leaves(raw), f"{raw!r}\n{d.content!r}")
            if raw.isascii():
                self.assertTrue(d.content.endswith(raw), "changed without need")
            else:
                changed += 1
                # within the limits of RFC 2045
                self.assertLessEqual(max(len(l) for l in d.content.split(b"\r\n")), 998)
        self.assertGreater(changed, 30)
        self.assertEqual(self.box.files(), [])

    def test_a_large_message_is_converted_too(self):
        """It lies in a file, and another one is pipelined behind its dot."""
        self.start()
        sent = {}
        with Smtp(self.it.smtp_port, timeout=60) as c:
            for size in (6_000_000, 10, 6_000_000, 10):
                id = new_id()
                m = EmailMessage(policy=email.policy.SMTP)
                m["From"], m["X-Test-Id"] = "sender@local.test", id
                m.set_content("Grüße aus Köln, und weiter im Text.\n" * 3, cte="8bit")
                m.add_attachment(random.randbytes(size), "application", "x", filename="x")
                sent[id] = m.as_bytes()
                c.transaction("sender@local.test", ["u@far.test"], sent[id])
        self.assertEqual(self.sink.wait_accepted(list(sent), 60), set())
        for d in self.sink.accepted():
            self.assertTrue(d.content.isascii())
            self.assertEqual(leaves(d.content), leaves(sent[d.id]))

    def test_a_strict_postfix_takes_what_was_converted(self):
        """It takes no 8-bit mail, and judges what is declared (strict_mime_encoding_domain)."""
        self.start()
        last = Postfix("strict", {"smtpd_discard_ehlo_keywords": "8bitmime", "strict_7bit_headers": "yes", "strict_8bitmime_body": "yes",
                                  "strict_mime_encoding_domain": "yes"}, mailbox_domain="far.test").start()
        self.addCleanup(last.stop)
        self.it.route_to(last.port)
        rng = random.Random(11)
        sent = {}
        with Smtp(self.it.smtp_port) as c:
            for _ in range(60):
                id = new_id()
                m = tree(rng, 4)
                m["From"], m["X-Test-Id"] = "sender@local.test", id
                sent[id] = m.as_bytes()
                c.transaction("sender@local.test", ["u@far.test"], sent[id])
        directory = os.path.join(last.maildirs, "box/new")
        wait_for("all of it", lambda: len(os.listdir(directory)) == len(sent) or self.box.files(), 60)
        self.assertEqual(self.box.messages(), [], "a report")
        for name in os.listdir(directory):
            with open(os.path.join(directory, name), "rb") as f:
                raw = f.read()
            self.assertTrue(raw.isascii())
            id = email.message_from_bytes(raw)["X-Test-Id"]
            self.assertEqual(leaves(raw), leaves(sent.pop(id)))
        self.assertEqual(sent, {})

    def test_what_is_signed_is_returned_with_words(self):
        self.start()
        raw = ("From: sender@local.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=s; protocol=\"application/x\"; micalg=x\r\n\r\n"
               "--s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
               "--s\r\nContent-Type: application/x\r\n\r\nx\r\n--s--\r\n").encode()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", ["u@far.test"], raw, mail="BODY=8BITMIME")
        report = self.box.wait(1)[0]
        self.assertIn(b"Status: 5.6.3", report)
        self.assertIn(b"signed or encrypted part must not be converted", b" ".join(report.split()))
        self.assertEqual(self.sink.deliveries, [])

    def test_the_report_about_it_goes_where_it_must(self):
        """The sender is behind the same next hop: the report, with the 8-bit message in it, is converted too."""
        self.start()
        raw = "From: x@far.test\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("x@far.test", ["u@far.test"], raw, mail="RET=FULL")
            c.transaction("x@far.test", ["u@far.test"], raw, mail="RET=HDRS")
        kinds = set()
        for d in self.sink.wait(2):
            self.assertEqual((d.sender, d.recipients), ("", ["x@far.test"]))
            self.assertTrue(d.content.isascii())
            m = email.message_from_bytes(d.content, policy=email.policy.SMTP)
            self.assertEqual(m.get_content_type(), "multipart/report")
            # RFC 6532 and 6533 let it be encoded, which Python's parser does not know of message/*
            last = list(m.iter_parts())[-1]
            kinds.add((last.get_content_type(), last["Content-Transfer-Encoding"]))
            self.assertIn("Subject: Grüße\r\n".encode(), quopri.decodestring(d.content))
        self.assertEqual(kinds, {(kind, "quoted-printable") for kind in ("message/global", "message/global-headers")})

    def test_senders_are_read_by_another_parser(self):
        self.start(("PIPELINING", "8BITMIME"))
        self.it.server(outbound={"masqueradeDomain": "public.test"})
        rng = random.Random(7)
        names = ["", "Ada Lovelace", "Lovelace, Ada", 'with "quotes"', "Grüße", "x@y", "a" * 70, "(comment)", "日本語" * 20]
        expected = {}
        with Smtp(self.it.smtp_port) as c:
            for n in range(60):
                id = new_id()
                m = EmailMessage(policy=email.policy.SMTP)
                who = [email.headerregistry.Address(rng.choice(names), rng.choice(["a", "b.c", "d e", "f+g"]), rng.choice(["local.test", "far.test"]))
                       for _ in range(rng.randrange(1, 4))]
                m["From"], m["To"], m["X-Test-Id"] = who, "u@far.test", id
                m.set_content("hello\n")
                expected[id] = [(n, u, d.replace("local.test", "public.test")) for n, u, d in from_of(m.as_bytes())]
                c.transaction("sender@local.test", ["u@far.test"], m.as_bytes())
        self.assertEqual(self.sink.wait_accepted(list(expected), 60), set())
        for d in self.sink.accepted():
            self.assertEqual(d.sender, "sender@public.test")
            self.assertEqual(from_of(d.content), expected[d.id])
        self.assertTrue(any(domain == "public.test" for all in expected.values() for _, _, domain in all))


if __name__ == "__main__":
    unittest.main()
