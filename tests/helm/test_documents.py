"""The documents of the values, given to a real binary as the pod gets them: checked, and applied from a mounted directory."""

import json
import os
import re
import subprocess
import unittest

import charts
import test_readme
from authority import Authority
from harness import Appliance, Rest, binary, free_port, wait_for, workdir

KEBAB = {"virtualServers": "virtual-servers", "recipientPolicies": "recipient-policies", "recipients": "recipients",
         "mailboxStores": "mailbox-stores", "connectors": "connectors", "remoteDomains": "remote-domains", "certificates": "certificates",
         "accounts": "accounts", "filters": "filters", "identityProviders": "identity-providers"}


def documents():
    """Name → the document of each set of values that has one, and of those in the README."""
    found = {f"readme-{number}": json.dumps(values["config"]) for number, values in enumerate(test_readme.documents()[0]) if "config" in values}
    for name in charts.value_sets():
        for o in charts.objects(name):
            if o["kind"] == "ConfigMap" and o["metadata"]["name"].endswith("-config"):
                found[name] = o["data"]["values.json"]
    return found


def every(node, key):
    """All values of this key, anywhere."""
    if isinstance(node, dict):
        for k, v in node.items():
            if k == key:
                yield v
            yield from every(v, key)
    elif isinstance(node, list):
        for v in node:
            yield from every(v, key)


class Documents(unittest.TestCase):
    def mounted(self, text):
        """The directory of the document, and the environment with its secrets, as the pod has them."""
        document = json.loads(text)
        config, secrets = workdir("config"), workdir("secrets")
        with open(os.path.join(config, "values.json"), "w") as f:
            f.write(text)
        private, chain = Authority().issue(["mail.example.com"])
        for file in {f for f in every(document, "file") if isinstance(f, str)}:
            os.makedirs(os.path.join(secrets, os.path.dirname(file)), exist_ok=True)
            source = {"tls.key": private, "tls.crt": chain}.get(os.path.basename(file))
            with open(os.path.join(secrets, file), "w") as f:
                f.write(open(source).read() if source else "a secret of the tests\n")
        environment = {"BRIDGEHEAD_SECRETS_DIR": secrets}
        for variable in every(document, "env"):
            environment[variable] = "a secret of the tests"
        return config, environment

    def check(self, config, environment):
        return subprocess.run([binary(), "check", config], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **environment}, stdin=subprocess.DEVNULL)

    def test_check_takes_each(self):
        found = documents()
        self.assertGreaterEqual(len(found), 4)
        for name, text in found.items():
            with self.subTest(name):
                done = self.check(*self.mounted(text))
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_check_refuses_what_the_schema_of_the_values_cannot_see(self):
        """A reference to nothing: the Job before the upgrade finds it."""
        document = json.loads(documents()["two-gateways"])
        document["virtualServers"]["internet"]["certificates"] = ["mial"]
        done = self.check(*self.mounted(json.dumps(document)))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("mial", done.stdout + done.stderr)

    def test_the_schema_of_the_values_refuses_a_misspelt_document(self):
        for setting, words in (('config={"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "prot": 2525}]}}}', "prot"),
                               ('config={"virtualServer": {}}', "virtualServer"),
                               ('config={"connectors": {"a": {"adressSpaces": []}}}', "adressSpaces")):
            for helm in charts.HELMS:
                with self.subTest(helm=helm, setting=setting):
                    self.assertIn(words, charts.refusal(setting, "services.smtp=null", helm=helm))

    def test_an_appliance_takes_each_and_has_every_object(self):
        for name, text in documents().items():
            with self.subTest(name):
                # on ports that are free here
                ports = {}
                text = re.sub(r'"port": (2\d{3})\b', lambda m: f'"port": {ports.setdefault(m[1], free_port())}', text)
                text = text.replace('"0.0.0.0"', '"127.0.0.1"')
                config, environment = self.mounted(text)
                it = Appliance(f"chart-{name}", env={**environment, "BRIDGEHEAD_CONFIG_DIR": config})
                try:
                    it.start(ready=False)
                    it.rest = Rest(wait_for("REST", lambda: it.listener("api"), 30))
                    wait_for("ready", lambda: it.rest.get("/readyz").status == 200, 30)
                    for collection, objects in json.loads(text).items():
                        for key in objects:
                            if collection not in KEBAB:
                                continue
                            found = it.rest.ok("GET", f"/api/v1/{KEBAB[collection]}/{key}")
                            self.assertEqual(found["owner"], "file", f"{collection}/{key}")
                finally:
                    it.destroy()


if __name__ == "__main__":
    unittest.main()
