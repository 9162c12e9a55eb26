"""Every operation that the document guards is refused without a key and with a wrong one, as the document says."""

import http.client
import json
import unittest

from harness import Appliance
from tools import document, needs, operations, resolve


def without_a_key(address, method, path, client, headers):
    """Status and headers of a request that comes from a client of its own."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20, source_address=(client, 0))
    try:
        connection.request(method, path, headers={"Connection": "close", **headers})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@needs("jsonschema")
class Keys(unittest.TestCase):
    def test_no_operation_is_open_by_mistake(self):
        import jsonschema
        whole = document()
        problem = {**whole["components"]["schemas"]["Problem"], "components": whole["components"]}
        judge = jsonschema.Draft202012Validator(problem)
        it = Appliance("keys").start()
        self.addCleanup(it.destroy)
        guarded = 0
        for number, (method, path, operation) in enumerate(operations(whole)):
            if {} in operation["security"]:
                continue
            guarded += 1
            client = f"127.0.{1 + number // 250}.{1 + number % 250}"
            for parameter in operation.get("parameters", []):
                path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}):
                with self.subTest(operation["operationId"], headers=headers):
                    status, got, body = without_a_key(it.rest.address, method, path, client, headers)
                    self.assertEqual((status, got.get("content-type")), (401, "application/problem+json"), body[:500])
                    self.assertEqual(list(judge.iter_errors(json.loads(body))), [])
                    said = resolve(whole, operation["responses"]["401"])
                    self.assertLessEqual({name.lower() for name in said["headers"]}, set(got))
        self.assertGreater(guarded, 130)


if __name__ == "__main__":
    unittest.main()
