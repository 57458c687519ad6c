"""Typed values: Python values to and from ``amino.v1.Value``, what any language can send.

Owns the conversion and its bounds. Leaves messages that carry values to the gRPC adapters, and resolving refs to the
``bind`` that callers give.
Invariants: a value that ``to_value`` accepts comes back equal from ``from_value`` (tuples as lists, bytearray and
memoryview as bytes, subclasses of plain types as the plain type, timestamps in UTC); nothing is rounded or dropped
silently on the way out.
Failure behaviour: ``NotEncodable`` (out) and ``Invalid`` (in) name the path to the offending part, the rule and the
remedy.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE

from amino.errors import AminoError, Invalid, NotEncodable
from amino.wire.codec import Reference
from amino.wire.gen.amino_v1.value_pb2 import MapValue, Ref, Value

DEPTH_MAX = 32
"""How deep lists and maps nest. A level of a map is three messages deep; protobuf's readers stop at 100."""

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

assert 3 * DEPTH_MAX + 4 <= 100

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
_MICROSECOND = dt.timedelta(microseconds=1)

Bind = Callable[[Reference], Any]


def to_value(value: Any, where: str = "value") -> Value:
    """Return the typed form of ``value``.

    Args:
        value: None, bool, int, float, str, bytes, ``datetime`` with a time zone, list or tuple, dict, or a ref.
        where: how to call the value in errors.

    Raises:
        NotEncodable: a part has no typed form; names its path, the rule and the remedy.
    """
    typed = Value()
    _fill(typed, value, where, 0)
    return typed


def check_typed(value: Any, where: str = "value") -> None:
    """Make sure that ``value`` has a typed form.

    Raises:
        NotEncodable: as ``to_value``.
    """
    to_value(value, where)


def from_value(value: Value, where: str = "value", bind: Bind | None = None) -> Any:
    """Return the Python form of ``value``.

    Args:
        bind: makes something callable of a ref; without it refs stay ``Reference``.

    Raises:
        Invalid: a kind is missing, a key is repeated or of a wrong kind, or it is too deep; names the path.
    """
    return _read(value, where, bind, 0)


def has_more_parts(value: Any, parts: int) -> bool:
    """Return whether ``value`` consists of more than so many values; looks at no more than those."""
    left = [value]
    seen = 0
    while left:
        each = left.pop()
        seen += 1
        if seen > parts:
            return True
        if isinstance(each, list | tuple):
            left.extend(each[: parts + 1])
        elif isinstance(each, dict):
            left.extend(itertools.islice(each.values(), parts + 1))
    return False


def fill_values(target: Any, values: Iterable[Any], where: str) -> None:
    """Append the typed form of each of ``values`` to ``target``, a repeated field; raises as ``to_value``."""
    for index, value in enumerate(values):
        _fill(target.add(), value, f"{where}[{index}]", 0)


def fill_named(target: Any, values: Mapping[str, Any], where: str) -> None:
    """Put the typed form of each of ``values`` into ``target``, a map field; raises as ``to_value``."""
    for name, value in values.items():
        _text(name, f"{where} key")
        _fill(target[name], value, f"{where}[{name!r}]", 0)


def read_values(values: Iterable[Value], where: str, bind: Bind | None = None) -> list[Any]:
    """Return the Python form of a repeated field; raises as ``from_value``."""
    return [_read(value, f"{where}[{index}]", bind, 0) for index, value in enumerate(values)]


def read_named(values: Mapping[str, Value], where: str, bind: Bind | None = None) -> dict[str, Any]:
    """Return the Python form of a map field with string keys; raises as ``from_value``."""
    return {name: _read(value, f"{where}[{name!r}]", bind, 0) for name, value in values.items()}


def _fill(target: Value, value: Any, where: str, depth: int) -> None:
    if value is None:
        target.null_value = NULL_VALUE  # type: ignore[assignment] # generated and published stubs differ
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise NotEncodable(
                f"{where} is {_short(value)}, outside int64 ({INT_MIN} to {INT_MAX}); send it as a string"
            )
        target.int_value = int(value)
    elif isinstance(value, float):
        target.float_value = float(value)
    elif isinstance(value, str):
        target.string_value = _text(value, where)
    elif isinstance(value, bytes | bytearray | memoryview):
        target.bytes_value = bytes(value)
    elif isinstance(value, dt.datetime):
        _fill_timestamp(target, value, where)
    elif isinstance(value, list | tuple):
        _deeper(where, depth, NotEncodable)
        target.list_value.SetInParent()
        for index, item in enumerate(value):
            _fill(target.list_value.items.add(), item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, dict):
        _deeper(where, depth, NotEncodable)
        target.map_value.SetInParent()
        _fill_map(target.map_value, value, where, depth)
    else:
        _fill_ref(target, value, where)


