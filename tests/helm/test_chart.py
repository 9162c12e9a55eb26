"""What the chart renders: the same as is checked in, by both Helms; valid for Kubernetes; and never what it promises not to do."""

import concurrent.futures
import copy
import glob
import ipaddress
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
with open(os.path.join(charts.CHART, "values.schema.json")) as schema:
    JUDGE = jsonschema.Draft7Validator(json.load(schema))
# beside every switch: what some need, and what others look at
USED = {
    "pool": "mx", "commonLabels": {"a": "b"}, "adminKey": {"existingSecret": "owner"}, "configSecrets": ["documents"],
    "config": {"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "port": 2525}]}},
               "accounts": {"a": {"username": "a@a.example", "password": {"file": "a/a"}}}},
    "secretMounts": {"a": {"secretName": "a"}}, "certificates": {"c": {"dnsNames": ["c.example"], "issuerRef": {"name": "c"}}},
    "services": {"smtp": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "nodePorts": {"25": 30025}}},
    "tcpRoutes": {"t": {"parentRefs": [{"name": "g"}], "service": "smtp", "port": 25}},
    "api": {"trustedProxies": ["10.244.0.0/16"], "tls": {"secretName": "api-tls"}, "ingress": {"hosts": ["mail.example"]},
            "service": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "nodePort": 30080}},
    "persistence": {"claimName": "restored"}, "restore": {"fromSnapshot": "a"}, "env": {"A": "a"},
    "networkPolicy": {"egress": [{}], "extraIngress": [{"ports": [{"port": 9000}]}]},
    "metrics": {"prometheusRule": {"without": ["BridgeheadDraining"]}},
}


def defaults():
    with open(os.path.join(charts.CHART, "values.yaml")) as f:
        return yaml.safe_load(f)


def turned(node, on):
    """The switches of these values, on or off."""
    return {k: on if isinstance(v, bool) else turned(v, on) for k, v in node.items() if isinstance(v, (bool, dict))}


def merged(base, over):
    return {**base, **{k: merged(base[k], v) if isinstance(base.get(k), dict) and isinstance(v, dict) else v for k, v in over.items()}}


def instead(values, path, value):
    """These values with another at this path."""
    key, *rest = path
    return {**values, key: instead(values.get(key, {}), rest, value) if rest else value}


def without(values, path):
    key, *rest = path
    return {k: without(v, rest) if k == key else v for k, v in values.items() if rest or k != key}


