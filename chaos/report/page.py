"""The page for people: one self-contained HTML file for a run.

Owns its order: verdict, what to repeat, what failed, the timeline, all verdicts, unavailability, sizes, faults. Leaves the pictures
to ``timeline``, ``diagram`` and ``sizes``, how it looks to ``page.css``, what moves to ``page.js``.
Invariants: it loads nothing from elsewhere, and is readable without JavaScript, in light and dark; what came from the record is
escaped. Failure behaviour: what the record does not have is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import FaultRecord, RunRecord, Verdict
from chaos.report.diagram import diagram
from chaos.report.drawing import amount, duration, element
from chaos.report.series import end_of, percentile, sliced
from chaos.report.sizes import sizes
from chaos.report.timeline import family, timeline

FAULTS_OPEN_MAX = 12
UNAVAILABLE = ": unavailable_s_"
_HERE = Path(__file__).parent


def page(record: RunRecord) -> str:
    """Return the page."""
    title = f"{'passed' if record.ok else 'FAILED'}: {record.scenario} on {record.topology}, seed {record.seed}"
    failed = [one for one in record.verdicts if not one.ok]
    body = [
        _header(record),
        _tiles(record),
        *(_failure(one, record) for one in failed),
        _timelines(record),
        _verdicts(record),
        _unavailability(record.verdicts),
        _section("Sizes", element("div", sizes(record.samples), class_="sizes")) if record.samples else "",
        _faults(record.faults),
        _section("Notes", _list(record.notes)) if record.notes else "",
    ]
    head = [
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        element("title", escape(title)),
        element("style", (_HERE / "page.css").read_text(encoding="utf-8")),
    ]
    script = element("script", (_HERE / "page.js").read_text(encoding="utf-8"))
    main = element("main", [*body, script])
    return "<!doctype html>\n" + element("html", [element("head", head), element("body", main)], lang="en") + "\n"


def _section(title: str, content: str | Iterable[str], **attributes: object) -> str:
    inner = content if isinstance(content, str) else "".join(content)
    return element("section", element("h2", escape(title)) + inner, **attributes)


def _list(lines: Iterable[str]) -> str:
    return element("ul", (element("li", escape(one)) for one in lines))


def _header(record: RunRecord) -> str:
    good = record.ok
    wrong = sum(not one.ok for one in record.verdicts)
    verdict = "every judge is content" if good else f"{wrong} of {len(record.verdicts)} verdicts are bad"
    if not record.verdicts:
        verdict = "nothing was judged"
    facts = f"seed {record.seed} · {duration(record.duration_s)} under faults · {verdict}"
    chains = _list(f"{one.name}: {one.chain}" for one in record.workloads)
    command = ""
    if record.command:
        button = element("button", "copy", type="button", class_="copy")
        command = element("div", element("code", escape(record.command)) + button, class_="command")
    words = [
        element("h1", f"{escape(record.scenario)} <span>on {escape(record.topology or 'a cluster')}</span>"),
        element("p", escape(facts), class_="facts"),
        element("div", chains, class_="chains") if record.workloads else "",
    ]
    badge = element("div", "PASSED" if good else "FAILED", class_=f"badge {'good' if good else 'bad'}")
    return element("header", element("div", badge + element("div", words), class_="top") + command)


def _tiles(record: RunRecord) -> str:
    counts = Counter(one.outcome for one in record.operations)
    took = sorted(one.ended_s - one.began_s for one in record.operations if one.outcome == "ok")
    until_s = end_of(record.operations)
    happened = [one for one in record.faults if one.verified]
    worst = max((one.figures.get("unavailable_s_worst", -1.0) for one in record.verdicts), default=-1.0)
    p50, p99 = (percentile(took, share) for share in (0.5, 0.99))
    tiles = [
        ("answers", f"{counts['ok']:,}", f"{amount(counts['ok'] / until_s)} per second" if until_s else ""),
        ("errors", f"{counts['failed'] + counts['unknown']:,}", f"{counts['failed']:,} not executed, {counts['unknown']:,} unknown"),
        ("latency", duration(p50) if p50 is not None else "-", f"p50; p99 {duration(p99)}" if p99 is not None else ""),
        ("faults", str(len(happened)), f"of {len({one.kind for one in happened})} kinds" + _missed(record.faults)),
        ("longest silence", duration(worst) if worst >= 0 else "-", "after a fault"),
        ("verdicts", f"{sum(one.ok for one in record.verdicts)}/{len(record.verdicts)}", "are good"),
    ]  # fmt: skip
    return element("div", (_tile(*one) for one in tiles), class_="tiles")


def _missed(faults: Sequence[FaultRecord]) -> str:
    missed = sum(not one.verified for one in faults)
    return f", {missed} did not happen" if missed else ""


def _tile(name: str, value: str, words: str) -> str:
    inner = [element("span", escape(name)), element("b", escape(value)), element("small", escape(words))]
    return element("div", inner, class_="tile")


def _failure(verdict: Verdict, record: RunRecord) -> str:
    title = f"{verdict.workload}: {verdict.judge}" if verdict.workload else verdict.judge
    parts = [element("h2", escape(title)), element("p", escape(verdict.text), class_="said")]
    if verdict.smallest:
        picture = element("div", diagram(verdict.smallest, record.faults), class_="scroll")
        calls = "\n".join(str(one) for one in verdict.smallest)
        details = element("summary", "as text") + element("pre", escape(calls))
        parts += [element("h3", "The smallest history that shows it"), picture, element("details", details)]
    return element("section", parts, class_="failure")


def _timelines(record: RunRecord) -> str:
    until_s = end_of(record.operations, *(one.healed_s for one in record.faults), record.duration_s)
    names = list(dict.fromkeys(one.workload for one in record.operations))
    choices: list[tuple[str, Sequence[Operation]]] = [("all workloads", record.operations)]
    if len(names) > 1:
        choices += [(name, record.history(name).operations) for name in names]
    tabs, panels = [], []
    for number, (name, operations) in enumerate(choices):
        checked = "checked" if number == 0 else None
        tabs.append(
            element("input", type="radio", name="timeline", id=f"t{number}", checked=checked)
            + element("label", escape(name), for_=f"t{number}")
        )
        picture = timeline(sliced(operations, until_s), record.faults, until_s)
        panels.append(element("div", picture, class_="panel scroll"))
    if len(choices) == 1:
        return _section("Timeline", panels[0].replace('class="panel', 'class="panel shown', 1))
    shown = "".join(
        f"#t{number}:checked~.panels .panel:nth-child({number + 1}){{display:block}}" for number in range(len(choices))
    )
    inner = [element("style", shown), *tabs, element("div", panels, class_="panels")]
    return _section("Timeline", element("div", inner, class_="tabs"))


def _verdicts(record: RunRecord) -> str:
    rows = []
    for one in sorted(record.verdicts, key=lambda each: (each.ok, each.workload == "")):
        sign = element("td", element("span", "ok" if one.ok else "FAIL", class_=f"sign {'good' if one.ok else 'bad'}"))
        cells = [element("td", escape(each)) for each in (one.judge, one.workload or "whole run")]
        numbers = ", ".join(f"{name} {value:g}" for name, value in one.figures.items() if UNAVAILABLE not in name)
        told = escape(one.text) + (element("small", escape(numbers)) if numbers else "")
        rows.append(element("tr", [sign, *cells, element("td", told)]))
    return _section("Verdicts", _table(("", "judge", "of", "what it saw"), rows))


def _table(titles: Sequence[str], rows: Sequence[str]) -> str:
    head = element("thead", element("tr", (element("th", escape(one)) for one in titles)))
    return element("div", element("table", [head, element("tbody", rows)]), class_="scroll")


def _unavailability(verdicts: Sequence[Verdict]) -> str:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for one in verdicts:
        for name, value in one.figures.items():
            kind, here, which = name.partition(UNAVAILABLE)
            if here:
                found.setdefault((kind, one.workload), {})[which] = value
    if not found:
        return ""
    most = max(one["worst"] for one in found.values()) or 1.0
    rows = []
    for (kind, workload), figures in sorted(found.items(), key=lambda each: -each[1]["worst"]):
        bar = "".join(
            element("i", class_=which, style=f"width:{figures[which] / most * 100:.1f}%") for which in ("worst", "p50")
        )
        named = element("span", escape(kind), class_=f"kind {family(kind)}")
        cells = [
            element("td", named),
            element("td", escape(workload)),
            element("td", duration(figures["p50"]), class_="number"),
            element("td", duration(figures["worst"]), class_="number"),
            element("td", element("div", bar, class_="bar"), class_="wide"),
        ]
        rows.append(element("tr", cells))
    return _section("Unavailable per fault", _table(("fault", "workload", "p50", "worst", ""), rows))


def _faults(faults: Sequence[FaultRecord]) -> str:
    if not faults:
        return ""
    rows = []
    for one in faults:
        lasted = duration(one.healed_s - one.began_s) if one.healed_s < math.inf else "not undone"
        cells = [
            element("td", f"{one.began_s:.2f} s", class_="number"),
            element("td", element("span", escape(one.kind), class_=f"kind {family(one.kind)}")),
            element("td", escape(one.target)),
            element("td", lasted, class_="number"),
            element("td", "yes" if one.verified else element("b", "no", class_="bad-text")),
            element("td", escape(one.text)),
        ]
        rows.append(element("tr", cells))
    table = _table(("at", "fault", "of", "lasted", "happened", ""), rows)
    if len(faults) > FAULTS_OPEN_MAX:
        table = element("details", element("summary", f"all {len(faults)}") + table)
    return _section("Faults", table)
