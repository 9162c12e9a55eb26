"""A client that openapi-python-client makes of the document, and the README's five minutes walked with it."""

import contextlib
import importlib
import json
import os
import smtplib
import sys
import unittest

from harness import ADMIN_KEY, Appliance, wait_for, workdir
from sink import Sink
from tools import DOCUMENT, HERE, document, module, needs, operations


LEFT_OUT = r"(?i)warning|error|skipp|omitted|unsupported|unable"


def generate(source, place):
    """Makes the client; gives status and what the generator said."""
    return module("openapi_python_client", "generate", "--path", source, "--meta", "none", "--config", os.path.join(HERE, "client.yaml"),
                  "--output-path", place)


@needs("openapi_python_client")
class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = workdir("client")
        status, cls.said = generate(DOCUMENT, os.path.join(cls.place, "bridgehead_client"))
        assert status == 0, cls.said
        sys.path.insert(0, cls.place)

    def test_every_operation_is_in_it_and_nothing_was_left_out(self):
        self.assertNotRegex(self.said, LEFT_OUT)
        made = set()
        for directory, _, files in os.walk(os.path.join(self.place, "bridgehead_client/api")):
            made.update(name[:-3].replace("_", "") for name in files if name != "__init__.py" and name.endswith(".py"))
        ids = {operation["operationId"].lower() for _, _, operation in operations(document())}
        self.assertEqual(made, ids)
        # the generator does speak of what it leaves out
        broken = document()
        bodies = broken["paths"]["/api/v1/recipients/import"]["post"]["requestBody"]["content"]
        bodies["text/strange"] = bodies.pop("application/x-ndjson")
        path = os.path.join(workdir("broken"), "broken.json")
        with open(path, "w") as f:
            json.dump(broken, f)
        self.assertRegex(generate(path, os.path.join(os.path.dirname(path), "client"))[1], LEFT_OUT)

    def test_the_five_minutes_of_the_readme(self):
        sink = Sink()
        self.addCleanup(sink.close)
        it = Appliance("client").start()
        self.addCleanup(it.destroy)
        bridgehead = importlib.import_module("bridgehead_client")
        models = importlib.import_module("bridgehead_client.models")
        types = importlib.import_module("bridgehead_client.types")
        client = bridgehead.AuthenticatedClient(base_url=f"http://{it.rest.address}", token=ADMIN_KEY, raise_on_unexpected_status=True)

        def call(name, *arguments, **named):
            """The operation; its answer must be one of success."""
            answer = importlib.import_module(f"bridgehead_client.api.{name}").sync_detailed(*arguments, client=client, **named)
            self.assertLess(answer.status_code, 300, f"{name}: {answer.content[:2000]!r}")
            return answer.parsed

        def mail(subject, recipient):
            with smtplib.SMTP("127.0.0.1", it.smtp_port, timeout=10) as smtp:
                smtp.sendmail("me@example.org", [recipient], f"Subject: {subject}\r\n\r\nIt works.\r\n")

        # 2 and 3: the first message, and what happened to it
        mail("hello", "postmaster")
        postmaster = os.path.join(it.data, "mail/default/postmaster/new")
        first, = wait_for("the postmaster's mail", lambda: os.path.isdir(postmaster) and os.listdir(postmaster))
        happened = lambda: [one.event for one in call("messages.list_message_events", first.split(".")[0]).items]
        wait_for("a delivery in its history", lambda: "delivered" in happened())

        # 4: a domain and a mailbox
        policy = models.RecipientPolicySpec(addresses=[models.PolicyAddress(template="@example.com", primary=True)])
        call("recipient_policies.put_recipient_policy", "default", body=models.RecipientPolicyInput(spec=policy))
        anna = models.RecipientSpec(type_=models.RecipientType.MAILBOX, given_name="Anna")
        made = call("recipients.put_recipient", "anna", body=models.RecipientInput(spec=anna))
        self.assertEqual([one.address for one in made.status.addresses], ["anna@example.com"])
        self.assertIn("example.com", [one.name for one in call("domains.list_domains").items])
        mail("hello Anna", "anna@example.com")
        annas = os.path.join(it.data, "mail/default/anna/new")
        wait_for("Anna's mail", lambda: os.path.isdir(annas) and os.listdir(annas))

        # 5: out, to a port where nothing listens yet
        with contextlib.closing(Sink()) as nobody:
            closed = nobody.port
        spaces = [models.AddressSpace(pattern="*.example.net", cost=10), models.AddressSpace(pattern="example.net", cost=10)]
        route = models.ConnectorRoute(smart_hosts=[models.SmartHost(host="127.0.0.1", port=closed)])
        hub = models.ConnectorInput(spec=models.ConnectorSpec(address_spaces=spaces, route=route))
        call("connectors.put_connector", "to-hub", body=hub, dry_run=True)
        self.assertEqual([one.name for one in call("connectors.list_connectors").items], ["default"], "a dry run changes nothing")
        call("connectors.put_connector", "to-hub", body=hub)
        patch = models.MergePatch.from_dict({"spec": {"relay": {"allow": ["127.0.0.0/8"]}}})
        server = call("virtual_servers.patch_virtual_server", "default", body=patch)
        self.assertEqual(server.spec.relay.allow, ["127.0.0.0/8"])
        question = models.ExplainRequest.from_dict({"client": "127.0.0.1", "sender": "anna@example.com", "recipient": "bob@example.net"})
        self.assertIn("to-hub", str(call("explain.explain", body=question).to_dict()))
        mail("out", "bob@example.net")
        waiting = wait_for("a queue", lambda: [one for one in call("queues.list_queues").items if one.id == "smarthost:to-hub"])
        self.assertEqual(waiting[0].messages, 1)
        found, = call("messages.list_messages", recipient="*@example.net").items
        self.assertEqual(found.recipients[0].address, "bob@example.net")

        # the program's own way in: JSON, and a message as it is
        submission = models.MessageSubmission.from_dict({"from": "anna@example.com", "to": ["bob@example.net"], "subject": "by REST", "text": "Hello."})
        sent = call("messages.send_message", body=submission)
        raw = types.File(payload=b"From: anna@example.com\r\nTo: bob@example.net\r\nSubject: raw\r\n\r\nHello.\r\n")
        call("messages.send_message", body=raw)

        # the hub comes up, elsewhere; retry now
        route = models.ConnectorRoute(smart_hosts=[models.SmartHost(host="127.0.0.1", port=sink.port)])
        hub = models.ConnectorInput(spec=models.ConnectorSpec(address_spaces=spaces, route=route))
        call("connectors.put_connector", "to-hub", body=hub)
        with contextlib.suppress(AssertionError):
            # 404 when the new way has taken all of it already
            call("queues.retry_queue", "smarthost:to-hub")
        sink.wait(3)
        self.assertEqual({recipient for one in sink.accepted() for recipient in one.recipients}, {"bob@example.net"})
        went = lambda: {one.message for one in call("tracking.search_tracking", recipient="bob@example.net", event="relayed").items}
        wait_for("all three in tracking", lambda: len(went()) == 3 and str(sent.id) in went())
        asked, = call("tracking.where_is_my_mail", message_id=sent.message_id).items
        self.assertEqual((asked.message, asked.recipients[0].state), (sent.id, "relayed"))

        # bodies that are no JSON go in and come out
        line = types.File(payload=b'{"name": "ada", "spec": {"givenName": "Ada"}}\n')
        self.assertEqual(call("recipients.import_recipients", body=line).created, 1)
        self.assertIn("# EOF", call("health.get_metrics"))
        self.assertEqual(call("config.export_config").to_dict()["connectors"]["to-hub"]["route"]["smartHosts"][0]["port"], sink.port)
        refused = importlib.import_module("bridgehead_client.api.recipients.get_recipient").sync_detailed("nobody", client=client)
        self.assertEqual((refused.status_code, refused.parsed.type_), (404, models.ProblemType.URNBRIDGEHEADPROBLEMNOTFOUND))


if __name__ == "__main__":
    unittest.main()
