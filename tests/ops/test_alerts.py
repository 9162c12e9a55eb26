"""Each alert: its cause is made, a real Prometheus with the rules fires it, what the runbook says is done, the cause goes, it ends.

The rules are those of the chart but for their patience (watcher.quick_rules). What fires beside an alert, because it follows from the
same cause, is named in its test; anything else is an error.
"""

import json
import os
import re
import socket
import subprocess
import unittest

from harness import ADMIN_KEY, binary, free_port, make_sut, only_bridgehead, wait_for, workdir
from load import Smtp, message, new_id
from sink import Sink
from watcher import Prometheus, alerts, annotation, certificate, quick_rules, runbook


@only_bridgehead
class Alerts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = workdir("alerts")
        rules = os.path.join(cls.dir, "alerts.yaml")
        quick_rules(rules)
        # an address for each test, known to Prometheus from the start: it takes in new ones every five seconds only
        cls.addresses = {name: f"127.0.0.1:{free_port()}" for name in dir(cls) if name.startswith("test_")}
        cls.watch = Prometheus(*cls.addresses.values(), rules=rules)
        os.makedirs(os.path.join(cls.dir, "bin"))
        os.symlink(binary(), os.path.join(cls.dir, "bin/bridgehead"))

    @classmethod
    def tearDownClass(cls):
        cls.watch.close()

    # --- the pieces ---

    def appliance(self, start=True, **k):
        self.health = self.addresses[self._testMethodName]
        it = make_sut("alert", **k)
        it.env["BRIDGEHEAD_HEALTH_LISTEN"] = self.health
        self.addCleanup(it.destroy)
        if start:
            self.run_it(it)
        return it

    def run_it(self, it):
        it.start()
        self.watched()
        self.assertEqual(self.watch.firing(self.health), {})

    def watched(self):
        wait_for(f"a scrape of {self.health}", lambda: self.watch.value(f'up{{instance="{self.health}"}}') == 1, 60, 0.2)

    def fires(self, name, beside=(), times=1):
        """Waits until it does, and as often as it should; gives the text of the first."""
        found = wait_for(f"{name} to fire", lambda: self.watch.firing(self.health).get(name), 60, 0.3)
        self.assertEqual(len(found), times, found)
        self.assertLessEqual(set(self.watch.firing(self.health)), {name, *beside})
        texts = found[0]["annotations"]
        self.assertEqual(texts["runbook"], f"README.md, Runbook, {name}")
        for text in texts.values():
            # what Prometheus writes in the place of a template that it cannot do
            self.assertNotRegex(text, "<error|<no value>|{{|%!")
        return texts["summary"]

    def ends(self, name):
        """Waits until it does; from its cause until here it has fired once."""
        wait_for(f"{name} to end", lambda: name not in self.watch.firing(self.health), 90, 0.3)
        self.assertEqual(list(self.watch.begun(self.health, name).values()), [1])

    def do(self, name, it, block=None, **replace):
        """Types what the runbook says; gives what it says."""
        said = ""
        for number, text in enumerate(runbook()[name]):
            if block is not None and number != block:
                continue
            api = it.listener("api")
            for there, here in {"127.0.0.1:8025": api, "127.0.0.1:8026": self.health, **replace}.items():
                text = text.replace(there, here)
            env = {**{k: v for k, v in os.environ.items() if not k.startswith("BRIDGEHEAD_")}, "KEY": ADMIN_KEY,
                   "BRIDGEHEAD_KEY": ADMIN_KEY, "BRIDGEHEAD_URL": f"http://{api}", "HOME": self.dir,
                   "PATH": f"{self.dir}/bin:{os.environ['PATH']}"}
            done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", text], cwd=it.dir, env=env, capture_output=True, text=True, timeout=90)
            said += done.stdout + done.stderr
            self.assertEqual(done.returncode, 0, f"{text}\n{said}")
        self.assertNotIn("urn:bridgehead:problem", said)
        return said

    def send(self, it, count, to="rcpt@dst.example"):
        with Smtp(it.smtp_port) as c:
            for _ in range(count):
                c.transaction("s@src.example", [to], message(new_id()))

    def small_disk(self, size):
        if os.geteuid() != 0:
            self.skipTest("a small file system of our own needs root")
        mount = os.path.join(workdir("disk"), "mnt")
        os.makedirs(mount)
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True, text=True)
        if r.returncode:
            self.skipTest(f"no tmpfs: {r.stderr}")
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        return mount

    def holding(self, start=True, **k):
        """An appliance that takes mail and keeps it: its next hop is not asked before it is told to."""
        it = self.appliance(start=start, **k)
        if not start:
            it.start()
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        it.relay_for("127.0.0.0/8").route_to(self.sink.port)
        it.hold()
        return it

    # --- the alerts ---

    def test_down(self):
        it = self.appliance()
        it.kill()
        self.fires("BridgeheadDown")
        self.assertIn("it does not answer", self.do("BridgeheadDown", it))
        it.start()
        self.ends("BridgeheadDown")
        self.assertNotIn("it does not answer", self.do("BridgeheadDown", it))

    def test_not_listening(self):
        it = self.appliance(start=False).start()
        port = free_port()
        it.rest.ok("PUT", "/api/v1/virtual-servers/second", {"spec": {"bindings": [{"address": "127.0.0.1", "port": port}]}})
        it.stop()
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            it.start()
            self.watched()
            self.assertIn("second", self.fires("BridgeheadNotListening"))
            said = self.do("BridgeheadNotListening", it, **{"virtual-server default": "virtual-server second"})
            self.assertIn("cannotListen", said)
            self.assertIn(str(port), said)
        self.ends("BridgeheadNotListening")
        # one that an operator stops, or that is not enabled, is as it shall be
        it.rest.ok("POST", "/api/v1/virtual-servers/second/stop")
        wait_for("no row", lambda: not self.watch.query(f'bridgehead_smtp_listening{{instance="{self.health}",name="second"}}'), 30, 0.3)

    def test_store_cannot_write(self):
        mount = self.small_disk(400 << 20)
        it = self.holding(data=os.path.join(mount, "data"), env={"BRIDGEHEAD_RESERVE": "0"})
        ballast = os.path.join(mount, "ballast")

        def full():
            free = os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize
            with open(ballast, "ab") as f:
                try:
                    os.posix_fallocate(f.fileno(), f.tell(), max(1, free))
                except OSError:
                    pass
            try:
                self.send(it, 20)
            except Exception as e:
                self.error = e
            return self.watch.firing(self.health).get("BridgeheadStoreCannotWrite")
        wait_for("it to fire", full, 120, 0.1)
        self.fires("BridgeheadStoreCannotWrite", beside={"BridgeheadNothingDelivered", "BridgeheadOldestMessage"})
        said = self.do("BridgeheadStoreCannotWrite", it)
        self.assertRegex(said, r'"name":"storeWrites","passed":false')
        os.unlink(ballast)
        self.ends("BridgeheadStoreCannotWrite")
        self.assertEqual(it.runs, 1)

    def test_store_damaged(self):
        it = self.holding(start=False)
        self.send(it, 5)
        marked = new_id("damage")
        with Smtp(it.smtp_port) as c:
            c.transaction("s@src.example", ["rcpt@dst.example"], message(marked))
        self.send(it, 5)
        it.stop()
        flipped = 0
        for directory, _, files in os.walk(os.path.join(it.data, "journal")):
            for name in files:
                with open(os.path.join(directory, name), "r+b") as f:
                    at = f.read().find(b"X-Test-Id: " + marked.encode())
                    if at >= 0:
                        f.seek(at)
                        f.write(b"Y")
                        flipped += 1
        self.assertEqual(flipped, 1)
        it.start()
        self.watched()
        # content is judged when it is read
        for one in it.messages():
            it.rest.get(f"/api/v1/messages/{one['id']}/content")
        it.release()
        self.fires("BridgeheadStoreDamaged", beside={"BridgeheadNothingDelivered", "BridgeheadOldestMessage", "BridgeheadDeferralRatio"})
        self.assertRegex(self.do("BridgeheadStoreDamaged", it), r"bridgehead_store_quarantined [1-9]")
        # the others went out; what is left is the one without content, as a dead letter
        left = wait_for("one to be left", lambda: (lambda found: found if len(found) == 1 else None)(it.messages()), 30, 0.3)
        self.assertEqual(len(self.sink.accepted()), 10)
        self.assertNotIn(marked, {d.id for d in self.sink.accepted()})
        it.rest.ok("DELETE", f"/api/v1/messages/{left[0]['id']}")
        it.stop()
        it.start()
        self.ends("BridgeheadStoreDamaged")

    def test_disk_full(self):
        it = self.appliance(start=False, env={"BRIDGEHEAD_RESERVE": str(1 << 60)}).start(ready=False)
        it.wait_listening()
        self.watched()
        self.fires("BridgeheadDiskFull")
        said = self.do("BridgeheadDiskFull", it)
        self.assertIn("bridgehead_store_free_bytes", said)
        del it.env["BRIDGEHEAD_RESERVE"]
        it.stop()
        it.start()
        self.ends("BridgeheadDiskFull")

    def test_disk_nearly_full(self):
        it = self.appliance(start=False)
        s = os.statvfs(it.dir)
        it.env["BRIDGEHEAD_RESERVE"] = str(s.f_bavail * s.f_frsize // 2)
        it.start()
        self.watched()
        self.fires("BridgeheadDiskNearlyFull")
        self.do("BridgeheadDiskNearlyFull", it)
        self.assertEqual(it.rest.ok("GET", "/api/v1/settings")["spec"]["retention"]["deadLetter"], "7d")
        it.env["BRIDGEHEAD_RESERVE"] = "1000000"
        it.stop()
        it.start()
        self.ends("BridgeheadDiskNearlyFull")

    def test_overloaded(self):
        it = self.holding()
        self.send(it, 10)
        it.rest.ok("PATCH", "/api/v1/settings", {"spec": {"overload": {"queuedMessages": 5}}})
        self.fires("BridgeheadOverloaded", beside={"BridgeheadNothingDelivered", "BridgeheadOldestMessage"})
        # the last block allows more, and that is the end of it
        said = self.do("BridgeheadOverloaded", it)
        self.assertIn("10 messages are queued, 5 are the limit", said)
        self.ends("BridgeheadOverloaded")

    def nowhere(self):
        """An appliance whose next hop is gone, with mail for it."""
        it = self.appliance()
        port = free_port()
        it.relay_for("127.0.0.0/8").route_to(port).quick_retries("30s")
        self.send(it, 3)
        return it, port

    def come_back(self, it, port, name):
        sink = Sink(port=port)
        self.addCleanup(sink.close)
        self.do(name, it, block=1)
        sink.wait(3)
        self.ends(name)

    def test_oldest_message(self):
        it, port = self.nowhere()
        self.assertIn("connector default", self.fires("BridgeheadOldestMessage", beside={"BridgeheadNothingDelivered"}))
        said = self.do("BridgeheadOldestMessage", it, block=0)
        self.assertIn("smarthost:default", said)
        self.assertIn("rcpt@dst.example", said)
        self.come_back(it, port, "BridgeheadOldestMessage")

    def test_nothing_delivered(self):
        it, port = self.nowhere()
        self.fires("BridgeheadNothingDelivered", beside={"BridgeheadOldestMessage"})
        self.assertIn("smarthost:default", self.do("BridgeheadNothingDelivered", it, block=0))
        self.come_back(it, port, "BridgeheadNothingDelivered")

    def test_deferral_ratio(self):
        sink = Sink()
        self.addCleanup(sink.close)
        sink.reject_recipient = lambda address: "451 4.2.0 slower, please"
        it = self.appliance()
        it.relay_for("127.0.0.0/8").route_to(sink.port).quick_retries("1s")
        self.send(it, 60)
        self.assertIn("100%", self.fires("BridgeheadDeferralRatio", beside={"BridgeheadNothingDelivered", "BridgeheadOldestMessage"}))
        self.assertIn("smarthost:default", self.do("BridgeheadDeferralRatio", it))
        sink.reject_recipient = None
        self.ends("BridgeheadDeferralRatio")

    def test_certificate_expires(self):
        it = self.appliance()

        def put(days):
            chain, key = certificate(it.dir, days)
            it.rest.ok("PUT", "/api/v1/certificates/mail", {"spec": {"chain": {"value": chain}, "privateKey": {"value": key}}})
        put(5)
        self.assertIn("certificate mail expires in 4d", self.fires("BridgeheadCertificateExpires"))
        self.assertIn("mail", self.do("BridgeheadCertificateExpires", it))
        put(90)
        self.ends("BridgeheadCertificateExpires")

    def test_certificate_fault(self):
        secrets = workdir("secrets")
        it = self.appliance(env={"BRIDGEHEAD_SECRETS_DIR": secrets})
        certificate(secrets, 90)
        it.rest.ok("PUT", "/api/v1/certificates/mail", {"spec": {"chain": {"file": "tls.crt"}, "privateKey": {"file": "tls.key"}}})
        with open(os.path.join(secrets, "tls.crt"), "w") as f:
            f.write("nothing of a certificate\n")
        self.fires("BridgeheadCertificateFault")
        self.assertIn("CertificateValid", self.do("BridgeheadCertificateFault", it))
        certificate(secrets, 90)
        self.ends("BridgeheadCertificateFault")

    def test_configuration_rejected(self):
        told = subprocess.run([binary(), "--help"], capture_output=True, text=True).stdout
        if "--config-dir" not in told:
            # a binary without watched directories has no such command in its runbook's way either
            self.assertNotIn("config_accepted", self.appliance().rest.get("/metrics").body.decode())
            return
        it = self.appliance(start=False)
        documents = os.path.join(it.dir, "documents")
        os.makedirs(documents)
        document = {"virtualServers": {"default": {"bindings": [{"address": "127.0.0.1", "port": free_port()}]}},
                    "connectors": {"default": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}},
                    "recipientPolicies": {"default": {"addresses": [{"template": "@local.example", "primary": True}]}}}

        def write(document):
            with open(os.path.join(documents, "all.json.new"), "w") as f:
                json.dump(document, f)
            os.rename(os.path.join(documents, "all.json.new"), os.path.join(documents, "all.json"))
        write(document)
        it.env["BRIDGEHEAD_CONFIG_DIR"] = documents
        self.run_it(it)
        write({**document, "conectors": {}})
        self.fires("BridgeheadConfigurationRejected")
        self.assertIn("not valid", self.do("BridgeheadConfigurationRejected", it))
        write(document)
        self.ends("BridgeheadConfigurationRejected")
        self.assertNotIn("not valid", self.do("BridgeheadConfigurationRejected", it))

    def test_draining(self):
        it = self.appliance()
        it.rest.ok("POST", "/api/v1/drain")
        self.fires("BridgeheadDraining")
        # the dashboard marks it
        marked = [row["metric"]["alertname"] for row in self.watch.query(annotation()) if row["metric"]["instance"] == self.health]
        self.assertEqual(marked, ["BridgeheadDraining"])
        self.do("BridgeheadDraining", it)
        self.ends("BridgeheadDraining")

    def test_none_is_forgotten(self):
        words = {re.sub(r"(?<!^)(?=[A-Z])", "_", name.removeprefix("Bridgehead")).lower() for name in alerts()}
        self.assertEqual({f"test_{w}" for w in words}, {t for t in dir(self) if t.startswith("test_")} - {"test_none_is_forgotten"})


if __name__ == "__main__":
    unittest.main()
