"""Runs a directory of black-box tests and says what came of each.

    python3 tests/lib/suite.py tests/peers [part-of-a-name …] [--jobs N] [--sut postfix] [--list]

A test is a method of a unittest.TestCase in a file `test_*.py`. Output is a line per test and at the
end `<suite>: N passed, N failed, N skipped`. With CI=true a skipped test is a failed one: there
nothing may be missing. With `--sut postfix` Postfix stands where Bridgehead would; that tests the
tests. The exit status is 0 only if nothing failed and something ran.

With `--jobs N` (or SUITE_JOBS) N files run at a time, each in a process of its own with ports of its own (SUITE_PORTS); what
a file said is printed when it has ended. Most tests wait for something most of the time.
"""

import argparse
import concurrent.futures
import importlib.util
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import harness  # noqa: E402


class Result(unittest.TestResult):
    """One line per test, the reason below it when it failed."""

    def __init__(self, strict):
        super().__init__()
        self.strict = strict
        self.passed = 0
        self.failed = []
        self.skipped_names = []
        self.subfailed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.sub_before = self.subfailed

    def line(self, word, test, more=""):
        spent = time.monotonic() - getattr(self, "started", time.monotonic())
        name = test.id() if hasattr(test, "id") else str(test)
        print(f"{word:5} {name} ({spent:.1f} s){more}", flush=True)

    def addSuccess(self, test):
        if self.subfailed == self.sub_before:
            self.passed += 1
            self.line("ok", test)

    def bad(self, test, err):
        self.failed.append(test.id())
        harness.FAILED.append(test.id())
        self.line("FAIL", test)
        text = "".join(traceback.format_exception(*err))
        if issubclass(err[0], AssertionError):
            # Where in the test, and what was wrong: the frames of unittest tell nothing.
            here = [f for f in traceback.extract_tb(err[2]) if os.sep + "unittest" + os.sep not in f.filename]
            text = "".join(f"{os.path.relpath(f.filename)}:{f.lineno}: {f.line}\n" for f in here[-2:]) + "\n".join(str(err[1])[-3000:].split("\n")[:90])
        print("      " + text.rstrip().replace("\n", "\n      "), flush=True)

    def addFailure(self, test, err):
        self.bad(test, err)

    def addError(self, test, err):
        self.bad(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.subfailed += 1
            self.bad(subtest, err)

    def addSkip(self, test, reason):
        if self.strict:
            self.failed.append(test.id())
            self.line("FAIL", test, f": skipped, which CI forbids: {reason}")
        else:
            self.skipped_names.append(test.id())
            self.line("SKIP", test, f": {reason}")

    def addExpectedFailure(self, test, err):
        self.addSuccess(test)

    def addUnexpectedSuccess(self, test):
        self.failed.append(test.id())
        self.line("FAIL", test, ": should have failed")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


# --- several files at a time ---

# shared out among the processes (see harness.free_port)
PORTS = range(12_000, 32_000)


def run_files(directory, chosen, jobs, sut):
    """Runs each file of the chosen tests in a process of its own, `jobs` at a time. (passed, failed, skipped)."""
    files = {}
    for test in chosen:
        files.setdefault(test.id().split(".")[0], []).append(test.id())
    places = queue.SimpleQueue()
    share = len(PORTS) // jobs
    for place in range(jobs):
        places.put(f"{PORTS[place * share]}-{PORTS[place * share + share - 1]}")

    def run(ids):
        ports = places.get()
        with tempfile.NamedTemporaryFile("w+") as counts:
            command = [sys.executable, os.path.abspath(__file__), directory, "--exactly", *ids]
            if sut:
                command += ["--sut", sut]
            environment = {**os.environ, "SUITE_PORTS": ports, "SUITE_COUNTS": counts.name, "SUITE_JOBS": "1"}
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
            places.put(ports)
            counted = counts.read().split()
        text = done.stdout.decode("utf-8", "replace")
        # a process that broke down has told nothing: all its tests failed
        figures = tuple(int(n) for n in counted) if len(counted) == 3 else (0, len(ids), 0)
        if sum(figures) < len(ids):
            figures = (figures[0], figures[1] + len(ids) - sum(figures), figures[2])
        return re.sub(r"^\S+: \d+ passed, .*\n\Z", "", text, flags=re.M), figures

    total = (0, 0, 0)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # the largest first: no long one is left for the end
        runs = [pool.submit(run, ids) for ids in sorted(files.values(), key=len, reverse=True)]
        for ended in concurrent.futures.as_completed(runs):
            text, figures = ended.result()
            print(text, end="", flush=True)
            total = tuple(a + b for a, b in zip(total, figures))
    return total


def run_here(chosen):
    """Runs the tests in this process. (passed, failed, skipped)."""
    result = Result(strict=os.environ.get("CI") == "true")
    unittest.TestSuite(chosen).run(result)
    return result.passed, len(result.failed), len(result.skipped_names)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory")
    arguments.add_argument("names", nargs="*", help="run only tests whose id contains one of these")
    arguments.add_argument("--sut", choices=["bridgehead", "postfix"], default=None)
    arguments.add_argument("--exactly", nargs="+", default=[], metavar="ID", help="run these tests, by their whole ids")
    arguments.add_argument("--jobs", type=int, default=int(os.environ.get("SUITE_JOBS", "1")), help="files that run at a time")
    arguments.add_argument("--list", action="store_true")
    arguments = arguments.parse_args()
    if arguments.sut:
        os.environ["SUT"] = arguments.sut

    directory = os.path.abspath(arguments.directory)
    sys.path.insert(0, directory)
    loader = unittest.TestLoader()
    tests = unittest.TestSuite()
    for name in sorted(os.listdir(directory)):
        if name.startswith("test_") and name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(name[:-3], os.path.join(directory, name))
            module = importlib.util.module_from_spec(spec)
            sys.modules[name[:-3]] = module
            spec.loader.exec_module(module)
            tests.addTests(loader.loadTestsFromModule(module))
    chosen = [t for t in flatten(tests)
              if (not arguments.names or any(n in t.id() for n in arguments.names))
              and (not arguments.exactly or t.id() in arguments.exactly)]
    if arguments.list:
        for test in chosen:
            print(test.id())
        return 0

    started = time.monotonic()
    if arguments.jobs > 1:
        passed, failed, skipped = run_files(directory, chosen, arguments.jobs, arguments.sut)
    else:
        passed, failed, skipped = run_here(chosen)
    name = os.path.basename(directory)
    print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped in {time.monotonic() - started:.0f} s", flush=True)
    counts = os.environ.get("SUITE_COUNTS")
    if counts:
        with open(counts, "a") as f:
            f.write(f"{passed} {failed} {skipped}\n")
    return 0 if not failed and (passed or skipped) else 1


if __name__ == "__main__":
    sys.exit(main())
