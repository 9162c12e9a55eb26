"""Event sinks and the stream of events, seen by Python's own library: signatures, trouble, order, and going on."""

import hashlib
import hmac
import http.client
import http.server
import json
import threading
import time
import unittest

from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from sink import Sink

SECRET = "whsec-of-the-events"


class App(http.server.BaseHTTPRequestHandler):
    """An application of somebody else's. It trusts nothing that is not signed, or signed long ago."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = dict(part.split("=", 1) for part in self.headers["Bridgehead-Signature"].split(","))
        expected = hmac.new(SECRET.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        good = hmac.compare_digest(expected, fields["v1"]) and abs(time.time() - int(fields["t"])) < 60
        answer = self.server.answers.pop(0) if self.server.answers else 204
        if good:
            self.server.requests.append((self.headers["Bridgehead-Delivery"], json.loads(body), answer))
        if answer == "hang":
            time.sleep(30)
            return
        self.send_response(answer if good else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@only_bridgehead
class EventSinks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.it = make_sut("events").start()
        cls.sink = Sink()
        cls.it.local_domain("local.test").relay_for("127.0.0.0/8")
        cls.it.route_to(cls.sink.port)

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()

    def app(self, name, answers=(), **spec):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        server.daemon_threads = True
        server.requests, server.answers = [], list(answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        spec = {"url": f"http://127.0.0.1:{server.server_port}/events?token=t", "secret": {"value": SECRET}, "timeout": "1s", **spec}
        self.it.rest.ok("PUT", f"/api/v1/event-sinks/{name}", {"spec": spec})
        self.addCleanup(lambda: self.it.rest.ok("DELETE", f"/api/v1/event-sinks/{name}"))
        return server

    def send(self, to):
        with Smtp(self.it.smtp_port) as c:
            c.transaction("a@far.test", [to], message(new_id(), 300))

    def told(self, app):
        return [e["recipients"][0] for _, body, answer in app.requests if answer == 204 for e in body["events"]]

    def test_signed_in_order_after_trouble(self):
        app = self.app("trouble", answers=[500, "hang", 404], events=["relayed"])
        for n in range(20):
            self.send(f"r{n}@far.test")
        wait_for("all events", lambda: len(set(self.told(app))) == 20, 60)
        history = self.it.rest.ok("GET", "/api/v1/tracking?event=relayed&limit=100")["items"][::-1]
        in_order = [e["recipients"][0] for e in history if e["recipients"][0] in {f"r{n}@far.test" for n in range(20)}]
        self.assertEqual(len(in_order), 20)
        self.assertEqual(self.told(app), in_order, "in the order of the history: mail itself may overtake")
        self.assertEqual(len({delivery for delivery, _, _ in app.requests[:4]}), 1, "the same batch each time")

    def test_a_dead_sink_does_not_slow_mail(self):
        self.app("dead", answers=["hang"] * 100)
        begun, before = time.time(), len(self.sink.deliveries)
        for n in range(200):
            self.send(f"d{n}@far.test")
        wait_for("all mail", lambda: len(self.sink.deliveries) >= before + 200, 30)
        self.assertLess(time.time() - begun, 25)

    def test_a_stream_is_read_by_lines(self):
        c = http.client.HTTPConnection(*self.it.rest.address.rsplit(":", 1), timeout=30)
        c.request("GET", "/api/v1/events?event=relayed", headers={"Authorization": f"Bearer {self.it.rest.key}", "Accept": "text/event-stream"})
        answer = c.getresponse()
        self.assertEqual((answer.status, answer.getheader("Content-Type")), (200, "text/event-stream"))
        self.send("s1@far.test")
        seen = {}
        while "data" not in seen:
            field, _, value = answer.readline().decode().rstrip("\n").partition(": ")
            seen[field] = value
        event = json.loads(seen["data"])
        self.assertEqual((seen["event"], seen["id"]), ("relayed", event["id"]))
        self.assertEqual(event["recipients"], ["s1@far.test"])
        c.close()


if __name__ == "__main__":
    unittest.main()
