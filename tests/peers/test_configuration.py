"""Configuration by REST acts without a restart, never inside a transaction, and all or nothing."""

import socket
import time
import unittest

from harness import Rest, free_port, make_sut, only_bridgehead, wait_for
from load import Refused, Smtp, message, new_id, stuff
from sink import Sink

SERVER = "/api/v1/virtual-servers/default"


@only_bridgehead
class Configuration(unittest.TestCase):
    def setUp(self):
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        self.it = make_sut("config").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.it.relay_for("127.0.0.0/8")
        self.it.route_to(self.sink.port)
        self.rest = self.it.rest

    def bindings(self):
        return self.rest.ok("GET", SERVER)["spec"]["bindings"]

    def test_a_binding_is_added_and_taken_away_while_a_session_is_open(self):
        before = self.bindings()
        port = free_port()
        with Smtp(self.it.smtp_port) as open_session:
            self.it.server(bindings=before + [{"address": "127.0.0.1", "port": port}])
            def greeted():
                with Smtp(port) as c:
                    return c.command("NOOP")[0] == 250
            wait_for("the new binding", greeted, 10)
            self.assertEqual(open_session.command("NOOP")[0], 250)
            with Smtp(port) as on_new:
                self.it.server(bindings=before)
                def refused():
                    try:
                        socket.create_connection(("127.0.0.1", port), timeout=1).close()
                        return False
                    except ConnectionRefusedError:
                        return True
                wait_for("the binding to close", refused, 10)
                # The session that was open on it goes on, or is told 421; it is not cut off.
                self.assertIn(on_new.command("NOOP")[0], (250, 421))
            self.assertEqual(open_session.command("NOOP")[0], 250)
            id = new_id()
            open_session.transaction("a@far.test", ["b@far.test"], message(id))
        self.assertEqual(self.sink.wait_accepted([id], 15), set())

    def test_a_size_limit_acts_without_a_restart_and_never_inside_a_transaction(self):
        with Smtp(self.it.smtp_port) as c:
            c.expect("MAIL", 250, line="MAIL FROM:<a@far.test>")
            self.it.server(messages={"maxSize": 65536})
            # This transaction began under the old limit.
            c.expect("RCPT", 250, line="RCPT TO:<b@far.test>")
            c.expect("DATA", 354, line="DATA")
            c.send(stuff(message(new_id(), 150000)))
            self.assertEqual(c.reply()[0], 250)
            # It was promised to this session by EHLO; the next one has the new.
        with Smtp(self.it.smtp_port) as c:
            with self.assertRaises(Refused) as r:
                c.transaction("a@far.test", ["b@far.test"], message(new_id(), 150000))
            self.assertEqual((r.exception.code, r.exception.text[:5]), (552, "5.3.4"))
            code, text = c.command("MAIL FROM:<a@far.test> SIZE=150000")
            self.assertEqual((code, text[:5]), (552, "5.3.4"))
            c.transaction("a@far.test", ["b@far.test"], message(new_id(), 5000))
        with Smtp(self.it.smtp_port) as c:
            self.assertIn("SIZE 65536", c.extensions)

    def test_relay_closes_while_a_session_is_open(self):
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(new_id()))
            self.it.server(relay={"allow": []})
            with self.assertRaises(Refused) as r:
                c.transaction("a@far.test", ["b@far.test"], message(new_id()))
            self.assertEqual((r.exception.at, r.exception.code, r.exception.text[:5]), ("RCPT", 550, "5.7.1"))

    def test_a_connector_is_changed_under_way(self):
        other = Sink()
        self.addCleanup(other.close)
        one, two = new_id(), new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(one))
            self.assertEqual(self.sink.wait_accepted([one], 15), set())
            self.it.route_to(other.port)
            c.transaction("a@far.test", ["b@far.test"], message(two))
        self.assertEqual(other.wait_accepted([two], 15), set())

    def test_recipients_limit(self):
        self.it.server(messages={"maxRecipients": 100})
        with Smtp(self.it.smtp_port) as c:
            c.expect("MAIL", 250, line="MAIL FROM:<a@far.test>")
            replies = [c.command(f"RCPT TO:<r{n}@far.test>") for n in range(102)]
        self.assertEqual([r[0] for r in replies], [250] * 100 + [452, 452])
        self.assertEqual(replies[100][1][:5], "4.5.3")

    def test_etag_and_if_match(self):
        a = self.rest.get(SERVER)
        self.assertEqual(a.status, 200)
        self.assertRegex(a.etag, r'^"\d+"$')
        self.assertEqual(a.etag, f'"{a.json["generation"]}"')
        b = self.rest.call("PATCH", SERVER, {"spec": {"messages": {"maxRecipients": 177}}}, headers={"If-Match": a.etag})
        self.assertEqual(b.status, 200, b)
        self.assertNotEqual(b.etag, a.etag)
        c = self.rest.call("PATCH", SERVER, {"spec": {"messages": {"maxRecipients": 178}}}, headers={"If-Match": a.etag})
        self.assertEqual(c.status, 412, c)
        self.assertEqual(c.headers["content-type"].split(";")[0], "application/problem+json")
        self.assertEqual(self.rest.ok("GET", SERVER)["spec"]["messages"]["maxRecipients"], 177)
        same = self.rest.call("PATCH", SERVER, {"spec": {"messages": {"maxRecipients": 177}}})
        self.assertEqual((same.status, same.etag), (200, b.etag), "equal content makes no revision")
        d = self.rest.call("PUT", "/api/v1/connectors/default", {"spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}}}, headers={"If-None-Match": "*"})
        self.assertEqual(d.status, 412, d)

    def test_all_violations_at_once(self):
        before = self.rest.get(SERVER).json
        a = self.rest.call("PATCH", SERVER, {"spec": {
            "messages": {"maxRecipients": "many", "maxSize": "huge"},
            "delivery": {"expireAfter": "soon"},
            "bindings": [{"address": "nowhere", "port": 99999}],
            "unknownField": 1}})
        self.assertIn(a.status, (400, 422), a)
        self.assertEqual(a.headers["content-type"].split(";")[0], "application/problem+json")
        p = a.json
        self.assertTrue(p.get("type") and p.get("requestId"), p)
        pointers = {e["pointer"] for e in p["errors"]}
        for wanted in ("/spec/messages/maxRecipients", "/spec/messages/maxSize", "/spec/delivery/expireAfter",
                       "/spec/bindings/0/address", "/spec/bindings/0/port", "/spec/unknownField"):
            self.assertIn(wanted, pointers)
        for e in p["errors"]:
            self.assertTrue(e["code"] and e["detail"], e)
        self.assertEqual(self.rest.get(SERVER).json["spec"], before["spec"], "an invalid change leaves everything as it was")

    def test_an_open_relay_must_be_acknowledged(self):
        a = self.rest.call("PATCH", SERVER, {"spec": {"relay": {"allow": ["0.0.0.0/0"]}}})
        self.assertEqual(a.status, 422, a)
        self.assertIn("openRelay", [e["code"] for e in a.json["errors"]])
        a = self.rest.call("PATCH", SERVER, {"spec": {"relay": {"allow": ["0.0.0.0/0"], "acknowledgeOpenRelay": True}}})
        self.assertEqual(a.status, 200, a)

    def test_without_the_key_nothing(self):
        for key in (None, "wrong"):
            for method, path in (("GET", SERVER), ("GET", "/api/v1/queues"), ("PATCH", SERVER), ("DELETE", "/api/v1/connectors/default"),
                                 ("GET", "/api/v1/messages"), ("POST", "/api/v1/queues/smarthost:default/freeze")):
                a = Rest(self.it.rest.address, key).call(method, path, {} if method == "PATCH" else None)
                self.assertEqual(a.status, 401, (key, method, path, a))
        for path in ("/livez", "/readyz", "/startupz"):
            self.assertEqual(Rest(self.it.rest.address, None).get(path).status, 200, path)

    def test_bad_requests_are_problems(self):
        for method, path, body, headers, statuses in (
                ("PATCH", SERVER, b"{", {}, (400,)),
                ("PATCH", SERVER, b"[" * 100000, {}, (400, 413)),
                ("PUT", "/api/v1/connectors/x", b"<x/>", {"Content-Type": "text/xml"}, (415,)),
                ("GET", "/api/v1/nothing", None, {}, (404,)),
                ("GET", "/api/v1/connectors/absent", None, {}, (404,)),
                ("PUT", "/api/v1/connectors/UPPER", {"spec": {}}, {}, (400, 422)),
                ("DELETE", "/api/v1/settings", None, {}, (405,)),
                ("PUT", "/api/v1/domains/far.test", {"spec": {}}, {}, (405,)),
                ("GET", "/api/v1/messages?cursor=rubbish", None, {}, (400, 422)),
                ("GET", "/api/v1/messages/not-an-id", None, {}, (400, 404, 422)),
                ("POST", "/api/v1/queues/nonsense/freeze", None, {}, (400, 404, 422))):
            with self.subTest(f"{method} {path} {str(body)[:20]}"):
                a = self.rest.call(method, path, body, headers=headers)
                self.assertIn(a.status, statuses, a)
                self.assertEqual(a.headers["content-type"].split(";")[0], "application/problem+json")

    def test_a_port_in_use_is_named_and_the_others_serve(self):
        taken = socket.socket()
        taken.bind(("127.0.0.1", free_port()))
        taken.listen(1)
        self.addCleanup(taken.close)
        port, free = taken.getsockname()[1], free_port()
        body = {"spec": {"bindings": self.bindings() + [{"address": "127.0.0.1", "port": port}, {"address": "127.0.0.1", "port": free}]}}
        a = self.rest.call("PATCH", SERVER, body)
        # Refused as a whole, naming the binding …
        self.assertEqual(a.status, 422, a)
        self.assertEqual([e["pointer"] for e in a.json["errors"]], ["/spec/bindings/1"] if a.json["errors"][0]["pointer"].count("/") == 3 else ["/spec/bindings/1/port"])
        self.assertIn("cannotBind", [e["code"] for e in a.json["errors"]])
        with Smtp(self.it.smtp_port) as c:
            self.assertEqual(c.command("NOOP")[0], 250)
        # … and one that is taken only at the next start leaves the others serving.
        taken.close()
        self.it.server(**body["spec"])
        wait_for("the binding", lambda: Smtp(port).close() or True, 10)
        self.it.stop()
        blocker = socket.socket()
        blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for("the port to be free", lambda: blocker.bind(("127.0.0.1", port)) or True, 10)
        blocker.listen(1)
        self.addCleanup(blocker.close)
        self.it.start(ready=False)
        self.it.wait_listening(20)
        wait_for("the other binding", lambda: Smtp(free).close() or True, 10)
        server = self.it.rest.ok("GET", SERVER)
        self.assertIn(str(port), str(server["status"]))
        blocker.close()
        wait_for("the binding to be taken up", lambda: Smtp(port).close() or True, 90, 1)

    def test_configuration_survives_a_restart(self):
        self.it.server(messages={"maxRecipients": 155})
        self.it.mailbox("kept")
        self.it.kill()
        self.it.start()
        self.assertEqual(self.it.rest.ok("GET", SERVER)["spec"]["messages"]["maxRecipients"], 155)
        with Smtp(self.it.smtp_port) as c:
            c.expect("MAIL", 250, line="MAIL FROM:<a@far.test>")
            self.assertEqual(c.command("RCPT TO:<kept@local.test>")[0], 250)

    def test_changes_under_load_fail_no_session(self):
        from load import Load
        load = Load(lambda: self.it.smtp_port, sessions=4).start()
        end = time.monotonic() + 4
        n = 0
        while time.monotonic() < end:
            n += 1
            self.it.server(messages={"maxRecipients": 100 + n % 2})
            if n % 5 == 0:
                self.assertIn(self.rest.call("PATCH", SERVER, {"spec": {"messages": {"maxRecipients": -1}}}).status, (400, 422))
            time.sleep(0.1)
        load.stop()
        self.assertEqual(load.errors, [])
        acknowledged = load.acknowledged()
        self.assertGreater(len(acknowledged), 20)
        self.assertEqual(self.sink.wait_accepted(acknowledged, 30), set())

    def test_an_empty_queue_can_be_frozen_and_thawed(self):
        queue = "/api/v1/queues/smarthost:default"
        for _ in range(10):
            self.assertEqual(self.rest.call("POST", queue + "/freeze").status, 200)
            self.assertEqual(self.rest.get(queue).json["state"], "frozen")
            thawed = self.rest.call("POST", queue + "/thaw")
            self.assertIn(thawed.status, (200, 204), thawed)
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(id))
        self.assertEqual(self.sink.wait_accepted([id], 15), set())

    def test_operations_on_queues_and_messages(self):
        self.it.hold()
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", ["b@far.test"], message(id))
            c.transaction("a@far.test", ["c@far.test"], message(new_id()))
        q = wait_for("a frozen queue of two", lambda: (lambda q: q if q and q["messages"] == 2 else None)(self.it.queue("smarthost:")), 10)
        self.assertEqual(q["state"], "frozen")
        items = self.it.messages()
        self.assertEqual(len(items), 2)
        mine = [m for m in items if m.get("messageId") == f"{id}@load.test"][0]
        events = self.rest.ok("GET", f"/api/v1/messages/{mine['id']}/events")
        self.assertIn("received", str(events))
        other = [m for m in items if m is not mine][0]
        self.assertIn(self.rest.call("DELETE", f"/api/v1/messages/{other['id']}?ndr=false").status, (200, 204))
        self.assertEqual(self.rest.get(f"/api/v1/messages/{other['id']}").status, 404)
        time.sleep(1)
        self.assertEqual(self.sink.deliveries, [])
        # A freeze survives a restart.
        self.it.kill()
        self.it.start()
        time.sleep(1.5)
        self.assertEqual(self.sink.deliveries, [])
        self.it.release()
        self.assertEqual(self.sink.wait_accepted([id], 15), set())
        time.sleep(1)
        self.assertEqual(len(self.sink.deliveries), 1, "the deleted one never leaves")
