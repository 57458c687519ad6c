"""Which calls are traced: the client decides, by the sampler, and all that follows from the call abides by it."""

from __future__ import annotations

import pytest
from opentelemetry import trace as otel

from amino.contracts.calls import CURRENT, Invocation, RequestId
from amino.telemetry import names
from amino.telemetry.trace import UNDECIDED, current_traceparent, is_unsampled
from tests.telemetry.recording import Recorded

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEFT_OUT = SAMPLED[:-2] + "00"


def an_invocation(traceparent):
    return Invocation(None, "m", "r", "/", RequestId("c", "m", 1), 0, 1.0, "s1", 1, traceparent=traceparent)


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (None, False), ("", False), (SAMPLED, False), (LEFT_OUT, True), (SAMPLED[:-2] + "03", False),
        (SAMPLED[:-2] + "02", True), (SAMPLED + " vendor=1", False), (LEFT_OUT + " vendor=1", True), ("garbage", False),
    ],
)  # fmt: skip
def test_the_sampled_flag_is_one_bit(traceparent, expected):
    """The other bits, and a tracestate behind, say nothing about it; what is malformed is not left out."""
    assert is_unsampled(traceparent) is expected


def test_the_parent_decides():
    """A traceparent that came with the call is abided by, whatever the sampler here would say."""
    recorded = Recorded(sampled=0.0)
    assert recorded.telemetry.choose(LEFT_OUT) == LEFT_OUT
    assert recorded.telemetry.choose(SAMPLED) == UNDECIDED
    with recorded.telemetry.span("served", parent=SAMPLED) as span:
        assert span.recording
        assert recorded.telemetry.choose(None) == UNDECIDED
    with recorded.telemetry.inside(LEFT_OUT):
        assert recorded.telemetry.choose(None) == LEFT_OUT


def test_a_share_of_new_traces_is_recorded_and_the_sampler_agrees():
    """What is chosen becomes a recorded span, always; of the rest nothing is made, and all have one context."""
    recorded = Recorded(sampled=0.25)
    chosen = [recorded.telemetry.choose(None) for _ in range(2000)]
    left_out = {one for one in chosen if isinstance(one, str)}
    tickets = [one for one in chosen if isinstance(one, int)]
    assert len(left_out) == 1
    assert all(is_unsampled(one) for one in left_out)
    assert 350 < len(tickets) < 650  # seven standard deviations each way
    for ticket in tickets:
        with recorded.telemetry.span(names.CLIENT_CALL, ticket=ticket) as span:
            assert span.recording
    assert len({span.context.trace_id for span in recorded.spans()}) == len(tickets)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share):
    """A share of 0 leaves out every call, one of 1 none."""
    recorded = Recorded(sampled=share)
    kinds = {type(recorded.telemetry.choose(None)) for _ in range(100)}
    assert kinds == ({str} if share == 0.0 else {int})


def test_without_a_known_share_the_sampler_is_asked_for_each_span():
    """A sampler that decides by more than the id (or an application's own) is not second-guessed."""
    assert {Recorded().telemetry.choose(None) for _ in range(20)} == {UNDECIDED}


def test_what_a_method_traces_itself_is_left_out_with_its_call():
    """Spans of user code within a call that is left out are not recorded, and name its trace as theirs."""
    recorded = Recorded(sampled=1.0)
    with recorded.telemetry.inside(LEFT_OUT):
        assert current_traceparent() == LEFT_OUT
        with recorded.provider.get_tracer("shop").start_as_current_span("query") as query:
            assert not query.is_recording()
            assert f"{query.get_span_context().trace_id:032x}" == LEFT_OUT.split("-")[1]
    assert not otel.get_current_span().get_span_context().is_valid
    assert recorded.spans() == []


@pytest.mark.parametrize("parent", [LEFT_OUT, SAMPLED, None])
def test_what_runs_in_a_call_abides_by_its_choice(parent):
    """Whoever begins a trace within a call that is left out begins none; one begun on purpose is the sampler's to choose."""
    recorded = Recorded(sampled=1.0)
    tracer = recorded.provider.get_tracer("shop")
    token = CURRENT.set(an_invocation(parent))
    try:
        assert current_traceparent() == (LEFT_OUT if parent == LEFT_OUT else None)
        with tracer.start_as_current_span("query") as query, tracer.start_as_current_span("below") as below:
            assert query.is_recording() is below.is_recording() is (parent != LEFT_OUT)
        with recorded.telemetry.span("election", parent="") as apart:
            assert apart.recording
        with recorded.telemetry.span("served", parent=SAMPLED) as served:
            assert served.recording
            with tracer.start_as_current_span("within") as within:
                assert within.is_recording()
    finally:
        CURRENT.reset(token)


def test_links_name_the_other_trace_and_garbage_is_passed_over():
    """A span may be linked to others, when it is told of them and when it is recorded afterwards."""
    recorded = Recorded()
    with recorded.telemetry.span("call") as span:
        span.link(SAMPLED)
        span.link("garbage")
    recorded.telemetry.emit("piece", start_ns=1, end_ns=2, links=(SAMPLED, ""))
    for each in recorded.spans():
        (link,) = each.links
        assert f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" == SAMPLED
