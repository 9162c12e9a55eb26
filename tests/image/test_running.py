"""A container, used from outside: mail in and out, restarts, what it may not do, health, secrets in files."""

import os
import re
import smtplib
import socket
import ssl
import time
import unittest

from authority import Authority
from container import UID, Container, engine, swapped_in
from harness import Rest, free_port, wait_for, workdir
from load import Load, Smtp, message
from sink import Sink


def read(path):
    with open(path) as f:
        return f.read()


class Running(unittest.TestCase):
    def setUp(self):
        self.sink = Sink()
        self.addCleanup(self.sink.close)

    def container(self, **k):
        it = Container(**k)
        self.addCleanup(it.destroy)
        return it

    def relaying(self, **k):
        it = self.container(**k).start()
        it.relay_for("127.0.0.0/8")
        it.quick_retries("1s")
        it.route_to(self.sink.port)
        return it

    def test_mail_comes_in_and_goes_out(self):
        it = self.relaying()
        it.local_domain("here.test")
        it.rest.ok("PUT", "/api/v1/recipients/anna", {"spec": {"type": "mailbox"}})
        with Smtp(it.smtp_port) as c:
            c.transaction("a@far.test", ["anna@here.test"], message("inward", 2000))
            c.transaction("anna@here.test", ["b@far.test"], message("outward", 2000))
        self.assertEqual(len(it.maildir("anna").wait()), 1)
        self.assertEqual(self.sink.wait_accepted(["outward"], 20), set())

    def test_a_restart_and_a_kill_keep_the_queue(self):
        it = self.relaying()
        it.hold()
        load = Load(lambda: it.smtp_port, count=200, sessions=4).start().join()
        self.assertEqual(it.stop(), 0)
        self.assertIn('"stopped"', it.logs())
        it.start()
        more = Load(lambda: it.smtp_port, count=100, sessions=4).start().join()
        it.kill()
        it.start()
        every = load.acknowledged() | more.acknowledged()
        self.assertEqual(len(every), 300)
        self.assertEqual(it.waiting(), 300)
        it.release()
        self.assertEqual(self.sink.wait_accepted(every, 40), set())
        self.assertEqual(set(self.sink.ids().values()), {1})

    def test_sigterm_under_load_ends_it_in_time_and_loses_nothing(self):
        it = self.relaying()
        load = Load(lambda: it.smtp_port, sessions=6).start()
        wait_for("load", lambda: len(load.acknowledged()) > 50)
        self.assertEqual(it.stop(patience=30), 0, "it ended by itself, not by a kill")
        load.stop()
        acknowledged = load.acknowledged()
        it.start()
        self.assertEqual(self.sink.wait_accepted(acknowledged, 40), set())

    def test_it_can_do_nothing_that_it_need_not(self):
        it = self.container().start()
        status = read(f"/proc/{it.pid()}/status")
        for line, want in {"Uid": [str(UID)] * 4, "Gid": [str(UID)] * 4, "NoNewPrivs": ["1"],
                           "CapEff": ["0" * 16], "CapPrm": ["0" * 16], "CapBnd": ["0" * 16]}.items():
            self.assertEqual(re.search(rf"^{line}:\s+(.*)$", status, re.M)[1].split(), want, line)
        mounts = dict(line.split()[1:4:2] for line in read(f"/proc/{it.pid()}/mounts").splitlines())
        self.assertIn("ro", mounts["/"].split(","))
        # with all that, it wrote nowhere but into its data
        self.assertTrue(os.path.isdir(os.path.join(it.data, "journal")))
        for root, _, names in os.walk(it.data):
            for path in [root, *(os.path.join(root, n) for n in names)]:
                self.assertEqual(os.stat(path).st_uid, UID)
        writable = {where for where, how in mounts.items() if "rw" in how.split(",")}
        self.assertLessEqual(writable, {"/var/lib/bridgehead", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/etc/hosts",
                                        "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv", "/sys/fs/cgroup"})

    def test_there_is_no_shell_to_run(self):
        it = self.container().start()
        for program in ("sh", "/bin/sh", "bash", "cat"):
            self.assertNotEqual(it.exec(program, "-c", "true").returncode, 0)
        self.assertEqual(it.exec("bridgehead", "--version").returncode, 0)

    def test_health_is_told_by_the_binary(self):
        it = self.container().start()
        for probe in ("ready", "live", "startup"):
            self.assertEqual(it.exec("bridgehead", "healthcheck", "--probe", probe).returncode, 0)
        self.assertEqual(it.exec("bridgehead", "healthcheck", "--smtp", f"127.0.0.1:{it.smtp_port}").returncode, 0)
        done = it.exec("bridgehead", "healthcheck", f"127.0.0.1:{free_port()}")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no connection", done.stderr + done.stdout)
        # not ready: its port is taken when it starts
        self.assertEqual(it.stop(), 0)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", it.smtp_port))
            taken.listen()
            it.start(ready=False)
            wait_for("live", lambda: it.exec("bridgehead", "healthcheck", "--probe", "live").returncode == 0)
            done = it.exec("bridgehead", "healthcheck")
            self.assertEqual(done.returncode, 1)
            self.assertIn("503", done.stderr + done.stdout)

    def test_as_it_comes_it_serves_on_its_own_ports(self):
        """Nothing set, nothing mounted, a network of its own: a volume is made, and a first key."""
        it = self.container(env={k: None for k in ("BRIDGEHEAD_API_LISTEN", "BRIDGEHEAD_HEALTH_LISTEN", "BRIDGEHEAD_SMTP_LISTEN", "BRIDGEHEAD_ADMIN_KEY")})
        it.name = "bh-as-it-comes-" + os.path.basename(it.dir)
        command = it.command(data=False)
        command[command.index("host")] = "none"
        engine(*command)
        wait_for("ready", lambda: it.exec("bridgehead", "healthcheck").returncode == 0, 30)
        self.assertEqual(it.exec("bridgehead", "healthcheck", "127.0.0.1:8025", "--smtp", "127.0.0.1:2525").returncode, 0)
        volume = [m for m in it.state()["Mounts"] if m["Destination"] == "/var/lib/bridgehead"]
        self.assertEqual(len(volume), 1)
        key = os.path.join(volume[0]["Source"], "first-key")
        self.assertEqual((os.stat(key).st_uid, os.stat(key).st_mode & 0o777), (UID, 0o600))
        engine("rm", "-f", "-v", it.name)

    def test_whoever_may_enter_gets_a_key(self):
        """`kubectl exec … bridgehead token`: no key was given, the first one is read by nobody."""
        it = self.container(env={"BRIDGEHEAD_ADMIN_KEY": None})
        it.start()
        done = it.exec("bridgehead", "token", "--role", "viewer", "--name", "guest")
        self.assertEqual(done.returncode, 0, done.stderr)
        key = done.stdout.strip()
        self.assertNotIn(key, it.logs())
        guest = Rest(f"127.0.0.1:{it.api}", key=key)
        self.assertEqual(guest.ok("GET", "/api/v1/whoami")["role"], "viewer")
        self.assertEqual(guest.call("PUT", "/api/v1/settings", {"spec": {}}).status, 403)
        self.assertEqual(guest.call("GET", "/api/v1/whoami", headers={"Authorization": "Bearer x" + key}).status, 401)

    def test_secrets_come_from_files_and_new_ones_are_taken(self):
        secrets, key = workdir("secrets"), os.path.join(workdir("key"), "admin-key")
        authority = Authority()
        mail = os.path.join(secrets, "mail")
        os.makedirs(mail)

        def issue():
            private, chain = authority.issue(["mail.example.com"])
            swapped_in(mail, {"tls.key": read(private), "tls.crt": read(chain)})
            # the first of the chain is its own
            end = "-----END CERTIFICATE-----"
            return ssl.PEM_cert_to_DER_cert(read(chain).split(end)[0] + end)
        first = issue()
        with open(key, "w") as f:
            f.write("an owner key from a file, long enough\n")
        it = self.container(env={"BRIDGEHEAD_ADMIN_KEY": None, "BRIDGEHEAD_ADMIN_KEY_FILE": "/etc/bridgehead/admin-key/admin-key"},
                            mounts=[(secrets, "/etc/bridgehead/secrets"), (os.path.dirname(key), "/etc/bridgehead/admin-key")]).start()
        self.assertEqual(it.rest.get("/api/v1/virtual-servers").status, 401)
        it.rest = Rest(it.rest.address, key="an owner key from a file, long enough")
        it.rest.ok("PUT", "/api/v1/certificates/mail", {"spec": {"chain": {"file": "mail/tls.crt"}, "privateKey": {"file": "mail/tls.key"}}})
        it.server(certificates=["mail"], bindings=[{"address": "127.0.0.1", "port": it.smtp_port, "tls": "starttls"}])

        def shown():
            with smtplib.SMTP("127.0.0.1", it.smtp_port, timeout=10) as c:
                c._host = "mail.example.com"
                c.starttls(context=ssl.create_default_context(cafile=authority.certificate))
                return c.sock.getpeercert(binary_form=True)
        wait_for("the certificate", lambda: shown() == first)
        second = issue()
        self.assertNotEqual(first, second)
        wait_for("the new certificate", lambda: shown() == second, 30)

    def test_the_gap_of_an_upgrade(self):
        """Seconds without a greeting, from SIGTERM until the next process takes mail; printed for the chart's README."""
        it = self.relaying()
        it.hold()
        count = int(os.environ.get("GAP_MESSAGES", "2000"))
        load = Load(lambda: it.smtp_port, count=count, sessions=8, size=10_000).start().join()
        self.assertEqual(len(load.acknowledged()), count)
        began = time.monotonic()
        self.assertEqual(it.stop(), 0)
        stopped = time.monotonic() - began
        it.start(ready=False)
        created = time.monotonic() - began

        def greeted():
            with Smtp(it.smtp_port, timeout=5):
                return True
        wait_for("a greeting", greeted, 60, step=0.01)
        greeting = time.monotonic() - began
        it.wait_ready()
        ready = time.monotonic() - began
        self.assertEqual(it.waiting(), count)
        print(f"      gap with {count} queued: ended after {stopped:.2f} s, container made {created:.2f} s, greeting {greeting:.2f} s, ready {ready:.2f} s")


if __name__ == "__main__":
    unittest.main()
