"""Certificates for tests: an issuer of our own, and what it issues; the TLSA data of both (RFC 6698)."""

import hashlib
import os
import subprocess

from harness import workdir

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments, cwd=None):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=cwd).stdout


class Authority:
    """`certificate` is its own, as a file."""

    def __init__(self, name="test authority"):
        self.dir = workdir("authority")
        self.key, self.certificate = os.path.join(self.dir, "ca.key"), os.path.join(self.dir, "ca.pem")
        openssl("req", "-x509", *EC, "-days", "2", "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
                "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.key, "-out", self.certificate)
        self.issued = 0

    def issue(self, names):
        """A key and a chain, the issuer's certificate at its end, as files."""
        self.issued += 1
        base = os.path.join(self.dir, f"server{self.issued}")
        with open(base + ".ext", "w") as f:
            f.write("basicConstraints=CA:FALSE\nsubjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n")
        openssl("req", "-new", *EC, "-subj", "/CN=server", "-keyout", base + ".key", "-out", base + ".csr")
        openssl("x509", "-req", "-in", base + ".csr", "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "2",
                "-extfile", base + ".ext", "-out", base + ".crt")
        with open(base + ".pem", "w") as f:
            f.write(open(base + ".crt").read() + open(self.certificate).read())
        return base + ".key", base + ".pem"


def tlsa(usage, selector, matching, chain):
    """The data of a TLSA record for the first certificate in a file."""
    der = openssl("x509", "-in", chain, "-outform", "DER")
    if selector == 1:
        public = openssl("x509", "-in", chain, "-noout", "-pubkey").decode()
        der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=public.encode(), check=True, capture_output=True).stdout
    data = {0: der.hex(), 1: hashlib.sha256(der).hexdigest(), 2: hashlib.sha512(der).hexdigest()}[matching]
    return f"{usage} {selector} {matching} {data}"
