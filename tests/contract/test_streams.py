"""The stream of events, which has no end, and so is called by hand."""

import http.client
import json
import time
import unittest
import urllib.parse

from harness import ADMIN_KEY, Appliance
from tools import document


class Streams(unittest.TestCase):
    def test_events_come_as_the_document_says(self):
        operation = document()["paths"]["/api/v1/events"]["get"]
        it = Appliance("streams").start()
        self.addCleanup(it.destroy)
        host, port = it.rest.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        self.addCleanup(connection.close)
        connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        answer = connection.getresponse()
        media = answer.getheader("content-type").split(";")[0]
        self.assertEqual((answer.status, media), (200, *operation["responses"]["200"]["content"]))
        sent = it.rest.ok("POST", "/api/v1/messages", {"from": "a@example.org", "to": ["postmaster@localhost.localdomain"], "text": "x"})
        until, event = time.monotonic() + 10, {}
        while time.monotonic() < until:
            line = answer.readline().decode().rstrip("\n")
            if line:
                field, _, value = line.partition(":")
                event[field] = value.strip()
                continue
            if "data" in event:
                break
            event = {}
        self.assertEqual((json.loads(event["data"])["message"], event["event"]), (sent["id"], "received"))
        # every parameter with its example, and with nonsense: an answer that the document has, whole or a stream that begins
        for parameter in operation["parameters"]:
            for value in (str(parameter["example"]), "\u0000", "ü" * 300, ""):
                where = "/api/v1/events"
                headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
                if parameter["in"] == "query":
                    where += "?" + urllib.parse.urlencode({parameter["name"]: value})
                else:
                    headers[parameter["name"]] = urllib.parse.quote(value)
                with self.subTest(parameter["name"], value=value):
                    one = http.client.HTTPConnection(host, int(port), timeout=10)
                    one.request("GET", where, headers=headers)
                    got = one.getresponse()
                    self.assertIn(str(got.status), operation["responses"])
                    self.assertLess(got.status, 500)
                    one.close()


if __name__ == "__main__":
    unittest.main()
