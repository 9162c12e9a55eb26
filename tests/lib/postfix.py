"""Postfix instances of our own: configuration, queue and data in a temporary directory, loopback ports.

An instance needs root (Postfix changes to its own user), but nothing of the system's Postfix: chroot is
off everywhere, and it is never started by Debian's scripts. Also the wrappers of smtp-source and smtp-sink.
"""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import time

from harness import free_port, wait_for, workdir

MASTER = """\
{listen}      inet  n       -       n       -       {smtpd_max}       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""

MAIN = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "inet_interfaces": "loopback-only",
    "inet_protocols": "ipv4",
    "myhostname": "postfix.test",
    "mydestination": "",
    "local_recipient_maps": "",
    "alias_maps": "",
    "alias_database": "",
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_recipient_restrictions": "",
    "smtpd_peername_lookup": "no",
    "biff": "no",
    "append_dot_mydomain": "no",
    "smtp_tls_security_level": "none",
    "smtpd_tls_security_level": "none",
    "disable_dns_lookups": "yes",
    "maillog_file_prefixes": "/",
    "message_size_limit": "104857600",
    "mailbox_size_limit": "0",
    "virtual_mailbox_limit": "0",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_error_sleep_time": "0",
    "smtpd_hard_error_limit": "1000",
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "1s",
    "smtp_connect_timeout": "3s",
    # What comes in goes out as it is.
    "local_header_rewrite_clients": "",
}


class Postfix:
    """One instance. `settings` override MAIN; `mailbox_domain` is delivered to Maildirs below `maildirs`."""

    def __init__(self, name="postfix", settings=None, mailbox_domain=None, root=None, main_cf=None, master_cf=None):
        if os.geteuid() != 0:
            import unittest
            raise unittest.SkipTest("Postfix starts as root only")
        self.dir = workdir(name)
        root = root or self.dir
        self.config, self.queue_directory, self.data_directory = (
            os.path.join(self.dir, "etc"), os.path.join(root, "spool"), os.path.join(root, "lib"))
        self.log_path = os.path.join(self.dir, "maillog")
        self.maildirs = os.path.join(root, "maildirs")
        self.port = None
        self.settings = dict(MAIN) if main_cf is None else {}
        self.main_cf, self.master_cf = main_cf, master_cf
        self.settings.update({
            "queue_directory": self.queue_directory, "data_directory": self.data_directory,
            "maillog_file": self.log_path,
        })
        if mailbox_domain:
            os.makedirs(self.maildirs, exist_ok=True)
            shutil.chown(self.maildirs, "postfix", "postfix")
            self.settings.update({
                "virtual_mailbox_domains": mailbox_domain, "virtual_mailbox_base": self.maildirs,
                "virtual_mailbox_maps": "static:box/", "virtual_uid_maps": "static:%d" % _uid("postfix"),
                "virtual_gid_maps": "static:%d" % _gid("postfix"), "virtual_minimum_uid": "1",
            })
        self.settings.update(settings or {})

    def write_config(self):
        for d in (self.config, self.queue_directory, self.data_directory):
            os.makedirs(d, exist_ok=True)
        shutil.chown(self.data_directory, "postfix", "postfix")
        with open(self.log_path, "a"):      # also for processes that find no postlogd after a kill
            os.chmod(self.log_path, 0o666)
        with open(os.path.join(self.config, "main.cf"), "w") as f:
            if self.main_cf:
                f.write(self.main_cf + "\n")
            f.write("".join(f"{k} = {v}\n" for k, v in self.settings.items()))
        with open(os.path.join(self.config, "master.cf"), "w") as f:
            f.write((self.master_cf or MASTER).format(listen=f"127.0.0.1:{self.port}", smtpd_max="-"))

    def command(self, *args, check=True, timeout=60):
        r = subprocess.run([args[0], "-c", self.config, *args[1:]], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        if check and r.returncode:
            raise AssertionError(f"{args}: {r.stdout}\n{self.log_text()[-2000:]}")
        return r.stdout

    def start(self, wrapper=()):
        self.port = self.port or free_port()
        self.write_config()
        atexit.register(self.destroy)
        if wrapper:
            # What `postfix start` prepares, then the master itself below the wrapper.
            self.command("postfix", "check")
            self.wrapped = subprocess.Popen(
                [*wrapper, os.path.join("/usr/lib/postfix/sbin", "master"), "-c", self.config, "-d"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "MAIL_CONFIG": self.config})
        else:
            self.command("postfix", "start")
        wait_for("Postfix to listen", self.listening, 20)
        return self

    def listening(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        got = s.recv(100)
        s.close()
        return got.startswith(b"220")

    def reload(self):
        self.write_config()
        self.command("postfix", "reload")

    def master_pid(self):
        try:
            with open(os.path.join(self.queue_directory, "pid/master.pid")) as f:
                return int(f.read().strip() or 0)
        except (OSError, ValueError):
            return 0

    def pids(self):
        """Master and everything below it."""
        master = self.master_pid()
        if not master or not os.path.exists(f"/proc/{master}"):
            return []
        found = [master]
        for p in os.listdir("/proc"):
            if p.isdigit():
                try:
                    with open(f"/proc/{p}/stat") as f:
                        if int(f.read().rsplit(")", 1)[1].split()[1]) == master:
                            found.append(int(p))
                except (OSError, IndexError):
                    pass
        return found

    def kill(self):
        """kill -9 on all of its processes."""
        pids = self.pids()
        for p in pids:
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for p in pids:
            end = time.monotonic() + 5
            while os.path.exists(f"/proc/{p}") and time.monotonic() < end and _state(p) != "Z":
                time.sleep(0.01)
        w = getattr(self, "wrapped", None)
        if w:
            w.kill()
            w.wait()

    def stop(self):
        if self.pids():
            self.command("postfix", "stop", check=False)
            end = time.monotonic() + 8
            while self.pids() and time.monotonic() < end:
                time.sleep(0.05)
        self.kill()

    def destroy(self):
        atexit.unregister(self.destroy)
        self.kill()

    def log_text(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def queue_count(self):
        total = 0
        for q in ("incoming", "active", "deferred", "hold", "maildrop"):
            for _, _, files in os.walk(os.path.join(self.queue_directory, q)):
                total += len(files)
        return total

    def queue_texts(self):
        """What every queue file holds, raw: a test finds its ids in it."""
        for q in ("incoming", "active", "deferred", "hold"):
            for d, _, files in os.walk(os.path.join(self.queue_directory, q)):
                for n in files:
                    path = os.path.join(d, n)
                    try:
                        # Only a file with the execute bit is a finished one; the rest was never acknowledged.
                        if os.stat(path).st_mode & 0o100:
                            with open(path, "rb") as f:
                                yield f.read()
                    except OSError:
                        pass

    def maildir(self):
        from harness import Maildir
        return Maildir(os.path.join(self.maildirs, "box"))


class PostfixSut:
    """Postfix in the place of Bridgehead, with the same few verbs, to show that the tests can pass and fail."""

    def __init__(self, name="postfix-sut", data=None, env=None, wrapper=(), **_):
        self.dir = workdir(name + "-d")
        self.data = data or os.path.join(self.dir, "data")
        os.makedirs(self.data, exist_ok=True)
        os.chmod(self.data, 0o755)
        self.wrapper = wrapper
        self.p = Postfix(name, {"relayhost": "", "smtpd_forbid_bare_newline": os.environ.get("POSTFIX_BARE_NEWLINE", "normalize"), "smtpd_forbid_bare_newline_exclusions": "", "smtpd_soft_error_limit": "1000",
                                "in_flow_delay": "0", "smtp_destination_concurrency_limit": "20",
                                "smtp_data_done_timeout": "8s", "smtp_helo_timeout": "3s", "smtp_mail_timeout": "3s", "smtp_rcpt_timeout": "3s",
                                "smtp_data_init_timeout": "3s", "smtp_quit_timeout": "3s"}, root=self.data)
        self.runs = 0
        self.log_path = self.p.log_path

    def start(self, ready=True, timeout=30):
        self.p.start(self.wrapper)
        self.smtp_port = self.p.port
        self.runs += 1
        return self

    def wait_ready(self, timeout=30):
        return self

    def kill(self):
        self.p.kill()

    def stop(self):
        self.p.stop()

    def terminate(self, timeout=15):
        started = time.monotonic()
        self.p.stop()
        return time.monotonic() - started, 0

    def destroy(self):
        self.p.destroy()

    def alive(self):
        return bool(self.p.pids())

    def log_text(self):
        return self.p.log_text()

    def set(self, **settings):
        self.p.settings.update(settings)
        if self.alive():
            self.p.reload()

    def route_to(self, port, host="127.0.0.1", **_):
        self.set(relayhost=f"[{host}]:{port}")
        return self

    def relay_for(self, *networks):
        self.set(mynetworks=", ".join(networks) or "192.0.2.1")
        return self

    def route_domains(self, ports):
        """Each of these domains to a port of its own."""
        self.set(transport_maps="inline:{ " + ", ".join(f"{{{d}=smtp:[127.0.0.1]:{p}}}" for d, p in ports.items()) + " }")

    def local_domain(self, domain):
        os.makedirs(self.p.maildirs, exist_ok=True)
        shutil.chown(self.p.maildirs, "postfix", "postfix")
        self.set(virtual_mailbox_domains=domain, virtual_mailbox_base=self.p.maildirs, virtual_mailbox_maps="static:box/",
                 virtual_uid_maps="static:%d" % _uid("postfix"), virtual_gid_maps="static:%d" % _gid("postfix"), virtual_minimum_uid="1",
                 smtpd_relay_restrictions="permit_mynetworks, reject_unauth_destination")
        return self

    def mailbox(self, name, **spec):
        return self.p.maildir()     # one box for all

    def quick_retries(self, every="1s", expire=None):
        return self

    def server(self, **spec):
        return None

    def hold(self):
        self.set(defer_transports="smtp, relay")

    def release(self):
        self.set(defer_transports="")
        self.retry_now()

    def retry_now(self):
        self.p.command("postqueue", "-f", check=False)

    def waiting(self):
        return self.p.queue_count()

    def queued_ids(self, known):
        """Which of these ids lie in the queue."""
        found = set()
        for text in self.p.queue_texts():
            for m in re.finditer(rb"X-Test-Id: (\S+?)[N\x00-\x20]", text):
                found.add(m.group(1).decode())
        return found & set(known)

    def pids(self):
        return self.p.pids()

    def journal_pattern(self):
        return re.compile(re.escape(os.path.realpath(self.p.queue_directory)) + r"/(incoming|active|deferred|maildrop)/.*")


def _uid(name):
    import pwd
    return pwd.getpwnam(name).pw_uid


def _gid(name):
    import grp
    return grp.getgrnam(name).gr_gid


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "Z"


def smtp_source(port, messages, sessions=10, length=1024, sender="source@example.org", to="rcpt@example.net", more=(), timeout=600):
    """smtp-source to the end; gives the seconds it took."""
    started = time.monotonic()
    r = subprocess.run(["smtp-source", "-m", str(messages), "-s", str(sessions), "-l", str(length),
                        "-f", sender, "-t", to, *more, f"inet:127.0.0.1:{port}"],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if r.returncode or "fatal" in r.stdout:
        raise AssertionError(f"smtp-source: {r.returncode} {r.stdout[-2000:]}")
    return time.monotonic() - started


class SmtpSink:
    """Postfix's smtp-sink with its counter."""

    def __init__(self, more=(), port=None, backlog=1000):
        self.port = port or free_port()
        self.dir = workdir("smtp-sink")
        self.out = os.path.join(self.dir, "counter")
        with open(self.out, "wb") as f:
            self.process = subprocess.Popen(["smtp-sink", *(["-u", "postfix"] if os.geteuid() == 0 else []), "-c", *more, f"inet:127.0.0.1:{self.port}", str(backlog)],
                                            stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, cwd=self.dir)
        atexit.register(self.close)
        wait_for("smtp-sink to listen", self._listening, 5)

    def _listening(self):
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def counters(self):
        """The numbers of its display: sessions, quits, messages."""
        with open(self.out, "rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - 300))
            tail = f.read()
        found = re.findall(rb"(\w+)=(\d+)", tail.split(b"\r")[-1] or tail)
        if not found:
            found = re.findall(rb"(\w+)=(\d+)", tail)
        return {k.decode(): int(v) for k, v in found}

    def close(self):
        atexit.unregister(self.close)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
