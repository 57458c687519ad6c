"""The table of an acceptance run: figures in, markdown out.

Owns the form of the reports under ``docs/reports``. Leaves measuring to the tests.
"""

from __future__ import annotations

from typing import Any

from tests.acceptance.suites import Suite


def table(suite: Suite, figures: list[dict[str, Any]], tests: dict[str, int], about: dict[str, str]) -> str:
    """Return the report.

    Args:
        suite: what was run.
        figures: as noted by ``Figures``, several runs of one test give several.
        tests: how many tests passed, failed and so on.
        about: what else a reader must know: commit, machine, versions, counts.
    """
    lines = [
        f"# {suite.title}",
        "",
        f"Written by `python -m tests.acceptance {suite.name} --full`: real etcd, real processes, full counts.",
        "Each row's tests also assert what has no figure: nothing acknowledged lost, nothing run twice, no orphan in any",
        "process or in etcd. Times are judged as they are here; CI repeats the tests with fewer rounds.",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        f"- tests: {', '.join(f'{count} {outcome}' for outcome, count in sorted(tests.items()))}",
        "",
        "| row | what | measured | bar | ok | note |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted({each["row"] for each in figures}, key=suite.rank):
        lines += [_line(each) for each in figures if each["row"] == row]
    return "\n".join(lines) + "\n"


def _line(figure: dict[str, Any]) -> str:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    bar = f"at most {figure['bar']:g}{unit}" if "bar" in figure else ""
    verdict = {True: "yes", False: "**no**", None: ""}[figure.get("ok")]
    note = str(figure.get("note", "")).replace("|", "/").replace("\n", " ")
    return f"| {figure['row']} | {figure['name']} | {figure['value']:.4g}{unit} | {bar} | {verdict} | {note} |"
