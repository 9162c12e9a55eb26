"""What schemathesis cannot know of this API by itself; it loads this file (SCHEMATHESIS_HOOKS).

- Formats. The document names formats of its own (`bridgehead-duration`, …) and gives examples of each. Texts of such a format are taken
  from the examples, so that requests get past the first check; with CONTRACT_WILD=1 they are any texts. The same for parameters.
- Bodies that are texts to OpenAPI go as they are.
- What would end the run for all other requests is undone at once.
"""

import os

import requests
import schemathesis
from hypothesis import strategies as st

from tools import document, operations

WILD = os.environ.get("CONTRACT_WILD") == "1"
URL = os.environ.get("CONTRACT_URL", "")
OWNER = {"Authorization": f"Bearer {os.environ.get('CONTRACT_KEY', '')}"}

# Mail and probes are refused with 503 after these, as they should be; that is not what the other requests are to find.
UNDONE_BY = {
    "POST /api/v1/drain": ("DELETE", "/api/v1/drain"),
    "POST /api/v1/virtual-servers/{name}/stop": ("POST", "/api/v1/virtual-servers/default/start"),
    "POST /api/v1/virtual-servers/{name}/pause": ("POST", "/api/v1/virtual-servers/default/resume"),
}
# What exists in an appliance that has just been started: names that requests may well hit.
NAMES = ["default", "postmaster", "deadLetter", "local:default", "smarthost:default"]


@schemathesis.serializer("message/rfc822", "application/x-ndjson")
def text(_, value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogatepass")


@schemathesis.deserializer("message/rfc822", "application/x-ndjson")
def texts(_, response):
    return response.content.decode("utf-8", "replace")


def register():
    for schema in document()["components"]["schemas"].values():
        name, examples = schema.get("format", ""), [one for one in schema.get("examples", []) if isinstance(one, str)]
        if name.startswith("bridgehead-") and examples:
            schemathesis.openapi.format(name, st.sampled_from(examples))


if not WILD:
    register()

    @schemathesis.hook
    def before_load_schema(_, raw):
        """Each parameter that is any text has a format of its own, whose texts are its example and names that there are."""
        for _, _, operation in operations(raw):
            for parameter in operation.get("parameters", []):
                schema, example = parameter["schema"], parameter.get("example")
                if set(schema) <= {"type", "description"} and schema.get("type") == "string" and isinstance(example, str):
                    name = f"example-{operation['operationId']}-{parameter['name']}"
                    schema["format"] = name
                    schemathesis.openapi.format(name, st.sampled_from([example, *(NAMES if parameter["in"] == "path" else [])]))


@schemathesis.hook
def after_call(_, case, response):
    undo = UNDONE_BY.get(case.operation.label)
    if undo and response.status_code < 300:
        requests.request(undo[0], URL + undo[1], headers=OWNER, timeout=10).raise_for_status()
