"""Mail servers of others as next hops: Postfix, Exim, OpenSMTPD, each taking mail by STARTTLS from who has logged in, and from nobody
else, and taking it on by domain to ports of this machine.

    hop = Exim("exim.test", chain, key, {"far.test": sink.port}).start()

`mechanisms` are those by which one logs in to it; `says_dsn` whether it offers DSN; `host` is how it names itself; `logins()` are the
lines of its log about logins that went well. `available()` gives the reason why a server cannot be had here, or None.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess

import dovecot
from clients import CACHE, EXIM, PASSWORD, USER
from clients import Exim as EximClient
from dovecot import Dovecot
from harness import free_port, wait_for, workdir
from postfix import Postfix

OPENSMTPD = os.path.join(CACHE, "opensmtpd")


def pair():
    """Key and certificate for 127.0.0.1: paths of (chain, key), which mail servers may read."""
    where = workdir("pair")
    key, chain = os.path.join(where, "key.pem"), os.path.join(where, "chain.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hop.test",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain], check=True, capture_output=True)
    os.chmod(key, 0o600)
    return chain, key


class Hop:
    host, mechanisms, says_dsn, password = None, ("plain", "login"), True, PASSWORD

    def __init__(self, chain, key, routes):
        self.chain, self.key, self.routes, self.port = chain, key, routes, free_port()
        self.dir = workdir(type(self).__name__.lower())
        self.log = os.path.join(self.dir, "output")
        self.process = None

    @classmethod
    def available(cls):
        return None if os.geteuid() == 0 else f"{cls.__name__} starts as root only"

    def run(self, command):
        """Starts it in the foreground, its output in its log."""
        with open(os.path.join(self.dir, "output"), "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        atexit.register(self.stop)

        def greets():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.host} ended:\n{self.log_text()[-2000:]}")
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                return s.recv(100).startswith(b"220")
        wait_for(f"{self.host} to greet", greets, 20)
        return self

    def stop(self):
        atexit.unregister(self.stop)
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def file(self, name, text, mode=0o644):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def log_text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def logins(self, words):
        return [line for line in self.log_text().splitlines() if words in line]


class PostfixHop(Hop):
    """Its passwords are those of a Dovecot, which knows SCRAM too."""

    host, mechanisms, password = "postfix.test", ("plain", "login", "scramSha256"), dovecot.PASSWORD

    @classmethod
    def available(cls):
        return super().available() or dovecot.why_not() or (None if shutil.which("postfix") else "no Postfix here (tests/lib/install.sh)")

    def start(self):
        self.accounts = Dovecot([USER]).start()
        os.chmod(self.accounts.dir, 0o755)
        self.postfix = Postfix("hop", {
            "smtpd_tls_security_level": "encrypt", "smtpd_tls_key_file": self.key, "smtpd_tls_cert_file": self.chain,
            "smtpd_tls_auth_only": "yes", "smtpd_tls_received_header": "yes", "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": self.accounts.auth, "smtpd_sasl_authenticated_header": "yes",
            "smtpd_client_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "transport_maps": "inline:{ " + ", ".join(f"{{{d}=smtp:[127.0.0.1]:{p}}}" for d, p in self.routes.items()) + " }",
        })
        self.postfix.port, self.log = self.port, self.postfix.log_path
        self.postfix.start()
        return self

    def stop(self):
        self.postfix.destroy()
        self.accounts.stop()

    def logins(self, mechanism):
        word = {"plain": "PLAIN", "login": "LOGIN", "scramSha256": "SCRAM-SHA-256"}[mechanism]
        return super().logins(f"sasl_method={word}, sasl_username={USER}")


class Exim(Hop):
    """As it comes: DSN is not offered unless it is told to."""

    host, says_dsn = "exim.test", False

    @classmethod
    def available(cls):
        return super().available() or EximClient.available()

    def start(self):
        for name in ("spool", "log.d"):
            os.makedirs(os.path.join(self.dir, name))
            shutil.chown(os.path.join(self.dir, name), "Debian-exim", "Debian-exim")
        self.log = os.path.join(self.dir, "log.d", "mainlog")
        key = shutil.copy(self.key, os.path.join(self.dir, "key.pem"))
        shutil.chown(key, "Debian-exim", "Debian-exim")
        routers = "".join(f"r{n}:\n  driver = manualroute\n  domains = {d}\n  transport = t{n}\n  route_list = * 127.0.0.1 byname\n"
                          "  self = send\n\n" for n, d in enumerate(self.routes))
        transports = "".join(f"t{n}:\n  driver = smtp\n  port = {p}\n  allow_localhost\n  hosts_avoid_tls = *\n  hosts_try_dane =\n"
                             "  hosts_try_fastopen =\n\n" for n, p in enumerate(self.routes.values()))
        config = self.file("exim.conf", f"""\
