"""TLS reports (RFC 8460): each thing that can be wrong with the TLS of a domain's hosts, by a signed zone of a real name server, an
HTTPS server of policies and hops of Python's own TLS, is counted by its name, and the reports that follow, by POST and by mail,
are read with Python's email parser, gzip and JSON, and held to the structure that RFC 8460, 4 gives.
"""

import datetime
import email
import email.policy
import gzip
import http.server
import ipaddress
import json
import os
import re
import ssl
import threading
import unittest
import uuid

import signedzone
from authority import Authority, tlsa
from harness import free_port, make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from signedzone import SignedDns
from tlshop import TlsHop

HOP, IN_CLEAR, WEB, OTHER = "127.0.0.1", "127.0.0.12", "127.0.0.21", "127.0.0.13"
WRONG = "3 1 1 " + "0" * 64
RESULTS = {"starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted", "validation-failure",
           "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"}
POLICY = "version: STSv1\r\nmode: {}\r\nmx: {}\r\nmax_age: 86400\r\n"
# domain: its policy (or a status), its hop's address, what is to come of it (policy, result or None), whether its mail is delivered
STS = {
    "good": (POLICY.format("enforce", "mx.good.test"), HOP, ("sts", None), True),
    "elsewhere": (POLICY.format("enforce", "other.test"), HOP, ("sts", "validationFailure"), False),
    "name": (POLICY.format("enforce", "mx.name.test"), HOP, ("sts", "certificateHostMismatch"), False),
    "self-signed": (POLICY.format("enforce", "mx.self-signed.test"), OTHER, ("sts", "certificateNotTrusted"), False),
    "no-starttls": (POLICY.format("enforce", "mx.no-starttls.test"), IN_CLEAR, ("sts", "starttlsNotSupported"), False),
    "testing-good": (POLICY.format("testing", "mx.testing-good.test"), HOP, ("sts", None), True),
    "testing-elsewhere": (POLICY.format("testing", "other.test"), HOP, ("sts", "validationFailure"), True),
    "testing-name": (POLICY.format("testing", "mx.testing-name.test"), HOP, ("sts", "certificateHostMismatch"), True),
    "testing-self-signed": (POLICY.format("testing", "mx.testing-self-signed.test"), OTHER, ("sts", "certificateNotTrusted"), True),
    "testing-clear": (POLICY.format("testing", "mx.testing-clear.test"), IN_CLEAR, ("sts", "starttlsNotSupported"), True),
    "taken-back": ("version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n", HOP, ("noPolicyFound", None), True),
    "unreachable": (503, HOP, ("sts", "stsPolicyFetchError"), True),
    "garbage": ("<html>", HOP, ("sts", "stsPolicyInvalid"), True),
    "web-certificate": (POLICY.format("enforce", "other.test"), HOP, ("sts", "stsWebpkiInvalid"), True),
}
NAMED = ["mx.good.test", "mx.testing-good.test", "mx.key.test", "mx.taken-back.test"]


def hosts(domain, address=HOP):
    return [f"{domain}.test. MX 10 mx.{domain}.test.", f"mx.{domain}.test. A {address}"]


