"""``ExplicitMigration``: the application moves the object itself.

Owns the control handle. Leaves migration to the OMS and the kernel, so it works at any place in the chain.
Invariants: calls during the move wait, none is lost or doubled.
Failure behaviour: an unknown target is an error and leaves the object alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amino.contracts.services import Location, MoveRequest, home_of
from amino.dm.base import Manager, Trait
from amino.dm.control import Control, operation

if TYPE_CHECKING:
    from amino.dm.control import ControlContext


class MigrationControl(Control):
    """Moves one microservice; from ``amino.control(stub, ExplicitMigration)``."""

    async def _migrate_to(self, server: str) -> str:
        """Move the object to ``server``, live, and return the server it is on.

        Raises:
            NotFound: there is no such server; the object stays. NoEligibleServer: the server does not fit the placement.
            NotExecuted: it was too busy to be moved; it stays. Idempotent: being there already is success.
        """
        context: ControlContext = self._context
        request = MoveRequest(microservice=context.microservice, server=server, why="ExplicitMigration.migrate_to")
        location: Location = await context.registry("move", request)
        return home_of(location)

    migrate_to = operation(_migrate_to)


class ExplicitMigration(Manager, frozen=True, kw_only=True):
    """Lets the application move the object: ``amino.control(stub, ExplicitMigration).migrate_to("server-2")``.

    Guarantee: calls made during the move wait, none is lost, doubled or failed; an unknown target is an error and leaves the
    object where it is.
    """

    provides = frozenset({Trait.MIGRATION})
    Control: ClassVar[type[Control]] = MigrationControl
