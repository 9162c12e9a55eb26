"""Power cuts: what was acknowledged before the power went is there when it comes back.

kill -9 cannot see a missing fdatasync, because the page cache survives it; a cut of `powerdisk` can.
"""

import os
import random
import subprocess
import sys
import time
import unittest

from accounts import missing_from
from harness import make_sut, wait_for, workdir
from load import Load
from powerdisk import Missing, Mounted, PowerDisk, probe
from sink import Sink

CUTS = int(os.environ.get("CUTS", "5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
MODES = ["flushed", "random", "all", "flushed", "random"]

WRITER = """
import os, sys
how = sys.argv[2]
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
n = 0
while True:
    os.write(fd, b"%019d\\n" % n)
    if how == "fdatasync":
        os.fdatasync(fd)
    elif how == "sync_file_range":
        import ctypes
        ctypes.CDLL(None).sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(0), 7)
    sys.stdout.write("%d\\n" % n)
    sys.stdout.flush()
    n += 1
    if how != "fdatasync" and n % 10 == 0:
        import time; time.sleep(0.001)
"""


class Power(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = workdir("power")
        try:
            probe(cls.dir)
        except Missing as e:
            raise unittest.SkipTest(f"no power cut here: {e}") from None

    def written(self, how, mode):
        """A writer is cut off: (acknowledged before the cut, found after it)."""
        directory = os.path.join(self.dir, f"self-{how}-{mode}")
        os.makedirs(directory)
        with PowerDisk(directory, 128 << 20) as disk:
            log = os.path.join(directory, "log")
            with open(log, "wb") as out:
                writer = subprocess.Popen([sys.executable, "-c", WRITER, os.path.join(disk.mount, "file"), how], stdout=out)
            time.sleep(0.7)
            with open(log, "rb") as f:
                acknowledged = len([l for l in f.read().split(b"\n") if l])
            image = os.path.join(directory, "image")
            disk.cut(image, mode, SEED)
            writer.kill()
            writer.wait()
            self.assertGreater(acknowledged, 20)
            m = Mounted(image, os.path.join(directory, "after"))
            try:
                with open(os.path.join(directory, "after", "file"), "rb") as f:
                    found = f.read()
                good = 0
                while found[good * 20:good * 20 + 20] == b"%019d\n" % good:
                    good += 1
            except FileNotFoundError:
                good = 0
            finally:
                m.close()
            os.unlink(image)
        return acknowledged, good

    def test_the_disk_keeps_what_was_synced(self):
        for mode in ("flushed", "random", "all"):
            with self.subTest(mode):
                acknowledged, found = self.written("fdatasync", mode)
                self.assertGreaterEqual(found, acknowledged - 1)    # the last line may be half a line

    def test_the_disk_drops_what_was_not(self):
        for how in ("nothing", "sync_file_range"):
            with self.subTest(how):
                acknowledged, found = self.written(how, "flushed")
                self.assertLess(found, acknowledged // 2)

    def test_power_cuts_lose_nothing_acknowledged(self):
        rng = random.Random(SEED)
        total, report = 0, []
        for n in range(CUTS):
            mode = MODES[n % len(MODES)]
            lost, count, kept = self.one_cut(n, mode, held=n % 2 == 0, after=rng.uniform(0.3, 2.5))
            total += count
            report.append(f"{mode}: {count} ({kept})")
            self.assertEqual(lost, set(), f"seed {SEED}, cut {n} ({mode}) lost acknowledged mail")
        print(f"      seed {SEED}: {CUTS} cuts, {total} acknowledged before them; " + "; ".join(report))

    def test_these_cuts_can_find_a_loss(self):
        """On a disk that says yes to every flush and does nothing, acknowledged mail must be missing after a cut:
        the same as an appliance that leaves its fdatasync out."""
        lost, count, _ = self.one_cut(90, "flushed", held=True, after=0.5, lying=True)
        self.assertGreater(len(lost), count // 2)

    def one_cut(self, n, mode, held, after, lying=False):
        directory = os.path.join(self.dir, f"cut{n}")
        os.makedirs(directory)
        before, later = Sink(keep_raw=False), Sink(keep_raw=False)
        self.addCleanup(before.close)
        self.addCleanup(later.close)
        with PowerDisk(directory, 1 << 30) as disk:
            os.chmod(disk.mount, 0o755)
            it = make_sut(f"power{n}", data=os.path.join(disk.mount, "data"))
            revived, mounted = None, None
            load = Load(lambda: it.smtp_port, sessions=8)
            try:
                it.start(timeout=60)
                it.relay_for("127.0.0.0/8")
                it.route_to(before.port)
                if held:
                    it.hold()
                if lying:
                    subprocess.run(["sync", "-f", disk.mount], check=True)
                    disk.ask("lie")
                load.start()
                wait_for("load", lambda: len(load.acknowledged()) > 20, 30)
                time.sleep(after)
                acknowledged = load.acknowledged()
                image = os.path.join(directory, "image")
                kept = disk.cut(image, mode, SEED + n)
                cut_at = time.time()
                load.stopping.set()
                it.kill()
                killed_at = time.time()
                # The cut takes a moment, and falls somewhere in it: what was delivered in that moment may be known to
                # have been delivered or not.
                delivered = {d.id for d in before.accepted() if d.at <= cut_at}
                mounted = Mounted(image, os.path.join(directory, "after"))
                revived = make_sut(f"revived{n}", data=os.path.join(directory, "after", "data"))
                revived.start(timeout=60)
                revived.relay_for("127.0.0.0/8")
                revived.route_to(later.port)
                revived.release()
                revived.retry_now()
                end = time.monotonic() + (5 if lying else 60)
                while time.monotonic() < end:
                    arrived = set(later.ids()) | {d.id for d in before.accepted() if d.at > killed_at}
                    if acknowledged - delivered <= arrived:
                        break
                    time.sleep(0.1)
                # What the revived one sent before it was told of the new sink counts; what the dead one sent
                # after the cut does not.
                delivered |= {d.id for d in before.accepted() if d.at > killed_at}
                lost = missing_from(acknowledged - delivered, [later], revived)
                self.assertGreater(len(acknowledged), 20)
                return lost, len(acknowledged), kept
            finally:
                load.stop()
                it.destroy()
                if revived:
                    revived.destroy()
                if mounted:
                    mounted.close()
