"""What the chart renders: the same as is checked in, by both Helms; valid for Kubernetes; and never what it promises not to do."""

import copy
import glob
import json
import os
import re
import subprocess
import sys
import unittest

import jsonschema
import kubernetes_validate
import yaml

import charts

VERSIONS = ("1.30", "1.31", "1.33", "1.35", "1.37")
# kinds that Kubernetes itself does not have
FOREIGN = {"Certificate", "ServiceMonitor", "TCPRoute"}


class Rendering(unittest.TestCase):
    def test_lint_is_strict_and_content(self):
        for helm in charts.HELMS:
            for name, path in charts.value_sets().items():
                with self.subTest(helm=helm, values=name):
                    done = charts.run(helm, "lint", "--strict", charts.CHART, "--values", path)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    self.assertNotIn("[WARNING]", done.stdout)

    def test_both_helms_render_what_is_checked_in(self):
        names = charts.value_sets()
        self.assertGreaterEqual(len(names), 12)
        for name in names:
            path = os.path.join(charts.HERE, "golden", f"{name}.yaml")
            if os.environ.get("UPDATE") == "1":
                with open(path, "w") as f:
                    f.write(charts.rendered("helm4", name))
            with open(path) as f:
                golden = f.read()
            for helm in charts.HELMS:
                with self.subTest(helm=helm, values=name):
                    self.assertEqual(charts.rendered(helm, name), golden, "UPDATE=1 tests/helm/run writes it anew")
        extra = {os.path.basename(p)[:-5] for p in glob.glob(os.path.join(charts.HERE, "golden", "*.yaml"))} - set(names)
        self.assertEqual(extra, set(), "golden files without values")

    def test_kubernetes_takes_every_object(self):
        seen = set()
        for name in charts.value_sets():
            for o in charts.objects(name):
                seen.add(o["kind"])
                if o["kind"] in FOREIGN:
                    continue
                for version in VERSIONS:
                    with self.subTest(values=name, kind=o["kind"], kubernetes=version):
                        kubernetes_validate.validate(o, version, strict=True)
        self.assertEqual(seen & FOREIGN, FOREIGN)
        self.assertLessEqual({"StatefulSet", "PersistentVolumeClaim", "Service", "ConfigMap", "Job", "Pod", "Ingress",
                              "NetworkPolicy", "PodDisruptionBudget"}, seen)

    def test_an_object_that_kubernetes_does_not_know_is_found(self):
        broken = copy.deepcopy(charts.one("defaults", "StatefulSet"))
        broken["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)

    def test_it_does_not_render_for_an_older_kubernetes(self):
        done = charts.run("helm4", "template", "mail", charts.CHART, "--kube-version", "1.29.9")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("1.30", done.stderr)

    def test_names_stay_short_enough_and_differ(self):
        long = "a-release-whose-name-is-as-long-as-helm-lets-it-be-x"
        for helm in charts.HELMS:
            done = charts.run(helm, "template", long, charts.CHART, "--set-json",
                              'services={"a-service-of-20-char": {"ports": {"25": 2525}}}', "--set-json", 'config={"virtualServers": '
                              '{"a": {"bindings": [{"address": "0.0.0.0", "port": 2525}]}}}')
            self.assertEqual(done.returncode, 0, done.stderr)
            found = [(o["kind"], o["metadata"]["name"]) for o in yaml.safe_load_all(done.stdout) if o]
            self.assertEqual(len(found), len(set(found)))
            for kind, name in found:
                self.assertLessEqual(len(name), 63, kind)


class Promises(unittest.TestCase):
    def test_pods_meet_the_restricted_standard(self):
        count = 0
        for name in charts.value_sets():
            for o, spec in charts.pod_specs(name):
                with self.subTest(values=name, kind=o["kind"]):
                    count += 1
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
                    for field in ("runAsUser", "runAsGroup", "fsGroup"):
                        self.assertEqual(spec["securityContext"][field], 65532)
                    self.assertEqual(spec["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch")
                    self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                    for field in ("hostNetwork", "hostPID", "hostIPC"):
                        self.assertNotIn(field, spec)
                    ours = [c for c in spec["containers"] if "bridgehead" in c["image"]]
                    self.assertEqual(len(ours), 1)
                    context = ours[0]["securityContext"]
                    self.assertIs(context["allowPrivilegeEscalation"], False)
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    self.assertFalse([v for v in spec.get("volumes", []) if "hostPath" in v])
        self.assertGreater(count, len(charts.value_sets()))

    def test_nothing_makes_two_renderings_differ_or_asks_the_cluster(self):
        for path in glob.glob(os.path.join(charts.CHART, "templates", "**", "*"), recursive=True):
            if os.path.isfile(path):
                with open(path) as f:
                    text = f.read()
                for word in ("randAlphaNum", "randAscii", "uuidv4", "genCA", "genSelfSignedCert", "lookup", "now", "subPath", "sha256sum"):
                    self.assertIsNone(re.search(rf"\b{word}\b[^.]*}}}}", text), f"{path}: {word}")

    def test_a_change_of_the_document_does_not_touch_the_pod(self):
        def pod(connectors):
            done = charts.run("helm4", "template", *charts.NAMES, "--set-json", 'config={"virtualServers": {"a": {"bindings": '
                              f'[{{"address": "0.0.0.0", "port": 2525}}]}}}}, "connectors": {json.dumps(connectors)}}}')
            self.assertEqual(done.returncode, 0, done.stderr)
            found = {o["kind"] + o["metadata"]["name"]: o for o in yaml.safe_load_all(done.stdout) if o}
            return found["StatefulSetmail-bridgehead"], found["ConfigMapmail-bridgehead-config"]
        before, document = pod({"a": {"addressSpaces": [{"pattern": "a.example"}], "route": {"dns": {}}}})
        after, changed = pod({"b": {"addressSpaces": [{"pattern": "b.example"}], "route": {"dns": {}}}})
        self.assertEqual(before, after)
        self.assertNotEqual(document, changed)
        mounts = before["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        self.assertIn({"name": "config", "mountPath": "/etc/bridgehead/config", "readOnly": True}, mounts)

    def test_the_check_sees_the_document_and_the_secrets_that_the_pod_will_see(self):
        for name in charts.value_sets():
            job = [o for o in charts.objects(name) if o["kind"] == "Job"]
            pod = charts.one(name, "StatefulSet")["spec"]["template"]["spec"]
            has = any(v["name"] == "config" for v in pod["volumes"])
            self.assertEqual(len(job), int(has and name != "check-off"), name)
            if not job:
                continue
            spec = job[0]["spec"]["template"]["spec"]
            self.assertEqual(job[0]["spec"]["backoffLimit"], 0)
            self.assertEqual(job[0]["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade")
            self.assertEqual(spec["containers"][0]["image"], pod["containers"][0]["image"])
            self.assertEqual(spec["containers"][0]["args"], ["check", "/etc/bridgehead/config"])

            def sources(volumes):
                config = next(v for v in volumes if v["name"] == "config")["projected"]["sources"]
                return json.loads(json.dumps(config).replace("mail-bridgehead-check", "mail-bridgehead-config"))
            self.assertEqual(sources(spec["volumes"]), sources(pod["volumes"]))
            secrets = {v["name"] for v in pod["volumes"] if v["name"].startswith("secret-")}
            there = {v["name"]: v for v in spec["volumes"] if v["name"].startswith("secret-")}
            self.assertEqual(set(there), secrets)
            # a secret that is not there yet must not keep the check from running
            self.assertTrue(all(v["secret"]["optional"] for v in there.values()))
            maps = {o["metadata"]["name"]: o for o in charts.objects(name) if o["kind"] == "ConfigMap"}
            if "mail-bridgehead-config" in maps:
                candidate = maps["mail-bridgehead-check"]
                self.assertEqual(candidate["data"], maps["mail-bridgehead-config"]["data"])
                weight = [int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in (candidate, job[0])]
                self.assertLess(weight[0], weight[1])

    def test_the_claim_stays_and_is_no_part_of_the_stateful_set(self):
        for name in charts.value_sets():
            stateful = charts.one(name, "StatefulSet")
            self.assertNotIn("volumeClaimTemplates", stateful["spec"])
            self.assertEqual(stateful["spec"]["podManagementPolicy"], "Parallel")
            claims = [o for o in charts.objects(name) if o["kind"] == "PersistentVolumeClaim"]
            self.assertEqual(len(claims), 0 if name == "placed" else 1)
            used = next(v for v in stateful["spec"]["template"]["spec"]["volumes"] if v["name"] == "data")
            claim = used["persistentVolumeClaim"]["claimName"]
            if claims:
                self.assertEqual(claims[0]["metadata"]["name"], claim)
                self.assertEqual(claims[0]["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
            else:
                self.assertEqual(claim, "mail-data")

    def test_rest_is_reachable_when_mail_is_not(self):
        for name in charts.value_sets():
            for o in charts.objects(name):
                if o["kind"] == "Service":
                    smtp = o["metadata"]["labels"]["app.kubernetes.io/component"] == "smtp"
                    self.assertEqual(o["spec"].get("publishNotReadyAddresses", False), not smtp, o["metadata"]["name"])

    def test_services_select_the_pod_and_nothing_else(self):
        for name in charts.value_sets():
            labels = charts.one(name, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
            for o in charts.objects(name):
                if o["kind"] == "Service":
                    self.assertLessEqual(o["spec"]["selector"].items(), labels.items())
                elif o["kind"] in ("Job", "Pod"):
                    template = o["spec"]["template"] if o["kind"] == "Job" else o
                    others = template["metadata"]["labels"]
                    self.assertNotEqual(others["app.kubernetes.io/name"], labels["app.kubernetes.io/name"], o["kind"])
                    self.assertNotIn("bridgehead/pool", others)

    def test_the_environment_has_each_name_once_and_the_values_win(self):
        env = charts.one("more", "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
        names = [v["name"] for v in env]
        self.assertEqual(len(names), len(set(names)))
        by_name = {v["name"]: v for v in env}
        self.assertEqual(by_name["BRIDGEHEAD_LOG_FORMAT"]["value"], "text")
        self.assertEqual(by_name["BRIDGEHEAD_RESERVE"]["value"], "1073741824")
        self.assertIn("valueFrom", by_name["BRIDGEHEAD_SECRET_MICROSOFT365"])

    def test_large_numbers_reach_the_document_as_they_are(self):
        text = charts.one("two-gateways", "ConfigMap", "-config")["data"]["values.json"]
        self.assertIn('"maxSize": 26214400', text)

    def test_a_drain_ends_before_the_pod_is_killed(self):
        for name in charts.value_sets():
            spec = charts.one(name, "StatefulSet")["spec"]["template"]["spec"]
            pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], pause + 15)

    def test_helm_test_asks_where_a_client_is_greeted(self):
        def asked(name):
            return [a for a in charts.one(name, "Pod")["spec"]["containers"][0]["args"] if a.startswith("--smtp=")]
        self.assertEqual(asked("defaults"), ["--smtp=mail-bridgehead-smtp:25"])
        # not where TLS comes first, nor where the PROXY protocol does, nor where nothing is known
        self.assertEqual(asked("two-gateways"), ["--smtp=mail-bridgehead-internal:25", "--smtp=mail-bridgehead-internal:587", "--smtp=mail-bridgehead-internet:25"])
        self.assertEqual(asked("gateway-api"), [])
        self.assertEqual(asked("documents-from-elsewhere"), [])

    def test_the_network_policy_has_a_rule_for_each(self):
        rules = charts.one("watched", "NetworkPolicy")["spec"]["ingress"]
        ports = [[p["port"] for p in rule["ports"]] for rule in rules]
        self.assertEqual(ports, [[2525], [8025], [8026], [9000]])
        self.assertTrue(all(rule["from"] for rule in rules))

    def test_the_notes_say_what_to_do_next(self):
        # Helm 3 shows notes with a cluster only; `template` has rendered them too
        for name, words in {"defaults": ["bridgehead token", "relays for nobody", "port-forward", "mail-bridgehead-smtp.mail.svc:25"],
                            "two-gateways": ["get secret mail-owner", "mail-bridgehead-internal.mail.svc:587"],
                            "node-ports": ["WARNING", "whole Internet", "8025:80"],
                            "restored": ["frozen", '"action": "thaw"'],
                            "rest-outside": ["https://mail-api.example.com/docs/"]}.items():
            done = charts.run("helm4", "install", "mail", charts.CHART, "--namespace", "mail", "--dry-run=client",
                              "--values", charts.value_sets()[name])
            notes = done.stdout[done.stdout.index("NOTES:"):]
            for word in words:
                self.assertIn(word, notes, name)


class Refusals(unittest.TestCase):
    """What is wrong is refused when it is rendered, in words that name it."""

    CASES = [
        (['replicas=2'], "replicas"),
        (['srvices={}'], "srvices"),
        (['services.smtp.typ="LoadBalancer"'], "typ"),
        (['services.smtp.ports={"25": "2525"}'], "25"),
        (['services.smtp.ports={"smtp": 2525}'], "smtp"),
        (['services.smtp.ports={"25": 2526}'], "no binding of an enabled virtual server has that port"),
        (['services.smtp.nodePorts={"26": 30025}'], "the service has no port 26"),
        (['services.smtp.externalTrafficPolicy="Local"'], "needs the type LoadBalancer or NodePort"),
        (['config={"connectors": {}, "virtualServers": {"a": {"enabled": false, "bindings": [{"address": "0.0.0.0", "port": 2525}]}}}'],
         "(there are: none)"),
        (['config={"virtualServers": {"a": {"bindings": [{"address": "127.0.0.1", "port": 2525}]}}}'], "(there are: none)"),
        (['config={"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "port": 8025}]}}}', 'services.smtp=null'], "8025"),
        (['config={"accounts": {"a": {"password": {"value": "secret"}}}}', 'services.smtp=null'], "config.accounts.a.password.value"),
        (['config={"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "port": 2525}]}}, "connectors": {"a": {"authentication": '
          '{"mechanism": "plain", "username": "a", "password": {"value": "secret"}}, "addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}}}'],
         "no place for a secret"),
        (['tcpRoutes={"a": {"parentRefs": [{"name": "g"}], "service": "smpt", "port": 25}}'], 'there is no service "smpt"'),
        (['tcpRoutes={"a": {"parentRefs": [{"name": "g"}], "service": "smtp", "port": 26}}'], "has no port 26"),
        (['terminationGracePeriodSeconds=19'], "terminationGracePeriodSeconds"),
        (['restore={"fromClaim": "a", "fromSnapshot": "b"}'], "either fromClaim or fromSnapshot"),
        (['restore={"fromClaim": "a"}', 'persistence.existingClaim="b"'], "without persistence.existingClaim"),
        (['secretMounts={"a": {"secretName": "a"}}', 'certificates={"a": {"dnsNames": ["a.example"], "issuerRef": {"name": "i"}}}'], "the same directory"),
        (['podDisruptionBudget.pool=true'], "needs a pool"),
        (['env={"NOT-A-NAME": "x"}'], "NOT-A-NAME"),
        (['api.ingress.enabled=true'], "hosts"),
        (['image.digest="latest"'], "digest"),
        (['adminKey.existingSecrt="x"'], "existingSecrt"),
        (['store="postgres"'], "store"),
    ]

    def test_each_is_refused_by_both_helms(self):
        for helm in charts.HELMS:
            for settings, words in self.CASES:
                with self.subTest(helm=helm, settings=settings):
                    self.assertIn(words, charts.refusal(*settings, helm=helm))

    def test_every_misspelt_value_is_refused(self):
        """Each key of values.yaml, one at a time, by the schema; Helm itself is asked by the cases above."""
        with open(os.path.join(charts.CHART, "values.schema.json")) as f:
            schema = json.load(f)
        with open(os.path.join(charts.CHART, "values.yaml")) as f:
            values = yaml.safe_load(f)
        jsonschema.Draft7Validator.check_schema(schema)
        judge = jsonschema.Draft7Validator(schema)
        self.assertEqual([e.message for e in judge.iter_errors(values)], [])
        # where Kubernetes decides what there is
        free = {"resources.requests", "resources.limits", "podSecurityContext", "securityContext", "services"}
        tried = 0

        def walk(node, path):
            nonlocal tried
            for key in list(node):
                at = f"{path}.{key}" if path else key
                if path not in free and not path.startswith("securityContext.") and not path.startswith("podSecurityContext."):
                    node[key + "x"] = node.pop(key)
                    with self.subTest(misspelt=at):
                        self.assertFalse(judge.is_valid(values))
                    node[key] = node.pop(key + "x")
                    tried += 1
                if isinstance(node[key], dict):
                    walk(node[key], at)
        walk(values, "")
        self.assertGreater(tried, 100)

    def test_every_value_set_meets_the_schema_by_another_judge(self):
        with open(os.path.join(charts.CHART, "values.schema.json")) as f:
            judge = jsonschema.Draft7Validator(json.load(f))
        for name, path in charts.value_sets().items():
            with open(path) as f:
                values = yaml.safe_load(f) or {}
            values["services"] = {k: v for k, v in values.get("services", {}).items() if v is not None}
            for service in values["services"].values():
                service["ports"] = {k: v for k, v in service["ports"].items() if v is not None}
            self.assertEqual([f"{list(e.absolute_path)}: {e.message}" for e in judge.iter_errors(values)], [], name)


class Drift(unittest.TestCase):
    def check(self, script):
        done = subprocess.run([sys.executable, os.path.join(charts.HERE, script), "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_schema_has_the_documents_schema_inside(self):
        self.check("schema.py")

    def test_the_readme_has_every_value(self):
        self.check("readme.py")

    def test_the_chart_is_of_the_version_of_the_binary(self):
        with open(os.path.join(charts.CHART, "Chart.yaml")) as f:
            chart = yaml.safe_load(f)
        with open(os.path.join(charts.ROOT, "Cargo.toml")) as f:
            version = re.search(r'^version = "(.*)"', f.read(), re.M)[1]
        self.assertEqual(chart["appVersion"], version)
        self.assertNotIn("dependencies", chart)
        for annotation in ("category", "license", "changes"):
            self.assertIn(f"artifacthub.io/{annotation}", chart["annotations"])


if __name__ == "__main__":
    unittest.main()
