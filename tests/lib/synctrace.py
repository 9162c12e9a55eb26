"""Reads a system-call trace and judges the promise of a 250: synced first, answered then.

For each message the trace must show, in this order (the order of strace's lines, which is the order in which
the one tracing process saw them):

 1. the end of the body read from the client's socket,
 2. a write of the message's last line to a journal file, complete,
 3. an fdatasync (or fsync) of that file that *begins after* 2 and returns 0,
 4. where that file was created in the trace: an fsync of its directory that begins after the creation and returns 0,
 5. the write of `250 …` to that socket.

A message is recognised by its last line, `END-<id>;`. `mutate` gives damaged copies of a trace, each of which
must be found guilty: that is how the check shows that it can fail.
"""

import os
import re

STRACE = ["strace", "-f", "-ttt", "-yy", "-s", "8000000", "-e", "signal=none", "-e",
          "trace=read,readv,pread64,recvfrom,recvmsg,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,"
          "fdatasync,fsync,sync_file_range,openat,rename,renameat,renameat2,close"]

LINE = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$", re.S)
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.S)
CALL = re.compile(r"^(\w+)\((.*)$", re.S)
FD = re.compile(r"^(-?\w+)<((?:[^<>]|<[^<>]*>|->)*?)>(?=[,) ])", re.S)
RETURN = re.compile(r"\) += (-?\d+|\?)([^=]*)$", re.S)
END = re.compile(r"END-([\w.]+);")


class Event:
    __slots__ = ("start", "end", "pid", "call", "fd", "path", "text", "ret", "rest")


def events(lines):
    """The finished calls of a trace, by the line in which they ended."""
    open_calls = {}
    for n, line in enumerate(lines):
        m = LINE.match(line)
        if not m:
            continue
        pid, _, text = m.groups()
        start = n
        r = RESUMED.match(text)
        if r:
            begun = open_calls.pop((pid, r.group(1)), None)
            if begun is None:
                continue
            start, head = begun
            text = head + r.group(2)
        elif "<unfinished ...>" in text[-40:]:
            c = CALL.match(text)
            if c:
                open_calls[(pid, c.group(1))] = (n, text[:text.rindex("<unfinished ...>")].rstrip())
            continue
        c = CALL.match(text)
        ret = RETURN.search(text)
        if not c or not ret or ret.group(1) == "?":
            continue
        e = Event()
        e.start, e.end, e.pid, e.call, e.text = start, n, pid, c.group(1), c.group(2)
        e.ret, e.rest = int(ret.group(1)), ret.group(2)
        f = FD.match(e.text)
        e.fd, e.path = (f.group(1), f.group(2)) if f else (None, None)
        yield e


READS = {"read", "readv", "recvfrom", "recvmsg"}
WRITES = {"write", "writev", "sendto", "sendmsg"}
FILE_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}


class Verdict:
    def __init__(self):
        self.acknowledged = {}      # id -> line of the reply
        self.violations = []
        self.journal_files = set()
        self.syncs = 0
        self.sync_lines = []
        self.directory_sync_lines = []

    def __repr__(self):
        return f"{len(self.acknowledged)} replies, {self.syncs} syncs, {len(self.violations)} violations {self.violations[:3]}"


