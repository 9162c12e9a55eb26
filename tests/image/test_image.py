"""What is in the image, and what it says of itself."""

import hashlib
import json
import os
import re
import tarfile
import unittest
import zlib

import container
from container import UID, inspected


class Contents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.archive = tarfile.open(container.files(container.image()))
        cls.members = {m.name.lstrip("./"): m for m in cls.archive.getmembers()}

    @classmethod
    def tearDownClass(cls):
        cls.archive.close()

    def read(self, path):
        return self.archive.extractfile(self.members[path]).read()

    def test_it_is_small(self):
        if "/release/" not in os.environ["BRIDGEHEAD_BIN"]:
            self.skipTest("the binary is no release")
        packed = zlib.compressobj(6, zlib.DEFLATED, 31)
        with open(self.archive.name, "rb") as f:
            pulled = sum(len(packed.compress(piece)) for piece in iter(lambda: f.read(1 << 20), b"")) + len(packed.flush())
        unpacked = inspected()["Size"]
        print(f"      {pulled / 1e6:.1f} MB to pull, {unpacked / 1e6:.1f} MB unpacked", flush=True)
        # what a registry keeps and a node pulls; the base image alone has 24 MB unpacked
        self.assertLessEqual(pulled, 30_000_000)
        self.assertLessEqual(unpacked, 60_000_000)

    def test_there_is_no_shell_and_no_tool(self):
        programs = {os.path.basename(name) for name, m in self.members.items()
                    if (m.isfile() or m.issym()) and re.match(r"(usr/)?(local/)?s?bin/", name.removeprefix("usr/"))}
        self.assertIn("bridgehead", programs)
        self.assertFalse(programs & {"sh", "bash", "dash", "busybox", "ls", "cat", "curl", "wget", "apt", "apt-get", "dpkg", "perl",
                                     "python3", "su", "mount"})
        self.assertFalse([name for name, m in self.members.items() if m.isfile() and m.mode & 0o6000], "no setuid or setgid")

    def test_owners_and_modes(self):
        data = self.members["var/lib/bridgehead"]
        self.assertEqual((data.uid, data.gid, data.mode & 0o7777), (UID, UID, 0o700))
        for path in ("etc/bridgehead/config", "etc/bridgehead/secrets"):
            self.assertTrue(self.members[path].isdir())
        binary = self.members["usr/local/bin/bridgehead"]
        self.assertEqual((binary.uid, binary.gid, binary.mode & 0o7777), (0, 0, 0o755))
        theirs = [n for n, m in self.members.items() if m.uid == UID and not n.startswith(("var/lib/bridgehead", "home/nonroot"))]
        self.assertEqual(theirs, [], "what it runs as can change nothing else")

    def test_the_bill_of_materials_is_that_of_the_lock_file(self):
        bill = json.loads(self.read("usr/share/bridgehead/sbom.cdx.json"))
        self.assertEqual((bill["bomFormat"], bill["specVersion"]), ("CycloneDX", "1.6"))
        self.assertEqual(bill["metadata"]["component"]["name"], "bridgehead")
        self.assertEqual(bill["metadata"]["component"]["version"], container.version())
        with open(os.path.join(container.ROOT, "Cargo.lock")) as f:
            locked = dict(re.findall(r'name = "(.*)"\nversion = "(?:.*)"\nsource = .*\nchecksum = "(.*)"', f.read()))
        parts = bill["components"]
        self.assertGreater(len(parts), 200)
        names = {p["name"] for p in parts}
        self.assertLessEqual({"sled", "tokio", "rustls", "actix-web", "aws-lc-sys"}, names)
        self.assertNotIn("proptest", names, "what only tests use is not in the binary")
        every = {p["hashes"][0]["content"] for p in parts}
        self.assertEqual(len(every), len(parts))
        with open(os.path.join(container.ROOT, "Cargo.lock")) as f:
            self.assertLessEqual(every, set(re.findall(r'checksum = "(.*)"', f.read())))
        self.assertTrue(locked)
        references = {p["bom-ref"] for p in parts} | {bill["metadata"]["component"]["bom-ref"]}
        self.assertEqual({d["ref"] for d in bill["dependencies"]}, references)
        self.assertLessEqual({to for d in bill["dependencies"] for to in d["dependsOn"]}, references)
        self.assertFalse([p["name"] for p in parts if not p.get("licenses")], "a part without a licence")

    def test_licences_are_there(self):
        for name in ("LICENSE", "LICENSE-APACHE", "LICENSE-MIT"):
            self.assertTrue(self.read(f"usr/share/bridgehead/{name}"))

    def test_issuers_of_certificates_are_there(self):
        self.assertIn(b"BEGIN CERTIFICATE", self.read("etc/ssl/certs/ca-certificates.crt"))


