"""The caller's end of telemetry: each call counted once, and traced if it is chosen to be."""

from __future__ import annotations

import pytest

from amino.aio.mode import drive
from amino.contracts.calls import CURRENT, Invocation, RequestId
from amino.dm import AtLeastOnceRPC
from amino.errors import NotExecuted, OutcomeUnknown
from amino.telemetry import names
from tests.stubs.test_calls import Counter, scripted, world
from tests.stubs.world import AppError, ServerSays, location
from tests.telemetry.recording import Recorded, context_of

LEFT_OUT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def observed(recorded, *outcomes, managers=()):
    return world(scripted(*outcomes), location(Counter, *managers), telemetry=recorded.telemetry)


@pytest.mark.parametrize(
    "recorded", [Recorded(), Recorded(sampled=0.0), Recorded(tracing=False)], ids=["all", "none", "metrics"]
)
def test_each_call_is_counted_by_its_outcome(recorded):
    """Results, application errors, refusals and unknown outcomes, whether calls are traced or not."""
    gone = ServerSays(OutcomeUnknown("the link broke"))
    *_, counter = observed(
        recorded, 1, 2, AppError(ValueError("no")), ServerSays(NotExecuted("held", reason="locked")), gone
    )
    assert (counter.add(1), counter.add(1)) == (1, 2)
    with pytest.raises(ValueError, match="no"):
        counter.add(1)
    with pytest.raises(NotExecuted):
        counter.add(1)
    with pytest.raises(OutcomeUnknown):
        counter.get()
    assert recorded.calls() == {
        ("client", "Counter.add", "", "result"): 2,
        ("client", "Counter.add", "", "application-error"): 1,
        ("client", "Counter.add", "", "not-executed"): 1,
        ("client", "Counter.get", "", "unknown"): 1,
    }


def test_a_traced_call_shows_its_attempts():
    """Every send is a span of its own below the call's, and the frame names it as the parent."""
    recorded = Recorded()
    transport, *_, counter = observed(
        recorded, ServerSays(OutcomeUnknown("the link broke")), 7, managers=[AtLeastOnceRPC()]
    )
    assert counter.add(1) == 7
    (call,) = recorded.spans(names.CLIENT_CALL)
    (manager,) = recorded.spans(names.CLIENT_DM)
    first, second = recorded.spans(names.TRANSPORT)
    assert manager.parent.span_id == call.context.span_id
    for number, (sent, head) in enumerate(zip((first, second), transport.heads, strict=True)):
        assert sent.parent.span_id == manager.context.span_id
        assert head.traceparent.startswith(context_of(sent))
        found = {names.ATTEMPT: number, names.SERVER: "s1", names.REPLICA: "r1", names.EPOCH: 1, names.PEER: "s1:1"}
        assert found.items() <= dict(sent.attributes).items()
    assert call.attributes[names.DMS] == "AtLeastOnceRPC"
    assert (call.attributes[names.OUTCOME], call.attributes[names.ATTEMPT]) == ("result", 1)
    assert first.attributes[names.ERROR_TYPE] == "OutcomeUnknown"


def test_a_call_that_is_left_out_says_so_in_its_frame():
    """The server then leaves it out as well, and all that it causes."""
    recorded = Recorded(sampled=0.0)
    transport, *_, counter = observed(recorded, 1, managers=[AtLeastOnceRPC()])
    counter.add(1)
    counter.add(1)
    assert recorded.spans() == []
    assert {head.traceparent[-3:] for head in transport.heads} == {"-00"}


def test_a_nested_call_abides_by_the_call_it_is_made_in():
    """Within a method whose call is left out nothing is traced, whatever the sampler here would choose."""
    recorded = Recorded(sampled=1.0)
    transport, _, runtime, counter = observed(recorded, 1)
    outer = Invocation(runtime, "m0", "r0", "/", RequestId("c0", "m0", 1), 1, 1e12, "s0", 1, traceparent=LEFT_OUT)
    token = CURRENT.set(outer)
    try:
        counter.add(1)
    finally:
        CURRENT.reset(token)
    assert recorded.spans() == []
    assert transport.heads[0].traceparent == LEFT_OUT


def test_an_applications_own_span_is_the_parent():
    """A call within a span of the application's is its child."""
    recorded = Recorded(sampled=1.0)
    *_, counter = observed(recorded, 1)
    with recorded.provider.get_tracer("app").start_as_current_span("page") as page:
        counter.add(1)
    (call,) = recorded.spans(names.CLIENT_CALL)
    assert call.parent.span_id == page.get_span_context().span_id


def test_without_telemetry_nothing_is_kept():
    """While off, a target keeps no counters."""
    _, _, runtime, counter = world(scripted(1))
    counter.add(1)
    assert runtime.target("m").series == {}
    assert drive(runtime.methods(runtime.target("m")))
