"""Delivery status notifications: who gets one, what it says, and who never does (RFC 3461, 3464)."""

import email
import email.policy
import time
import unittest

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Sink


def report_of(raw):
    """A multipart/report taken apart, with its fields checked for form."""
    m = email.message_from_bytes(raw, policy=email.policy.default)
    assert m.get_content_type() == "multipart/report", m.get_content_type()
    assert m.get_param("report-type") == "delivery-status", m["Content-Type"]
    parts = list(m.iter_parts())
    status = [p for p in parts if p.get_content_type() == "message/delivery-status"]
    assert len(status) == 1, [p.get_content_type() for p in parts]
    blocks = [b for b in status[0].get_payload() if len(b.keys())]
    return m, parts, blocks[0], blocks[1:]


@only_bridgehead
class Dsn(unittest.TestCase):
    def setUp(self):
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        self.sink.reject_recipient = lambda a: "550 5.1.1 <%s>: nobody here" % a if a.startswith("no") else (
            "450 4.2.1 later" if a.startswith("later") else None)
        self.it = make_sut("dsn").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("sender")
        self.it.relay_for("127.0.0.0/8")
        self.it.route_to(self.sink.port)
        self.it.quick_retries("1s")

    def send(self, recipients, sender="sender@local.test", mail="", rcpt="", size=2000):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction(sender, recipients, message(id, size, sender=sender or "x@local.test"), mail=mail, rcpt=rcpt)
        return id

    def dead_letters(self):
        q = self.it.queue("deadLetter")
        return q["messages"] if q else 0

    def test_a_refused_recipient_is_reported(self):
        id = self.send(["no1@far.test", "yes@far.test", "no2@far.test"], mail="ENVID=QQ314159 RET=HDRS", rcpt="ORCPT=rfc822;original@far.test")
        raw = self.box.wait(1)[0]
        m, parts, message_fields, recipients = report_of(raw)
        self.assertTrue(raw.startswith(b"Return-Path: <>"), raw[:100])
        self.assertEqual(m["To"].addresses[0].addr_spec, "sender@local.test")
        self.assertIsNotNone(m["Message-ID"])
        self.assertIsNotNone(m["Date"])
        self.assertTrue(str(message_fields["Reporting-MTA"]).lower().startswith("dns;"))
        self.assertEqual(message_fields["Original-Envelope-Id"], "QQ314159")
        self.assertEqual(sorted(str(r["Final-Recipient"]).replace(" ", "").lower() for r in recipients),
                         ["rfc822;no1@far.test", "rfc822;no2@far.test"])
        for r in recipients:
            self.assertEqual(r["Action"], "failed")
            self.assertEqual(r["Status"], "5.1.1")
            self.assertIn("nobody here", r["Diagnostic-Code"])
            self.assertEqual(str(r["Original-Recipient"]).replace(" ", "").lower(), "rfc822;original@far.test")
            self.assertIsNotNone(r["Remote-MTA"])
        # RET=HDRS: the header comes back, the body does not.
        self.assertIn(b"X-Test-Id: " + id.encode(), raw)
        self.assertNotIn(b"0123456789abcdefghijklmnopqrstuvwxyz0123456789", raw)
        self.assertEqual([p.get_content_type() for p in parts][0], "text/plain")
        time.sleep(1)
        self.assertEqual(len(self.box.files()), 1, "one message, one report")
        self.assertEqual(self.sink.ids(), {id: 1})

    def test_the_first_part_tells_people_what_happened_and_what_to_do(self):
        says = {
            "no-user": ("550 5.1.1 nobody here", "There is no such address", "look for a mistake in the address"),
            "full": ("552 5.2.2 quota", "The mailbox is full", "in another way"),
            "large": ("552 5.3.4 too big", "larger than is accepted", "smaller"),
            "policy": ("550 5.7.1 go away", "by a rule of its own", "what the server said"),
            "plain": ("550 no", "no such address", "look for a mistake"),
        }
        self.sink.reject_recipient = lambda a: says[a.split("@")[0]][0]
        self.send([f"{name}@far.test" for name in says])
        raw = self.box.wait(1)[0]
        m, parts, message_fields, recipients = report_of(raw)
        self.assertEqual(parts[0].get_content_type(), "text/plain")
        text = parts[0].get_content()
        self.assertTrue(all(len(line) <= 78 for line in text.splitlines()), text)
        told = {}
        for block in text.split("<")[1:]:
            address, rest = block.split(">", 1)
            told[address] = " ".join(rest.split())
        for name, (reply, what, advice) in says.items():
            for part in (what, advice, reply, "What to do:", f"127.0.0.1:{self.sink.port}"):
                self.assertIn(part, told[f"{name}@far.test"])
        # RFC 3464, 2.2 and 2.3: what has to be there, and in each group just once
        self.assertEqual(len(message_fields.get_all("Reporting-MTA")), 1)
        self.assertIsNotNone(message_fields["Arrival-Date"])
        self.assertEqual(len(recipients), len(says))
        for r in recipients:
            name = str(r["Final-Recipient"]).split(";")[1].strip().split("@")[0]
            for field in ("Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"):
                self.assertEqual(len(r.get_all(field)), 1, (field, r))
            self.assertRegex(r["Status"], r"^5\.\d{1,3}\.\d{1,3}$")
            self.assertEqual(r["Diagnostic-Code"], f"smtp; {says[name][0]}")
            self.assertTrue(r["Remote-MTA"].startswith("dns;"))
            self.assertIsNone(r["Original-Recipient"], "nobody gave an ORCPT")

    def test_what_notify_asks_for_is_reported_and_nothing_else(self):
        # NOTIFY, recipient, the action that is reported: the sink offers DSN, so it is the one to report success
        rows = [("NOTIFY=SUCCESS", "no", None), ("NOTIFY=SUCCESS,FAILURE", "no", "failed"), ("NOTIFY=FAILURE", "yes", None),
                ("NOTIFY=SUCCESS", "yes", None), ("", "yes", None), ("", "no", "failed")]
        for n, (notify, who, action) in enumerate(rows):
            before = len(self.box.files())
            self.send([f"{who}{n}@far.test"], rcpt=notify, mail=f"ENVID=row{n}")
            wait_for("its end", lambda: self.it.waiting() == 0, 15)
            if action:
                raw = wait_for("the report", lambda: (self.box.messages() if len(self.box.files()) > before else None), 15)
                found = [report_of(r) for r in raw if f"row{n}".encode() in r]
                self.assertEqual([r[3][0]["Action"] for r in found], [action], notify)
                self.assertEqual(found[0][2]["Original-Envelope-Id"], f"row{n}")
            else:
                time.sleep(0.5)
                self.assertEqual(len(self.box.files()), before, (notify, who))
        # a next hop without DSN does not, so it is said that it was relayed
        plain = Sink(extensions=["PIPELINING", "8BITMIME"])
        self.addCleanup(plain.close)
        self.it.route_to(plain.port)
        self.send(["yes@far.test"], rcpt="NOTIFY=SUCCESS ORCPT=rfc822;first+2Bx@far.test", mail="ENVID=relay")
        raw = wait_for("the report", lambda: [r for r in self.box.messages() if b"Original-Envelope-Id: relay" in r], 15)[0]
        _, _, message_fields, recipients = report_of(raw)
        self.assertEqual((recipients[0]["Action"], recipients[0]["Status"]), ("relayed", "2.0.0"))
        self.assertEqual(recipients[0]["Original-Recipient"].replace(" ", ""), "rfc822;first+x@far.test", "xtext is decoded")

    def test_a_copy_of_each_non_delivery_report(self):
        self.it.server(messages={"ndrCopyTo": "watch@far.test"})
        id = self.send(["no@far.test"], mail="RET=HDRS")
        d = self.sink.wait(1, 15)[0]
        self.assertEqual((d.sender, d.recipients), ("", ["watch@far.test"]))
        self.assertIn(id.encode(), d.content)
        report_of(d.content)
        report_of(self.box.wait(1)[0])
        self.send(["yes@far.test"])
        self.sink.wait(2, 15)
        time.sleep(1)
        self.assertEqual(len(self.sink.deliveries), 2, "only failures are copied")

    def test_the_whole_message_comes_back_by_default_or_when_asked(self):
        id = self.send(["no@far.test"], mail="RET=FULL")
        raw = self.box.wait(1)[0]
        report_of(raw)
        self.assertIn(id.encode(), raw)
        self.assertIn(b"0123456789abcdefghijklmnopqrstuvwxyz0123456789", raw)

    def test_no_report_about_a_report(self):
        self.send(["no@far.test"], sender="")
        wait_for("the dead-letter queue", lambda: self.dead_letters() == 1, 15)
        time.sleep(1)
        self.assertEqual(self.box.files(), [])
        self.assertEqual([d for d in self.sink.deliveries], [])

    def test_an_undeliverable_report_becomes_a_dead_letter(self):
        self.send(["no@far.test"], sender="nosuch@elsewhere.test")
        wait_for("the dead-letter queue", lambda: self.dead_letters() == 1, 15)
        time.sleep(1)
        self.assertEqual(len([d for d in self.sink.deliveries]), 0)
        self.assertEqual(self.it.waiting(), 0)

    def test_a_report_leaves_with_the_null_reverse_path(self):
        self.send(["no@far.test"], sender="yes@elsewhere.test")
        d = self.sink.wait(1, 15)[0]
        self.assertEqual(d.sender, "")
        self.assertEqual(d.recipients, ["yes@elsewhere.test"])
        report_of(d.content)

    def test_notify_never_holds(self):
        self.send(["no@far.test"], rcpt="NOTIFY=NEVER")
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 15)
        time.sleep(2)
        self.assertEqual(self.box.files(), [])

    def test_notify_delay_only_gives_no_failure_report(self):
        self.send(["no@far.test"], rcpt="NOTIFY=DELAY")
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 15)
        time.sleep(2)
        self.assertEqual(self.box.files(), [])

    def test_expiry_is_reported(self):
        self.it.server(delivery={"glitchRetry": {"after": "1s", "times": 3}, "retryIntervals": ["1s"], "expireAfter": "4s", "delayNotificationAfter": "2s"})
        self.send(["later@far.test"])
        def failed():
            for raw in self.box.messages():
                _, _, _, recipients = report_of(raw)
                if recipients[0]["Action"] == "failed":
                    return recipients[0]
        r = wait_for("the failure report", failed, 30)
        self.assertRegex(r["Status"], r"^[45]\.\d+\.\d+$")
        delayed = [raw for raw in self.box.messages() if report_of(raw)[3][0]["Action"] == "delayed"]
        self.assertEqual(len(delayed), 1, "one notification of the delay")
        self.assertTrue(report_of(delayed[0])[3][0]["Status"].startswith("4."))
        self.assertEqual(self.it.waiting(), 0)

    def test_dsn_parameters_go_along(self):
        self.send(["yes@far.test"], mail="RET=HDRS ENVID=abc", rcpt="NOTIFY=FAILURE,DELAY ORCPT=rfc822;first@far.test")
        d = self.sink.wait(1, 15)[0]
        self.assertIn("RET=HDRS", d.mail_args.upper())
        self.assertIn("ENVID=ABC", d.mail_args.upper())
        self.assertIn("ORCPT=RFC822;FIRST@FAR.TEST", d.rcpt_args[0].upper())
        self.assertIn("NOTIFY=", d.rcpt_args[0].upper())

    def test_bad_dsn_parameters_are_501(self):
        with Smtp(self.it.smtp_port) as c:
            self.assertEqual(c.command("MAIL FROM:<a@far.test> RET=SOME")[0], 501)
            self.assertEqual(c.command("MAIL FROM:<a@far.test> NONSENSE=1")[0], 555)
            self.assertEqual(c.command("MAIL FROM:<a@far.test>")[0], 250)
            self.assertEqual(c.command("RCPT TO:<yes@far.test> NOTIFY=NEVER,FAILURE")[0], 501)
            self.assertEqual(c.command("RCPT TO:<yes@far.test> NOTIFY=SOMETIMES")[0], 501)
            self.assertEqual(c.command("RCPT TO:<yes@far.test> NOTIFY=NEVER")[0], 250)
