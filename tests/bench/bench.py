"""The side-by-side run with Postfix (targets.md, P1 to P5, and memory of P6).

Both get the same load from smtp-source and give to the same smtp-sink, in one run, taking turns; what is
printed is medians and ratios. Absolute numbers of a shared machine mean nothing. It fails when mail was lost,
never on a time.

    accept   delivery held on both sides (Postfix: every message to its hold queue, which costs it least;
             Bridgehead: a frozen queue): messages a second until smtp-source is done
    relay    end to end: from the first message to the last one in the sink
    cpu      seconds of CPU of all processes of the MTA, reaped children included, per 1,000 relayed
    drain    a backlog taken while the next hop was down; from the moment it is back and the queue is told
    memory   PSS of all processes of the MTA in the middle of a run with 100 sessions
"""

import argparse
import datetime
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

import harness                                              # noqa: E402
from postfix import Postfix, SmtpSink, smtp_source          # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
LENGTH = 10240


class Lost(Exception):
    pass


def cpu_seconds(pids):
    """User and system time of these processes and of the children they have reaped."""
    total = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += sum(int(x) for x in fields[11:15])
        except (OSError, IndexError):
            pass
    return total / TICK


def pss(pids):
    total = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                for line in f:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        except OSError:
            pass
    return total


class BenchPostfix:
    name = "postfix"

    def __init__(self, sink_port, held=False):
        with open(os.path.join(HERE, "postfix/main.cf")) as f:
            main = f.read()
        with open(os.path.join(HERE, "postfix/master.cf")) as f:
            master = f.read()
        more = {"relayhost": f"[127.0.0.1]:{sink_port}"}
        if held:
            more["smtpd_client_restrictions"] = "check_client_access static:HOLD"
        self.p = Postfix("bench-postfix", more, main_cf=main, master_cf=master).start()
        self.port = self.p.port

    def pids(self):
        return self.p.pids()

    def queued(self):
        return self.p.queue_count()

    def flush(self):
        self.p.command("postqueue", "-f", check=False)

    def close(self):
        self.p.kill()
        self.p.destroy()
        shutil.rmtree(self.p.dir, True)


class BenchBridgehead:
    name = "bridgehead"

    def __init__(self, sink_port, held=False):
        self.it = harness.Appliance("bench-bridgehead").start()
        self.it.relay_for("127.0.0.0/8")
        self.it.route_to(sink_port)
        if held:
            self.it.hold()
        self.port = self.it.smtp_port

    def pids(self):
        return self.it.pids()

    def queued(self):
        return self.it.waiting()

    def flush(self):
        self.it.retry_now()

    def close(self):
        self.it.kill()
        self.it.destroy()
        shutil.rmtree(self.it.dir, True)


KINDS = {"postfix": BenchPostfix, "bridgehead": BenchBridgehead}


def wait_count(what, get, count, started, limit, step=0.005):
    """Waits for a count; gives the seconds since `started`. Fails as lost mail."""
    while True:
        n = get()
        now = time.monotonic()
        if n >= count:
            if n > count:
                raise Lost(f"{what}: {n} of {count}, so some came twice")
            return now - started
        if now - started > limit:
            raise Lost(f"{what}: {n} of {count} after {limit:.0f} s")
        time.sleep(step)


def accept(kind, sessions, count):
    it = KINDS[kind](harness.free_port(), held=True)
    try:
        before = cpu_seconds(it.pids())
        seconds = smtp_source(it.port, count, sessions, LENGTH, more=("-d",))
        cpu = cpu_seconds(it.pids()) - before
        wait_count(f"{kind} accepted", it.queued, count, time.monotonic(), 30, 0.2)
        return {"rate": count / seconds, "cpu": cpu * 1000 / count}
    finally:
        it.close()


