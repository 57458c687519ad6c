"""YAML manifests: what ``amino apply`` reads, and the operator of Kubernetes as resources.

Owns the shape of manifests, their strict decoding, and their translation into specs. Leaves sending to ``applying``.
Invariants: an unknown field is refused by name; a manifest means the same as the Python spec with the same content.
Failure behaviour: ``Invalid`` names file, document, field and rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from amino.contracts.documents import DmSpec, MicroserviceSpec, Placement, Requirement
from amino.dm.registry import managers_of
from amino.errors import CodeUnavailable, Invalid
from amino.ids import valid_name

API_VERSION = "amino.run/v1"
BYTES_MAX = 1024 * 1024


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Metadata(_Strict, frozen=True):
    """Name (unique in the cluster) and labels."""

    name: str
    labels: dict[str, str] = {}


class RequirementManifest(_Strict, frozen=True):
    """A condition on a label of a server."""

    key: str
    operator: Literal["Equal", "In", "NotIn", "Exists"] = "Exists"
    values: tuple[str, ...] = ()


class PlacementManifest(_Strict, frozen=True):
    """``selector``: requirements that must all hold, or a list of such lists, one of which must hold."""

    selector: list[Any] = []
    spread: tuple[str, ...] = ("host",)


class MicroserviceManifest(_Strict, frozen=True):
    """``spec`` of ``kind: Microservice``, and the ``entry`` of an application.

    Args:
        dms: deployment managers, outermost first: a name, or a name with its options.
        code: sha256 of a pushed bundle, or a source folder beside the manifest, which is pushed.
    """

    class_: str = msgspec.field(name="class")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    dms: list[str | dict[str, dict[str, Any] | None]] = []
    placement: PlacementManifest = PlacementManifest()
    on_loss: Literal["fail", "recreate"] = "fail"
    code: str = ""
    application: str = ""


class ApplicationManifest(_Strict, frozen=True):
    """``spec`` of ``kind: Application``: the entry microservice, and the code of all of it."""

    entry: MicroserviceManifest
    code: str = ""


class _Microservice(_Strict, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata
    spec: MicroserviceManifest


class _Application(_Strict, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata
    spec: ApplicationManifest


_KINDS: dict[str, type[_Microservice | _Application]] = {
    "Microservice": _Microservice,
    "Application": _Application,
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document, decoded.

    Args:
        kind: ``Microservice`` or ``Application``.
        spec: of the microservice, or of the application's entry; ``code`` in it is not resolved yet.
        code: sha256 or source folder, empty for none.
        where: file and number of the document, for errors.
        folder: that relative paths of it start from.
    """

    kind: str
    name: str
    spec: MicroserviceSpec
    args: list[Any]
    kwargs: dict[str, Any]
    code: str
    where: str
    folder: Path


class _Loader(yaml.SafeLoader):
    """Plain YAML, without aliases (which can grow without bound) and repeated keys (of which one would be lost)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not supported; repeat it", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(file: Path) -> list[Manifest]:
    """Read all documents of a file.

    Raises:
        Invalid: it cannot be read or decoded; nothing of it has been applied.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Invalid(f"manifest {file} cannot be read: {error.strerror}; give a YAML file") from error
    return decode(content, str(file), file.parent)


def decode(content: bytes, source: str, folder: Path) -> list[Manifest]:
    """Decode all documents of ``content``; see ``read``."""
    if len(content) > BYTES_MAX:
        raise Invalid(f"manifest {source} has {len(content)} bytes; at most {BYTES_MAX} are read: split it")
    found = [manifest_of(tree, f"{source}, document {number}", folder) for number, tree in _documents(content, source)]
    if not found:
        raise Invalid(f"manifest {source} holds no document; write apiVersion, kind, metadata and spec")
    return found


def _documents(content: bytes, source: str) -> Iterator[tuple[int, Any]]:
    try:
        for number, tree in enumerate(yaml.load_all(content, _Loader), 1):
            if tree is not None:
                yield number, tree
    except yaml.YAMLError as error:
        raise Invalid(f"manifest {source} is no valid YAML: {' '.join(str(error).split())}") from error


def manifest_of(tree: Any, where: str, folder: Path) -> Manifest:
    """Decode one document that has been parsed already; ``where`` names it in errors.

    Raises:
        Invalid: it is not what a manifest must be; says which field and which rule.
    """
    if not isinstance(tree, dict):
        raise Invalid(f"{where} is a {type(tree).__name__}; write apiVersion, kind, metadata and spec")
    kind = tree.get("kind")
    if kind not in _KINDS:
        raise Invalid(f"{where}: kind {kind!r} is unknown; write one of {', '.join(_KINDS)}")
    if tree.get("apiVersion") != API_VERSION:
        raise Invalid(f"{where}: apiVersion {tree.get('apiVersion')!r} is unknown; write {API_VERSION}")
    try:
        document = msgspec.convert(tree, _KINDS[kind])
    except msgspec.ValidationError as error:
        raise Invalid(f"{where}: {error}; docs/cli.md shows the fields") from error
    name = document.metadata.name
    if not valid_name(name):
        raise Invalid(f"{where}: metadata.name {name!r}; use 1 to 128 letters, digits, '.', '_' and '-'")
    body = document.spec
    if isinstance(body, ApplicationManifest):
        microservice, code = body.entry, body.code or body.entry.code
    else:
        microservice, code = body, body.code
    spec = _spec(microservice, where, name if kind == "Microservice" else "", document.metadata.labels)
    if kind == "Application":
        spec = msgspec.structs.replace(spec, application=name)
    return Manifest(kind, name, spec, microservice.args, microservice.kwargs, code, where, folder)


def _spec(body: MicroserviceManifest, where: str, name: str, labels: dict[str, str]) -> MicroserviceSpec:
    module, separator, qualified = body.class_.partition(":")
    if not (separator and module and qualified):
        raise Invalid(f"{where}: class {body.class_!r}; write module:Class, for example shop.counter:Counter")
    return MicroserviceSpec(
        cls=body.class_,
        name=name,
        dms=_chain(body.dms, where),
        placement=Placement(selector=_selector(body.placement.selector, where), spread=body.placement.spread),
        on_loss=body.on_loss,
        labels=labels,
        application=body.application,
    )


def _chain(dms: list[str | dict[str, dict[str, Any] | None]], where: str) -> tuple[DmSpec, ...]:
    chain: list[DmSpec] = []
    for entry in dms:
        if isinstance(entry, str):
            chain.append(DmSpec(entry))
        elif len(entry) == 1:
            [(name, options)] = entry.items()
            chain.append(DmSpec(name, options or {}))
        else:
            raise Invalid(f"{where}: {', '.join(entry)} in one entry of dms; begin a new '-' for each manager")
    try:
        return tuple(manager.to_spec() for manager in managers_of(chain))  # the form that Python specs have, too
    except CodeUnavailable:
        return tuple(chain)  # not installed here; the servers may have it
    except Invalid as error:
        raise Invalid(f"{where}: {error.message}") from error


def _selector(selector: list[Any], where: str) -> tuple[tuple[Requirement, ...], ...]:
    terms = selector if all(isinstance(each, list) for each in selector) else [selector]
    try:
        decoded = msgspec.convert(terms, tuple[tuple[RequirementManifest, ...], ...])
    except msgspec.ValidationError as error:
        raise Invalid(f"{where}: placement.selector: {error}; write {{key, operator, values}}") from error
    return tuple(tuple(Requirement(each.key, each.operator, each.values) for each in term) for term in decoded if term)
