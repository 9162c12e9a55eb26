"""The README's gateways as they stand there, but for ports: two Exchange hosts with failover, two domains and a shared one."""

import os
import subprocess
import unittest

from harness import ADMIN_KEY, Maildir, make_sut, only_bridgehead, wait_for
from load import Refused, Smtp, message, new_id
from sink import Fault, Sink
from test_readme import blocks, hosts_of_the_gateways


@only_bridgehead
class Gateways(unittest.TestCase):
    def setUp(self):
        self.it = make_sut("gateway").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("example.com")
        self.it.quick_retries("1s")
        self.first, self.second, self.other = (self.sink() for _ in range(3))
        told = self.apply()
        self.assertNotIn("urn:bridgehead:problem", told)
        self.told = told

    def sink(self, **k):
        sink = Sink(**k)
        self.addCleanup(sink.close)
        return sink

    def apply(self):
        """Types what the README has under *Two gateways*."""
        script = "\n".join(blocks("Two gateways"))
        self.assertEqual(script.count("curl"), 6)
        for there, here in hosts_of_the_gateways(self.first.port, self.second.port, self.other.port).items():
            self.assertIn(there, script)
            script = script.replace(there, here)
        env = {**os.environ, "KEY": ADMIN_KEY, "API": f"http://{self.it.listener('api')}/api/v1"}
        done = subprocess.run(["bash", "-euc", script], env=env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def send(self, *recipients, sender="someone@example.net"):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction(sender, recipients, message(id, 1000, sender=sender))
        return id

    def test_the_second_host_takes_over_and_gives_back(self):
        to = "carla@contoso.example"
        id = self.send(to)
        self.assertEqual(self.first.wait_accepted([id]), set())
        self.assertEqual(self.first.by_id(id)[0].recipients, [to])
        port = self.first.port
        self.first.close()
        ids = [self.send(to) for _ in range(5)]
        self.assertEqual(self.second.wait_accepted(ids), set())
        self.assertEqual(self.it.waiting(), 0)
        self.assertEqual(self.second.ids(), {id: 1 for id in ids})
        # the session with the second is kept for a few seconds after its last message; the next one begins with the first again
        first = self.sink(port=port)
        wait_for("the session with the second host to end", lambda: self.second.open == 0, 30)
        ids = [self.send(to) for _ in range(5)]
        self.assertEqual(first.wait_accepted(ids), set())
        self.assertEqual(first.ids(), {id: 1 for id in ids})

    def test_a_busy_host_is_passed_over(self):
        self.first.plan = lambda n: Fault("banner", "421 4.3.2 busy")
        ids = [self.send("carla@contoso.example") for _ in range(5)]
        self.assertEqual(self.second.wait_accepted(ids), set())
        self.assertEqual(self.first.deliveries, [])

    def test_a_message_that_is_put_off_goes_to_the_second_host_in_the_same_try(self):
        self.it.quick_retries("1h")
        self.first.plan = lambda n: Fault("mail", "451 4.3.2 later")
        id = self.send("carla@contoso.example")
        self.assertEqual(self.second.wait_accepted([id], 10), set())

    def test_a_refusal_is_final(self):
        self.first.reject_recipient = lambda address: "550 5.1.1 nobody"
        box = self.it.mailbox("sender")
        self.send("nobody@contoso.example", sender="sender@example.com")
        self.assertIn(b"\nStatus: 5.1.1", box.wait(1)[0].replace(b"\r", b""))
        self.assertEqual(self.second.connections, 0)

    def test_strangers_may_send_to_that_domain_and_no_other(self):
        for there in ("10.0.0.11", "10.0.0.12"):
            self.assertNotIn(there, self.told)
        at = [self.told.index(f'"address":"127.0.0.1:{s.port}"') for s in (self.first, self.second)]
        self.assertEqual(at, sorted(at), "both next hops in their order")
        for no in ("x@elsewhere.example", "x@sub.contoso.example"):
            with self.assertRaises(Refused) as refused:
                self.send(no)
            self.assertEqual((refused.exception.code, refused.exception.text[:5]), (550, "5.7.1"))

    def test_two_domains_are_ours_and_one_is_shared(self):
        domains = {d["name"]: d for d in self.it.rest.ok("GET", "/api/v1/domains")["items"]}
        types = {name: d["type"] for name, d in domains.items()}
        self.assertEqual({n: types.get(n) for n in ("example.com", "northwind.example", "fabrikam.example")}, {
            "example.com": "authoritative", "northwind.example": "authoritative", "fabrikam.example": "shared"})
        box = Maildir(os.path.join(self.it.data, "mail", "default", "bela"))
        ids = [self.send(f"bela@{domain}") for domain in ("northwind.example", "fabrikam.example")]
        for id in ids:
            wait_for(f"{id} at bela's", lambda: any(id.encode() in m for m in box.messages()))
        id = self.send("zoe@fabrikam.example")
        self.assertEqual(self.other.wait_accepted([id]), set())
        self.assertEqual(self.other.by_id(id)[0].recipients, ["zoe@fabrikam.example"])
        for nobody in ("zoe@northwind.example", "bela@example.com"):
            with self.assertRaises(Refused) as refused:
                self.send(nobody)
            self.assertEqual((refused.exception.code, refused.exception.text[:5]), (550, "5.1.1"))
        self.assertEqual(self.other.ids(), {id: 1})
