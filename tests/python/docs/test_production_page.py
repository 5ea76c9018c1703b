"""docs/production.md and deploy/ against the code: metrics, log events, limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from corelocker.service.config import HttpConfig, LicenseConfig
from corelocker.service.limits import MAX_HEAD
from corelocker.service.metrics import Metrics
from corelocker.service.problems import PROBLEMS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/production.md").read_text()
SERVICE = ROOT / "sdk/python/corelocker/service"


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each metric, by the name that Prometheus stores."""
    found = {}
    for collector in list(Metrics().registry._collector_to_names):
        (family,) = collector.describe() if hasattr(collector, "describe") else collector.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, set(collector._labelnames))  # type: ignore[attr-defined]
    return found


def test_every_metric_is_documented() -> None:
    rows = re.findall(r"^\| `(corelocker_\w+)` \| (\w+) \| (.*?) \|", PAGE, re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == metrics()


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_alerts_and_dashboard_ask_for_what_there_is(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text()
    document = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
    expressions = re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', json.dumps(document))
    assert len(expressions) >= 6
    known = metrics()
    for expression in expressions:
        expression = expression.replace('\\"', '"')
        for used, labels in re.findall(r"(corelocker_\w+)(?:\{([^}]*)\})?", expression):
            base = used.removesuffix("_bucket") if used not in known else used
            assert base in known, used
            assert set(re.findall(r"(\w+)=~?\"", labels)) <= known[base][1], expression
        for code in re.findall(r'code="([\w-]+)"', expression):
            assert code in PROBLEMS


def test_every_event_of_the_log_is_documented() -> None:
    source = "".join(path.read_text() for path in SERVICE.glob("*.py"))
    written = set(re.findall(r'\.(?:write\("(?:info|warning|error)", |failure\()"([a-z-]+)"', source))
    written |= set(re.findall(r'\.write\([a-z_.]+\.lower\(\), "([a-z-]+)"', source)) | {"request"}
    table = PAGE[PAGE.index("| event | level |") :].split("\n\n")[0]
    documented = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert documented == written


def test_the_limits_are_the_defaults() -> None:
    http, licenses = HttpConfig(), LicenseConfig()
    table = PAGE[PAGE.index("| what | figure |") :].split("\n\n")[0]
    figures = {key: row for row in table.splitlines() for key in re.findall(r"`((?:http|licenses)\.\w+)`", row)}
    for key, row in figures.items():
        section, _, name = key.partition(".")
        value = getattr(http if section == "http" else licenses, name)
        shown = f"{value >> 10} KiB" if name == "max_body" else f"{value:,}"
        assert shown in row, row
    assert f"{MAX_HEAD >> 10} KiB in all" in table
