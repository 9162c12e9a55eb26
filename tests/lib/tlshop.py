"""A next hop of Python's own TLS: takes mail, in clear or by STARTTLS, and keeps it as (sender, recipients, content).

    with TlsHop("127.0.0.1", 0, chain, key) as hop: …  hop.taken

Without a certificate it does not offer STARTTLS. It speaks as little SMTP as a sender needs.
"""

import re
import socket
import ssl
import threading


class TlsHop:
    def __init__(self, host, port=0, chain=None, key=None):
        self.taken = []
        self.context = None
        if chain:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(chain, key)
        self.socket = socket.create_server((host, port))
        self.host, self.port = self.socket.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.settimeout(60)
        try:
            self._talk(connection)
        except (OSError, ValueError):
            pass
        finally:
            connection.close()

    def _talk(self, connection):
        file = connection.makefile("rb")
        say = lambda text: connection.sendall(text.encode() + b"\r\n")
        sender, recipients, secure = "", [], False
        say("220 hop.test ESMTP")
        while line := file.readline():
            command = line.decode("utf-8", "replace").strip()
            verb = command.split(" ")[0].upper()
            path = re.search(r"<([^>]*)>", command)
            if verb == "EHLO":
                say("250-hop.test\r\n" + ("250-STARTTLS\r\n" if self.context and not secure else "") + "250 8BITMIME")
            elif verb == "STARTTLS" and self.context and not secure:
                say("220 go")
                connection = self.context.wrap_socket(connection, server_side=True)
                file, secure = connection.makefile("rb"), True
            elif verb == "MAIL":
                sender, recipients = path.group(1), []
                say("250 ok")
            elif verb == "RCPT":
                recipients.append(path.group(1))
                say("250 ok")
            elif verb == "DATA":
                say("354 go")
                content = b""
                while (more := file.readline()) != b".\r\n":
                    if not more:
                        return
                    content += more.removeprefix(b".")
                self.taken.append((sender, recipients, content))
                say("250 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")

    def close(self):
        # what waits in accept does not see a close alone
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
