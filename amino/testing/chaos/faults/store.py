"""Faults of the checkpoint store: its newest files damaged, its disk full, slow, or standing still.

Owns which files are damaged, and how. Leaves the disk to ``clusters.disk``, losing the server to ``processes``.
Invariants: a file is damaged only if another intact one leads on from before it; what was damaged is put back as it was, if it is
still there; nobody but the frozen owner could have published a newer one meanwhile.
Failure behaviour: as ``Fault``; where nothing can be damaged without losing all, ``NotFound`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from amino.aio.mode import offload
from amino.checkpoint import format as file_format
from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, Phase
from amino.errors import Invalid, NotFound
from amino.testing.chaos.clusters.disk import Disk
from amino.testing.chaos.clusters.port import Ability, is_gone
from amino.testing.chaos.faults.fault import Fault, Scene, Shape, comes_true
from amino.testing.chaos.faults.processes import PARTS, KillServer, stands_still

HOLDER = "holder"
STORE = "store"
_FINDS_S = 10.0
_SETTLES_S = 0.1
_RESTORES_S = 20.0


@dataclass(frozen=True, slots=True)
class Victim:
    """The newest checkpoint of one group, which can be done without.

    Args:
        server: that the group's only replica is on.
    """

    server: str
    entry: CheckpointEntry


def victims(
    groups: dict[tuple[str, str], GroupDocument],
    manifests: dict[tuple[str, str], Manifest],
    live: dict[str, int],
    intact: Callable[[CheckpointEntry], bool],
    *,
    logged: bool,
) -> list[Victim]:
    """Return the newest checkpoints that something intact stands behind.

    Args:
        live: incarnation of each server. intact: reads a file. logged: those of objects that keep a log, or of all others.
    """
    found = []
    for owned, manifest in sorted(manifests.items()):
        document = groups.get(owned)
        if document is None or document.phase != Phase.ACTIVE or document.move is not None or document.changing:
            continue
        placed = [one.server for one in document.replicas if live.get(one.server) == one.incarnation]
        if len(document.replicas) != 1 or not placed or len(manifest.entries) < 2:
            continue
        newest, before = manifest.entries[:2]
        leads_on = not logged or (before.log and before.log_size >= 0)
        if newest.log == logged and leads_on and intact(newest) and intact(before):
            found.append(Victim(placed[0], newest))
    return found


def damage(file: Path, how: int) -> Callable[[], None]:
    """Damage a file in place: flip a bit of it (0), cut it in half (1), or empty it (2); returns what puts it back as it was."""
    whole = file.read_bytes()
    place = len(whole) // 2
    with file.open("r+b") as opened:
        if how == 0:
            opened.seek(place)
            opened.write(bytes([whole[place] ^ 1]))
        else:
            opened.truncate(place if how == 1 else 0)
        os.fsync(opened.fileno())

    def put_back() -> None:
        with contextlib.suppress(FileNotFoundError), file.open("r+b") as opened:
            opened.write(whole)

    return put_back


class _Corrupt(KillServer):
    """A server is lost, and the newest checkpoints of what it had turn out to be damaged."""

    needs = frozenset({Ability.SIGNALS, Ability.STORE})
    logged: ClassVar[bool]
    kind: str

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._damaged: list[CheckpointEntry] = []
        self._put_back: list[Callable[[], None]] = []
        self._stopped: list[int] = []

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - who it is shows when it is caused
        """See ``Fault``: the server that has most of what can be damaged; any other can be named, too."""
        return [HOLDER]

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self._holder()
        self._find_processes()
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)
        if not await comes_true(lambda: all(stands_still(pid) for pid in self._stopped)):
            raise NotFound(f"{self.hit} does not stand still")
        chosen = await self._settled()
        if not chosen:
            raise NotFound(f"{self.hit} has nothing any more whose newest checkpoint could be done without")
        words = []
        for one in chosen:
            how = zlib.crc32(one.entry.url.encode()) % 3
            self._put_back.append(await offload(damage, self._file(one.entry), how))
            self._damaged.append(one.entry)
            words.append(f"{one.entry.url} {('has a flipped bit', 'is cut in half', 'is empty')[how]}")
        self.target = self.hit
        await super().inject()
        self.text += f"; {', '.join(words)}"

    def _find_processes(self) -> None:
        """Find who must stand still while files are chosen: nothing may be published meanwhile."""
        pids = [self.scene.cluster.pid(self.hit, part) for part in PARTS[self.part]]
        if not all(pids):
            raise NotFound(f"{self.hit} has no process now")
        self._stopped = pids

    async def _holder(self) -> str:
        """Return who has most of what can be damaged, waiting a little for that to come."""
        if self.target != HOLDER:
            return await self.scene.server(self.target)
        found: list[Victim] = []

        async def there() -> bool:
            found[:] = await self._victims()
            return bool(found)

        if not await comes_true(there, _FINDS_S):
            raise NotFound("nothing has a checkpoint that could be done without")
        chance = {one.server: zlib.crc32(one.entry.url.encode()) for one in found}  # between those that have as many
        servers = [one.server for one in found]
        return max(chance, key=lambda name: (servers.count(name), chance[name]))

    async def _settled(self) -> list[Victim]:
        """Return what of the server can be damaged once two looks show the same: what was on its way to etcd has come.

        Others go on publishing; who waited for them would be too late: the session of who stands still ends soon.
        """
        before: list[Victim] = []
        for _ in range(20):
            now = [one for one in await self._victims() if one.server == self.hit]
            if now and now == before:
                return now
            before = now
            await asyncio.sleep(_SETTLES_S)
        return before

    async def _victims(self) -> list[Victim]:
        view = self.scene.view
        live = {name: incarnation for name, (incarnation, _) in (await view.servers()).items()}
        groups, manifests = await view.groups(), await view.checkpoints()
        return await offload(lambda: victims(groups, manifests, live, self._intact, logged=self.logged))

    def _file(self, entry: CheckpointEntry) -> Path:
        folder = self.scene.cluster.store_folder
        if folder is None:
            raise Invalid(f"{self.scene.cluster!r} has no checkpoint store that can be reached from here")
        return folder / self.scene.view.name / entry.url

    def _intact(self, entry: CheckpointEntry) -> bool:
        try:
            file_format.decode(self._file(entry).read_bytes(), entry.sha256)
        except (file_format.NotIntact, OSError):
            return False
        return True

    async def happened(self) -> bool:
        """See ``Fault``: who took over has found the damage, and went on from the checkpoint before."""
        if not self._damaged or not await comes_true(lambda: all(is_gone(pid) for pid in self._pids)):
            return False
        if await comes_true(self._was_passed_over, _RESTORES_S):
            return True
        self.text += "; nobody says that it found the damage"
        return False

    async def _was_passed_over(self) -> bool:
        told = [one.text for one in await self.scene.view.history() if one.kind == "checkpoint-damaged"]
        return all(any(entry.url in text for text in told) for entry in self._damaged)

    async def heal(self) -> None:
        """See ``Fault``."""
        for put_back in self._put_back:
            await offload(put_back)
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await super().heal()


class CorruptCheckpoint(_Corrupt):
    """A server is lost, and of what keeps a log, the newest checkpoint is damaged: the one before and its log lead to the same."""

    kind = "corrupt-checkpoint"
    logged = True


class CorruptSnapshot(_Corrupt):
    """A server is lost, and of what keeps no log, the newest checkpoint is damaged: what only that held is lost."""

    kind = "corrupt-snapshot"
    logged = False


class _OfDisk(Fault):
    needs = frozenset({Ability.DISK})
    lasts = (0.5, 2.5)

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - there is one
        """See ``Fault``."""
        return [STORE]

    @property
    def disk(self) -> Disk:
        """That the store is on."""
        disk = self.scene.cluster.disk
        if disk is None:
            raise Invalid(f"the checkpoint store of {self.scene.cluster!r} has no disk of its own")
        return disk


class FullDisk(_OfDisk):
    """The checkpoint store's disk is filled until nothing more fits; then there is room again."""

    kind = "full-disk"

    async def inject(self) -> None:
        """See ``Fault``."""
        written = await offload(self.disk.fill)
        self.text = f"the store's disk filled with {written >> 10} KiB"

    async def happened(self) -> bool:
        """See ``Fault``: the system refuses one more block."""
        return await offload(self.disk.is_full)

    async def heal(self) -> None:
        """See ``Fault``."""
        await offload(self.disk.empty)


