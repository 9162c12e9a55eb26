"""Mail over REST: what is composed is read by a foreign parser, what is refused says why, and a key is one message."""

import base64
import concurrent.futures
import datetime
import email
import email.header
import email.policy
import email.utils
import json
import unittest

from harness import Rest, make_sut, only_bridgehead, wait_for
from sink import Sink

FROM = {"address": "orders@local.test", "name": "Bücher & \"Co\""}


class House(unittest.TestCase):
    def setUp(self):
        self.sink = Sink()
        self.addCleanup(self.sink.close)
        self.it = make_sut("submission").start()
        self.addCleanup(self.it.destroy)
        self.it.local_domain("local.test")
        self.box = self.it.mailbox("ada")
        self.it.route_to(self.sink.port)
        self.it.quick_retries("1s")

    def post(self, message, path="/api/v1/messages", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.it.rest.call("POST", path, message, headers=headers)

    def send(self, message, **k):
        a = self.post(message, **k)
        self.assertEqual(a.status, 202, a)
        return a.json

    def raw(self, content, query="", **headers):
        return self.post(content, "/api/v1/messages" + query, Content_Type="message/rfc822", **headers)

    def problem(self, answer, status, *codes):
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        found = [(e.get("pointer", e.get("parameter")), e["code"]) for e in answer.json.get("errors", [])]
        for code in codes:
            self.assertIn(code, found, answer)
        wait_for("the queue to be empty", lambda: self.it.waiting() == 0)

    def arrived(self, count=1):
        """What the next hop has, parsed."""
        self.sink.wait(count)
        for d in self.sink.deliveries:
            for line in d.raw.split(b"\r\n"):
                self.assertNotIn(b"\n", line)
                self.assertNotIn(b"\r", line)
                self.assertLessEqual(len(line), 998)
        return [(d, email.message_from_bytes(d.content, policy=email.policy.default)) for d in self.sink.deliveries]


@only_bridgehead
class Composed(House):
    def test_a_foreign_parser_reads_what_was_meant(self):
        names = ["Ada Lovelace", "Bücher, Müller & \"Söhne\" <x@y>", "山田太郎", "Ирина", "עברית", "a" * 200, "🎉 " * 40]
        to = [{"address": f"u{n}@far.test", "name": name} for n, name in enumerate(names)]
        text = ".\n..\nGrüße an alle\n" + "x" * 5000 + "\nFrom here\n.\r\nend\rof\n"
        html = "<p>" + "ü" * 3000 + "<img src=\"cid:logo@x\"></p>\n.\n"
        pdf, png = bytes(range(256)) * 300, b"\x89PNG\r\n\x1a\n\0" * 50
        files = ["Rechnung 4711.pdf", "Прайс-лист.pdf", "quote\"d\\.txt", "長い" * 40 + ".bin", "plain.csv", "a b;c=d'e*.txt"]
        attachments = [{"contentId": "logo@x", "contentType": "image/png", "fileName": "løgo.png", "content": base64.b64encode(png).decode()}]
        attachments += [{"fileName": f, "contentType": "text/plain" if f.endswith("txt") else "application/pdf",
                         "content": base64.b64encode(pdf).decode()} for f in files]
        subject = "Ihre Bestellung № 4711 – größer als " + "sehr " * 60 + "lang 🎉"
        long_reference = " ".join(f"<{n}{'r' * 60}@local.test>" for n in range(20))
        answer = self.send({
            "from": FROM, "to": to, "cc": ["cc@far.test"], "bcc": [{"address": "secret@far.test", "name": "Secret"}],
            "replyTo": [{"address": "help@local.test", "name": "Hilfe, bitte"}], "subject": subject, "text": text, "html": html,
            "attachments": attachments,
            "headers": {"X-Order": "4711", "References": long_reference, "X-Words": "Grüße an alle, " * 30, "List-Unsubscribe": "<https://local.test/" + "u" * 300 + ">"},
        })
        [(delivery, m)] = self.arrived()
        self.assertEqual(len(answer["recipients"]), len(to) + 2)
        self.assertEqual(sorted(delivery.recipients), sorted([t["address"] for t in to] + ["cc@far.test", "secret@far.test"]))
        self.assertNotIn(b"secret", delivery.raw)
        self.assertEqual(m.defects, [])
        self.assertEqual([(a.display_name, a.addr_spec) for a in m["From"].addresses], [(FROM["name"], FROM["address"])])
        self.assertEqual([a.addr_spec for a in m["To"].addresses], [t["address"] for t in to])
        # email's own parser of structured fields puts a space between encoded words where RFC 2047 (6.2) has none
        old = email.message_from_bytes(delivery.content)
        decoded = [str(email.header.make_header(email.header.decode_header(name))) for name, _ in email.utils.getaddresses([old["To"]])]
        self.assertEqual([name.strip() for name in decoded], [n.strip() for n in names])
        self.assertEqual(m["Reply-To"].addresses[0].display_name, "Hilfe, bitte")
        self.assertEqual(m["Subject"], subject)
        self.assertEqual(m["References"], long_reference)
        self.assertEqual(m["X-Words"].strip(), ("Grüße an alle, " * 30).strip())
        self.assertEqual(m["Message-ID"], f"<{answer['messageId']}>")
        self.assertIn(answer["id"], answer["messageId"])
        self.assertLess(abs((m["Date"].datetime - datetime.datetime.now(datetime.timezone.utc)).total_seconds()), 120)
        self.assertEqual(m["MIME-Version"], "1.0")
        lines = lambda t: t.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
        self.assertEqual(lines(m.get_body(("plain",)).get_content()), lines(text))
        self.assertEqual(lines(m.get_body(("html",)).get_content()), lines(html))
        self.assertEqual(m.get_content_type(), "multipart/mixed")
        related = [p for p in m.walk() if p.get_content_type() == "multipart/related"][0]
        logo = [p for p in related.walk() if p.get_content_type() == "image/png"][0]
        self.assertEqual((logo["Content-ID"], logo.get_filename(), logo.get_payload(decode=True)), ("<logo@x>", "løgo.png", png))
        found = [p for p in m.iter_attachments()]
        self.assertEqual([p.get_filename() for p in found], files)
        for p in found:
            self.assertEqual(p.get_payload(decode=True), pdf)
        for p in m.walk():
            self.assertEqual(p.defects, [], p)

    def test_every_shape_of_a_message(self):
        image = {"contentId": "i", "contentType": "image/gif", "content": "R0lGODlh"}
        file = {"fileName": "f.bin", "content": "AAEC"}
        shapes = [
            ({}, ["text/plain"]),
            ({"text": "t"}, ["text/plain"]),
            ({"html": "h"}, ["text/html"]),
            ({"text": "t", "html": "h"}, ["multipart/alternative", "text/plain", "text/html"]),
            ({"html": "h", "attachments": [image]}, ["multipart/related", "text/html", "image/gif"]),
            ({"text": "t", "html": "h", "attachments": [image]},
             ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/gif"]),
            ({"attachments": [file]}, ["multipart/mixed", "text/plain", "application/octet-stream"]),
            ({"text": "t", "html": "h", "attachments": [file, image]},
             ["multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/gif", "application/octet-stream"]),
        ]
        for n, (parts, _) in enumerate(shapes):
            self.send({"from": "a@local.test", "to": ["u@far.test"], "subject": str(n), **parts})
        for _, m in self.arrived(len(shapes)):
            self.assertEqual([p.get_content_type() for p in m.walk()], shapes[int(m["Subject"])][1])

    def test_one_rule_for_smtp_and_rest(self):
        known = {"from": "a@local.test", "to": ["ada@local.test"], "text": "x"}
        answer = self.send(known)
        self.assertEqual(answer["recipients"], [{"address": "ada@local.test", "queue": "local:default"}])
        raw = self.box.wait(1)[0]
        self.assertIn(b"with HTTP\r\n", raw)
        message = self.it.rest.ok("GET", answer["links"]["events"])["items"]
        self.assertEqual(message[0]["event"], "received")
        two = {"from": "a@local.test", "to": ["ada@local.test", "nobody@local.test"], "text": "x"}
        a = self.post(two)
        self.problem(a, 422, ("/to/1", "refused"))
        self.assertIn("unknownRecipient", a.json["errors"][0]["detail"])
        a = self.post(two, "/api/v1/messages?partial=true")
        self.assertEqual((a.status, [r["address"] for r in a.json["refused"]]), (202, ["nobody@local.test"]), a)
        self.box.wait(2)
        self.problem(self.post({"from": "a@local.test", "to": ["no@local.test"]}, "/api/v1/messages?partial=true"), 422, ("/to/0", "refused"))

    def test_envelope_priority_dsn_and_a_time_to_send(self):
        at = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        held = self.send({"from": "a@local.test", "to": ["u@far.test"], "sendAt": at, "priority": 3})
        self.assertEqual(held["holdUntil"][:19], at[:19])
        shown = self.it.rest.ok("GET", held["links"]["message"])
        self.assertEqual((shown["holdUntil"][:19], shown["priority"], shown["origin"]["protocol"], shown["origin"]["apiKey"]),
                         (at[:19], 3, "rest", "bootstrap"))
        self.it.rest.ok("DELETE", f"/api/v1/messages/{held['id']}")
        self.send({"from": "a@local.test", "to": ["shown@far.test"], "messageId": "<mine@local.test>", "subject": "x",
                   "dsn": {"notify": ["success", "failure"], "ret": "headers", "envelopeId": "QQ=1+2"},
                   "envelope": {"from": "bounces@local.test", "to": ["real@far.test"]},
                   "sendAt": "2020-01-01T00:00:00Z"})
        [(d, m)] = self.arrived()
        self.assertEqual((d.sender, d.recipients, m["To"], m["Message-ID"]),
                         ("bounces@local.test", ["real@far.test"], "shown@far.test", "<mine@local.test>"))
        self.assertIn("RET=HDRS", d.mail_args)
        self.assertIn("ENVID=QQ+3D1+2B2", d.mail_args)
        self.assertIn("NOTIFY=SUCCESS,FAILURE", str(d.rcpt_args))
        self.sink.deliveries.clear()
        self.send({"from": "a@local.test", "to": ["u@far.test"], "envelope": {"from": "<>"}, "dsn": {"notify": []}})
        [(d, m)] = self.arrived()
        self.assertEqual((d.sender, m["From"]), ("", "a@local.test"))
        self.assertIn("NOTIFY=NEVER", str(d.rcpt_args))


@only_bridgehead
class Refused(House):
    def test_control_characters_get_in_nowhere(self):
        whole = {"from": {"address": "a@local.test", "name": "n"}, "to": [{"address": "b@far.test", "name": "n"}], "subject": "s",
                 "text": "t", "messageId": "1@x", "headers": {"X-A": "v"}, "envelope": {"from": "a@local.test", "to": ["b@far.test"]},
                 "attachments": [{"fileName": "f", "contentType": "text/plain", "contentId": "c", "content": "AA=="}]}
        places = ["/from/address", "/from/name", "/to/0/address", "/to/0/name", "/subject", "/messageId", "/headers/X-A",
                  "/envelope/from", "/envelope/to/0", "/attachments/0/fileName", "/attachments/0/contentType",
                  "/attachments/0/contentId"]
        for bad in ["\r\nX-Evil: yes", "\nX-Evil: yes", "\r", "\0", "\x0b", "\x85"]:
            for place in places:
                message = json.loads(json.dumps(whole))
                *way, last = place.strip("/").split("/")
                at = message
                for step in way:
                    at = at[int(step)] if isinstance(at, list) else at[step]
                last = int(last) if isinstance(at, list) else last
                at[last] += bad
                with self.subTest(place=place, bad=bad):
                    a = self.post(message)
                    self.assertEqual(a.status, 422, a)
                    self.assertTrue(any(e["pointer"].startswith(place.replace("/address", "")) for e in a.json["errors"]), a)
            a = self.post({**whole, "headers": {"X-A" + bad: "v"}})
            self.assertEqual(a.status, 422, a)
        self.problem(self.post({**whole, "text": "a\0b"}), 422, ("/text", "controlCharacter"))
        self.assertEqual(self.sink.deliveries, [])

    def test_what_is_wrong_is_told_with_its_place(self):
        m = {"from": "a@local.test", "to": ["b@far.test"]}
        far = "2099-01-01T00:00:00Z"
        for change, status, *errors in [
            ({"to": []}, 422, ("/to", "required")),
            ({"to": ["nobody"], "cc": ["a@@b"]}, 422, ("/to/0", "invalidValue"), ("/cc/0", "invalidValue")),
            ({"to": ["b@far.test"] * 1001}, 422, ("/to", "outOfRange")),
            ({"headers": {"Bcc": "x@y"}}, 422, ("/headers/Bcc", "conflict")),
            ({"headers": {"Content-Type": "x"}}, 422, ("/headers/Content-Type", "conflict")),
            ({"headers": {"X-A": "1", "x-a": "2"}}, 422, ("/headers/x-a", "duplicate")),
            ({"headers": {"X A": "1"}}, 422, ("/headers/X A", "invalidName")),
            ({"headers": {"X-A": "w" * 1000}}, 422, ("/headers/X-A", "outOfRange")),
            ({"attachments": [{"content": "not base64!"}]}, 422, ("/attachments/0/content", "invalidValue")),
            ({"attachments": [{"content": "", "contentType": "message/rfc822"}]}, 422, ("/attachments/0/contentType", "invalidValue")),
            ({"attachments": [{"content": "", "contentType": "nonsense"}]}, 422, ("/attachments/0/contentType", "invalidValue")),
            ({"sendAt": far}, 422, ("/sendAt", "outOfRange")),
            ({"sendAt": "tomorrow"}, 422, ("/sendAt", "invalidValue")),
            ({"priority": 10}, 422, ("/priority", "outOfRange")),
            ({"dsn": {"envelopeId": "a b"}}, 422, ("/dsn/envelopeId", "invalidValue")),
            ({"dsn": {"notify": ["always"]}}, 422, ("/dsn/notify/0", "invalidValue")),
            ({"virtualServer": "nowhere"}, 422, ("/virtualServer", "unknownReference")),
            ({"messageId": "x"}, 422, ("/messageId", "invalidValue")),
            ({"envelope": {"to": ["x"]}}, 422, ("/envelope/to/0", "invalidValue")),
            ({"subjekt": "x"}, 422, ("/subjekt", "unknownField")),
            ({"from": None}, 422, ("/from", "invalidValue")),
        ]:
            with self.subTest(change=str(change)[:80]):
                self.problem(self.post({**m, **change}), status, *errors)
        a = self.post(b'{"from": "a@local.test", "from": "b@local.test"}')
        self.problem(a, 400)
        self.assertEqual(a.json["errors"][0]["code"], "repeatedField")
        self.problem(self.post(b"{"), 400, ("", "malformed"))
        self.problem(self.post(m, Content_Type="text/plain"), 415)
        self.problem(self.post(m, "/api/v1/messages?from=x@y.test"), 400, ("from", "invalidParameter"))
        self.problem(self.post(m, "/api/v1/messages?form=x@y.test"), 400, ("form", "unknownParameter"))
        self.problem(self.post(m, Idempotency_Key="x" * 256), 400, ("Idempotency-Key", "invalidParameter"))
        self.assertEqual(Rest(self.it.rest.address, key=None).call("POST", "/api/v1/messages", m).status, 401)

    def test_hostile_sizes(self):
        m = {"from": "a@local.test", "to": ["b@far.test"]}
        million = b'{"from":"a@local.test","to":[' + b",".join([b'"b@far.test"'] * 1_000_000) + b"]}"
        self.problem(self.post(million), 422)
        empty = b'{"from":"a@local.test","to":[' + b",".join([b'""'] * 2_000_000) + b"]}"
        self.problem(self.post(empty), 422)
        self.problem(self.post(b'{"from":' + b"[" * 100_000), 422)
        self.problem(self.post(b'{"priority":' + b"9" * 10_000_000 + b"}"), 400)
        self.problem(self.post({**m, "attachments": [{"content": "A" * (26 << 20)}, {"content": "A" * (9 << 20)}]}), 413)
        self.problem(self.post({**m, "attachments": [{"content": "A" * (33 << 20)}]}), 413)
        self.problem(self.raw(b"From: a@local.test\nTo: b@far.test\n\n" + b"x\n" * (14 << 20)), 413)
        self.problem(self.raw(b"From: a@local.test\nTo: b@far.test\n" + b"X: y\n" * 400_000 + b"\n"), 422)
        self.send({**m, "text": "\n" * 3_000_000})
        whole = self.send({**m, "attachments": [{"content": "AAAA" * (6 << 20)}]})
        self.assertGreater(whole["size"], 24 << 20)
        self.sink.wait(2)


@only_bridgehead
class Raw(House):
    def test_it_goes_as_it_is(self):
        content = b"From: a@local.test\nTo: b@far.test, Group: c@far.test;\nBcc: d@far.test,\n e@far.test\nSubject: x\n\n.\n..x\nGr\xc3\xbc\xc3\x9fe\nend"
        a = self.raw(content)
        self.assertEqual(a.status, 202, a)
        [(d, m)] = self.arrived()
        self.assertEqual((d.sender, sorted(d.recipients)), ("a@local.test", ["b@far.test", "c@far.test", "d@far.test", "e@far.test"]))
        body = d.content.split(b"\r\n\r\n", 1)[1]
        self.assertEqual(body.rstrip(b"\r\n"), b".\r\n..x\r\nGr\xc3\xbc\xc3\x9fe\r\nend")
        self.assertNotIn(b"d@far.test", d.raw)
        self.assertEqual((m["Message-ID"], m["Subject"]), (f"<{a.json['messageId']}>", "x"))
        self.assertIsNotNone(m["Date"])
        self.assertIn("8BITMIME", d.mail_args)

    def test_the_envelope_may_be_another(self):
        content = b"From: a@local.test\r\nSender: s@local.test\r\nTo: b@far.test\r\nMessage-ID: <kept@x>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nx\r\n"
        a = self.raw(content, "?to=r1@far.test,r2@far.test&from=%3C%3E&notify=success&ret=full&envelopeId=e1&priority=2")
        self.assertEqual((a.status, a.json["messageId"]), (202, "kept@x"), a)
        [(d, m)] = self.arrived()
        self.assertEqual((d.sender, sorted(d.recipients)), ("", ["r1@far.test", "r2@far.test"]))
        self.assertTrue(d.content.rstrip().endswith(content.rstrip()), d.content)
        self.assertIn("RET=FULL", d.mail_args)

    def test_what_is_no_message_is_refused(self):
        for content, *errors in [
            (b"", ("", "required")),
            (b"hello", ("", "invalidValue")),
            (b"To: b@far.test\n\nx", ("", "required")),
            (b"From: a@local.test\nTo: b@far.test\nX: \0\n\nx", ("", "controlCharacter")),
            (b"From: a@local.test\nTo: b@far.test\n\nx\0", ("", "controlCharacter")),
            (b"From: a@local.test\nTo: b@far.test\n\n" + b"x" * 1000, ("", "outOfRange")),
            (b"From: a@local.test\n\nx", ("to", "required")),
            (b"From: a@local.test\nTo: nobody@local.test\n\nx", ("", "refused")),
        ]:
            with self.subTest(content=content[:60]):
                self.problem(self.raw(content), 422, *errors)
        self.problem(self.raw(b"From: a@local.test\n\nx", "?to=x"), 422, ("to", "invalidParameter"))
        self.assertEqual(self.sink.deliveries, [])


@only_bridgehead
class Keys(House):
    def test_a_key_is_one_message_whoever_asks_at_once(self):
        m = {"from": "a@local.test", "to": ["b@far.test"], "subject": "once"}
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: self.post(m, Idempotency_Key="order 1"), range(50)))
        self.assertEqual({a.status for a in answers}, {202})
        self.assertEqual(len({a.json["id"] for a in answers}), 1)
        self.assertEqual(sum("idempotency-replayed" not in a.headers for a in answers), 1)
        self.assertEqual(len({json.dumps(a.json, sort_keys=True) for a in answers}), 1, "the same answer")
        self.sink.wait(1)
        again = json.dumps({"to": ["b@far.test"], "subject": "once", "from": "a@local.test"}, indent=3).encode()
        self.assertEqual(self.post(again, Idempotency_Key="order 1").json["id"], answers[0].json["id"], "the order of members means nothing")
        self.problem(self.post({**m, "subject": "other"}, Idempotency_Key="order 1"), 409, ("Idempotency-Key", "idempotencyConflict"))
        self.problem(self.post({"from": "a@local.test", "to": ["no@local.test"]}, Idempotency_Key="order 2"), 422)
        self.assertNotEqual(self.send(m, Idempotency_Key="order 2")["id"], answers[0].json["id"], "what was refused has used no key up")
        self.sink.wait(2)
        self.assertEqual(len(self.sink.deliveries), 2)

    def test_raw_and_batch_have_keys_too(self):
        content = b"From: a@local.test\nTo: b@far.test\n\nx\n"
        first, second = (self.raw(content, Idempotency_Key="r") for _ in range(2))
        self.assertEqual((first.status, second.status, first.json), (202, 202, second.json))
        self.assertEqual(second.headers["idempotency-replayed"], "true")
        self.problem(self.raw(content + b"y", Idempotency_Key="r"), 409)
        message = lambda n: {"from": "a@local.test", "to": [f"b{n}@far.test"], "text": str(n)}
        items = [{"message": message(n), "idempotencyKey": f"b{n % 100}"} for n in range(150)]
        items += [{"message": {"from": "a@local.test", "to": ["no@local.test"]}}, {"message": {**message(1), "subject": "x"}, "idempotencyKey": "b1"},
                  {"message": message(1), "idempotencyKey": "\n"}]
        a = self.post({"messages": items}, "/api/v1/messages/batch")
        self.assertEqual((a.status, a.json["accepted"], a.json["refused"]), (200, 100, 53), a)
        got = a.json["items"]
        self.assertEqual({i["status"] for i in got[:100]}, {202})
        self.assertEqual({i["status"] for i in got[100:150]}, {409}, "the same key, another text")
        self.assertEqual([i["status"] for i in got[150:]], [422, 409, 422])
        self.assertEqual(got[150]["problem"]["errors"][0]["pointer"], "/message/to/0")
        again = self.post({"messages": items}, "/api/v1/messages/batch").json["items"]
        self.assertEqual([i["message"]["id"] for i in again[:100]], [i["message"]["id"] for i in got[:100]])
        self.assertTrue(all(i["replayed"] for i in again[:100]))
        self.sink.wait(101)
        self.assertEqual(len(self.sink.deliveries), 101)
        self.problem(self.post({"messages": []}, "/api/v1/messages/batch"), 422, ("/messages", "required"))
        self.problem(self.post({"messages": items[:1] * 501}, "/api/v1/messages/batch"), 422)
        self.problem(self.post({"messages": items[:1]}, "/api/v1/messages/batch", Idempotency_Key="x"), 400)

    def test_a_paused_server_takes_nothing_but_tells_what_it_took(self):
        m = {"from": "a@local.test", "to": ["b@far.test"]}
        first = self.send(m, Idempotency_Key="p")
        self.sink.wait(1)
        self.it.rest.ok("POST", "/api/v1/virtual-servers/default/pause")
        a = self.post(m)
        self.assertEqual((a.status, a.headers["retry-after"]), (503, "30"), a)
        self.assertEqual(self.send(m, Idempotency_Key="p")["id"], first["id"])
        self.it.rest.ok("POST", "/api/v1/virtual-servers/default/resume")
        wait_for("mail is taken again", lambda: self.post(m).status == 202)
