"""Invoke on a running port: values, outcomes, deadlines, request ids, bad requests."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import grpc
import pytest

from amino.contracts.calls import Raised
from amino.errors import AminoError, NotExecuted, OutcomeUnknown, Overloaded, RemoteError, by_code
from amino.rpc.grpc.errors import STATUS_BY_CODE
from amino.rpc.grpc.invoke import CallerRequest
from amino.wire.codec import Reference
from amino.wire.gen.amino_v1 import invoke_pb2 as pb
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from tests.grpc.asking import call, call_request, make, refused
from tests.grpc.conftest import serve
from tests.grpc.fake_cluster import FakeStub

Code = grpc.StatusCode


def ask(port, request, **options):
    return InvokeStub(port.channel).Call(request, **options)


def answer_with(port, outcome):
    """Let every call end with ``outcome``: a result, or an exception that is raised."""

    async def invoker(*_):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    port.invoker.answer = invoker


async def test_a_call_runs_the_method_and_returns_its_result(port):
    """A call by name and one by id reach the same object, and keyword arguments arrive."""
    made = await make(port, "it", 40)
    assert await call(port, "add", 2) == 42
    request = pb.CallRequest(microservice=made.microservice, method="add")
    request.kwargs["n"].int_value = 3
    assert (await ask(port, request)).value.int_value == 45


async def test_refs_among_arguments_can_be_called_at_the_server(port):
    """A ref arrives bound, nested ones too, and goes back as a ref."""
    await make(port)
    reference = Reference("a" * 24, "shop:Cart", "cart")
    assert await call(port, "echo", {"cart": reference}) == {"cart": reference}
    assert isinstance(port.invoker.calls[-1]["args"][0]["cart"], FakeStub)


@pytest.mark.parametrize(
    "make_error",
    [
        lambda: LookupError("not here"),
        lambda: Raised(LookupError("not here")),
        lambda: RemoteError(
            "builtins.LookupError: not here", type_name="builtins.LookupError", traceback="LookupError: not here"
        ),
    ],
)
async def test_what_a_method_raises_is_data(port, make_error):
    """An application error ends the call with status OK and tells type, message and traceback."""
    answer_with(port, make_error())
    reply = await ask(port, call_request("any"))
    told = reply.application_error
    assert (told.type_name, told.message) == ("builtins.LookupError", "not here")
    assert "LookupError: not here" in told.traceback


async def test_an_amino_error_that_the_method_raised_is_the_methods(port):
    """A NotFound inside the method is not taken for a missing microservice."""
    await make(port)
    reply = await ask(port, call_request("fail_as_amino"))
    assert reply.application_error.type_name == "amino.errors.NotFound"


@pytest.mark.parametrize("code", sorted(by_code()))
async def test_every_error_of_the_tree_has_its_status_and_code(port, code):
    """Errors about the call arrive with a status, the stable code, the message and the details."""
    if code == "application-error":
        return  # told as data, see above
    answer_with(
        port, by_code()[code]("ünlucky; try again", reason="moved", count=3, ratio=0.5, flag=True, nothing=None)
    )
    status, told, message, details = await refused(ask(port, call_request("any")))
    assert (status, told, message) == (STATUS_BY_CODE[code], code, "ünlucky; try again")
    assert details == {"reason": "moved", "count": 3, "ratio": 0.5, "flag": True, "nothing": None}


def test_clients_repeat_by_themselves_only_what_is_safe():
    """UNAVAILABLE, which gRPC's retry policies repeat, is kept for calls that certainly did not run."""
    unavailable = {code for code, status in STATUS_BY_CODE.items() if status is Code.UNAVAILABLE}
    assert unavailable == {"not-executed", "cluster-unavailable"}
    ours = {code for code, cls in by_code().items() if cls.__module__ == "amino.errors"}  # tests define others
    assert set(STATUS_BY_CODE) == ours


def test_the_guide_lists_every_code_with_its_status():
    """The table in docs/invoke.md is what the adapter does."""
    guide = (Path(__file__).resolve().parents[2] / "docs" / "invoke.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z-]+)` \| ([A-Z_]+) \|", guide, re.MULTILINE))
    told_as_data = {"application-error"}
    assert listed == {code: status.name for code, status in STATUS_BY_CODE.items() if code not in told_as_data}


