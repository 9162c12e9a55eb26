"""Runs a directory of black-box tests and says what came of each.

    python3 tests/lib/suite.py tests/peers [part-of-a-name …] [--sut postfix] [--list]

A test is a method of a unittest.TestCase in a file `test_*.py`. Output is a line per test and at the
end `<suite>: N passed, N failed, N skipped`. With CI=true a skipped test is a failed one: there
nothing may be missing. With `--sut postfix` Postfix stands where Bridgehead would; that tests the
tests. The exit status is 0 only if nothing failed and something ran.
"""

import argparse
import importlib.util
import os
import sys
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


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory")
    arguments.add_argument("names", nargs="*", help="run only tests whose id contains one of these")
    arguments.add_argument("--sut", choices=["bridgehead", "postfix"], default=None)
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
              if not arguments.names or any(n in t.id() for n in arguments.names)]
    if arguments.list:
        for test in chosen:
            print(test.id())
        return 0

    result = Result(strict=os.environ.get("CI") == "true")
    started = time.monotonic()
    unittest.TestSuite(chosen).run(result)
    name = os.path.basename(directory)
    print(f"{name}: {result.passed} passed, {len(result.failed)} failed, "
          f"{len(result.skipped_names)} skipped in {time.monotonic() - started:.0f} s", flush=True)
    counts = os.environ.get("SUITE_COUNTS")
    if counts:
        with open(counts, "a") as f:
            f.write(f"{result.passed} {len(result.failed)} {len(result.skipped_names)}\n")
    return 0 if not result.failed and (result.passed or result.skipped_names) else 1


if __name__ == "__main__":
    sys.exit(main())