exim_path = {EXIM}
spool_directory = {self.dir}/spool
log_file_path = {self.dir}/log.d/%slog
log_selector = +received_recipients
pid_file_path = {self.dir}/exim.pid
primary_hostname = {self.host}
never_users =
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
deliver_drop_privilege = true
tls_advertise_hosts = *
tls_certificate = {self.chain}
tls_privatekey = {key}
auth_advertise_hosts = ${{if def:tls_in_cipher {{*}}{{}}}}
acl_smtp_rcpt = known
acl_smtp_data = known
begin acl
known:
  deny message = TLS first
       !encrypted = *
  accept authenticated = *
  deny message = login first
begin routers
{routers}
begin transports
{transports}
begin retry
* * F,1h,1s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USER}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
""")
        return self.run([EXIM, "-C", config, "-bdf", "-q1m", "-oX", f"127.0.0.1:{self.port}"])

    def logins(self, mechanism):
        return super().logins(f" A={mechanism}:{USER}")


class OpenSmtpd(Hop):
    """Its paths are fixed when it is built, so it lives where /var/spool, /var/lib, /run and /usr/libexec are directories of ours."""

    host, password = "opensmtpd.test", PASSWORD

    @classmethod
    def available(cls):
        if super().available():
            return super().available()
        if not os.access(os.path.join(OPENSMTPD, "usr/sbin/smtpd"), os.X_OK):
            return f"no OpenSMTPD in {OPENSMTPD} (tests/lib/install_clients.sh)"
        r = subprocess.run(["unshare", "-m", "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return None if r.returncode == 0 else f"no mount namespaces here, and so no OpenSMTPD: {r.stderr.strip()}"

    def start(self):
        for name in ("spool", "spool/smtpd", "lib", "lib/opensmtpd", "lib/opensmtpd/empty", "run"):
            os.makedirs(os.path.join(self.dir, name), mode=0o755)
        os.chmod(os.path.join(self.dir, "spool/smtpd"), 0o711)
        # SHA-512, which its crypt() knows
        secret = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
        accounts = self.file("accounts", f"{USER} {secret}\n")
        rules = "".join(f'action "a{n}" relay host smtp://127.0.0.1:{p}\nmatch auth from any for domain "{d}" action "a{n}"\n'
                        f'match from local for domain "{d}" action "a{n}"\n' for n, (d, p) in enumerate(self.routes.items()))
        config = self.file("smtpd.conf", f"""\
pki hop cert "{self.chain}"
pki hop key "{self.key}"
table accounts file:{accounts}
listen on 127.0.0.1 port {self.port} tls-require pki hop auth <accounts> hostname {self.host} received-auth
{rules}""")
        self.file("mailname", self.host + "\n")
        mounts = " && ".join(f"mount --bind {ours} {there}" for ours, there in (
            (f"{self.dir}/spool", "/var/spool"), (f"{self.dir}/lib", "/var/lib"), (f"{self.dir}/run", "/run"),
            (f"{OPENSMTPD}/usr/libexec", "/usr/libexec")))
        return self.run(["unshare", "-m", "--propagation", "private", "sh", "-ec",
                         f"{mounts} && exec {OPENSMTPD}/usr/sbin/smtpd -d -f {config}"])

    def logins(self, mechanism):
        """It does not say by which mechanism."""
        return super().logins(f"smtp authentication user={USER} result=ok")


HOPS = (PostfixHop, Exim, OpenSmtpd)
