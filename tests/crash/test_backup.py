"""`bridgehead backup`, `restore` and `doctor`: copies of a loaded appliance have all that was acknowledged before; damage is named."""

import glob
import json
import os
import random
import shutil
import statistics
import subprocess
import time
import unittest

from harness import binary, make_sut, only_bridgehead, wait_for, workdir
from load import Load
from sink import Sink

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
BACKUPS = int(os.environ.get("BACKUPS", "3"))


def run(*arguments, status=0):
    env = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGEHEAD_")}
    done = subprocess.run([binary(), *arguments], env=env, capture_output=True, timeout=300, cwd=workdir("command"))
    if done.returncode != status:
        raise AssertionError(f"{arguments}: {done}")
    return done


class Backup(unittest.TestCase):
    def setUp(self):
        self.sink = Sink(keep_raw=False)
        self.addCleanup(self.sink.close)

    def appliance(self, name, **k):
        it = make_sut(name, **k)
        self.addCleanup(it.destroy)
        it.start(timeout=60)
        it.relay_for("127.0.0.0/8")
        it.quick_retries("1s")
        return it


@only_bridgehead
class UnderLoad(Backup):
    def test_what_was_acknowledged_before_a_backup_is_in_it(self):
        """Mail of two sizes flows, some is delivered and some waits; backups are taken; the appliance is killed; each backup is restored."""
        rng = random.Random(SEED)
        it = self.appliance("running")
        it.route_domains({"gone.test": self.sink.port, "waits.test": 9})
        loads = [Load(lambda: it.smtp_port, sessions=3, to="a@gone.test"),
                 Load(lambda: it.smtp_port, sessions=1, to="a@waits.test", pause=0.02),
                 # above what the journal takes: files in large/
                 Load(lambda: it.smtp_port, sessions=2, to="a@gone.test", size=300_000, pause=0.02),
                 Load(lambda: it.smtp_port, sessions=1, to="a@waits.test", size=300_000, pause=0.2)]
        acknowledged = lambda: set().union(*(load.acknowledged() for load in loads))
        for load in loads:
            load.start()
        copies, busy = [], []
        for n in range(BACKUPS):
            target = len(acknowledged()) + 200
            wait_for("load", lambda: len(acknowledged()) > target, 60)
            time.sleep(rng.uniform(0.1, 0.6))
            before, file = acknowledged(), os.path.join(workdir("copy"), "copy.tar")
            began = time.time()
            run("backup", file, "--data-dir", it.data)
            ended = time.time()
            busy.append((began, ended))
            copies.append((file, before, {d.id for d in self.sink.accepted() if d.at <= ended}))
        it.kill()
        for load in loads:
            load.stop()
        checked = 0
        for file, before, delivered in copies:
            run("restore", "--check", file)
            data = os.path.join(workdir("restored"), "data")
            run("restore", file, "--data-dir", data)
            well = json.loads(run("doctor", "--data-dir", data, "-o", "json").stdout)["found"]
            later = Sink(keep_raw=False)
            self.addCleanup(later.close)
            revived = make_sut("restored", data=data)
            self.addCleanup(revived.destroy)
            revived.start(timeout=60)
            revived.route_domains({"gone.test": later.port, "waits.test": later.port})
            revived.retry_now()
            held = revived.messages(state="frozen")
            self.assertEqual(len(held), well["messages"])
            time.sleep(1)
            self.assertEqual(later.ids(), {}, "nothing leaves before somebody has looked")
            begun = revived.rest.ok("POST", "/api/v1/bulk-actions", {"action": "thaw", "selector": {"state": "frozen"}})
            wait_for("the operation", lambda: revived.rest.ok("GET", f"/api/v1/operations/{begun['id']}")["state"] == "done", 60)
            revived.retry_now()
            missing = later.wait_accepted(before - delivered, 60)
            self.assertEqual(missing, set(), f"seed {SEED}: a backup without acknowledged mail")
            wait_for("the queue to drain", lambda: revived.waiting() == 0, 60)
            checked += len(before - delivered)
            revived.destroy()
        self.assertGreater(checked, 20 * BACKUPS, "hardly anything waited when the backups were taken")
        took = [(s.done - s.dotted, any(a <= s.dotted <= b for a, b in busy))
                for load in loads for s in load.sent if s.acknowledged]
        calm, during = ([t for t, backup in took if backup is wanted] for wanted in (False, True))
        median = lambda times: f"{statistics.median(times) * 1000:.1f} ms" if times else "none"
        print(f"      seed {SEED}: {len(acknowledged())} acknowledged, {len(copies)} backups of "
              f"{max(os.path.getsize(f) for f, _, _ in copies) >> 20} MiB at most in {max(b - a for a, b in busy):.1f} s, {checked} checked; "
              f"250 after {median(calm)}, during a backup after {median(during)} ({len(during)})")

    def test_a_reader_that_goes_away_leaves_nothing_pinned(self):
        it = self.appliance("running")
        it.route_to(9)
        load = Load(lambda: it.smtp_port, count=60, sessions=4, size=400_000).start().join()
        self.assertEqual(len(load.acknowledged()), 60)
        for _ in range(3):
            process = subprocess.Popen([binary(), "backup", "-", "--data-dir", it.data], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            process.stdout.read(100_000)
            process.kill()
            process.stdout.close()
            process.wait()
        wait_for("the next backup", lambda: subprocess.run(
            [binary(), "backup", os.path.join(workdir("copy"), "copy.tar"), "--data-dir", it.data], capture_output=True).returncode == 0, 60)
        it.route_to(self.sink.port)
        it.retry_now()
        self.assertEqual(self.sink.wait_accepted(load.acknowledged(), 60), set())
        wait_for("large content to go", lambda: not os.listdir(os.path.join(it.data, "large")), 60)


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        octet = f.read(1)
        f.seek(at)
        f.write(bytes([octet[0] ^ 0x10]))


@only_bridgehead
class Doctor(Backup):
    def killed(self):
        """The data directory of an appliance that was killed with mail in its queue."""
        it = self.appliance("patient")
        it.route_to(9)
        loads = [Load(lambda: it.smtp_port, count=count, sessions=4, size=size).start() for count, size in ((200, 3000), (5, 400_000))]
        ids = set().union(*(load.join().acknowledged() for load in loads))
        self.assertEqual(len(ids), 205)
        it.kill()
        return it, ids

    def diagnosis(self, data, status, *more):
        return json.loads(run("doctor", "--data-dir", data, "-o", "json", *more, status=status).stdout)

    def test_a_killed_store_is_well_and_damage_of_every_kind_is_named(self):
        it, _ = self.killed()
        self.assertEqual(self.diagnosis(it.data, 0)["found"]["messages"], 205)
        first = lambda pattern: sorted(glob.glob(os.path.join(it.data, pattern)))[0]
        damage = {
            "store": lambda p: flip(p, 15),
            "config/checkpoint": lambda p: flip(p, 60),
            "journal/*.seg": lambda p: flip(p, 20),
            "large/*": lambda p: flip(p, 100_000),
            "tracking/*.jsonl": lambda p: flip(p, 0),
        }
        for pattern, harm in damage.items():
            with self.subTest(pattern):
                path = first(pattern)
                kept = path + ".kept-by-the-test"
                shutil.copy2(path, kept)
                moved = os.path.join(workdir("kept"), "kept")
                shutil.move(kept, moved)
                harm(path)
                found = self.diagnosis(it.data, 1)["found"]["findings"]
                name = os.path.relpath(path, it.data)
                self.assertTrue(any(f["file"] == name and f["severity"] != "notice" for f in found), f"{name}: {found}")
                shutil.copy2(moved, path)
                self.assertEqual(self.diagnosis(it.data, 0)["found"]["messages"], 205)
        # and what damage in the middle of the journal's records costs: one message
        segment = first("journal/*.seg")
        flip(segment, 200_000)
        found = self.diagnosis(it.data, 1)["found"]["findings"]
        self.assertTrue(any(f["file"] == os.path.relpath(segment, it.data) and f["severity"] == "error" for f in found), found)

    def test_a_repaired_store_delivers_what_is_left(self):
        it, ids = self.killed()
        large = sorted(glob.glob(os.path.join(it.data, "large/*")))[0]
        flip(large, 200_000)
        with open(os.path.join(it.data, "large", "left.tmp"), "w") as f:
            f.write("x")
        os.chmod(os.path.join(it.data, "config", "log"), 0o644)
        with open(os.path.join(it.data, "db", "conf"), "w") as f:
            f.write("segment_size: 1")
        told = self.diagnosis(it.data, 0, "--repair")
        self.assertTrue(any(f["file"].startswith("large/") and f["severity"] == "error" for f in told["found"]["findings"]))
        self.assertGreaterEqual(len(told["repaired"]), 4, told)
        self.assertTrue(os.path.isdir(os.path.join(it.data, "db.aside")))
        it.start()
        it.route_to(self.sink.port)
        it.retry_now()
        wait_for("the rest", lambda: len(set(self.sink.ids())) == len(ids) - 1, 60)
        self.assertEqual(it.queue("deadLetter")["messages"], 1)
