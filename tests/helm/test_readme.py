"""The chart's README, tried: each block of values renders, each command of Helm too, each object is one that Kubernetes takes."""

import os
import re
import shlex
import tempfile
import unittest

import kubernetes_validate
import yaml

import charts

with open(os.path.join(charts.CHART, "README.md")) as f:
    README = f.read()
# kinds that Kubernetes itself does not have
FOREIGN = {"VolumeSnapshot"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def documents():
    """What is YAML there: values, and objects."""
    found = [one for text in blocks("yaml") for one in yaml.safe_load_all(text)]
    return [one for one in found if "kind" not in one], [one for one in found if "kind" in one]


def commands():
    """The commands of Helm that render: their release, and the arguments that choose what."""
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line)
        if words[:1] != ["helm"] or words[1] not in ("install", "upgrade"):
            continue
        release, chart, *rest = words[2:]
        assert chart == "helm/bridgehead", line
        yield release, [word for word in rest if word not in ("--create-namespace", "--reset-then-reuse-values")]


class Readme(unittest.TestCase):
    def rendered(self, helm, release, arguments, common):
        """The objects of one of its commands, with the file that it names."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "common.yaml")
            with open(path, "w") as f:
                yaml.safe_dump(common, f)
            arguments = [path if word == "common.yaml" else word for word in arguments]
            return charts.made(release=release, helm=helm, more=arguments)

    def test_each_block_of_values_renders(self):
        values, _ = documents()
        self.assertGreaterEqual(len(values), 4)
        for helm in charts.HELMS:
            for one in values:
                with self.subTest(helm=helm, values=list(one)):
                    charts.of(charts.made(one, helm=helm), "StatefulSet")

    def test_each_command_renders(self):
        found = list(commands())
        self.assertGreaterEqual(len(found), 6)
        for helm in charts.HELMS:
            for release, arguments in found:
                with self.subTest(helm=helm, release=release, arguments=arguments):
                    charts.of(self.rendered(helm, release, arguments, {}), "StatefulSet")

    def test_each_object_is_one_that_kubernetes_takes(self):
        _, objects = documents()
        self.assertGreaterEqual(len(objects), 3)
        for o in objects:
            if o["kind"] not in FOREIGN:
                kubernetes_validate.validate(o, "1.37", strict=True)
            if o["kind"] == "Pod":
                appliance = charts.one("defaults", "StatefulSet")["spec"]["template"]["spec"]
                of = lambda spec: {key: value for key, value in spec["securityContext"].items() if key != "fsGroupChangePolicy"}
                self.assertEqual(of(o["spec"]), of(appliance))
                self.assertEqual(o["spec"]["containers"][0]["securityContext"], appliance["containers"][0]["securityContext"])

    def test_the_three_releases_of_a_pool_fit_together(self):
        """One Service before all pods, each pod in one budget, and no two objects with one name."""
        common = next(one for one in documents()[0] if list(one) == ["topologySpreadConstraints"])
        pool = [(release, arguments) for release, arguments in commands() if "pool=mx" in arguments]
        self.assertEqual([release for release, _ in pool], ["mx-a", "mx-b", "mx"])
        found = [o for release, arguments in pool for o in self.rendered("helm4", release, arguments, common)]
        names = [(o["kind"], o["metadata"]["name"]) for o in found]
        self.assertEqual(len(names), len(set(names)))
        pods = [o["spec"]["template"]["metadata"]["labels"] for o in found if o["kind"] == "StatefulSet"]

        def reached(selector):
            return [pod for pod in pods if selector.items() <= pod.items()]
        mail = [o for o in found if o["kind"] == "Service" and o["metadata"]["labels"]["app.kubernetes.io/component"] == "smtp"]
        self.assertEqual([len(reached(o["spec"]["selector"])) for o in mail], [3])
        budgets = [o["spec"]["selector"]["matchLabels"] for o in found if o["kind"] == "PodDisruptionBudget"]
        self.assertEqual([len(reached(selector)) for selector in budgets], [3])
        # REST is of each pod alone
        rest = [o for o in found if o["kind"] == "Service" and o["metadata"]["labels"]["app.kubernetes.io/component"] == "api"]
        self.assertEqual([len(reached(o["spec"]["selector"])) for o in rest], [1, 1, 1])


if __name__ == "__main__":
    unittest.main()
