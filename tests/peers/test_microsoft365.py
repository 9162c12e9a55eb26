"""The README's document "A cluster's relay to Microsoft 365", applied as it stands there but for host, port and token endpoint:
a scripted endpoint, and a smart host that does what Microsoft 365 does. It wants STARTTLS, then a token by XOAUTH2 in a line of its
own, and mail that comes from the mailbox alone. Its certificate is good for an issuer that the system trusts.
"""

import base64
import email
import http.server
import json
import os
import re
import socketserver
import ssl
import subprocess
import threading
import unittest
import urllib.parse

from harness import ADMIN_KEY, ROOT, make_sut, only_bridgehead, wait_for, workdir
from load import Smtp

MAILBOX = "noreply@example.com"
SECRET = "the value of the client secret"


def document():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        section = f.read().split("### A cluster's relay to Microsoft 365\n")[1].split("\n### ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.S | re.M)


class Endpoint(http.server.ThreadingHTTPServer):
    """Gives tokens as long as Microsoft's are, numbered; `broken` is a status that it answers instead."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.broken = [], None
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def token(self, number):
        return f"eyJ{number:04}" + "x" * 1_500

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            it = self.server
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            it.asked.append((self.path, dict(urllib.parse.parse_qsl(body))))
            status, kind, answer = 200, "application/json", {"token_type": "Bearer", "expires_in": 3599, "access_token": it.token(len(it.asked))}
            answer = json.dumps(answer)
            if it.broken:
                status, kind, answer = it.broken, "text/html", "<html>Sorry</html>"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())


class Office365(socketserver.ThreadingTCPServer):
    """`taken` are pairs of MAIL FROM and content, `clear` all lines that came in clear; `good` is the token that is let in."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, good):
        where = workdir("office365")
        key, chain, self.ca = (os.path.join(where, name) for name in ("key.pem", "chain.pem", "ca.pem"))
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        for more in (["-subj", "/CN=issuer.test", "-keyout", "issuer.pem", "-out", self.ca],
                     ["-subj", "/CN=office365.test", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
                      "-CA", self.ca, "-CAkey", "issuer.pem", "-keyout", key, "-out", chain]):
            subprocess.run(new + more, check=True, capture_output=True, cwd=where)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(chain, key)
        self.good, self.taken, self.clear, self.refused, self.open = good, [], [], 0, 0
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.server.open += 1
            try:
                self.talk()
            finally:
                self.server.open -= 1

        def talk(self):
            it, self.secure, self.inside = self.server, False, False
            self.stream = self.request.makefile("rwb", 0)
            self.say("220 office365.test Microsoft ESMTP MAIL Service ready")
            sender = None
            while line := self.line():
                verb = line.split(" ")[0].upper()
                if verb == "EHLO":
                    more = "250-AUTH LOGIN XOAUTH2\r\n" if self.secure else "250-STARTTLS\r\n"
                    self.say(f"250-office365.test\r\n{more}250-8BITMIME\r\n250 CHUNKING")
                elif verb == "STARTTLS":
                    self.say("220 2.0.0 SMTP server ready")
                    self.request = it.tls.wrap_socket(self.request, server_side=True)
                    self.stream, self.secure = self.request.makefile("rwb", 0), True
                elif line == "AUTH XOAUTH2" and self.secure:
                    self.say("334 ")
                    shown = base64.b64decode(self.line()).decode()
                    self.inside = shown == f"user={MAILBOX}\x01auth=Bearer {it.good}\x01\x01"
                    it.refused += not self.inside
                    self.say("235 2.7.0 Authentication successful" if self.inside else "535 5.7.3 Authentication unsuccessful")
                elif not self.inside and verb in ("MAIL", "RCPT", "DATA", "AUTH"):
                    self.say("530 5.7.57 Client not authenticated to send mail.")
                elif verb == "MAIL" and f"<{MAILBOX}>" not in line:
                    self.say("550 5.7.60 SMTP; Client does not have permissions to send as this sender")
                elif verb == "MAIL":
                    sender = line
                    self.say("250 2.1.0 Sender OK")
                elif verb == "DATA":
                    self.say("354 Start mail input; end with <CRLF>.<CRLF>")
                    content = []
                    while (line := self.line()) != ".":
                        content.append(line)
                    it.taken.append((sender, email.message_from_string("\n".join(content))))
                    self.say("250 2.0.0 OK [Hostname=office365.test]")
                elif verb == "QUIT":
                    return self.say("221 2.0.0 bye")
                else:
                    self.say("250 2.1.5 ok")

        def line(self):
            line = self.stream.readline().decode().rstrip("\r\n")
            if not self.secure:
                self.server.clear.append(line)
            return line

        def say(self, text):
            self.stream.write(text.encode() + b"\r\n")


@only_bridgehead
class Microsoft365(unittest.TestCase):
    def test_the_document_does_what_it_is_there_for(self):
        endpoint = Endpoint()
        self.addCleanup(endpoint.shutdown)
        host = Office365(endpoint.token(1))
        self.addCleanup(host.shutdown)
        # even the loudest log holds no secret
        env = {"BRIDGEHEAD_SECRETS_DIR": "./secrets", "SSL_CERT_FILE": host.ca, "BRIDGEHEAD_LOG": "trace"}
        it = make_sut("microsoft365", env=env).start()
        self.addCleanup(it.destroy)
        script = f"set -eu -o pipefail\nexport KEY={ADMIN_KEY} API=http://{it.listener('api')}/api/v1\n"
        for block in document():
            for there, here in (("smtp.office365.com", "127.0.0.1"), ('"port": 587', f'"port": {host.server_address[1]}'),
                                ("https://login.microsoftonline.com", f"http://127.0.0.1:{endpoint.server_address[1]}")):
                self.assertEqual(block.count(there), 1, there)
                block = block.replace(there, here)
            script += block
        done = subprocess.run(["bash", "-c", script], cwd=it.dir, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("urn:bridgehead:problem", done.stdout)
        self.assertIn('"reason":"notAskedYet"', done.stdout)

        def send(subject):
            content = f"From: Cron <cron@app.cluster.test>\r\nTo: bob@example.net\r\nSubject: {subject}\r\n\r\nhello\r\n"
            with Smtp(it.smtp_port) as smtp:
                smtp.transaction("cron@app.cluster.test", ["bob@example.net"], content.encode())

        def condition():
            return next(c for c in it.rest.ok("GET", "/api/v1/connectors/default")["status"]["conditions"] if c["type"] == "Authenticated")

        send("first")
        wait_for("the first message", lambda: len(host.taken) == 1)
        sender, mail = host.taken[0]
        self.assertTrue(sender.startswith(f"MAIL FROM:<{MAILBOX}>"), sender)
        self.assertIn(MAILBOX, mail["From"])
        self.assertIn("cron@app.cluster.test", mail["Reply-To"])
        path, form = endpoint.asked[0]
        self.assertEqual(path, "/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token")
        self.assertEqual(form, {"grant_type": "client_credentials", "client_id": "66666666-7777-8888-9999-000000000000",
                                "client_secret": SECRET, "scope": "https://outlook.office365.com/.default"})
        self.assertEqual((condition()["status"], condition()["reason"]), ("true", "loggedIn"), condition())

        # the token is taken back while the endpoint is in trouble: mail waits, says why, and goes when it is over
        host.good, endpoint.broken = endpoint.token(3), 503
        wait_for("the session to end", lambda: host.open == 0)
        send("second")
        error = wait_for("the mail to wait", lambda: (it.queue("smarthost:default") or {}).get("lastError"))
        self.assertEqual(error["status"], "4.7.0", error)
        self.assertIn("connector default has no token to log in with: the token endpoint", error["diagnostic"])
        self.assertIn("answered 503", error["diagnostic"])
        self.assertEqual((condition()["status"], condition()["reason"]), ("false", "endpointAnswer"), condition())
        endpoint.broken = None
        it.retry_now()
        wait_for("the second message", lambda: len(host.taken) == 2)
        self.assertEqual(host.refused, 1)

        # a new secret in the file is in force without a word
        with open(os.path.join(it.dir, "secrets/microsoft365/client-secret"), "w") as f:
            f.write("another secret")
        wait_for("the session to end", lambda: host.open == 0)
        wait_for("the file to be read", lambda: condition()["reason"] == "notAskedYet")
        host.good = endpoint.token(len(endpoint.asked) + 1)
        send("third")
        wait_for("the third message", lambda: len(host.taken) == 3)
        self.assertEqual(endpoint.asked[-1][1]["client_secret"], "another secret")

        self.assertFalse([line for line in host.clear if line.split(" ")[0] in ("AUTH", "MAIL", "DATA")], host.clear)
        log = it.log_text()
        self.assertIn("a token was issued", log)
        for secret in (SECRET, SECRET.replace(" ", "+"), "another secret", "another+secret", "eyJ0001", "eyJ0003",
                       base64.b64encode(f"user={MAILBOX}\x01auth=Bearer eyJ".encode()).decode()[:40]):
            self.assertNotIn(secret, log)


if __name__ == "__main__":
    unittest.main()
