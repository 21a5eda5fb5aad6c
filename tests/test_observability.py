"""Alerts, dashboard and scrape configuration: read by the real Prometheus, and about nothing that does not exist."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.support.declared_metrics import declared_metrics
from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.redis_servers import wait_for
from tests.support.sidecar_process import running_sidecar

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "auth-sidecar.json").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus adds to every series, and what histograms have.
TARGET_LABELS = {"job", "instance"}
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}

_SELECTOR = re.compile(r"\b(sidecar_\w+|up|process_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def _declared() -> dict[str, set[str]]:
    """Every series that a sidecar may export, with its labels."""
    found: dict[str, set[str]] = {name: set() for name in FOREIGN}
    for name, metric in declared_metrics().items():
        labels = set(metric.labels)
        if metric.kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_count"] = found[f"{name}_sum"] = labels
        else:
            found[name] = labels
    return found


DECLARED = _declared()
DASHBOARD_EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
EXPRESSIONS = {**{rule["alert"]: rule["expr"] for rule in ALERTS}, **DASHBOARD_EXPRESSIONS}


def _plain(expression: str) -> str:
    """As Grafana would send it."""
    filled = expression.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
    assert "$" not in filled, filled
    return filled


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_expressions_are_about_what_exists(expression: str) -> None:
    """Every metric is declared, with every label that it is selected or grouped by."""
    labels_of_all: set[str] = set()
    selectors = _SELECTOR.findall(expression)
    assert selectors
    for name, matchers in selectors:
        assert name in DECLARED, name
        labels = DECLARED[name] | TARGET_LABELS
        labels_of_all |= labels
        assert set(_MATCHER.findall(matchers)) <= labels, f"{name}{{{matchers}}}"
    grouped = {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
    assert grouped <= labels_of_all


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in DASHBOARD_EXPRESSIONS.values() for name, _ in _SELECTOR.findall(expression)}
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert named >= {re.sub(r"_(bucket|count|sum)$", "", name) for name in DECLARED if name.startswith("sidecar_")}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Severity, words, and an entry of the runbook under the alert's own name."""
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = notes["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert f"\n## {rule['alert']}\n" in (ROOT / page).read_text("utf-8")


def test_the_runbook_has_no_entry_for_alerts_that_are_gone() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]


def test_every_alert_fires_in_some_case() -> None:
    """Which the rules' own tests, below, then prove."""
    expected = {
        label
        for case in yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text("utf-8"))["tests"]
        for check in case["promql_expr_test"]
        for sample in check["exp_samples"]
        for label in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert expected == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")],
    ids=" ".join,
)
def test_promtool_agrees(command: tuple[str, ...], require_tool: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [require_tool("promtool"), *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    """The members that Grafana's schema asks for; every panel has a place, a datasource and something to show."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "an id belongs to one Grafana"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    for name in ("job", "instance"):
        assert variables[name]["datasource"] == datasource
        assert variables[name]["query"]["query"].startswith("label_values(sidecar_build_info")
    for panel in PANELS:
        assert panel["datasource"] == datasource
        assert panel["title"]
        assert panel["description"]
        assert panel["type"] in ("timeseries", "stat")
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == datasource
            assert '{job=~"$job",instance=~"$instance"' in target["expr"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_no_panel_lies_on_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@pytest.fixture(scope="module")
def prometheus(
    require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """Asks a real Prometheus, which scrapes a real sidecar as the shipped configuration says."""
    folder = tmp_path_factory.mktemp("prometheus")
    program = require_tool("prometheus")
    with IdentityProvider() as idp:
        provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}
        with running_sidecar(folder, {"authenticationConfiguration": {"providers": [provider]}}) as sidecar:
            shipped = (PROMETHEUS / "prometheus.yaml").read_text("utf-8")
            named = shipped.replace("127.0.0.1:4181", sidecar.admin_address).replace(": 15s", ": 200ms")
            assert named.count(sidecar.admin_address) == 1
            (folder / "prometheus.yaml").write_text(named, "utf-8")
            (folder / "alerts.yaml").write_bytes((PROMETHEUS / "alerts.yaml").read_bytes())
            url = f"http://127.0.0.1:{free_port()}"
            command = [
                program,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ]
            with running(command, log=folder / "log", ready=lambda: answers(f"{url}/-/ready", 200)) as process:

                def ask(path: str) -> Any:
                    return request(f"{url}/api/v1/{path}").json()

                token = ("Authorization", f"Bearer {idp.mint()}")
                assert request(f"{sidecar.url}/oauth2/auth", headers=[token]).status == 200
                seen = f"query?{urlencode({'query': 'sidecar_authentications_total'})}"
                process.wait_until(lambda: bool(ask(seen)["data"]["result"]), within=20, what="scraped")
                yield ask


def test_prometheus_scrapes_and_takes_the_alerts(prometheus: Callable[[str], Any]) -> None:
    (target,) = prometheus("targets")["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    def states() -> dict[str, str]:
        (group,) = prometheus("rules")["data"]["groups"]
        return {rule["name"]: rule["health"] for rule in group["rules"]}

    wait_for(lambda: "unknown" not in states().values(), "evaluated")
    assert states() == {rule["alert"]: "ok" for rule in ALERTS}


@pytest.mark.parametrize("expression", DASHBOARD_EXPRESSIONS.values(), ids=DASHBOARD_EXPRESSIONS)
def test_prometheus_understands_the_panel(prometheus: Callable[[str], Any], expression: str) -> None:
    answer = prometheus(f"query?{urlencode({'query': _plain(expression)})}")
    assert answer["status"] == "success", answer
    assert not answer.get("warnings")


def _selects_something(prometheus: Callable[[str], Any], query: str) -> bool:
    return bool(prometheus(query)["data"]["result"])


def test_panels_show_what_is_there(prometheus: Callable[[str], Any]) -> None:
    """An expression can be understood and still select nothing, as two metrics whose labels never meet."""
    always = ("Ready A", "In flight A", "Age A", "Usable keys A", "Store up A", "CPU A", "Memory A")
    for title in (*always, "File descriptors A", "Revocation list A", "Tokens in the cache A", "Versions A"):
        query = f"query?{urlencode({'query': _plain(DASHBOARD_EXPRESSIONS[title])})}"
        wait_for(partial(_selects_something, prometheus, query), f"shown by {title}")
