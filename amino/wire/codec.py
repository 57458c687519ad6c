"""Values: typed msgpack for plain data, pickle protocol 5 with out-of-band buffers for Python objects.

Owns how arguments, results, exceptions and stored values become bytes. Leaves frames to ``wire.frames``.
Invariants: a decoded value equals the encoded one in type and content (tuples stay tuples); pickle is read only from
trusted peers.
Failure behaviour: what cannot be encoded raises ``NotEncodable`` naming it; undecodable input raises ``Invalid``.

Codecs: 0 nothing (None, or no arguments), 1 typed (msgpack), 2 pickled. Small plain data is typed, everything else is
pickled between trusted peers; between others everything must be typed.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import msgspec

from amino.errors import CodeUnavailable, Invalid, NotEncodable, RemoteError
from amino.wire import by_value
from amino.wire.by_value import Reduce

Buffer = bytes | bytearray | memoryview

NOTHING, TYPED, PICKLED = 0, 1, 2

BINDING: ContextVar[Any] = ContextVar("amino_binding", default=None)
"""The runtime that refs decoded in this context belong to; has ``bind(ref)``."""

FindClass = Callable[[str, str], Any]
FIND_CLASS: ContextVar[FindClass | None] = ContextVar("amino_find_class", default=None)
"""How names in pickles are resolved in this context: by the code of the microservice that reads them (``CodeLoader``)."""


@contextmanager
def finding(find_class: FindClass | None) -> Iterator[None]:
    """Resolve names in pickles by ``find_class`` in this block; None as everywhere."""
    token = FIND_CLASS.set(find_class)
    try:
        yield
    finally:
        FIND_CLASS.reset(token)


_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_SMALL = 16
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_DEPTH_MAX = 64
_EXT_REF, _EXT_TUPLE, _EXT_SET, _EXT_FROZENSET, _EXT_BIG_INT, _EXT_DICT = 1, 2, 3, 4, 5, 6


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """What names a microservice in a value: id, class path and name (either may be empty)."""

    microservice: str
    cls: str = ""
    name: str = ""


_encode_msgpack = msgspec.msgpack.Encoder().encode
_encode_reference = msgspec.msgpack.Encoder().encode
_decode_reference = msgspec.msgpack.Decoder(Reference).decode


def encode(value: Any, *, trusted: bool = True) -> tuple[int, list[Buffer]]:
    """Return (codec, segments) of ``value``.

    Args:
        trusted: whether the receiver may unpickle what we send.

    Raises:
        NotEncodable: no encoding for this value on this link; names the offending part.
    """
    if value is None:
        return NOTHING, []
    kind = type(value)
    if kind in _SCALARS and (kind is not int or _INT_MIN <= value <= _INT_MAX):
        return TYPED, [_encode_msgpack(value)]
    if trusted:
        return PICKLED, _pickle(value)
    return TYPED, [_encode_msgpack(_to_typed(value, 0))]


def decode(codec: int, segments: Sequence[Buffer], *, trusted: bool = True, binding: Any = None) -> Any:
    """Return the value of (codec, segments); refs in it belong to ``binding``.

    Raises:
        Invalid: malformed, or pickled by a peer that is not trusted.
    """
    if codec == NOTHING:
        return None
    if not segments:
        raise Invalid(f"a value of codec {codec} came without content; the peer's release is incompatible")
    if codec == TYPED:
        return _from_typed(segments[0], binding)
    if codec != PICKLED:
        raise Invalid(f"codec {codec} is unknown; this release reads 0, 1 and 2: upgrade this side")
    if not trusted:
        raise Invalid("the peer sent a pickled object, which only trusted peers may; use mutual TLS or typed values")
    return _unpickle(segments, binding)


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], *, trusted: bool) -> tuple[int, list[Buffer]]:
    """Return (codec, segments) of a call's arguments; the typed form is a list when there are no keywords."""
    if not kwargs:
        if not args:
            return NOTHING, []
        if len(args) <= _SMALL and all(
            type(value) in _SCALARS and (type(value) is not int or _INT_MIN <= value <= _INT_MAX) for value in args
        ):
            return TYPED, [_encode_msgpack(args)]
    if trusted:
        return PICKLED, _pickle((args, kwargs))
    typed = [_to_typed(value, 1) for value in args]
    if kwargs:
        return TYPED, [_encode_msgpack([typed, {key: _to_typed(value, 1) for key, value in kwargs.items()}]), b"k"]
    return TYPED, [_encode_msgpack(typed)]


