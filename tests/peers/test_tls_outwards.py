"""TLS as the owners of next hops ask for it: TLSA records in a signed zone of a real name server (RFC 7672), MTA-STS policies on an
HTTPS server (RFC 8461), Postfix as the hop. Each trap is a row: what reaches Postfix counts, and how.
"""

import http.server
import re
import ssl
import threading
import time
import unittest

import signedzone
from authority import Authority, tlsa
from harness import make_sut, only_bridgehead, wait_for
from load import Smtp, message, new_id
from postfix import Postfix
from signedzone import SignedDns
from sink import Sink

HOP, IN_CLEAR, WEB = "127.0.0.1", "127.0.0.12", "127.0.0.21"
WRONG = "3 1 1 " + "0" * 64

# MX hosts whose names the certificate of the hop has
NAMED = ["issuer", "issuer-full", "issuer-chain", "sts", "sts-testing", "sts-none", "sts-changed", "sts-unreachable", "signed", "floor"]


def hosts(domain, address=HOP, mx=None):
    mx = mx or f"mx.{domain}.test."
    return [f"{domain}.test. MX 10 {mx}", f"mx.{domain}.test. A {address}"]


def records(port, chain, authority):
    """The rows by DANE: domain, its records, what is to come of it, what `explain` says of TLS or why it waits."""
    def at(domain, *data):
        return [f"_{port}._tcp.mx.{domain}.test. TLSA {one}" for one in data]

    right = tlsa(3, 1, 1, chain)
    dane = ("dane", "dane")
    return [
        ("key", hosts("key") + at("key", right), "encrypted", dane),
        ("certificate", hosts("certificate") + at("certificate", tlsa(3, 0, 2, chain)), "encrypted", dane),
        ("whole", hosts("whole") + at("whole", tlsa(3, 1, 0, chain)), "encrypted", dane),
        ("rollover", hosts("rollover") + at("rollover", WRONG, right), "encrypted", dane),
        ("either", hosts("either") + at("either", tlsa(2, 0, 1, chain), right), "encrypted", dane),
        ("wrong", hosts("wrong") + at("wrong", WRONG), "waits", "no TLSA record fits"),
        ("issuer", hosts("issuer") + at("issuer", tlsa(2, 0, 1, authority)), "encrypted", dane),
        ("issuer-full", hosts("issuer-full") + at("issuer-full", tlsa(2, 0, 0, authority)), "encrypted", dane),
        ("issuer-name", hosts("issuer-name") + at("issuer-name", tlsa(2, 0, 1, authority)), "waits", "certificate not valid for name"),
        ("issuer-is-leaf", hosts("issuer-is-leaf") + at("issuer-is-leaf", tlsa(2, 1, 1, chain)), "waits", "no TLSA record fits"),
        ("public-ca", hosts("public-ca") + at("public-ca", tlsa(0, 0, 1, authority), tlsa(1, 1, 1, chain)), "encrypted", ("required", "dane")),
        ("short", hosts("short") + at("short", right[:-2]), "encrypted", ("required", "dane")),
        ("none", hosts("none"), "encrypted", ("opportunistic", "builtIn")),
        ("in-clear", hosts("in-clear", IN_CLEAR), "clear", ("opportunistic", "builtIn")),
        ("no-starttls", hosts("no-starttls", IN_CLEAR) + at("no-starttls", right), "waits", "does not offer STARTTLS"),
        ("no-starttls-unusable", hosts("no-starttls-unusable", IN_CLEAR) + at("no-starttls-unusable", tlsa(1, 1, 1, chain)), "waits",
         "does not offer STARTTLS"),
        # the alias has none, the name behind it has
        ("alias", [f"alias.test. MX 10 mx.alias.test.", "mx.alias.test. CNAME mx.key.test."], "encrypted", dane),
        ("alias-wrong", [f"alias-wrong.test. MX 10 mx.alias-wrong.test.", "mx.alias-wrong.test. CNAME mx.wrong.test."] + at("alias-wrong", right),
         "waits", "no TLSA record fits"),
        ("tlsa-alias", hosts("tlsa-alias") + [f"_{port}._tcp.mx.tlsa-alias.test. CNAME _{port}._tcp.mx.key.test."], "encrypted", dane),
        ("tlsa-elsewhere", hosts("tlsa-elsewhere") + [f"_{port}._tcp.mx.tlsa-elsewhere.test. CNAME _{port}._tcp.mx.plain.test."],
         "encrypted", ("opportunistic", "builtIn")),
        ("wildcard", hosts("wildcard") + [f"*._tcp.mx.wildcard.test. TLSA {right}"], "encrypted", dane),
        ("wildcard-wrong", hosts("wildcard-wrong") + [f"*._tcp.mx.wildcard-wrong.test. TLSA {WRONG}"], "waits", "no TLSA record fits"),
        ("a.wild", ["*.wild.test. MX 10 mx.key.test."], "encrypted", dane),
        ("other-port", hosts("other-port") + [f"_{port + 1}._tcp.mx.other-port.test. TLSA {WRONG}"], "encrypted", ("opportunistic", "builtIn")),
        # neither the MX records of a zone nor the address of a host that nobody vouches for count
        ("insecure-host", [f"insecure-host.test. MX 10 mx.plain.test."], "encrypted", ("opportunistic", "builtIn")),
        ("plain", [], "encrypted", ("opportunistic", "builtIn")),
        ("forged-mx", [], "waits", "DNSSEC"),
        ("forged-host", ["forged-host.test. MX 10 mx.forged-host.test."], "waits", "DNSSEC"),
        # the wildcard beside it stands for other names
        ("forged-tlsa", hosts("forged-tlsa") + [f"*._tcp.mx.forged-tlsa.test. TLSA {right}"], "waits", "cannot be known now"),
        # the next host in the order is good
        ("second", ["second.test. MX 10 mx.wrong.test.", "second.test. MX 20 mx.key.test."], "encrypted", dane),
        # no MX: the domain is the host
        ("implicit", ["implicit.test. A 127.0.0.1", f"_{port}._tcp.implicit.test. TLSA {right}"], "encrypted", dane),
        ("implicit-wrong", ["implicit-wrong.test. A 127.0.0.1", f"_{port}._tcp.implicit-wrong.test. TLSA {WRONG}"], "waits", "no TLSA record fits"),
    ]


