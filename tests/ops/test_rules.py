"""The files: rules that promtool takes and tries, an entry in the runbook for each, and nothing asked that nobody tells."""

import json
import math
import os
import re
import subprocess
import threading
import unittest

from dnsserver import DnsServer
from harness import ROOT, Rest, free_port, make_sut, only_bridgehead, wait_for
from load import Refused, Smtp, message, new_id
from sink import Sink
from watcher import DASHBOARD, RULES, Prometheus, alerts, certificate, panels, runbook

# told only where a directory of documents is watched
ELSEWHERE = {"bridgehead_config_accepted"}


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=ROOT)


class Rules(unittest.TestCase):
    def test_promtool_takes_them(self):
        done = promtool("check", "rules", RULES)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_fires_for_its_cause_and_not_for_what_nearly_is(self):
        done = promtool("test", "rules", "tests/ops/alerts.test.yaml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(os.path.join(ROOT, "tests/ops/alerts.test.yaml")) as f:
            tried = set(re.findall(r'exp_samples: \[\{labels: \'ALERTS\{alertname="(\w+)"', f.read()))
        self.assertEqual(tried, set(alerts()))

    def test_each_has_an_entry_in_the_runbook(self):
        self.assertEqual(list(runbook()), alerts())
        for name, blocks in runbook().items():
            self.assertTrue(blocks, f"{name}: nothing to type")


@only_bridgehead
class Queries(unittest.TestCase):
    """Every query of the dashboard and of the rules, asked of a Prometheus that watches an appliance at work."""

    def appliance(self):
        """One to which everything happens that a panel shows: next hops that take, refuse and put off, a filter with a DNS list, refusals
        at the door, a certificate."""
        sink = Sink(keep_raw=False)
        self.addCleanup(sink.close)
        sink.reject_recipient = lambda address: {"no": "550 5.1.1 unknown", "later": "451 4.3.0 later"}.get(address.split("@")[0])
        dns = DnsServer({("2.0.0.127.bl.test", "A"): ["127.0.0.2"]})
        self.addCleanup(dns.close)
        smtp = free_port()
        it = make_sut("queries", smtp_listen=f"127.0.0.1:{smtp}", env={"BRIDGEHEAD_HEALTH_LISTEN": "127.0.0.1:0"}).start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.1/32").local_domain("local.example").route_to(sink.port).quick_retries("1s")
        it.mailbox("anna")
        it.rest.ok("PUT", "/api/v1/filters/lists", {"spec": {"kind": "connection", "dnsbl": [{"zone": "bl.test", "codes": ["127.0.0.2"]}]}})
        it.server(dnsServers=[dns.address], bindings=[{"address": "127.0.0.1", "port": smtp, "filters": ["lists"]}],
                  connectionControl={"deny": ["127.0.0.3"]})
        chain, key = certificate(it.dir, 90)
        it.rest.ok("PUT", "/api/v1/certificates/mail", {"spec": {"chain": {"value": chain}, "privateKey": {"value": key}}})
        return it

    def traffic(self, it):
        """A little of everything, over and over; gives what ends it and tells what went wrong."""
        over, wrong = threading.Event(), []

        def refused(c, recipient):
            try:
                c.transaction("s@src.example", [recipient], message(new_id()))
            except Refused:
                return
            wrong.append(f"{recipient} was taken")

        def send():
            try:
                while not over.wait(0.2):
                    with Smtp(it.smtp_port) as c:
                        for who in ["yes@dst.example", "no@dst.example", "later@dst.example", "anna@local.example"]:
                            c.transaction("s@local.example", [who], message(new_id()))
                        refused(c, "nobody@local.example")
                    with Smtp(it.smtp_port, source="127.0.0.2") as c:
                        refused(c, "anna@local.example")
                    with Smtp(it.smtp_port, source="127.0.0.3", greet=False) as c:
                        if c.reply()[0] != 554:
                            wrong.append("connectionControl let it in")
            except Exception as e:
                wrong.append(e)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()

        def end():
            over.set()
            sender.join(60)
            return wrong
        self.addCleanup(end)
        return end

    def test_each_is_answered_and_shows_what_happens(self):
        it = self.appliance()
        health = it.listener("health")
        for path in ("/livez", "/readyz", "/metrics"):
            self.assertEqual(Rest(health, key=None).get(path).status, 200, path)
        watch = Prometheus(health)
        self.addCleanup(watch.close)
        end = self.traffic(it)
        # the annotation for alerts has its test where alerts fire
        asked = list(panels())
        self.assertGreater(len(asked), 30)

        def empty():
            """Queries without a row that shows a number."""
            shown = lambda query: any(math.isfinite(float(row["value"][1])) for row in watch.query(query))
            return [(title, query) for title, query in asked if not shown(query)]
        last = []
        try:
            wait_for("every panel to show something", lambda: not (last.__setitem__(slice(None), empty()) or last), 60, 0.5)
        except AssertionError:
            self.assertEqual(last, [])
        self.assertEqual(end(), [])
        # what the picker of appliances offers
        with open(DASHBOARD) as f:
            pickers = [v["definition"] for v in json.load(f)["templating"]["list"] if v["type"] == "query"]
        self.assertEqual(pickers, ["label_values(bridgehead_build_info, instance)"])
        self.assertEqual(watch.rest.get("/api/v1/label/instance/values?match[]=bridgehead_build_info").json["data"], [health])
        # nothing is asked that nobody tells
        with open(RULES) as f:
            rules = f.read()
        words = "\n".join(query for _, query in asked) + rules
        known = watch.names()
        self.assertEqual(set(re.findall(r"\bbridgehead_\w+\b", words)) - known, ELSEWHERE)
        # all of the rules at once, as Prometheus reads them
        loaded = Prometheus(health, rules=RULES)
        self.addCleanup(loaded.close)
        wait_for("every rule to be evaluated", lambda: all(
            r["health"] == "ok" for g in loaded.rest.get("/api/v1/rules").json["data"]["groups"] for r in g["rules"]), 60, 0.5)
        groups = loaded.rest.get("/api/v1/rules").json["data"]["groups"]
        self.assertEqual([r["name"] for g in groups for r in g["rules"]], alerts())
        self.assertEqual(loaded.firing(health), {})


if __name__ == "__main__":
    unittest.main()