class Web:
    """HTTPS: policies by GET on port 443, and reports by POST on one of their own."""

    def __init__(self, authority):
        self.got, self.status = [], 201
        owner = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                domain = self.headers["Host"].split(":")[0].removeprefix("mta-sts.").removesuffix(".test")
                text = STS[domain][0] if domain in STS and self.path == "/.well-known/mta-sts.txt" else 404
                body = b"" if isinstance(text, int) else text.encode()
                self.answer(text if isinstance(text, int) else 200, body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.got.append((self.path, self.headers, body))
                self.answer(owner.status)

            def answer(self, status, body=b""):
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        key, chain = authority.issue([f"mta-sts.{name}.test" for name in STS if name != "web-certificate"])
        own_key, own_chain = authority.issue(["localhost"])
        self.port = free_port()
        self.servers = []
        for address, port, pair in ((WEB, 443, (chain, key)), ("127.0.0.1", self.port, (own_chain, own_key))):
            server = http.server.ThreadingHTTPServer((address, port), Answer)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*pair)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def valid(test, report, domain, day):
    """RFC 8460, 4.4: what there must be, what there may be, and of which form."""
    test.assertEqual(set(report), {"organization-name", "date-range", "contact-info", "report-id", "policies"})
    test.assertEqual(report["date-range"], {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"})
    test.assertRegex(report["contact-info"], r"^[^@\s]+@[^@\s]+$")
    uuid.UUID(report["report-id"].split("@")[0])
    test.assertTrue(report["policies"])
    for one in report["policies"]:
        test.assertLessEqual({"policy", "summary"}, set(one))
        test.assertLessEqual(set(one), {"policy", "summary", "failure-details"})
        policy = one["policy"]
        test.assertIn(policy["policy-type"], ("tlsa", "sts", "no-policy-found"))
        test.assertEqual(policy["policy-domain"], domain)
        test.assertLessEqual(set(policy), {"policy-type", "policy-string", "policy-domain", "mx-host"})
        for lines in ("policy-string", "mx-host"):
            test.assertTrue(all(isinstance(line, str) for line in policy.get(lines, [])))
        summary = one["summary"]
        test.assertEqual(set(summary), {"total-successful-session-count", "total-failure-session-count"})
        details = one.get("failure-details", [])
        test.assertEqual(sum(d["failed-session-count"] for d in details), summary["total-failure-session-count"])
        for detail in details:
            test.assertIn(detail["result-type"], RESULTS)
            for address in ("sending-mta-ip", "receiving-ip"):
                if address in detail:
                    ipaddress.ip_address(detail[address])
            test.assertLessEqual(set(detail), {"result-type", "sending-mta-ip", "receiving-mx-hostname", "receiving-ip", "failed-session-count",
                                               "failure-reason-code"})


@only_bridgehead
class TlsReports(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := signedzone.why_not():
            raise unittest.SkipTest(reason)
        authority = Authority()
        key, chain = authority.issue(NAMED)
        cls.hop = TlsHop(HOP, 0, chain, key)
        cls.addClassCleanup(cls.hop.close)
        port = cls.hop.port
        other_key, other_chain = Authority("another authority").issue(["mx.self-signed.test", "mx.testing-self-signed.test"])
        cls.other = TlsHop(OTHER, port, other_chain, other_key)
        cls.addClassCleanup(cls.other.close)
        cls.clear = TlsHop(IN_CLEAR, port)
        cls.addClassCleanup(cls.clear.close)
        at = lambda domain, data: [f"_{port}._tcp.mx.{domain}.test. TLSA {data}"]
        cls.rows = {domain: row[2:] for domain, row in STS.items()}
        cls.rows |= {
            "key": (("tlsa", None), True), "wrong": (("tlsa", "certificateNotTrusted"), False), "unusable": (("tlsa", "tlsaInvalid"), True),
            "dane-clear": (("tlsa", "starttlsNotSupported"), False), "forged-tlsa": (("tlsa", "dnssecInvalid"), False),
            "forged-mx": (("tlsa", "dnssecInvalid"), False), "none": (("noPolicyFound", None), True),
            "clear": (("noPolicyFound", "starttlsNotSupported"), True),
        }
        right = tlsa(3, 1, 1, chain)
        zone = hosts("key") + at("key", right) + hosts("wrong") + at("wrong", WRONG) + hosts("unusable") + at("unusable", tlsa(1, 1, 1, chain))
        zone += hosts("dane-clear", IN_CLEAR) + at("dane-clear", right) + hosts("none") + hosts("clear", IN_CLEAR)
        zone += ["mx.forged-mx.test. A 127.0.0.1"] + hosts("forged-tlsa") + hosts("reports")
        for domain, (_, address, _, _) in STS.items():
            zone += hosts(domain, address) + [f'_mta-sts.{domain}.test. TXT "v=STSv1; id=1;"', f"mta-sts.{domain}.test. A {WEB}"]
        cls.web = Web(authority)
        cls.addClassCleanup(cls.web.close)
        https = f"https://localhost:{cls.web.port}"
        for domain, rua in (("wrong", f"mailto:r@wrong.test,{https}/wrong"), ("testing-name", f"mailto:r@reports.test,{https}/testing-name"),
                            ("good", f"{https}/good"), ("name", "mailto:r@reports.test"), ("none", f"{https}/later"), ("clear", "ftp://clear.test/")):
            zone.append(f'_smtp._tls.{domain}.test. TXT "v=TLSRPTv1; rua={rua}"')
        forged = {"forged-mx.test. MX 10 mx.wrong.test.": "10 mx.key.test.", f"_{port}._tcp.mx.forged-tlsa.test. TLSA {WRONG}": right}
        cls.dns = SignedDns(zone, forged)
        cls.addClassCleanup(cls.dns.close)
        env = {"BRIDGEHEAD_DNSSEC_TRUST_ANCHORS": cls.dns.anchors, "SSL_CERT_FILE": authority.certificate}
        cls.it = make_sut("tls-reports", env=env).start()
        cls.addClassCleanup(cls.it.destroy)
        cls.it.relay_for("127.0.0.0/8")
        cls.it.quick_retries("1h")
        cls.it.server(dnsServers=[cls.dns.address], outbound={"port": port, "timeout": "10s"})
        cls.it.rest.ok("PUT", "/api/v1/connectors/default", {"spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}}})
        cls.settings(enabled=False)

    @classmethod
    def settings(cls, **reporting):
        cls.it.rest.ok("PUT", "/api/v1/settings", {"spec": {"organization": "Tests & Co", "tlsReporting": {"contact": "tls@local.test", **reporting}}})

    def listed(self, domain):
        items = self.it.rest.ok("GET", f"/api/v1/tls-reports?domain={domain}.test")["items"]
        return items[-1] if items else None

    def taken(self, id):
        return [m for hop in (self.hop, self.other, self.clear) for m in hop.taken if f"X-Test-Id: {id}\r\n".encode() in m[2]]

    def test_what_fails_is_counted_by_its_name_and_reported(self):
        ids = {domain: new_id() for domain in self.rows}
        with Smtp(self.it.smtp_port) as c:
            for domain, id in ids.items():
                c.transaction("sender@local.test", [f"to@{domain}.test"], message(id, 500))
        for domain, ((kind, result), delivered) in self.rows.items():
            with self.subTest(domain=domain):
                item = wait_for(f"{domain} to be counted", lambda: self.listed(domain), 60)
                policies = {(p["type"], *(d["result"] for d in p["details"])) for p in item["policies"]}
                self.assertEqual(policies, {(kind, result) if result else (kind,)}, item)
                self.assertEqual((item["successes"] > 0, item["failures"] > 0), (result is None, result is not None), item)
                if delivered:
                    self.assertEqual(len(wait_for(f"mail for {domain}", lambda: self.taken(ids[domain]), 20)), 1)
                else:
                    self.assertEqual(self.taken(ids[domain]), [])
                for detail in item["policies"][0]["details"]:
                    if domain != "forged-mx":
                        self.assertEqual((detail["host"], detail["receivingAddress"]), (f"mx.{domain}.test", STS[domain][1] if domain in STS else detail["receivingAddress"]))
        self.assertEqual(self.listed("good")["policies"][0]["lines"], ["version: STSv1", "mode: enforce", "mx: mx.good.test", "max_age: 86400"])

        # a day passes: what was counted today was counted yesterday
        self.it.terminate()
        directory = os.path.join(self.it.data, "tls-reports")
        today = [name for name in os.listdir(directory) if name.endswith(".json")][0]
        day = (datetime.date.fromisoformat(today.removesuffix(".json")) - datetime.timedelta(days=1)).isoformat()
        os.rename(os.path.join(directory, today), os.path.join(directory, f"{day}.json"))
        self.it.start()
        send = lambda domain: self.it.rest.ok("POST", f"/api/v1/tls-reports/{domain}.test/send")
        report = lambda domain: self.listed(domain).get("report") or {}
        ended = lambda domain: wait_for(f"the end of {domain}", lambda: report(domain).get("state") not in (None, "waiting") and report(domain), 20)

        # nobody's request is made to an address of our own network
        send("good")
        wait_for("a try", lambda: report("good").get("attempts") == 1, 20)
        self.assertEqual((report("good")["state"], self.web.got), ("waiting", []))
        self.assertIn("leads only to addresses that nothing is sent to", report("good")["destinations"][0]["reason"])

        self.settings(enabled=False, allowPrivateAddresses=True)
        for domain in ("good", "wrong", "testing-name", "name"):
            send(domain)
            self.assertEqual(ended(domain)["state"], "sent", report(domain))
        send("clear")
        self.assertEqual(ended("clear")["state"], "notWanted")
        send("key")
        self.assertEqual(ended("key")["state"], "notWanted")
        posted = {path: (headers, body) for path, headers, body in self.web.got}
        self.assertEqual(set(posted), {"/good", "/wrong", "/testing-name"})
        for path, (headers, body) in posted.items():
            self.assertEqual(headers["Content-Type"], "application/tlsrpt+gzip")
            valid(self, json.loads(gzip.decompress(body)), f"{path[1:]}.test", day)

        # the queue of a domain whose TLS fails rests; at its next try the report goes first, and alone
        self.it.quick_retries("1s")
        self.it.rest.ok("POST", "/api/v1/queues/dns:default:wrong.test/retry")
        # by mail, also to the domain whose TLS is what fails
        for domain, to in (("wrong", "r@wrong.test"), ("testing-name", "r@reports.test"), ("name", "r@reports.test")):
            about = f"TLS-Report-Domain: {domain}.test".encode()
            sender, recipients, content = wait_for(f"the mail about {domain}", lambda: [m for m in self.hop.taken if about in m[2]], 30)[0]
            self.assertEqual((recipients, sender.split("@")[0]), ([to], "postmaster"))
            mail = email.message_from_bytes(content, policy=email.policy.default)
            self.assertEqual((mail.get_content_type(), mail["Content-Type"].params["report-type"]), ("multipart/report", "tlsrpt"))
            self.assertRegex(mail["Subject"], rf"^Report Domain: {re.escape(domain)}\.test Submitter: \S+ Report-ID: <[^<>\s]+>$")
            self.assertTrue(mail["TLS-Report-Submitter"] and mail["Date"] and mail["Message-ID"] and mail["Auto-Submitted"])
            words, attached = mail.iter_parts()
            self.assertEqual((words.get_content_type(), attached.get_content_type()), ("text/plain", "application/tlsrpt+gzip"))
            begin = int(datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
            self.assertEqual(attached.get_filename(), f"{mail['TLS-Report-Submitter']}!{domain}.test!{begin}!{begin + 86399}.json.gz")
            told = json.loads(gzip.decompress(attached.get_content()))
            valid(self, told, f"{domain}.test", day)
            self.assertEqual((told["organization-name"], told["contact-info"]), ("Tests & Co", "tls@local.test"))
            self.assertIn(told["report-id"], mail["Subject"])
            if f"/{domain}" in posted:
                self.assertEqual(told, json.loads(gzip.decompress(posted[f"/{domain}"][1])))
        # what waits for the same domain still waits, and was not carried in the session of the report
        self.assertEqual(self.taken(ids["wrong"]), [])
        # sessions of reports are not counted: those for wrong.test today would be
        self.assertEqual([i for i in self.it.rest.ok("GET", "/api/v1/tls-reports?domain=wrong.test")["items"] if i["day"] != day and i["successes"]], [])

        # what fails is tried again later, what is refused or leads elsewhere is not
        for status, state in ((503, "waiting"), (404, "failed"), (302, "failed")):
            self.web.status, self.web.got = status, []
            send("none")
            wait_for("a try", lambda: report("none").get("attempts") == 1, 20)
            self.assertEqual((report("none")["state"], len(self.web.got)), (state, 1), report("none"))
        self.assertEqual(self.web.got[0][0], "/later")
