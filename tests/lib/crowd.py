"""Many SMTP conversations at a time, each said in pieces of one's choice, each reply and the end checked.

A conversation is a list of steps as lib/dialogs.py has them. `cut` is where the octets of the client are cut in two, counted
over all of them; "each" sends octet by octet; None sends each group whole.
"""

import asyncio
import logging
import socket
import ssl

GAP = 0.002
"""Between two pieces: long enough that they are not read together, most of the time."""


# it tells of every write on a connection that the other side has closed
logging.getLogger("asyncio").setLevel(logging.ERROR)


class Wrong(Exception):
    """The server did not keep to the conversation."""


def anybody():
    """TLS with whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Talk:
    def __init__(self, port, host="127.0.0.1", tls="clear", source=None, patience=30, hello="EHLO"):
        self.port, self.host, self.tls, self.source, self.patience, self.hello = port, host, tls, source, patience, hello
        self.buffer = b""

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(
            self.host, self.port, ssl=anybody() if self.tls == "implicit" else None,
            local_addr=(self.source, 0) if self.source else None)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls == "starttls":
            # the banner is seen in clear and given to the conversation as if it came now
            banner = await self.reply()
            for line, code in ((f"{self.hello} before.tls\r\n".encode(), "250"), (b"STARTTLS\r\n", "220")):
                self.writer.write(line)
                last = (await self.reply())[-1]
                if not last.startswith(code):
                    raise Wrong(f"{line!r}: {last}")
            await self.encrypt()
            self.buffer = "\r\n".join(banner).encode() + b"\r\n"
        return self

    async def encrypt(self):
        if self.buffer:
            raise Wrong(f"in clear, ahead of the handshake: {self.buffer!r}")
        await self.writer.start_tls(anybody())

    async def say(self, octets, cut=None):
        pieces = [octets]
        if cut == "each":
            pieces = [octets[i:i + 1] for i in range(len(octets))]
        elif cut is not None and 0 < cut < len(octets):
            pieces = [octets[:cut], octets[cut:]]
        for n, piece in enumerate(pieces):
            if n:
                await asyncio.sleep(0 if cut == "each" else GAP)
            self.writer.write(piece)
        await self.writer.drain()

    async def reply(self):
        """The lines of a reply."""
        lines = []
        while True:
            while b"\r\n" not in self.buffer:
                got = await asyncio.wait_for(self.reader.read(65536), self.patience)
                if not got:
                    raise Wrong(f"closed instead of a reply, behind {lines!r} {self.buffer!r}")
                self.buffer += got
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            lines.append(line.decode())
            if line[3:4] != b"-":
                return lines

    async def ended(self):
        """Nothing more comes, and the connection is closed."""
        try:
            while got := await asyncio.wait_for(self.reader.read(65536), self.patience):
                self.buffer += got
        except (ConnectionError, ssl.SSLError):
            pass
        except TimeoutError:
            raise Wrong("it is open") from None
        if self.buffer:
            raise Wrong(f"more replies: {self.buffer!r}")

    def close(self):
        # a polite end of TLS is worth no wait
        self.writer.transport.abort()


async def play(steps, port, cut=None, **talk):
    """Plays a conversation; raises Wrong, or what the network says. Gives the count of the last M."""
    c = Talk(port, **talk)
    count, at, last = 0, 0, []
    try:
        await c.open()
        for n, (kind, value) in enumerate(steps):
            where = f"step {n + 1} {kind} {value!r:.80}"
            if kind == "C":
                try:
                    await c.say(value, cut - at if isinstance(cut, int) else cut)
                except ConnectionError:
                    pass    # it may have closed over what it read; the replies are what counts
                at += len(value)
            elif kind == "S":
                try:
                    last = await c.reply()
                except (Wrong, OSError, asyncio.TimeoutError) as e:
                    raise Wrong(f"{where}: {e!r}") from None
                if not last[-1].startswith(value):
                    raise Wrong(f"{where}: the reply is {last}")
            elif kind in ("S+", "S-"):
                if any(line[4:].startswith(value) for line in last) != (kind == "S+"):
                    raise Wrong(f"{where}: the reply is {last}")
            elif kind == "M":
                count = value
            elif kind == "L":
                await c.encrypt()
            elif kind == "E":
                c.writer.write_eof()
            elif kind == "X":
                await c.ended()
                return count
            else:
                raise Wrong(f"{where} cannot be played")
        if c.tls == "clear" and not isinstance(c.writer.transport.get_extra_info("ssl_object"), ssl.SSLObject):
            if c.writer.can_write_eof():
                c.writer.write_eof()
            await c.ended()
        elif c.buffer:
            raise Wrong(f"more replies: {c.buffer!r}")
        return count
    finally:
        if hasattr(c, "writer"):
            c.close()


def run_all(jobs, at_a_time=48):
    """Runs coroutine functions, so many at a time; gives what each gave, or its exception, in order."""
    async def all_of_them():
        jobs_left = iter(enumerate(jobs))
        results = [None] * len(jobs)

        async def work():
            for n, job in jobs_left:
                try:
                    results[n] = await job()
                except (Wrong, OSError, ssl.SSLError, asyncio.TimeoutError) as e:
                    results[n] = e
        await asyncio.gather(*(work() for _ in range(at_a_time)))
        return results
    return asyncio.run(all_of_them())
