"""A sender that remembers exactly what was promised to it.

`Load` sends from several threads over plain sockets; for each message it records when it was begun, when
the final dot went out, and whether a 2xx came. What has a 2xx is *acknowledged*: from then on losing it is
the appliance's fault.
"""

import itertools
import random
import re
import socket
import threading
import time

_serial = itertools.count(1)
_run = random.randrange(1 << 32)


def new_id(prefix="m"):
    return f"{prefix}{_run:08x}.{next(_serial)}"


def message(id, size=1024, to="rcpt@example.net", sender="sender@example.org", extra=b"", body=None):
    """A message of about `size` bytes with its id in a header."""
    head = (f"From: <{sender}>\r\nTo: <{to}>\r\nSubject: {id}\r\nMessage-ID: <{id}@load.test>\r\n"
            f"X-Test-Id: {id}\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n").encode() + extra + b"\r\n"
    if body is None:
        line = b"0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwx\r\n"
        body = line * max(1, (size - len(head)) // len(line))
    return head + body


def stuff(data):
    """As DATA wants it: dots doubled, CRLF at the end, the final dot."""
    if not data.endswith(b"\r\n") and data:
        data += b"\r\n"
    data = re.sub(rb"(?m)^\.", b"..", data.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    return data + b".\r\n"


class Refused(Exception):
    def __init__(self, at, code, text):
        super().__init__(f"{at}: {code} {text}")
        self.at, self.code, self.text = at, code, text


class Smtp:
    """A bare SMTP client: what it sends is what one writes, reply by reply."""

    def __init__(self, port, host="127.0.0.1", source=None, timeout=30, greet=True):
        self.sock = socket.create_connection((host, port), timeout=timeout,
                                             source_address=(source, 0) if source else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.local_port = self.sock.getsockname()[1]
        self.extensions = []
        if greet:
            self.expect("banner", 220)
            self.ehlo()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode() + b"\r\n")

    def reply(self):
        """(code, text) of one reply; the text of all its lines. Raises ConnectionError at the end."""
        lines = []
        while True:
            while b"\n" not in self.buffer:
                got = self.sock.recv(65536)
                if not got:
                    raise ConnectionResetError(f"closed; before that {lines!r} {self.buffer!r}")
                self.buffer += got
            line, self.buffer = self.buffer.split(b"\n", 1)
            line = line.rstrip(b"\r").decode("utf-8", "replace")
            lines.append(line[4:])
            if not re.match(r"\d\d\d[ -]|\d\d\d$", line):
                raise AssertionError(f"not a reply line: {line!r}")
            if line[3:4] != "-":
                return int(line[:3]), "\n".join(lines)

    def command(self, line):
        self.send(line)
        return self.reply()

    def expect(self, at, *codes, line=None):
        code, text = self.command(line) if line is not None else self.reply()
        if code not in codes:
            raise Refused(at, code, text)
        return code, text

    def ehlo(self, name="client.test"):
        _, text = self.expect("EHLO", 250, line=f"EHLO {name}")
        self.extensions = text.split("\n")[1:]

    def transaction(self, sender, recipients, data, mail="", rcpt="", raw=False):
        """One message; gives the final (code, text). Refusals raise, after an RSET."""
        try:
            self.expect("MAIL", 250, line=f"MAIL FROM:<{sender}>{' ' + mail if mail else ''}")
            for r in recipients:
                self.expect("RCPT", 250, 251, line=f"RCPT TO:<{r}>{' ' + rcpt if rcpt else ''}")
            self.expect("DATA", 354, line="DATA")
        except Refused:
            self.command("RSET")
            raise
        self.send(data if raw else stuff(data))
        code, text = self.reply()
        if code != 250:
            raise Refused("end of data", code, text)
        return code, text

    def at_end(self, timeout=5):
        """True when the other side closed the connection."""
        self.sock.settimeout(timeout)
        try:
            while True:
                got = self.sock.recv(65536)
                if not got:
                    return True
                self.buffer += got
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def quit(self):
        try:
            self.command("QUIT")
        finally:
            self.close()


class Sent:
    __slots__ = ("id", "begun", "dotted", "done", "code", "text", "local_port")

    def __init__(self, id):
        self.id, self.begun, self.dotted, self.done, self.code, self.text = id, time.time(), None, None, None, ""
        self.local_port = None

    @property
    def acknowledged(self):
        return self.code == 250


class Load:
    """Sends from `sessions` threads until stopped or `count` messages are begun.

    Connection errors and 4xx are borne: the session comes again. `target()` gives the port to use, which
    may change at a restart (None: wait).
    """

    def __init__(self, target, sessions=8, count=None, size=2048, to="rcpt@example.net", per_connection=50, pause=0.0, host="127.0.0.1"):
        self.target, self.size, self.to, self.per_connection, self.pause, self.host = target, size, to, per_connection, pause, host
        self.count = count
        self.sent = []
        self.errors = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._session, daemon=True) for _ in range(sessions)]

    def start(self):
        for t in self.threads:
            t.start()
        return self

    def stop(self, timeout=40):
        self.stopping.set()
        return self.join(timeout)

    def join(self, timeout=120):
        end = time.monotonic() + timeout
        for t in self.threads:
            if t.ident is not None:
                t.join(max(0.1, end - time.monotonic()))
        return self

    def running(self):
        return any(t.is_alive() for t in self.threads)

    def acknowledged(self):
        return {s.id for s in list(self.sent) if s.acknowledged}

    def begin(self):
        with self.lock:
            if self.count is not None and len(self.sent) >= self.count:
                return None
            s = Sent(new_id())
            self.sent.append(s)
            return s

    def _session(self):
        while not self.stopping.is_set():
            port = self.target()
            if port is None:
                time.sleep(0.02)
                continue
            try:
                with Smtp(port, host=self.host, timeout=15) as c:
                    for _ in range(self.per_connection):
                        if self.stopping.is_set():
                            break
                        s = self.begin()
                        if s is None:
                            c.quit()
                            return
                        s.local_port = c.local_port
                        self._one(c, s)
                        if self.pause:
                            time.sleep(self.pause)
                    c.quit()
            except (OSError, AssertionError, Refused) as e:
                self.errors.append(repr(e)[:200])
                time.sleep(0.03)
        return

    def _one(self, c, s):
        data = stuff(message(s.id, self.size, to=self.to))
        try:
            c.expect("MAIL", 250, line=b"MAIL FROM:<sender@example.org>\r\n")
            c.expect("RCPT", 250, line=b"RCPT TO:<%s>\r\n" % self.to.encode())
            c.expect("DATA", 354, line=b"DATA\r\n")
            c.send(data)
            s.dotted = time.time()
            code, text = c.reply()
            s.done, s.text = time.time(), text
            s.code = code
        except Refused as e:
            s.code, s.text, s.done = e.code, e.text, time.time()
            self.errors.append(str(e)[:200])
            c.command("RSET")
            time.sleep(0.05)
