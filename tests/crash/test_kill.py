"""kill -9 and SIGTERM under load: nothing acknowledged is lost; duplicates only of deliveries in flight."""

import os
import random
import time
import unittest

from accounts import missing_from, untied_duplicates
from harness import make_sut, sut, wait_for
from load import Load
from sink import Sink

KILLS = int(os.environ.get("KILLS", "20"))
TERMS = int(os.environ.get("TERMS", "5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


class Under:
    """An appliance under load with a ledger on both sides."""

    def __init__(self, name, **sink):
        self.sink = Sink(keep_raw=False, **sink)
        self.it = make_sut(name).start()
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.route_to(self.sink.port)
        self.up = True
        self.load = Load(lambda: self.it.smtp_port if self.up else None, sessions=8)

    def drained(self, timeout):
        """Waits until the queue is empty or time is up."""
        try:
            wait_for("the queue to drain", lambda: self.it.waiting() == 0, timeout, 0.2)
        except AssertionError:
            pass

    def close(self):
        self.load.stopping.set()
        self.it.destroy()
        self.sink.close()


class Kill(unittest.TestCase):
    def test_kill_9_loses_nothing_acknowledged(self):
        rng = random.Random(SEED)
        u = Under("kill", delay=0.01)
        self.addCleanup(u.close)
        u.load.start()
        kills = []
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.15, 1.0))
            u.up = False
            kills.append(time.time())
            u.it.kill()
            u.it.start()
            u.up = True
        time.sleep(0.5)
        u.load.stop()
        acknowledged = u.load.acknowledged()
        self.assertGreater(len(acknowledged), KILLS * 5, f"hardly any load: {u.load.errors[-3:]}")
        u.it.retry_now()
        u.sink.wait_accepted(acknowledged, 60)
        u.drained(20)
        lost = missing_from(acknowledged, [u.sink], u.it)
        every, untied = untied_duplicates(u.sink, kills)
        print(f"      seed {SEED}: {KILLS} kills, {len(acknowledged)} acknowledged, {len(lost)} lost, {len(every)} duplicates")
        self.assertEqual(lost, set())
        self.assertEqual(untied, [], "duplicates of deliveries that were not in flight at a kill")

    def test_sigterm_ends_well(self):
        u = Under("term", delay=0.005)
        self.addCleanup(u.close)
        u.load.start()
        rng = random.Random(SEED)
        took, moments = [], []
        for _ in range(TERMS):
            time.sleep(rng.uniform(0.5, 1.2))
            moments.append(time.time())
            seconds, code = u.it.terminate(timeout=15)
            u.up = False
            took.append(seconds)
            self.assertLessEqual(seconds, 10)
            self.assertEqual(code, 0, u.it.log_text()[-2000:])
            u.it.start()
            u.up = True
        time.sleep(0.3)
        u.load.stop()
        acknowledged = u.load.acknowledged()
        self.assertGreater(len(acknowledged), TERMS * 5, f"hardly any load: {u.load.errors[-3:]}")
        u.it.retry_now()
        u.sink.wait_accepted(acknowledged, 60)
        u.drained(20)
        lost = missing_from(acknowledged, [u.sink], u.it)
        doubled = {i: n for i, n in u.sink.ids().items() if n > 1}
        unanswered = [s.id for s in u.load.sent if s.dotted and s.code is None]
        print(f"      {TERMS} times, at most {max(took):.1f} s, {len(acknowledged)} acknowledged, {len(doubled)} doubled, {len(unanswered)} unanswered after the dot")
        self.assertEqual(lost, set())
        if sut() == "bridgehead":
            # Postfix cuts its deliveries off and doubles some: so this can fail.
            self.assertEqual(doubled, {})
            self.assertEqual(unanswered, [], "a transaction that has its data is ended with a reply")
