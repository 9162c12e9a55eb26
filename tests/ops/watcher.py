"""A real Prometheus that scrapes appliances every second, and the texts that it is given: rules, dashboard, runbook."""

import json
import os
import re
import subprocess
import time
import urllib.parse

from harness import ROOT, Rest, free_port, wait_for, workdir

RULES = os.path.join(ROOT, "helm/bridgehead/files/alerts.yaml")
DASHBOARD = os.path.join(ROOT, "helm/bridgehead/files/dashboard.json")


def alerts():
    """Names of the alerts, in the order of the file."""
    with open(RULES) as f:
        return re.findall(r"^ +- alert: (\w+)$", f.read(), re.M)


def panels():
    """(title, query) of each query of the dashboard, with rates over ten seconds."""
    with open(DASHBOARD) as f:
        board = json.load(f)
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], plain(target["expr"])


def annotation():
    """The query by which the dashboard marks alerts in every panel."""
    with open(DASHBOARD) as f:
        (found,) = json.load(f)["annotations"]["list"]
    return plain(found["expr"])


def plain(query):
    """As Grafana would ask it."""
    query = query.replace("$instance", ".*").replace("$__rate_interval", "10s")
    assert "$" not in query, query
    return query


def runbook():
    """Alert → its shell blocks in the runbook, in order."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        text = re.search(r"^## Runbook\n(.*?)^## ", f.read(), re.S | re.M).group(1)
    entries = re.split(r"^#### (\w+)$", text, flags=re.M)
    return {name: re.findall(r"^```sh\n(.*?)^```", body, re.S | re.M) for name, body in zip(entries[1::2], entries[2::2])}


def quick_rules(path):
    """The rules with the patience of a test: `for` in seconds where it is a minute or two, none where it is more, seconds in the place
    of half hours, of four hours."""
    with open(RULES) as f:
        text = f.read()
    text = re.sub(r"^( +for: [12])m$", r"\1s", text, flags=re.M)
    text = re.sub(r"^ +for: \w+[mh]\n", "", text, flags=re.M)
    text = text.replace("[30m]", "[6s]").replace("4 * 3600", "2")
    assert "[30m]" not in text and "[6s]" in text and ") > 2\n" in text
    with open(path, "w") as f:
        f.write(text)


def certificate(directory, days):
    """Makes tls.crt and tls.key in a directory; gives their texts."""
    os.makedirs(directory, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days),
                    "-subj", "/CN=mail.example.com", "-addext", "subjectAltName=DNS:mail.example.com", "-keyout", f"{directory}/tls.key",
                    "-out", f"{directory}/tls.crt"], check=True, capture_output=True)
    texts = []
    for name in ("tls.crt", "tls.key"):
        with open(os.path.join(directory, name)) as f:
            texts.append(f.read())
    return texts


class Prometheus:
    """Scrapes these addresses."""

    def __init__(self, *addresses, rules=None):
        self.dir = workdir("prometheus")
        port = free_port()
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                  "scrape_configs": [{"job_name": "mail", "static_configs": [{"targets": list(addresses)}]}]}
        if rules:
            config["rule_files"] = [rules]
        # JSON is YAML
        path = os.path.join(self.dir, "prometheus.yml")
        with open(path, "w") as f:
            json.dump(config, f)
        with open(os.path.join(self.dir, "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.dir}/data", f"--web.listen-address=127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.rest = Rest(f"127.0.0.1:{port}", key=None)
        wait_for("Prometheus", lambda: self.rest.get("/-/ready").status == 200, 60, 0.2)

    def close(self):
        self.process.kill()
        self.process.wait()

    def query(self, expr):
        """The result of an instant query; an error of Prometheus is one of the test."""
        answer = self.rest.get("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        if answer.status != 200:
            raise AssertionError(f"{expr}: {answer!r}")
        return answer.json["data"]["result"]

    def value(self, expr):
        """Of one sample; 0 when there is none."""
        found = self.query(expr)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else 0.0

    def names(self):
        return set(self.rest.get("/api/v1/label/__name__/values").json["data"])

    def begun(self, address, name):
        """How often each alert of this name has begun to fire for this address, by its labels: gaps in its series are ends."""
        query = {"query": f'ALERTS{{alertname="{name}",alertstate="firing",instance="{address}"}}', "start": time.time() - 600,
                 "end": time.time(), "step": 1}
        answer = self.rest.get("/api/v1/query_range?" + urllib.parse.urlencode(query))
        if answer.status != 200:
            raise AssertionError(f"{query}: {answer!r}")
        found = {}
        for row in answer.json["data"]["result"]:
            at = [float(when) for when, _ in row["values"]]
            found[json.dumps(row["metric"], sort_keys=True)] = 1 + sum(later - earlier > 1.5 for earlier, later in zip(at, at[1:]))
        return found

    def firing(self, address):
        """Name → the alerts that fire for this address."""
        found = {}
        for alert in self.rest.get("/api/v1/alerts").json["data"]["alerts"]:
            if alert["state"] == "firing" and alert["labels"]["instance"] == address:
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found


def metrics_of(text):
    """(name, labels as they stand) → value, of an exposition."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in found, f"twice: {name}"
            found[name] = float(value)
    return found