class _Frozen(_OfDisk):
    frozen_s: ClassVar[float]
    thawed_s: ClassVar[float]

    async def inject(self) -> None:
        """See ``Fault``."""
        await offload(lambda: self.disk.freeze(self.frozen_s, self.thawed_s))

    async def heal(self) -> None:
        """See ``Fault``."""
        await offload(self.disk.thaw)


class StuckDisk(_Frozen):
    """No write to the checkpoint store's disk ends any more; then all do."""

    kind = "stuck-disk"
    frozen_s, thawed_s = 60.0, 0.0

    async def inject(self) -> None:
        """See ``Fault``."""
        await super().inject()
        self.text = "the store's disk stands still"

    async def happened(self) -> bool:
        """See ``Fault``: the system has said so."""
        return self.disk.is_frozen


class SlowDisk(_Frozen):
    """The checkpoint store's disk takes writes for an instant only, four times a second."""

    kind = "slow-disk"
    frozen_s, thawed_s = 0.23, 0.02

    async def inject(self) -> None:
        """See ``Fault``."""
        await super().inject()
        self.text = f"the store's disk stands still for {self.frozen_s:g} s at a time"

    async def happened(self) -> bool:
        """See ``Fault``: it was frozen a second time."""
        return await offload(self.disk.freezes, 3.0) and self.disk.is_frozen
