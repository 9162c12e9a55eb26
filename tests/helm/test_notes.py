"""The notes that Helm prints: what to do next, and what to mind."""

import json
import os
import tempfile
import unittest

import charts
import test_readme

BINDING = {"address": "0.0.0.0", "port": 2525}


def notes(values):
    """Those of a set of values, by its name, or of values that are given as such."""
    with tempfile.TemporaryDirectory() as directory:
        path = charts.value_sets().get(values) if isinstance(values, str) else os.path.join(directory, "values.json")
        if not isinstance(values, str):
            with open(path, "w") as f:
                json.dump(values, f)
        # Helm 3 shows notes with a cluster only; `template` has rendered them too
        done = charts.run("helm4", "install", "mail", charts.CHART, "--namespace", "mail", "--dry-run=client", "--values", path)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout[done.stdout.index("NOTES:"):]


class Notes(unittest.TestCase):
    def test_they_say_what_to_do_next(self):
        for name, words in {"defaults": ["bridgehead token", "relays for nobody", "port-forward statefulset/mail-bridgehead 8025\n", "mail-bridgehead-smtp.mail.svc:25", "`fqdn`"],
                            "two-gateways": ["get secret mail-owner", "mail-bridgehead-internal.mail.svc:587", "service mail-bridgehead-internet -w",
                                             "From outside, at 192.0.2.26"],
                            "node-ports": ["WARNING", "whole Internet", "the address of a node, and the port behind the colon in: kubectl -n mail get service mail-bridgehead-smtp"],
                            "restored": ["frozen", '"action": "thaw"'],
                            "documents-from-elsewhere": [],
                            "rest-outside": ["https://mail-api.example.com/mail/docs/", "service mail-bridgehead-api -w"]}.items():
            found = notes(name)
            for word in words:
                self.assertIn(word, found, name)
            self.assertEqual("WARNING" in found, "WARNING" in words, name)
        copy = {"restore": {"fromSnapshot": "a"}, "api": {"ingress": {"enabled": True, "hosts": ["a.example"], "path": "/mail/"}}}
        self.assertIn("curl -s -X POST http://a.example/mail/api/v1/bulk-actions", notes(copy))
        self.assertIn("No Service leads here", notes({"services": {"smtp": None}}))

    def test_they_name_the_port_of_the_binding_where_a_service_has_no_address(self):
        services = {"smtp": {"clusterIP": "None", "ports": {"25": 2525}}, "other": {"clusterIP": "10.96.0.9", "ports": {"26": 2525}}}
        found = notes({"services": services})
        self.assertIn("mail-bridgehead-smtp.mail.svc:2525 ", found)
        self.assertIn("mail-bridgehead-other.mail.svc:26 ", found)

    def test_examples_of_the_readme_are_warned_of_nothing(self):
        examples = [values for values in test_readme.documents()[0] if "config" in values or "api" in values]
        self.assertGreaterEqual(len(examples), 3)
        for values in examples:
            self.assertNotIn("WARNING", notes(values))

    def test_they_warn_where_clients_are_hidden(self):
        route = {"tcpRoutes": {"edge": {"parentRefs": [{"name": "g"}], "service": "smtp", "port": 25}}}
        self.assertIn("services.smtp, port 25: tcpRoutes.edge hides", notes(route))
        cluster = {"services": {"smtp": {"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}}}
        self.assertIn("services.smtp, port 25: externalTrafficPolicy: Cluster hides", notes(cluster))
        by_address = {"services": {"smtp": {"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Cluster"}}}
        self.assertIn("services.smtp, port 25: externalTrafficPolicy: Cluster hides", notes(by_address))
        # the PROXY protocol says who they are
        proxied = {"config": {"virtualServers": {"a": {"bindings": [{**BINDING, "proxyProtocol": {"trusted": ["10.0.0.0/8"]}}]}}}}
        self.assertNotIn("hides", notes({**proxied, **cluster, **route}))
        # of REST too
        for values, words in (({"ingress": {"enabled": True, "hosts": ["a.example"]}}, "the Ingress seem to have one address"),
                              ({"service": {"type": "NodePort", "externalTrafficPolicy": "Cluster"}}, "Cluster seem to have one address"),
                              ({"ingress": {"enabled": True, "hosts": ["a.example"]}, "trustedProxies": ["10.244.0.0/16"]}, None),
                              ({"service": {"type": "NodePort"}}, None)):
            found = notes({"api": values})
            self.assertEqual("one address" in found, bool(words), values)
            self.assertIn(words or "", found)

    def test_they_warn_when_anybody_can_claim_to_be_any_client_of_rest(self):
        trusted = {"api": {"trustedProxies": ["10.244.0.0/16"]}}
        self.assertIn("WARNING: whoever is in the networks of api.trustedProxies", notes(trusted))
        self.assertNotIn("whoever", notes({**trusted, "networkPolicy": {"enabled": True}}))
        self.assertNotIn("whoever", notes("defaults"))

    def test_they_warn_of_a_server_without_a_name(self):
        config = {"virtualServers": {"named": {"fqdn": "mail.example.com", "bindings": [BINDING]}, "a": {"bindings": []}, "b": {"bindings": []},
                                     "off": {"enabled": False, "bindings": []}}}
        self.assertIn("virtual server a, b: no `fqdn`", notes({"config": config}))
        # those of the values are known, whatever comes from elsewhere
        self.assertIn("virtual server a, b: no `fqdn`", notes({"config": config, "existingConfigMap": "other"}))
        del config["virtualServers"]["a"], config["virtualServers"]["b"]
        self.assertNotIn("fqdn", notes({"config": config}))

    def test_they_warn_when_mail_has_no_way_out(self):
        server = {"fqdn": "mail.example.com", "bindings": [BINDING]}
        connector = {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}
        alone = {"config": {"virtualServers": {"a": server}}}
        self.assertIn("`unrouted`", notes(alone))
        for more in ({"connectors": {"a": connector}}, {"virtualServers": {"a": {**server, "outbound": {"smartHost": "smtp.example.net"}}}}):
            self.assertNotIn("WARNING", notes({"config": {**alone["config"], **more}}))
        # there may be one elsewhere
        self.assertNotIn("WARNING", notes({**alone, "configSecrets": ["connectors"]}))
        self.assertIn("nothing listens", notes({"config": {"connectors": {"a": connector}}, "services": {"smtp": None}}))

    def test_they_warn_when_the_network_policy_shuts_rest_off(self):
        outside = ({"ingress": {"enabled": True, "hosts": ["a.example"]}}, {"service": {"type": "LoadBalancer"}})
        open_ = ({"api": {"from": [{"namespaceSelector": {}}]}}, {"api": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
                 {"extraIngress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8025}]}]}, {"enabled": False})
        for api in outside:
            self.assertIn("networkPolicy.api.from", notes({"api": api, "networkPolicy": {"enabled": True}}))
            self.assertIn("networkPolicy.api.from", notes({"api": api, "networkPolicy": {"enabled": True, "extraIngress": [{"ports": [{"port": 9000}]}]}}))
            for policy in open_:
                self.assertNotIn("networkPolicy.api.from", notes({"api": api, "networkPolicy": {"enabled": True, **policy}}))
        self.assertNotIn("networkPolicy.api.from", notes({"networkPolicy": {"enabled": True}}))


if __name__ == "__main__":
    unittest.main()
