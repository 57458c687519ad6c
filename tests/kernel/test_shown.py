"""What a kernel server shows of its calls: counted once each, traced or left out, linked to what delayed them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace as otel

import amino
from amino.contracts.calls import CURRENT
from amino.dm.base import Manager, ServerBase
from amino.errors import NotExecuted
from amino.kernel.arrival import arrived
from amino.telemetry import names
from amino.telemetry.trace import failover_traceparent
from tests.kernel.world import Served, serving
from tests.telemetry.recording import Recorded, context_of

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEFT_OUT = SAMPLED[:-2] + "00"
METHODS = ["threaded", "inlined", "awaited"]


class Work:
    """Methods of every kind; each returns the traceparent that calls from it would carry, and whether its own span records."""

    tracer = otel.get_tracer("shop")

    def threaded(self):
        """Run in a thread."""
        return self._look()

    @amino.inline
    def inlined(self):
        """Run where the frame was read."""
        return self._look()

    async def awaited(self):
        """Run on the loop."""
        return self._look()

    def fail(self):
        """Raise."""
        raise ValueError("no")

    def _look(self):
        with self.tracer.start_as_current_span("own") as own:
            return CURRENT.get().traceparent, own.is_recording()


class Through(ServerBase):
    """Passes calls on."""

    async def on_call(self, call, forward):
        """Pass."""
        return await forward(call)


class Around(Manager):
    """A manager with a server component."""

    def server(self, context):
        """Return it."""
        return Through()


@pytest.fixture(params=[(), (Around(),)], ids=["no manager", "a manager"])
def target(request):
    made = serving(Work(), *request.param)
    made.dms = ",".join(type(each).__name__ for each in request.param)
    return made


async def settled(recorded, count):
    """Wait until ``count`` calls were counted: a call is counted a moment after its answer has left."""
    for _ in range(1_000_000):
        if sum(recorded.calls().values()) >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"counted {recorded.calls()}")


@pytest.mark.parametrize("parent", [None, LEFT_OUT, SAMPLED])
def test_each_call_is_counted_once_however_it_ends(target, parent):
    """Methods of all kinds, results, errors and refusals, traced and left out: the counters add up."""

    async def main():
        recorded = Recorded(sampled=0.0)
        target.chain._telemetry = recorded.telemetry
        async with Served(target, telemetry=recorded.telemetry) as served:
            for sequence, method in enumerate(METHODS, 1):
                await served.call(method, sequence=sequence, traceparent=parent)
            with pytest.raises(ValueError, match="no"):
                await served.call("fail", sequence=4, traceparent=parent)
            served.session.ok = False
            with pytest.raises(NotExecuted):
                await served.call("threaded", sequence=5, traceparent=parent)
            await settled(recorded, 5)
            assert recorded.calls() == {
                ("server", "Work.threaded", target.dms, "result"): 1,
                ("server", "Work.threaded", target.dms, "not-executed"): 1,
                ("server", "Work.inlined", target.dms, "result"): 1,
                ("server", "Work.awaited", target.dms, "result"): 1,
                ("server", "Work.fail", target.dms, "application-error"): 1,
            }
            assert len(recorded.spans(names.SERVER_CALL)) == (4 if parent == SAMPLED else 0)  # one was refused

    asyncio.run(main())


@pytest.mark.parametrize("method", METHODS)
def test_a_traced_call_has_its_steps_and_attributes(target, method):
    """Server, component and method are children of each other below the client's span, with who and where on them."""

    async def main():
        recorded = Recorded()
        target.chain._telemetry = recorded.telemetry
        async with Served(target, telemetry=recorded.telemetry) as served:
            inside, _ = await served.call(method, traceparent=SAMPLED, attempt=2)
            (served_span,) = recorded.spans(names.SERVER_CALL)
            (method_span,) = recorded.spans(names.METHOD)
            assert inside.startswith(context_of(method_span))
            assert f"{served_span.parent.span_id:016x}" == "b7ad6b7169203331"
            steps = {span.context.span_id: span.name for span in recorded.spans()}
            above = names.SERVER_DM if target.dms else names.SERVER_CALL
            assert steps[method_span.parent.span_id] == above
            found = dict(served_span.attributes)
            assert found == {
                names.MICROSERVICE: "m1", names.METHOD_NAME: f"Work.{method}", names.DMS: target.dms, names.SERVER: "s1",
                names.REPLICA: "r1", names.EPOCH: 1, names.REQUEST: "c1/m1/1", names.ATTEMPT: 2, names.OUTCOME: "result",
                names.RPC_SYSTEM: "amino", names.RPC_SERVICE: "Work", names.RPC_METHOD: method,
            }  # fmt: skip

    asyncio.run(main())


