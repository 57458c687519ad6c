"""The wall clocks of a cluster's servers, which can be set: each server's by itself.

Owns the files that say by how much each clock is ahead, and what processes must find in their environment. Leaves bending
their clocks to ``inside/sitecustomize``, which Python imports in them.
Invariants: a clock is what the machine has until it is set; all processes of a server have one clock.
Failure behaviour: a server that is not known is ``Invalid``.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from amino.errors import Invalid
from amino.testing.chaos.clusters.disk import place_in_memory

INSIDE = Path(__file__).parent / "inside"
_FILES = ("ahead", "kernel", "supervisor")
_NUMBER = struct.Struct("<d")
_NEAR_S = 30.0


class Clocks:
    """The clocks of some servers.

    Args:
        servers: their names. folder: for the files, made if need be; default: a temporary one, removed by ``close``.
    """

    def __init__(self, servers: Sequence[str], folder: Path | None = None) -> None:
        self._own = folder is None
        # Whoever asks for the time writes there what it was told: on a disk it would wait whenever somebody syncs.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="amino-clocks-", dir=place_in_memory()))
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)
        self._servers = tuple(servers)
        for name in servers:
            for what in _FILES:
                file = self.folder / f"{name}.{what}"
                file.write_bytes(_NUMBER.pack(0.0))
                file.chmod(0o666)  # servers in containers run as somebody else

    def __repr__(self) -> str:
        return f"Clocks({', '.join(self._servers)})"

    def environment(self, folder: str = "", inside: str = "") -> Mapping[str, str]:
        """Return what a server's processes must find in their environment.

        Args:
            folder, inside: where they find ``self.folder`` and ``INSIDE``, if not in the same place as here.
        """
        found_first = inside or str(INSIDE)
        paths = [found_first, *filter(None, ("" if inside else os.environ.get("PYTHONPATH", "")).split(os.pathsep))]
        return {"AMINO_CHAOS_CLOCKS": folder or str(self.folder), "PYTHONPATH": os.pathsep.join(paths)}

    def set(self, server: str, ahead_s: float) -> None:
        """Set a server's clock ahead of the machine's by so much, or back; 0: let it be what the machine has."""
        with self._file(server, "ahead").open("r+b") as file:
            file.write(_NUMBER.pack(ahead_s))

    def ahead(self, server: str) -> float:
        """Return by how much a server's clock was set ahead."""
        return self._read(server, "ahead")

    def is_told(self, server: str) -> bool:
        """Whether the last answer that the kernel process of a server got is by the clock as it is set now."""
        return abs(self._read(server, "kernel") - time.time() - self.ahead(server)) < _NEAR_S

    def is_bent(self, server: str, pid: int) -> bool:
        """Whether a process has the file mapped that says how its clock is set."""
        try:
            return f"/{server}.ahead" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        except OSError:
            return False

    def close(self) -> None:
        """Remove the files. Idempotent."""
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, server: str, what: str) -> float:
        return float(_NUMBER.unpack(self._file(server, what).read_bytes())[0])

    def _file(self, server: str, what: str) -> Path:
        if server not in self._servers:
            raise Invalid(f"no clock of {server!r}; there are {', '.join(self._servers)}")
        return self.folder / f"{server}.{what}"
