"""What a move leaves on record when its target turns out to be unable to have what is moved."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec, Move, ReplicaDocument
from amino.errors import CodeUnavailable
from amino.oms.directory import Found
from amino.oms.moves import Moves

SOURCE, TARGET = ReplicaDocument("1-a", "s1", 3), ReplicaDocument("2-b", "s2", 7)


class Leader:
    """Leads the slot of one microservice whose class its target cannot load; keeps what is written, by path."""

    def __init__(self):
        self.written = {}
        self.directory = SimpleNamespace(server=lambda _name: SimpleNamespace(record=SimpleNamespace(address="a:1")))
        self.records = self.commands = self.writes = self

    def generation(self, _ms_id):
        return 1

    def fence(self, _ms_id, _found):
        return ""

    async def get(self, _ms_id, _generation):
        return MicroserviceRecord(MicroserviceSpec("shop:Cart"))

    @asynccontextmanager
    async def to(self, _ms_id, _replica, _timeout_s):
        async def transfer(_request):
            raise CodeUnavailable("No module named 'shop'")

        yield SimpleNamespace(transfer=transfer)

    async def replace(self, _ms_id, path, found, document):
        self.written[path] = (found.revision, document)


@pytest.mark.parametrize("path", ["/", "/1"])
async def test_what_a_target_cannot_load_is_on_record_where_it_is_moved(path):
    """The group that moves learns that the server cannot have it, be it a shard or all there is; it would be chosen again."""
    leader = Leader()
    found = Found(GroupDocument(phase="active", replicas=(SOURCE,), move=Move(SOURCE.id, TARGET)), 42)
    problem = await Moves(leader, None)._transfer("ms", found, SOURCE, TARGET, path)
    assert isinstance(problem, CodeUnavailable)
    ((written, (revision, document)),) = leader.written.items()
    assert (written, revision) == (path, 42)
    assert document.move is None
    assert "No module named 'shop'" in document.ineligible["s2@7"]
