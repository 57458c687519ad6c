"""The network of containers on one bridge: ways are cut and made lossy by rules in the network namespaces of the servers.

Owns the rules, each direction by itself. Leaves containers to ``containers``.
Invariants: rules are set in namespaces of the cluster's own containers only; each way has at most one rule of each kind; what a
rule drops is counted by the kernel.
Failure behaviour: a rule that cannot be set is ``Invalid`` with what iptables said; a container that has ended has no rules.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from amino.errors import Invalid
from amino.testing.chaos.clusters.port import CLIENTS, ETCD, is_gone

_COUNTED = re.compile(r"^\s*(\d+)\s+(\d+)\s")


class Netfilter:
    """Implements ``port.Network`` by iptables; needs root.

    Args:
        addresses: of servers by name, of ``ETCD`` (all members) and of ``CLIENTS`` (this machine's, on the bridge).
        pid: returns the id of a server's first process, 0 if it has none: whose namespace is meant.
    """

    def __init__(self, addresses: Mapping[str, Sequence[str]], pid: Callable[[str], int]) -> None:
        self._addresses = dict(addresses)
        self._pid = pid
        self._rules: dict[tuple[str, str], list[list[str]]] = {}
        self._cut: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"Netfilter(cut: {sorted(self._cut)})"

    @staticmethod
    def missing() -> str:
        """Return which tool is missing, empty if none."""
        return next((tool for tool in ("iptables", "nsenter") if shutil.which(tool) is None), "")

    def watch(self, server: str) -> None:
        """Count what comes and goes in a server's namespace; after each start, which gives it a new one."""
        for other, addresses in self._addresses.items():
            if other != server:
                for address in addresses:
                    self._iptables(server, "-A", "INPUT", "-s", address)
                    self._iptables(server, "-A", "OUTPUT", "-d", address)
        for (source, target), rules in self._rules.items():
            if server == self._where(source, target)[0]:
                for rule in rules:
                    self._iptables(server, "-I", *rule)

    def cut(self, source: str, target: str) -> None:
        """See ``Network``."""
        if (source, target) not in self._cut:
            self._add(source, target, ())
            self._cut.add((source, target))

    def lose(self, source: str, target: str, share: float) -> None:
        """See ``Network``."""
        self._add(source, target, ("-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}"))

    def mend(self, source: str, target: str) -> None:
        """See ``Network``."""
        self._cut.discard((source, target))
        server, _ = self._where(source, target)
        for rule in self._rules.pop((source, target), []):
            if not is_gone(self._pid(server)):
                self._iptables(server, "-D", *rule)

    def is_cut(self, source: str, target: str) -> bool:
        """See ``Network``."""
        return (source, target) in self._cut

    def passes(self, source: str, target: str) -> int:
        """See ``Network``."""
        return self._counted(source, target, dropped=False, column=1)

    def trouble(self, source: str, target: str) -> int:
        """See ``Network``: packets that were dropped."""
        return self._counted(source, target, dropped=True, column=0)

    def delay(self, source: str, target: str, seconds: float) -> None:
        """See ``Network``: there is nothing that delays packets here."""
        raise Invalid(f"ways from {source} to {target} cannot be slowed by {seconds} s in containers; use processes")

    def reset(self, source: str, target: str) -> int:
        """See ``Network``."""
        raise Invalid(f"connections from {source} to {target} cannot be reset in containers; use processes")

    def double(self, source: str, target: str, *, on: bool) -> None:
        """See ``Network``."""
        raise Invalid(f"connections from {source} to {target} cannot be doubled ({on}) in containers; use processes")

    # --- rules ---

    def _where(self, source: str, target: str) -> tuple[str, list[tuple[str, str, str]]]:
        """Return in whose namespace a way is ruled, and chain, option and address of each rule."""
        if target not in {ETCD, CLIENTS}:
            return target, [("INPUT", "-s", address) for address in self._addresses[source]]
        return source, [("OUTPUT", "-d", address) for address in self._addresses[target]]

    def _add(self, source: str, target: str, how: Sequence[str]) -> None:
        server, places = self._where(source, target)
        for chain, option, address in places:
            rule = [chain, option, address, *how, "-j", "DROP"]
            self._iptables(server, "-I", *rule)
            self._rules.setdefault((source, target), []).append(rule)

    def _counted(self, source: str, target: str, *, dropped: bool, column: int) -> int:
        server, places = self._where(source, target)
        if is_gone(self._pid(server)):
            return 0
        count = 0
        for chain, _, address in places:
            for line in self._iptables(server, "-nvx", "-L", chain).splitlines():
                found = _COUNTED.match(line)
                if found is not None and address in line.split() and ("DROP" in line) == dropped:
                    count += int(found[column + 1])
        return count

    def _iptables(self, server: str, *arguments: str) -> str:
        pid = self._pid(server)
        if is_gone(pid):
            raise Invalid(f"{server} does not run, so it has no network to break")
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-n", "iptables", "-w", *arguments],  # noqa: S607 - wherever the system has them
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
        if done.returncode:
            raise Invalid(f"iptables {' '.join(arguments)} at {server}: {done.stderr.strip()}")
        return done.stdout
