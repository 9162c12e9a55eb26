"""Postfix as a next hop that takes mail in TLS from who has logged in, and from nobody else: by STARTTLS and in implicit TLS, by
each mechanism, its certificate checked. What it writes into its trace field says what it saw.
"""

import os
import re
import subprocess
import unittest

import dovecot
from dovecot import PASSWORD, Dovecot
from harness import make_sut, only_bridgehead, wait_for, workdir
from load import Smtp, message, new_id
from postfix import MASTER, Postfix

USER = "ada@local.test"
MECHANISMS = {"plain": "PLAIN", "login": "LOGIN", "scramSha256": "SCRAM-SHA-256"}


def pair():
    """Key and certificate for 127.0.0.1, as files that Postfix may read."""
    where = workdir("secure-hops")
    key, chain = os.path.join(where, "key.pem"), os.path.join(where, "chain.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=postfix.test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    return key, chain


@only_bridgehead
class SecureHops(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := dovecot.why_not():
            raise unittest.SkipTest(reason)
        cls.logins = Dovecot([USER]).start()
        os.chmod(cls.logins.dir, 0o755)
        key, chain = pair()
        with open(chain) as f:
            cls.ca = f.read()
        settings = {
            "smtpd_tls_security_level": "encrypt", "smtpd_tls_key_file": key, "smtpd_tls_cert_file": chain,
            "smtpd_tls_auth_only": "yes", "smtpd_tls_received_header": "yes", "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": cls.logins.auth, "smtpd_sasl_authenticated_header": "yes",
            # its own domain too is for those alone who have logged in
            "smtpd_client_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
        }
        implicit = MASTER.replace("       smtpd\n", "       smtpd\n  -o smtpd_tls_wrappermode=yes\n", 1)
        cls.hops = {
            "starttls": Postfix("hop-starttls", settings, mailbox_domain="starttls.test").start(),
            "implicit": Postfix("hop-implicit", settings, mailbox_domain="implicit.test", master_cf=implicit),
        }
        cls.hops["implicit"].listening = lambda: True      # it greets in TLS only
        cls.hops["implicit"].start()

    @classmethod
    def tearDownClass(cls):
        for hop in cls.hops.values():
            hop.destroy()
        cls.logins.stop()

    def setUp(self):
        self.it = make_sut("secure").start()
        self.addCleanup(self.it.destroy)
        self.it.relay_for("127.0.0.0/8")
        self.it.quick_retries("1s")

    def connect(self, tls, mechanism="plain", password=PASSWORD, security=None):
        """A connector `out` to the Postfix for this way; it replaces the one before."""
        spec = {"addressSpaces": [{"pattern": f"{tls}.test", "cost": 1}],
                "route": {"smartHosts": [{"host": "127.0.0.1", "port": self.hops[tls].port, "tls": tls}]},
                "security": security or {"tls": "verified", "ca": {"value": self.ca}}}
        if mechanism:
            spec["authentication"] = {"mechanism": mechanism, "username": USER, "password": {"value": password}}
        self.it.rest.ok("PUT", "/api/v1/connectors/out", {"spec": spec})

    def send(self, tls):
        id = new_id()
        with Smtp(self.it.smtp_port) as c:
            c.transaction("sender@local.test", [f"to@{tls}.test"], message(id, 2000))
        return id

    def found(self, tls, id):
        return [m for m in self.hops[tls].maildir().messages() if id.encode() in m]

    def why_it_waits(self):
        queue = wait_for("a failure", lambda: (self.it.queue("smarthost:out") or {}).get("lastError") and self.it.queue("smarthost:out"), 20)
        return queue["lastError"]

    def test_mail_is_taken_by_every_way_and_mechanism(self):
        for tls, hop in self.hops.items():
            for mechanism in MECHANISMS:
                with self.subTest(tls=tls, mechanism=mechanism):
                    self.connect(tls, mechanism)
                    id = self.send(tls)
                    copy = wait_for(f"{id} in {tls}", lambda: self.found(tls, id), 20)[0]
                    trace = re.sub(rb"\s+", b" ", copy.split(b"X-Test-Id")[0])
                    self.assertIn(b"(using TLSv1.3 with cipher", trace)
                    self.assertIn(b"(Authenticated sender: " + USER.encode() + b")", trace)
                    self.assertIn(b"with ESMTPSA id", trace)
                    self.assertRegex(hop.log_text(), f"sasl_method={MECHANISMS[mechanism]}, sasl_username={USER}")

    def test_without_a_login_or_with_a_wrong_one_mail_waits(self):
        """Without the first row those above could pass with a Postfix that takes mail from everybody."""
        for mechanism, password, words in (("plain", "wrong", "4.7.8"), ("login", "wrong", "4.7.8"), ("scramSha256", "wrong", "4.7.8")):
            with self.subTest(mechanism=mechanism):
                self.it.rest.call("DELETE", "/api/v1/connectors/out")
                self.connect("starttls", mechanism, password)
                id = self.send("starttls")
                error = wait_for("the refusal", lambda: MECHANISMS[mechanism] in str(self.why_it_waits()) and self.why_it_waits(), 20)
                self.assertEqual(error["status"], words, error)
                self.assertIn(f"connector out cannot log in by {MECHANISMS[mechanism]}", error["diagnostic"])
                self.assertEqual(self.found("starttls", id), [])
                # mended, it goes
                self.connect("starttls", mechanism)
                wait_for(f"{id} after all", lambda: self.found("starttls", id), 20)
        self.connect("starttls", None)
        id = self.send("starttls")
        wait_for("a report", lambda: any(m["id"] for m in self.it.messages(state="deadLetter")) or self.it.waiting() == 0, 20)
        self.assertEqual(self.found("starttls", id), [])

    def test_a_certificate_that_is_not_good_gets_nothing(self):
        with open(pair()[1]) as f:
            other = f.read()
        for security in ({"tls": "verified", "ca": {"value": other}}, {"tls": "verified"},
                         {"tls": "verified", "ca": {"value": self.ca}, "serverName": "other.test"}):
            for tls in self.hops:
                with self.subTest(security=list(security), tls=tls):
                    self.it.rest.call("DELETE", "/api/v1/connectors/out")
                    self.connect(tls, security=security)
                    before = self.hops[tls].log_text().count("sasl_method")
                    id = self.send(tls)
                    error = wait_for("the refusal", lambda: self.it.queue("smarthost:out") and self.why_it_waits(), 20)
                    self.assertEqual(error["status"], "4.7.5", error)
                    self.assertEqual(self.found(tls, id), [])
                    self.assertEqual(self.hops[tls].log_text().count("sasl_method"), before, "no credentials were shown")
                    self.connect(tls)
                    wait_for(f"{id} after all", lambda: self.found(tls, id), 20)
