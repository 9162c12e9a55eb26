"""Mail clients as they are: each sends one message as a `Case` says, or raises with what the client printed.

A client says what it can do: the SASL mechanisms, UTF-8 addresses (SMTPUTF8), the parameters of DSN. All verify the certificate
where there is TLS. `available` gives the reason why a client cannot be had here, or None. What lib/install_clients.sh keeps in its
cache (`CACHE`) is taken from there.
"""

import asyncio
import base64
import json
import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import threading

from harness import workdir
from load import Smtp, stuff
from postfix import MASTER, Postfix

CACHE = os.environ.get("BRIDGEHEAD_TEST_CACHE") or os.path.join(
    "/var/cache" if os.geteuid() == 0 else os.path.expanduser("~/.cache"), "bridgehead-tests")
"""As in install_clients.sh. Exim goes on as a user of its own, who must get in: not below /root."""
EXIM = os.path.join(CACHE, "exim", "usr", "sbin", "exim4")
USER, PASSWORD = "ada@local.test", "Tr0ub4dor,=&3"
PLAIN, LOGIN, SCRAM, XOAUTH2, OAUTHBEARER = "PLAIN", "LOGIN", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"
NAME = "client.test"
"""What a client says in EHLO, where one can choose."""


class Case:
    """One message to send: to which port, over what, as whom, with what.

    `tls` is clear, starttls or implicit; `mechanism` None or how to log in; `dsn` asks for RET=HDRS ENVID=QQ3 (where one can)
    NOTIFY=FAILURE,DELAY; `token` is shown in place of the password by the mechanisms that want one.
    """

    def __init__(self, name, port, tls, ca, recipient, mechanism=None, sender="ada@local.test", utf8=False, dsn=False, token=None):
        self.name, self.port, self.tls, self.ca, self.recipient = name, port, tls, ca, recipient
        self.mechanism, self.sender, self.utf8, self.dsn, self.token = mechanism, sender, utf8, dsn, token
        self.id, self.raw = None, None

    def __repr__(self):
        return self.name

    def context(self):
        return ssl.create_default_context(cafile=self.ca)


def run(command, input=b"", timeout=30, **k):
    r = subprocess.run(command, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, **k)
    if r.returncode:
        raise AssertionError(f"{command[0]} ended with {r.returncode}:\n{r.stdout.decode('utf-8', 'replace')[-3000:]}")
    return r.stdout


class Client:
    """`hops` is how many trace fields there are when the message has come in: mail servers write their own."""

    mechanisms, utf8, dsn, envid, hops, command = (), False, False, True, 1, None

    def __init__(self, cases):
        """All that will be sent, for those that want to be told before."""
        self.dir = workdir(type(self).__name__.lower())

    @classmethod
    def available(cls):
        return None if shutil.which(cls.command) else f"no {cls.command}"

    def send(self, case):
        raise NotImplementedError

    def close(self):
        pass

    def file(self, name, content, mode=0o644):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)
        return path