def judge(lines, journal, directories=True, acknowledged_by=lambda path: path.startswith("TCP")):
    """Judges a trace. `journal` matches the paths of journal files."""
    v = Verdict()
    body = {}           # socket -> text since the last end of data
    waiting = {}        # socket -> (id, line)
    written = {}        # id -> [(path, pid, fd, end)]
    syncs = []          # (path, pid, fd, start, end)
    created = {}        # path -> line
    directory_syncs = {}  # dir -> [(start, end)]
    for e in events(lines):
        if e.path and acknowledged_by(e.path):
            if e.call in READS and e.ret > 0:
                text = body.get(e.path, "") + e.text
                for m in END.finditer(text):
                    waiting[e.path] = (m.group(1), e.end)
                body[e.path] = text[-200:] if not END.search(text) else ""
            elif e.call in WRITES and e.ret > 0 and e.path in waiting:
                m = re.search(r'"(\d\d\d)[ -]', e.text)
                if m and m.group(1) not in ("354",):
                    id, _ = waiting.pop(e.path)
                    if m.group(1) == "250":
                        v.acknowledged[id] = e.start
                        fault = _judge_one(id, e.start, written, syncs, created, directory_syncs, directories)
                        if fault:
                            v.violations.append(f"{id}: {fault}")
        elif e.call in FILE_WRITES and e.path and journal.search(e.path) and e.ret > 0:
            v.journal_files.add(e.path)
            for m in END.finditer(e.text):
                written.setdefault(m.group(1), []).append((e.path, e.pid, e.fd, e.end))
        elif e.call in ("fdatasync", "fsync") and e.path:
            if journal.search(e.path):
                v.sync_lines += [e.start, e.end]
                if e.ret == 0:
                    v.syncs += 1
                    syncs.append((e.path, e.pid, e.fd, e.start, e.end))
            elif any(os.path.dirname(p) == e.path for p in created):
                v.directory_sync_lines += [e.start, e.end]
                if e.ret == 0:
                    directory_syncs.setdefault(e.path, []).append((e.start, e.end))
        elif e.call == "openat" and e.ret >= 0 and "O_CREAT" in e.text:
            m = re.search(r"<(.*)>", e.rest)
            if m and journal.search(m.group(1)):
                created.setdefault(m.group(1), e.end)
        elif e.call.startswith("rename") and e.ret == 0:
            names = re.findall(r'"([^"]*)"', e.text)
            if len(names) == 2:
                for p in {names[1], os.path.realpath(names[1])}:
                    if journal.search(p):
                        created[p] = e.end
    return v


def _judge_one(id, reply, written, syncs, created, directory_syncs, directories):
    writes = written.get(id)
    if not writes:
        return "its end was in no journal file when 250 was said"
    reason = "no write followed the data"
    for path, pid, fd, end in writes:
        if end > reply:
            continue
        good = False
        for s_path, s_pid, s_fd, s_start, s_end in reversed(syncs):
            if s_start < end:
                if s_end < end:
                    break
                continue
            if s_end < reply and (s_path == path or (s_pid == pid and s_fd == fd)):
                good = True
                break
        if not good:
            reason = f"no sync of {path} between the write and the 250"
            continue
        if directories and path in created:
            made = created[path]
            if not any(s > made and t < reply for s, t in directory_syncs.get(os.path.dirname(path), ())):
                reason = f"{path} is new and its directory was not synced before the 250"
                continue
        return None
    return reason


def mutate(lines, verdict, how):
    """A damaged copy of a trace."""
    out = list(lines)
    syncs, directories = set(verdict.sync_lines), set(verdict.directory_sync_lines)
    if how == "no sync":
        return [l for n, l in enumerate(out) if n not in syncs]
    if how == "failed sync":
        for n in syncs:
            out[n] = re.sub(r"\) += 0\s*$", ") = -1 EIO (Input/output error)", out[n])
        return out
    if how == "no directory sync":
        return [l for n, l in enumerate(out) if n not in directories]
    if how == "sync after the reply":
        # Every sync ends only some hundred lines later: the reply overtakes it.
        moved, held = [], []
        for n, l in enumerate(out):
            if n in syncs:
                held.append((n + 400, l))
            else:
                moved.append(l)
            while held and held[0][0] <= n:
                moved.append(held.pop(0)[1])
        return moved + [l for _, l in held]
    if how == "sync before the write":
        moved = []
        for n, l in enumerate(out):
            if n in syncs:
                moved.insert(max(0, len(moved) - 400), l)
            else:
                moved.append(l)
        return moved
    raise ValueError(how)
