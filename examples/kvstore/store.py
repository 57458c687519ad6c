"""The store: a dict with methods. Only the marks tell that it can be divided."""

from __future__ import annotations

from typing import Any

import amino


class KeyValueStore:
    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    @amino.key
    def put(self, key: str, value: str) -> None:
        self.data[key] = value

    @amino.key
    @amino.readonly
    def get(self, key: str) -> str | None:
        return self.data.get(key)

    @amino.key
    def delete(self, key: str) -> bool:
        return self.data.pop(key, None) is not None

    @amino.broadcast  # runs on every shard; numbers are added, lists joined
    @amino.readonly
    def size(self) -> int:
        return len(self.data)

    @amino.broadcast(fold=lambda lists: sorted(key for keys in lists for key in keys))
    @amino.readonly
    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self.data if key.startswith(prefix)]

    @amino.broadcast(fold=list)
    @amino.readonly
    def sizes(self) -> Any:
        """An int on each shard; for the caller, the list of them."""
        return len(self.data)
