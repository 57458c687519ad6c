"""A run as JUnit XML, for continuous integration.

Owns the format: a suite for the run, a case for each verdict. Leaves everything else to the page and the record.
Invariant: the suite has a failure exactly if the record is not good. Failure behaviour: a run without a verdict has one case, failed.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from amino.testing.chaos.record import RunRecord

_REFUSED = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")
"""What XML cannot hold."""


def junit(record: RunRecord) -> str:
    """Return the run as JUnit XML."""
    verdicts = record.verdicts
    wrong = sum(not one.ok for one in verdicts) or (not verdicts)
    suite = Xml.Element(
        "testsuite",
        name=_clean(f"chaos {record.scenario} on {record.topology}, seed {record.seed}"),
        tests=str(max(len(verdicts), 1)),
        failures=str(int(wrong)),
        errors="0",
        time=f"{record.duration_s:.3f}",
    )
    properties = Xml.SubElement(suite, "properties")
    for name in ("scenario", "topology", "seed", "duration_s", "command", "chain"):
        Xml.SubElement(properties, "property", name=name, value=_clean(str(getattr(record, name))))
    for one in verdicts:
        classname = f"chaos.{record.scenario}.{record.topology}"
        case = Xml.SubElement(
            suite, "testcase", classname=_clean(classname), name=_clean(_name(one.workload, one.judge))
        )
        for name, value in one.figures.items():
            Xml.SubElement(_properties(case), "property", name=_clean(name), value=f"{value:g}")
        if not one.ok:
            failure = Xml.SubElement(case, "failure", message=_clean(one.text))
            failure.text = _clean("\n".join([one.text, *map(str, one.smallest), "", f"repeat: {record.command}"]))
    if not verdicts:
        case = Xml.SubElement(suite, "testcase", classname="chaos", name=_clean(record.scenario))
        Xml.SubElement(case, "failure", message="nothing was judged")
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _properties(case: Xml.Element) -> Xml.Element:
    found = case.find("properties")
    return found if found is not None else Xml.SubElement(case, "properties")


def _name(workload: str, judge: str) -> str:
    return f"{workload}: {judge}" if workload else judge


def _clean(text: str) -> str:
    return _REFUSED.sub("?", text)
