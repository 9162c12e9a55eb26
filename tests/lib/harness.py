"""Starts and stops a Bridgehead for a test, talks to its REST API, and cleans up behind it.

Everything is black box: the binary (`BRIDGEHEAD_BIN`, else target/release/bridgehead) is told to take
free ports, and says on its log which ones it got. A data directory and a log belong to each appliance;
both go away when the test passed and are named in the error when it did not.
"""

import atexit
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ADMIN_KEY = "bh-test-owner-key-0123456789abcdefghijklmnop"
KEEP = os.environ.get("KEEP_WORK") == "1"


def sut():
    """Which mail server is under test."""
    return os.environ.get("SUT", "bridgehead")


def binary():
    return os.environ.get("BRIDGEHEAD_BIN") or os.path.join(ROOT, "target/release/bridgehead")


FAILED = []
"""Test ids that failed; suite.py fills it. When it is not empty, directories stay for a look."""


def workdir(name):
    """A directory for one test. Readable for other users, so that Postfix's own user gets in."""
    base = os.environ.get("BRIDGEHEAD_TEST_TMP") or tempfile.gettempdir()
    os.makedirs(base, exist_ok=True)
    path = tempfile.mkdtemp(prefix=f"bh-{name}-", dir=base)
    os.chmod(path, 0o755)
    atexit.register(_clean, path)
    return path


def _clean(path):
    if KEEP or FAILED:
        print(f"kept: {path}")
    else:
        shutil.rmtree(path, True)


def wait_for(what, condition, timeout=20.0, step=0.05):
    """Waits until condition() gives something true, and returns that. Fails naming `what`."""
    end = time.monotonic() + timeout
    error = None
    while True:
        try:
            value = condition()
            if value:
                return value
            error = None
        except (OSError, http.client.HTTPException, AssertionError, KeyError) as e:
            error = e
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain: {what}" + (f" ({error!r})" if error else ""))
        time.sleep(step)


# ports of this process: below the range from which the kernel takes ports for outgoing connections. One of those, even in TIME_WAIT,
# would keep a server from listening on all addresses a moment later
_first_port, _last_port = map(int, os.environ.get("SUITE_PORTS", "12000-31999").split("-"))
_next_port = random.randrange(_first_port, _last_port)


def free_port():
    """A port on which nobody listens, at any address, and which was not given out before."""
    global _next_port
    for _ in range(10_000):
        _next_port = _next_port + 1 if _next_port < _last_port else _first_port
        with socket.socket() as s:
            try:
                s.bind(("0.0.0.0", _next_port))
            except OSError:
                continue
            return _next_port
    raise RuntimeError(f"no free port between {_first_port} and {_last_port}")


class Answer:
    """What the REST API answered."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def etag(self):
        return self.headers.get("etag")

    def __repr__(self):
        return f"{self.status} {self.body[:2000]!r}"


class Rest:
    """A client of the REST API with the owner key. One connection per call, so restarts don't matter."""

    def __init__(self, address, key=ADMIN_KEY):
        self.address, self.key = address, key

    def call(self, method, path, body=None, headers=None, timeout=30):
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        send = {"Connection": "close"}
        if self.key:
            send["Authorization"] = f"Bearer {self.key}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            send["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        send.update(headers or {})
        try:
            connection.request(method, path, body=data, headers=send)
            r = connection.getresponse()
            return Answer(r.status, {k.lower(): v for k, v in r.getheaders()}, r.read())
        finally:
            connection.close()

    def get(self, path, **k):
        return self.call("GET", path, **k)

    def ok(self, method, path, body=None, **k):
        """The call must succeed; gives the JSON (or None)."""
        a = self.call(method, path, body, **k)
        if not 200 <= a.status < 300:
            raise AssertionError(f"{method} {path} {json.dumps(body)[:500] if not isinstance(body, bytes) else ''}: {a!r}")
        return a.json if a.body.strip().startswith((b"{", b"[")) else None


