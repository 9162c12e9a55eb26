#!/usr/bin/env python3
"""Puts the schema of the document (openapi/config.schema.json) into helm/bridgehead/values.schema.json; `--check` only compares.

What else stands there is written by hand. The document's schema is JSON Schema 2020-12; what Helm reads is draft-07: `$defs`
becomes `definitions`, a reference with neighbours becomes `allOf`, `prefixItems` becomes `items`, examples and what only OpenAPI knows goes.
Where names lead to values, null is one more: it takes away what an earlier file of values has.
A keyword that neither knows is an error, so that nothing is lost unseen.
"""

import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = os.path.join(ROOT, "openapi/config.schema.json")
VALUES = os.path.join(ROOT, "helm/bridgehead/values.schema.json")
PREFIX = "document."

DROPPED = {"$schema", "$id", "$comment", "example", "examples", "discriminator", "xml", "externalDocs", "deprecated", "title",
           "description", "default", "readOnly", "writeOnly", "contentEncoding", "contentMediaType"}
ONE = {"additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames", "additionalItems"}
MANY = {"allOf", "anyOf", "oneOf"}
NAMED = {"properties", "patternProperties", "definitions"}
PLAIN = {"type", "enum", "const", "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
         "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required",
         "multipleOf"}


def draft07(schema, where=""):
    """The same in the words of draft-07. Descriptions go too: they would only make every release larger."""
    if isinstance(schema, bool):
        return schema
    made = {}
    for key, value in schema.items():
        at = f"{where}/{key}"
        if key in DROPPED or key.startswith("x-"):
            continue
        if key == "$ref":
            made["$ref"] = reference(value, at)
        elif key == "$defs":
            continue
        elif key == "prefixItems":
            made["items"] = [draft07(one, at) for one in value]
            if "items" in schema:
                made["additionalItems"] = draft07(schema["items"], at)
        elif key == "items" and "prefixItems" in schema:
            continue
        elif key == "additionalProperties" and isinstance(value, dict):
            made[key] = or_null(draft07(value, at))
        elif key in ONE:
            made[key] = draft07(value, at)
        elif key in MANY:
            made[key] = [draft07(one, at) for one in value]
        elif key in NAMED:
            made[key] = {name: draft07(one, f"{at}/{name}") for name, one in value.items()}
        elif key in PLAIN:
            made[key] = value
        else:
            sys.exit(f"openapi/config.schema.json: {at}: {key} is not known to tests/helm/schema.py")
    # formats are ours (bridgehead-…) or annotations: Helm would not know them
    made.pop("format", None)
    if "$ref" in made and len(made) > 1:
        beside = {"$ref": made.pop("$ref")}
        made["allOf"] = [beside] + made.get("allOf", [])
    return made


def or_null(schema):
    """Not by `anyOf`: what is wrong inside would be told twice, and once as not being null."""
    return {"if": {"type": "null"}, "else": schema}


def reference(value, where):
    for start in ("#/$defs/", "#/definitions/", "#/components/schemas/"):
        if value.startswith(start):
            return f"#/definitions/{PREFIX}{value[len(start):]}"
    sys.exit(f"openapi/config.schema.json: {where}: a reference to elsewhere: {value}")


def document():
    """The definitions to put in: `document` and those it refers to."""
    if not os.path.exists(DOCUMENT):
        return {"document": {"type": "object"}}
    with open(DOCUMENT) as f:
        whole = json.load(f)
    parts = whole.get("$defs") or whole.get("definitions") or {}
    rest = {key: value for key, value in whole.items() if key not in ("$defs", "definitions")}
    made = {"document": draft07(rest)}
    # collections may be null as they are
    made["document"]["properties"]["settings"] = or_null(made["document"]["properties"]["settings"])
    for name in sorted(parts):
        made[PREFIX + name] = draft07(parts[name], f"/$defs/{name}")
    return made


def main():
    with open(VALUES) as f:
        before = f.read()
    whole = json.loads(before)
    ours = {name: value for name, value in whole["definitions"].items()
            if name != "document" and not name.startswith(PREFIX)}
    whole["definitions"] = {**ours, **document()}
    after = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    if "--check" in sys.argv:
        if after != before:
            sys.exit("helm/bridgehead/values.schema.json is not what openapi/config.schema.json says; run tests/helm/schema.py")
        return
    with open(VALUES, "w") as f:
        f.write(after)


if __name__ == "__main__":
    main()
