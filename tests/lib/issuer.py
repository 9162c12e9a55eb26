"""An issuer of tokens as OAuth and OpenID Connect have them: a key set by HTTP, and JSON Web Tokens signed with its key (RS256)."""

import base64
import http.server
import json
import os
import subprocess
import threading
import time

from harness import workdir


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Issuer:
    """`keys` is where the key set is, `name` what stands as `iss` in a token."""

    name = "https://issuer.test/"

    def __init__(self):
        self.key = os.path.join(workdir("issuer"), "key.pem")
        self.openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.key)
        modulus = self.openssl("rsa", "-in", self.key, "-noout", "-modulus").decode().strip().split("=")[1]
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
        body = json.dumps({"keys": [key]}).encode()

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.keys = f"http://127.0.0.1:{self.server.server_address[1]}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def openssl(self, *arguments, input=b""):
        return subprocess.run(["openssl", *arguments], input=input, capture_output=True, check=True).stdout

    def token(self, audience, email, lasts=600):
        now = int(time.time())
        claims = {"iss": self.name, "aud": audience, "email": email, "iat": now, "nbf": now - 5, "exp": now + lasts}
        parts = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one", "typ": "JWT"}, claims))
        return f"{parts}.{base64url(self.openssl('dgst', '-sha256', '-sign', self.key, input=parts.encode()))}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
