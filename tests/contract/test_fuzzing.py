"""schemathesis makes requests of the document, valid ones and wrong ones, and holds each answer against the document.

No 5xx, no status, header, media type or body that the document does not have, nothing taken that the document forbids. 2,000 requests at
least (CASES), the same each time (SEED). The appliance must be alive and ready at the end.
"""

import json
import os
import re
import unittest

from harness import ADMIN_KEY, Appliance
from tools import DOCUMENT, HERE, TOOLS, document, needs, operations, run

CASES = int(os.environ.get("CASES", "2000"))
SEED = int(os.environ.get("SEED", "1"))
# operationId → why schemathesis does not call it
NOT_CALLED = {
    "streamEvents": "its answer has no end; test_streams.py calls it",
}


@needs("schemathesis")
class Fuzzing(unittest.TestCase):
    def test_no_answer_outside_the_document(self):
        ids = {operation["operationId"] for _, _, operation in operations(document())}
        self.assertLessEqual(set(NOT_CALLED), ids)
        it = Appliance("contract", env={"BRIDGEHEAD_HEALTH_LISTEN": "127.0.0.1:0"}).start()
        self.addCleanup(it.destroy)
        pid, total, rounds = it.pid(), 0, 0
        while total < CASES or rounds == 0:
            first = rounds == 0
            total += self.round(it, SEED + rounds, "examples,coverage,fuzzing,stateful" if first else "fuzzing,stateful", 8 if first else 40, rounds % 2)
            rounds += 1
        print(f"      {total} requests in {rounds} rounds, seed {SEED}", flush=True)
        self.assertEqual((it.alive(), it.pid()), (True, pid))
        # what is no HTTP at all, actix answers 400 and calls an error
        bad = [line for line in it.log_text().splitlines() if "panicked" in line or '"level":"ERROR"' in line]
        self.assertEqual([line for line in bad if "request parse error" not in line][:5], [])
        # what the requests have left of the first virtual server and of the settings is put back, and it serves as before
        for path in ("settings", "virtual-servers/default"):
            it.rest.ok("PUT", f"/api/v1/{path}?takeOver=true", {"spec": {} if path == "settings" else {"bindings": [{"address": "127.0.0.1", "port": 0}]}})
        it.rest.ok("POST", "/api/v1/virtual-servers/default/start")
        ready = it.rest.get("/readyz")
        self.assertEqual(ready.status, 200, ready)

    def round(self, it, seed, phases, examples, wild):
        """Requests of one seed; gives how many."""
        report = os.path.join(it.dir, f"report-{seed}.json")
        url = f"http://{it.rest.address}"
        command = ["--config-file", os.path.join(HERE, "schemathesis.toml"), "run", DOCUMENT, "--url", url, "--header", f"Authorization: Bearer {ADMIN_KEY}",
                   "--phases", phases, "--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none",
                   "--continue-on-failure", "--no-shrink", "--request-timeout", "30",
                   "--suppress-health-check", "all", "--warnings", "off", "--report", "json", "--report-json-path", report, "--no-color"]
        for one in NOT_CALLED:
            command += ["--exclude-operation-id", one]
        env = {"SCHEMATHESIS_HOOKS": "hooks", "CONTRACT_URL": url, "CONTRACT_KEY": ADMIN_KEY, "CONTRACT_WILD": str(wild),
               "PYTHONPATH": f"{HERE}:{os.path.join(os.path.dirname(HERE), 'lib')}:{os.environ.get('PYTHONPATH', '')}"}
        status, said = run([os.path.join(TOOLS, "python/bin/schemathesis"), *command], timeout=1800, env=env, cwd=it.dir)
        with open(os.path.join(it.dir, f"said-{seed}.txt"), "w") as f:
            f.write(said)
        what = re.findall(r"^_+ ((?:GET|PUT|POST|PATCH|DELETE) .*?) _+$|^- (ST.*|.*rror.*)$|^    (Invalid component.*|\[\d+\].*)$", said, re.M)
        what = "\n".join("  " * (not one[0]) + "".join(one) for one in what) or said
        self.assertEqual(status, 0, f"all of it, with commands to repeat each: {f.name}; the log: {it.log_path}\n{what[:2500]}")
        with open(report) as f:
            found = json.load(f)
        self.assertEqual((found["failures"], found["errors"]), ([], []))
        self.assertEqual(found["operations"]["tested"], len(list(operations(document()))) - len(NOT_CALLED))
        return found["test_cases"]["generated"]


if __name__ == "__main__":
    unittest.main()
