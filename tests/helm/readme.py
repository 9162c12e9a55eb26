#!/usr/bin/env python3
"""Writes the table of values in helm/bridgehead/README.md from the comments of values.yaml; `--check` only compares.

A comment that begins with `# --` describes the key below it, with everything inside. A value without a description is an
error, and so is a description without a key.
"""

import json
import os
import re
import sys

import yaml

CHART = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "helm/bridgehead")
BEGIN, END = "<!-- values: made by tests/helm/readme.py -->", "<!-- /values -->"


def described(text):
    """(path, description) of every described key, in order; and the paths of all keys."""
    path, found, every, words = [], [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        comment = re.fullmatch(r" *# ?(.*)", line)
        if comment:
            if comment[1].startswith("-- "):
                words = comment[1][3:]
            elif words is not None:
                words += " " + comment[1]
            continue
        key = re.fullmatch(r'( *)("?)([A-Za-z0-9_]+)\2:(.*)', line)
        if not key:
            if words is not None:
                sys.exit(f"values.yaml:{number}: a description without a key: {words}")
            continue
        depth = len(key[1]) // 2
        path = path[:depth] + [key[3]]
        every.append(tuple(path))
        if words is not None:
            found.append((tuple(path), words))
            words = None
    return found, every


def table(text):
    values = yaml.safe_load(text)
    found, every = described(text)
    known = {path for path, _ in found}
    undescribed = [p for p in every if not any(p[:n] in known for n in range(1, len(p) + 1))
                   and not any(q[:len(p)] == p for q in known)]
    if undescribed:
        sys.exit("values.yaml: without a description: " + ", ".join(".".join(p) for p in undescribed))
    rows = ["| value | default | what |", "|---|---|---|"]
    for path, words in found:
        value = values
        for key in path:
            value = value[key]
        words = words.replace("|", "\\|")
        default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| `{'.'.join(path)}` | `{default}` | {words} |")
    return "\n".join(rows)


def main():
    with open(os.path.join(CHART, "values.yaml")) as f:
        rows = table(f.read())
    path = os.path.join(CHART, "README.md")
    with open(path) as f:
        before = f.read()
    begin, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    after = f"{before[:begin]}\n{rows}\n{before[end:]}"
    if "--check" in sys.argv:
        if after != before:
            sys.exit("helm/bridgehead/README.md is not what values.yaml says; run tests/helm/readme.py")
        return
    with open(path, "w") as f:
        f.write(after)


if __name__ == "__main__":
    main()