class Policies:
    """An HTTPS server; `texts` by domain: a policy, or a status."""

    def __init__(self, authority, names):
        self.texts, self.asked = {}, []
        key, chain = authority.issue(names)
        owner = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                host = self.headers["Host"].split(":")[0]
                owner.asked.append((host, self.path))
                text = owner.texts.get(host.removeprefix("mta-sts."), 404) if self.path == "/.well-known/mta-sts.txt" else 404
                self.send_response(text if isinstance(text, int) else 200)
                if text == 302:
                    self.send_header("Location", "https://mta-sts.sts.test/.well-known/mta-sts.txt")
                body = b"" if isinstance(text, int) else text.encode()
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer((WEB, 443), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def policy(mode, *mx, max_age=86400):
    return f"version: STSv1\r\nmode: {mode}\r\n" + "".join(f"mx: {one}\r\n" for one in mx) + f"max_age: {max_age}\r\n"


STS = ["sts", "sts-short", "sts-elsewhere", "sts-name", "sts-testing", "sts-none", "sts-unreachable", "sts-redirect", "sts-certificate", "sts-dane"]


@only_bridgehead
class TlsOutwards(unittest.TestCase):
    nsec3 = False

    @classmethod
    def setUpClass(cls):
        if reason := signedzone.why_not():
            raise unittest.SkipTest(reason)
        authority = Authority()
        key, chain = authority.issue([f"mx.{name}.test" for name in NAMED])
        cls.hop = Postfix("hop-dane", {"smtpd_tls_security_level": "may", "smtpd_tls_key_file": key, "smtpd_tls_cert_file": chain,
                                       "smtpd_tls_received_header": "yes"}, mailbox_domain="nobody.test")
        cls.addClassCleanup(cls.hop.destroy)
        cls.hop.start()
        cls.port = cls.hop.port
        cls.rows = records(cls.port, chain, authority.certificate)
        cls.hop.settings["virtual_mailbox_domains"] = ", ".join([f"{row[0]}.test" for row in cls.rows] + [f"{name}.test" for name in STS + NAMED])
        cls.hop.reload()
        cls.sink = Sink(host=IN_CLEAR, port=cls.port)
        cls.addClassCleanup(cls.sink.close)

        zone = [record for _, lines, *_ in cls.rows for record in lines]
        for name in STS:
            zone += hosts(name) + [f'_mta-sts.{name}.test. TXT "v=STSv1; id=1;"', f"mta-sts.{name}.test. A {WEB}"]
        zone += [f"_{cls.port}._tcp.mx.sts-dane.test. TLSA {tlsa(3, 1, 1, chain)}"] + hosts("signed") + hosts("floor")
        right, wrong = tlsa(3, 1, 1, chain), f"_{cls.port}._tcp.mx.plain.test. TLSA {WRONG}"
        forged = {
            "forged-mx.test. MX 10 mx.wrong.test.": "10 mx.key.test.",
            "mx.forged-host.test. A 127.0.0.9": HOP,
            f"_{cls.port}._tcp.mx.forged-tlsa.test. TLSA {WRONG}": right,
        }
        plain = ["plain.test. MX 10 mx.wrong.test.", "mx.plain.test. A 127.0.0.1", wrong]
        cls.dns = SignedDns(zone, forged, {"plain.test.": plain}, nsec3=cls.nsec3)
        cls.addClassCleanup(cls.dns.close)

        cls.web = Policies(authority, [f"mta-sts.{name}.test" for name in STS if name != "sts-certificate"])
        cls.addClassCleanup(cls.web.close)
        cls.web.texts = {
            "sts.test": policy("enforce", "mx.sts.test"), "sts-short.test": policy("enforce", "other.test", max_age=4), "sts-elsewhere.test": policy("enforce", "other.test"),
            "sts-name.test": policy("enforce", "*.sts-name.test"), "sts-testing.test": policy("testing", "other.test"),
            "sts-none.test": policy("none"), "sts-unreachable.test": 503, "sts-redirect.test": 302,
            "sts-certificate.test": policy("enforce", "other.test"), "sts-dane.test": policy("enforce", "other.test"),
        }
        cls.env = {"BRIDGEHEAD_DNSSEC_TRUST_ANCHORS": cls.dns.anchors, "SSL_CERT_FILE": authority.certificate}
        cls.it = make_sut("outwards", env=cls.env).start()
        cls.addClassCleanup(cls.it.destroy)
        cls.it.relay_for("127.0.0.0/8")
        cls.it.quick_retries("1s")
        cls.it.server(dnsServers=[cls.dns.address], outbound={"port": cls.port, "timeout": "10s"})

    def setUp(self):
        self.connector()

    def connector(self, **security):
        self.it.rest.ok("PUT", "/api/v1/connectors/default",
                        {"spec": {"addressSpaces": [{"pattern": "*", "cost": 1}], "route": {"dns": {}}, "security": security}})

    def send(self, domain):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", [f"to@{domain}.test"], message(id, 1000))
        return id

    def found(self, id):
        return [m for m in self.hop.maildir().messages() if id.encode() in m]

    def hop_of(self, domain):
        """What `explain` says of the first hop."""
        item = self.it.rest.ok("POST", "/api/v1/explain", {"sender": "sender@local.test", "recipient": f"to@{domain}.test"})["items"][0]
        return item["nextHops"][0]["tls"] if item["nextHops"] else None

    def judge(self, domain, outcome, words, queue=None):
        id = self.send(domain)
        if outcome == "encrypted":
            copy = wait_for(f"mail for {domain}", lambda: self.found(id), 20)[0]
            self.assertIn(b"(using TLSv1.3 with cipher", re.sub(rb"\s+", b" ", copy.split(b"X-Test-Id")[0]))
        elif outcome == "clear":
            self.assertEqual(self.sink.wait_accepted([id], 20), set())
        else:
            waits = lambda: self.it.queue(queue or f"dns:default:{domain}.test") or {}

            def why():
                error = waits().get("lastError")
                self.assertRegex((error or {}).get("diagnostic", ""), words)
                return error
            error = wait_for(f"why mail for {domain} waits", why, 30)
            self.assertTrue(error["status"].startswith("4."), error)
            time.sleep(1.5)
            self.assertEqual(self.found(id), [], domain)
            self.assertEqual([d for d in self.sink.deliveries if d.id == id], [], domain)
            return
        if isinstance(words, tuple):
            tls = self.hop_of(domain)
            if domain == "second":
                return
            self.assertEqual((tls["tls"], tls["source"]), words, (domain, tls))

    def test_each_row_by_dane(self):
        for domain, _, outcome, words in self.rows:
            with self.subTest(domain=domain):
                self.judge(domain, outcome, words)

    def test_dane_and_nothing_less(self):
        self.connector(tls="dane")
        for domain, outcome, words in (
                ("key", "encrypted", ("dane", "connector")), ("none", "waits", "has no TLSA record"), ("public-ca", "waits", "can be used"),
                ("plain", "waits", "has no TLSA record"), ("insecure-host", "waits", "has no TLSA record"), ("in-clear", "waits", "has no TLSA record"),
                ("wrong", "waits", "no TLSA record fits")):
            with self.subTest(domain=domain):
                self.judge(domain, outcome, words)

    def test_smart_hosts(self):
        self.addCleanup(self.it.rest.call, "DELETE", "/api/v1/connectors/hub")
        for host, security, outcome, words in (
                ("mx.key.test", {}, "encrypted", ("dane", "dane")), ("mx.key.test", {"tls": "dane"}, "encrypted", ("dane", "connector")),
                ("mx.wrong.test", {}, "waits", "no TLSA record fits"), ("mx.none.test", {"tls": "dane"}, "waits", "has no TLSA record"),
                ("mx.alias.test", {"tls": "dane"}, "encrypted", ("dane", "connector"))):
            with self.subTest(host=host, security=security):
                self.it.rest.ok("PUT", "/api/v1/connectors/hub", {"spec": {
                    "addressSpaces": [{"pattern": "none.test", "cost": 1}], "route": {"smartHosts": [{"host": host, "port": self.port}]},
                    "security": security}})
                self.judge("none", outcome, words, "smarthost:hub")

    def test_not_honoured(self):
        self.connector(honourDane=False)
        for domain in ("wrong", "forged-tlsa", "issuer-name"):
            with self.subTest(domain=domain):
                self.judge(domain, "encrypted", ("opportunistic", "builtIn"))
        self.judge("no-starttls", "clear", ("opportunistic", "builtIn"))

    def test_the_name_of_a_signed_mx_is_what_is_verified(self):
        self.connector(tls="verified")
        self.judge("signed", "encrypted", ("verified", "connector"))
        self.assertEqual(self.hop_of("signed")["verifies"], "mx.signed.test")
        self.assertEqual(self.hop_of("plain")["verifies"], "plain.test")

    def test_each_row_by_mta_sts(self):
        opportunistic = ("opportunistic", "builtIn")
        for domain, outcome, words in (
                ("sts", "encrypted", ("verified", "mtaSts")), ("sts-elsewhere", "waits", "does not name the host"),
                ("sts-name", "waits", "certificate not valid for name"), ("sts-testing", "encrypted", opportunistic),
                ("sts-none", "encrypted", opportunistic), ("sts-unreachable", "encrypted", opportunistic),
                ("sts-redirect", "encrypted", opportunistic), ("sts-certificate", "encrypted", opportunistic),
                ("sts-dane", "encrypted", ("dane", "dane"))):
            with self.subTest(domain=domain):
                self.judge(domain, outcome, words)
        self.assertEqual(self.hop_of("sts")["mtaSts"], "enforce")
        self.assertEqual((self.hop_of("sts-testing")["mtaSts"], self.hop_of("sts-testing")["namedByPolicy"]), ("testing", False))
        # what was learned holds, over a restart too, for as long as it said
        self.judge("sts-short", "waits", "does not name the host")
        self.web.texts["sts.test"] = self.web.texts["sts-short.test"] = self.web.texts["sts-elsewhere.test"] = 503
        self.it.terminate()
        self.it.start()
        asked = len(self.web.asked)
        self.judge("sts", "encrypted", ("verified", "mtaSts"))
        self.assertEqual(self.hop_of("sts-elsewhere")["mtaSts"], "enforce")
        self.assertEqual(len(self.web.asked), asked)
        wait_for("the end of the short one", lambda: "mtaSts" not in self.hop_of("sts-short"), 10)
        self.connector(honourMtaSts=False)
        self.judge("sts-elsewhere", "encrypted", opportunistic)

    def test_a_floor_by_remote_domain(self):
        self.it.rest.ok("PUT", "/api/v1/remote-domains/floor", {"spec": {"pattern": "*.test", "tls": "required"}})
        self.it.rest.ok("PUT", "/api/v1/remote-domains/none", {"spec": {"pattern": "none.test", "tls": "dane"}})
        self.addCleanup(lambda: [self.it.rest.ok("DELETE", f"/api/v1/remote-domains/{name}") for name in ("floor", "none")])
        self.connector(tls="none")
        self.judge("floor", "encrypted", ("required", "remoteDomain"))
        self.judge("in-clear", "waits", "does not offer STARTTLS")
        self.judge("none", "waits", "has no TLSA record")
        again = self.it.rest.call("PUT", "/api/v1/remote-domains/again", {"spec": {"pattern": "*.test"}})
        self.assertEqual((again.status, again.json["errors"][0]["code"]), (422, "duplicate"))


class TlsOutwardsByNsec3(TlsOutwards):
    """What is not there is denied by hashes (RFC 5155)."""
    nsec3 = True

    test_not_honoured = test_the_name_of_a_signed_mx_is_what_is_verified = None
    test_each_row_by_mta_sts = test_a_floor_by_remote_domain = test_smart_hosts = None


@only_bridgehead
class NoSignatures(unittest.TestCase):
    """A name server that hands no signatures on, or whose root is another's: mail goes as ever, but with `tls: dane`."""

    def test_mail_goes_as_ever(self):
        if reason := signedzone.why_not():
            raise unittest.SkipTest(reason)
        sink = Sink(host=IN_CLEAR)
        self.addCleanup(sink.close)
        with SignedDns(hosts("a", IN_CLEAR) + [f"_{sink.port}._tcp.mx.a.test. TLSA {WRONG}"]) as dns:
            it = make_sut("no-signatures").start()      # it trusts the root of the world
            self.addCleanup(it.destroy)
            it.relay_for("127.0.0.0/8")
            it.server(dnsServers=[dns.address], outbound={"port": sink.port})
            id = new_id()
            with Smtp(it.smtp_port) as c:
                c.transaction("sender@local.test", ["to@a.test"], message(id, 1000))
            self.assertEqual(sink.wait_accepted([id], 20), set())
