"""kill -9 under submissions over REST: a key is one message, whenever the process dies and however often it is repeated."""

import http.client
import os
import random
import re
import threading
import time
import unittest

from harness import make_sut, only_bridgehead, wait_for
from sink import Sink

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


@only_bridgehead
class Idempotency(unittest.TestCase):
    def test_kill_9_doubles_no_request_and_loses_none(self):
        rng = random.Random(SEED)
        sink = Sink(keep_raw=True)
        self.addCleanup(sink.close)
        it = make_sut("idempotency").start()
        self.addCleanup(it.destroy)
        it.quick_retries("1s")
        it.route_to(sink.port)
        # what is in flight at a kill may arrive twice, with the same id; so it waits until the kills are over, but for some
        stopping, asked, told = threading.Event(), [], {}
        lock = threading.Lock()

        def client(n):
            count = 0
            while not stopping.is_set():
                count += 1
                key = f"{n}-{count}"
                message = {"from": "a@local.test", "to": ["b@far.test"], "messageId": f"{key}@local.test", "text": "x" * rng.choice([10, 4000])}
                with lock:
                    asked.append(key)
                # until there is an answer, as a good client does; and now and then once more
                repeat = rng.randrange(3)
                while True:
                    try:
                        a = it.rest.call("POST", "/api/v1/messages", message, headers={"Idempotency-Key": key}, timeout=20)
                    except (OSError, http.client.HTTPException, AttributeError):
                        time.sleep(0.02)
                        continue
                    if a.status >= 500:
                        time.sleep(0.05)
                        continue
                    with lock:
                        told.setdefault(key, []).append((a.status, a.json.get("id")))
                    if repeat == 0 or stopping.is_set():
                        break
                    repeat -= 1

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.1, 0.8))
            it.kill()
            it.start()
        time.sleep(0.5)
        stopping.set()
        for t in threads:
            t.join(60)
        # each once more, long after
        for key in asked:
            a = it.rest.call("POST", "/api/v1/messages", {"from": "a@local.test", "to": ["b@far.test"], "messageId": f"{key}@local.test", "text": "other"},
                             headers={"Idempotency-Key": key})
            self.assertEqual(a.status, 409, f"{key} is known: {a}")
        it.retry_now()
        wait_for("the queue to drain", lambda: it.waiting() == 0, 60, 0.2)
        ids = {key: {id for status, id in answers} for key, answers in told.items()}
        self.assertTrue(all(status == 202 for answers in told.values() for status, _ in answers), told)
        self.assertEqual({key: found for key, found in ids.items() if len(found) != 1}, {}, "one id for each key")
        arrived = {}
        for d in sink.deliveries:
            trace = d.raw.split(b"\tid ", 1)[1].split(b";", 1)[0].split()[0].decode()
            id = re.search(rb"^Message-ID: <(.*?)>", d.raw, re.M).group(1).decode()
            arrived.setdefault(id, set()).add(trace)
        lost = [key for key in ids if f"{key}@local.test" not in arrived]
        doubled = {id: traces for id, traces in arrived.items() if len(traces) > 1}
        print(f"      seed {SEED}: {KILLS} kills, {len(asked)} keys, {sum(len(a) for a in told.values())} answers, {len(lost)} lost, {len(doubled)} doubled")
        self.assertGreater(len(asked), KILLS * 3)
        self.assertEqual(lost, [])
        self.assertEqual(doubled, {})
