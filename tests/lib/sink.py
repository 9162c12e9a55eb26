"""A next hop that keeps a ledger of exactly what arrived, and that can misbehave at every phase.

The ledger is what counts in every test about loss and duplication: a delivery is in it when the body's
end was read, with the envelope, the raw bytes and whether (and with what) it was answered.

`Fault(phase, action)` says where and how it misbehaves; `sink.plan = lambda n: Fault or None` chooses per
connection (n counts from 0). Phases: connect, banner, ehlo, starttls (when it is offered), mail, rcpt, data, body, predot,
postdot, answered, quit. Actions: cut (close), reset (RST), silence, garbage, endless (250- for ever), drip (a reply at a byte a
second), or a reply line such as "451 4.3.0 later"; octets go out as they are.
"""

import asyncio
import re
import socket
import struct
import threading
import time

ID = re.compile(rb"^X-Test-Id:[ \t]*(\S+)", re.I | re.M)


class Fault:
    def __init__(self, phase, action, recipient=None, after=0, then=None):
        self.phase, self.action, self.recipient, self.after, self.then = phase, action, recipient, after, then

    def __repr__(self):
        return f"{self.phase}: {self.action[:40]}"


class Delivery:
    """A message whose end was read."""

    __slots__ = ("sender", "recipients", "raw", "answer", "at", "connection", "id", "mail_args", "rcpt_args")

    def __init__(self, sender, recipients, raw, answer, connection, mail_args="", rcpt_args=()):
        self.sender, self.recipients, self.raw, self.answer = sender, recipients, raw, answer
        self.connection, self.at = connection, time.time()
        self.mail_args, self.rcpt_args = mail_args, list(rcpt_args)
        found = ID.search(raw)
        self.id = found.group(1).decode() if found else None

    @property
    def accepted(self):
        return self.answer is not None and self.answer.startswith("2")

    @property
    def content(self):
        """The message with dots unstuffed, lines ending in CRLF."""
        return b"\r\n".join(l[1:] if l.startswith(b".") else l for l in self.raw.split(b"\r\n"))


class Cut(Exception):
    pass


