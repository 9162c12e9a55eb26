"""A store of an earlier release opens with all its mail. Each release leaves one in stores/: `python3 tests/crash/test_old_stores.py make`.
The one of a release that is not out yet may be made anew; those of others never change. `before-0.1.0` has format 2 of the journal.

What is in a store is known beforehand: messages for a next hop by their ids and sizes, a frozen one and one larger than the
journal keeps among them, in a frozen queue; one that was delivered; and the configuration. None of it expires before a release is forgotten.
"""

import glob
import hashlib
import os
import subprocess
import sys
import tarfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from harness import Appliance, binary, only_bridgehead, wait_for, workdir  # noqa: E402
from load import Smtp, message  # noqa: E402
from sink import Sink  # noqa: E402

STORES = os.path.join(HERE, "stores")
SMALL = [f"small-{n}" for n in range(12)]
LARGE, FROZEN = "large-1", "frozen-1"
SIZES = {**{id: 1500 for id in SMALL}, LARGE: 600_000, FROZEN: 1500}


def content(id):
    """The same octets in every release."""
    return message(id, SIZES[id], body=(f"{id} of the store\r\n".encode() * (SIZES[id] // 20 + 1)))


def make():
    it = Appliance("store").start()
    try:
        it.relay_for("127.0.0.0/8")
        it.local_domain("old.test")
        it.mailbox("anna", displayName="Anna of old")
        it.server(delivery={"expireAfter": "3650d", "delayNotificationAfter": "3650d"})
        it.route_to(9)
        it.hold()
        with Smtp(it.smtp_port) as c:
            for id in SIZES:
                c.transaction("a@far.test", [f"{id}@next.test"], content(id))
            c.transaction("", ["anna@old.test"], message("local", 500))
        frozen = next(m for m in it.messages() if any(r["address"].startswith(FROZEN) for r in it.rest.ok("GET", f"/api/v1/messages/{m['id']}")["recipients"]))
        it.rest.ok("POST", f"/api/v1/messages/{frozen['id']}/freeze")
        wait_for("the local mail", lambda: it.waiting() == len(SIZES))
        it.stop()
        version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
        path = os.path.join(STORES, f"{version}.tar.xz")
        os.makedirs(STORES, exist_ok=True)
        with tarfile.open(path, "w:xz") as archive:
            archive.add(it.data, "data")
        print(f"{path}: {os.path.getsize(path)} octets")
    finally:
        it.destroy()


@only_bridgehead
class OldStores(unittest.TestCase):
    def test_each_opens_with_all_its_mail(self):
        stores = sorted(glob.glob(os.path.join(STORES, "*.tar.xz")))
        self.assertTrue(stores)
        for path in stores:
            with self.subTest(os.path.basename(path)):
                self.opens(path)

    def opens(self, path):
        directory = workdir("old-store")
        with tarfile.open(path) as archive:
            archive.extractall(directory)
        sink = Sink()
        it = Appliance("old", data=os.path.join(directory, "data"))
        try:
            it.start(timeout=60)
            self.assertEqual(it.waiting(), len(SIZES))
            self.assertEqual(len(it.messages(state="frozen")), 1)
            self.assertEqual(it.rest.ok("GET", "/api/v1/recipients/anna")["spec"]["displayName"], "Anna of old")
            self.assertEqual(len(os.listdir(os.path.join(it.data, "mail/default/anna/new"))), 1)
            self.assertEqual(it.queue("smarthost:default")["state"], "frozen")
            it.route_to(sink.port)
            it.release()
            it.retry_now()
            everything = set(SIZES) - {FROZEN}
            self.assertEqual(sink.wait_accepted(everything, 60), set())
            for id in everything:
                arrived = sink.by_id(id)
                self.assertEqual(len(arrived), 1)
                self.assertIn(hashlib.sha256(content(id)).hexdigest(), {hashlib.sha256(a.content[-len(content(id)):]).hexdigest() for a in arrived})
            self.assertEqual(it.waiting(), 1, "the frozen one stays")
        finally:
            it.destroy()
            sink.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        make()
    else:
        unittest.main()
