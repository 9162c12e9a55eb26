"""Renders the chart with the Helms that tests/lib/helm.sh brought."""

import functools
import glob
import json
import os
import subprocess
import tempfile

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CHART = os.path.join(ROOT, "helm/bridgehead")
HELMS = ("helm3", "helm4")
KUBERNETES = "1.33.0"
# the namespace and the release of every rendering
NAMES = ["mail", CHART, "--namespace", "mail", "--kube-version", KUBERNETES]


def value_sets():
    """Name → file of each set of values."""
    paths = sorted(glob.glob(os.path.join(HERE, "values", "*.yaml")))
    return {os.path.basename(path)[:-5]: path for path in paths}


def run(helm, *arguments):
    return subprocess.run([os.path.join(os.environ["HELM_DIR"], helm), *arguments], capture_output=True, text=True,
                          timeout=60, stdin=subprocess.DEVNULL)


@functools.lru_cache(None)
def rendered(helm, name):
    """What Helm makes of a set of values, as text."""
    done = run(helm, "template", *NAMES, "--values", value_sets()[name])
    if done.returncode != 0:
        raise AssertionError(f"{helm} template {name}: {done.stderr}")
    if done.stderr.strip():
        raise AssertionError(f"{helm} template {name} is not quiet: {done.stderr}")
    return done.stdout


def objects(name, helm="helm4"):
    """The objects of a set of values."""
    return [one for one in yaml.safe_load_all(rendered(helm, name)) if one]


def made(*layers, **how):
    """The objects of values that are given as such."""
    return [one for one in yaml.safe_load_all(text(*layers, **how)) if one]


def text(*layers, release="mail", namespace="mail", helm="helm4", more=()):
    """What Helm makes of values that are given as such, later ones over earlier ones, and of `more` arguments."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["template", release, CHART, "--namespace", namespace, "--kube-version", KUBERNETES]
        for number, values in enumerate(layers):
            path = os.path.join(directory, f"{number}.json")
            with open(path, "w") as f:
                json.dump(values, f)
            arguments += ["--values", path]
        done = run(helm, *arguments, *more)
    if done.returncode != 0 or done.stderr.strip():
        raise AssertionError(f"{helm} template: {done.stderr}")
    return done.stdout


def of(found, kind, ending=""):
    """The one object of this kind among these whose name ends so."""
    fit = [o for o in found if o["kind"] == kind and o["metadata"]["name"].endswith(ending)]
    assert len(fit) == 1, f"{len(fit)} × {kind} …{ending}"
    return fit[0]


def one(name, kind, ending=""):
    """The object of this kind whose name ends so, of a set of values."""
    return of(objects(name), kind, ending)


def refusal(*settings, values=None, helm="helm4"):
    """With what words Helm refuses; fails when it does not."""
    arguments = [*NAMES]
    for setting in settings:
        arguments += ["--set-json", setting]
    if values:
        arguments += ["--values", value_sets()[values]]
    done = run(helm, "template", *arguments)
    assert done.returncode != 0, f"{helm} takes {settings}"
    return done.stderr


def pods_of(found):
    """The pod specs of these objects."""
    for o in found:
        if o["kind"] == "Pod":
            yield o["spec"]
        elif "template" in (o.get("spec") or {}):
            yield o["spec"]["template"]["spec"]


def pod_specs(name):
    """(object, pod spec) of everything that makes pods."""
    for o in objects(name):
        for spec in pods_of([o]):
            yield o, spec
