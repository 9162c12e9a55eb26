"""Which way mail goes, over REST and against real next hops: schedules, connectors that are down, the smart host of the virtual server,
and `explain`, whose answers are held against what then happens.
"""

import datetime
import unittest

from dnsserver import DnsServer
from harness import free_port, make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Sink

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def in_two_days():
    """A schedule that is closed today and tomorrow, and when it opens; in UTC."""
    day = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=2)).date()
    return {"windows": [{"days": [DAYS[day.weekday()]], "from": "00:00", "to": "24:00"}]}, f"{day.isoformat()}T00:00:00"


@only_bridgehead
class Routes(unittest.TestCase):
    def setUp(self):
        self.it = make_sut("routes").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        # in its place each test has its own
        self.assertEqual(self.it.rest.call("DELETE", "/api/v1/connectors/default").status, 204)

    def sink(self, **k):
        sink = Sink(**k)
        self.addCleanup(sink.close)
        return sink

    def connect(self, name, port, pattern="far.test", cost=1, **spec):
        self.it.rest.ok("PUT", f"/api/v1/connectors/{name}", {"spec": {
            "addressSpaces": [{"pattern": pattern, "cost": cost}], "route": {"smartHosts": [{"host": "127.0.0.1", "port": port}]}, **spec}})

    def send(self, to="to@far.test", size=1000):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", [to], message(id, size, to=to))
        return id

    def explain(self, recipient="to@far.test", **more):
        [item] = self.it.rest.ok("POST", "/api/v1/explain", {"sender": "sender@local.test", "recipient": recipient, **more})["items"]
        return item

    def delivered(self, sink, *ids):
        self.assertEqual(sink.wait_accepted(ids), set())
        self.assertEqual([sink.ids()[id] for id in ids], [1] * len(ids))

    def waits_in(self, id, state="scheduled"):
        def there():
            queue = self.it.queue(id)
            assert queue and (queue["state"], queue["messages"]) == (state, 1), queue
            return queue
        return wait_for(f"a message in {id}, which is {state}", there)

    def reachable(self, connector):
        status = self.it.rest.ok("GET", f"/api/v1/connectors/{connector}")["status"]
        return next((c for c in status["conditions"] if c["type"] == "Reachable"), None)

    # --- schedules ---

    def test_a_closed_connector_keeps_mail_until_it_opens_or_an_operator_says_so(self):
        sink = self.sink()
        schedule, opens = in_two_days()
        self.connect("night", sink.port, schedule=schedule)
        first = self.send()
        queue = self.waits_in("smarthost:night")
        self.assertTrue(queue["nextRetry"].startswith(opens), queue)
        self.assertNotIn("lastError", queue)
        self.it.rest.ok("POST", "/api/v1/queues/smarthost:night/retry")
        self.delivered(sink, first)
        # that holds as long as its session
        wait_for("the session to end", lambda: sink.open == 0)
        second = self.send()
        self.waits_in("smarthost:night")
        self.assertEqual(sink.by_id(second), [])
        self.connect("night", sink.port)
        self.delivered(sink, second)
        self.assertEqual(self.it.waiting(), 0)

    def test_large_mail_has_hours_of_its_own(self):
        sink = self.sink()
        schedule, opens = in_two_days()
        self.connect("day", sink.port, oversize={"largerThan": "10KiB", "schedule": schedule})
        large, small = self.send(size=50_000), self.send()
        self.delivered(sink, small)
        self.assertEqual(sink.by_id(large), [])
        [waiting] = self.it.messages(recipient="to@far.test", state="queued")
        events = self.it.rest.ok("GET", f"/api/v1/messages/{waiting['id']}/events")["items"]
        self.assertIn("scheduled", [e["event"] for e in events])
        self.assertTrue(self.it.queue("smarthost:day")["nextRetry"].startswith(opens))
        self.it.rest.ok("POST", "/api/v1/queues/smarthost:day/retry")
        self.delivered(sink, large)

    def test_a_schedule_that_never_opens_is_refused(self):
        for windows in ([], [{"days": [], "from": "08:00", "to": "09:00"}], [{"from": "08:00", "to": "08:00"}], [{"from": "8", "to": "09:00"}]):
            with self.subTest(windows=windows):
                answer = self.it.rest.call("PUT", "/api/v1/connectors/never", {"spec": {
                    "addressSpaces": [{"pattern": "far.test"}], "route": {"dns": {}}, "schedule": {"windows": windows}}})
                self.assertEqual(answer.status, 422, answer)
                self.assertTrue(answer.json["errors"][0]["pointer"].startswith("/spec/schedule"), answer)

    # --- costs, and connectors that are down ---

    def test_the_dearer_connector_stands_in_for_the_cheap_one_that_is_down(self):
        cheap, dear = self.sink(), self.sink()
        self.connect("cheap", cheap.port, cost=1)
        self.connect("dear", dear.port, cost=9)
        self.delivered(cheap, self.send())
        self.assertEqual(self.reachable("cheap")["status"], "true")
        port = cheap.port
        cheap.close()
        self.it.quick_retries("1h")     # it is not tried again by itself for now
        ids = [self.send() for _ in range(5)]
        self.delivered(dear, *ids)
        condition = self.reachable("cheap")
        self.assertEqual(condition["status"], "false")
        self.assertIn(f"127.0.0.1:{port}", condition["message"])
        told = self.explain()
        self.assertEqual(told["queue"], "smarthost:dear")
        passed = [d for d in told["decisions"] if d["outcome"] == "passedOver"]
        self.assertIn("connectors/cheap", [d.get("object") for d in passed], told)
        # a change of the connector lets it be tried anew
        back = self.sink(port=port)
        self.connect("cheap", port, cost=1, limits={"maxConnections": 5})
        wait_for("cheap again", lambda: self.explain()["queue"] == "smarthost:cheap", 20)
        self.delivered(back, self.send())

    def test_mail_waits_rather_than_fall_to_a_less_specific_way_unless_told_to(self):
        wide = self.sink()
        self.connect("wide", wide.port, pattern="*")
        self.connect("narrow", free_port())
        id = self.send()
        queue = wait_for("it has failed", lambda: (q := self.it.queue("smarthost:narrow")) and q.get("lastError") and q)
        self.assertEqual((queue["messages"], wide.ids()), (1, {}))
        self.delivered(wide, self.send("to@other.test"))
        self.connect("narrow", free_port(), fallback="lessSpecific")
        self.delivered(wide, id)

    def test_equal_costs_share_and_a_plan_says_so(self):
        one, two = self.sink(), self.sink()
        self.connect("one", one.port)
        warned = self.it.rest.call("PUT", "/api/v1/connectors/two?dryRun=true", {"spec": {
            "addressSpaces": [{"pattern": "far.test"}], "route": {"smartHosts": [{"host": "127.0.0.1", "port": two.port}]}}})
        self.assertIn(b"sharesAddressSpace", warned.body)
        self.connect("two", two.port)
        ids = {self.send() for _ in range(40)}
        wait_for("all of it", lambda: {*one.ids(), *two.ids()} == ids)
        self.assertEqual(sum(one.ids().values()) + sum(two.ids().values()), 40)
        self.assertGreater(min(len(one.ids()), len(two.ids())), 5)

    def test_mail_that_waits_moves_and_a_dry_run_says_how_much(self):
        sink = self.sink()
        self.it.quick_retries("1h")
        self.connect("old", free_port(), pattern="*")
        ids = [self.send() for _ in range(7)]
        other = self.send("to@other.test")
        wait_for("all of it waits", lambda: (q := self.it.queue("smarthost:old")) and q["messages"] == 8 and q.get("lastError"))
        spec = {"spec": {"addressSpaces": [{"pattern": "far.test"}], "route": {"smartHosts": [{"host": "127.0.0.1", "port": sink.port}]}}}
        told = self.it.rest.ok("PUT", "/api/v1/connectors/new?dryRun=true", spec)["effects"]["queuedMail"]
        self.assertEqual((told["examined"], told["moved"], told["moves"]),
                         (8, 7, [{"from": "smarthost:old", "to": "smarthost:new", "messages": 7}]), told)
        self.assertEqual(sink.connections, 0)
        self.it.rest.ok("PUT", "/api/v1/connectors/new", spec)
        self.delivered(sink, *ids)
        self.assertEqual((sink.by_id(other), self.it.waiting()), ([], 1))

    # --- the virtual server's own ---

    def test_what_no_connector_carries_goes_to_the_smart_host_of_the_server(self):
        sink = self.sink()
        id = self.send()
        wait_for("no route", lambda: (self.it.queue("unrouted") or {}).get("messages"))
        self.assertEqual(self.explain()["queue"], "unrouted")
        self.it.server(outbound={"smartHost": f"127.0.0.1:{sink.port}"})
        self.delivered(sink, id)
        told = self.explain()
        self.assertEqual([hop["address"] for hop in told["nextHops"]], [f"127.0.0.1:{sink.port}"])

    def test_the_smart_host_of_the_server_may_come_behind_dns(self):
        mx, smart = self.sink(host="127.0.0.21"), self.sink()
        dns = DnsServer({("far.test", "MX"): [(10, "mx.far.test")], ("mx.far.test", "A"): ["127.0.0.21"],
                         ("dead.test", "MX"): [(10, "mx.dead.test")], ("mx.dead.test", "A"): ["127.0.0.22"]})
        self.addCleanup(dns.close)
        self.it.server(dnsServers=[dns.address], outbound={
            "smartHost": f"127.0.0.1:{smart.port}", "directBeforeSmartHost": True, "port": mx.port})
        self.delivered(mx, self.send())
        self.delivered(smart, self.send("to@dead.test"))
        # a name that does not exist is for the smart host to say
        self.delivered(smart, self.send("to@nowhere.test"))
        self.assertEqual((len(mx.ids()), len(smart.ids())), (1, 2))

    # --- explain ---

    def test_mail_goes_where_explain_says(self):
        sinks = {name: self.sink() for name in ("exact", "below", "all", "small", "dear")}
        self.connect("exact", sinks["exact"].port, "part.test")
        self.connect("below", sinks["below"].port, "*.part.test")
        self.connect("default", sinks["all"].port, "*")
        self.connect("small", sinks["small"].port, "size.test", restrictions={"maxSize": "10KiB"})
        self.connect("dear", sinks["dear"].port, "size.test", cost=50)
        by_port = {str(s.port): name for name, s in sinks.items()}
        went = {}
        for recipient, size in (("a@part.test", 1000), ("a@x.part.test", 1000), ("a@x.y.part.test", 1000), ("a@apart.test", 1000),
                                ("a@size.test", 1000), ("a@size.test", 50_000), ("a@PART.test", 1000)):
            with self.subTest(recipient=recipient, size=size):
                told = self.explain(recipient, size=size, client="127.0.0.1")
                self.assertTrue(told["accepted"])
                said = by_port[told["nextHops"][0]["address"].rsplit(":", 1)[1]]
                self.delivered(sinks[said], self.send(recipient, size))
                went[recipient, size] = said
        self.assertEqual(list(went.values()), ["exact", "below", "below", "all", "small", "dear", "exact"])

    def test_explain_of_a_message_that_waits_says_why(self):
        schedule, _ = in_two_days()
        self.connect("night", free_port(), schedule=schedule)
        self.send()
        self.waits_in("smarthost:night")
        [waiting] = self.it.messages(recipient="to@far.test", state="queued")
        [told] = self.it.rest.ok("POST", "/api/v1/explain", {"messageId": waiting["id"]})["items"]
        self.assertEqual((told["recipient"], told["queue"], told["accepted"]), ("to@far.test", "smarthost:night", True))
        self.assertRegex(str(told["decisions"]), "schedule", told)
        refused = self.explain("to@far.test", client="192.0.2.9")
        self.assertEqual((refused["accepted"], refused["reply"][:9]), (False, "550 5.7.1"))

    # --- what makes no sense ---

    def test_smart_hosts_that_cannot_be_meant_are_refused(self):
        own = free_port()
        self.it.rest.ok("PUT", "/api/v1/virtual-servers/own", {"spec": {"bindings": [{"address": "127.0.0.1", "port": own}]}})
        for host, port in (("169.254.169.254", 25), ("127.0.0.1", own)):
            with self.subTest(host=host):
                answer = self.it.rest.call("PUT", "/api/v1/connectors/bad", {"spec": {
                    "addressSpaces": [{"pattern": "far.test"}], "route": {"smartHosts": [{"host": host, "port": port}]}}})
                self.assertEqual(answer.status, 422, answer)
                self.assertEqual(answer.json["errors"][0]["pointer"], "/spec/route/smartHosts/0/host", answer)

    def test_a_connector_that_nobody_can_reach_says_so(self):
        self.connect("lost", free_port())
        self.assertIsNone(self.reachable("lost"), "nothing is known before mail has gone")
        self.send()
        condition = wait_for("the condition", lambda: (c := self.reachable("lost")) and c["status"] == "false" and c)
        self.assertIn("no connection", condition["message"])
