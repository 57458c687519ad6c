"""What a refusal must be: the right error, in time, in words that help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.figures import Figures

WITHIN_S = 1.0


def refused(
    figures: Figures, what: str, call: Callable[[], Any], kind: type[BaseException], *words: str
) -> BaseException:
    """Run ``call`` and expect ``kind``, within a second, with every one of ``words`` in its message; returns the error."""
    begun = time.perf_counter()
    with pytest.raises(kind) as caught:
        call()
    took = time.perf_counter() - begun
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value!s} does not say {missing}"
    figures.note(what, took, "s", at_most=WITHIN_S, note=type(caught.value).__name__)
    return caught.value
