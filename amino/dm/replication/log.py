"""The log of one replica, in memory.

Owns the entries kept and the place where they begin. Leaves what is committed, and when to drop what, to its owner.
Invariants: indexes have no gap; everything before the first kept entry is committed; an entry is known by
(epoch, index).
Failure behaviour: none; asking for what is not kept is an error of the caller and asserts.
"""

from __future__ import annotations

from amino.dm.replication.messages import Entry

_TRIM_AT = 256  # entries dropped at once, so that dropping costs little per entry


class Log:
    """Entries ``base + 1`` to ``end``.

    Args:
        base: index of the last entry that is not kept.
        base_epoch: its epoch; 0 if ``base`` is 0.
    """

    __slots__ = ("_entries", "base", "base_epoch", "payload_bytes")

    def __init__(self, base: int = 0, base_epoch: int = 0) -> None:
        self._entries: list[Entry] = []
        self.base = base
        self.base_epoch = base_epoch
        self.payload_bytes = 0

    @property
    def end(self) -> int:
        """Index of the last entry."""
        return self.base + len(self._entries)

    @property
    def end_epoch(self) -> int:
        """Epoch of the last entry."""
        return self._entries[-1].epoch if self._entries else self.base_epoch

    def epoch_at(self, index: int) -> int:
        """Return the epoch of entry ``index`` (``base`` to ``end``)."""
        assert self.base <= index <= self.end, (self.base, index, self.end)
        return self.base_epoch if index == self.base else self._entries[index - self.base - 1].epoch

    def append(self, entry: Entry) -> None:
        """Add the entry after the last one."""
        assert entry.index == self.end + 1, (entry.index, self.end)
        self._entries.append(entry)
        self.payload_bytes += len(entry.payload)

    def at(self, index: int) -> Entry:
        """Return entry ``index`` (after ``base``, to ``end``)."""
        assert self.base < index <= self.end, (self.base, index, self.end)
        return self._entries[index - self.base - 1]

    def between(self, after: int, to: int, entries_max: int = 0, bytes_max: int = 0) -> tuple[Entry, ...]:
        """Return entries ``after + 1`` to ``to``; fewer, but at least one, within the bounds that are not 0."""
        assert after >= self.base, (after, self.base)
        if entries_max:
            to = min(to, after + entries_max)
        found = self._entries[after - self.base : max(to - self.base, 0)]
        if bytes_max:
            size = 0
            for count, entry in enumerate(found):
                size += len(entry.payload)
                if count and size > bytes_max:
                    return tuple(found[:count])
        return tuple(found)

    def truncate(self, after: int) -> None:
        """Drop the entries after index ``after``."""
        assert after >= self.base, (after, self.base)
        dropped = self._entries[after - self.base :]
        del self._entries[after - self.base :]
        self.payload_bytes -= sum(len(entry.payload) for entry in dropped)

    def trim(self, keep_after: int, droppable: int, bytes_max: int) -> None:
        """Drop old entries: those up to ``keep_after``, and more while over ``bytes_max``, never after ``droppable``."""
        count = min(keep_after, droppable) - self.base
        over = self.payload_bytes > bytes_max
        if count < _TRIM_AT and not over:
            return
        count = max(count, 0)
        size = sum(len(entry.payload) for entry in self._entries[:count])
        while self.payload_bytes - size > bytes_max and self.base + count < droppable:
            size += len(self._entries[count].payload)
            count += 1
        if count:
            self.base_epoch = self._entries[count - 1].epoch
            self.base += count
            self.payload_bytes -= size
            del self._entries[:count]

    def reset(self, base: int, base_epoch: int) -> None:
        """Forget all entries and begin after ``base``."""
        self._entries.clear()
        self.base = base
        self.base_epoch = base_epoch
        self.payload_bytes = 0
