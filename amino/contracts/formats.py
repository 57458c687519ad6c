"""How documents are stored, so that two releases can share them.

Owns the format version of a stored document and the fields that only a later release knows. Leaves the documents themselves
to their modules.
Invariants: a document is stored under the lowest version whose releases may act on it; what a release does not know and may
ignore is still there after it has rewritten the document.
Failure behaviour: ``Invalid`` for what is no such document, and for a later version (``kind="later-format"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from amino.errors import Invalid

FORMAT = 1
REST = "_rest_"
"""Name of the field, ``rest: bytes``, in which a kind of document keeps what only a later release knows."""
LATER = "later-format"

D = TypeVar("D", bound=msgspec.Struct)
_MARK = REST.encode()
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}


class Formats:
    """Encodes and decodes documents.

    Args:
        read: the latest version that this release acts on.
        since: kind of document -> its fields that earlier releases must not overlook, with the version they came with.
    """

    def __init__(self, read: int, since: Mapping[type[msgspec.Struct], Mapping[str, int]]) -> None:
        self._read = read
        self._since = {
            kind: tuple((name, version, _default(kind, name)) for name, version in fields.items())
            for kind, fields in since.items()
        }

    def __repr__(self) -> str:
        return f"Formats(up to {self._read})"

    def needed(self, document: msgspec.Struct) -> int:
        """Return the lowest version whose releases may act on ``document``, by the fields that it uses."""
        version = FORMAT
        for name, since, default in self._since.get(type(document), ()):
            if since > version and getattr(document, name) != default:
                version = since
        return version

    def encode(self, document: msgspec.Struct) -> bytes:
        """Return the stored form of a document."""
        version = self.needed(document)
        if version != FORMAT:
            document = msgspec.structs.replace(document, format=version)
        value = _encoder.encode(document)
        if _MARK in value:
            value = _encoder.encode(_spread(msgspec.msgpack.decode(value), _of(type(document))))
        return value

    def decode(self, value: bytes, kind: type[D], key: str = "") -> D:
        """Read a stored document.

        Raises:
            Invalid: not a document of this kind, or of a format version this release cannot read; names ``key``.
        """
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
        try:
            document = decoder.decode(value)
            version = getattr(document, "format", FORMAT)
            if version > self._read or version < FORMAT:
                raise Invalid(
                    f"{key or kind.__name__} has format version {version}; this release reads up to {self._read}: "
                    "upgrade this server",
                    kind=LATER,
                )
            if _extends(kind) and _encoder.encode(document) != value:
                document = msgspec.convert(_gathered(msgspec.msgpack.decode(value), _of(kind)), kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Invalid(
                f"{key or kind.__name__} in etcd is not a {kind.__name__}: {error}; restore or delete the key"
            ) from error
        if version != FORMAT:
            document = msgspec.structs.replace(document, format=FORMAT)
        return document  # type: ignore[no-any-return]


def is_later(error: Invalid) -> bool:
    """Return whether ``error`` says that a later release wrote the document, so that a later server can act on it."""
    return error.details.get("kind") == LATER


def _default(kind: type[msgspec.Struct], name: str) -> Any:
    found = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    return found.default_factory() if found.default is msgspec.NODEFAULT else found.default


@cache
def _of(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


@cache
def _extends(kind: type) -> bool:
    """Return whether documents of ``kind`` keep what they do not know."""
    info = _of(kind)
    return isinstance(info, inspect.StructType) and any(field.encode_name == REST for field in info.fields)


def _gathered(value: Any, info: inspect.Type) -> Any:
    """Return stored ``value`` with unknown fields of each struct gathered in the one that keeps them."""
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in info.fields}
        kept = {name: _gathered(one, known[name]) for name, one in value.items() if name in known}
        rest = {name: one for name, one in value.items() if name not in known}
        return {**kept, REST: _encoder.encode(rest)} if rest and REST in known else kept
    return _inside(value, info, _gathered)


def _spread(value: Any, info: inspect.Type) -> Any:
    """Return encoded ``value`` with what ``_gathered`` gathered back in its place."""
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        types = {field.encode_name: field.type for field in info.fields}
        rest = value.get(REST) if REST in types else b""
        known = {name: _spread(one, types[name]) for name, one in value.items() if name != REST or name not in types}
        return {**known, **(msgspec.msgpack.decode(rest) if rest else {})}
    return _inside(value, info, _spread)


def _inside(value: Any, info: inspect.Type, do: Any) -> Any:
    """Return ``value`` with ``do`` done to each struct in it."""
    if isinstance(info, inspect.UnionType):
        struct = next((one for one in info.types if isinstance(one, inspect.StructType)), None)
        return do(value, struct) if struct is not None and value is not None else value
    if isinstance(info, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        return [do(one, info.item_type) for one in value]
    return value
