"""Alert rules, the runbook and the page of metrics agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from amino.telemetry import names
from tests.telemetry.exported import generator, series

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts" / "amino.yaml"
_WORD = re.compile(r"[a-z_]+")


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_the_page_of_metrics_is_up_to_date():
    """``docs/metrics.md`` is what ``tools/generate_metrics_doc.py`` makes of the code."""
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_asks_for_what_there_is(rule):
    """Every metric and label of an alert is one that servers export; it says how bad it is and what is up."""
    expression = rule["expr"]
    known = series()
    used = set(re.findall(r"\bamino_\w+", expression))
    metrics = used & known.keys()
    assert metrics
    labels = {label for metric in metrics for label in known[metric]}
    assert used <= known.keys() | labels
    assert rule["labels"]["severity"] in {"critical", "warning"}
    shown = set(re.findall(r"\$labels\.(amino_\w+)", rule["annotations"]["summary"]))
    assert shown <= labels
    if re.search(r"\b(sum|max|histogram_quantile)\b", expression):
        grouped = set(_WORD.findall(" ".join(re.findall(r"by \(([^)]*)\)", expression))))
        assert shown <= grouped


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_has_its_entry_in_the_runbook(rule):
    """The runbook says under the alert's name what it means, where to look and what to do."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    entry = text.split(f"\n## {rule['alert']}\n", 1)[1].split("\n## ", 1)[0]
    assert all(word in entry for word in ("**Means**", "**Look**", "**Do**"))
    assert set(re.findall(r"\(#(\w+)\)", entry)) <= {each["alert"].lower() for each in rules()}
    assert set(re.findall(r"`(amino\.[a-z_.]+)`", entry)) <= names.METRICS.keys() | names.SPANS


def test_the_runbook_has_no_entry_without_an_alert():
    """What is gone from the rules is gone from the runbook."""
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules()]
