"""Next hops that mean harm: replies without end, in the wrong form or at a byte a second, at each step; text behind STARTTLS. What
arrived is in the ledger; mail for others goes on meanwhile.
"""

import time
import unittest

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Fault, Sink

REFUSED = "escapes, not UTF-8"
REPLIES = {
    "endless": "endless",
    "codes that differ": b"250-a\r\n251 b\r\n",
    "a line of 1 MiB": b"250 " + b"x" * (1 << 20) + b"\r\n",
    "LF only": b"250 ok\n",
    "two digits": b"25\r\n",
    "four digits": b"2500 ok\r\n",
    "a code that is none": b"999 what\r\n",
    "NUL": b"250 o\0k\r\n",
    REFUSED: b"450 4.2.1 \x1b[31m\xff\xfe\x07 later\r\n",
    "a byte a second": "drip",
    "421": "421 4.3.2 going down",
}
PHASES = ("banner", "ehlo", "starttls", "mail", "rcpt", "data", "postdot")
INJECTED = b"220 go\r\n250 AUTH PLAIN\r\n"


def sink_of(test, phase, action, always=False):
    """A next hop that does this on its first connection, or on all."""
    sink = Sink(plan=lambda n: Fault(phase, action) if always or n == 0 else None)
    if phase == "starttls":
        sink.extensions.append("STARTTLS")
    test.addCleanup(sink.close)
    return sink


def clean(text):
    return all(c.isprintable() for c in text)


@only_bridgehead
class HostileHops(unittest.TestCase):
    def setUp(self):
        self.it = make_sut("hostile").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("sender")
        self.it.relay_for("127.0.0.0/8")

    def send(self, *addresses):
        ids = {}
        with Smtp(self.it.smtp_port) as c:
            for address in addresses:
                ids[address] = new_id()
                c.transaction("sender@local.test", [address], message(ids[address], 2000, to=address))
        return ids

    def rows(self, always=False):
        """Phase, name and sink by address, each with a connector of its own."""
        rows = {}
        for phase in PHASES:
            for name, action in {**REPLIES, **({"more behind it": INJECTED} if phase == "starttls" else {})}.items():
                domain = f"case{len(rows)}.test"
                rows[f"to@{domain}"] = (phase, name, sink_of(self, phase, action, always))
        self.it.route_domains({address[3:]: sink.port for address, (_, _, sink) in rows.items()})
        return rows

    def test_every_reply_at_every_step_only_defers(self):
        """Nothing is lost, nothing comes back, and once more is the most that a cut behind the dot may cost."""
        self.it.quick_retries("1s")
        self.it.server(outbound={"timeout": "3s"})
        rows = self.rows()
        ids = self.send(*rows)
        try:
            wait_for("all of them", lambda: all(ids[a] in sink.ids() for a, (_, _, sink) in rows.items()), 90, 0.5)
        except AssertionError:
            pass
        time.sleep(2)       # for what comes too much
        wrong = []
        for address, (phase, name, sink) in rows.items():
            accepted, bodies = sink.ids().get(ids[address], 0), len(sink.by_id(ids[address]))
            # what is no reply ends the session, whatever it was to be; 450 is one, however it looks
            anew = sink.connections > 1 or name == REFUSED
            if (accepted, bodies, anew) != (1, 2 if phase == "postdot" else 1, True):
                wrong.append(f"{phase}: {name}: accepted {accepted}, bodies read {bodies}, connections {sink.connections}")
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))
        self.assertEqual((self.box.files(), self.it.waiting()), ([], 0))
        for address, (phase, name, sink) in rows.items():
            if name == "more behind it":
                said = [line for n, who, line in sink.dialogs if (n, who) == (0, "C")]
                self.assertTrue(said[-1].startswith(b"STARTTLS"), said)

    def test_a_hop_that_stays_so_holds_nobody_up(self):
        self.it.quick_retries("1h")
        self.it.server(outbound={"timeout": "5m"})
        rows = self.rows(always=True)
        # who refuses STARTTLS gets his mail in clear
        rows = {a: row for a, row in rows.items() if row[:2] != ("starttls", REFUSED)}
        good = Sink()
        self.addCleanup(good.close)
        self.it.route_to(good.port, connector="good", pattern="good.test")
        before = self.memory()
        self.send(*rows)
        drips = {a: sink for a, (_, name, sink) in rows.items() if name == "a byte a second"}
        wait_for("the slow ones to be connected", lambda: all(sink.open for sink in drips.values()), 30)
        others = self.send(*(f"u{n}@good.test" for n in range(100)))
        self.assertEqual(good.wait_accepted(others.values(), 30), set())
        self.assertEqual(set(good.ids().values()), {1})
        self.assertTrue(all(sink.open for sink in drips.values()), "they are still at it")

        def told():
            """What each queue says by now, but for those that still listen."""
            queues = {q["id"].removeprefix("smarthost:").replace("-", "."): q for q in self.it.queues()}
            missing = [a for a in rows if a not in drips and not (queues.get(a[3:]) or {}).get("lastError")]
            assert missing == [], [rows[a][:2] for a in missing]
            return queues
        queues = wait_for("why each waits", told, 30)
        for address, (phase, name, sink) in rows.items():
            with self.subTest(phase=phase, name=name):
                self.assertEqual(sink.ids(), {})
                if address in drips:
                    continue
                queue = queues[address[3:]]
                error = queue["lastError"]
                self.assertEqual((queue["messages"], error["permanent"], error["status"][0]), (1, False, "4"), error)
                self.assertTrue(clean(error["diagnostic"]) and len(error["diagnostic"]) <= 1024, error)
        self.assertEqual(self.box.files(), [])
        self.assertTrue(all(clean(line) for line in self.it.log_text().splitlines()), "the log is clean")
        self.assertLess(self.memory() - before, 64 << 20, "octets")

    def memory(self):
        with open(f"/proc/{self.it.pid()}/status") as f:
            [line] = [line for line in f if line.startswith("VmRSS")]
        return int(line.split()[1]) << 10

    def test_what_is_injected_behind_starttls_is_not_believed(self):
        """With a login to lose, and TLS that is not required."""
        sink = sink_of(self, "starttls", INJECTED, always=True)
        self.it.quick_retries("1s")
        self.it.route_to(sink.port, connector="out", pattern="far.test", authentication={
            "mechanism": "plain", "username": "ada", "password": {"value": "of-the-tests"}})
        self.send("to@far.test")
        error = wait_for("a failure", lambda: (self.it.queue("smarthost:out") or {}).get("lastError"), 20)
        self.assertEqual((error["status"], sink.ids()), ("4.5.0", {}), error)
        wait_for("another try", lambda: sink.connections >= 3, 20)
        said = [line[:8].upper().split()[0] for _, who, line in list(sink.dialogs) if who == "C"]
        self.assertEqual(set(said), {b"EHLO", b"STARTTLS"})
