"""What the chart renders: the same as is checked in, by both Helms; valid for Kubernetes; and never what it promises not to do."""

import copy
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import yaml

import charts

VERSIONS = ("1.30", "1.31", "1.33", "1.35", "1.37")
# kinds that Kubernetes itself does not have
FOREIGN = {"Certificate", "PrometheusRule", "ServiceMonitor", "TCPRoute"}


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

    def valid(self, values, release="mail", helm="helm4", namespace="mail"):
        """The objects of values that are given as such, which Kubernetes takes."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(values, f)
            f.flush()
            done = charts.run(helm, "template", release, charts.CHART, "--namespace", namespace, "--kube-version", charts.KUBERNETES,
                              "--values", f.name)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        found = [o for o in yaml.safe_load_all(done.stdout) if o]
        for o in found:
            if o["kind"] not in FOREIGN:
                kubernetes_validate.validate(o, VERSIONS[-1], strict=True)
        return found

    def test_every_switch_can_be_on_and_off(self):
        def turned(node, on):
            return {k: on if isinstance(v, bool) else turned(v, on) for k, v in node.items() if isinstance(v, (bool, dict))}
        with open(os.path.join(charts.CHART, "values.yaml")) as f:
            defaults = yaml.safe_load(f)
        for helm in charts.HELMS:
            for on in (True, False):
                with self.subTest(helm=helm, on=on):
                    values = turned(defaults, on)
                    # what some need
                    values["pool"] = "mx"
                    values["api"]["ingress"]["hosts"] = ["mail.example"]
                    values["existingConfigMap"] = "documents"
                    kinds = {o["kind"] for o in self.valid(values, helm=helm)}
                    switched = {"Job", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
                    self.assertEqual(kinds & switched, switched if on else set())

    def test_null_is_refused_in_words_or_takes_a_value_away(self):
        """Each key of values.yaml: where the schema lets it go, all at once, Kubernetes takes what is rendered."""
        with open(os.path.join(charts.CHART, "values.schema.json")) as f:
            judge = jsonschema.Draft7Validator(json.load(f))
        with open(os.path.join(charts.CHART, "values.yaml")) as f:
            values = yaml.safe_load(f)
        count = 0

        def gone(node):
            nonlocal count
            nulls = {}
            for key, value in list(node.items()):
                del node[key]
                if judge.is_valid(values):
                    nulls[key] = None
                    count += 1
                node[key] = value
                if key not in nulls and isinstance(value, dict):
                    nulls[key] = gone(value)
            return nulls
        nulls = gone(values)
        self.assertGreater(count, 40)
        for helm in charts.HELMS:
            with self.subTest(helm=helm):
                self.valid(nulls, helm=helm)
            for key in ("api", "livenessProbe", "preStopSleepSeconds"):
                self.assertIn(key, charts.refusal(f"{key}=null", helm=helm))

    def test_strings_stay_strings(self):
        """Names that YAML would take for numbers, dates or truth, and texts with everything in them."""
        text = 'multi\nline: "x" \\ $(A) {{ x }} #é☃'
        for name in ("123", "2026-01-01", "true", "1e3"):
            with self.subTest(name):
                found = self.valid({
                    "existingConfigMap": name, "configSecrets": [name], "serviceAccountName": name, "priorityClassName": name,
                    "runtimeClassName": name, "commonLabels": {"a": name}, "podLabels": {"b": name}, "pool": name,
                    "podAnnotations": {"a": text, "b": name}, "nodeSelector": {"a": name}, "env": {"A": text, "B": name, "NO": "no"},
                    "adminKey": {"existingSecret": name, "key": name}, "secretMounts": {"a": {"secretName": name}},
                    "api": {"tls": {"secretName": name}}, "persistence": {"existingClaim": name},
                    "terminationGracePeriodSeconds": 1000000, "check": {"activeDeadlineSeconds": 1000000},
                }, namespace=name.lower())
                pod = next(o for o in found if o["kind"] == "StatefulSet")["spec"]["template"]
                self.assertEqual(pod["metadata"]["annotations"]["a"], text)
                env = {v["name"]: v.get("value") for v in pod["spec"]["containers"][0]["env"]}
                self.assertEqual((env["A"], env["B"], env["NO"]), (text, name, "no"))
                self.assertEqual({o["metadata"]["namespace"] for o in found}, {name})

    def test_it_can_be_a_part_of_another_chart_twice(self):
        with tempfile.TemporaryDirectory() as parent:
            shutil.copytree(charts.CHART, os.path.join(parent, "charts/bridgehead"))
            with open(os.path.join(parent, "Chart.yaml"), "w") as f:
                yaml.safe_dump({"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [
                    {"name": "bridgehead", "version": "0.1.0", "alias": alias, "condition": f"{alias}.enabled"} for alias in ("mxa", "mxb", "mxc")]}, f)
            with open(os.path.join(parent, "values.yaml"), "w") as f:
                yaml.safe_dump({"global": {"imageRegistry": "registry.example.com"}, "mxa": {"enabled": True, "pool": "mx", "services": {"smtp": None}},
                                "mxb": {"pool": "mx"}, "mxc": {"enabled": False}}, f)
            for helm in charts.HELMS:
                with self.subTest(helm=helm):
                    done = charts.run(helm, "template", "mail", parent)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    found = [o for o in yaml.safe_load_all(done.stdout) if o]
                    names = [(o["kind"], o["metadata"]["name"]) for o in found]
                    self.assertEqual(len(names), len(set(names)))
                    self.assertEqual([n for k, n in names if k == "StatefulSet"], ["mail-mxa", "mail-mxb"])
                    self.assertNotIn(("Service", "mail-mxa-smtp"), names)
                    selectors = [o["spec"]["selector"] for o in found if o["kind"] == "Service" and o["metadata"]["name"].endswith("-api")]
                    self.assertNotEqual(*selectors)


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
                    # a quota may ask for it
                    self.assertIn("limits", ours[0]["resources"])
        self.assertGreater(count, len(charts.value_sets()))

    def test_uid_and_groups_can_be_left_to_the_cluster(self):
        for helm in charts.HELMS:
            done = charts.run(helm, "template", *charts.NAMES, "--values", charts.value_sets()["documents-from-elsewhere"], "--set-json",
                              'podSecurityContext={"runAsUser": null, "runAsGroup": null, "fsGroup": null}')
            self.assertEqual(done.returncode, 0, done.stderr)
            for field in ("runAsUser", "runAsGroup", "fsGroup:"):
                self.assertNotIn(field, done.stdout)
            self.assertEqual(done.stdout.count("runAsNonRoot: true"), 3)

    def test_an_upgrade_changes_nothing_that_kubernetes_refuses(self):
        """From any set of values to any other, but for names and the claim's own."""
        def fixed(name):
            spec = charts.one(name, "StatefulSet")["spec"]
            return {k: v for k, v in spec.items() if k not in ("replicas", "template")}
        for name in charts.value_sets():
            if name != "placed":
                self.assertEqual(fixed(name), fixed("defaults"), name)

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
            for variable in spec["containers"][0].get("env", []):
                for source in variable.get("valueFrom", {}).values():
                    self.assertIs(source["optional"], True, variable["name"])
            for source in spec["containers"][0].get("envFrom", []):
                self.assertTrue(all(reference["optional"] for reference in source.values()))
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
        # not where TLS comes first, nor where the PROXY protocol does, nor where nothing is known, nor by a Service for its own node
        self.assertEqual(asked("two-gateways"), ["--smtp=mail-bridgehead-internal:25", "--smtp=mail-bridgehead-internal:587", "--smtp=mail-bridgehead-internet:25"])
        self.assertEqual(asked("watched"), [])
        self.assertEqual(asked("gateway-api"), [])
        self.assertEqual(asked("documents-from-elsewhere"), [])

    def test_the_network_policy_has_a_rule_for_each(self):
        rules = charts.one("watched", "NetworkPolicy")["spec"]["ingress"]
        ports = [[p["port"] for p in rule["ports"]] for rule in rules]
        self.assertEqual(ports, [[2525], [8025], [8026], [2525, 8026], [9000]])
        self.assertTrue(all(rule["from"] for rule in rules))
        tester = charts.one("watched", "Pod")["metadata"]["labels"]
        self.assertLessEqual(rules[3]["from"][0]["podSelector"]["matchLabels"].items(), tester.items())

    def test_a_network_policy_without_mail_opens_no_port_to_everybody(self):
        done = charts.run("helm4", "template", *charts.NAMES, "--set-json", 'config={"remoteDomains": {}}', "--set", "services.smtp=null",
                          "--set", "networkPolicy.enabled=true", "--show-only", "templates/networkpolicy.yaml")
        self.assertEqual(done.returncode, 0, done.stderr)
        rules = yaml.safe_load(done.stdout)["spec"]["ingress"]
        self.assertEqual([[p["port"] for p in rule["ports"]] for rule in rules], [[8025], [8026], [8026]])
        self.assertTrue(all(rule["from"] for rule in rules))

    def test_labels_of_an_object_go_before_the_common_ones(self):
        labels = charts.one("placed", "Service", "-smtp")["metadata"]["labels"]
        self.assertEqual((labels["team"], labels["floor"]), ("gateway", "2"))
        self.assertEqual(charts.rendered("helm4", "placed").count("team: gateway"), 1)
        for o in charts.objects("placed"):
            self.assertIn("team", o["metadata"]["labels"], o["kind"])

    def test_the_first_binding_is_of_the_family_of_the_others(self):
        def first(name):
            env = charts.one(name, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
            return next((v["value"] for v in env if v["name"] == "BRIDGEHEAD_SMTP_LISTEN"), None)
        self.assertEqual([first(n) for n in ("defaults", "node-ports", "two-gateways")], ["0.0.0.0:2525", "[::]:2525", None])

    def test_alerts_and_dashboard_are_the_files_that_tests_ops_tries(self):
        with open(os.path.join(charts.CHART, "files/alerts.yaml")) as f:
            rules = yaml.safe_load(f)["groups"][0]["rules"]
        groups = charts.one("watched", "PrometheusRule")["spec"]["groups"]
        self.assertEqual(groups[0]["rules"], [r for r in rules if r["alert"] != "BridgeheadDraining"])
        self.assertEqual([r["alert"] for r in groups[1]["rules"]], ["BridgeheadManyDeadLetters"])
        board = charts.one("watched", "ConfigMap", "-dashboard")
        self.assertEqual(board["metadata"]["labels"]["grafana_dashboard"], "1")
        with open(os.path.join(charts.CHART, "files/dashboard.json")) as f:
            self.assertEqual(json.loads(board["data"]["bridgehead.json"]), json.load(f))

    def test_the_notes_say_what_to_do_next(self):
        # Helm 3 shows notes with a cluster only; `template` has rendered them too
        for name, words in {"defaults": ["bridgehead token", "relays for nobody", "port-forward", "mail-bridgehead-smtp.mail.svc:25"],
                            "two-gateways": ["get secret mail-owner", "mail-bridgehead-internal.mail.svc:587"],
                            "node-ports": ["WARNING", "whole Internet", "8025:80"],
                            "restored": ["frozen", '"action": "thaw"'],
                            "gateway-api": [],
                            "rest-outside": ["https://mail-api.example.com/docs/"]}.items():
            notes = self.notes(name)
            for word in words:
                self.assertIn(word, notes, name)
            self.assertEqual("WARNING" in notes, "WARNING" in words, name)

    def test_the_notes_warn_where_clients_are_hidden(self):
        route = 'tcpRoutes={"edge": {"parentRefs": [{"name": "g"}], "service": "smtp", "port": 25}}'
        self.assertIn("services.smtp, port 25: tcpRoutes.edge hides", self.notes("defaults", "--set-json", route))
        cluster = ("--set", "services.smtp.type=LoadBalancer,services.smtp.externalTrafficPolicy=Cluster")
        self.assertIn("services.smtp, port 25: externalTrafficPolicy: Cluster hides", self.notes("defaults", *cluster))
        # the PROXY protocol says who they are
        self.assertNotIn("WARNING", self.notes("gateway-api", *cluster))

    def notes(self, name, *arguments):
        done = charts.run("helm4", "install", "mail", charts.CHART, "--namespace", "mail", "--dry-run=client",
                          "--values", charts.value_sets()[name], *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout[done.stdout.index("NOTES:"):]


class Refusals(unittest.TestCase):
    """What is wrong is refused when it is rendered, in words that name it."""

    CASES = [
        (['replicas=2'], "replicas"),
        (['srvices={}'], "srvices"),
        (['services.smtp.typ="LoadBalancer"'], "typ"),
        (['services.smtp.ports={"25": "2525"}'], "25"),
        (['services.smtp.ports={"smtp": 2525}'], "smtp"),
        (['services.smtp.ports={"25": 2526}'], "no binding of an enabled virtual server has that port"),
        (['services.smtp.type="NodePort"', 'services.smtp.nodePorts={"26": 30025}'], "the service has no port 26"),
        (['services.smtp.externalTrafficPolicy="Local"'], "needs the type LoadBalancer or NodePort"),
        (['services.smtp.nodePorts={"25": 30025}'], "services.smtp: nodePorts needs the type LoadBalancer or NodePort"),
        (['services.smtp.type="NodePort"', 'services.smtp.allocateLoadBalancerNodePorts=false'], "allocateLoadBalancerNodePorts needs the type LoadBalancer"),
        (['services.smtp.loadBalancerSourceRanges=["10.0.0.0/8"]'], "loadBalancerSourceRanges needs the type LoadBalancer"),
        (['api.service.nodePort=30025'], "api.service: nodePort needs the type"),
        (['services.smtp.ports={"70000": 2525}'], "there is no port 70000"),
        (['services.api={"ports": {"26": 2525}}'], "services.api: the chart has a Service of that name"),
        (['services.smtp.ports={"80": 8025}', 'existingConfigMap="a"'], "port 8025 is not for mail"),
        (['services.smtp.labels={"app.kubernetes.io/name": "x"}'], "app.kubernetes.io/name"),
        (['podLabels={"app.kubernetes.io/instance": "x"}'], "app.kubernetes.io/instance"),
        (['fullnameOverride="1.a"'], '"1.a" cannot be in the name of a Service'),
        (['enabled=false'], "enabled"),
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
        (['metrics.prometheusRule.enabled=true', 'metrics.prometheusRule.without=["BridgeheadDrain"]'], "there is no alert"),
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
        free = {"resources.requests", "resources.limits", "check.resources.requests", "check.resources.limits", "podSecurityContext", "securityContext", "services"}
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
        with open(os.path.join(charts.CHART, "values.yaml")) as f:
            defaults = yaml.safe_load(f)

        def merged(base, over):
            return {**base, **{k: merged(base[k], v) if isinstance(base.get(k), dict) and isinstance(v, dict) else v for k, v in over.items()}}
        for name, path in charts.value_sets().items():
            with open(path) as f:
                values = yaml.safe_load(f) or {}
            values = merged(defaults, values)
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
