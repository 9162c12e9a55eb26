"""The document, and the tools that judge it: where they are, and how they are called."""

import json
import os
import subprocess
import sys
import unittest

from harness import ROOT

DOCUMENT = os.path.join(ROOT, "openapi/bridgehead.json")
SCHEMA = os.path.join(ROOT, "openapi/config.schema.json")
HERE = os.path.dirname(os.path.abspath(__file__))
METHODS = ("get", "put", "patch", "post", "delete")
TOOLS = os.environ.get("CONTRACT_TOOLS", "")


def document():
    with open(DOCUMENT) as f:
        return json.load(f)


def resolve(whole, value):
    """What a reference leads to."""
    while "$ref" in value:
        place = whole
        for part in value["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        value = place
    return value


def operations(whole):
    """(METHOD, path, operation) of all of them."""
    for path, item in whole["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def needs(module):
    """Skips a test without the Python package; CI skips nothing."""
    return unittest.skipUnless(os.path.isdir(os.path.join(TOOLS, "python", module)), f"{module} could not be installed")


def run(command, timeout=600, **more):
    """Runs it; gives exit status and all that it said."""
    env = {**os.environ, "PATH": f"{TOOLS}/python/bin:{os.environ['PATH']}", "NO_COLOR": "1", "TERM": "dumb", **more.pop("env", {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout,
                          env=env, **more)
    return done.returncode, done.stdout


def module(name, *arguments, **more):
    """Runs a module of Python."""
    return run([sys.executable, "-m", name, *arguments], **more)
