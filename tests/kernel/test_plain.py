"""Creating in one write what runs nobody's code: which classes those are, and that nothing half-made stays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from amino.contracts.documents import DmSpec, GroupDocument, MicroserviceRecord, MicroserviceSpec, ReplicaDocument
from amino.contracts.services import Fence, RetireRequest
from amino.errors import NotExecuted
from amino.kernel.host import Host
from amino.kernel.plain import PlainMaker, is_plain
from amino.wire import codec
from tests.kernel.test_host import Parts, no_groups
from tests.kernel.world import Around

PLACE = ("m1", "/")
DOCUMENT = GroupDocument(phase="active", replicas=(ReplicaDocument("r1", "s1", 7, confirmed=True),), constructed=True)


class Plain:
    """Has no constructor."""

    def ping(self) -> bool:
        """Answer."""
        return True


class WithConstructor:
    """Runs code when made."""

    def __init__(self) -> None:
        self.value = 1


class Inherits(WithConstructor):
    """Has its parent's constructor."""


class WithNew:
    """Runs code when made, too."""

    def __new__(cls) -> Any:
        return super().__new__(cls)


class Meta(type):
    """Could run anything."""


class Made(metaclass=Meta):
    """Has a metaclass."""


@dataclass
class Data:
    """Has a generated constructor."""

    value: int = 1


class Slotted:
    """Plain, with slots."""

    __slots__ = ("value",)


class Confirmer:
    """Writes what the test says."""

    def __init__(self, *outcomes: int | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.sealed: list[str] = []
        self.host: Host
        self.may = asyncio.Event()
        self.may.set()

    async def create(self, *_: Any) -> int | None:
        """Note the state that the object is in, then do as told."""
        self.sealed.append(self.host.find(*PLACE).state)
        await self.may.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Session:
    """Valid or not."""

    def __init__(self) -> None:
        self.holds = True

    def valid(self) -> bool:
        """As the test says."""
        return self.holds


def _record(**changes: Any) -> MicroserviceRecord:
    spec = MicroserviceSpec("x:Plain", dms=changes.pop("dms", ()))
    return MicroserviceRecord(spec, **{"arguments": codec.pack(None), **changes})


def _made(*outcomes: int | Exception | None, cls: type | None = Plain) -> tuple[Host, PlainMaker, Confirmer, Session]:
    confirmer, session = Confirmer(*outcomes), Session()
    host = Host(parts=Parts(Plain), surroundings=Around(), confirmer=confirmer, validity=session, groups=no_groups())
    confirmer.host = host
    return host, PlainMaker(host, confirmer, lambda _: cls, lambda ms_id, path: ms_id + path), confirmer, session


def _make(maker: PlainMaker) -> Any:
    return maker.make("m1", _record(), DOCUMENT, Fence(1, 2, 0), [], [])


@pytest.mark.parametrize(
    ("cls", "plain"),
    [
        (Plain, True),
        (Slotted, True),
        (WithConstructor, False),
        (Inherits, False),
        (WithNew, False),
        (Made, False),
        (Data, False),
        (dict, False),
        (Exception, False),
    ],
)
def test_plain_classes(cls, plain):
    """Only what has no constructor of its own, and no metaclass, is made without running anybody's code."""
    assert is_plain(cls) is plain


async def test_which_microservices_take_one_write():
    """Managers, arguments, and classes that are not loaded or not plain take the longer way."""
    _, maker, _, _ = _made()
    assert maker.methods_of(_record()) == {"ping": 0}
    assert maker.methods_of(_record(dms=(DmSpec("PeriodicCheckpoint"),))) is None
    assert maker.methods_of(_record(arguments=codec.pack(((1,), {})))) is None
    assert maker.methods_of(_record(arguments=b"", arguments_url="file:///x")) is None
    assert _made(cls=None)[1].methods_of(_record()) is None
    assert _made(cls=WithConstructor)[1].methods_of(_record()) is None


async def test_it_serves_only_after_the_write():
    """Sealed while the write is under way; then it serves, and older commands about it are refused."""
    host, maker, confirmer, _ = _made(11)
    assert await _make(maker) == 11
    assert confirmer.sealed == ["starting"]
    assert host.find(*PLACE).state == "serving"
    with pytest.raises(NotExecuted, match="older"):
        await host.retire(RetireRequest("m1", "/", "r1", Fence(1, 2, 10)))
    await host.aclose()


@pytest.mark.parametrize("outcome", [None, NotExecuted("the session ended", reason="fenced")])
async def test_a_refused_write_leaves_nothing(outcome):
    """Neither an object nor its context stays, and it can be made later."""
    host, maker, _, _ = _made(outcome, 12)
    if outcome is None:
        assert await _make(maker) is None
    else:
        with pytest.raises(NotExecuted):
            await _make(maker)
    assert len(host) == 0
    assert await _make(maker) == 12
    await host.aclose()


async def test_nothing_is_made_without_a_session_or_beside_another_replica():
    """A server that cannot prove its session makes nothing; a replica that is here stays as it is."""
    host, maker, confirmer, session = _made(11)
    session.holds = False
    with pytest.raises(NotExecuted, match="session"):
        await _make(maker)
    session.holds = True
    assert await _make(maker) == 11
    present = host.find(*PLACE)
    assert await _make(maker) is None
    assert host.find(*PLACE) is present
    assert present.state == "serving"
    assert confirmer.sealed == ["starting"]
    await host.aclose()


async def test_who_stops_waiting_changes_nothing():
    """The creation goes on and serves: half of it would be a document without its object."""
    host, maker, confirmer, _ = _made(11)
    confirmer.may.clear()
    waiting = asyncio.ensure_future(_make(maker))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    confirmer.may.set()
    assert await _make(maker) is None  # waits for the one under way, which is here then
    assert host.find(*PLACE).state == "serving"
    await host.aclose()
