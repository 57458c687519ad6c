"""Stubs: colours of methods, refs in values, what can and cannot be done with them."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle

import pytest

import amino
from amino.contracts.calls import CURRENT, Invocation, RequestId
from amino.errors import Invalid
from amino.stubs.stub import DynamicStub, Stub
from amino.wire import codec
from tests.stubs.test_calls import scripted
from tests.stubs.world import Registry, Transport, location, runtime_of


class Shop:
    """A shop."""

    def buy(self, what: str, *, count: int = 1) -> int:
        """Buy something."""

    async def deliver(self, to: str) -> bool:
        """Deliver it."""

    def _private(self):
        pass


@pytest.fixture
def runtime():
    return runtime_of(Transport(scripted(3)), Registry(location(Shop)))


@pytest.fixture
def shop(runtime):
    return runtime.stub(runtime.target("m", "the-shop"), Shop)


def test_a_stub_s_method_has_the_colour_of_the_class_s(shop):
    """``def`` blocks, ``async def`` awaits."""
    assert shop.buy("tea") == 3
    assert asyncio.run(shop.deliver("home")) == 3


def test_a_blocking_stub_on_a_loop_says_how_to_await_it(shop):
    """It would hold the loop up: it raises at once, and ``amino.aio`` is the way."""

    async def main():
        with pytest.raises(RuntimeError, match=r"await amino\.aio\("):
            shop.buy("tea")
        assert await amino.aio(shop.buy)("tea", count=2) == 3
        assert await amino.aio(shop.deliver)("home") == 3

    asyncio.run(main())


def test_aio_takes_methods_of_stubs_and_clusters_only(shop):
    """Anything else is refused with what it was."""
    for wrong in (len, shop, lambda: None):
        with pytest.raises(Invalid, match="stub or cluster"):
            amino.aio(wrong)


def test_editors_see_the_user_s_class(shop):
    """Names, documentation and signatures are the class's."""
    assert type(shop).__doc__ == "A shop."
    assert type(shop).buy.__doc__ == "Buy something."
    assert list(inspect.signature(type(shop).buy).parameters) == ["self", "what", "count"]
    assert not hasattr(shop, "_private")


def test_stubs_are_equal_by_microservice_and_cannot_be_changed(runtime, shop):
    """Two stubs of one microservice are the same key of a dictionary; state is on a server."""
    other = runtime.stub(runtime.target("m"), None, "elsewhere:Shop")
    assert shop == other
    assert len({shop, other}) == 1
    assert shop != runtime.stub(runtime.target("m2"), Shop)
    assert copy.copy(shop) is copy.deepcopy(shop) is shop
    with pytest.raises(AttributeError, match="call a method that sets it"):
        shop.price = 5
    assert "the-shop" in repr(shop)


def test_refs_survive_every_encoding(runtime, shop):
    """Typed and pickled, alone and inside values, a stub arrives as a stub of the receiver's runtime."""
    for trusted in (True, False):
        for value in (shop, [shop, 1], {"a": (shop,)}):
            number, segments = codec.encode(value, trusted=trusted)
            assert codec.decode(number, segments, trusted=trusted, binding=runtime) == value
    back = codec.unpack(codec.pack({"kept": shop}), binding=runtime)["kept"]
    assert isinstance(back, Stub)
    assert back.buy("tea") == 3


def test_a_ref_unpickled_elsewhere_belongs_to_nobody_until_bound(runtime, shop):
    """Outside any cluster it says what to do; inside a method it is the method's cluster's."""
    lost = pickle.loads(pickle.dumps(shop))
    with pytest.raises(Invalid, match=r"cluster\.bind"):
        lost.buy("tea")
    amino.Cluster(runtime)
    assert runtime.cluster.bind(lost).buy("tea") == 3
    token = CURRENT.set(
        Invocation(runtime, "x", "r", "/", RequestId("c", "x", 1), 1, runtime.clock.monotonic() + 5, "s1", 1)
    )
    assert pickle.loads(pickle.dumps(shop)).buy("tea") == 3
    assert lost.buy("tea") == 3
    CURRENT.reset(token)


def test_a_stub_without_its_class_asks_the_server_for_methods(runtime):
    """Colours come from there too; what is not public does not exist."""
    stub = runtime.stub(runtime.target("m"), None, "elsewhere:Shop")
    assert isinstance(stub, DynamicStub)
    assert stub.buy("tea") == 3
    assert inspect.iscoroutinefunction(stub.deliver.func)
    with pytest.raises(AttributeError, match="buy"):
        _ = stub.sell
    with pytest.raises(AttributeError):
        _ = stub._private


def test_on_a_loop_a_stub_of_unknown_methods_awaits_them_all(runtime):
    """The colour is not known before the server was asked, which must not hold up the loop."""

    async def main():
        stub = runtime.stub(runtime.target("m"), None, "elsewhere:Shop")
        assert await stub.buy("tea") == 3
        assert await amino.aio(stub.buy)("tea") == 3

    asyncio.run(main())