class Swaks(Client):
    command = "swaks"
    mechanisms = (PLAIN, LOGIN)

    @classmethod
    def available(cls):
        if super().available():
            return super().available()
        text = subprocess.run(["swaks", "--support"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
        return None if "=== TLS supported" in text else "swaks without TLS (libnet-ssleay-perl)"

    def send(self, case):
        tls = {"clear": [], "starttls": ["--tls"], "implicit": ["--tls-on-connect"]}[case.tls]
        if tls:
            tls += ["--tls-verify", "--tls-ca-path", case.ca]
        login = ["--auth", case.mechanism, "--auth-user", USER, "--auth-password", PASSWORD] if case.mechanism else []
        run(["swaks", "--server", "127.0.0.1", "--port", str(case.port), "--ehlo", NAME, "--from", case.sender, "--to", case.recipient,
             # it ends the message with a CRLF of its own
             "--data", "@" + self.file("message", case.raw.removesuffix(b"\r\n")), *tls, *login])


class Smtplib(Client):
    mechanisms = (PLAIN, LOGIN)
    utf8 = dsn = True

    @classmethod
    def available(cls):
        return None

    def send(self, case):
        if case.tls == "implicit":
            c = smtplib.SMTP_SSL("127.0.0.1", case.port, NAME, timeout=20, context=case.context())
        else:
            c = smtplib.SMTP("127.0.0.1", case.port, NAME, timeout=20)
        with c:
            if case.tls == "starttls":
                c.starttls(context=case.context())
            c.ehlo()
            if case.mechanism:
                c.user, c.password = USER, PASSWORD
                c.auth(case.mechanism, {PLAIN: c.auth_plain, LOGIN: c.auth_login}[case.mechanism])
            mail, rcpt = esmtp_parameters(case)
            c.sendmail(case.sender, [case.recipient], case.raw, mail_options=mail, rcpt_options=rcpt)


def esmtp_parameters(case):
    mail = ["BODY=8BITMIME"] + (["SMTPUTF8"] if case.utf8 else []) + (["RET=HDRS", "ENVID=QQ3"] if case.dsn else [])
    return mail, ["NOTIFY=FAILURE,DELAY"] if case.dsn else []


class Aiosmtplib(Client):
    mechanisms = (PLAIN, LOGIN, XOAUTH2)
    utf8 = dsn = True

    @classmethod
    def available(cls):
        path = os.path.join(CACHE, "python")
        if path not in sys.path:
            sys.path.append(path)
        try:
            import aiosmtplib  # noqa: F401
        except ImportError as e:
            return f"no aiosmtplib ({e})"
        return None

    def send(self, case):
        asyncio.run(self.talk(case))

    async def talk(self, case):
        import aiosmtplib
        c = aiosmtplib.SMTP(hostname="127.0.0.1", port=case.port, local_hostname=NAME, timeout=20, use_tls=case.tls == "implicit",
                            start_tls=case.tls == "starttls", tls_context=case.context() if case.tls != "clear" else None)
        async with c:
            await c.ehlo()
            if case.mechanism:
                how = {PLAIN: c.auth_plain, LOGIN: c.auth_login, XOAUTH2: c.auth_xoauth2}[case.mechanism]
                await how(USER, case.token or PASSWORD)
            mail, rcpt = esmtp_parameters(case)
            await c.sendmail(case.sender, [case.recipient], case.raw, mail_options=mail, rcpt_options=rcpt)


class Nodemailer(Client):
    command = "node"
    mechanisms = (PLAIN, LOGIN, XOAUTH2)
    utf8 = dsn = True
    MODULE = os.path.join(CACHE, "node", "node_modules", "nodemailer")
    SCRIPT = """
        const [module, options, message, raw] = process.argv.slice(1);
        const mail = {...JSON.parse(message), raw: require('fs').readFileSync(raw)};
        require(module).createTransport(JSON.parse(options)).sendMail(mail).catch(e => { console.error(e); process.exit(1) });
    """

    @classmethod
    def available(cls):
        return super().available() or (None if os.path.isdir(cls.MODULE) else f"no nodemailer in {cls.MODULE}")

    def send(self, case):
        options = {"host": "127.0.0.1", "port": case.port, "name": NAME, "secure": case.tls == "implicit",
                   "requireTLS": case.tls == "starttls", "ignoreTLS": case.tls == "clear"}
        if case.tls != "clear":
            with open(case.ca) as f:
                options["tls"] = {"ca": f.read()}
        if case.mechanism == XOAUTH2:
            options["auth"] = {"type": "OAuth2", "user": USER, "accessToken": case.token}
        elif case.mechanism:
            options.update(auth={"user": USER, "pass": PASSWORD}, authMethod=case.mechanism)
        message = {"envelope": {"from": case.sender, "to": [case.recipient], "use8BitMime": True}}
        if case.dsn:
            message["dsn"] = message["envelope"]["dsn"] = {"id": "QQ3", "return": "headers", "notify": ["failure", "delay"]}
        run(["node", "-e", self.SCRIPT, self.MODULE, json.dumps(options), json.dumps(message), self.file("message", case.raw)])


class Msmtp(Client):
    command = "msmtp"
    mechanisms = (PLAIN, LOGIN, SCRAM, XOAUTH2, OAUTHBEARER)
    dsn, envid = True, False

    def send(self, case):
        lines = ["account case", "host 127.0.0.1", f"port {case.port}", f"domain {NAME}", "timeout 20"]
        if case.tls == "clear":
            lines += ["tls off"]
        else:
            lines += ["tls on", f"tls_starttls {'on' if case.tls == 'starttls' else 'off'}", f"tls_trust_file {case.ca}"]
        if case.mechanism:
            # a line of its file holds 500 octets, and a token is longer
            secret = self.file("secret", case.token or PASSWORD, 0o600)
            lines += [f"auth {case.mechanism.lower()}", f"user {USER}", f"passwordeval cat {secret}"]
        if case.dsn:
            lines += ["dsn_notify failure,delay", "dsn_return headers"]
        config = self.file("msmtprc", "\n".join(lines) + "\n", 0o600)
        # it is given a file with lines of this system, as from any program
        run(["msmtp", "-C", config, "-a", "case", "-f", case.sender, "--", case.recipient], case.raw.replace(b"\r\n", b"\n"))


class Curl(Client):
    command = "curl"
    mechanisms = (PLAIN, LOGIN, XOAUTH2, OAUTHBEARER)
    utf8 = True

    def send(self, case):
        scheme = "smtps" if case.tls == "implicit" else "smtp"
        tls = (["--ssl-reqd"] if case.tls == "starttls" else []) + (["--cacert", case.ca] if case.tls != "clear" else [])
        login = []
        if case.mechanism:
            login = ["--login-options", f"AUTH={case.mechanism}", "--user", f"{USER}:{'' if case.token else PASSWORD}"]
            login += ["--oauth2-bearer", case.token] if case.token else []
        run(["curl", "--silent", "--show-error", "--verbose", "--url", f"{scheme}://127.0.0.1:{case.port}/{NAME}", *tls, *login,
             "--mail-from", case.sender, "--mail-rcpt", case.recipient, "--upload-file", self.file("message", case.raw)],
            env={**os.environ, "LC_ALL": "C.UTF-8"})


class OpenSsl(Client):
    """`openssl s_client` with the conversation typed into it; it knows no clear."""

    command = "openssl"
    mechanisms = (PLAIN, LOGIN)
    utf8 = dsn = True

    def send(self, case):
        how = ["-starttls", "smtp", "-name", NAME] if case.tls == "starttls" else []
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{case.port}", "-CAfile", case.ca, "-verify_return_error",
                   "-verify_ip", "127.0.0.1", "-quiet", *how]
        p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        patience = threading.Timer(20, p.kill)
        patience.start()
        try:
            # ahead of STARTTLS s_client reads the greeting itself
            if case.tls == "implicit":
                self.reply(p, b"220")
            self.say(p, f"EHLO {NAME}", b"250")
            if case.mechanism == PLAIN:
                self.say(p, "AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode(), b"235")
            elif case.mechanism == LOGIN:
                self.say(p, "AUTH LOGIN", b"334")
                self.say(p, base64.b64encode(USER.encode()).decode(), b"334")
                self.say(p, base64.b64encode(PASSWORD.encode()).decode(), b"235")
            mail, rcpt = esmtp_parameters(case)
            self.say(p, " ".join([f"MAIL FROM:<{case.sender}>", *mail]), b"250")
            self.say(p, " ".join([f"RCPT TO:<{case.recipient}>", *rcpt]), b"250")
            self.say(p, "DATA", b"354")
            p.stdin.write(stuff(case.raw))
            self.reply(p, b"250")
            self.say(p, "QUIT", b"221")
            p.wait(20)
        finally:
            patience.cancel()
            p.kill()
            p.wait()
            p.stdin.close()
            p.stdout.close()

    def say(self, p, line, code):
        p.stdin.write(line.encode() + b"\r\n")
        self.reply(p, code)

    def reply(self, p, code):
        p.stdin.flush()
        lines = []
        while not lines or lines[-1][3:4] == b"-":
            lines.append(p.stdout.readline())
        if not lines[-1].startswith(code):
            raise AssertionError(f"openssl s_client: wanted {code}, got {lines}")


class PostfixClient(Client):
    """Postfix with a transport of its own per case, chosen by the domain of the recipient. Queues: it is told by SMTP.

    SCRAM is left out: its library (Cyrus SASL) refuses more than 65,536 iterations.
    """

    command = "postfix"
    mechanisms = (PLAIN, LOGIN, SCRAM)
    utf8 = dsn = True
    hops = 2

    @classmethod
    def available(cls):
        return super().available() or (None if os.geteuid() == 0 else "Postfix starts as root only")

    def __init__(self, cases):
        super().__init__(cases)
        login = self.file("sasl", "".join(f"[127.0.0.1]:{c.port} {USER}:{PASSWORD}\n" for c in cases if c.mechanism))
        transports, master = "", MASTER
        for c in cases:
            transports += f"{domain(c)} case-{c.name}:[127.0.0.1]:{c.port}\n"
            options = [f"smtp_helo_name={NAME}", f"smtp_tls_security_level={'none' if c.tls == 'clear' else 'verify'}"]
            if c.tls != "clear":
                options += [f"smtp_tls_CAfile={c.ca}", "smtp_tls_verify_cert_match=localhost"]
            if c.tls == "implicit":
                options += ["smtp_tls_wrappermode=yes"]
            if c.mechanism:
                options += ["smtp_sasl_auth_enable=yes", f"smtp_sasl_password_maps=texthash:{login}",
                            "smtp_sasl_security_options=noanonymous", f"smtp_sasl_mechanism_filter={c.mechanism}"]
            master += f"case-{c.name} unix - - n - - smtp\n" + "".join(f"  -o {o}\n" for o in options)
        self.postfix = Postfix("postfix-client", {
            "transport_maps": f"texthash:{self.file('transport', transports)}", "smtp_tls_loglevel": "1", "smtputf8_enable": "yes",
            "minimal_backoff_time": "60s"}, master_cf=master).start()

    def send(self, case):
        mail, rcpt = esmtp_parameters(case)
        with Smtp(self.postfix.port) as c:
            c.transaction(case.sender, [case.recipient], case.raw, mail=" ".join(mail), rcpt=" ".join(rcpt))

    def close(self):
        self.postfix.destroy()


def domain(case):
    return case.recipient.rsplit("@", 1)[1]


class Exim(Client):
    """Exim with a router and a transport per case; each message is said to `exim -bs` and goes out before that ends."""

    command = EXIM
    mechanisms = (PLAIN, LOGIN)
    utf8 = dsn = True
    hops = 2

    @classmethod
    def available(cls):
        if super().available():
            return super().available()
        if os.geteuid() != 0:
            return "Exim keeps its configuration as root only"
        r = subprocess.run([EXIM, "-bV", "-C", "/dev/null"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return None if r.returncode == 0 else f"{EXIM} does not run: {(r.stdout + r.stderr)[-500:]}"

    def __init__(self, cases):
        super().__init__(cases)
        for name in ("spool", "log"):
            os.makedirs(os.path.join(self.dir, name))
            shutil.chown(os.path.join(self.dir, name), "Debian-exim", "Debian-exim")
        routers, transports = "", ""
        for c in cases:
            routers += (f"r_{ident(c)}:\n  driver = manualroute\n  domains = {domain(c)}\n  transport = t_{ident(c)}\n"
                        "  route_list = * 127.0.0.1 byname\n  self = send\n\n")
            lines = ["driver = smtp", f"port = {c.port}", f"helo_data = {NAME}", "allow_localhost", "hosts_try_dane =",
                     "hosts_try_fastopen ="]
            if c.tls == "clear":
                lines += ["hosts_avoid_tls = *"]
            else:
                lines += ["hosts_require_tls = *", "tls_verify_hosts = *", f"tls_verify_certificates = {c.ca}"]
            if c.tls == "implicit":
                lines += ["protocol = smtps"]
            if c.mechanism:
                lines += ["hosts_require_auth = *"]
            transports += f"t_{ident(c)}:\n" + "".join(f"  {line}\n" for line in lines) + "\n"
        self.config = self.file("exim.conf", f"""\
exim_path = {EXIM}
spool_directory = {self.dir}/spool
log_file_path = {self.dir}/log/%slog
pid_file_path = {self.dir}/exim.pid
primary_hostname = exim.test
never_users =
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
local_from_check = false
dsn_advertise_hosts = : *
smtputf8_advertise_hosts = : *
acl_smtp_rcpt = accept_all
acl_smtp_data = accept_all
begin acl
accept_all:
  accept
begin routers
{routers}
begin transports
{transports}
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{USER}^{PASSWORD}
login:
  driver = plaintext
  public_name = LOGIN
  client_send = : {USER} : {PASSWORD}
""")

    def send(self, case):
        mail, rcpt = esmtp_parameters(case)
        said = "".join(line + "\r\n" for line in (
            f"EHLO {NAME}", " ".join([f"MAIL FROM:<{case.sender}>", *mail]), " ".join([f"RCPT TO:<{case.recipient}>", *rcpt]), "DATA"))
        out = run([EXIM, "-C", self.config, "-odi", "-bs"], said.encode() + stuff(case.raw) + b"QUIT\r\n")
        if out.count(b"\n250 OK id=") != 1:
            raise AssertionError(f"exim: {out.decode('utf-8', 'replace')}")
        if run([EXIM, "-C", self.config, "-bpc"]).strip() != b"0":
            with open(os.path.join(self.dir, "log", "mainlog"), errors="replace") as f:
                raise AssertionError(f"exim keeps it: {f.read()[-600:]}")


def ident(case):
    return case.name.replace("-", "_")