class Appliance:
    """A running Bridgehead.

    `wrapper` goes before the command (strace, for instance). `start()` returns when it says ready.
    """

    def __init__(self, name="bh", data=None, env=None, wrapper=(), smtp_listen="127.0.0.1:0", route_port=None):
        self.dir = workdir(name)
        self.data = data or os.path.join(self.dir, "data")
        self.env = dict(env or {})
        self.wrapper = list(wrapper)
        self.smtp_listen = smtp_listen
        self.process = None
        self.runs = 0
        self.log_path = None
        self.rest = None
        self.smtp_port = None
        self.offset = 0
        self.records = []
        self.started_at = None

    # --- life ---

    def start(self, ready=True, timeout=30):
        if not os.access(binary(), os.X_OK):
            raise AssertionError(f"no binary at {binary()}: cargo build --release, or set BRIDGEHEAD_BIN")
        self.runs += 1
        self.log_path = os.path.join(self.dir, f"log.{self.runs}")
        self.offset, self.records, self.smtp_port, self.rest = 0, [], None, None
        env = {k: v for k, v in os.environ.items() if not k.startswith("BRIDGEHEAD_")}
        env.update({
            "BRIDGEHEAD_DATA_DIR": self.data,
            "BRIDGEHEAD_API_LISTEN": "127.0.0.1:0",
            "BRIDGEHEAD_SMTP_LISTEN": self.smtp_listen,
            "BRIDGEHEAD_ADMIN_KEY": ADMIN_KEY,
            "BRIDGEHEAD_LOG_FORMAT": "json",
            "RUST_BACKTRACE": "1",
        })
        env.update(self.env)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.wrapper + [binary()], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=env, start_new_session=True, cwd=self.dir)
        self.started_at = time.monotonic()
        atexit.register(self.destroy)
        if ready:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30):
        self.wait_listening(timeout)
        wait_for("ready", lambda: self.rest.get("/readyz").status == 200, timeout)
        return self

    def wait_listening(self, timeout=30):
        def listening():
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")
            api, smtp = self.listener("api"), self.listener("smtp", "default")
            if api:
                self.rest = Rest(api)
            if smtp:
                self.smtp_port = int(smtp.rsplit(":", 1)[1])
            return api and smtp
        try:
            wait_for("the log to name both listeners", listening, timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}; log {self.log_path}:\n{self.log_text()[-4000:]}") from None

    def log_text(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def log_records(self):
        """The JSON lines of the log so far, fields flattened."""
        with open(self.log_path, "rb") as f:
            f.seek(self.offset)
            text = f.read()
        end = text.rfind(b"\n") + 1
        self.offset += end
        for line in text[:end].splitlines():
            if line.startswith(b"{"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record.get("fields"), dict):
                    record.update(record.pop("fields"))
                self.records.append(record)
        return self.records

    def listeners(self):
        return [r for r in self.log_records() if r.get("message") == "listening"]

    def listener(self, kind, server=None):
        """The address that the log names last for this kind of listener."""
        found = None
        for r in self.listeners():
            if r.get("listener") == kind and (server is None or r.get("virtualServer", server) == server):
                found = r["address"]
        return found

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def pid(self):
        """Of the appliance itself, also below a wrapper."""
        if not self.wrapper:
            return self.process.pid
        out = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)],
                             capture_output=True, text=True).stdout.split("\n")
        for line in out:
            if line.strip():
                return int(line.split()[0])
        raise AssertionError("no appliance below the wrapper")

    def pids(self):
        return [self.pid()]

    def kill(self):
        """As kill -9 does: at once, the whole group."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def terminate(self, timeout=15):
        """SIGTERM; gives the seconds it took and the exit status."""
        started = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still there {timeout} s after SIGTERM; log:\n{self.log_text()[-3000:]}") from None
        return time.monotonic() - started, code

    def stop(self):
        if self.alive():
            self.terminate()

    def destroy(self):
        atexit.unregister(self.destroy)
        self.kill()

    # --- what tests want of it ---

    def route_to(self, port, host="127.0.0.1", connector="default", pattern="*", **spec):
        """All mail to this smart host."""
        body = {"spec": {"addressSpaces": [{"pattern": pattern, "cost": 1}],
                         "route": {"smartHosts": [{"host": host, "port": port}]}, **spec}}
        self.rest.ok("PUT", f"/api/v1/connectors/{connector}", body)
        return self

    def route_domains(self, ports):
        """Each of these domains to a port of its own."""
        for domain, port in ports.items():
            self.route_to(port, connector=domain.replace(".", "-"), pattern=domain)

    def server(self, **spec):
        """Changes fields of the default virtual server."""
        return self.rest.ok("PATCH", "/api/v1/virtual-servers/default", {"spec": spec})

    def relay_for(self, *networks):
        self.server(relay={"allow": list(networks)})
        return self

    def quick_retries(self, every="1s", expire=None):
        delivery = {"glitchRetry": {"after": every, "times": 3}, "retryIntervals": [every]}
        if expire:
            delivery["expireAfter"] = expire
        self.server(delivery=delivery)
        return self

    def local_domain(self, domain):
        """The domain whose recipients are ours; the default domain of the appliance."""
        self.rest.ok("PUT", "/api/v1/recipient-policies/default",
                     {"spec": {"addresses": [{"template": f"%m@{domain}", "primary": True, "authoritative": True}]}})
        return self

    def mailbox(self, name, **spec):
        self.rest.ok("PUT", f"/api/v1/recipients/{name}", {"spec": {"type": "mailbox", **spec}})
        return Maildir(os.path.join(self.data, "mail", "default", name))

    def queues(self):
        return self.rest.ok("GET", "/api/v1/queues")["items"]

    def queue(self, prefix):
        for q in self.queues():
            if q["id"].startswith(prefix):
                return q
        return None

    def messages(self, **filters):
        """Every message in the system, all pages."""
        out, cursor = [], None
        query = "&".join(f"{k}={v}" for k, v in filters.items())
        while True:
            path = "/api/v1/messages?limit=1000" + ("&" + query if query else "") + (f"&cursor={cursor}" if cursor else "")
            page = self.rest.ok("GET", path)
            out += page["items"]
            cursor = page.get("nextCursor")
            if not cursor:
                return out

    def waiting(self):
        """How many messages wait for delivery (the dead-letter queue does not)."""
        return sum(q["messages"] for q in self.queues() if q["id"] != "deadLetter")

    def hold(self):
        """Accepts, but delivers nothing to the smart host."""
        self.rest.ok("POST", "/api/v1/queues/smarthost:default/freeze")

    def release(self):
        a = self.rest.call("POST", "/api/v1/queues/smarthost:default/thaw")
        # 404: nothing lies in it, so there is nothing to thaw (test_configuration judges that answer).
        assert a.status in (200, 204, 404), a

    def retry_now(self):
        for q in self.queues():
            if q["id"].startswith(("smarthost:", "dns:")) and q["messages"]:
                self.rest.call("POST", f"/api/v1/queues/{q['id']}/retry")

    def journal_pattern(self):
        """Which files the promise of a 250 stands on, and which directory names them."""
        return re.compile(re.escape(os.path.realpath(self.data)) + r"/journal/[^/]+$")


class Maildir:
    """The files of a Maildir."""

    def __init__(self, path):
        self.path = path

    def files(self):
        out = []
        for sub in ("new", "cur"):
            d = os.path.join(self.path, sub)
            if os.path.isdir(d):
                out += [os.path.join(d, n) for n in os.listdir(d)]
        return sorted(out)

    def messages(self):
        out = []
        for path in self.files():
            with open(path, "rb") as f:
                out.append(f.read())
        return out

    def wait(self, count=1, timeout=20):
        wait_for(f"{count} messages in {self.path}", lambda: len(self.files()) >= count, timeout)
        return self.messages()


def make_sut(name="sut", **k):
    """The mail server under test, routed nowhere yet: Bridgehead, or Postfix to test the tests."""
    if sut() == "postfix":
        from postfix import PostfixSut
        return PostfixSut(name, **k)
    return Appliance(name, **k)


def only_bridgehead(test):
    """Leaves a test out when it asks for what only Bridgehead has."""
    import unittest
    return unittest.skipIf(sut() != "bridgehead", "asks for what only Bridgehead has")(test)
