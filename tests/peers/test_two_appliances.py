"""Two appliances, each the other's next hop, with STARTTLS and a login both ways: mail passes, and what goes in circles ends."""

import email
import email.policy
import re
import unittest

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from test_dsn import report_of
from test_split_at_every_byte import certificate, server

PASSWORD = "correct horse battery"
NAMES = ("here", "there")


@only_bridgehead
class TwoAppliances(unittest.TestCase):
    def setUp(self):
        self.its, self.boxes = {}, {}
        trusted, ports = {}, {}
        for name in NAMES:
            it = self.its[name] = make_sut(name).start()
            self.addCleanup(it.destroy)
            it.local_domain(f"{name}.test")
            self.boxes[name] = it.mailbox("ada")
            it.relay_for("127.0.0.0/8")
            it.server(fqdn=f"{name}.test")
            it.quick_retries("1s")
            with open(certificate(it)) as f:
                trusted[name] = f.read()
            it.rest.ok("PUT", "/api/v1/accounts/peer", {"spec": {
                "username": f"peer@{name}.test", "password": {"value": PASSWORD}, "sendAs": ["*"]}})
            ports[name] = server(it, "peers", {"tls": "starttls"}, fqdn=f"peers.{name}.test", tls={"required": True},
                                 authentication={"required": True, "mechanisms": ["scramSha256"]})
        for name, other in zip(NAMES, reversed(NAMES)):
            self.its[name].rest.ok("PUT", "/api/v1/connectors/other", {"spec": {
                "addressSpaces": [{"pattern": f"{other}.test"}, {"pattern": "circle.test"}],
                "route": {"smartHosts": [{"host": "127.0.0.1", "port": ports[other]}]},
                "security": {"tls": "verified", "ca": {"value": trusted[other]}},
                "authentication": {"mechanism": "scramSha256", "username": f"peer@{other}.test", "password": {"value": PASSWORD}}}})

    def send(self, name, to):
        id = new_id()
        with Smtp(self.its[name].smtp_port) as c:
            c.transaction(f"ada@{name}.test", to, message(id, 2000))
        return id

    def test_mail_passes_both_ways(self):
        for name, other in zip(NAMES, reversed(NAMES)):
            ids = [self.send(name, [f"ada@{other}.test"]) for _ in range(20)]
            box = self.boxes[other]
            wait_for("all of it", lambda: len(box.files()) >= len(ids), 30)
            found = [m for m in box.messages()]
            self.assertEqual(sorted(re.search(rb"X-Test-Id: (\S+)", m).group(1).decode() for m in found), sorted(ids))
            for m in found:
                self.assertRegex(re.sub(rb"\s+", b" ", m), rb"by peers\.%s\.test \(Bridgehead\) with ESMTPSA \(TLSv1\.3" % other.encode())

    def test_what_goes_in_circles_ends_with_one_report(self):
        id = self.send("here", ["nobody@circle.test"])
        box = self.boxes["here"]
        [raw] = box.wait(1, 120)
        wait_for("empty queues", lambda: sum(it.waiting() for it in self.its.values()) == 0)
        self.assertEqual((len(box.files()), self.boxes["there"].files()), (1, []))
        _, parts, _, [recipient] = report_of(raw)
        self.assertEqual((recipient["Action"], recipient["Status"]), ("failed", "5.4.6"))
        self.assertIn("nobody@circle.test", recipient["Final-Recipient"])
        [returned] = [p for p in parts if p.get_content_type() in ("message/rfc822", "text/rfc822-headers")]
        returned = returned.get_payload(0) if returned.is_multipart() else email.message_from_string(returned.get_content(), policy=email.policy.default)
        self.assertEqual(returned["X-Test-Id"], id)
        # outbound.maxHopCount, 100: no earlier and no later
        self.assertIn(len(returned.get_all("Received")), (100, 101))
