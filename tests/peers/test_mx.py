"""Routing by MX, against a DNS server of our own that can fail in all the usual ways."""

import time
import unittest

from dnsserver import DnsServer, ask
from harness import free_port, make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Fault, Sink

A, B, C, DEAD = "127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.99"


class DnsServerItself(unittest.TestCase):
    """The server that the other tests lean on."""

    def test_answers(self):
        zone = {("a.test", "MX"): [(10, "mx.a.test")], ("mx.a.test", "A"): ["127.0.0.1"], ("s.test", "*"): "SERVFAIL",
                ("t.test", "*"): "TIMEOUT", ("big.test", "MX"): [(n, f"mx{n}.a-rather-long-name.big.test") for n in range(100)],
                ("alias.test", "CNAME"): ["mx.a.test"], ("tr.test", "A"): "TRUNCATE", ("tr.test", "A+tcp"): ["127.0.0.1"]}
        with DnsServer(zone) as dns:
            self.assertEqual(ask(dns.address, "A.test", "MX"), (0, False, 1))
            self.assertEqual(ask(dns.address, "a.test", "A"), (0, False, 0))
            self.assertEqual(ask(dns.address, "no.test", "MX"), (3, False, 0))
            self.assertEqual(ask(dns.address, "s.test", "MX"), (2, False, 0))
            self.assertEqual(ask(dns.address, "alias.test", "A"), (0, False, 2))
            self.assertIsNone(ask(dns.address, "t.test", "MX", timeout=0.3))
            self.assertEqual(ask(dns.address, "big.test", "MX"), (0, True, 0))
            self.assertEqual(ask(dns.address, "big.test", "MX", tcp=True), (0, False, 100))
            self.assertEqual(ask(dns.address, "tr.test", "A"), (0, True, 0))
            self.assertEqual(ask(dns.address, "tr.test", "A", tcp=True), (0, False, 1))


