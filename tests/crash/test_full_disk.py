"""A full disk: 452 4.3.1 at MAIL, draining goes on, and it recovers without a restart."""

import os
import subprocess
import time
import unittest

from accounts import missing_from
from harness import make_sut, only_bridgehead, wait_for, workdir
from load import Load, Smtp, message, new_id
from sink import Sink

SIZE = 700 << 20        # more than the reserve of 256 MiB and a few segments


@only_bridgehead
class FullDisk(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("a small file system of our own needs root")
        self.dir = workdir("full")
        self.mount = os.path.join(self.dir, "mnt")
        os.makedirs(self.mount)
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", self.mount], capture_output=True, text=True)
        if r.returncode:
            self.skipTest(f"no tmpfs: {r.stderr}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount])
        self.sink = Sink(keep_raw=False)
        self.addCleanup(self.sink.close)
        self.it = make_sut("full", data=os.path.join(self.mount, "data"))
        self.addCleanup(self.it.destroy)
        self.it.start()
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.route_to(self.sink.port)

    def free(self):
        s = os.statvfs(self.mount)
        return s.f_bavail * s.f_frsize

    def ballast(self, leave):
        """A file that leaves this many bytes free."""
        fd = os.open(os.path.join(self.mount, "ballast"), os.O_CREAT | os.O_WRONLY)
        try:
            size = self.free() - leave
            if size > 0:
                os.posix_fallocate(fd, os.fstat(fd).st_size, size)
        finally:
            # one that stays open keeps the space when the file is gone
            os.close(fd)

    def mail_reply(self):
        with Smtp(self.it.smtp_port) as c:
            return c.command("MAIL FROM:<sender@example.org>")

    def test_below_the_reserve(self):
        self.it.hold()
        ids = []
        with Smtp(self.it.smtp_port) as c:
            for _ in range(50):
                ids.append(new_id())
                c.transaction("sender@example.org", ["rcpt@example.net"], message(ids[-1], 5000))
        self.ballast(leave=100 << 20)
        code, text = wait_for("refusal", lambda: (lambda r: r if r[0] != 250 else None)(self.mail_reply()), 15, 0.3)
        self.assertEqual((code, text[:5]), (452, "4.3.1"))
        # What is here goes out all the same.
        self.it.release()
        self.assertEqual(self.sink.wait_accepted(ids, 30), set())
        self.assertTrue(self.it.alive())
        os.unlink(os.path.join(self.mount, "ballast"))
        wait_for("MAIL to be taken again", lambda: self.mail_reply()[0] == 250, 15, 0.3)
        self.assertEqual(self.it.runs, 1)

    def test_full_to_the_last_byte_under_load(self):
        load = Load(lambda: self.it.smtp_port, sessions=8, size=20000)
        self.addCleanup(load.stopping.set)
        load.start()
        wait_for("load", lambda: len(load.acknowledged()) > 50, 20)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                self.ballast(leave=0)
            except OSError:
                pass
            time.sleep(0.01)
        self.assertTrue(self.it.alive(), self.it.log_text()[-2000:])
        os.unlink(os.path.join(self.mount, "ballast"))
        before = len(load.acknowledged())
        wait_for("mail to be taken again", lambda: len(load.acknowledged()) > before + 50, 30)
        load.stop()
        acknowledged = load.acknowledged()
        self.sink.wait_accepted(acknowledged, 40)
        self.assertEqual(missing_from(acknowledged, [self.sink], self.it), set())
        self.assertEqual(self.it.runs, 1)
