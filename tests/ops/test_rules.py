"""The files: rules that promtool takes and tries, an entry in the runbook for each, and nothing asked that nobody tells."""

import os
import re
import subprocess
import unittest

from harness import ROOT, Rest, make_sut, wait_for
from load import Refused, Smtp, message, new_id
from sink import Sink
from watcher import RULES, Prometheus, alerts, panels, runbook

# what has no sample while nothing of it has happened or is set up
MAY_BE_EMPTY = {"DNS lists", "Recipients refused", "Certificates: the first expires in", "Certificates", "Alerts"}
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


class Queries(unittest.TestCase):
    """Every query of the dashboard and of the rules, asked of a Prometheus that has watched an appliance at work."""

    def test_each_is_answered_and_has_what_it_must_have(self):
        sink = Sink()
        self.addCleanup(sink.close)
        sink.reject_recipient = lambda address: {"no": "550 5.1.1 unknown", "later": "451 4.3.0 later"}.get(address.split("@")[0])
        it = make_sut("queries", env={"BRIDGEHEAD_HEALTH_LISTEN": "127.0.0.1:0"}).start()
        self.addCleanup(it.destroy)
        it.relay_for("127.0.0.0/8").local_domain("local.example").route_to(sink.port).quick_retries("1s")
        it.mailbox("anna")
        health = it.listener("health")
        for path in ("/livez", "/readyz", "/metrics"):
            self.assertEqual(Rest(health, key=None).get(path).status, 200, path)
        watch = Prometheus(health)
        self.addCleanup(watch.close)
        wait_for("a first scrape", lambda: watch.value("up") == 1, 30, 0.2)
        with Smtp(it.smtp_port) as c:
            for who in ["yes@dst.example", "no@dst.example", "later@dst.example", "anna@local.example"] * 3:
                c.transaction("s@local.example", [who], message(new_id()))
            with self.assertRaises(Refused):
                c.transaction("s@local.example", ["nobody@local.example"], message(new_id()))
        wait_for("the outcomes to be seen", lambda: watch.value('sum(bridgehead_recipient_outcomes_total{outcome=~"relayed|delivered"})') >= 6, 30, 0.2)
        # two scrapes in the window of every rate
        wait_for("rates", lambda: watch.value('sum(rate(bridgehead_delivery_attempts_total[10s]))'), 30, 0.2)
        asked = list(panels())
        self.assertGreater(len(asked), 30)
        empty = {title for title, query in asked if not watch.query(query)}
        self.assertLessEqual(empty, MAY_BE_EMPTY)
        with open(RULES) as f:
            rules = f.read()
        words = "\n".join(query for _, query in asked) + rules
        known = watch.names()
        self.assertGreater(len(known), 40)
        for name in set(re.findall(r"\bbridgehead_\w+\b", words)) - {"bridgehead_dns_list_answers_total", "bridgehead_filtered_total"} - ELSEWHERE:
            if not name.startswith("bridgehead_certificate_"):
                self.assertIn(name, known)
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