def decode_arguments(
    codec: int, segments: Sequence[Buffer], *, trusted: bool, binding: Any = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) of (codec, segments)."""
    if codec == NOTHING:
        return (), {}
    value = decode(codec, segments, trusted=trusted, binding=binding)
    try:
        if codec == TYPED:
            if len(segments) == 1:
                return tuple(value), {}
            args, kwargs = value
            return tuple(args), dict(kwargs)
        args, kwargs = value
    except (TypeError, ValueError) as error:
        raise Invalid(f"arguments are malformed ({error}); the peer's release is incompatible") from error
    return args, kwargs


def digest(method: str, segments: Sequence[Buffer]) -> int:
    """Return a checksum of method and encoded arguments, to notice a request id used for two calls."""
    value = _digest_of_name(method)
    for segment in segments:
        value = zlib.crc32(segment, value)
    return value


@lru_cache(maxsize=1024)
def _digest_of_name(method: str) -> int:
    return zlib.crc32(method.encode())


def pack(value: Any, *, trusted: bool = True, reduce: Reduce | None = None) -> bytes:
    """Return one self-contained string of bytes for storage: codec byte, then the value (buffers in band).

    Args:
        reduce: asked first how an object is pickled.
    """
    if value is None:
        return b"\x00"
    if type(value) in _SCALARS and (type(value) is not int or _INT_MIN <= value <= _INT_MAX):
        return b"\x01" + _encode_msgpack(value)
    if not trusted:
        return b"\x01" + _encode_msgpack(_to_typed(value, 0))
    return b"\x02" + _dumps(value, None, reduce)


def unpack(data: Buffer, *, trusted: bool = True, binding: Any = None) -> Any:
    """Return the value that ``pack`` stored."""
    view = memoryview(data)
    if not view.nbytes:
        raise Invalid("a stored value is empty; it was truncated")
    return decode(view[0], [view[1:]], trusted=trusted, binding=binding)


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The head of an application error's reply."""

    type_name: str
    message: str
    traceback: str


_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def encode_exception(error: BaseException, *, trusted: bool) -> tuple[bytes, list[Buffer]]:
    """Return (head, segments) for an exception that a method raised; never raises."""
    text = "".join(traceback.format_exception(error))[-16384:]
    message = str(error)[:8192]
    head = _encode_msgpack(
        Failure(f"{by_value.plain_module(type(error).__module__)}.{type(error).__qualname__}", message, text)
    )
    if not trusted:
        return head, []
    try:
        bare = error.with_traceback(None)
        segments = [_dumps(bare, None)]
        if b"__main__" not in segments[0]:
            pickle.loads(segments[0])  # many exceptions pickle but cannot be rebuilt
    except Exception:  # noqa: BLE001 - an exception that cannot travel goes as text
        return head, []
    return head, segments  # type: ignore[return-value]


def decode_exception(head: Buffer, segments: Sequence[Buffer], *, trusted: bool, binding: Any = None) -> BaseException:
    """Return the exception as its own type where that can be rebuilt here, else a ``RemoteError``."""
    try:
        failure = _decode_failure(head)
    except msgspec.MsgspecError as problem:
        raise Invalid(f"an application error is malformed ({problem}); the peer's release is incompatible") from problem
    error: BaseException | None = None
    if segments and trusted:
        try:
            found = _unpickle(segments, binding)
        except Invalid:
            found = None
        if isinstance(found, BaseException):
            error = found
    if error is None:
        error = RemoteError(
            f"{failure.type_name}: {failure.message}",
            type_name=failure.type_name,
            traceback=failure.traceback,
        )
    error.add_note("At the server:\n" + failure.traceback.rstrip())
    return error


def _pickle(value: Any) -> list[Buffer]:
    buffers: list[pickle.PickleBuffer] = []
    main = _dumps(value, buffers.append)
    return [main, *(buffer.raw() for buffer in buffers)]


def _dumps(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None, reduce: Reduce | None = None
) -> bytes:
    # Classes of a script or notebook cannot be imported elsewhere: they are sent by value.
    try:
        data = pickle.dumps(value, 5, buffer_callback=buffer_callback) if reduce is None else _reducing(value, reduce)
        if b"__main__" not in data:
            return data
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        problem: BaseException = error
    else:
        problem = TypeError("its class is defined in __main__")
    try:
        return by_value.dumps(value, reduce)
    except Exception as error:  # user classes may raise anything here
        raise NotEncodable(
            f"a value of type {type(value).__qualname__} cannot be sent: {error} (plain pickle: {problem}); "
            "pass plain data, or give the class __getstate__"
        ) from error


