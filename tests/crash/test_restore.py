"""Backup: a snapshot of the volume at any moment has all that was acknowledged, and what was queued in it waits for a person."""

import os
import random
import shutil
import subprocess
import time
import unittest

from harness import make_sut, only_bridgehead, wait_for, workdir
from load import Load, Smtp, message, new_id
from powerdisk import Missing, Mounted, PowerDisk, probe
from sink import Sink

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


@only_bridgehead
class Restore(unittest.TestCase):
    def setUp(self):
        self.sink = Sink(keep_raw=False)
        self.addCleanup(self.sink.close)

    def restored(self, data, copy, **env):
        it = make_sut("restored", data=data, env={"BRIDGEHEAD_RESTORED_FROM": copy, **env})
        self.addCleanup(it.destroy)
        it.start(timeout=60)
        return it

    def let_go(self, it):
        begun = it.rest.ok("POST", "/api/v1/bulk-actions", {"action": "thaw", "selector": {"state": "frozen"}})
        wait_for("the operation", lambda: it.rest.ok("GET", f"/api/v1/operations/{begun['id']}")["state"] == "done", 60)

    def queued(self, count):
        """A data directory at rest with so many messages for the sink."""
        it = make_sut("before")
        self.addCleanup(it.destroy)
        it.start()
        it.relay_for("127.0.0.0/8")
        it.quick_retries("1s")
        it.route_to(self.sink.port)
        it.hold()
        load = Load(lambda: it.smtp_port, count=count, sessions=6, size=2000).start().join()
        self.assertEqual(len(load.acknowledged()), count)
        # the freeze of the queue goes, so that only the freeze of the messages holds them
        it.sink_port = self.sink.port
        it.route_to(9)
        it.release()
        it.stop()
        return it.data, load.acknowledged()

    def test_what_was_queued_is_held_once_and_what_comes_later_is_not(self):
        data, ids = self.queued(1500)
        copy = os.path.join(workdir("copy"), "data")
        shutil.copytree(data, copy)
        it = self.restored(copy, "mail-data")
        it.route_to(self.sink.port)
        it.retry_now()
        self.assertEqual(len(it.messages(state="frozen")), len(ids))
        with Smtp(it.smtp_port) as c:
            later = new_id()
            c.transaction("a@far.test", ["b@far.test"], message(later, 1000))
        self.assertEqual(self.sink.wait_accepted([later], 20), set())
        self.assertEqual(set(self.sink.ids()), {later})
        # a restart with the same name holds nothing more, and lets go of nothing
        it.route_to(9)
        with Smtp(it.smtp_port) as c:
            queued = new_id()
            c.transaction("a@far.test", ["b@far.test"], message(queued, 1000))
        it.stop()
        it.start()
        self.assertEqual(len(it.messages(state="frozen")), len(ids))
        it.route_to(self.sink.port)
        it.retry_now()
        self.assertEqual(self.sink.wait_accepted([queued], 20), set())
        self.let_go(it)
        it.retry_now()
        self.assertEqual(self.sink.wait_accepted(ids, 60), set())
        self.assertEqual(set(self.sink.ids().values()), {1})
        # another copy is another restore
        it.route_to(9)
        with Smtp(it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(new_id(), 1000))
        it.stop()
        it.env["BRIDGEHEAD_RESTORED_FROM"] = "mail-data-2"
        it.start()
        self.assertEqual(len(it.messages(state="frozen")), 1)

    def test_without_the_name_of_a_copy_it_goes_on_at_once(self):
        data, ids = self.queued(20)
        it = self.restored(data, "")
        it.route_to(self.sink.port)
        it.retry_now()
        self.assertEqual(self.sink.wait_accepted(ids, 30), set())

    def test_a_snapshot_under_load_is_a_backup(self):
        directory = workdir("snapshot")
        try:
            probe(directory)
        except Missing as e:
            self.skipTest(f"no snapshots here: {e}")
        rng = random.Random(SEED)
        with PowerDisk(directory, 1 << 30) as disk:
            os.chmod(disk.mount, 0o755)
            it = make_sut("running", data=os.path.join(disk.mount, "data"))
            self.addCleanup(it.destroy)
            it.start(timeout=60)
            it.relay_for("127.0.0.0/8")
            it.quick_retries("1s")
            it.route_to(self.sink.port)
            load = Load(lambda: it.smtp_port, sessions=8).start()
            try:
                for n in range(2):
                    target = len(load.acknowledged()) + 200
                    wait_for("load", lambda: len(load.acknowledged()) > target, 60)
                    time.sleep(rng.uniform(0.1, 1.0))
                    acknowledged = load.acknowledged()
                    image = os.path.join(directory, f"image{n}")
                    # all that the system has written, as a snapshot of a volume has it; the appliance goes on
                    disk.cut(image, "all", SEED + n)
                    at = time.time()
                    self.assertTrue(it.alive())
                    mounted = Mounted(image, os.path.join(directory, f"restored{n}"))
                    try:
                        self.examine(os.path.join(directory, f"restored{n}", "data"), f"snapshot-{n}", acknowledged, at)
                    finally:
                        mounted.close()
                        os.unlink(image)
            finally:
                load.stop()
                it.destroy()
        print(f"      seed {SEED}: {len(load.acknowledged())} acknowledged")

    def examine(self, data, copy, acknowledged, at):
        delivered = {d.id for d in self.sink.accepted() if d.at <= at}
        later = Sink(keep_raw=False)
        self.addCleanup(later.close)
        revived = self.restored(data, copy)
        try:
            revived.route_to(later.port)
            revived.retry_now()
            held = len(revived.messages(state="frozen"))
            time.sleep(1)
            self.assertEqual(later.ids(), {}, "nothing leaves before somebody has looked")
            self.let_go(revived)
            revived.retry_now()
            missing = later.wait_accepted(acknowledged - delivered, 60)
            self.assertEqual(missing, set(), f"seed {SEED}: a snapshot without acknowledged mail")
            self.assertGreaterEqual(held, len(acknowledged - delivered))
        finally:
            revived.destroy()