@only_bridgehead
class Mx(unittest.TestCase):
    def setUp(self):
        self.port = free_port()
        self.sinks = {}
        self.dns = DnsServer({("mx-a.test", "A"): [A], ("mx-b.test", "A"): [B], ("mx-c.test", "A"): [C], ("dead.test", "A"): [DEAD]})
        self.addCleanup(self.dns.close)
        self.it = make_sut("mx").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("sender")
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.server(dnsServers=[self.dns.address], outbound={"port": self.port, "timeout": "5s"})
        self.it.rest.ok("PUT", "/api/v1/connectors/default", {"spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}}})

    def sink(self, address, **k):
        s = self.sinks[address] = Sink(host=address, port=self.port, **k)
        self.addCleanup(s.close)
        return s

    def send(self, domain, sender="sender@local.test"):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction(sender, [f"to@{domain}"], message(id, 1000))
        return id

    def status_in_report(self, domain, timeout=20):
        def found():
            for m in self.box.messages():
                if f"to@{domain}".encode() in m and b"\nStatus:" in m:
                    return m[m.index(b"\nStatus:") + 8:].split(b"\n")[0].strip().decode()
        return wait_for(f"a report about {domain}", found, timeout)

    def delivered(self, sink, id, timeout=20):
        self.assertEqual(sink.wait_accepted([id], timeout), set())
        self.assertEqual(sink.ids()[id], 1)

    def test_the_lower_preference_first(self):
        a, b = self.sink(A), self.sink(B)
        self.dns.set("two.test", "MX", [(20, "mx-b.test"), (10, "mx-a.test")])
        for _ in range(3):
            self.delivered(a, self.send("two.test"))
        self.assertEqual(b.deliveries, [])

    def test_the_next_host_when_the_first_is_down(self):
        b = self.sink(B)
        self.dns.set("fall.test", "MX", [(10, "dead.test"), (20, "mx-b.test")])
        self.delivered(b, self.send("fall.test"))

    def test_the_next_host_when_the_first_is_busy(self):
        b = (self.sink(A, plan=lambda n: Fault("banner", "421 4.3.2 busy")), self.sink(B))[1]
        self.dns.set("busy.test", "MX", [(10, "mx-a.test"), (20, "mx-b.test")])
        self.delivered(b, self.send("busy.test"))

    def test_never_the_next_host_after_a_refusal(self):
        b = (self.sink(A, plan=lambda n: Fault("rcpt", "550 5.1.1 nobody")), self.sink(B))[1]
        self.dns.set("refuse.test", "MX", [(10, "mx-a.test"), (20, "mx-b.test")])
        self.send("refuse.test")
        self.assertEqual(self.status_in_report("refuse.test"), "5.1.1")
        self.assertEqual(b.connections, 0)

    def test_no_mx_means_the_address_of_the_domain(self):
        a = self.sink(A)
        self.dns.set("implicit.test", "A", [A])
        self.delivered(a, self.send("implicit.test"))

    def test_a_dead_ipv6_address_does_not_hinder(self):
        a = self.sink(A)
        self.dns.set("six.test", "MX", [(10, "mx-six.test")])
        self.dns.set("mx-six.test", "AAAA", ["::1"])
        self.dns.set("mx-six.test", "A", [A])
        self.delivered(a, self.send("six.test"))

    def test_an_alias_is_followed(self):
        a = self.sink(A)
        self.dns.set("cname.test", "MX", [(10, "alias.test")])
        self.dns.set("alias.test", "CNAME", ["mx-a.test"])
        self.delivered(a, self.send("cname.test"))

    def test_a_long_answer_comes_by_tcp(self):
        a = self.sink(A)
        self.dns.set("long.test", "MX", [(10, "mx-a.test")] + [(20 + n, f"no{n}.a-rather-long-name-to-fill-the-answer.test") for n in range(60)])
        self.delivered(a, self.send("long.test"))
        self.assertIn(("long.test", "MX", "tcp"), self.dns.questions)

    def test_no_such_domain_is_reported(self):
        self.send("nowhere.test")
        self.assertEqual(self.status_in_report("nowhere.test"), "5.1.2")

    def test_a_null_mx_is_reported(self):
        self.dns.set("null.test", "MX", [(0, "")])
        self.dns.set("null.test", "A", [A])
        a = self.sink(A)
        self.send("null.test")
        self.assertEqual(self.status_in_report("null.test"), "5.1.10")
        self.assertEqual(a.connections, 0)

    def test_failures_of_dns_only_defer(self):
        a = self.sink(A)
        for word in ("SERVFAIL", "TIMEOUT", "REFUSED", "LAME"):
            self.dns.set(f"{word.lower()}.test", "*", word)
        ids = {word: self.send(f"{word.lower()}.test") for word in ("SERVFAIL", "TIMEOUT", "REFUSED", "LAME")}
        time.sleep(4)
        self.assertEqual(a.deliveries, [])
        self.assertEqual(self.box.files(), [], "nothing bounces")
        self.assertEqual(self.it.waiting(), 4)
        for word in ids:
            del self.dns.zone[(f"{word.lower()}.test", "*")]
            self.dns.set(f"{word.lower()}.test", "MX", [(10, "mx-a.test")])
        self.assertEqual(a.wait_accepted(ids.values(), 60), set())
        self.assertEqual(set(a.ids().values()), {1})

    def test_an_mx_whose_addresses_cannot_be_found_now_defers(self):
        self.dns.set("part.test", "MX", [(10, "lost.test")])
        self.dns.set("lost.test", "*", "SERVFAIL")
        self.send("part.test")
        time.sleep(3)
        self.assertEqual((self.it.waiting(), self.box.files()), (1, []))

    def test_no_loop_to_ourselves(self):
        self.it.server(outbound={"port": self.it.smtp_port})
        self.dns.set("loop.test", "MX", [(10, "self.test")])
        self.dns.set("self.test", "A", ["127.0.0.1"])
        self.send("loop.test")
        self.assertEqual(self.status_in_report("loop.test"), "5.4.6")

    def test_at_most_five_addresses_a_try(self):
        every = Sink(host="0.0.0.0", port=self.port, plan=lambda n: Fault("banner", "421 4.3.2 busy"))
        self.addCleanup(every.close)
        self.it.quick_retries("1h")
        self.dns.set("crowd.test", "MX", [(n, f"m{n}.crowd.test") for n in range(50)])
        for n in range(50):
            self.dns.set(f"m{n}.crowd.test", "A", [f"127.0.1.{n + 1}"])
        self.send("crowd.test")
        wait_for("a try", lambda: every.connections >= 1, 15)
        time.sleep(3)
        self.assertLessEqual(every.connections, 5)
        self.assertEqual(self.it.waiting(), 1)
