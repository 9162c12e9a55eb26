"""A Dovecot of our own: LMTP by TCP and by a unix socket, IMAP to read back, on loopback only; the logins of a Postfix (`auth`).

It needs root, as Dovecot does to become other users. Its configuration (2.3), its mail and its log lie in a directory that
goes away with the test. Users are the ones that are given; everybody else is unknown to it (550 5.1.1 at RCPT).
"""

import atexit
import imaplib
import os
import signal
import socket
import subprocess

from harness import free_port, wait_for, workdir

DOVECOT = "/usr/sbin/dovecot"
PASSWORD = "of-the-tests"


def why_not():
    """Why there can be no Dovecot here, or nothing."""
    if os.geteuid() != 0:
        return "Dovecot needs root"
    if not os.access(DOVECOT, os.X_OK):
        return "no Dovecot here (tests/lib/install.sh)"
    return None


class Dovecot:
    """Started with `start()`. `quotas` gives users a limit in octets; they are refused for good beyond it."""

    def __init__(self, users, quotas=None):
        self.dir = workdir("dovecot")
        self.users, self.quotas = users, dict(quotas or {})
        self.lmtp_port, self.imap_port = free_port(), free_port()
        self.socket = os.path.join(self.dir, "lmtp")
        self.auth = os.path.join(self.dir, "auth")
        self.log = os.path.join(self.dir, "log")
        self.process = None
        mail = os.path.join(self.dir, "mail")
        os.makedirs(mail, exist_ok=True)
        os.chmod(mail, 0o777)
        with open(os.path.join(self.dir, "users"), "w") as f:
            for user in users:
                rule = f"userdb_quota_rule=*:bytes={self.quotas[user]}" if user in self.quotas else ""
                f.write(f"{user}:{{PLAIN}}{PASSWORD}::::::{rule}\n")
        with open(os.path.join(self.dir, "dovecot.conf"), "w") as f:
            f.write(f"""
base_dir = {self.dir}/run
state_dir = {self.dir}/state
log_path = {self.log}
protocols = lmtp imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_username_format = %Lu
auth_mechanisms = plain login scram-sha-256
mail_location = maildir:{mail}/%n
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
mail_plugins = quota
plugin {{
  quota = maildir:User quota
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {self.dir}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={mail}/%n/home
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.lmtp_port}
  }}
  unix_listener {self.socket} {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener {self.auth} {{
    mode = 0666
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {self.imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
protocol lmtp {{
  lmtp_rcpt_check_quota = no
}}
""")

    def start(self):
        self.process = subprocess.Popen(
            [DOVECOT, "-F", "-c", os.path.join(self.dir, "dovecot.conf")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
        atexit.register(self.stop)

        def greets():
            if self.process.poll() is not None:
                raise RuntimeError(f"Dovecot ended:\n{self.log_text()}")
            with socket.create_connection(("127.0.0.1", self.lmtp_port), timeout=2) as s:
                s.settimeout(2)
                return s.recv(3) == b"220"
        wait_for("Dovecot's greeting", greets, 20)
        return self

    def stop(self):
        atexit.unregister(self.stop)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def log_text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def messages(self, user):
        """All of the inbox, read by IMAP."""
        c = imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=10)
        try:
            c.login(user, PASSWORD)
            _, (count,) = c.select("INBOX", readonly=True)
            if int(count) == 0:
                return []
            _, parts = c.fetch("1:*", "(BODY.PEEK[])")
            return [part[1] for part in parts if isinstance(part, tuple)]
        finally:
            c.logout()
