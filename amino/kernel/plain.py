"""Creating here, in one write, a microservice whose making runs nobody's code.

Owns telling which microservices those are, and the order of making, writing and serving. Leaves kernel objects to the host
and what is written to the slot leader, which is in the same process.
Invariants: only a class without a constructor, without managers and without arguments, loaded already, is made so: nothing
of it can fail half-way, wait, or end the process, hence no intent has to be on record before; it serves only after the
transaction that says it exists.
Failure behaviour: a refused or fenced write leaves nothing behind; one of unknown outcome is settled first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.contracts.services import InstantiateRequest
from amino.errors import Invalid
from amino.ids import ROOT
from amino.marks import method_table
from amino.wire import codec
from amino.wire.versioned import check_versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec
    from amino.contracts.services import Fence
    from amino.coordination.store import Compare, Put
    from amino.kernel.confirm import Confirmer
    from amino.kernel.host import Host
    from amino.kernel.object import KernelObject

_NO_ARGUMENTS = codec.pack(None)


def is_plain(cls: type) -> bool:
    """Return whether making an instance of ``cls`` without arguments runs no code but Python's own. Pure."""
    if type(cls) is not type:  # its metaclass may run anything
        return False
    return not any(name in vars(base) for base in cls.__mro__ if base is not object for name in ("__init__", "__new__"))


def _methods_of(cls: type) -> dict[str, int] | None:
    if not is_plain(cls):
        return None
    try:
        check_versions(cls)
    except Invalid:  # the longer way says so
        return None
    return method_table(cls)


class PlainMaker:
    """Implements ``oms.ports.Maker``.

    Args:
        loaded_class: returns the class of a spec if it is loaded already.
        group_key: returns the key of a group's document.
    """

    def __init__(
        self,
        host: Host,
        confirmer: Confirmer,
        loaded_class: Callable[[MicroserviceSpec], type | None],
        group_key: Callable[[str, str], str],
    ) -> None:
        self._host = host
        self._confirmer = confirmer
        self._loaded_class = loaded_class
        self._group_key = group_key
        self._methods: dict[type, dict[str, int] | None] = {}

    def __repr__(self) -> str:
        return f"PlainMaker({self._host!r})"

    def methods_of(self, record: MicroserviceRecord) -> dict[str, int] | None:
        """See ``oms.ports.Maker``."""
        if record.spec.dms or record.arguments_url or record.arguments != _NO_ARGUMENTS:
            return None
        cls = self._loaded_class(record.spec)
        if cls is None:
            return None
        if cls not in self._methods:
            self._methods[cls] = _methods_of(cls)
        return self._methods[cls]

    async def make(
        self,
        microservice: str,
        record: MicroserviceRecord,
        document: GroupDocument,
        fence: Fence,
        compares: Sequence[Compare],
        puts: Sequence[Put],
    ) -> int | None:
        """See ``oms.ports.Maker``."""
        place = (microservice, ROOT)
        cls = self._loaded_class(record.spec)
        assert cls is not None, "a class stays loaded, and its methods were asked for before"
        replica = document.replicas[0].id
        request = InstantiateRequest(microservice, ROOT, replica, record, document, fence)

        def make() -> KernelObject:
            target = self._host.shell_of(cls, place, replica, document.epoch, request)
            target.adopt_instance(cls())
            return target

        def write() -> Awaitable[int | None]:
            return self._confirmer.create(self._group_key(*place), document, replica, compares, puts)

        return await self._host.take(place, make, fence.leader_revision, write)