def _reducing(value: Any, reduce: Reduce) -> bytes:
    file = io.BytesIO()
    _ReducingPickler(file, reduce).dump(value)
    return file.getvalue()


class _ReducingPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reduce: Reduce) -> None:
        super().__init__(file, protocol=5)
        self._reduce = reduce

    def reducer_override(self, obj: Any) -> Any:
        return self._reduce(obj)


def _unpickle(segments: Sequence[Buffer], binding: Any) -> Any:
    token = BINDING.set(binding)
    try:
        find_class = FIND_CLASS.get()
        if find_class is None:
            return pickle.loads(segments[0], buffers=segments[1:])
        return _FindingUnpickler(find_class, segments).load()
    except CodeUnavailable:  # of a versioned class: it says what is amiss
        raise
    except Exception as error:  # unpickling runs user code, which may raise anything
        raise Invalid(
            f"a received object cannot be rebuilt here: {type(error).__name__}: {error}; "
            "install its code on this side (servers: --app-dir), or send plain data"
        ) from error
    finally:
        BINDING.reset(token)


class _FindingUnpickler(pickle.Unpickler):
    def __init__(self, find_class: FindClass, segments: Sequence[Buffer]) -> None:
        super().__init__(io.BytesIO(segments[0]), buffers=segments[1:])
        self._find_class = find_class

    def find_class(self, module: str, name: str) -> Any:
        return self._find_class(module, name)


def _to_typed(value: Any, depth: int) -> Any:
    kind = type(value)
    if depth > _DEPTH_MAX:
        raise NotEncodable(f"a value is nested more than {_DEPTH_MAX} levels deep; flatten it")
    if kind is int and not _INT_MIN <= value <= _INT_MAX:
        return msgspec.msgpack.Ext(_EXT_BIG_INT, str(value).encode())
    if kind in _SCALARS:
        return value
    if kind is list:
        return [_to_typed(item, depth + 1) for item in value]
    if kind is dict:
        pairs = [(_to_typed(key, depth + 1), _to_typed(item, depth + 1)) for key, item in value.items()]
        if any(type(key) is msgspec.msgpack.Ext for key, _ in pairs):
            return msgspec.msgpack.Ext(_EXT_DICT, _encode_msgpack(pairs))
        return dict(pairs)
    if kind is dt.datetime and value.tzinfo is not None:
        return value
    containers: dict[type, int] = {tuple: _EXT_TUPLE, set: _EXT_SET, frozenset: _EXT_FROZENSET}
    ext = containers.get(kind)
    if ext is not None:
        return msgspec.msgpack.Ext(ext, _encode_msgpack([_to_typed(item, depth + 1) for item in value]))
    reference = getattr(value, "__amino_reference__", None)
    if isinstance(reference, Reference):
        return msgspec.msgpack.Ext(_EXT_REF, _encode_reference(reference))
    raise NotEncodable(
        f"a {kind.__qualname__} cannot be sent on a link without mutual TLS; only plain data and refs can. "
        "Configure TLS on both sides, or convert it"
    )


class _HasReference(Exception):
    pass


def _decoder(binding: Any, *, eager: bool = False) -> msgspec.msgpack.Decoder[Any]:
    def ext_hook(code: int, data: memoryview) -> Any:
        if code == _EXT_REF:
            if eager:
                raise _HasReference
            reference = _decode_reference(data)
            return binding.bind(reference) if binding is not None else reference
        if code == _EXT_BIG_INT:
            return int(bytes(data))
        kind: Any = {_EXT_TUPLE: tuple, _EXT_SET: set, _EXT_FROZENSET: frozenset, _EXT_DICT: dict}.get(code)
        if kind is None:
            raise ValueError(f"extension type {code} is unknown")
        return kind(_eager_decoder.decode(data) if eager else _from_typed(data, binding))

    return msgspec.msgpack.Decoder(ext_hook=ext_hook)


_plain_decoder = _decoder(None)
_eager_decoder = _decoder(None, eager=True)


def _from_typed(data: Buffer, binding: Any) -> Any:
    # A decoder per binding is only made for the rare value that holds a ref.
    try:
        if binding is None:
            return _plain_decoder.decode(data)
        try:
            return _eager_decoder.decode(data)
        except _HasReference:
            return _decoder(binding).decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise Invalid(f"a received value is malformed: {error}; the peer's release is incompatible") from error
