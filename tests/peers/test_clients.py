"""Real clients towards virtual servers for clear, STARTTLS and implicit TLS, each with each SASL mechanism it knows.

A virtual server per way and mechanism, each of which offers that mechanism alone, demands it and lets nobody relay without: what a
client gets through there it got through by that mechanism. What arrived is compared octet for octet with what was sent, below the
trace fields, and the protocol that our trace field names (RFC 3848, RFC 6531) with what the client did.
"""

import base64
import re
import smtplib
import ssl
import unittest

import clients
from clients import LOGIN, NAME, OAUTHBEARER, PASSWORD, PLAIN, SCRAM, USER, XOAUTH2, Case
from harness import make_sut, only_bridgehead, wait_for
from issuer import Issuer
from load import Smtp, new_id
from sink import Sink
from test_split_at_every_byte import PASSES, bound, certificate, server

L = "local.test"
MECHANISMS = {PLAIN: "plain", LOGIN: "login", SCRAM: "scramSha256", XOAUTH2: "xoauth2", OAUTHBEARER: "oauthbearer"}
TOKENS = (XOAUTH2, OAUTHBEARER)
LETTERS = {"clear": "", "starttls": "S", "implicit": "S"}


def content(id, sender, recipient, name):
    """A message with what a client might spoil: dots, blanks at the end of lines, long lines, empty lines, UTF-8."""
    return (
        f"From: {name} <{sender}>\r\nTo: <{recipient}>\r\nSubject: {id}\r\n\twith a second line \r\n"
        f"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{id}@client.test>\r\nX-Test-Id: {id}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        f"Grüße, 你好\r\n.\r\n..\r\n.dot\r\n. \r\nblanks  \r\n\t\r\nFrom here\r\n"
        f"QUIT\r\nRCPT TO:<x>\r\n{'x' * 990}\r\n\r\n\r\nend\r\n\r\n"
    ).encode()


def taken_apart(raw):
    """The trace fields above a message, each unfolded, and what is below."""
    fields = []
    while m := re.match(rb"(?:Return-Path|Delivered-To|Received):[^\r]*\r\n(?:[ \t][^\r]*\r\n)*", raw):
        fields.append(re.sub(r"\s+", " ", m.group().decode()))
        raw = raw[m.end():]
    return fields, raw


