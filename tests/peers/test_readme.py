"""What the README tells a newcomer to type works as it stands there, in order, but for ports, the key, and the compiler."""

import os
import re
import subprocess
import unittest

from harness import ADMIN_KEY, ROOT, binary, free_port, make_sut, only_bridgehead


def blocks(section=None):
    """The shell blocks of the README that talk to a running appliance; of one section of the second level, or all."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        text = f.read()
    # tests/ops does what the runbook says, in the situations that it is for
    text = re.sub(r"^## Runbook\n.*?(?=^## )", "", text, flags=re.S | re.M)
    if section:
        text = re.search(rf"^## {re.escape(section)}\n(.*?)^## ", text, re.S | re.M).group(1)
    return [b for b in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M) if "curl" in b or "openssl" in b]


def hosts_of_the_gateways(first, second, other):
    """What stands in *Two gateways* for hosts of other people, and what stands in for it: ports of this machine."""
    return {'"host": "10.0.0.11"': f'"host": "127.0.0.1", "port": {first}',
            '"host": "10.0.0.12"': f'"host": "127.0.0.1", "port": {second}', "10.0.0.21": f"127.0.0.1:{other}"}


@only_bridgehead
class Readme(unittest.TestCase):
    def test_every_command_does_what_it_is_there_for(self):
        smtp = free_port()
        it = make_sut("readme", smtp_listen=f"0.0.0.0:{smtp}", env={"BRIDGEHEAD_SECRETS_DIR": "./secrets"}).start()
        self.addCleanup(it.destroy)
        api = it.listener("api")
        ports = {"127.0.0.1:8025": api, "2525": str(smtp), "2526": str(free_port()), "2587": str(free_port()),
                 "2465": str(free_port()), **hosts_of_the_gateways(free_port(), free_port(), free_port())}
        script = f"set -eu -o pipefail\nexport KEY={ADMIN_KEY} API=http://{api}/api/v1\n"
        for number, block in enumerate(blocks()):
            block = re.sub(r"^export (KEY|API)=.*$", "", block, flags=re.M)
            for there, here in ports.items():
                block = block.replace(there, here)
            # a person looks after a moment
            script += f"echo '## block {number}'\n{block.replace('--upload-file -', '--upload-file -; sleep 0.3')}\n"
        self.assertGreaterEqual(script.count("## block"), 9)
        path = f"{os.path.dirname(os.path.abspath(binary()))}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-c", script], cwd=it.dir, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PATH": path})
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, said[-3000:])
        # curl does not fail at an HTTP error
        self.assertNotIn("urn:bridgehead:problem", said)
        for expected in ("It works.", '"event":"delivered"', '"name":"example.com"', "smarthost:to-hub"):
            self.assertIn(expected, said)
        arrived = os.listdir(os.path.join(it.data, "mail/default/anna/new"))
        self.assertEqual(len(arrived), 2, "Anna's first message, and the one that was submitted with a login")


if __name__ == "__main__":
    unittest.main()
