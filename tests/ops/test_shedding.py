"""More than it can carry: new mail is refused for a while, the probe and the metrics say so, what is queued goes on, and it ends by itself."""

import os
import subprocess
import unittest

from accounts import missing_from
from harness import Rest, make_sut, only_bridgehead, wait_for, workdir
from load import Load, Refused, Smtp, message, new_id
from sink import Sink
from watcher import metrics_of

SIZE = 700 << 20        # more than the reserve of 256 MiB and a few segments


@only_bridgehead
class Shedding(unittest.TestCase):
    def appliance(self, data=None):
        self.sink = Sink(keep_raw=False)
        self.addCleanup(self.sink.close)
        self.it = make_sut("shedding", data=data, env={"BRIDGEHEAD_HEALTH_LISTEN": "127.0.0.1:0"}).start()
        self.addCleanup(self.it.destroy)
        self.health = Rest(self.it.listener("health"), key=None)
        self.it.relay_for("127.0.0.0/8").quick_retries("1s").route_to(self.sink.port)

    def metric(self, name):
        return metrics_of(self.health.get("/metrics").body.decode())[f"bridgehead_{name}"]

    def failed_checks(self):
        """The checks of /readyz that fail; none when it is ready. The health listener says yes or no, and the same."""
        answer = self.it.rest.get("/readyz")
        failed = {c["name"]: c["detail"] for c in answer.json.get("checks", []) if not c["passed"]}
        self.assertEqual(answer.status, 503 if failed else 200)
        return failed

    def submit(self, path="/api/v1/messages", message=None):
        """By REST what the load sends by SMTP."""
        return self.it.rest.call("POST", path, message or {"from": "sender@example.org", "to": ["rcpt@example.net"], "subject": "s", "text": "t"})

    def assert_not_now(self, status, kind, words):
        """REST takes no mail, says why and when to come again, alone and in a batch; and it answers everything else."""
        answer = self.submit()
        self.assertEqual((answer.status, answer.headers["content-type"]), (status, "application/problem+json"), answer)
        self.assertEqual((answer.json["type"], answer.json["status"]), (f"urn:bridgehead:problem:{kind}", status), answer)
        self.assertIn(words, answer.json["detail"])
        self.assertTrue(1 <= int(answer.headers["retry-after"]) <= 120, answer.headers)
        item = {"message": {"from": "sender@example.org", "to": ["rcpt@example.net"], "subject": "s", "text": "t"}}
        (item,) = self.submit("/api/v1/messages/batch", {"messages": [item]}).json["items"]
        self.assertEqual((item["problem"]["type"], item["problem"]["status"]), (f"urn:bridgehead:problem:{kind}", status), item)
        self.assertEqual(self.it.rest.get("/api/v1/queues").status, 200)

    def mail_reply(self):
        with Smtp(self.it.smtp_port) as c:
            return c.command("MAIL FROM:<sender@example.org>")

    def test_a_disk_filled_and_emptied_under_load(self):
        if os.geteuid() != 0:
            self.skipTest("a small file system of our own needs root")
        mount = os.path.join(workdir("shedding"), "mnt")
        os.makedirs(mount)
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", mount], capture_output=True, text=True)
        if r.returncode:
            self.skipTest(f"no tmpfs: {r.stderr}")
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        self.appliance(os.path.join(mount, "data"))
        ballast = os.path.join(mount, "ballast")
        load = Load(lambda: self.it.smtp_port, sessions=4, size=5000, pause=0.02)
        self.addCleanup(load.stopping.set)
        load.start()
        for _ in range(2):
            before = len(load.acknowledged())
            wait_for("load", lambda: len(load.acknowledged()) > before + 30, 60)
            self.assertEqual(self.failed_checks(), {})
            self.assertEqual(self.metric("store_writable"), 1)
            s = os.statvfs(mount)
            with open(ballast, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, s.f_bavail * s.f_frsize - (100 << 20))
            refused = wait_for("refusal", lambda: (lambda r: r if r[0] != 250 else None)(self.mail_reply()), 30, 0.2)
            self.assertEqual((refused[0], refused[1][:5]), (452, "4.3.1"))
            self.assertIn("storeWrites", wait_for("not ready", self.failed_checks, 30, 0.2))
            self.assertEqual(self.health.get("/readyz").status, 503)
            self.assertEqual(self.health.get("/livez").status, 200)
            self.assertEqual(self.metric("store_writable"), 0)
            self.assertLess(self.metric("store_free_bytes"), self.metric("store_reserve_bytes"))
            self.assert_not_now(507, "insufficientStorage", "Insufficient system storage")
            # what is here goes out all the same
            self.assertEqual(self.sink.wait_accepted(load.acknowledged(), 60), set())
            os.unlink(ballast)
            wait_for("MAIL to be taken again", lambda: self.mail_reply()[0] == 250, 30, 0.2)
            wait_for("ready", lambda: self.health.get("/readyz").status == 200, 30, 0.2)
            self.assertEqual(self.submit().status, 202)
        before = len(load.acknowledged())
        wait_for("load", lambda: len(load.acknowledged()) > before + 30, 60)
        load.stop()
        acknowledged = load.acknowledged()
        self.sink.wait_accepted(acknowledged, 60)
        self.assertEqual(missing_from(acknowledged, [self.sink], self.it), set())
        self.assertEqual(self.it.runs, 1)

    def test_a_queue_over_its_limit(self):
        self.appliance()
        self.it.rest.ok("PATCH", "/api/v1/settings", {"spec": {"overload": {"queuedMessages": 50}}})
        self.it.hold()
        ids = []
        with self.assertRaises(Refused) as refused, Smtp(self.it.smtp_port) as c:
            for _ in range(5000):
                one = new_id()
                c.transaction("sender@example.org", ["rcpt@example.net"], message(one))
                ids.append(one)
        self.assertEqual((refused.exception.at, refused.exception.code, refused.exception.text[:5]), ("MAIL", 452, "4.3.1"))
        self.assertGreater(len(ids), 50)
        self.assertEqual(self.metric("overloaded"), 1)
        self.assertIn("50 are the limit", self.failed_checks()["notOverloaded"])
        self.assertEqual(self.health.get("/readyz").status, 503)
        self.assert_not_now(503, "unavailable", "Too busy")
        # REST goes on: somebody can look, and do something
        self.assertEqual(sum(q["messages"] for q in self.it.queues()), len(ids))
        self.it.release()
        self.assertEqual(self.sink.wait_accepted(ids, 60), set())
        wait_for("MAIL to be taken again", lambda: self.mail_reply()[0] == 250, 30, 0.2)
        self.assertEqual(self.metric("overloaded"), 0)
        self.assertEqual(self.failed_checks(), {})
        self.assertEqual(self.submit().status, 202)

    def test_octets_over_their_limit_and_memory(self):
        self.appliance()
        used = self.metric("process_resident_memory_bytes")
        self.assertGreater(used, 1 << 20)
        self.it.hold()
        with Smtp(self.it.smtp_port) as c:
            for _ in range(3):
                c.transaction("sender@example.org", ["rcpt@example.net"], message(new_id(), 10_000))
        for limit, words in [({"queuedBytes": 20_000}, "octets are queued, 20000 are the limit"), ({"memory": int(used // 2)}, f"of memory are used, {int(used // 2)} are the limit")]:
            with self.subTest(limit):
                self.it.rest.ok("PATCH", "/api/v1/settings", {"spec": {"overload": limit}})
                refused = wait_for("refusal", lambda: (lambda r: r if r[0] != 250 else None)(self.mail_reply()), 30, 0.2)
                self.assertEqual((refused[0], refused[1][:5]), (452, "4.3.1"))
                self.assertIn(words, self.failed_checks()["notOverloaded"])
                self.assertEqual(self.metric("overloaded"), 1)
                self.assert_not_now(503, "unavailable", "Too busy")
                self.it.rest.ok("PATCH", "/api/v1/settings", {"spec": {"overload": {name: None for name in limit}}})
                wait_for("MAIL to be taken again", lambda: self.mail_reply()[0] == 250, 30, 0.2)
                self.assertEqual(self.failed_checks(), {})


if __name__ == "__main__":
    unittest.main()
