"""The document by itself: valid, without a warning of Spectral, and the schema of the configuration with it."""

import copy
import glob
import json
import os
import re
import unittest

from harness import ROOT, workdir
from tools import DOCUMENT, HERE, SCHEMA, TOOLS, document, module, needs, operations, run

SPECTRAL = os.path.join(TOOLS, "node/node_modules/.bin/spectral")


def spectral(path):
    """Everything that Spectral has to say."""
    status, said = run([SPECTRAL, "lint", "--ruleset", os.path.join(HERE, "spectral.yaml"), "--format", "json", "--quiet",
                        "--fail-severity", "hint", path])
    start = said.find("[")
    assert start >= 0, said
    found = json.JSONDecoder().raw_decode(said[start:])[0]
    return [f"{one['code']} at {'/'.join(map(str, one['path']))}: {one['message']}" for one in found], status


def only(whole, *paths):
    """A document with only these paths, and what they refer to: Spectral takes its time."""
    whole["paths"] = {path: whole["paths"][path] for path in paths}
    reached, last = set(), None
    while reached != last:
        last = set(reached)
        parts = [whole["paths"]] + [whole["components"][sort][name] for sort, name in reached]
        reached |= set(re.findall(r"#/components/(\w+)/(\w+)", json.dumps(parts)))
    for sort in ("schemas", "responses"):
        whole["components"][sort] = {name: whole["components"][sort][name] for kind, name in sorted(reached) if kind == sort}
    used = {tag for _, _, operation in operations(whole) for tag in operation["tags"]}
    whole["tags"] = [tag for tag in whole["tags"] if tag["name"] in used]
    return whole


def written(name, value):
    path = os.path.join(workdir("contract"), name)
    with open(path, "w") as f:
        json.dump(value, f)
    return path


class Document(unittest.TestCase):
    @needs("openapi_spec_validator")
    def test_it_is_valid_openapi_3_1(self):
        status, said = module("openapi_spec_validator", "--schema", "3.1", DOCUMENT)
        self.assertEqual(status, 0, said)
        broken = document()
        broken["paths"]["/api/v1/settings"]["get"]["responses"]["200"].pop("description")
        status, said = module("openapi_spec_validator", "--schema", "3.1", written("broken.json", broken))
        self.assertNotEqual(status, 0, "a response without a description was taken")

    @unittest.skipUnless(os.path.exists(SPECTRAL), "Spectral could not be installed")
    def test_spectral_has_nothing_to_say(self):
        found, status = spectral(DOCUMENT)
        self.assertEqual((found, status), ([], 0))
        # beside the examples that spectral.yaml excepts, the rule holds
        broken = only(document(), "/api/v1/domains", "/api/v1/settings")
        broken["components"]["schemas"]["Domain"]["properties"]["name"] = {"type": "string", "example": 7, "description": "x"}
        broken["paths"]["/api/v1/settings"]["get"]["tags"] = ["nothing"]
        found, status = spectral(written("broken.json", broken))
        self.assertEqual((sorted(one.split(" ")[0] for one in found), status), (["oas3-valid-schema-example", "operation-tag-defined"], 1))


def documents():
    """Name → document of the configuration, of everything that shows users one."""
    import yaml
    found = {}
    with open(os.path.join(ROOT, "README.md")) as f:
        for number, text in enumerate(re.findall(r"^(apiVersion: v1\n.*?)^(?:[A-Z]+$|```)", f.read(), re.S | re.M)):
            found[f"README {number}"] = yaml.safe_load(text)
    with open(os.path.join(ROOT, "helm/bridgehead/README.md")) as f:
        for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", f.read(), re.S | re.M)):
            # some blocks are objects of Kubernetes
            for values in yaml.safe_load_all(text):
                if "config" in values:
                    found[f"the chart's README {number}"] = values["config"]
    for path in [os.path.join(ROOT, "helm/bridgehead/values.yaml"), *sorted(glob.glob(os.path.join(ROOT, "tests/helm/values/*.yaml")))]:
        with open(path) as f:
            values = yaml.safe_load(f) or {}
        if values.get("config"):
            found[os.path.relpath(path, ROOT)] = values["config"]
    return found


def misspelt(whole):
    """(where, the same with one word misspelt): each collection, and each field of each object."""
    for collection, objects in whole.items():
        wrong = copy.deepcopy(whole)
        wrong[collection + "s"] = wrong.pop(collection)
        yield collection, wrong
        if collection == "apiVersion":
            continue
        each = [((), objects)] if collection == "settings" else [((name,), fields) for name, fields in objects.items()]
        for place, fields in each:
            for field in fields or {}:
                wrong = copy.deepcopy(whole)
                at = wrong[collection]
                for part in place:
                    at = at[part]
                at[field + "x"] = at.pop(field)
                yield f"{collection} {' '.join(place)} {field}", wrong


@needs("check_jsonschema")
class Schema(unittest.TestCase):
    """`openapi/config.schema.json`, by which editors complete."""

    def test_it_is_draft_2020_12_and_tells_what_every_field_is(self):
        status, said = module("check_jsonschema", "--check-metaschema", SCHEMA)
        self.assertEqual(status, 0, said)
        with open(SCHEMA) as f:
            schema = json.load(f)
        self.assertEqual(schema["$schema"], "https://json-schema.org/draft/2020-12/schema")
        for collection, one in schema["properties"].items():
            self.assertTrue(one.get("description") or "$ref" in one, f"{collection} has no description")

    def test_what_the_pages_show_is_valid_and_what_is_misspelt_is_not(self):
        import jsonschema
        with open(SCHEMA) as f:
            judge = jsonschema.Draft202012Validator(json.load(f))
        shown = documents()
        self.assertGreaterEqual(len(shown), 5, sorted(shown))
        self.assertTrue({"README", "the"} <= {name.split(" ")[0] for name in shown}, sorted(shown))
        tried = 0
        for name, whole in shown.items():
            with self.subTest(name):
                self.assertEqual([f"{'/'.join(map(str, e.path))}: {e.message}" for e in judge.iter_errors(whole)], [])
                for where, wrong in misspelt(whole):
                    tried += 1
                    self.assertFalse(judge.is_valid(wrong), f"{where} is misspelt, and was taken")
        self.assertGreater(tried, 50)


if __name__ == "__main__":
    unittest.main()
