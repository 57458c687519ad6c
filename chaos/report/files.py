"""The files of a report.

Owns their names. Leaves their contents to ``page``, ``junit`` and the record.
Invariant: each is complete when it gets its name. Failure behaviour: ``OSError`` of the disk.
"""

from __future__ import annotations

from pathlib import Path

from amino.testing.chaos.record import RunRecord
from chaos.report.junit import junit
from chaos.report.page import page


def write(record: RunRecord, folder: str | Path, name: str = "") -> dict[str, Path]:
    """Write a run's page, record and JUnit XML; returns the paths by ``html``, ``json`` and ``xml``. Replaces older ones.

    Args:
        folder: made if it is not there. name: of the files, without ending; default: scenario, topology and seed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = name or f"{record.scenario}-{record.topology}-{record.seed}"
    paths = {ending: folder / f"{name}.{ending}" for ending in ("html", "json", "xml")}
    for ending, content in (("html", page), ("xml", junit)):
        part = paths[ending].with_suffix(".part")
        part.write_text(content(record), encoding="utf-8")
        part.replace(paths[ending])
    record.save(paths["json"])
    return paths
