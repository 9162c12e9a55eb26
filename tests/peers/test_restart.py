"""Restart: the queue goes on; without db/ it is rebuilt; a second process on the directory is refused."""

import os
import shutil
import subprocess
import time
import unittest

from harness import ADMIN_KEY, binary, make_sut, only_bridgehead, wait_for
from load import Load, Smtp, message, new_id
from sink import Sink


@only_bridgehead
class Restart(unittest.TestCase):
    def setUp(self):
        self.sink = Sink(keep_raw=True)
        self.addCleanup(self.sink.close)
        self.it = make_sut("restart").start()
        self.addCleanup(self.it.destroy)
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.route_to(self.sink.port)

    def queue_some(self, count=300):
        self.it.hold()
        load = Load(lambda: self.it.smtp_port, count=count, sessions=6, size=3000).start().join()
        self.assertEqual(len(load.acknowledged()), count, load.errors[:3])
        return load.acknowledged()

    def arrive_once(self, ids):
        self.it.release()
        self.assertEqual(self.sink.wait_accepted(ids, 40), set())
        time.sleep(0.5)
        self.assertEqual(set(self.sink.ids().values()), {1})
        self.assertEqual(set(self.sink.ids()), set(ids))
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 10)

    def test_the_queue_goes_on_after_a_good_end(self):
        ids = self.queue_some()
        self.it.stop()
        self.it.start()
        self.assertEqual(self.it.waiting(), len(ids))
        self.arrive_once(ids)

    def test_the_queue_is_rebuilt_without_its_database(self):
        ids = self.queue_some()
        self.it.kill()
        db = os.path.join(self.it.data, "db")
        self.assertTrue(os.path.isdir(db), "the design keeps sled in db/")
        shutil.rmtree(db)
        self.it.start()
        self.assertEqual(self.it.waiting(), len(ids))
        self.assertIn("rebuil", self.it.log_text().lower(), "it says so")
        self.arrive_once(ids)

    def test_what_only_waits_is_no_delivery_in_flight(self):
        """Messages of a frozen queue are in nobody's hands: kills make no possible duplicates, nor dead letters, of them."""
        ids = self.queue_some(20)
        for _ in range(4):
            self.it.kill()
            self.it.start()
        self.assertNotIn("may arrive twice", self.it.log_text())
        self.assertIsNone(self.it.queue("deadLetter"))
        self.arrive_once(ids)

    def test_what_was_delivered_stays_delivered_after_a_rebuild(self):
        with Smtp(self.it.smtp_port) as c:
            done = [new_id() for _ in range(50)]
            for id in done:
                c.transaction("a@far.test", ["b@far.test"], message(id, 1000))
        self.assertEqual(self.sink.wait_accepted(done, 20), set())
        wait_for("an empty queue", lambda: self.it.waiting() == 0, 10)
        time.sleep(1)
        self.it.kill()
        shutil.rmtree(os.path.join(self.it.data, "db"))
        self.it.start()
        time.sleep(2)
        self.assertEqual(set(self.sink.ids().values()), {1})
        self.assertEqual(self.it.waiting(), 0)

    def test_large_messages_survive(self):
        self.it.hold()
        id = new_id()
        data = message(id, 6 << 20)
        with Smtp(self.it.smtp_port, timeout=60) as c:
            c.transaction("a@far.test", ["b@far.test"], data)
        self.it.kill()
        self.it.start()
        self.it.release()
        self.assertEqual(self.sink.wait_accepted([id], 30), set())
        self.assertTrue(self.sink.by_id(id)[0].content.endswith(data))

    def test_a_second_process_is_refused(self):
        env = {**os.environ, "BRIDGEHEAD_DATA_DIR": self.it.data, "BRIDGEHEAD_API_LISTEN": "127.0.0.1:0",
               "BRIDGEHEAD_SMTP_LISTEN": "127.0.0.1:0", "BRIDGEHEAD_ADMIN_KEY": ADMIN_KEY}
        try:
            r = subprocess.run([binary()], env=env, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            self.fail("a second process runs on the same directory")
        self.assertNotEqual(r.returncode, 0)
        self.assertRegex((r.stdout + r.stderr).lower(), "lock|in use|another|already|second")
        # The first goes on.
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(id))
        self.assertEqual(self.sink.wait_accepted([id], 15), set())

    def test_rubbish_at_the_end_of_the_journal_costs_nothing(self):
        ids = self.queue_some(50)
        self.it.kill()
        directory = os.path.join(self.it.data, "journal")
        names = sorted(n for n in os.listdir(directory) if os.path.getsize(os.path.join(directory, n)))
        # What a torn write leaves: half a record. Appended to the newest by time of change.
        newest = max(names, key=lambda n: os.path.getmtime(os.path.join(directory, n)))
        with open(os.path.join(directory, newest), "ab") as f:
            f.write(os.urandom(3000))
        self.it.start()
        self.arrive_once(ids)

    def test_a_broken_store_is_reported_and_never_replaced(self):
        ids = self.queue_some(50)
        self.it.kill()
        directory = os.path.join(self.it.data, "config")
        for n in os.listdir(directory):
            path = os.path.join(directory, n)
            if os.path.isfile(path):
                with open(path, "r+b") as f:
                    size = os.path.getsize(path)
                    f.seek(size // 2)
                    f.write(os.urandom(min(64, size - size // 2)))
        sizes = {n: os.path.getsize(os.path.join(directory, n)) for n in os.listdir(directory)}
        try:
            self.it.start(timeout=8)
        except (AssertionError, RuntimeError):
            # It refuses to start, or is not ready: then it says why and leaves the files alone.
            self.assertRegex(self.it.log_text().lower(), "config|damag|corrupt|checksum")
            self.it.kill()
            for n, size in sizes.items():
                self.assertTrue(os.path.exists(os.path.join(directory, n)), n)
            return
        # It started: then with the configuration that was there, not with an empty one.
        self.assertRegex(self.it.log_text().lower(), "damag|corrupt|checksum|torn")
        self.arrive_once(ids)
