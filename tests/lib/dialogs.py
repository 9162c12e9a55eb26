"""The corpus `tests/dialogs/*.smtp` as values; tests/it/dialogs.rs says what its lines mean."""

import glob
import os
import re

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dialogs")
ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


class Dialog:
    """`steps` are (kind, value): C octets (neighbours joined), S and S+ and S- text, T seconds, M count, L, E, X."""

    def __init__(self, path):
        self.name = os.path.basename(path)[:-len(".smtp")]
        self.settings, self.steps = [], []
        with open(path, encoding="utf-8") as f:
            for line in f:
                line = line.rstrip("\n")
                if not line.strip() or line.startswith("#"):
                    continue
                kind, _, rest = line.partition(" ")
                kind = kind.rstrip(":")
                if kind == "@":
                    name, _, value = rest.partition(" ")
                    self.settings.append((name, value))
                elif kind in ("C", "R"):
                    octets = unescape(rest) + (b"\r\n" if kind == "C" else b"")
                    if self.steps and self.steps[-1][0] == "C":
                        octets = self.steps.pop()[1] + octets
                    self.steps.append(("C", octets))
                else:
                    self.steps.append((kind, int(rest) if kind in ("T", "M") else rest))

    def has(self, kind):
        return any(k == kind for k, _ in self.steps)

    def said(self):
        """Everything that the client says."""
        return b"".join(value for kind, value in self.steps if kind == "C")


def unescape(text):
    out, at = b"", 0
    for m in re.finditer(r"\\x([0-9A-Fa-f]{2})|\\([rnt0\\])|\\\{x(\d+)\}", text):
        out += text[at:m.start()].encode()
        if m.group(3):
            out = out[:-1] + out[-1:] * int(m.group(3))
        else:
            out += bytes([int(m.group(1), 16)]) if m.group(1) else ESCAPES[m.group(2)]
        at = m.end()
    return out + text[at:].encode()


def corpus():
    return [Dialog(path) for path in sorted(glob.glob(os.path.join(DIRECTORY, "*.smtp")))]