class Settings(unittest.TestCase):
    def test_what_the_image_says(self):
        config = inspected()["Config"]
        self.assertEqual(config["User"], f"{UID}:{UID}")
        self.assertEqual(set(config["ExposedPorts"]), {f"{p}/tcp" for p in (2525, 2465, 2587, 8025, 8026)})
        self.assertEqual(list(config["Volumes"]), ["/var/lib/bridgehead"])
        self.assertEqual(config["StopSignal"], "SIGTERM")
        self.assertEqual(config["Entrypoint"], ["/usr/local/bin/bridgehead"])
        self.assertFalse(config.get("Cmd"))
        env = dict(e.split("=", 1) for e in config["Env"])
        self.assertEqual(env["BRIDGEHEAD_DATA_DIR"], "/var/lib/bridgehead")
        self.assertEqual(env["BRIDGEHEAD_API_LISTEN"], "0.0.0.0:8025")
        self.assertEqual(env["BRIDGEHEAD_HEALTH_LISTEN"], "0.0.0.0:8026")

    def test_it_checks_its_health_by_the_binary(self):
        config = inspected()["Config"]
        check = config.get("Healthcheck") or inspected().get("HealthCheck") or inspected().get("Healthcheck")
        self.assertEqual(check["Test"], ["CMD", "/usr/local/bin/bridgehead", "healthcheck"])

    def test_labels(self):
        labels = inspected()["Config"]["Labels"]
        self.assertEqual(labels["org.opencontainers.image.version"], container.version())
        for label in ("title", "description", "licenses", "revision", "created", "base.name"):
            self.assertTrue(labels[f"org.opencontainers.image.{label}"])
        with open(os.path.join(container.ROOT, "Dockerfile")) as f:
            base = re.search(r"^ARG RUNTIME_IMAGE=(\S+)$", f.read(), re.MULTILINE)[1]
        self.assertEqual(labels["org.opencontainers.image.base.name"], base)

    def test_the_default_version_is_that_of_the_package(self):
        with open(os.path.join(container.ROOT, "Dockerfile")) as f:
            self.assertIn(f"ARG VERSION={container.version()}\n", f.read())


class Again(unittest.TestCase):
    def content(self, image):
        with tarfile.open(container.files(image)) as archive:
            return {m.name: (m.type, m.mode, m.uid, m.gid, hashlib.sha256(archive.extractfile(m).read()).digest() if m.isfile() else None)
                    for m in archive.getmembers()}

    def test_built_again_it_is_the_same(self):
        first, second = container.image(), container.build("localhost/bridgehead:second", "--no-cache")
        try:
            made = [json.loads(container.engine("image", "inspect", name).stdout)[0] for name in (first, second)]
            self.assertEqual(made[0]["Config"], made[1]["Config"])
            self.assertEqual(self.content(first), self.content(second))
            # Docker itself leaves the time of directories that were there as it is, and needs BuildKit's rewrite-timestamp;
            # Podman notes the ids of what it was made from, so its ids differ
            if not container.is_docker():
                self.assertEqual(made[0]["RootFS"], made[1]["RootFS"])
                self.assertEqual(made[0]["Created"], made[1]["Created"])
        finally:
            container.engine("rmi", "-f", "localhost/bridgehead:second", check=False)
