"""Deliberate defects: each takes away one rule that a guarantee rests on, and names the run that must notice.

Owns the table: what is changed where, and what is run. Leaves applying and running to ``proof``.
Invariants: a defect changes text that is there exactly once; the same run is clean without it.
Failure behaviour: a defect whose text is not there any more is an error, never skipped.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: in ``file``, ``before`` becomes ``after``."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect.

    Args:
        text: the rule that is taken away. edits: how. module, arguments: what is run, ``python -m module arguments --json FILE``.
    """

    name: str
    text: str
    edits: tuple[Edit, ...]
    module: str
    arguments: tuple[str, ...]


def _real(scenario: str, *faults: str, duration_s: int = 30, seed: int = 1) -> tuple[str, tuple[str, ...]]:
    chosen = tuple(part for fault in faults for part in ("--fault", fault))
    return "chaos", ("run", scenario, "--seed", str(seed), "--duration", str(duration_s), *chosen)


def _simulated(
    load: str, *favour: str, only: tuple[str, ...] = (), seeds: int = 12, seconds: int = 60
) -> tuple[str, tuple[str, ...]]:
    chosen = (*(("--favour", *favour) if favour else ()), *(("--only", *only) if only else ()))
    return "chaos.simulated", (load, "--seeds", str(seeds), "--seconds", str(seconds), *chosen)


def _staged(scene: str) -> tuple[str, tuple[str, ...]]:
    return "chaos.staged", (scene,)


