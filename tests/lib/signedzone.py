"""A signed root of our own and a signed zone `test` below it, served by NSD, and zones below that which are not signed.

    with SignedDns(["mx.a.test. A 127.0.0.1"]) as dns: …  dns.address, dns.anchors

`forged` maps records to what they are changed to after signing: their signatures are wrong. `unsigned` has the records of zones that are
delegated without a DS record. With `nsec3` what is not there is denied by hashes. `anchors` is a file with the key of the root.
"""

import glob
import os
import shutil
import subprocess

from dnsserver import ask
from harness import free_port, wait_for, workdir

HEAD = "$TTL 2\n{zone} SOA ns.test. host.test. 1 7200 3600 604800 2\n{zone} NS ns.test.\n"


def why_not():
    missing = [tool for tool in ("nsd", "ldns-signzone", "ldns-keygen") if not shutil.which(tool)]
    return f"{', '.join(missing)}: not there" if missing else None


class SignedDns:
    def __init__(self, records, forged=(), unsigned=None, nsec3=False):
        self.dir = workdir("signed-dns")
        unsigned = unsigned or {}
        delegations = [f"{zone} NS ns.{zone}\nns.{zone} A 127.0.0.1" for zone in unsigned]
        self.zone("test.", ["ns.test. A 127.0.0.1", *records, *dict(forged), *delegations], *(["-n", "-s", "abcd"] if nsec3 else []))
        self.forge("test.signed", dict(forged))
        self.zone(".", ["test. NS ns.test.", "ns.test. A 127.0.0.1", open(self.key("test.") + ".ds").read()])
        self.anchors = self.write("anchors", "\n".join(l for l in open(self.key(".") + ".key").read().splitlines() if "DNSKEY" in l) + "\n")
        self.port = free_port()
        zones = 'zone:\n name: "."\n zonefile: root.signed\nzone:\n name: "test"\n zonefile: test.signed\n'
        for zone, lines in unsigned.items():
            name = zone.rstrip(".")
            self.write(name, HEAD.format(zone=zone) + "\n".join([f"ns.{zone} A 127.0.0.1", *lines]) + "\n")
            zones += f'zone:\n name: "{name}"\n zonefile: {name}\n'
        conf = self.write("nsd.conf", f"""server:
 ip-address: 127.0.0.1@{self.port}
 username: ""
 chroot: ""
 zonesdir: "{self.dir}"
 pidfile: "{self.dir}/nsd.pid"
 database: ""
 xfrdfile: "{self.dir}/xfrd.state"
 zonelistfile: "{self.dir}/zone.list"
 xfrdir: "{self.dir}"
 server-count: 1
remote-control:
 control-enable: no
{zones}""")
        self.process = subprocess.Popen(["nsd", "-d", "-c", conf], stdin=subprocess.DEVNULL, cwd=self.dir,
                                        stdout=open(os.path.join(self.dir, "log"), "wb"), stderr=subprocess.STDOUT)
        self.address = f"127.0.0.1:{self.port}"
        wait_for("NSD to answer", lambda: ask(self.address, "ns.test", "A", timeout=0.5) == (0, False, 1))

    def key(self, zone):
        return glob.glob(os.path.join(self.dir, f"K{zone}+*.key"))[0][:-len(".key")]

    def zone(self, zone, lines, *options):
        """Signs a zone: `root.signed` or `<zone>.signed`."""
        name = zone.strip(".") or "root"
        plain = self.write(name, HEAD.format(zone=zone) + "\n".join(lines) + "\n")
        self.run("ldns-keygen", "-k", "-a", "ECDSAP256SHA256", "-r", "/dev/urandom", zone)
        self.run("ldns-signzone", *options, "-o", zone, "-f", f"{name}.signed", plain, self.key(zone))

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def run(self, *command):
        r = subprocess.run(command, cwd=self.dir, capture_output=True, text=True)
        assert r.returncode == 0, (command, r.stdout, r.stderr)

    def forge(self, name, forged):
        """Rewrites the data of records, whose lines ldns writes as name, TTL, IN, type, data."""
        path = os.path.join(self.dir, name)
        lines = open(path).read().splitlines()
        for record, instead in forged.items():
            owner, kind = record.split()[:2]
            at = [i for i, line in enumerate(lines) if line.split("\t")[0] == owner and line.split("\t")[3] == kind]
            assert len(at) == 1, (record, at)
            fields = lines[at[0]].split("\t")
            lines[at[0]] = "\t".join(fields[:4] + [instead])
        self.write(name, "\n".join(lines) + "\n")

    def close(self):
        self.process.terminate()
        self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


