"""A small DNS server for tests: UDP and TCP, a table of answers, and the failures one meets.

    zone = {("example.net", "MX"): [(10, "mx1.example.net")], ("mx1.example.net", "A"): ["127.0.0.1"]}
    with DnsServer(zone) as dns: …  dns.address -> "127.0.0.1:PORT"

An answer may also be a word: "NXDOMAIN", "SERVFAIL", "REFUSED", "TIMEOUT" (says nothing), "TRUNCATE" (UDP says:
ask by TCP; then ("name", "TYPE+tcp") holds the answer), "LAME" (an answer to another question). A name that
is in the table with another type answers NODATA; one that is not, NXDOMAIN. CNAME is followed in the table.
"""

import socket
import struct
import threading

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28}
NAMES = {v: k for k, v in TYPES.items()}
CODES = {"SERVFAIL": 2, "NXDOMAIN": 3, "REFUSED": 5}


def encode_name(name):
    out = b""
    for label in name.strip(".").split("."):
        if label:
            out += bytes([len(label)]) + label.encode()
    return out + b"\0"


def decode_name(data, at):
    labels = []
    while data[at]:
        if data[at] & 0xC0:
            raise ValueError("compressed question")
        labels.append(data[at + 1:at + 1 + data[at]].decode("latin-1"))
        at += 1 + data[at]
    return ".".join(labels).lower(), at + 1


def encode_data(kind, value):
    if kind == "A":
        return socket.inet_aton(value)
    if kind == "AAAA":
        return socket.inet_pton(socket.AF_INET6, value)
    if kind == "MX":
        return struct.pack(">H", value[0]) + encode_name(value[1])
    if kind in ("CNAME", "NS"):
        return encode_name(value)
    if kind == "TXT":
        return bytes([len(value)]) + value.encode()
    raise ValueError(kind)


class DnsServer:
    def __init__(self, zone=None, host="127.0.0.1", ttl=1):
        self.zone = {(n.lower().strip("."), t): v for (n, t), v in (zone or {}).items()}
        self.ttl = ttl
        self.questions = []
        while True:
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((host, 0))
            self.port = self.udp.getsockname()[1]
            self.tcp = socket.socket()
            self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self.tcp.bind((host, self.port))
                break
            except OSError:
                self.udp.close()
                self.tcp.close()
        self.tcp.listen(50)
        self.address = f"{host}:{self.port}"
        self.closed = False
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()

    def close(self):
        self.closed = True
        self.udp.close()
        self.tcp.close()

    def set(self, name, kind, value):
        self.zone[(name.lower().strip("."), kind)] = value

    def _serve_udp(self):
        while not self.closed:
            try:
                data, peer = self.udp.recvfrom(4096)
                answer = self.answer(data, tcp=False)
                if answer:
                    self.udp.sendto(answer, peer)
            except OSError:
                return
            except Exception:
                continue

    def _serve_tcp(self):
        while not self.closed:
            try:
                c, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._tcp_one, args=(c,), daemon=True).start()

    def _tcp_one(self, c):
        try:
            c.settimeout(10)
            while True:
                head = c.recv(2, socket.MSG_WAITALL)
                if len(head) < 2:
                    return
                data = c.recv(struct.unpack(">H", head)[0], socket.MSG_WAITALL)
                answer = self.answer(data, tcp=True)
                if answer:
                    c.sendall(struct.pack(">H", len(answer)) + answer)
        except OSError:
            pass
        finally:
            c.close()

    def answer(self, data, tcp):
        id, flags, questions = struct.unpack(">HHH", data[:6])
        name, at = decode_name(data, 12)
        kind_number, _ = struct.unpack(">HH", data[at:at + 4])
        kind = NAMES.get(kind_number, str(kind_number))
        question = data[12:at + 4]
        self.questions.append((name, kind, "tcp" if tcp else "udp"))
        records, code, truncated = [], 0, False
        at_name = name
        for _ in range(20):
            value = self.zone.get((at_name, kind + "+tcp")) if tcp else None
            if value is None:
                value = self.zone.get((at_name, kind))
            if value is None:
                value = self.zone.get((at_name, "*"))
            if value == "TIMEOUT":
                return None
            if value == "LAME":
                question = encode_name("other.invalid") + question[-4:]
                break
            if value == "TRUNCATE":
                truncated = True
                break
            if isinstance(value, str):
                code = CODES[value]
                break
            if value is not None:
                records += [(at_name, kind, v) for v in value]
                break
            alias = self.zone.get((at_name, "CNAME"))
            if alias is None:
                if not any(n == at_name or n.endswith("." + at_name) for n, _ in self.zone):
                    code = CODES["NXDOMAIN"]
                break
            records.append((at_name, "CNAME", alias[0]))
            at_name = alias[0].lower().strip(".")
        body = b"".join(encode_name(n) + struct.pack(">HHIH", TYPES[k], 1, self.ttl, len(d := encode_data(k, v))) + d
                        for n, k, v in records)
        if not tcp and len(body) > 1200:
            truncated, body, records = True, b"", []
        # Negative answers carry an SOA, so that a resolver may keep them for a second.
        authority = b""
        if not records and not truncated and code in (0, 3):
            soa = encode_name("ns.test") + encode_name("root.test") + struct.pack(">IIIII", 1, 60, 60, 60, 1)
            authority = encode_name(name) + struct.pack(">HHIH", 6, 1, 1, len(soa)) + soa
        out_flags = 0x8400 | (flags & 0x0100) | 0x0080 | (0x0200 if truncated else 0) | code
        return struct.pack(">HHHHHH", id, out_flags, 1, len(records), 1 if authority else 0, 0) + question + body + authority


def ask(address, name, kind, tcp=False, timeout=2):
    """A question, for the test of the server: (response code, truncated, number of answers), or None."""
    host, port = address.rsplit(":", 1)
    q = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + encode_name(name) + struct.pack(">HH", TYPES[kind], 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    s.settimeout(timeout)
    try:
        s.connect((host, int(port)))
        if tcp:
            s.sendall(struct.pack(">H", len(q)) + q)
            s.recv(2, socket.MSG_WAITALL)
        else:
            s.send(q)
        d = s.recv(65535)
    except TimeoutError:
        return None
    finally:
        s.close()
    _, flags, _, answers, _, _ = struct.unpack(">HHHHHH", d[:12])
    return flags & 15, bool(flags & 0x0200), answers
