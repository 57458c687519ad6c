"""The judge of effects: each change happened at most once, those that were acknowledged did, those that were refused did not.

Owns comparing what callers were told with what the object says was done. Leaves reading that to workloads.
Invariants: pure; a change whose outcome is unknown may have happened or not, but not twice.
Failure behaviour: parts of the object that could not be read are a failure that says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import Verdict

NAME = "exactly-once"
SHOWN_MAX = 6


def exactly_once(
    changes: Iterable[Operation], done: Mapping[str, Sequence[str]], *, lost_max: int | None = 0
) -> Verdict:
    """Judge changes by their tokens.

    Args:
        changes: operations whose ``argument`` is a token that no other has.
        done: of each key, the tokens of what was done, as the object itself says in the end.
        lost_max: how many acknowledged changes may be missing, because the managers promise no more; None: all.
    """
    asked = {one.argument: one for one in changes}
    unread = sorted({one.key for one in asked.values()} - done.keys())
    if unread:
        return Verdict(NAME, False, f"could not judge: what was done to {', '.join(unread[:5])} could not be read")
    if not asked:
        return Verdict(NAME, False, "could not judge: nothing was changed")
    counts = Counter(token for tokens in done.values() for token in tokens)
    places = {token: key for key, tokens in done.items() for token in tokens}
    twice = [token for token, count in counts.items() if count > 1]
    invented = [token for token in counts if token not in asked or places[token] != asked[token].key]
    refused = [token for token, one in asked.items() if one.outcome == "failed" and token in counts]
    lost = [token for token, one in asked.items() if one.outcome == "ok" and token not in counts]
    unknown = [one for one in asked.values() if one.outcome == "unknown"]
    figures = {
        "acknowledged": float(sum(one.outcome == "ok" for one in asked.values())),
        "refused": float(sum(one.outcome == "failed" for one in asked.values())),
        "unknown": float(len(unknown)),
        "unknown_done": float(sum(one.argument in counts for one in unknown)),
        "lost": float(len(lost)),
    }
    for tokens, what in (
        (twice, "done twice"),
        (invented, "done though nobody asked for it there"),
        (refused, "done though its caller was told that it was not"),
        (lost if lost_max is not None and len(lost) > lost_max else [], "acknowledged and lost"),
    ):
        if tokens:
            shown = [asked[token] for token in tokens if token in asked][:SHOWN_MAX]
            allowed = f" (at most {lost_max} may be)" if tokens is lost and lost_max else ""
            text = f"{len(tokens)} of {len(asked)} changes {what}{allowed}: {', '.join(map(str, tokens[:SHOWN_MAX]))}"
            return Verdict(NAME, False, text, figures=figures, smallest=shown)
    text = f"{figures['acknowledged']:.0f} acknowledged changes are there once"
    if lost:
        text = f"{text}, but for {len(lost)} that these managers may lose"
    return Verdict(NAME, True, f"{text}, {figures['refused']:.0f} refused ones are not", figures=figures)
