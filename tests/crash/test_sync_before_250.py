"""Every 250 after a body is preceded by a successful sync of the journal file that holds it (strace)."""

import os
import shutil
import subprocess
import threading
import unittest

import synctrace
from harness import make_sut, sut, workdir
from load import Smtp, message, new_id, stuff
from sink import Sink

COUNT, SESSIONS = 1000, 8


def traced_run(count=COUNT, sessions=SESSIONS):
    """Sends `count` messages to a traced appliance; gives the trace, the acknowledged ids and the journal's pattern."""
    path = os.path.join(workdir("trace"), "trace")
    sink = Sink(keep_raw=False)
    it = make_sut("traced", wrapper=synctrace.STRACE + ["-o", path])
    acknowledged, errors = [], []
    try:
        it.start(timeout=60)
        it.relay_for("127.0.0.0/8")
        it.route_to(sink.port)

        def session(n):
            try:
                with Smtp(it.smtp_port, timeout=60) as c:
                    for _ in range(n):
                        id = new_id("s")
                        data = message(id, 1500) + f"END-{id};\r\n".encode()
                        if c.transaction("sender@example.org", ["rcpt@example.net"], stuff(data), raw=True)[0] == 250:
                            acknowledged.append(id)
            except Exception as e:
                errors.append(repr(e))
        threads = [threading.Thread(target=session, args=(count // sessions,)) for _ in range(sessions)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(300)
        missing = sink.wait_accepted(acknowledged, 60)
        pattern = it.journal_pattern()
    finally:
        if sut() == "bridgehead":
            it.terminate(30) if it.alive() else None
        it.destroy()
        sink.close()
    with open(path, errors="replace") as f:
        lines = f.read().splitlines()
    return lines, acknowledged, errors, missing, pattern


class SyncBefore250(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("strace"):
            raise unittest.SkipTest("no strace")
        if subprocess.run(["strace", "-f", "true"], capture_output=True).returncode:
            raise unittest.SkipTest("strace may not trace here")
        cls.lines, cls.acknowledged, cls.errors, cls.missing, cls.pattern = traced_run()
        # Postfix does not sync directories (its queue relies on the file system for that).
        cls.directories = sut() == "bridgehead"
        cls.verdict = synctrace.judge(cls.lines, cls.pattern, cls.directories)

    def test_each_250_follows_a_sync(self):
        self.assertEqual(self.errors, [])
        self.assertEqual(len(self.acknowledged), COUNT)
        self.assertEqual(self.missing, set())
        # The trace must show all of them, else it proves nothing.
        self.assertEqual(set(self.verdict.acknowledged), set(self.acknowledged))
        self.assertEqual(self.verdict.violations, [])
        print(f"      {len(self.verdict.acknowledged)} replies, {self.verdict.syncs} syncs of {len(self.verdict.journal_files)} files")

    def test_this_check_can_fail(self):
        for how in ("no sync", "failed sync", "sync after the reply", "sync before the write"):
            with self.subTest(how):
                damaged = synctrace.judge(synctrace.mutate(self.lines, self.verdict, how), self.pattern, self.directories)
                self.assertEqual(set(damaged.acknowledged), set(self.acknowledged))
                self.assertGreater(len(damaged.violations), 0)
        if self.directories:
            with self.subTest("no directory sync"):
                damaged = synctrace.judge(synctrace.mutate(self.lines, self.verdict, "no directory sync"), self.pattern, True)
                self.assertGreater(len(damaged.violations), 0)