@pytest.mark.parametrize("kind", [NotExecuted, OutcomeUnknown])
async def test_deadlines_are_told_as_such(port, kind):
    """A deadline at the server is DEADLINE_EXCEEDED, and the code says whether the method may have run."""
    answer_with(port, kind("late", reason="deadline"))
    status, code, _, _ = await refused(ask(port, call_request("any")))
    assert (status, code) == (Code.DEADLINE_EXCEEDED, kind.code)


async def test_errors_of_any_size_arrive(port):
    """Messages and details too large for metadata are cut, and say so."""
    answer_with(port, Overloaded("ü" * 100_000, reason="overloaded", notes="x" * 5000, why=["no typed", {1}]))
    status, code, message, details = await refused(ask(port, call_request("any")))
    assert (status, code) == (Code.RESOURCE_EXHAUSTED, "overloaded")
    assert message.endswith("... (cut)")
    assert details == {"reason": "overloaded", "cut": True, "why": "['no typed', {1}]"}


async def test_an_error_class_of_others_has_its_bases_status(port):
    """A class that Amino does not know is told by the status of what it extends."""

    class Crowded(Overloaded):
        code = "crowded"

    answer_with(port, Crowded("too many"))
    status, code, _, _ = await refused(ask(port, call_request("any")))
    assert (status, code) == (Code.RESOURCE_EXHAUSTED, "crowded")


async def test_a_result_without_a_typed_form_says_that_the_method_ran(port):
    """The path to the offending part is named, and the caller learns not to repeat the call."""
    await make(port)
    status, code, message, details = await refused(ask(port, call_request("unsendable")))
    assert (status, code, details) == (Code.INVALID_ARGUMENT, "not-encodable", {"executed": True})
    assert "result['inner'][1]" in message
    assert "did run" in message


async def test_a_result_over_the_limit_is_refused_with_the_rule(port):
    """A reply larger than the message limit becomes an error that names both sizes; the port lives on."""
    answer_with(port, "x" * (1024 * 1024 + 1))
    status, code, message, details = await refused(ask(port, call_request("any")))
    assert (status, code, details) == (Code.INVALID_ARGUMENT, "not-encodable", {"executed": True})
    assert str(1024 * 1024) in message
    answer_with(port, 1)
    assert await call(port, "any") == 1


async def test_a_request_over_the_limit_is_refused_with_the_rule(port):
    """gRPC itself refuses what is too large before reading it; the port lives on."""
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
        await ask(port, call_request("echo", b"x" * (2 * 1024 * 1024)))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    answer_with(port, 1)
    assert await call(port, "any") == 1


class Noting:
    """A stub that notes in which threads it is made and sent."""

    def __init__(self, reference, threads):
        self._reference, self._threads = reference, threads
        threads.add(threading.current_thread())

    @property
    def __amino_reference__(self):
        self._threads.add(threading.current_thread())
        return self._reference


