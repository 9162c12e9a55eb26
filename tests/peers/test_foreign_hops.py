"""Postfix, Exim and OpenSMTPD as next hops that want STARTTLS and a login, and hand on to a ledger behind them: what leaves there is
compared octet for octet, who reports a delivery that the sender asked about, and that nothing leaves when something is not right.
"""

import email
import email.policy
import unittest

from clients import USER
from harness import make_sut, only_bridgehead, wait_for
from hops import HOPS, pair
from load import Smtp, message, new_id
from sink import Sink
from test_clients import content, taken_apart

WORDS = {"plain": "PLAIN", "login": "LOGIN", "scramSha256": "SCRAM-SHA-256"}


class ForeignHop:
    """The tests, for one kind of hop."""

    kind = None

    @classmethod
    def setUpClass(cls):
        if reason := cls.kind.available():
            raise unittest.SkipTest(reason)
        # far hands DSN on, blunt does not know it; to back.test reports go
        cls.far, cls.blunt = Sink(), Sink(extensions=("PIPELINING", "8BITMIME", "SIZE 104857600", "ENHANCEDSTATUSCODES"))
        cls.reports_of_hop, cls.reports_of_ours = Sink(), Sink()
        cls.chain, key = pair()
        routes = {"far.test": cls.far.port, "blunt.test": cls.blunt.port, "back.test": cls.reports_of_hop.port}
        cls.hop = cls.kind(cls.chain, key, routes).start()

    @classmethod
    def tearDownClass(cls):
        cls.hop.stop()
        for sink in (cls.far, cls.blunt, cls.reports_of_hop, cls.reports_of_ours):
            sink.close()

    def setUp(self):
        self.it = make_sut("foreign").start()
        self.addCleanup(self.it.destroy)
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.route_to(self.reports_of_ours.port, connector="back", pattern="back.test")

    def connect(self, mechanism="plain", password=None, security=None):
        """The connector to the hop; it replaces the one before."""
        if security is None:
            with open(self.chain) as f:
                security = {"ca": {"value": f.read()}}
        login = {"mechanism": mechanism, "username": USER, "password": {"value": password or self.hop.password}}
        spec = {"addressSpaces": [{"pattern": "far.test"}, {"pattern": "blunt.test"}], "security": {"tls": "verified", **security},
                "route": {"smartHosts": [{"host": "127.0.0.1", "port": self.hop.port}]},
                "authentication": login if mechanism else {"mechanism": "none"}}
        self.it.rest.ok("PUT", "/api/v1/connectors/out", {"spec": spec})

    def send(self, to, raw=None, **parameters):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@back.test", [to], raw or message(id, 2000), **parameters)
        return id

    def why_it_waits(self, status, words):
        """Waits until the queue says so."""
        def told():
            error = (self.it.queue("smarthost:out") or {}).get("lastError") or {}
            assert (error.get("status"), words in error.get("diagnostic", "")) == (status, True), error
            return error["diagnostic"]
        return wait_for(f"a failure {status}: {words}", told, 20)

    def test_octets_by_every_mechanism(self):
        for mechanism in self.hop.mechanisms:
            with self.subTest(mechanism=mechanism):
                self.connect(mechanism)
                before = len(self.hop.logins(mechanism))
                id = new_id()
                raw = content(id, "sender@back.test", "to@far.test", "Ada")
                self.send("to@far.test", raw, mail="BODY=8BITMIME")
                self.assertEqual(self.far.wait_accepted([id]), set(), self.hop.log_text()[-1500:])
                copies = self.far.by_id(id)
                self.assertEqual((len(copies), copies[0].sender, copies[0].recipients), (1, "sender@back.test", ["to@far.test"]))
                fields, below = taken_apart(copies[0].content)
                self.assertEqual(below, raw)
                self.assertEqual(len(fields), 2, fields)
                self.assertIn(f"by {self.hop.host}", fields[0])
                self.assertRegex(fields[0], "ESMTPSA|TLS")
                wait_for("a login in its log", lambda: len(self.hop.logins(mechanism)) > before)

    def test_who_reports_a_delivery(self):
        """The last who knows DSN does: the ledger when all do, the hop when the ledger does not, we when the hop does not."""
        self.connect()
        asked = {"mail": "RET=HDRS ENVID=QQ3", "rcpt": "NOTIFY=SUCCESS ORCPT=rfc822;first@far.test"}
        ids = {to: self.send(to, **asked) for to in ("to@far.test", "to@blunt.test")}
        for sink, to in ((self.far, "to@far.test"), (self.blunt, "to@blunt.test")):
            self.assertEqual(sink.wait_accepted([ids[to]]), set(), self.hop.log_text()[-1500:])
        if self.hop.says_dsn:
            d = self.far.by_id(ids["to@far.test"])[0]
            self.assertIn("ENVID=QQ3", d.mail_args.upper())
            self.assertIn("RET=HDRS", d.mail_args.upper())
            self.assertIn("NOTIFY=SUCCESS", d.rcpt_args[0].upper())
            self.assertIn("ORCPT=RFC822;FIRST@FAR.TEST", d.rcpt_args[0].upper())
            reporter, silent, expected = self.reports_of_hop, self.reports_of_ours, {"to@blunt.test"}
        else:
            reporter, silent, expected = self.reports_of_ours, self.reports_of_hop, set(ids)
        reporter.wait(len(expected))
        # nothing is on its way any more, so nothing comes too much
        wait_for("an empty queue", lambda: self.it.waiting() == 0)
        self.assertEqual((len(reporter.deliveries), silent.deliveries), (len(expected), []))
        told = set()
        for d in reporter.deliveries:
            self.assertEqual((d.sender, d.recipients), ("", ["sender@back.test"]))
            report = email.message_from_bytes(d.content, policy=email.policy.default)
            [status] = [p for p in report.walk() if p.get_content_type() == "message/delivery-status"]
            of_message, of_recipient = [b for b in status.get_payload() if b.keys()]
            self.assertEqual(of_recipient["Action"], "relayed")
            self.assertTrue(str(of_recipient["Status"]).startswith("2."))
            if self.hop.says_dsn:
                self.assertIn(self.hop.host, of_message["Reporting-MTA"])
            else:
                self.assertNotIn(self.hop.host, of_message["Reporting-MTA"])
                self.assertEqual(of_message["Original-Envelope-Id"], "QQ3")
            told.add(str(of_recipient["Final-Recipient"]).split(";")[1].strip().lower())
        self.assertEqual(told, expected)
        self.reports_of_hop.deliveries.clear()
        self.reports_of_ours.deliveries.clear()

    def test_a_wrong_password_lets_mail_wait(self):
        for mechanism in self.hop.mechanisms:
            with self.subTest(mechanism=mechanism):
                self.it.rest.call("DELETE", "/api/v1/connectors/out")
                self.connect(mechanism, "wrong")
                id = self.send("to@far.test")
                told = self.why_it_waits("4.7.8", f"connector out cannot log in by {WORDS[mechanism]}")
                self.assertNotIn("wrong", told)
                self.assertEqual(self.far.by_id(id), [])
                self.connect(mechanism)
                self.assertEqual(self.far.wait_accepted([id]), set())

    def test_a_mechanism_that_it_does_not_offer_lets_mail_wait(self):
        self.connect("scramSha256")
        id = self.send("to@far.test")
        self.why_it_waits("4.7.4", "connector out cannot log in by SCRAM-SHA-256: the server does not offer it")
        self.assertEqual(self.far.by_id(id), [])

    def test_a_certificate_of_somebody_else_lets_mail_wait(self):
        with open(pair()[0]) as f:
            other = {"ca": {"value": f.read()}}
        with open(self.chain) as f:
            named = {"ca": {"value": f.read()}, "serverName": "other.test"}
        for security in (other, {}, named):
            with self.subTest(security=sorted(security)):
                self.it.rest.call("DELETE", "/api/v1/connectors/out")
                self.connect(security=security)
                before = len(self.hop.logins("plain"))
                id = self.send("to@far.test")
                self.why_it_waits("4.7.5", "certificate")
                self.assertEqual(self.far.by_id(id), [])
                self.assertEqual(len(self.hop.logins("plain")), before, "no credentials were shown")
                self.connect()
                self.assertEqual(self.far.wait_accepted([id]), set())

    def test_without_a_login_it_takes_nothing(self):
        """Else the tests above could pass with a server that takes mail from everybody."""
        self.connect(None)
        id = self.send("to@far.test")
        wait_for("the end of it, or a refusal", lambda: self.it.waiting() == 0 or (self.it.queue("smarthost:out") or {}).get("lastError"))
        self.assertEqual(self.far.by_id(id), [])


def tests_of(kind):
    body = {"kind": kind, "__module__": __name__}
    if set(kind.mechanisms) == set(WORDS):
        body["test_a_mechanism_that_it_does_not_offer_lets_mail_wait"] = None
    return only_bridgehead(type(kind.__name__, (ForeignHop, unittest.TestCase), body))


globals().update({f"{kind.__name__}Behaves": tests_of(kind) for kind in HOPS})