class Sink:
    """Listens on a port of its own, in a thread of its own."""

    def __init__(self, host="127.0.0.1", port=0, plan=None, keep_raw=True, delay=0.0, extensions=("PIPELINING", "8BITMIME", "SIZE 104857600", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8")):
        self.host, self.port, self.plan, self.keep_raw, self.delay = host, port, plan, keep_raw, delay
        self.extensions = list(extensions)
        self.deliveries = []
        self.dialogs = []       # (connection, "C"/"S", line)
        self.connections = 0
        self.open = 0
        self.commands = 0
        self.reject_recipient = None   # function(address) -> reply or None
        self.loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait(10)
        if self._error:
            raise self._error

    def _run(self):
        asyncio.set_event_loop(self.loop)
        try:
            self._server = self.loop.run_until_complete(
                asyncio.start_server(self._serve, self.host, self.port, limit=1 << 21, backlog=1024))
            self.port = self._server.sockets[0].getsockname()[1]
        except OSError as e:
            self._error = e
            self._up.set()
            return
        self._up.set()
        self.loop.run_forever()

    def close(self):
        def down():
            self._server.close()
            for t in asyncio.all_tasks(self.loop):
                t.cancel()
            self.loop.call_later(0.05, self.loop.stop)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(down)
            self._thread.join(5)

    # --- the ledger ---

    def accepted(self):
        return [d for d in list(self.deliveries) if d.accepted]

    def ids(self):
        """id -> how often it was accepted."""
        out = {}
        for d in self.accepted():
            out[d.id] = out.get(d.id, 0) + 1
        return out

    def by_id(self, id):
        return [d for d in list(self.deliveries) if d.id == id]

    def wait(self, count, timeout=30):
        end = time.monotonic() + timeout
        while len(self.deliveries) < count:
            if time.monotonic() > end:
                raise AssertionError(f"sink has {len(self.deliveries)} of {count} messages after {timeout} s")
            time.sleep(0.02)
        return list(self.deliveries)

    def wait_accepted(self, ids, timeout=60):
        """Waits until each of these ids was accepted; gives those still missing when time is up."""
        end = time.monotonic() + timeout
        while True:
            missing = set(ids) - set(self.ids())
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.1)

    # --- the protocol ---

    async def _act(self, action, writer, n):
        """Does what the fault says; True when the dialog goes on after a reply."""
        if action == "cut":
            raise Cut
        if action == "reset":
            s = writer.get_extra_info("socket")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            raise Cut
        if action == "silence":
            await asyncio.sleep(3600)
        data = action if isinstance(action, bytes) else action.encode() + b"\r\n"
        if action == "garbage":
            data = b"\x00\xff\xfe garbage \x80\r\n" * 3
        if action == "endless":
            while True:
                writer.write(b"250-more\r\n" * 1000)
                await writer.drain()
        if action == "drip":
            for byte in b"250-" + b"a" * 3600:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        await self._say(writer, data, n)
        if action in ("garbage",) or (isinstance(action, str) and action.startswith("421")):
            raise Cut
        return True

    async def _say(self, writer, data, n):
        if isinstance(data, str):
            data = data.encode() + b"\r\n"
        self.dialogs.append((n, "S", data[:200]))
        writer.write(data)
        await writer.drain()

    async def _serve(self, reader, writer):
        n = self.connections
        self.connections += 1
        self.open += 1
        try:
            await self._dialog(Wire(reader), writer, n, self.plan(n) if self.plan else None)
        except (Cut, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open -= 1
            try:
                writer.close()
            except Exception:
                pass

    async def _line(self, reader, n):
        line = await reader.line()
        self.commands += 1
        self.dialogs.append((n, "C", line[:300]))
        if len(self.dialogs) > 200000:
            del self.dialogs[:100000]
        return line.rstrip(b"\r\n")

    async def _dialog(self, reader, writer, n, fault):
        fired = []

        def due(phase, address=None):
            """Whether the fault is due here; it happens once on a connection, which may be used again."""
            if fault is None or fired or fault.phase != phase or (
                    fault.recipient is not None and address is not None and fault.recipient not in address):
                return False
            fired.append(phase)
            return True

        if due("connect"):
            await self._act(fault.action, writer, n)
        if due("banner"):
            if await self._act(fault.action, writer, n) and not str(fault.action).startswith("2"):
                await self._after_refusal(reader, writer, n)
                return
        else:
            await self._say(writer, "220 sink.test ESMTP ledger", n)
        sender, recipients, mail_args, rcpt_args = None, [], "", []
        while True:
            line = await self._line(reader, n)
            text = line.decode("utf-8", "replace")
            verb = text[:4].upper()
            if verb in ("EHLO", "HELO"):
                if due("ehlo"):
                    await self._act(fault.action, writer, n)
                    continue
                if verb == "EHLO":
                    lines = ["sink.test"] + self.extensions
                    await self._say(writer, "\r\n".join(
                        f"250{' ' if i == len(lines) - 1 else '-'}{l}" for i, l in enumerate(lines)), n)
                else:
                    await self._say(writer, "250 sink.test", n)
            elif verb == "MAIL":
                if due("mail"):
                    await self._act(fault.action, writer, n)
                    continue
                m = re.match(r"MAIL FROM:\s*<(.*?)>\s*(.*)$", text, re.I)
                if not m:
                    await self._say(writer, "501 5.5.4 syntax", n)
                    continue
                sender, mail_args = m.group(1), m.group(2)
                recipients, rcpt_args = [], []
                await self._say(writer, "250 2.1.0 ok", n)
            elif verb == "RCPT":
                m = re.match(r"RCPT TO:\s*<(.*)>\s*(.*)$", text, re.I)
                address = m.group(1) if m else ""
                refusal = self.reject_recipient(address) if self.reject_recipient else None
                if due("rcpt", address):
                    await self._act(fault.action, writer, n)
                elif refusal:
                    await self._say(writer, refusal, n)
                elif sender is None:
                    await self._say(writer, "503 5.5.1 MAIL first", n)
                else:
                    recipients.append(address)
                    rcpt_args.append(m.group(2) if m else "")
                    await self._say(writer, "250 2.1.5 ok", n)
            elif verb == "DATA":
                if due("data"):
                    await self._act(fault.action, writer, n)
                    sender, recipients = None, []
                    continue
                if not recipients:
                    await self._say(writer, "503 5.5.1 no recipients", n)
                    continue
                await self._say(writer, "354 go on", n)
                raw = await self._body(reader, writer, n, fault if fault is not None and fault.phase in ("body", "predot") else None)
                if self.delay:
                    await asyncio.sleep(self.delay)
                if due("postdot"):
                    self._enter(sender, recipients, raw, None if not str(fault.action)[:1].isdigit() else fault.action, n, mail_args, rcpt_args)
                    await self._act(fault.action, writer, n)
                else:
                    answer = f"250 2.0.0 taken as {len(self.deliveries)}"
                    self._enter(sender, recipients, raw, answer, n, mail_args, rcpt_args)
                    await self._say(writer, answer, n)
                    if due("answered"):
                        await self._act(fault.action, writer, n)
                sender, recipients = None, []
            elif verb == "STAR":
                if due("starttls"):
                    await self._act(fault.action, writer, n)
                else:
                    await self._say(writer, "454 4.7.0 no TLS now", n)
            elif verb == "RSET":
                sender, recipients = None, []
                await self._say(writer, "250 2.0.0 ok", n)
            elif verb == "NOOP":
                await self._say(writer, "250 2.0.0 ok", n)
            elif verb == "QUIT":
                if due("quit"):
                    await self._act(fault.action, writer, n)
                await self._say(writer, "221 2.0.0 bye", n)
                return
            else:
                await self._say(writer, "500 5.5.2 what", n)

    async def _after_refusal(self, reader, writer, n):
        """After a refusing banner everything but QUIT is 503."""
        while True:
            line = await self._line(reader, n)
            if line[:4].upper() == b"QUIT":
                await self._say(writer, "221 2.0.0 bye", n)
                return
            await self._say(writer, "503 5.5.1 no", n)

    def _enter(self, sender, recipients, raw, answer, n, mail_args, rcpt_args):
        d = Delivery(sender, list(recipients), raw, answer, n, mail_args, rcpt_args)
        if not self.keep_raw:
            d.raw = b""
        self.deliveries.append(d)

    async def _body(self, reader, writer, n, fault):
        """Reads to CRLF.CRLF, the only end there is; gives the stuffed bytes up to and with the last CRLF."""
        if fault is not None:
            got = b""
            while True:
                chunk = await reader.read(1024)
                got += chunk
                if fault.phase == "body" and len(got) >= max(1, fault.after):
                    break
                if fault.phase == "predot" and (b"LAST-LINE" in got or got.endswith(b"\r\n.\r\n")):
                    break
            await self._act(fault.action, writer, n)
            raise Cut
        return await reader.body()


class Wire:
    """The bytes of one connection, so that what follows the dot in the same segment is not lost."""

    def __init__(self, reader):
        self.reader, self.buffer = reader, bytearray()

    async def more(self, limit=1 << 18):
        chunk = await self.reader.read(limit)
        if not chunk:
            raise Cut
        self.buffer += chunk

    async def line(self):
        while True:
            i = self.buffer.find(b"\n")
            if i >= 0:
                line = bytes(self.buffer[:i + 1])
                del self.buffer[:i + 1]
                return line
            if len(self.buffer) > 1 << 20:
                raise Cut
            await self.more()

    async def read(self, limit):
        if not self.buffer:
            await self.more(limit)
        chunk = bytes(self.buffer[:limit])
        del self.buffer[:limit]
        return chunk

    async def body(self):
        """To CRLF.CRLF, or a dot line that comes first."""
        while len(self.buffer) < 3:
            await self.more()
        if self.buffer[:3] == b".\r\n":
            del self.buffer[:3]
            return b""
        start = 0
        while True:
            i = self.buffer.find(b"\r\n.\r\n", start)
            if i >= 0:
                raw = bytes(self.buffer[:i + 2])
                del self.buffer[:i + 5]
                return raw
            start = max(0, len(self.buffer) - 4)
            await self.more()
