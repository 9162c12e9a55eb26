"""The fault matrix of next hops: what each misbehaviour at each phase leads to, judged by the ledger.

Every case has a next hop of its own that misbehaves on its first connection only; all run at the same time.
"""

import time
import unittest

from harness import make_sut, sut, wait_for
from load import Smtp, message, new_id
from sink import Fault, Sink

ONCE = "delivered once"                 # after a retry
BOUNCE = "DSN"                          # and never delivered
EITHER = "delivered once, or a DSN"
TWICE = "perhaps twice"                 # taken by the first connection without an answer, then delivered

CASES = []
for phase in ("connect", "banner", "ehlo", "mail", "rcpt", "data"):
    for action in ("cut", "reset", "silence", "garbage", "421 4.3.2 going down", "451 4.3.0 later"):
        if phase != "connect" or action in ("cut", "reset"):
            CASES.append((phase, action, ONCE))
CASES += [
    ("banner", "554 5.3.2 no mail here", EITHER),
    ("ehlo", "550 5.7.1 not you", EITHER),
    ("mail", "550 5.7.1 not from there", BOUNCE),
    ("mail", "552 5.3.4 too big", BOUNCE),
    ("rcpt", "550 5.1.1 nobody", BOUNCE),
    ("rcpt", "552 5.2.2 mailbox full", EITHER),
    ("data", "554 5.7.1 no", BOUNCE),
    ("body", "cut", ONCE), ("body", "reset", ONCE), ("body", "silence", ONCE), ("body", "451 4.3.0 enough", ONCE),
    ("predot", "cut", ONCE), ("predot", "reset", ONCE),
    ("postdot", "cut", TWICE), ("postdot", "reset", TWICE), ("postdot", "silence", TWICE), ("postdot", "garbage", TWICE),
    ("postdot", "421 4.3.2 going down", ONCE), ("postdot", "451 4.3.0 later", ONCE),
    ("postdot", "554 5.6.0 content", BOUNCE),
    ("answered", "cut", ONCE), ("answered", "reset", ONCE),
    ("quit", "cut", ONCE), ("quit", "silence", ONCE), ("quit", "garbage", ONCE), ("quit", "421 4.3.2 x", ONCE), ("quit", "500 5.5.1 x", ONCE),
    # Replies that are none.
    ("mail", b"25\r\n", ONCE), ("mail", b"2500 ok\r\n", ONCE), ("mail", b"250-a\r\n251 b\r\n", EITHER),
    ("mail", b"250 " + b"x" * (1 << 20) + b"\r\n", EITHER), ("mail", b"450 \0nul\r\n", EITHER), ("rcpt", b"450 4.2.1 \xff\xfe\r\n", ONCE),
    ("ehlo", "endless", ONCE), ("rcpt", b"\r\n", ONCE), ("mail", b"999 what\r\n", EITHER), ("rcpt", b"354 go on\r\n", EITHER),
]


def once(fault):
    return lambda n: fault if n == 0 else None