@pytest.mark.parametrize(("parts", "on_loop"), [(1000, True), (100_000, False)])
async def test_large_values_do_not_hold_up_the_loop(parts, on_loop):
    """Values are read and written where the request came in if they are small, and in a thread if they are large."""
    threads: set[threading.Thread] = set()

    async with (
        serve(bind=lambda reference: Noting(reference, threads)) as port,
        grpc.aio.insecure_channel(port.address) as port.channel,
    ):
        await make(port)
        value = [Reference("a" * 24), *range(parts)]
        assert await call(port, "echo", value) == value
        assert (threading.current_thread() in threads, len(threads) > 0) == (on_loop, True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.CallRequest(method="get"), "names no microservice"),
        (pb.CallRequest(name="", method="get"), "names no microservice"),
        (pb.CallRequest(name="it"), "names no method"),
        (pb.CallRequest(name="it", method="__init__"), "not public"),
        (pb.CallRequest(name="it", method="m", args=[{}]), "args[0] has no kind"),
        (pb.CallRequest(name="it", method="m", kwargs={"a": {}}), "kwargs['a'] has no kind"),
        (pb.CallRequest(name="it", method="m", timeout_s=0), "timeout_s is 0"),
        (pb.CallRequest(name="it", method="m", timeout_s=float("nan")), "timeout_s is nan"),
        (pb.CallRequest(name="it", method="m", timeout_s=1e9), "timeout_s is 1000000000"),
        (pb.CallRequest(name="it", method="m", request_id={"sequence": 1}), "request_id.client is ''"),
        (pb.CallRequest(name="it", method="m", request_id={"client": "c"}), "request_id.sequence is 0"),
        (pb.CallRequest(name="it", method="m", request_id={"client": "c", "sequence": 1, "floor": 2}), "floor is 2"),
        (
            pb.CallRequest(name="it", method="m", request_id={"client": "c", "sequence": 1, "attempt": -1}),
            "attempt is -1",
        ),
        (
            pb.CallRequest(name="it", method="m", request_id={"client": "c", "sequence": 1, "age_s": float("nan")}),
            "age_s nan",
        ),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(port, request_, words):
    """Each is INVALID_ARGUMENT, names the field and never reaches the object."""
    status, code, message, _ = await refused(ask(port, request_))
    assert (status, code) == (Code.INVALID_ARGUMENT, "invalid")
    assert words in message
    assert port.invoker.calls == []


async def test_bytes_that_are_no_request_are_told_what_was_expected(port):
    """Bytes that do not parse end with INVALID_ARGUMENT that names the message, counted as refused."""
    method = port.channel.unary_unary("/amino.v1.Invoke/Call")
    status, code, message, _ = await refused(method(b"\xff" * 64))
    assert (status, code) == (Code.INVALID_ARGUMENT, "invalid")
    assert "amino.v1.CallRequest" in message
    assert port.server.statistics()["amino.v1.Invoke"] == {"answered": 0, "refused": 1, "failed": 0}


@pytest.mark.parametrize(
    ("stated", "grpc_s", "least", "most"),
    [(None, None, 30, 30), (5, None, 5, 5), (None, 8, 7, 8), (60, 8, 7, 8), (3, 20, 3, 3)],
)
async def test_the_earlier_deadline_counts(port, stated, grpc_s, least, most):
    """The call gets the earlier of its own time-out and the gRPC deadline, else the default."""
    answer_with(port, None)
    request = call_request("any")
    if stated is not None:
        request.timeout_s = stated
    await ask(port, request, timeout=grpc_s)
    assert least <= port.invoker.calls[-1]["deadline_s"] < most + 0.2  # gRPC counts on a clock of its own


async def test_a_caller_that_goes_away_cancels_the_call(port):
    """When the caller cancels, so is the call at the server."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def invoker(*_):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    port.invoker.answer = invoker
    pending = ask(port, call_request("any"))
    waiting = asyncio.ensure_future(started.wait())
    await asyncio.wait_for(waiting, 5)
    pending.cancel()
    await asyncio.wait_for(ended.wait(), 5)


async def test_request_ids_and_trace_context_arrive(port):
    """What the caller says of its request reaches the invoker; without it there is none."""
    answer_with(port, None)
    given = pb.RequestId(client="c-1", sequence=7, floor=5, attempt=2, age_s=1.5)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await ask(port, call_request("any", request_id=given), metadata=(("traceparent", trace),))
    await ask(port, call_request("any", request_id=pb.RequestId(client="c-1", sequence=8)))
    await ask(port, call_request("any"))
    first, second, third = port.invoker.calls
    assert first["request"] == CallerRequest("c-1", 7, 5, 2, 1.5)
    assert first["traceparent"] == trace
    assert second["request"] == CallerRequest("c-1", 8, 8)
    assert (third["request"], third["traceparent"]) == (None, None)


async def test_an_error_without_a_message_is_named(port):
    """An empty message would tell nothing: the class is named instead."""
    answer_with(port, AminoError())
    _, _, message, _ = await refused(ask(port, call_request("any")))
    assert message == "AminoError"
