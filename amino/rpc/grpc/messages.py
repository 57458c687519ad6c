"""Messages of the contracts to and from their protobuf forms, field by field of the same name.

Owns the walk over both forms and the few places where they differ. Leaves which message goes where to the services.
Invariants: a field left out in protobuf has the contract's default; every field of a contract's message is either
carried or named in ``tests/grpc/test_messages.py`` with the reason it is not.
Failure behaviour: ``Invalid`` names the field and the rule it breaks.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from amino.contracts.services import Location
from amino.errors import Invalid
from amino.marks import ASYNC, IDEMPOTENT, INLINE, READONLY
from amino.rpc.grpc.service import OFFLOAD_BYTES, converted
from amino.wire import codec, typed
from amino.wire.gen.amino_v1 import registry_pb2 as pb
from amino.wire.typed import Bind

S = TypeVar("S", bound=msgspec.Struct)
M = TypeVar("M", bound=Message)

_VALUE = "amino.v1.Value"
_TERM = "amino.v1.SelectorTerm"
_CLASS_PATH = "class_path"
"""``class`` is a reserved word in most languages; contracts say ``cls``, and stored specs ``class``."""


def from_message(message: Message, kind: type[S], bind: Bind | None = None, **given: Any) -> S:
    """Return the contract's form of ``message``.

    Args:
        kind: the contract's message.
        bind: makes refs in options callable.
        given: fields (by their encoded names) that are not carried under their own name.

    Raises:
        Invalid: a field is missing or breaks a rule.
    """
    name = message.DESCRIPTOR.full_name
    try:
        return msgspec.convert({**_plain(message, name, bind), **given}, kind)
    except msgspec.ValidationError as error:
        text = str(error).replace("`class`", f"`{_CLASS_PATH}`").replace("$.", "")
        raise Invalid(f"{name}: {text}; amino_v1/registry.proto says what each field takes") from error


def to_message(struct: msgspec.Struct, target: M) -> M:
    """Fill ``target`` with the fields of ``struct`` that it has too, and return it."""
    for field in target.DESCRIPTOR.fields:
        value = getattr(struct, "cls" if field.name == _CLASS_PATH else field.name, None)
        if value is not None:
            _set(target, field, value)
    return target


def location_message(location: Location) -> pb.Location:
    """Return the protobuf form of a location: methods with their marks by name."""
    target = pb.Location(
        microservice=location.microservice, created=location.created, restored_from=location.restored_from
    )
    to_message(location.spec, target.spec)
    for path, group in location.groups.items():
        to_message(group, target.groups[path])
    for name, flags in sorted(location.methods.items()):
        target.methods.add(
            name=name,
            readonly=bool(flags & READONLY),
            idempotent=bool(flags & (READONLY | IDEMPOTENT)),
            inline=bool(flags & INLINE),
            asynchronous=bool(flags & ASYNC),
        )
    return target


async def read_arguments(message: Any, bind: Bind | None) -> tuple[list[Any], dict[str, Any]]:
    """Return ``args`` and ``kwargs`` of a message.

    Raises:
        Invalid: a value is malformed; names its path.
    """

    def read() -> tuple[list[Any], dict[str, Any]]:
        return typed.read_values(message.args, "args", bind), typed.read_named(message.kwargs, "kwargs", bind)

    return await converted(message.ByteSize() > OFFLOAD_BYTES, read)


async def packed_arguments(message: pb.CreateRequest | pb.ApplicationRequest, bind: Bind | None) -> bytes:
    """Return constructor arguments as they are stored: positional and keyword ones, packed."""
    args, kwargs = await read_arguments(message, bind)
    return codec.pack((tuple(args), kwargs))


def _plain(message: Message, where: str, bind: Bind | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        place = f"{where}.{field.name}"
        if field.is_repeated:
            if value:
                found[field.name] = _plain_many(field, value, place, bind)
        elif field.has_presence:
            if message.HasField(field.name):
                found[field.name] = _plain(value, place, bind) if field.message_type is not None else value
        elif value:
            found[field.name] = value
    if _CLASS_PATH in found:
        own = "class" if isinstance(message, pb.MicroserviceSpec) else "cls"
        found[own] = found.pop(_CLASS_PATH)
    return found


def _plain_many(field: Any, values: Any, where: str, bind: Bind | None) -> Any:
    kind = field.message_type
    if kind is None:
        return list(values)
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"].message_type
        return typed.read_named(values, where, bind) if inner is not None else dict(values)
    if kind.full_name == _TERM:
        return [[_plain(each, where, bind) for each in term.requirements] for term in values]
    return [_plain(each, f"{where}[{index}]", bind) for index, each in enumerate(values)]


def _set(target: Message, field: Any, value: Any) -> None:
    kind = field.message_type
    if not field.is_repeated:
        if kind is None:
            setattr(target, field.name, value)
        else:
            to_message(value, getattr(target, field.name)).SetInParent()
        return
    many = getattr(target, field.name)
    if kind is None:
        many.extend(value)
    elif kind.GetOptions().map_entry:
        _set_map(many, kind.fields_by_name["value"].message_type, value, field.name)
    elif kind.full_name == _TERM:
        for term in value:
            requirements = many.add().requirements
            for requirement in term:
                to_message(requirement, requirements.add())
    else:
        for each in value:
            to_message(each, many.add())


def _set_map(many: Any, inner: Any, value: dict[str, Any], where: str) -> None:
    if inner is None:
        many.update(value)
    elif inner.full_name == _VALUE:
        typed.fill_named(many, value, where)
    else:
        for name, each in value.items():
            to_message(each, many[name])