def _fill_map(target: MapValue, value: Mapping[Any, Any], where: str, depth: int) -> None:
    for key, item in value.items():
        if isinstance(key, float) and key != key:  # the test for NaN
            raise NotEncodable(f"{where} has NaN as a key, which equals no key; use another key")
        if isinstance(key, list | tuple | dict) or hasattr(key, "__amino_reference__"):
            raise NotEncodable(
                f"{where} has a key of type {type(key).__qualname__}; keys are null, bool, int, float, string, bytes "
                "or timestamp: use a string"
            )
        entry = target.entries.add()
        _fill(entry.key, key, f"{where} key {_short(key)}", depth + 1)
        _fill(entry.value, item, f"{where}[{_short(key)}]", depth + 1)


def _fill_timestamp(target: Value, value: dt.datetime, where: str) -> None:
    if value.tzinfo is None:
        raise NotEncodable(f"{where} is a datetime without a time zone; use datetime.now(datetime.UTC) or add tzinfo")
    microseconds = (value - _EPOCH) // _MICROSECOND
    seconds, rest = divmod(microseconds, 1_000_000)
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise NotEncodable(f"{where} is {value}, in UTC outside the years 1 to 9999; send it as a string")
    target.timestamp_value.seconds = seconds
    target.timestamp_value.nanos = rest * 1000


def _fill_ref(target: Value, value: Any, where: str) -> None:
    reference = value if isinstance(value, Reference) else getattr(value, "__amino_reference__", None)
    if not isinstance(reference, Reference):
        raise NotEncodable(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which has no typed form; typed values "
            "are None, bool, int, float, str, bytes, datetime, list, tuple, dict and refs: convert it"
        )
    target.ref_value.microservice = reference.microservice
    target.ref_value.name = reference.name
    target.ref_value.class_path = reference.cls


def _read(value: Value, where: str, bind: Bind | None, depth: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise Invalid(f"{where} has no kind; set one field of the Value, null_value for null")
    if kind == "null_value":
        return None
    if kind == "list_value":
        _deeper(where, depth, Invalid)
        return [_read(item, f"{where}[{index}]", bind, depth + 1) for index, item in enumerate(value.list_value.items)]
    if kind == "map_value":
        _deeper(where, depth, Invalid)
        return _read_map(value.map_value, where, bind, depth)
    if kind == "timestamp_value":
        return _read_timestamp(value, where)
    if kind == "ref_value":
        return _read_ref(value.ref_value, where, bind)
    return getattr(value, kind)


def _read_map(value: MapValue, where: str, bind: Bind | None, depth: int) -> dict[Any, Any]:
    found: dict[Hashable, Any] = {}
    for index, entry in enumerate(value.entries):
        place = f"{where}.entries[{index}]"
        if entry.key.WhichOneof("kind") in ("list_value", "map_value", "ref_value"):
            raise Invalid(
                f"{place}.key is a list, map or ref; keys are null, bool, int, float, string, bytes or timestamp"
            )
        key = _read(entry.key, f"{place}.key", bind, depth + 1)
        if key != key:  # the test for NaN
            raise Invalid(f"{place}.key is NaN, which equals no key; use another key")
        if key in found:
            raise Invalid(f"{place}.key {_short(key)} came before (true counts as 1, 1.0 as 1); send each key once")
        found[key] = _read(entry.value, f"{where}[{_short(key)}]", bind, depth + 1)
    return found


def _read_timestamp(value: Value, where: str) -> dt.datetime:
    seconds, nanos = value.timestamp_value.seconds, value.timestamp_value.nanos
    if not (_SECONDS_MIN <= seconds <= _SECONDS_MAX and 0 <= nanos < 1_000_000_000):
        raise Invalid(
            f"{where} is the timestamp {seconds} s {nanos} ns; seconds run from the year 1 to 9999, "
            "nanos from 0 to 999999999"
        )
    return _EPOCH + dt.timedelta(seconds=seconds, microseconds=nanos // 1000)


def _read_ref(value: Ref, where: str, bind: Bind | None) -> Any:
    if not value.microservice:
        raise Invalid(f"{where} is a ref without a microservice id; Registry.Locate finds the id of a name")
    reference = Reference(value.microservice, value.class_path, value.name)
    return reference if bind is None else bind(reference)


def _deeper(where: str, depth: int, error: type[AminoError]) -> None:
    if depth >= DEPTH_MAX:
        raise error(f"{where} is nested more than {DEPTH_MAX} levels deep; flatten it")


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotEncodable(f"{where} holds a lone surrogate ({error.reason}); send bytes, or clean the text") from error
    return str(value)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else f"an int of {value.bit_length()} bits"
    return text if len(text) <= 60 else text[:57] + "..."


def parse(data: bytes, kind: type[Message]) -> Any:
    """Read a message of ``kind``.

    Raises:
        Invalid: the bytes are no such message, or nest too deep.
    """
    try:
        return kind.FromString(data)
    except Exception as error:  # protobuf raises DecodeError, ValueError or RuntimeError by implementation
        raise Invalid(
            f"the request is no {kind.DESCRIPTOR.full_name}: {error}; generate the client from the .proto files of "
            f"this release, and nest values at most {DEPTH_MAX} levels deep"
        ) from error
