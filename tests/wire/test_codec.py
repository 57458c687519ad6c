"""The value codec keeps type and content, and never unpickles from strangers."""

import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.errors import Invalid, NotEncodable, RemoteError
from amino.wire import codec

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.just(math.inf)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=4),
        st.frozensets(scalars, max_size=4),
    ),
    max_leaves=12,
)


class Binding:
    """Binds refs by remembering them."""

    def bind(self, reference):
        return ("bound", reference.microservice)


class Holder:
    """A value that stands for a microservice."""

    def __init__(self, reference):
        self.__amino_reference__ = reference


class Awkward(Exception):
    """An exception that pickles but cannot be rebuilt."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize("trusted", [True, False])
@given(value=values)
def test_a_value_round_trips_with_its_type(trusted, value):
    """Equal in type and content on both kinds of link."""
    number, segments = codec.encode(value, trusted=trusted)
    found = codec.decode(number, [memoryview(bytes(s)) for s in segments], trusted=trusted)
    assert found == value
    assert type(found) is type(value)
    assert codec.unpack(codec.pack(value)) == value


@pytest.mark.parametrize("trusted", [True, False])
@given(args=st.lists(values, max_size=3), kwargs=st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=2))
def test_arguments_round_trip(trusted, args, kwargs):
    """Positional and keyword arguments arrive as they left."""
    number, segments = codec.encode_arguments(tuple(args), kwargs, trusted=trusted)
    assert codec.decode_arguments(number, [bytes(s) for s in segments], trusted=trusted) == (tuple(args), kwargs)


def test_an_untrusted_peer_cannot_send_a_pickle():
    """The pickle is refused before it is read."""
    number, segments = codec.encode({"a": {1}}, trusted=True)
    with pytest.raises(Invalid, match="trusted"):
        codec.decode(number, segments, trusted=False)


def test_an_object_on_an_untrusted_link_is_refused_by_name():
    """The error names the type and the remedy."""
    with pytest.raises(NotEncodable, match=r"Holder.*TLS"):
        codec.encode([Holder(None)], trusted=False)


def test_refs_are_bound_to_the_receiver():
    """A ref in a typed value arrives bound, however deep."""
    number, segments = codec.encode([(Holder(codec.Reference("id-1")),)], trusted=False)
    assert codec.decode(number, segments, trusted=False, binding=Binding()) == [(("bound", "id-1"),)]


def test_timestamps_are_typed():
    """An aware datetime needs no pickle."""
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    number, segments = codec.encode([now], trusted=False)
    assert codec.decode(number, segments, trusted=False) == [now]


def test_an_exception_arrives_as_its_own_type():
    """Type, message and the remote traceback."""
    try:
        raise KeyError("missing")
    except KeyError as error:
        head, segments = codec.encode_exception(error, trusted=True)
    found = codec.decode_exception(head, segments, trusted=True)
    assert isinstance(found, KeyError)
    assert "test_codec" in found.__notes__[0]


@pytest.mark.parametrize("trusted", [True, False])
def test_an_exception_that_cannot_be_rebuilt_arrives_as_text(trusted):
    """RemoteError carries type name, message and traceback."""
    head, segments = codec.encode_exception(Awkward("a", "b"), trusted=trusted)
    found = codec.decode_exception(head, segments, trusted=trusted)
    assert isinstance(found, RemoteError)
    assert found.type_name.endswith("Awkward")
    assert "a b" in str(found)


def test_an_unpicklable_value_names_the_remedy():
    """A lock cannot be sent, and the error says so."""
    import threading

    with pytest.raises(NotEncodable, match="lock"):
        codec.encode([threading.Lock()], trusted=True)


@given(data=st.binary(max_size=64))
def test_garbage_raises_invalid_only(data):
    """Whatever the bytes, the error is ours."""
    try:
        codec.decode(codec.TYPED, [data], trusted=False, binding=Binding())
        codec.decode_exception(data, [], trusted=False)
    except Invalid:
        pass