def relay(kind, sessions, count, sample=False):
    sink = SmtpSink()
    it = KINDS[kind](sink.port)
    out = {}
    try:
        sink_count = lambda: sink.counters().get("mesg", 0)
        before = cpu_seconds(it.pids())
        started = time.monotonic()
        source = threading.Thread(target=smtp_source, args=(it.port, count, sessions, LENGTH), kwargs={"more": ("-d",)})
        source.start()
        if sample:
            while sink_count() < count // 2 and source.is_alive():
                time.sleep(0.01)
            pids = it.pids()
            out["memory"], out["processes"] = pss(pids), len(pids)
        seconds = wait_count(f"{kind} relayed", sink_count, count, started, 60 + count / 50)
        cpu = cpu_seconds(it.pids()) - before
        source.join()
        time.sleep(0.2)
        if sink_count() != count:
            raise Lost(f"{kind}: {sink_count()} arrived of {count}")
        out.update(rate=count / seconds, cpu=cpu * 1000 / count)
        return out
    finally:
        it.close()
        sink.close()


def drain(kind, count):
    port = harness.free_port()
    it = KINDS[kind](port)
    sink = None
    try:
        started = time.monotonic()
        smtp_source(it.port, count, 50, LENGTH, more=("-d",), timeout=3600)
        taken = count / (time.monotonic() - started)
        if kind == "postfix":
            # All of it deferred, none on its way.
            wait_count("deferred", lambda: sum(len(f) for _, _, f in os.walk(os.path.join(it.p.queue_directory, "deferred"))), count, time.monotonic(), 1200, 0.5)
        else:
            wait_count("queued", it.queued, count, time.monotonic(), 60, 0.2)
            time.sleep(1)
        sink = SmtpSink(port=port)
        before = cpu_seconds(it.pids())
        started = time.monotonic()
        it.flush()
        seconds = wait_count(f"{kind} drained", lambda: sink.counters().get("mesg", 0), count, started, 120 + count / 50)
        return {"rate": count / seconds, "cpu": (cpu_seconds(it.pids()) - before) * 1000 / count, "accepted": taken}
    finally:
        it.close()
        if sink:
            sink.close()