@pytest.mark.parametrize("abiding", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_is_left_out_leaves_out_what_it_causes(target, method, abiding):
    """The method's own spans and the calls it makes are not recorded, whether ours or the application's own is the sampler."""

    async def main():
        recorded = Recorded(sampled=1.0, abiding=abiding)
        target.instance.tracer = recorded.provider.get_tracer("shop")
        async with Served(target, telemetry=recorded.telemetry) as served:
            assert await served.call(method, traceparent=LEFT_OUT) == (LEFT_OUT, False)
            assert recorded.spans() == []
            _, recording = await served.call(method, traceparent=SAMPLED, sequence=2)
            assert recording
            assert recorded.spans("own")

    asyncio.run(main())


@pytest.mark.parametrize("parent", [LEFT_OUT, SAMPLED])
def test_the_first_good_call_after_a_failover_is_told_once(target, parent):
    """It ends the failover's trace, be it traced itself or not; one that fails does not, nor does a second one."""
    trace = failover_traceparent("amino", "s0", 5)

    async def main():
        recorded = Recorded(sampled=0.0)
        arrived(target, trace, failover=True, heard_ns=1)
        async with Served(target, telemetry=recorded.telemetry) as served:
            with pytest.raises(ValueError, match="no"):
                await served.call("fail", sequence=1, traceparent=parent)
            assert recorded.spans(names.FAILOVER_FIRST_CALL) == []
            for sequence in (2, 3):
                await served.call("inlined", sequence=sequence, traceparent=parent)
            await settled(recorded, 3)
            (first,) = recorded.spans(names.FAILOVER_FIRST_CALL)
            (promoted,) = recorded.spans(names.FAILOVER_PROMOTED)
            for span in (first, promoted):
                assert f"00-{span.context.trace_id:032x}-{span.parent.span_id:016x}-01" == trace
            assert first.start_time == promoted.end_time == target.arrival.at_ns
            assert first.attributes[names.METHOD_NAME] == "Work.inlined"
            assert [f"{link.context.trace_id:032x}" for link in first.links] == (
                [SAMPLED.split("-")[1]] if parent == SAMPLED else []
            )

    asyncio.run(main())


def test_calls_that_waited_for_a_move_are_linked_to_it(target):
    """A call that was begun before the object came here names what kept it; one that was begun after does not."""
    move = "00-00000000000000000000000000000abc-0000000000000abc-01"

    async def main():
        recorded = Recorded()
        arrived(target, move)
        async with Served(target, telemetry=recorded.telemetry) as served:
            await served.call("inlined", sequence=1, traceparent=SAMPLED, age_s=1e6)
            await served.call("inlined", sequence=2, traceparent=SAMPLED)
            delayed, prompt = recorded.spans(names.SERVER_CALL)
            assert [f"{link.context.trace_id:x}" for link in delayed.links] == ["abc"]
            assert not prompt.links
            assert recorded.spans(names.FAILOVER_FIRST_CALL) == []

    asyncio.run(main())


def test_without_telemetry_nothing_is_timed(target):
    """While off a call is neither timed nor counted, and its object keeps no counters."""

    async def main():
        async with Served(target) as served:
            assert await served.call("inlined", traceparent=SAMPLED) == (SAMPLED, False)
            assert target.series == {}
            assert not target.answered

    asyncio.run(main())