DEFECTS = {
    one.name: one
    for one in (
        Defect(
            "early-acknowledgement",
            "a replicated write is acknowledged before the in-sync set has it",
            (
                Edit(
                    "amino/dm/replication/primary.py",
                    "            if one.match < index:\n                index = one.match\n        effects",
                    "            if one.match < 0:\n                index = one.match\n        effects",
                ),
            ),
            *_real("replica-failover", "cut-servers:primary"),
        ),
        Defect(
            "empty-replica-in-sync",
            "a replica that has no state yet says that it has everything, and so counts as in sync",
            (
                Edit(
                    "amino/dm/replication/follower.py",
                    "wanted = SnapshotWanted(append.epoch, state.me, append.sequence)",
                    "wanted = Appended(append.epoch, state.me, append.sequence, append.previous + len(append.entries))",
                ),
            ),
            *_simulated("replicated", "lose_machine", "crash_kernel", seconds=40),
        ),
        Defect(
            "reads-without-lease",
            "a primary answers reads although its replicas have not acknowledged it lately",
            (Edit("amino/dm/replication/primary.py", "if state.rules.lease_to_read:", "if False:"),),
            *_staged("stale-primary"),
        ),
        Defect(
            "session-never-ends",
            "a server goes on although it cannot prove that its session is valid",
            (
                Edit(
                    "amino/coordination/session.py",
                    "        return self._boottime() < self._read()\n",
                    "        return self._boottime() >= 0.0\n",
                ),
            ),
            *_simulated("checkpointed", "freeze_machine", "partition_etcd"),
        ),
        Defect(
            "answers-left-behind",
            "the table of answered requests does not travel with the object's state",
            (
                Edit(
                    "amino/kernel/answered.py",
                    "                for key, stream in self._streams.items()\n            ]\n",
                    "                for key, stream in self._streams.items()\n                if not key\n            ]\n",
                ),
            ),
            *_staged("lost-answers"),
        ),
        Defect(
            "retries-run-again",
            "a retry of a request that was answered runs again",
            (
                Edit(
                    "amino/kernel/answered.py",
                    "        client, microservice, sequence, path = request\n        with self._lock:\n            stream = self._streams.get((client, microservice))\n            if stream is None:\n                if attempt",
                    "        client, microservice, sequence, path = request\n        with self._lock:\n            stream = None\n            if stream is None:\n                if attempt",
                ),
            ),
            *_staged("lost-answers"),
        ),
        Defect(
            "logged-in-memory-only",
            "durable calls are acknowledged while their log gathers them in memory",
            (
                Edit(
                    "amino/checkpoint/operation_log.py",
                    "        data = log_format.frame(self._seed, number, records)\n        self._segment.append(data)\n",
                    "        self._held = [*getattr(self, '_held', ()), *records]\n        if number % 8:\n            return 0\n"
                    "        number //= 8\n        data = log_format.frame(self._seed, number, self._held)\n"
                    "        self._held = []\n        self._segment.append(data)\n",
                ),
            ),
            *_simulated("durable", "crash_kernel", seconds=40),
        ),
        Defect(
            "inner-chain-bypassed",
            "a message to a manager's component bypasses the managers that calls pass before it",
            (
                Edit(
                    "amino/dm/chain.py",
                    "            if position > above and (below is None or position < below):\n"
                    "                forward = _step(on_call, forward)\n",
                    "            if above < 0 and (below is None or position < below):\n"
                    "                forward = _step(on_call, forward)\n",
                ),
            ),
            *_simulated("optimistic", "crash_kernel", "lose_machine", seconds=30),
        ),
        Defect(
            "epoch-not-checked",
            "a call that was sent under an older epoch is served under a newer one",
            (
                Edit(
                    "amino/kernel/dispatcher.py",
                    "        if epoch != target.epoch:\n",
                    "        if epoch > target.epoch:\n",
                ),
            ),
            *_simulated("checkpointed", "crash_kernel", "move", "lose_machine"),
        ),
        Defect(
            "loss-not-proved",
            "objects are placed anew because a stale list says that their server is gone",
            (
                Edit(
                    "amino/coordination/store.py",
                    "    return NotCreatedAt(key, Field.CREATE, revision)\n",
                    '    return NotCreatedAt(f"{key}-", Field.CREATE, revision)\n',
                ),
            ),
            *_simulated("checkpointed", "stale_members"),
        ),
        Defect(
            "manifest-without-guard",
            "a checkpoint is published although the group went on elsewhere",
            (
                Edit(
                    "amino/checkpoint/replica_checkpoints.py",
                    "                created_at(self._server_key, self._holder.incarnation),\n"
                    "                unchanged(self._group_key, self._document_revision),\n"
                    "                unchanged(self._manifest_key, self._manifest_revision),\n",
                    "",
                ),
            ),
            *_simulated(
                "checkpointed", "freeze_kernel", "freeze_machine", "partition_etcd", "delay_writes", seconds=40
            ),
        ),
        Defect(
            "placement-not-confirmed",
            "an object answers before a transaction has confirmed that it is placed there",
            (
                Edit(
                    "amino/kernel/confirm.py",
                    "        compares = [self._mine, unchanged(key, fence.document_revision)]\n",
                    "        if key:\n            return fence.document_revision\n"
                    "        compares = [self._mine, unchanged(key, fence.document_revision)]\n",
                ),
            ),
            *_simulated("checkpointed"),
        ),
        Defect(
            "restored-unverified",
            "a checkpoint is restored without looking at its checksum",
            (
                Edit(
                    "amino/checkpoint/format.py",
                    "    if digest != _digest(prefix, content) or digest.hex() != sha256:\n",
                    "    if not digest or not sha256:\n",
                ),
            ),
            *_staged("damaged-checkpoint"),
        ),
        Defect(
            "log-without-checksum",
            "a log is read without its checksums",
            (
                Edit(
                    "amino/checkpoint/log_format.py",
                    "    return start + length if _CHECKSUM.unpack_from(data, at + _HEAD.size)[0] == checksum else 0\n",
                    "    return start + length if checksum >= 0 else 0\n",
                ),
            ),
            *_simulated("durable", only=("power_loss_in_write",), seconds=40),
        ),
        Defect(
            "acknowledged-before-sync",
            "a log's frame is acknowledged before it is synced",
            (
                Edit(
                    "amino/checkpoint/operation_log.py",
                    "        self._segment.append(data)\n",
                    "        self._segment.note(data)\n",
                ),
            ),
            *_simulated("durable", "power_loss"),
        ),
        Defect(
            "calls-overlap",
            "calls that should run one at a time run side by side",
            (
                Edit(
                    "amino/dm/serializability/serializable_rpc.py",
                    "        await self._queue.enter(call)\n        try:\n            return await forward(call)\n        finally:\n"
                    "            self._queue.leave()\n",
                    "        return await forward(call)\n",
                ),
            ),
            *_simulated("serializable"),
        ),
        Defect(
            "shard-takes-nothing",
            "a shard that says it has taken keys has not",
            (
                Edit(
                    "amino/dm/sharding/dht.py",
                    "        self._context.object.put_in(number, content)\n        own.took",
                    "        own.took",
                ),
            ),
            *_simulated("dht", seeds=4),
        ),
    )
}
