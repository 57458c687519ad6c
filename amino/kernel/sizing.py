"""How much memory an object takes, about.

Owns walking through what an object refers to. Leaves when to do it to ``node.gauges``.
Invariants: the walk is bounded; it changes nothing, and may run while the object's methods do. Classes, modules, functions and
Amino's own objects (a stub leads to the whole runtime) belong to nobody and are not counted.
Failure behaviour: beyond the bound the rest is estimated by the mean of what was seen.
"""

from __future__ import annotations

import gc
import sys
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any

LOOKED_AT_MAX = 5_000
"""Objects that are looked at, for one estimate."""
_FOREIGN = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType, GeneratorType)


def estimated_bytes(instance: Any, looked_at_max: int = LOOKED_AT_MAX) -> int:
    """Return about how many bytes ``instance`` and all that only it needs take.

    Args:
        looked_at_max: objects that are looked at (1 or more); what is waiting then counts as much as those did on average.
    """
    seen: set[int] = {id(instance)}
    waiting: list[Any] = [instance]
    total = looked_at = 0
    while waiting and looked_at < looked_at_max:
        one = waiting.pop()
        looked_at += 1
        total += sys.getsizeof(one, 0)
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, _FOREIGN) and not _is_ours(other):
                seen.add(id(other))
                waiting.append(other)
    return total + (total * len(waiting) // looked_at if waiting else 0)


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "amino"