@only_bridgehead
class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sink = Sink()
        cls.it = make_sut("clients").start()
        cls.it.route_to(cls.sink.port)
        # a domain per way, by which those that queue choose it
        domains = [L, *(f"{tls}-utf8.test" for tls in PASSES)]
        cls.it.rest.ok("PUT", "/api/v1/recipient-policies/default", {"spec": {"addresses": [
            {"template": f"%m@{d}", "primary": d == L, "authoritative": True} for d in domains]}})
        cls.box = cls.it.mailbox("box", addresses=[f"grüße@{d}" for d in domains])
        cls.it.rest.ok("PUT", "/api/v1/accounts/ada", {"spec": {"username": USER, "password": {"value": PASSWORD}}})
        cls.issuer = Issuer()
        cls.token = cls.issuer.token("smtp", USER)
        cls.it.rest.ok("PUT", "/api/v1/identity-providers/issuer", {"spec": {
            "issuer": cls.issuer.name, "audience": "smtp", "jwksUri": cls.issuer.keys}})
        cls.ca = certificate(cls.it)
        cls.ports = {}
        for tls in PASSES:
            spec = {"tls": {"required": True}} if tls == "starttls" else {}
            cls.ports[tls, None] = server(cls.it, f"{tls}-open", bound(tls), relay={"allow": ["127.0.0.0/8"]}, **spec)
            for mechanism, word in MECHANISMS.items():
                login = {"mechanisms": [word], "required": True, "requireTls": False}
                if mechanism in TOKENS:
                    login["identityProviders"] = ["issuer"]
                cls.ports[tls, mechanism] = server(
                    cls.it, f"{tls}-{word}".lower(), bound(tls), authentication=login, relay={"authenticated": True}, **spec)

    @classmethod
    def tearDownClass(cls):
        cls.it.destroy()
        cls.sink.close()
        cls.issuer.close()

    def cases(self, client):
        """Everything that this client can do."""
        for tls in PASSES:
            if tls == "clear" and client is clients.OpenSsl:
                continue
            for mechanism in (None, *(m for m in MECHANISMS if m in client.mechanisms)):
                name = f"{tls}-{MECHANISMS.get(mechanism, 'open').lower()}"
                yield Case(name, self.ports[tls, mechanism], tls, self.ca, f"u@{name}.test", mechanism,
                           token=self.token if mechanism in TOKENS else None)
            if client.dsn:
                yield Case(f"{tls}-dsn", self.ports[tls, None], tls, self.ca, f"u@{tls}-dsn.test", dsn=True)
            if client.utf8:
                yield Case(f"{tls}-utf8", self.ports[tls, None], tls, self.ca, f"grüße@{tls}-utf8.test",
                           sender="jörg@far.test", utf8=True)

    def everything(self, client):
        if reason := client.available():
            self.skipTest(reason)
        cases = list(self.cases(client))
        c = client(cases)
        self.addCleanup(c.close)
        sent = []
        for case in cases:
            with self.subTest(case=case.name):
                case.id = new_id()
                case.raw = content(case.id, case.sender, case.recipient, "Jörg" if case.utf8 else "Ada")
                c.send(case)
                sent.append(case)
        for case in sent:
            with self.subTest(case=case.name):
                self.arrived(c, case)
        print(f"      {len(sent)} messages: {', '.join(case.name for case in sent)}")

    def arrived(self, client, case):
        if case.utf8:
            mark = f"X-Test-Id: {case.id}\r\n".encode()
            copies = wait_for(f"{case} in the mailbox", lambda: [m for m in self.box.messages() if mark in m], 20)
            fields, below = taken_apart(copies[0])
            self.assertEqual(fields[:2], [f"Return-Path: <{case.sender}> ", f"Delivered-To: {case.recipient} "])
            del fields[:2]
        else:
            self.assertEqual(self.sink.wait_accepted({case.id}, 20), set())
            copies = self.sink.by_id(case.id)
            fields, below = taken_apart(copies[0].content)
            self.assertEqual((copies[0].sender, copies[0].recipients), (case.sender, [case.recipient]))
            self.told_of_dsn(client, case, copies[0])
        self.assertEqual(len(copies), 1)
        self.assertEqual(below, case.raw)
        self.assertEqual(len(fields), client.hops, fields)
        word = ("UTF8SMTP" if case.utf8 else "ESMTP") + LETTERS[case.tls] + ("A" if case.mechanism else "")
        tls = "" if case.tls == "clear" else r" \(TLSv1\.3 \S+\)"
        self.assertRegex(fields[0], rf"^Received: from {re.escape(NAME)} \(.*\) by mx\.local\.example \(Bridgehead\) with {word}{tls} id ")

    def told_of_dsn(self, client, case, copy):
        """The parameters go along to the next hop; without any there is none."""
        mail, rcpt = copy.mail_args.upper().split(), copy.rcpt_args[0].upper().split()
        self.assertEqual("RET=HDRS" in mail, case.dsn, mail)
        self.assertEqual("ENVID=QQ3" in mail, case.dsn and client.envid, mail)
        notify = [set(p.removeprefix("NOTIFY=").split(",")) for p in rcpt if p.startswith("NOTIFY=")]
        self.assertEqual(notify, [{"FAILURE", "DELAY"}] if case.dsn else [], rcpt)

    def test_swaks(self):
        self.everything(clients.Swaks)

    def test_smtplib(self):
        self.everything(clients.Smtplib)

    def test_aiosmtplib(self):
        self.everything(clients.Aiosmtplib)

    def test_nodemailer(self):
        self.everything(clients.Nodemailer)

    def test_msmtp(self):
        self.everything(clients.Msmtp)

    def test_curl(self):
        self.everything(clients.Curl)

    def test_openssl_s_client(self):
        self.everything(clients.OpenSsl)

    def test_postfix(self):
        self.everything(clients.PostfixClient)

    def test_exim(self):
        self.everything(clients.Exim)

    def test_the_servers_let_nobody_in_who_has_not_logged_in(self):
        """Without this the tests above could pass with servers that let everybody in."""
        for (tls, mechanism), port in self.ports.items():
            with self.subTest(tls=tls, mechanism=mechanism):
                context = ssl.create_default_context(cafile=self.ca)
                with (smtplib.SMTP_SSL("127.0.0.1", port, NAME, context=context) if tls == "implicit"
                      else smtplib.SMTP("127.0.0.1", port, NAME)) as c:
                    if tls == "starttls":
                        c.ehlo()
                        self.assertEqual(c.mail("a@far.test")[0], 530)
                        c.starttls(context=context)
                    c.ehlo()
                    self.assertEqual(c.esmtp_features.get("auth", "").split(), [mechanism] if mechanism else [])
                    if mechanism:
                        code, text = c.mail("a@far.test")
                        self.assertEqual((code, text[:5]), (530, b"5.7.0"))

    def test_a_wrong_password_is_refused(self):
        for mechanism in (PLAIN, LOGIN):
            with smtplib.SMTP("127.0.0.1", self.ports["clear", mechanism], NAME) as c:
                c.ehlo()
                c.user, c.password = USER, PASSWORD + "x"
                with self.assertRaises(smtplib.SMTPAuthenticationError) as e:
                    c.auth(mechanism, {PLAIN: c.auth_plain, LOGIN: c.auth_login}[mechanism])
                self.assertEqual((e.exception.smtp_code, e.exception.smtp_error[:5]), (535, b"5.7.8"))
                self.assertEqual(c.mail(USER)[0], 530)

    # What clients are known to stumble over here. Each of these turns red when it is mended; then Postfix gets its SCRAM back.

    def test_the_orcpt_that_postfix_writes_for_an_utf8_address(self):
        """It says rfc822, and has the octets of UTF-8 in xtext; Postfix returns the mail when that is refused."""
        with Smtp(self.ports["clear", None]) as c:
            c.expect("MAIL", 250, line="MAIL FROM:<a@far.test> SMTPUTF8")
            code, text = c.command(f"RCPT TO:<grüße@{L}> ORCPT=rfc822;gr+C3+BC+C3+9Fe@{L}")
        self.assertEqual(code, 250, text)

    def test_scram_asks_for_no_more_iterations_than_cyrus_sasl_does(self):
        """Its limit is 65,536; Postfix and whatever else logs in by it cannot do so over that."""
        with Smtp(self.ports["clear", SCRAM]) as c:
            first = base64.b64encode(f"n,,n={USER},r=0123456789abcdef".encode()).decode()
            _, text = c.expect("AUTH", 334, line=f"AUTH SCRAM-SHA-256 {first}")
        iterations = int(re.search(r",i=(\d+)", base64.b64decode(text).decode()).group(1))
        self.assertLessEqual(iterations, 65_536)
