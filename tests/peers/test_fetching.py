"""Two appliances: a branch that fetches its mail from the centre, by ATRN over its own connection and by ETRN. The documents are those
of the README, as they stand there, but for the host, its port and its certificate, and the hours, which cannot be waited for.
"""

import json
import os
import re
import subprocess
import unittest

from harness import ROOT, make_sut, only_bridgehead, wait_for, workdir
from load import Smtp, message, new_id

ALWAYS = {"windows": [{"from": "00:00", "to": "24:00"}]}
QUEUE = "dns:branch:branch.example.com"


def documents():
    """The specs in the README's chapter on mail that is fetched, by object."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        chapter = f.read().split("### Mail that is fetched")[1].split("\n### ")[0]
    return {name: json.loads(spec) for name, spec in re.findall(r"\$API/(\S+) -d '(\{.*?\})'\n", chapter, re.S)}


def pair():
    """Key and certificate for 127.0.0.1."""
    where = workdir("fetching")
    key, chain = os.path.join(where, "key.pem"), os.path.join(where, "chain.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=centre.test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    with open(key) as k, open(chain) as c:
        return k.read(), c.read()


@only_bridgehead
class Fetching(unittest.TestCase):
    def setUp(self):
        self.documents = documents()
        self.assertEqual(set(self.documents), {"accounts/branch", "connectors/branch", "connectors/centre"})
        self.centre, self.branch = make_sut("centre").start(), make_sut("branch").start()
        self.addCleanup(self.centre.destroy)
        self.addCleanup(self.branch.destroy)
        key, self.chain = pair()
        self.centre.rest.ok("PUT", "/api/v1/certificates/centre",
                            {"spec": {"chain": {"value": self.chain}, "privateKey": {"value": key}}})
        self.centre.server(certificates=["centre"], bindings=[{"address": "127.0.0.1", "port": 0, "tls": "starttls"}],
                           authentication={"mechanisms": ["plain"]}, relay={"allow": ["127.0.0.0/8"]})
        self.centre.quick_retries("1s")
        self.centre_port = self.centre.smtp_port
        for name in ("accounts/branch", "connectors/branch"):
            self.centre.rest.ok("PUT", f"/api/v1/{name}", self.documents[name])
        self.branch.local_domain("branch.example.com")
        self.maildir = self.branch.mailbox("u")

    def send(self, size=2000):
        id = new_id()
        with Smtp(self.centre_port) as c:
            c.transaction("sender@centre.example.com", ["u@branch.example.com"], message(id, size, to="u@branch.example.com"))
        return id

    def held(self, count):
        queue = self.centre.queue(QUEUE) or {}
        return (queue.get("state"), queue.get("messages")) == ("remote", count)

    def ask(self, **changes):
        spec = json.loads(json.dumps(self.documents["connectors/centre"]["spec"]))
        for host in (spec["route"]["smartHosts"][0], spec["requestDequeue"]):
            host.update(host="127.0.0.1", port=self.centre_port)
        spec["requestDequeue"]["security"]["ca"] = {"value": self.chain}
        spec["requestDequeue"].update(changes)
        self.branch.rest.ok("PUT", "/api/v1/connectors/centre", {"spec": spec})

    def result(self):
        conditions = self.branch.rest.ok("GET", "/api/v1/connectors/centre")["status"]["conditions"]
        return next((c for c in conditions if c["type"] == "DequeueRequested"), None)

    def test_the_branch_fetches_by_atrn_and_large_mail_has_hours_of_its_own(self):
        ids = [self.send() for _ in range(3)]
        large = self.send(3 << 20)
        wait_for("everything is held", lambda: self.held(4))
        # the document as it stands is good, wherever it is applied
        self.branch.rest.ok("PUT", "/api/v1/connectors/centre?dryRun=true", self.documents["connectors/centre"])
        # the hours of large mail: never within these days
        oversize = {"schedule": {"windows": [{"from": "00:00", "to": "00:01", "days": [self.in_three_days()]}]}}
        self.centre.rest.ok("PATCH", "/api/v1/connectors/branch", {"spec": {"oversize": oversize}})
        self.ask(schedule=ALWAYS, every="10s")
        copies = self.maildir.wait(3, 30)
        self.assertEqual(sorted(id for id in ids if any(id.encode() in copy for copy in copies)), sorted(ids))
        wait_for("the result", lambda: (self.result() or {}).get("status") == "true", 30)
        self.assertIn("messages taken: 3", self.result()["message"])
        # it waits for its time, and then for being asked for
        wait_for("large mail waits", lambda: self.held(1))
        self.centre.rest.ok("PATCH", "/api/v1/connectors/branch", {"spec": {"oversize": None}})
        self.centre.rest.ok("POST", f"/api/v1/messages/{self.centre.messages()[0]['id']}/retry")
        copies = self.maildir.wait(4, 60)
        self.assertTrue(any(large.encode() in copy for copy in copies))
        wait_for("nothing waits", lambda: self.centre.waiting() == 0)

    def test_the_branch_asks_by_etrn_and_the_centre_connects(self):
        self.centre.rest.ok("PATCH", "/api/v1/connectors/branch", {"spec": {
            "route": {"dns": None, "smartHosts": [{"host": "127.0.0.1", "port": self.branch.smtp_port}]}}})
        id = self.send()
        wait_for("it is held", lambda: self.held(1))
        self.ask(method="etrn", schedule=ALWAYS)
        self.assertIn(id.encode(), self.maildir.wait(1, 30)[0])
        wait_for("the result", lambda: (self.result() or {}).get("status") == "true")
        self.assertRegex(self.result()["message"], "^253 2.0.0 1 pending")

    def test_another_login_gets_nothing(self):
        self.centre.rest.ok("PUT", "/api/v1/accounts/other", {"spec": {"password": {"value": "correct horse battery staple"}}})
        self.send()
        wait_for("it is held", lambda: self.held(1))
        login = {**self.documents["connectors/centre"]["spec"]["requestDequeue"]["authentication"], "username": "other"}
        for method, reply in (("atrn", "550 5.7.1"), ("etrn", "459 4.7.1")):
            with self.subTest(method):
                self.ask(method=method, authentication=login, schedule=ALWAYS)
                wait_for("the refusal", lambda: reply in (self.result() or {}).get("message", ""), 30)
                self.assertEqual(self.result()["status"], "false")
        self.assertTrue(self.held(1))
        self.assertEqual(self.maildir.files(), [])

    @staticmethod
    def in_three_days():
        import datetime
        day = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)
        return ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][day.weekday()]


if __name__ == "__main__":
    unittest.main()
