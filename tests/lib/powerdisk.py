"""A disk that can lose its power: a block device whose volatile cache we hold in our own hands.

A small FUSE file system of one file, `disk`, answers the loop driver; ext4 on the loop device is what the
appliance writes to. The FUSE server sees what a real disk sees: writes, and flushes (an fsync of the backing
file). What was written since the last flush is the disk's volatile cache; a power cut keeps of it what the
`mode` says:

    flushed   nothing: the harshest honest disk
    all       everything: a disk whose cache happened to drain
    random    each write by the toss of a coin, some torn at 512 bytes: what a cache in disorder leaves

A cut is taken between two requests of a single-threaded server, so it is atomic, and it asks nothing of the
file system above: nothing is synced for its sake (which `fsfreeze`, `dmsetup suspend` without --nolockfs and
`sync` all would do, hiding a missing fdatasync).

Needs root, /dev/fuse, loop devices and ext4; says which is missing. Device mapper is not needed.

    python3 tests/lib/powerdisk.py serve DIRECTORY BYTES     (the server; PowerDisk starts it)
"""

import atexit
import ctypes
import errno
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

SECTOR = 512
MAX_WRITE = 1 << 20


class Server:
    """The FUSE server. `current` is what the kernel reads, `durable` what survives, `pending` the difference."""

    def __init__(self, directory, size):
        self.directory, self.size = directory, size
        self.current = self._image("current")
        self.durable = self._image("durable")
        self.pending = []
        self.flushes = self.writes = 0
        # What a test of the test wants: a disk that says yes to a flush and does nothing.
        self.lying = False

    def _image(self, name):
        fd = os.open(os.path.join(self.directory, name), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(fd, self.size)
        return fd

    def mount(self, target):
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fuse},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MAX_WRITE}"
        if libc.mount(b"powerdisk", target.encode(), b"fuse.powerdisk", 0, options.encode()) != 0:
            e = ctypes.get_errno()
            raise OSError(e, os.strerror(e), target)

    def attr(self, node):
        mode, size, links = (0o40755, 0, 2) if node == 1 else (0o100600, self.size, 1)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)

    def run(self, control):
        buffer = bytearray(MAX_WRITE + 8192)
        view = memoryview(buffer)
        poll = select.poll()
        poll.register(self.fuse, select.POLLIN)
        poll.register(control, select.POLLIN)
        clients = {}
        while True:
            for fd, _ in poll.poll():
                if fd == self.fuse:
                    try:
                        n = os.readv(self.fuse, [buffer])
                    except OSError as e:
                        if e.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                            continue
                        return      # ENODEV: unmounted
                    if not self.request(view[:n]):
                        return
                elif fd == control.fileno():
                    c, _ = control.accept()
                    clients[c.fileno()] = c
                    poll.register(c, select.POLLIN)
                else:
                    line = clients[fd].recv(4096)
                    if not line:
                        poll.unregister(fd)
                        clients.pop(fd).close()
                        continue
                    try:
                        answer = self.command(*line.decode().split())
                    except Exception as e:
                        answer = f"error {e!r}"
                    clients[fd].sendall(answer.encode() + b"\n")

    def answer(self, unique, body=b"", error=0):
        try:
            os.writev(self.fuse, [struct.pack("<IiQ", 16 + len(body), -error, unique), body])
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise

    def request(self, m):
        _, op, unique, node = struct.unpack_from("<IIQQ", m)
        if op == 16:        # WRITE
            _, offset, size = struct.unpack_from("<QQI", m, 40)
            data = bytes(m[80:80 + size])
            self.write(offset, data)
            self.answer(unique, struct.pack("<II", size, 0))
        elif op == 15:      # READ
            _, offset, size = struct.unpack_from("<QQI", m, 40)
            self.answer(unique, os.pread(self.current, size, offset))
        elif op == 20:      # FSYNC: the disk's flush
            self.flush()
            self.answer(unique)
        elif op == 1:       # LOOKUP
            if bytes(m[40:]).rstrip(b"\0") == b"disk":
                self.answer(unique, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self.attr(2))
            else:
                self.answer(unique, error=errno.ENOENT)
        elif op in (3, 4):  # GETATTR, SETATTR
            self.answer(unique, struct.pack("<QII", 3600, 0, 0) + self.attr(node))
        elif op in (14, 27):  # OPEN, OPENDIR
            self.answer(unique, struct.pack("<QII", 0, 0, 0))
        elif op == 26:      # INIT
            major, minor = struct.unpack_from("<II", m, 40)
            if major < 7:
                return False
            flags = (1 << 0) | (1 << 5) | (1 << 22)     # async reads, big writes, max_pages
            self.answer(unique, struct.pack("<IIIIHHIIHHI", 7, 31, 1 << 17, flags, 64, 48, MAX_WRITE, 1, MAX_WRITE // 4096, 0, 0) + bytes(28))
        elif op == 43:      # FALLOCATE: only to zero
            _, offset, length, mode = struct.unpack_from("<QQQI", m, 40)
            if mode & (2 | 16):
                while length:
                    n = min(length, MAX_WRITE)
                    self.write(offset, bytes(n))
                    offset, length = offset + n, length - n
                self.answer(unique)
            else:
                self.answer(unique, error=errno.EOPNOTSUPP)
        elif op == 17:      # STATFS
            self.answer(unique, struct.pack("<QQQQQIIII", 1 << 20, 1 << 19, 1 << 19, 10, 5, 4096, 255, 4096, 0) + bytes(24))
        elif op in (18, 25, 28, 29):    # RELEASE, FLUSH, READDIR, RELEASEDIR
            self.answer(unique)
        elif op in (2, 42, 36):         # FORGET, BATCH_FORGET, INTERRUPT: no answer
            pass
        elif op == 38:      # DESTROY
            self.answer(unique)
            return False
        else:
            self.answer(unique, error=errno.ENOSYS)
        return True

    def write(self, offset, data):
        self.writes += 1
        os.pwrite(self.current, data, offset)
        self.pending.append((offset, data))

    def flush(self):
        self.flushes += 1
        if self.lying:
            return
        for offset, data in self.pending:
            os.pwrite(self.durable, data, offset)
        self.pending.clear()

    def command(self, verb, *rest):
        if verb == "cut":
            path, mode, seed = rest
            return self.cut(path, mode, random.Random(int(seed)))
        if verb == "lie":
            self.lying = True
            return "ok"
        if verb == "stat":
            return f"{self.writes} {self.flushes} {len(self.pending)}"
        return "error what"

    def cut(self, path, mode, rng):
        out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(out, self.size)
        at = 0
        while True:
            try:
                at = os.lseek(self.durable, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(self.durable, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(self.durable, min(1 << 22, end - at), at)
                os.pwrite(out, data, at)
                at += len(data)
        kept = 0
        for offset, data in self.pending:
            if mode == "all":
                os.pwrite(out, data, offset)
                kept += 1
            elif mode == "random":
                toss = rng.random()
                if toss < 0.45:
                    os.pwrite(out, data, offset)
                    kept += 1
                elif toss < 0.55:
                    for i in range(0, len(data), SECTOR):
                        if rng.random() < 0.5:
                            os.pwrite(out, data[i:i + SECTOR], offset + i)
                    kept += 1
        os.close(out)
        return f"ok {kept} of {len(self.pending)} unflushed writes kept"


def serve(directory, size):
    server = Server(directory, size)
    control = socket.socket(socket.AF_UNIX)
    control.bind(os.path.join(directory, "control"))
    control.listen(4)
    server.mount(os.path.join(directory, "fuse"))
    print("mounted", flush=True)
    server.run(control)


class Missing(Exception):
    """This machine has no way to cut the power of a disk; the text says what is missing."""


def check():
    if os.geteuid() != 0:
        raise Missing("needs root")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Missing("no /dev/fuse")
    if not os.path.exists("/dev/loop-control"):
        raise Missing("no loop devices")
    with open("/proc/filesystems") as f:
        if "ext4" not in f.read():
            raise Missing("no ext4 in this kernel")


def probe(directory):
    """Tries it once on a small disk; raises Missing with the reason when this machine cannot."""
    check()
    try:
        with PowerDisk(os.path.join(directory, "probe"), 32 << 20):
            pass
    except OSError as e:
        raise Missing(str(e)) from None


def _run(*args, check=True, timeout=60):
    r = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if check and r.returncode:
        raise OSError(f"{' '.join(args)}: {r.stdout}")
    return r.stdout.strip()


class Mounted:
    """An ext4 image on a loop device, mounted."""

    def __init__(self, image, target):
        self.target, self.loop = target, None
        os.makedirs(target, exist_ok=True)
        atexit.register(self.close)
        self.loop = _run("losetup", "--find", "--show", image)
        try:
            _run("mount", "-t", "ext4", "-o", "nodiscard", self.loop, target)
        except OSError:
            self.close()
            raise

    def close(self):
        atexit.unregister(self.close)
        if os.path.ismount(self.target):
            for _ in range(20):
                if subprocess.run(["umount", self.target], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                _run("umount", "-l", self.target, check=False)
        if self.loop:
            _run("losetup", "-d", self.loop, check=False)
            self.loop = None


class PowerDisk:
    """`with PowerDisk(dir) as d:` – a fresh ext4 at d.mount; `d.cut(image)` is the moment the power goes."""

    def __init__(self, directory, size=1 << 30):
        check()
        self.directory, self.size = directory, size
        self.mount = os.path.join(directory, "mnt")
        self.loop = self.server = None
        self.cuts = 0

    def __enter__(self):
        atexit.register(self.close)
        os.makedirs(os.path.join(self.directory, "fuse"), exist_ok=True)
        os.makedirs(self.mount, exist_ok=True)
        self.server = subprocess.Popen([sys.executable, os.path.abspath(__file__), "serve", self.directory, str(self.size)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        if self.server.stdout.readline() != b"mounted\n":
            self.close()
            raise Missing("FUSE could not be mounted")
        try:
            self.loop = _run("losetup", "--find", "--show", os.path.join(self.directory, "fuse", "disk"))
            _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-m", "0", self.loop)
            _run("mount", "-t", "ext4", "-o", "nodiscard", self.loop, self.mount)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *a):
        self.close()

    def ask(self, line):
        c = socket.socket(socket.AF_UNIX)
        c.settimeout(60)
        c.connect(os.path.join(self.directory, "control"))
        c.sendall(line.encode())
        got = c.recv(4096).decode().strip()
        c.close()
        if got.startswith("error"):
            raise OSError(got)
        return got

    def cut(self, image, mode, seed=0):
        """What the disk would hold had the power gone now, as an image."""
        return self.ask(f"cut {image} {mode} {seed}")

    def close(self):
        atexit.unregister(self.close)
        if os.path.ismount(self.mount):
            for _ in range(30):
                if subprocess.run(["umount", self.mount], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                _run("umount", "-l", self.mount, check=False)
        if self.loop:
            _run("losetup", "-d", self.loop, check=False)
            self.loop = None
        fuse = os.path.join(self.directory, "fuse")
        if os.path.ismount(fuse):
            for _ in range(30):
                if subprocess.run(["umount", fuse], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                _run("umount", "-l", fuse, check=False)
        if self.server:
            try:
                self.server.wait(3)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server.stdout.close()
            self.server = None
        for name in ("control", "current", "durable"):
            try:
                os.unlink(os.path.join(self.directory, name))
            except OSError:
                pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(__doc__)
