"""Configuration from a mounted directory, as a ConfigMap is mounted."""

import json
import unittest

from container import Container, swapped_in
from harness import wait_for, workdir
from load import Smtp


class Documents(unittest.TestCase):
    def document(self, port, **more):
        return json.dumps({"virtualServers": {"default": {"bindings": [{"address": "127.0.0.1", "port": port}], **more}}})

    def test_a_change_of_the_mounted_directory_acts_without_a_restart(self):
        directory = workdir("config")
        it = Container(env={"BRIDGEHEAD_CONFIG_DIR": "/etc/bridgehead/config"}, mounts=[(directory, "/etc/bridgehead/config")])
        self.addCleanup(it.destroy)
        swapped_in(directory, {"values.json": self.document(it.smtp_port, fqdn="first.example.com")})
        it.start()

        def greeting():
            with Smtp(it.smtp_port, greet=False) as c:
                return c.reply()[1]
        self.assertIn("first.example.com", greeting())
        pid = it.pid()
        swapped_in(directory, {"values.json": self.document(it.smtp_port, fqdn="second.example.com")})
        wait_for("the change", lambda: "second.example.com" in greeting(), 30)
        # one that is wrong leaves it as it is, and is told
        swapped_in(directory, {"values.json": self.document(it.smtp_port, fqdn="not a name")})
        wait_for("the complaint", lambda: "not a name" in it.logs() or "fqdn" in it.logs(), 30)
        self.assertIn("second.example.com", greeting())
        self.assertEqual(it.pid(), pid)

    def test_check_refuses_a_wrong_document_and_takes_a_good_one(self):
        directory = workdir("check")
        it = Container(mounts=[(directory, "/etc/bridgehead/config")])
        self.addCleanup(it.destroy)
        swapped_in(directory, {"values.json": self.document(2525)})
        done = it.once("check", "/etc/bridgehead/config")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        swapped_in(directory, {"values.json": self.document(2525, messages={"maxSise": 1})})
        done = it.once("check", "/etc/bridgehead/config")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("maxSise", done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