def calls_per_message(count=2000, sessions=10):
    """System calls of Bridgehead per relayed message, counted by strace: the budget of targets.md in counts."""
    sink = SmtpSink()
    path = os.path.join(harness.workdir("calls"), "counts")
    it = harness.Appliance("calls", wrapper=["strace", "-f", "-c", "-U", "calls,name", "-o", path]).start(timeout=60)
    try:
        it.relay_for("127.0.0.0/8")
        it.route_to(sink.port)
        smtp_source(it.smtp_port, count, sessions, LENGTH, more=("-d",))
        wait_count("traced", lambda: sink.counters().get("mesg", 0), count, time.monotonic(), 120)
        it.terminate(30)
    finally:
        it.destroy()
        sink.close()
    found = {}
    with open(path) as f:
        for line in f:
            w = line.split()
            if len(w) == 2 and w[0].isdigit() and w[1] != "total":
                found[w[1]] = int(w[0]) / count
    return dict(sorted(found.items(), key=lambda x: -x[1])[:16])


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((l.split(":")[1].strip() for l in f if l.startswith("model name")), "?")
    return {"cpus": os.cpu_count(), "model": model, "kernel": os.uname().release, "host": socket.gethostname(),
            "load": os.getloadavg(), "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--quick", action="store_true", help="a short run: shows that it works, says little about speed")
    a.add_argument("--only", choices=list(KINDS), help="one of the two, without ratios")
    a.add_argument("--messages", type=int, help="messages of a run with 10 and 100 sessions (10,000; quick 1,500)")
    a.add_argument("--backlog", type=int, help="messages to drain (100,000; quick 2,000); 0 leaves it out")
    a.add_argument("--repeat", type=int, help="runs of each (3; quick 1)")
    a.add_argument("--sessions", default="1,10,100")
    a.add_argument("--no-calls", action="store_true", help="leave out the count of system calls")
    o = a.parse_args()
    many = o.messages or (1500 if o.quick else 10000)
    backlog = o.backlog if o.backlog is not None else (2000 if o.quick else 100000)
    repeat = o.repeat or (1 if o.quick else 3)
    kinds = [o.only] if o.only else ["postfix", "bridgehead"]
    sessions = [int(s) for s in o.sessions.split(",")]

    results, lost = [], []

    def run(what, kind, s, work):
        try:
            r = work()
        except (Lost, AssertionError, subprocess.TimeoutExpired) as e:
            lost.append(f"{what} {kind} {s}: {e}")
            print(f"  LOST {lost[-1]}", flush=True)
            return
        results.append({"what": what, "mta": kind, "sessions": s, **r})
        print(f"  {what:7} {kind:10} {s:4} sessions: {r['rate']:9.0f}/s  {r['cpu']:6.2f} CPU-s per 1,000"
              + (f"  {r['memory'] / 1e6:.0f} MB in {r['processes']} processes" if "memory" in r else ""), flush=True)

    for turn in range(repeat):
        order = kinds if turn % 2 == 0 else kinds[::-1]
        for s in sessions:
            count = many if s > 1 else max(500, many // 4)
            for kind in order:
                run("accept", kind, s, lambda: accept(kind, s, count))
            for kind in order:
                run("relay", kind, s, lambda: relay(kind, s, count))
    if 100 in sessions:
        for kind in kinds:
            run("memory", kind, 100, lambda: relay(kind, 100, many, sample=True))
    if backlog:
        for kind in kinds:
            run("drain", kind, 50, lambda: drain(kind, backlog))
    calls = {}
    if "bridgehead" in kinds and not o.no_calls:
        try:
            calls = calls_per_message(500 if o.quick else 2000)
        except (Lost, AssertionError) as e:
            lost.append(f"calls: {e}")

    def median(what, kind, s, field):
        v = [r[field] for r in results if (r["what"], r["mta"], r["sessions"]) == (what, kind, s) and field in r]
        return statistics.median(v) if v else None

    rows = [("P1 accepted/s" if s > 1 else "P2 accepted/s", "accept", s, "rate", {100: "≥ 10 ×", 10: "≥ 4 ×", 1: "≥ 2 ×"}.get(s, "")) for s in sessions]
    rows += [("P3 end to end/s", "relay", s, "rate", {100: "≥ 10 ×", 10: "≥ 5 ×"}.get(s, "")) for s in sessions]
    rows += [("P4 CPU-s per 1,000", "relay", s, "cpu", "≤ 1/8" if s >= 10 else "") for s in sessions]
    rows += [("P5 drained/s", "drain", 50, "rate", "≥ 10 ×")] if backlog else []
    rows += [("P6 memory, MB", "memory", 100, "memory", "≤ 64 MB")] if 100 in sessions else []
    table = []
    print(f"\n{'':22} {'sessions':>8} {'postfix':>10} {'bridgehead':>11} {'ratio':>8}  target")
    for title, what, s, field, target in rows:
        p, b = median(what, "postfix", s, field), median(what, "bridgehead", s, field)
        if field == "memory":
            p, b = p and p / 1e6, b and b / 1e6
        ratio = b / p if p and b else None
        show = lambda x: "–" if x is None else (f"{x:,.0f}" if x >= 20 else f"{x:.2f}")
        print(f"{title:22} {s:8} {show(p):>10} {show(b):>11} {'–' if ratio is None else f'{ratio:.2f} ×':>8}  {target}")
        table.append({"title": title, "sessions": s, "postfix": p, "bridgehead": b, "ratio": ratio, "target": target})
    if calls:
        print("\nsystem calls per relayed message (10 sessions): " + ", ".join(f"{k} {v:.1f}" for k, v in calls.items()))
    os.makedirs(os.path.join(HERE, "results"), exist_ok=True)
    path = os.path.join(HERE, "results", time.strftime("%Y%m%dT%H%M%S") + ".json")
    with open(path, "w") as f:
        json.dump({"machine": machine(), "quick": o.quick, "messages": many, "backlog": backlog, "repeat": repeat,
                   "table": table, "runs": results, "calls": calls, "lost": lost}, f, indent=1)
    print(f"\n{os.path.relpath(path)}")
    for l in lost:
        print(f"LOST {l}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
