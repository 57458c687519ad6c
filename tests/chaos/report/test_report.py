"""The report of a run: what the page, the JUnit XML and the files hold."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import FaultRecord, RunRecord
from chaos.report import junit, page, write
from chaos.report.diagram import diagram, told
from chaos.report.drawing import Scale, amount, duration
from chaos.report.series import sliced
from chaos.report.timeline import LANES_MAX, NAMED_MAX, timeline
from tests.chaos.report.records import record

VOID = {"meta", "input", "br"}


class Reader(HTMLParser):
    """Reads a page, and fails where elements are not nested as they should be."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.linked = [], [], []

    def handle_starttag(self, tag, attrs):
        self.linked += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def read(run):
    """Return a page's reader and its text."""
    reader = Reader()
    reader.feed(page(run))
    assert not reader.open
    return reader, " ".join(reader.words)


def test_the_page_of_a_good_run_says_so():
    """Verdict, seed, managers, command, figures and faults are all there, and nothing is loaded from elsewhere."""
    reader, words = read(record())
    assert "PASSED" in words
    assert "FAIL" not in words
    for said in (
        "seed 7",
        "PeriodicCheckpoint(every=1)",
        "kill-kernel",
        "python -m chaos run auto-restart",
        "liveness",
        "did not happen",
    ):
        assert said in words, said
    assert not reader.linked
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", page(record()))


def test_the_page_of_a_bad_run_shows_why():
    """The bad verdict comes first, with its history as a diagram and as text; what was recorded is escaped."""
    text = page(record(good=False))
    _, words = read(record(good=False))
    assert "FAILED" in words
    assert text.index("no order explains") < text.index('class="timeline"')
    assert 'class="diagram"' in text
    assert "a&lt;b" in text
    assert "<of>" not in text
    assert "<&>" not in text


def test_an_empty_record_has_a_page():
    """A run that came to nothing is a failure with a page."""
    _, words = read(RunRecord("auto-restart"))
    assert "FAILED" in words
    assert "nothing was judged" in words


def test_every_operation_counts_once_where_it_ended():
    """Slices hold all operations; latencies are those of good answers."""
    run = record()
    series = sliced(run.operations, 30.0)
    assert sum(series.ok) + sum(series.failed) + sum(series.unknown) == len(run.operations)
    assert series.unknown[-1] == 1
    assert series.p50_ms[0] == pytest.approx(10, abs=0.1)
    silent = int(11 / series.width_s)
    assert series.ok[silent] == 0
    assert series.p50_ms[silent] is None


def test_long_runs_have_wider_slices():
    """An hour has no more slices than fit on the page."""
    assert len(sliced([], 3600.0).ok) <= 240


def test_faults_are_bands_with_names():
    """Each fault is one band and one mark; very many stand in one lane, and none reaches beyond the picture."""
    run = record()
    picture = timeline(sliced(run.operations, 30.0), run.faults, 30.0)
    assert picture.count('class="band') == 2
    assert "unverified" in picture
    many = [FaultRecord("cut", "s1", at / 20, at / 20 + 0.1, True) for at in range(NAMED_MAX)]
    lanes = {
        float(y)
        for y in re.findall(r'class="mark [a-z]+" x="[\d.]+" y="(\d+)"', timeline(sliced([], 30.0), many, 30.0))
    }
    assert len(lanes) == LANES_MAX
    crowd = timeline(sliced([], 30.0), [*many, *many], 30.0)
    assert 'class="label"' not in crowd
    assert crowd.count('class="band') == 2 * NAMED_MAX


def test_diagrams_have_a_row_for_each_worker():
    """Calls stand in rows, in the order of their moments; a call without an end goes on to the edge; faults between are told."""
    run = record(good=False)
    picture = diagram(run.verdicts[-1].smallest, run.faults)
    assert picture.count(">worker ") == 3
    assert "call unknown open" in picture
    assert "kill-kernel s1" in picture
    many = [Operation(0, number, "read", began_s=number, ended_s=number + 0.5) for number in range(100)]
    assert "more" in diagram(many)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Operation(0, 0, "write", "", "k", "v", "ok"), "write(k, v)"),
        (Operation(0, 0, "read", "", "k", None, "ok", None), "read(k) = nothing"),
        (Operation(0, 0, "add", "", "k", "t", "ok", 3), "add(k, t) = 3"),
        (Operation(0, 0, "add", "", "k", "t", "failed"), "add(k, t) refused"),
        (Operation(0, 0, "add", "", "", ["a", 1]), 'add(["a", 1]) ?'),
    ],
)
def test_calls_are_told_in_few_words(operation, words):
    """What was asked and what was answered, or how it ended."""
    assert told(operation) == words


def test_junit_has_a_case_for_each_verdict():
    """Failures carry text, history and command; characters that XML cannot hold are replaced."""
    run = record(good=False)
    run.verdicts[-1].text += "\x00"
    suite = ElementTree.fromstring(junit(run))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase/failure")
    assert "read(" in failure.text
    assert "python -m chaos run" in failure.text
    assert ElementTree.fromstring(junit(record())).get("failures") == "0"
    assert ElementTree.fromstring(junit(RunRecord("x"))).get("failures") == "1"


def test_all_files_are_written(tmp_path):
    """Page, record and XML; the record can be read again and gives the same page."""
    paths = write(record(), tmp_path / "reports")
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {path.name for path in paths.values()}
    assert page(RunRecord.load(paths["json"])) == paths["html"].read_text(encoding="utf-8")


def test_scales_and_words():
    """Ticks are round and within the range; numbers are short."""
    assert Scale(0, 97, 0, 100).ticks(4) == [0, 25, 50, 75]
    assert Scale(1, 1000, 0, 90, log=True).ticks() == [1, 10, 100, 1000]
    assert Scale(1, 1000, 0, 90, log=True)(10) == 30
    assert Scale(5, 5, 0, 90)(5) == 0
    assert (amount(1536), amount(2.5e6), amount(0.25)) == ("1.54k", "2.5M", "0.25")
    assert (duration(0.0123), duration(3.21), duration(600), duration(math.inf)) == (
        "12.3 ms",
        "3.21 s",
        "10 min",
        "never",
    )
