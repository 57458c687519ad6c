"""Typed values: round trips, and what is refused with the path to it."""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.errors import Invalid, NotEncodable
from amino.wire.codec import Reference
from amino.wire.gen.amino_v1.invoke_pb2 import CallReply, CallRequest
from amino.wire.gen.amino_v1.value_pb2 import Value
from amino.wire.typed import DEPTH_MAX, check_typed, from_value, has_more_parts, parse, to_value


class Stub:
    """Something that stands for a microservice."""

    def __init__(self, reference):
        self.__amino_reference__ = reference


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(dt.UTC)).map(lambda moment: moment.replace(fold=0))
    | st.builds(Reference, st.text(min_size=1), st.text(), st.text())
)
keys = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=30
)


def nested(depth, wrap):
    value = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@given(values)
def test_values_round_trip(value):
    """Whatever has a typed form comes back equal and of the same type, through bytes."""
    data = to_value(value).SerializeToString()
    back = from_value(Value.FromString(data))
    assert back == value
    assert repr(back) == repr(value)


def test_nan_and_infinities_round_trip():
    """Floats are doubles: NaN and the infinities pass."""
    back = from_value(to_value([math.nan, math.inf, -math.inf, -0.0]))
    assert math.isnan(back[0])
    assert back[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, back[3]) == -1


def test_relatives_of_plain_types_arrive_as_the_plain_type():
    """Tuples arrive as lists, subclasses as what they extend, buffers as bytes, timestamps in UTC."""

    class Colour(enum.IntEnum):
        RED = 1

    class Name(enum.StrEnum):
        BOB = "bob"

    cest = dt.timezone(dt.timedelta(hours=2))
    value = (Colour.RED, Name.BOB, bytearray(b"a"), memoryview(b"b"), OrderedDict(x=1))
    assert from_value(to_value(value)) == [1, "bob", b"a", b"b", {"x": 1}]
    assert type(from_value(to_value(Colour.RED))) is int
    assert type(from_value(to_value(Name.BOB))) is str
    back = from_value(to_value(dt.datetime(2026, 7, 1, 2, tzinfo=cest)))
    assert (back, back.tzinfo) == (dt.datetime(2026, 7, 1, tzinfo=dt.UTC), dt.UTC)


def test_stubs_are_sent_as_refs_and_bound_on_arrival():
    """A stub becomes a ref; ``bind`` turns it into whatever can be called on the other side."""
    reference = Reference("a" * 24, "shop:Cart", "cart")
    assert from_value(to_value([Stub(reference)])) == [reference]
    bound = from_value(to_value({"it": Stub(reference)}), bind=Stub)
    assert bound["it"].__amino_reference__ == reference


@pytest.mark.parametrize(
    ("value", "path", "remedy"),
    [
        ({"a": [1, {2, 3}]}, "value['a'][1]", "convert"),
        ([0, 2**63], "value[1]", "string"),
        ([-(2**63) - 1], "value[0]", "string"),
        ([10**5000], "value[0]", "string"),
        ({10**5000: 1}, "value key", "string"),
        ({"at": dt.datetime(2026, 1, 1)}, "value['at']", "tzinfo"),  # noqa: DTZ001 - what is refused
        (dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=5))), "value", "string"),
        (["\ud800"], "value[0]", "bytes"),
        ({"\udfff": 1}, "value key", "bytes"),
        ({math.nan: 1}, "value", "another key"),
        ({(1, 2): 1}, "value", "string"),
        ({Stub(Reference("a")): 1}, "value", "string"),
        ({dt.date(2026, 1, 1): 1}, "value key", "convert"),
        (object(), "value", "convert"),
        (1j, "value", "convert"),
    ],
)
def test_what_has_no_typed_form_is_refused_by_its_path(value, path, remedy):
    """The error names where the offending part is and what to do about it, in one short sentence."""
    with pytest.raises(NotEncodable) as caught:
        check_typed(value)
    assert caught.value.message.startswith(path)
    assert remedy in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("wrap", "levels"),
    [(lambda inner: [inner], 1), (lambda inner: {"k": inner}, 1), (lambda inner: {1: [inner]}, 2)],
)
def test_what_is_accepted_can_be_read_by_any_protobuf(wrap, levels):
    """Values nested as deep as allowed pass protobuf's own bound within a request and a reply; deeper ones are refused."""
    deepest = nested(DEPTH_MAX // levels, wrap)
    reply = CallReply.FromString(CallReply(value=to_value(deepest)).SerializeToString())
    assert from_value(reply.value) == deepest
    request = CallRequest()
    request.kwargs["x"].CopyFrom(to_value(deepest))
    assert from_value(CallRequest.FromString(request.SerializeToString()).kwargs["x"]) == deepest
    with pytest.raises(NotEncodable, match=f"more than {DEPTH_MAX} levels"):
        to_value(wrap(deepest))


def test_a_value_that_holds_itself_is_refused():
    """A list within itself ends at the depth limit, not in a recursion error."""
    endless: list = []
    endless.append(endless)
    with pytest.raises(NotEncodable, match="levels deep"):
        check_typed(endless)


def test_deep_input_is_refused():
    """Input deeper than the limit is Invalid, whether this module or protobuf notices first."""
    value = to_value(1)
    for _ in range(DEPTH_MAX + 1):
        outer = Value()
        outer.list_value.items.add().CopyFrom(value)
        value = outer
    with pytest.raises(Invalid, match="levels deep"):
        from_value(value)
    data = b"\x08\x01"
    for _ in range(200):
        for tag in (b"\x0a", b"\x42"):  # ListValue.items, Value.list_value
            length, prefix = len(data), bytearray()
            while length > 127:
                prefix.append(length & 127 | 128)
                length >>= 7
            data = tag + bytes([*prefix, length]) + data
    with pytest.raises(Invalid, match=r"amino\.v1\.Value"):
        parse(data, Value)


def a_map(*pairs):
    value = Value()
    value.map_value.SetInParent()
    for key, item in pairs:
        value.map_value.entries.add(key=key, value=item)
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Value(), "value has no kind"),
        (a_map((Value(int_value=1), Value())), "value[1] has no kind"),
        (a_map((Value(), Value(int_value=1))), "value.entries[0].key has no kind"),
        (a_map((to_value([1]), to_value(1))), "value.entries[0].key is a list"),
        (a_map((to_value(math.nan), to_value(1))), "value.entries[0].key is NaN"),
        (a_map((to_value(1), to_value(1)), (to_value(True), to_value(1))), "value.entries[1].key True came before"),
        (Value(timestamp_value={"seconds": 2**40}), "value is the timestamp"),
        (Value(timestamp_value={"seconds": 0, "nanos": -1}), "value is the timestamp"),
        (Value(ref_value={"name": "x"}), "value is a ref without"),
    ],
)
def test_malformed_input_is_refused_by_its_path(value, path):
    """What another language got wrong is named by its place in the message."""
    with pytest.raises(Invalid) as caught:
        from_value(value)
    assert caught.value.message.startswith(path)


def test_large_values_are_told_from_small_ones_without_walking_them():
    """The count stops at the bound, also in values that hold themselves."""
    assert not has_more_parts([1, {"a": [2, 3]}], 6)
    assert has_more_parts([1, {"a": [2, 3]}], 5)
    assert not has_more_parts("x" * 10**6, 1)
    endless: list = []
    endless.append(endless)
    assert has_more_parts(endless, 1000)
