"""Every example of a request does, on a real appliance, what its operation is for; and every example of a parameter is taken."""

import json
import os
import shutil
import socket
import unittest
import urllib.parse

from authority import Authority
from harness import Appliance, wait_for, workdir
from sink import Sink
from tools import document, operations

# operationId → the status that its example has here, and why it is none of success
OTHERWISE = {
    "resetQuotas": (404, "nobody has used anything of a quota"),
    "testAlerts": (409, "nobody is told of alerts here"),
    "sendTlsReports": (404, "there are reports of days that are over only"),
}
# operationId → what must be given too, for want of which the operation refuses by its description
TOO = {"whereIsMyMail": {"recipient": "ada@example.com"}, "endSessions": {"virtualServer": "internal"}, "applyConfig": {"takeOver": "true"}}
# parameters whose examples mean something only where they come from
ELSEWHERE = {"cursor", "lastEventId", "Last-Event-ID", "ifRevision", "If-Match", "If-None-Match"}
# what would stop the other examples, and what ends it
ENDED_BY = {"beginDrain": ("DELETE", "/api/v1/drain"), "pauseVirtualServer": ("POST", "/api/v1/virtual-servers/default/resume"),
            "stopVirtualServer": ("POST", "/api/v1/virtual-servers/default/start")}


class Examples(unittest.TestCase):
    def test_all_of_them(self):
        secrets = workdir("secrets")
        os.makedirs(os.path.join(secrets, "smtp"))
        private, chain = Authority().issue(["mail.example.com"])
        shutil.copy(private, os.path.join(secrets, "smtp/tls.key"))
        shutil.copy(chain, os.path.join(secrets, "smtp/tls.crt"))
        self.it = Appliance("examples", env={"BRIDGEHEAD_SECRETS_DIR": secrets}).start()
        self.addCleanup(self.it.destroy)
        os.makedirs(os.path.join(self.it.data, "imports/mailroot/vsi 1/Queue"))
        whole = document()
        every = list(operations(whole))
        self.names = {}

        # objects refer to one another, so some are written before others
        left = [one for one in every if one[0] == "PUT"]
        while left:
            refused = [one for one in left if self.send(*one, "application/json").status >= 300]
            self.assertLess(len(refused), len(left), [(path, self.send("PUT", path, how, "application/json")) for _, path, how in refused])
            left = refused
        self.furnish()

        tried = 0
        for method, path, operation in every:
            if method in ("PUT", "DELETE") or operation["operationId"] == "streamEvents":
                continue
            for media in operation.get("requestBody", {}).get("content", {None: None}):
                self.succeeds(method, path, operation, media)
                tried += 1
                for parameter in operation.get("parameters", []):
                    # what the query says of a message as it is, JSON says by itself
                    twice = operation["operationId"] == "sendMessage" and media == "application/json" and parameter["in"] == "query"
                    if parameter["in"] != "path" and parameter["name"] not in ELSEWHERE and not (twice and parameter["name"] != "partial"):
                        self.succeeds(method, path, operation, media, parameter)
        # a session that is there to be ended, at the port that the server has since it was started anew
        client = socket.create_connection(("127.0.0.1", int(self.it.listener("smtp", "default").rsplit(":", 1)[1])), timeout=10)
        self.addCleanup(client.close)
        client.recv(500)
        self.names["/api/v1/sessions/{id}"] = self.it.rest.ok("GET", "/api/v1/sessions")["items"][0]["id"]
        for method, path, operation in every:
            if method == "DELETE":
                self.succeeds(method, path, operation)
                tried += 1
        self.assertGreater(tried, 120)

    def furnish(self):
        """What the examples speak of and no example makes: connectors, revisions, mail that waits, a dead letter."""
        rest = self.it.rest
        sink = Sink()
        self.addCleanup(sink.close)
        sink.reject_recipient = lambda _: "550 5.1.1 nobody"
        self.it.route_to(sink.port, connector="spare", pattern="spare.example")
        rest.ok("PUT", "/api/v1/connectors/internet", {"spec": {"addressSpaces": [{"pattern": "internet.example"}], "route": {"dns": {}}}})
        self.it.local_domain("example.com")
        rest.ok("PUT", "/api/v1/recipients/countess", {"spec": {"type": "mailbox", "alias": "ada"}})
        for number in range(45):
            rest.ok("PUT", f"/api/v1/recipients/extra-{number}", {"spec": {"type": "mailbox"}})
        message = {"from": "orders@example.net", "to": ["somebody@nowhere.example"], "text": "x"}
        waits = rest.ok("POST", "/api/v1/messages", message)
        rest.ok("POST", "/api/v1/messages", {**message, "to": ["somebody@spare.example"], "envelope": {"from": "<>"}})
        dead = wait_for("a dead letter", lambda: rest.ok("GET", "/api/v1/messages?queue=deadLetter")["items"])[0]
        hold = rest.ok("POST", "/api/v1/holds", {"selector": {"sender": "*@held.example"}, "reason": "x"})
        brought = rest.ok("POST", "/api/v1/imports/mailroot", {"path": "mailroot/vsi 1"})
        for _, path, _ in operations(document()):
            for start, id in (("messages", waits["id"]), ("holds", hold["id"]), ("operations", hold["operation"]), ("imports", brought["id"])):
                if path.startswith(f"/api/v1/{start}/") and "{id}" in path:
                    self.names[path] = id
        self.names["/api/v1/messages/{id}/resubmit"] = dead["id"]

    def succeeds(self, method, path, operation, media=None, parameter=None):
        id = operation["operationId"]
        with self.subTest(id, media=media, parameter=parameter and parameter["name"]):
            if id == "importMailroot":
                imports = lambda: self.it.rest.ok("GET", "/api/v1/imports/mailroot")["items"]  # noqa: E731
                wait_for("the import before it", lambda: all(one["state"] != "running" for one in imports()))
            answer = self.send(method, path, operation, media, parameter)
            expected = OTHERWISE.get(id, (None,))[0]
            if expected:
                self.assertEqual(answer.status, expected, answer)
            elif parameter and answer.status == 404 and method == "GET":
                pass  # the example names a place that is not here: it was read, and understood
            else:
                self.assertLess(answer.status, 400, answer)
            if id in ENDED_BY:
                self.it.rest.ok(*ENDED_BY[id])

    def send(self, method, path, operation, media=None, parameter=None):
        """The request of the examples; its answer must be one that the document has."""
        where = path
        for one in operation.get("parameters", []):
            if one["in"] == "path":
                value = self.names.get(path, one["example"])
                where = where.replace(f"{{{one['name']}}}", urllib.parse.quote(str(value), safe=""))
        query, headers, body = dict(TOO.get(operation["operationId"], {})), {}, None
        if parameter:
            value = parameter["example"]
            value = value if isinstance(value, str) else json.dumps(value)
            # a key is for one message
            value += f"-{media[:4]}" if parameter["name"] == "Idempotency-Key" else ""
            (query if parameter["in"] == "query" else headers)[parameter["name"]] = value
        if media:
            example = operation["requestBody"]["content"][media]["example"]
            body = example.encode() if isinstance(example, str) else json.dumps(example).encode()
            headers["Content-Type"] = media
        answer = self.it.rest.call(method, where + (f"?{urllib.parse.urlencode(query)}" if query else ""), body, headers, timeout=60)
        self.assertIn(str(answer.status), operation["responses"], f"{operation['operationId']}: {answer!r}")
        return answer


if __name__ == "__main__":
    unittest.main()