def can_go(values, within, path=()):
    """The keys of values.yaml, as paths and with what stands there, that the schema lets go from these values, each alone."""
    for key, default in within.items():
        at = (*path, key)
        if JUDGE.is_valid(without(values, at)):
            yield at, default
        if isinstance(default, dict):
            yield from can_go(values, default, at)


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
        """Also those of two releases that begin alike."""
        long = "a-release-whose-name-is-as-long-as-helm-lets-it-be"
        values = {"services": {"a-service-of-20-char": {"ports": {"25": 2525}}},
                  "config": {"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "port": 2525}]}}}}
        for helm in charts.HELMS:
            found = [(o["kind"], o["metadata"]["name"]) for end in "xy" for o in charts.made(values, release=f"{long}-{end}", helm=helm)]
            self.assertGreater(len(found), 10)
            self.assertEqual(len(found), len(set(found)))
            for kind, name in found:
                self.assertLessEqual(len(name), 63, kind)
            # as README says: the names of a release that was installed when they were cut
            cut = long[:40].removesuffix("-")
            kept = charts.of(charts.made({"fullnameOverride": cut}, release=long, helm=helm), "StatefulSet")
            claim = next(v for v in kept["spec"]["template"]["spec"]["volumes"] if v["name"] == "data")["persistentVolumeClaim"]["claimName"]
            self.assertEqual((kept["metadata"]["name"], claim, kept["spec"]["serviceName"]), (cut, f"{cut}-data", f"{cut}-pods"))

    def valid(self, *layers, **how):
        """The objects of values that are given as such, which Kubernetes takes."""
        found = charts.made(*layers, **how)
        for o in found:
            if o["kind"] not in FOREIGN:
                kubernetes_validate.validate(o, VERSIONS[-1], strict=True)
        return found

    def test_every_switch_can_be_on_and_off(self):
        for helm in charts.HELMS:
            for on in (True, False):
                with self.subTest(helm=helm, on=on):
                    needed = {"pool": "mx", "api": {"ingress": {"hosts": ["mail.example"]}}, "existingConfigMap": "documents"}
                    kinds = {o["kind"] for o in self.valid(turned(defaults(), on), needed, helm=helm)}
                    switched = {"Job", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
                    self.assertEqual(kinds & switched, switched if on else set())

    def test_null_is_refused_in_words_or_takes_a_value_away(self):
        """Each key of values.yaml: where the schema lets it go, all at once, Kubernetes takes what is rendered."""
        nulls = {}
        for path, _ in reversed(list(can_go(defaults(), defaults()))):
            nulls = instead(nulls, path, None)
        for helm in charts.HELMS:
            with self.subTest(helm=helm):
                self.valid(nulls, helm=helm)
            for key in ("api", "livenessProbe", "preStopSleepSeconds"):
                self.assertIn(key, charts.refusal(f"{key}=null", helm=helm))

    def test_any_one_value_can_be_null_when_all_are_in_use(self):
        """With every switch on. Where the default is empty, it is as if that had been said."""
        used = merged(turned(defaults(), True), USED)
        refused = {"secretMounts": "nothing brings", "services": "there is no service", "services.smtp": "there is no service",
                   "services.smtp.type": "needs the type", "services.smtp.ports.25": "has no ports", "pool": "needs a pool"}

        def judge(case):
            helm, path, default = case
            values, name = instead(used, path, None), ".".join(path)
            if name in refused:
                with self.assertRaisesRegex(AssertionError, f"execution error.*{refused[name]}"):
                    charts.text(values, helm=helm)
                return
            found = charts.text(values, helm=helm)
            # a field of Kubernetes' own has a default of its own
            if not default and path[0] != "securityContext" and helm == "helm4":
                self.assertEqual(found, charts.text(instead(used, path, default)))

        cases = [(helm, *one) for one in can_go(merged(defaults(), used), defaults()) for helm in charts.HELMS]
        self.assertGreater(len(cases), 200)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            judged = [(case, pool.submit(judge, case)) for case in cases]
            for (helm, path, _), done in judged:
                with self.subTest(helm=helm, null=".".join(path)):
                    done.result()

    def test_null_takes_away_what_an_earlier_file_has(self):
        """Wherever names lead to something: nothing of it is left, in the document neither."""
        def binding(*ports):
            return [{"address": "0.0.0.0", "port": port} for port in ports]
        rest = {
            "services": {"smtp": {"type": "NodePort", "ports": {"25": 2525}, "nodePorts": {"25": 30025}, "labels": {"a": "b"}}, "own": {"ports": {"27": 2525}}},
            "config": {"virtualServers": {"a": {"labels": {"a": "b"}, "bindings": binding(2525, 2526)}}, "recipients": {"a": {"type": "mailbox"}}},
            "secretMounts": {"a": {"secretName": "a"}}, "env": {"A": "a"}, "podLabels": {"a": "b"},
        }
        more = {
            "services": {"other": {"ports": {"26": 2526}}, "own": {"clusterIP": "None", "ipFamilies": ["IPv4"], "labels": {"c": "d"}, "pool": "p"}, "smtp": {"ports": {"26": 2526}, "nodePorts": {"26": 30026}, "labels": {"c": "d"}, "annotations": {"c": "d"}}},
            "config": {"virtualServers": {"b": {"bindings": binding(2527)}, "a": {"labels": {"c": "d"}}}, "recipients": {"a": {"attributes": {"c": "d"}}},
                       "filters": {"a": {"kind": "sender"}}, "connectors": {"a": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}}},
                       "settings": {"labels": {"c": "d"}}},
            "secretMounts": {"b": {"secretName": "b"}}, "certificates": {"c": {"dnsNames": ["c.example"], "issuerRef": {"name": "c"}}},
            "env": {"B": "b", "C": {"value": "c"}}, "podLabels": {"c": "d"}, "podAnnotations": {"c": "d"}, "nodeSelector": {"c": "d"}, "commonLabels": {"c": "d"},
            "tcpRoutes": {"t": {"parentRefs": [{"name": "g"}], "service": "smtp", "port": 25}}, "resources": {"limits": {"cpu": "2"}},
            "affinity": {"nodeAffinity": {}},
        }
        away = {
            "services": {"other": None, "own": {"clusterIP": None, "ipFamilies": None, "labels": None, "pool": None}, "smtp": {"ports": {"26": None}, "nodePorts": {"26": None}, "labels": {"c": None}, "annotations": {"c": None}}},
            "config": {"virtualServers": {"b": None, "a": {"labels": {"c": None}}}, "recipients": {"a": {"attributes": {"c": None}}},
                       "filters": None, "connectors": {"a": None}, "settings": None},
            "secretMounts": {"b": None}, "certificates": {"c": None}, "env": {"B": None, "C": None}, "podLabels": {"c": None}, "podAnnotations": {"c": None},
            "nodeSelector": {"c": None}, "commonLabels": {"c": None}, "tcpRoutes": {"t": None}, "resources": {"limits": {"cpu": None}},
            "affinity": {"nodeAffinity": None},
        }

        def tidy(found):
            """What is empty in the document now, and was not there before, is the same to the appliance."""
            for o in found:
                if "values.json" in o.get("data", {}):
                    document = json.loads(o["data"]["values.json"])
                    document["recipients"]["a"].pop("attributes", None)
                    o["data"] = {key: value for key, value in document.items() if value}
            return found
        for helm in charts.HELMS:
            with self.subTest(helm=helm):
                alone = tidy(self.valid(rest, helm=helm))
                self.assertNotEqual(alone, tidy(self.valid(rest, more, helm=helm)))
                self.assertEqual(alone, tidy(self.valid(rest, more, away, helm=helm)))
                flag = self.valid(rest, {"services": {"other": {"ports": {"26": 2526}}}}, helm=helm, more=["--set", "services.other=null"])
                self.assertEqual(alone, tidy(flag))

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
                    images = {c["image"] for o in found if o["kind"] == "StatefulSet" for c in o["spec"]["template"]["spec"]["containers"]}
                    self.assertEqual(images, {"registry.example.com/bridgehead:0.1.0"})
                    self.assertNotIn(("Service", "mail-mxa-smtp"), names)
                    selectors = [o["spec"]["selector"] for o in found if o["kind"] == "Service" and o["metadata"]["name"].endswith("-api")]
                    self.assertNotEqual(*selectors)

    def test_the_registry_of_all_charts_takes_the_place_of_the_images_own(self):
        for repository, image in (("bridgehead", "mirror.example:5000/bridgehead"), ("mail/bridgehead", "mirror.example:5000/mail/bridgehead"),
                                  ("ghcr.io/mail/bridgehead", "mirror.example:5000/mail/bridgehead"), ("localhost/bridgehead", "mirror.example:5000/bridgehead"),
                                  ("kind:5001/bridgehead", "mirror.example:5000/bridgehead")):
            found = charts.made({"global": {"imageRegistry": "mirror.example:5000", "other": 1}, "image": {"repository": repository, "tag": "1"},
                                 "existingConfigMap": "a"})
            images = [c["image"] for o in found for spec in charts.pods_of([o]) for c in spec["containers"]]
            self.assertEqual(images, [f"{image}:1"] * 4)


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
                    self.assertGreaterEqual(len(ours), 1)
                    for container in ours:
                        context = container["securityContext"]
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertIs(context["readOnlyRootFilesystem"], True)
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                        # a quota may ask for it
                        self.assertIn("limits", container["resources"])
                    self.assertFalse([v for v in spec.get("volumes", []) if "hostPath" in v])
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
                for word in ("randAlphaNum", "randAscii", "uuidv4", "genCA", "genSelfSignedCert", "lookup", "now", "subPath"):
                    self.assertIsNone(re.search(rf"\b{word}\b[^.]*}}}}", text), f"{path}: {word}")

    def test_a_change_of_the_document_does_not_touch_the_pod(self):
        def pod(connectors, *ports):
            bindings = [{"address": "0.0.0.0", "port": port} for port in ports]
            found = charts.made({"config": {"virtualServers": {"a": {"bindings": bindings}}, "connectors": connectors},
                                 "services": {"smtp": {"ports": {str(port - 2000): port for port in ports}}}})
            return charts.of(found, "StatefulSet"), charts.of(found, "ConfigMap", "-config")
        before, document = pod({"a": {"addressSpaces": [{"pattern": "a.example"}], "route": {"dns": {}}}}, 2525)
        after, changed = pod({"b": {"addressSpaces": [{"pattern": "b.example"}], "route": {"dns": {}}}}, 2525)
        bound, too = pod({}, 2525, 2526)
        self.assertEqual(before, after)
        self.assertEqual(before, bound)
        self.assertNotEqual(document, changed)
        self.assertNotEqual(document, too)
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

            def sources(volumes):
                config = [s for v in volumes if v["name"].startswith("config") for s in v["projected"]["sources"]]
                return json.loads(json.dumps(config).replace("mail-bridgehead-check", "mail-bridgehead-config"))
            self.assertEqual(sources(spec["volumes"]), sources(pod["volumes"]))
            # each in a directory of its own, so that a name that two have is seen
            volumes = [v for v in spec["volumes"] if v["name"].startswith("config")]
            self.assertTrue(all(len(v["projected"]["sources"]) == 1 for v in volumes))
            mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
            directories = [mounts[v["name"]] for v in volumes]
            self.assertEqual(len(set(directories)), len(sources(pod["volumes"])))
            self.assertEqual(spec["containers"][0]["args"], ["check", "--one-directory", *directories])
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

    def test_a_variable_from_elsewhere_can_be_in_another(self):
        """Kubernetes puts in only what stands before."""
        found = charts.made({"env": {"A_B": "$(POD_IP)", "POD_IP": {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}}, "existingConfigMap": "a"})
        for kind in ("StatefulSet", "Job"):
            names = [v["name"] for v in charts.of(found, kind)["spec"]["template"]["spec"]["containers"][0]["env"]]
            self.assertLess(names.index("POD_IP"), names.index("A_B"), kind)

    def test_each_copy_of_a_store_is_held_once(self):
        """By a name that says what it is a copy of and where it lies, as the same snapshot may be restored twice."""
        def held(source, name, claim, **restore):
            found = charts.made({"restore": {source: name, **restore}, "persistence": {"claimName": claim}})
            env = charts.of(found, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
            return next((v["value"] for v in env if v["name"] == "BRIDGEHEAD_RESTORED_FROM"), None)
        self.assertEqual(held("fromSnapshot", "a", "b"), "snapshot/a claim/b")
        self.assertIsNone(held("fromSnapshot", "a", "b", held=False))
        copies = [(source, name, claim) for source in ("fromSnapshot", "fromClaim") for name in ("a", "a" * 253)
                  for claim in ("b", "b" * 250 + "x", "b" * 250 + "y")]
        names = [held(*copy) for copy in copies]
        self.assertEqual(len(set(names)), len(names))
        # src/queue/restored.rs keeps so much
        self.assertLessEqual(max(map(len, names)), 253)

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

        def of(server):
            server = {"bindings": [{"address": "0.0.0.0", "port": 2525}], **server}
            pod = charts.of(charts.made({"config": {"virtualServers": {"a": server}}}), "Pod")
            return [a for a in pod["spec"]["containers"][0]["args"] if a.startswith("--smtp=")]
        self.assertEqual(asked("defaults"), ["--smtp=mail-bridgehead-smtp:25"])
        # not where TLS comes first, nor where the PROXY protocol does, nor where nothing is known, nor by a Service for its own node
        self.assertEqual(asked("two-gateways"), ["--smtp=mail-bridgehead-internal:25", "--smtp=mail-bridgehead-internal:587", "--smtp=mail-bridgehead-internet:25"])
        self.assertEqual(asked("watched"), [])
        self.assertEqual(asked("gateway-api"), [])
        self.assertEqual(asked("documents-from-elsewhere"), [])
        # a Service without an address translates no port
        headless = charts.of(charts.made({"services": {"smtp": {"clusterIP": "None"}}}), "Pod")
        self.assertEqual(headless["spec"]["containers"][0]["args"][2:], ["--smtp=mail-bridgehead-smtp:2525"])
        # nor where the greeting is held back, nor where this pod may be turned away
        self.assertEqual(of({}), asked("defaults"))
        self.assertEqual(of({"connections": {"greetingDelay": "0s"}}), asked("defaults"))
        self.assertEqual(of({"connections": {"greetingDelay": "10s"}}), [])
        self.assertEqual(of({"connectionControl": {"allow": ["10.1.0.0/16"]}}), [])

    def test_helm_test_asks_whether_the_document_is_in_force(self):
        count = 0
        for name in charts.value_sets():
            pod = charts.one(name, "StatefulSet")["spec"]["template"]["spec"]
            has = any(v["name"] == "config" for v in pod["volumes"])
            asked = [c["args"] for c in charts.one(name, "Pod")["spec"]["containers"]]
            fullname = "mx" if name == "placed" else "mail-bridgehead"
            question = ["healthcheck", f"{fullname}-pods:8026", "--probe=configured"]
            self.assertEqual(asked[1:], [question] if has else [], name)
            count += has
        self.assertGreater(count, 3)

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

    def test_common_labels_are_on_every_object_and_pod_and_in_no_selector(self):
        for o in charts.objects("placed"):
            self.assertIn("team", o["metadata"]["labels"], o["kind"])
            template = o.get("spec", {}).get("template")
            if template:
                self.assertIn("team", template["metadata"]["labels"], o["kind"])

        def selectors(node):
            if isinstance(node, dict):
                for key, value in node.items():
                    if key in ("selector", "matchLabels"):
                        yield value
                    yield from selectors(value)
            elif isinstance(node, list):
                for value in node:
                    yield from selectors(value)
        for labels in selectors([o for o in charts.objects("placed") if o["kind"] != "TCPRoute"]):
            self.assertNotIn("team", labels)

    def test_helper_pods_run_where_the_appliance_may_and_are_let_in(self):
        """By quotas of a priority class, by policies that ask for labels, by nodes with a runtime class."""
        appliance = charts.one("placed", "StatefulSet")["spec"]["template"]["spec"]
        job = charts.one("placed", "Job")["spec"]["template"]
        test = charts.one("placed", "Pod")
        for pod in (job, test):
            for field in ("priorityClassName", "runtimeClassName", "nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName"):
                self.assertEqual(pod["spec"][field], appliance[field], field)
            self.assertEqual(pod["spec"]["affinity"], {"nodeAffinity": appliance["affinity"]["nodeAffinity"]})
            # the name server of the appliance need not know the cluster's Services
            self.assertNotIn("dnsConfig", pod["spec"])
            self.assertEqual((pod["metadata"]["labels"]["sidecar"], pod["metadata"]["labels"]["team"]), ("none", "checks"))
            self.assertEqual(pod["metadata"]["annotations"]["sidecar.istio.io/inject"], "false")
        self.assertEqual(test["metadata"]["annotations"]["helm.sh/hook"], "test")
        # away from others of its kind is for the appliance: a check that waits for such a node would wait for ever
        apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]}}
        found = charts.made({"affinity": apart, "existingConfigMap": "a"})
        self.assertEqual(charts.of(found, "StatefulSet")["spec"]["template"]["spec"]["affinity"], apart)
        self.assertNotIn("affinity", charts.of(found, "Job")["spec"]["template"]["spec"])

    def test_what_comes_from_outside_keeps_its_address(self):
        """`Local`, unless the values say otherwise; for REST too, and by externalIPs."""
        def policy(name, ending):
            return charts.one(name, "Service", ending)["spec"].get("externalTrafficPolicy")
        self.assertEqual([policy("rest-outside", "-api"), policy("pool", "-smtp"), policy("two-gateways", "-internal")], ["Local"] * 3)
        self.assertEqual([policy("node-ports", "-api"), policy("node-ports", "-smtp")], ["Cluster"] * 2)
        self.assertEqual([policy("defaults", "-api"), policy("defaults", "-smtp")], [None] * 2)

    def test_labels_of_an_object_go_before_the_common_ones(self):
        labels = charts.one("placed", "Service", "-smtp")["metadata"]["labels"]
        self.assertEqual((labels["team"], labels["floor"]), ("gateway", "2"))
        self.assertEqual(charts.rendered("helm4", "placed").count("team: gateway"), 1)

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
        self.assertEqual([r["alert"] for r in groups[2]["rules"]], ["BridgeheadManyDeadLetters"])
        board = charts.one("watched", "ConfigMap", "-dashboard")
        self.assertEqual(board["metadata"]["labels"]["grafana_dashboard"], "1")
        with open(os.path.join(charts.CHART, "files/dashboard.json")) as f:
            self.assertEqual(json.loads(board["data"]["bridgehead.json"]), json.load(f))

    def test_a_release_without_a_pod_raises_an_alert(self):
        """`up` is not 0 then but nowhere. `service` and `namespace` are what the operator calls a target of the ServiceMonitor."""
        rule = charts.one("watched", "PrometheusRule")["spec"]["groups"][1]["rules"]
        self.assertEqual([(r["alert"], r["expr"]) for r in rule], [("BridgeheadDown", 'absent(up{namespace="mail", service="mail-bridgehead-pods"})')])
        self.assertIn("mail-bridgehead-pods", [o["metadata"]["name"] for o in charts.objects("watched") if o["kind"] == "Service"])
        watched = {"serviceMonitor": {"enabled": True}, "metrics": {"prometheusRule": {"enabled": True}}}
        for less in ({"serviceMonitor": {"enabled": False}}, {"replicas": 0}, {"metrics": {"prometheusRule": {"without": ["BridgeheadDown"]}}}):
            rule = charts.of(charts.made(watched, less), "PrometheusRule")
            self.assertEqual([g["name"] for g in rule["spec"]["groups"]], ["bridgehead"], less)
        self.assertEqual(len(charts.of(charts.made(watched), "PrometheusRule")["spec"]["groups"]), 2)


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
        (['config={"accounts": {"a": {"username": "a@a.example", "password": {"file": "accounts/a"}}}}', 'services.smtp=null'],
         'config.accounts.a.password.file: nothing brings "accounts/a" into the pod: add secretMounts.accounts'),
        (['config={"accounts": {"a": {"username": "a@a.example", "password": {"file": "/etc/passwd"}}}}', 'services.smtp=null'], "config.accounts.a.password.file"),
        (['config={"accounts": {"a": {"username": "a@a.example", "password": {"file": "b/a"}}}}', 'services.smtp=null',
          'extraVolumeMounts=[{"name": "a", "mountPath": "/etc/bridgehead/secrets/a"}]'], 'nothing brings "b/a"'),
        (['config={"accounts": {"a": {"username": "a@a.example", "password": {"env": "BRIDGEHEAD_SECRET_A"}}}}', 'services.smtp=null'],
         "config.accounts.a.password.env: the pod has no variable BRIDGEHEAD_SECRET_A: add env.BRIDGEHEAD_SECRET_A"),
        # names that look like places where there is no secret
        (['config={"accounts": {"labels": {"password": {"value": "secret"}}}}', 'services.smtp=null'], "config.accounts.labels.password.value"),
        (['config={"certificates": {"chain": {"chain": {"value": "PEM"}, "privateKey": {"value": "secret"}}}}', 'services.smtp=null'],
         "config.certificates.chain.privateKey.value"),
        (['config={"settings": {"tracing": {"headers": {"labels": {"value": "secret"}}}}}', 'services.smtp=null'], "config.settings.tracing.headers.labels.value"),
        (['config={"accounts": {"a": {"password": {"value": "secret", "set": true}}}}', 'services.smtp=null'], "config.accounts.a.password.value"),
        (['config={"virtualServers": {"a": {"bindings": [{"address": "0.0.0.0", "port": 0}]}}}', 'services.smtp=null'], "port 0"),
        (['services.smtp.type="NodePort"', 'services.smtp.ports={"25": 2525, "26": 2525}', 'services.smtp.nodePorts={"25": 30025, "26": 30025}'],
         "services.smtp.nodePorts.26: 30025 is taken by services.smtp.nodePorts.25"),
        (['services.smtp.type="NodePort"', 'services.smtp.nodePorts={"25": 30025}', 'services.b={"type": "NodePort", "ports": {"26": 2525}, "nodePorts": {"26": 30025}}'],
         "services.smtp.nodePorts.25: 30025 is taken by services.b.nodePorts.26"),
        (['services.smtp.type="NodePort"', 'services.smtp.nodePorts={"25": 30025}', 'api.service.type="NodePort"', 'api.service.nodePort=30025'],
         "services.smtp.nodePorts.25: 30025 is taken by api.service.nodePort"),
        (['services.smtp.type="NodePort"', 'services.smtp.nodePorts={"25": 25}'], "services.smtp.nodePorts.25: 25 is not among the ports of the nodes, 30000-32767"),
        (['api.service.type="NodePort"', 'api.service.nodePort=30025', 'nodePortRange="1-29999"'], "api.service.nodePort: 30025 is not among"),
        (['services.smtp.type="LoadBalancer"', 'services.smtp.healthCheckNodePort=80'], "services.smtp.healthCheckNodePort: 80 is not among"),
        (['services.smtp.type="LoadBalancer"', 'services.smtp.clusterIP="None"'], "without clusterIP: None"),
        (['api.service.type="NodePort"', 'api.service.clusterIP="None"'], "without clusterIP: None"),
        (['services.smtp.type="LoadBalancer"', 'services.smtp.externalTrafficPolicy="Cluster"', 'services.smtp.healthCheckNodePort=30999'],
         "services.smtp: healthCheckNodePort needs externalTrafficPolicy: Local"),
        (['api.service.type="LoadBalancer"', 'api.service.externalTrafficPolicy="Cluster"', 'api.service.healthCheckNodePort=30999'],
         "api.service: healthCheckNodePort needs externalTrafficPolicy: Local"),
        (['services.smtp.healthCheckNodePort=30999'], "healthCheckNodePort needs the type LoadBalancer"),
        (['api.service.externalTrafficPolicy="Local"'], "api.service: externalTrafficPolicy needs the type"),
        (['services.smtp.ports={"25": null}'], "services.smtp has no ports"),
        (['restore={"fromClaim": "mail-bridgehead-data"}'], "is the claim of this release itself"),
        (['restore={"fromClaim": "a"}', 'persistence.claimName="a"'], "is the claim of this release itself"),
        (['existingConfigMap="mail-bridgehead-config"', 'config={"remoteDomains": {}}'], "is the name of the ConfigMap that is made of config"),
        (['configSecrets=["a", "a"]'], "configSecrets"),
        *(([f'env.{name}="x"'], f"env.{name}: the chart sets it; use {instead}") for name, instead in {
            "BRIDGEHEAD_DATA_DIR": "persistence", "BRIDGEHEAD_CONFIG_DIR": "config", "BRIDGEHEAD_API_LISTEN": "listenAddress",
            "BRIDGEHEAD_HEALTH_LISTEN": "listenAddress", "BRIDGEHEAD_SMTP_LISTEN": "listenAddress", "BRIDGEHEAD_API_TLS_CERT": "api.tls.secretName",
            "BRIDGEHEAD_API_PROXIES": "api.trustedProxies",
            "BRIDGEHEAD_API_TLS_KEY": "api.tls.secretName", "BRIDGEHEAD_ADMIN_KEY_FILE": "adminKey.existingSecret", "BRIDGEHEAD_STORE": "store"}.items()),
        (['env.BRIDGEHEAD_ADMIN_KEY="a key of 16 characters"', 'adminKey.existingSecret="owner"'], "env.BRIDGEHEAD_ADMIN_KEY: the key comes from adminKey.existingSecret"),
        (['env.BRIDGEHEAD_SECRETS_DIR="/vault/secrets"', 'secretMounts={"a": {"secretName": "a"}}'], "env.BRIDGEHEAD_SECRETS_DIR"),
        (['serviceMonitor.interval="90"'], "interval"),
        (['certificates={"a": {"issuerRef": {"name": "i"}}}'], "dnsNames"),
        (['metrics.prometheusRule.enabled=true', 'metrics.prometheusRule.without=["BridgeheadDrain"]'], "there is no alert"),
    ]

    def test_each_is_refused_by_both_helms(self):
        for helm in charts.HELMS:
            for settings, words in self.CASES:
                with self.subTest(helm=helm, settings=settings):
                    self.assertIn(words, charts.refusal(*settings, helm=helm))

    def test_networks_of_proxies_are_such_as_the_appliance_takes(self):
        """By the judgement of Python's own parser, which is as strict: no bits behind the prefix, no zeros before a number."""
        good = ["10.0.0.5", "10.0.0.0/8", "0.0.0.0/0", "255.255.255.254/31", "10.244.128.0/17", "192.0.2.1/32", "fd00::/8", "::/0", "::", "::1", "::1/128",
                "1::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8000/113", "2001:DB8:0:1::/64", "fe80::/10", "1::0008/125"]
        bad = ["10.0.0.5/8", "10.244.128.0/16", "0.0.0.1/31", "10.0.0.0/33", "10.0.0.0/99", "256.0.0.0", "10.0.0", "10.0.0.0.0", "010.0.0.0/8", "10.0.0.0/",
               "10.0.0.0/08", "::::", ":::", ":", "1:2", "1::2::3", "fd00::1/8", "fe80::/8", "::1/127", "::/129", "1:2:3:4:5:6:7:8:9", "1:2:3:4::5:6:7:8",
               "12345::", "1:2:3:4:5:6:7:8001/113", "g::", "proxy.example", "10.0.0.1,10.0.0.2", "10.0.0.1-10.0.0.9", ""]

        def known(network):
            try:
                return not re.search(r"/(0\d|$)", network) and bool(ipaddress.ip_network(network))
            except ValueError:
                return False
        self.assertEqual([n for n in good + bad if known(n) != (n in good)], [])
        for helm in charts.HELMS:
            env = charts.of(charts.made({"api": {"trustedProxies": good}}, helm=helm), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
            self.assertIn({"name": "BRIDGEHEAD_API_PROXIES", "value": ",".join(good)}, env)
            for network in bad:
                with self.subTest(helm=helm, network=network):
                    self.assertIn("trustedProxies", charts.refusal(f"api.trustedProxies={json.dumps(['10.0.0.0/8', network])}", helm=helm))

    def test_what_looks_wrong_and_is_not_is_taken(self):
        def account(**password):
            return {"config": {"accounts": {"a": {"username": "a@a.example", "password": password}}}}

        def mount(path):
            return {"extraVolumes": [{"name": "a", "emptyDir": {}}], "extraVolumeMounts": [{"name": "a", "mountPath": path}]}
        certificate = {"certificates": {"a": {"chain": {"value": "PEM"}, "privateKey": {"file": "a/tls.key"}}},
                       "virtualServers": {"a": {"bindings": [], "tls": {"clientCa": {"value": "PEM"}}}},
                       "connectors": {"a": {"addressSpaces": [{"pattern": "*"}], "route": {"dns": {}}, "security": {"ca": {"value": "PEM"}}}},
                       "settings": {"alerts": {"smartHost": {"host": "a.example", "ca": {"value": "PEM"}}}}}
        shapes = {"recipients": {"a": {"type": "mailbox", "labels": {"value": "x"}, "attributes": {"file": "a/b"}}},
                  "remoteDomains": {"a": {"pattern": "a.example", "labels": {"env": "NONE"}}},
                  "identityProviders": {"a": {"issuer": "https://a.example", "audience": "a", "use": ["api"], "roleClaim": "r", "roles": {"value": "operator"}}}}
        for values in (
            {"config": certificate, "secretMounts": {"a": {"secretName": "a"}}},
            {"config": shapes},
            {**account(file="a/b"), "certificates": {"a": {"uris": ["spiffe://a"], "issuerRef": {"name": "i"}}}},
            {**account(file="/etc/bridgehead/secrets/a/b"), "secretMounts": {"a": {"secretName": "a"}}},
            {**account(file="a/b"), **mount("/etc/bridgehead/secrets/a")},
            {**account(file="a/b"), **mount("/etc/bridgehead/secrets/")},
            {**account(file="a/b"), **mount("/etc/bridgehead/secrets/a/b")},
            # put there by somebody else, such as Vault's agent
            {**account(file="a/b"), "env": {"BRIDGEHEAD_SECRETS_DIR": "/vault/secrets"}},
            {**account(env="BRIDGEHEAD_SECRET_A"), "env": {"BRIDGEHEAD_SECRET_A": {"valueFrom": {"secretKeyRef": {"name": "a", "key": "a"}}}}},
            {**account(env="BRIDGEHEAD_SECRET_A"), "envFrom": [{"secretRef": {"name": "a"}}]},
            {"restore": {"fromClaim": "mail-bridgehead-data"}, "persistence": {"claimName": "other"}},
            {"services": {"smtp": {"type": "NodePort", "nodePorts": {"25": 25}}}, "nodePortRange": "1-32767"},
            {"services": {"smtp": {"type": "LoadBalancer", "healthCheckNodePort": 30999}}},
            {"env": {"BRIDGEHEAD_ADMIN_KEY": {"valueFrom": {"secretKeyRef": {"name": "owner", "key": "key"}}}}},
            {"env": {"BRIDGEHEAD_LOG": "debug", "BRIDGEHEAD_IMPORT_DIR": "/imports"}},
        ):
            for helm in charts.HELMS:
                with self.subTest(helm=helm, values=values):
                    values.setdefault("services", {"smtp": None} if "config" in values else {})
                    self.assertEqual(len([o for o in charts.made(values, helm=helm) if o["kind"] == "StatefulSet"]), 1)

    def test_every_misspelt_value_is_refused(self):
        """Each key of values.yaml, one at a time, by the schema; Helm itself is asked by the cases above."""
        values = defaults()
        jsonschema.Draft7Validator.check_schema(JUDGE.schema)
        self.assertEqual([e.message for e in JUDGE.iter_errors(values)], [])
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
                        self.assertFalse(JUDGE.is_valid(values))
                    node[key] = node.pop(key + "x")
                    tried += 1
                if isinstance(node[key], dict):
                    walk(node[key], at)
        walk(values, "")
        self.assertGreater(tried, 100)

    def test_every_value_set_meets_the_schema_by_another_judge(self):
        for name, path in charts.value_sets().items():
            with open(path) as f:
                values = yaml.safe_load(f) or {}
            values = merged(defaults(), values)
            self.assertEqual([f"{list(e.absolute_path)}: {e.message}" for e in JUDGE.iter_errors(values)], [], name)


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
        for change in yaml.safe_load(chart["annotations"]["artifacthub.io/changes"]):
            self.assertEqual(set(change), {"kind", "description"})
            self.assertIn(change["kind"], {"added", "changed", "deprecated", "removed", "fixed", "security"})


if __name__ == "__main__":
    unittest.main()
