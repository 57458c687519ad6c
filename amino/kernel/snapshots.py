"""A snapshot of a replica: the user's object, its components' state and its answered requests, of one instant.

Owns the form of snapshots, in memory and as stored: with the version of the state where the class declares one, and in
two forms where the class can also write the one before. Leaves versions themselves to ``wire.versioned``.
Invariants: what a class that declares nothing writes can be read by every release; of several forms the newest that can
be read here is taken.
Failure behaviour: ``CodeUnavailable`` when the class, or the release, here cannot read it; a downgrade that raises is
logged, and the snapshot has one form.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from amino.errors import AminoError, CodeUnavailable, Invalid, NotEncodable
from amino.wire import codec, versioned

_log = logging.getLogger("amino.kernel")
ONE_FORM, SEVERAL_FORMS = 1, 2


class Contents(NamedTuple):
    """What a snapshot holds; ``tables`` are what Amino keeps in the object's state (``kernel.tables``)."""

    instance: Any
    components: dict[str, Any]
    answered: Any
    mutations: int
    tables: dict[str, Any] | None = None


def write(contents: Contents) -> bytes:
    """Return ``contents`` as bytes; only while nothing in it can change.

    Raises:
        NotEncodable: the object cannot be pickled.
    """
    fields: dict[str, Any] = {"format": ONE_FORM, **contents._asdict()}
    if not contents.tables:
        del fields["tables"]
    version = versioned.version_of(type(contents.instance))
    if not version:
        return codec.pack(fields)
    fields["version"] = version
    reducer = versioned.Reducer()
    newest = codec.pack(fields, reduce=reducer.reduce)
    if not reducer.downgradable:
        return newest
    if type(contents.instance) in reducer.downgradable:
        fields["version"] = version - 1
    try:
        older = codec.pack(fields, reduce=versioned.Reducer(older=True).reduce)
    except NotEncodable as error:
        classes = ", ".join(sorted(each.__qualname__ for each in reducer.downgradable))
        _log.warning(
            "%s of %s failed, so no earlier release can read this state: %s", versioned.DOWNGRADE, classes, error
        )
        return newest
    return codec.pack({"format": SEVERAL_FORMS, "forms": (newest, older)})


def read(snapshot: bytes | memoryview, microservice: str, find_class: codec.FindClass | None, binding: Any) -> Contents:
    """Return what ``snapshot`` holds, in the version of the class here.

    Args:
        microservice: for errors.
        find_class: resolves names in pickles; None as everywhere.
        binding: the runtime that refs in it belong to.

    Raises:
        CodeUnavailable: its class cannot be rebuilt here or is older than the state, or this release does not read such
            snapshots.
    """
    with codec.finding(find_class):
        try:
            fields = codec.unpack(snapshot, binding=binding)
            if not isinstance(fields, dict) or fields.get("format") != SEVERAL_FORMS:
                return _contents(fields, microservice)
        except Invalid as error:
            raise CodeUnavailable(f"the state of {microservice} cannot be rebuilt here: {error}") from error
        problem: AminoError | None = None
        for form in fields["forms"]:  # newest first
            try:
                return _contents(codec.unpack(form, binding=binding), microservice)
            except (CodeUnavailable, Invalid) as error:
                problem = problem or error
    raise CodeUnavailable(f"the state of {microservice} cannot be rebuilt here: {problem}") from problem


def _contents(fields: Any, microservice: str) -> Contents:
    if not isinstance(fields, dict) or fields.get("format") != ONE_FORM:
        raise Invalid(f"the snapshot of {microservice} has a format this release does not read; upgrade it")
    instance = fields["instance"]
    if not fields.get("version"):
        versioned.upgrade_undeclared(instance)
    return Contents(instance, fields["components"], fields["answered"], fields["mutations"], fields.get("tables"))