class NextHops(unittest.TestCase):
    def setUp(self):
        self.it = make_sut("hops").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("sender")
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")
        self.it.server(outbound={"timeout": "3s"})

    def report_on(self, address):
        return [m for m in self.box.messages() if address.encode() in m and b"report-type=delivery-status" in m.replace(b'"', b"").lower()]

    def test_fault_matrix(self):
        rows, ports, action_of = [], {}, {}
        for n, (phase, action, expected) in enumerate(CASES):
            sink = Sink(plan=once(Fault(phase, action)))
            self.addCleanup(sink.close)
            domain = f"case{n}.test"
            ports[domain] = sink.port
            action_of[f"to@{domain}"] = action
            rows.append((f"{phase}: {action[:30]!r}", f"to@{domain}", new_id(), sink, expected))
        self.it.route_domains(ports)
        with Smtp(self.it.smtp_port) as c:
            for name, address, id, sink, expected in rows:
                data = message(id, 60000, to=address) + b"LAST-LINE\r\n"
                c.transaction("sender@local.test", [address], data)
        def settled(row):
            _, address, id, sink, expected = row
            return id in sink.ids() or self.report_on(address)
        try:
            wait_for("all cases to end", lambda: all(settled(r) for r in rows), 60, 0.5)
        except AssertionError:
            pass
        time.sleep(3)       # for what comes too much
        wrong = []
        for name, address, id, sink, expected in rows:
            try:
                accepted, taken, reports = sink.ids().get(id, 0), len(sink.by_id(id)), len(self.report_on(address))
                got = f"accepted {accepted}, bodies read {taken}, reports {reports}, connections {sink.connections}"
                if sut() == "postfix" and isinstance(action_of[address], bytes):
                    expected = EITHER       # Postfix takes some of these for a permanent failure
                if expected == ONCE:
                    self.assertEqual((accepted, reports), (1, 0), got)
                elif expected == BOUNCE:
                    self.assertEqual((accepted, reports), (0, 1), got)
                elif expected == TWICE:
                    self.assertEqual((accepted, taken, reports), (1, 2, 0), got)
                else:
                    self.assertEqual(accepted + reports, 1, got)
                # The same message each time.
                self.assertEqual(len({d.content[d.content.index(b"From:"):] for d in sink.by_id(id)}), 1 if taken else 0, "bytes differ")
            except AssertionError:
                wrong.append(f"{name}: expected {expected}, got {got}")
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))
        # Everything came to an end, and the appliance is there.
        self.assertEqual(self.it.waiting(), 0)
        with Smtp(self.it.smtp_port) as c:
            self.assertEqual(c.command("NOOP")[0], 250)

    def test_each_recipient_has_a_fate_of_its_own(self):
        tries = {"later@mixed.test": 0}

        def reject(address):
            if address == "never@mixed.test":
                return "550 5.1.1 nobody"
            if address == "later@mixed.test":
                tries[address] += 1
                return "450 4.2.1 later" if tries[address] == 1 else None
        sink = Sink()
        self.addCleanup(sink.close)
        sink.reject_recipient = reject
        self.it.route_domains({"mixed.test": sink.port})
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", ["now@mixed.test", "later@mixed.test", "never@mixed.test"], message(id, 2000))
        wait_for("both deliveries and the report", lambda: sum(len(d.recipients) for d in sink.by_id(id)) >= 2 and self.report_on("never@mixed.test"), 30)
        time.sleep(2)
        arrived = sorted(r for d in sink.accepted() for r in d.recipients)
        self.assertEqual(arrived, ["later@mixed.test", "now@mixed.test"])
        self.assertEqual(len(self.report_on("never@mixed.test")), 1)
        self.assertNotIn(b"rfc822;now@mixed.test", self.report_on("never@mixed.test")[0].replace(b" ", b""))

    def test_a_hop_that_refuses_connections_is_tried_again(self):
        sink = Sink()
        port = sink.port
        sink.close()
        time.sleep(0.2)
        self.it.route_domains({"down.test": port})
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", ["to@down.test"], message(id, 2000))
        time.sleep(2)
        self.assertEqual(self.it.waiting(), 1)
        back = Sink(port=port)
        self.addCleanup(back.close)
        self.assertEqual(back.wait_accepted([id], 30), set())
        self.assertEqual(back.ids(), {id: 1})

    def test_no_line_leaves_unstuffed(self):
        sink = Sink()
        self.addCleanup(sink.close)
        self.it.route_domains({"stuff.test": sink.port})
        id = new_id()
        body = b".\r\n..\r\n.x\r\n" * 3000 + b"." * 998 + b"\r\n.\r\n"
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", ["to@stuff.test"], message(id, body=body))
        d = sink.wait(1)[0]
        self.assertTrue(d.content.endswith(b"\r\n\r\n" + body))
        self.assertEqual([l for l in d.raw.split(b"\r\n") if l.startswith(b".") and not l.startswith(b"..")], [])
        self.assertEqual(d.raw.replace(b"\r\n", b"").count(b"\n") + d.raw.replace(b"\r\n", b"").count(b"\r"), 0)
        if sut() == "bridgehead":
            self.assertEqual(sink.open <= 4, True)
