"""The page of guarantees, made from the results of the matrix.

Owns what ``docs/guarantees.md`` says. Leaves running to ``matrix``.
Invariants: pure; the page says which sources were run, how much of all there is, and what was not; results of another chain than
the claim's present one are left out.
Failure behaviour: none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from amino.testing.chaos.faults import Shape
from chaos.bounds import bound_of
from chaos.claims import Claim, claims
from chaos.matrix import VERDICTS, Cell, Results, keys

_HEAD = """# Guarantees, as they were seen to hold

Made by `python -m chaos matrix`; do not edit. Each deployment manager with a consistency claim is called by workers while one kind of
fault after the other happens to a real cluster, of processes or of containers ([how](chaos.md)), and what they were told is judged.

- **held**: every judge found it good, and it was answered again within the bound of the design, if there is one.
- **late**: every judge found it good, but the bound was not kept.
- **violated**: a judge saw something. **not judged**: the run broke down; it says nothing.
- **p50** and **worst** are for how long no call of that workload was answered after a fault, in seconds, over all faults of the run,
  whether they hit its own replicas or others. Bounds are worst cases unless they say p50; they are those of sessions of {ttl:g} s.
"""


def page(results: Results, shapes: Mapping[str, Shape]) -> str:
    """Return the page.

    Args:
        shapes: of the clusters that the matrix has, by topology.
    """
    there, without = claims()
    wanted = {(topology, manager, fault) for topology, shape in shapes.items() for fault, manager in keys(shape, there)}
    known = [one for one in results.cells.values() if one.manager in there and one.chain == there[one.manager].text]
    cells = {(one.topology, one.manager, one.fault): one for one in known}
    ran = [one for one in cells.values() if one.verdict != "not judged"]
    lines = [_HEAD.format(ttl=results.ttl_s)]
    lines.append(_how_much(ran, len(wanted | set(cells))))
    lines.append(_summary(there, shapes, cells, wanted))
    bad = [one for one in ran if one.verdict in ("violated", "late")]
    if bad:
        lines.append("## What did not hold\n")
        lines += [
            f"- **{one.verdict}**: {one.manager} under `{one.fault}` on {one.topology}: {_flat(one.text)}. "
            f"p50 {one.p50_s:.2f} s, worst {one.worst_s:.2f} s. Again: `{one.command}`"
            for one in bad
        ]
        lines.append("")
    for claim in there.values():
        lines.append(_section(claim, cells, results.ttl_s))
    lines.append("## Managers without a row\n")
    lines += [f"- {name}: {why}." for name, why in without.items()] or ["None."]
    return "\n".join(lines).rstrip() + "\n"


def _how_much(ran: Sequence[Cell], wanted: int) -> str:
    if not ran:
        return f"**Nothing of {wanted} cells has been run yet.**\n"
    faults, operations = sum(one.faults for one in ran), sum(one.operations for one in ran)
    counted = Counter(one.verdict for one in ran)
    said = ", ".join(f"{counted[verdict]} {verdict}" for verdict in ("held", "late", "violated"))
    commits, days = (", ".join(sorted(each)) for each in ({one.commit for one in ran}, {one.day for one in ran}))
    return (
        f"**{len(ran)} of {wanted} cells were run on {days}, of commit {commits}: {said}.** "
        f"{faults} faults were judged, {operations} operations recorded.\n"
    )


def _summary(
    there: Mapping[str, Claim],
    shapes: Mapping[str, Shape],
    cells: Mapping[tuple[str, str, str], Cell],
    wanted: set[tuple[str, str, str]],
) -> str:
    lines = [f"| manager | {' | '.join(shapes)} |", f"| --- |{' --- |' * len(shapes)}"]
    for name in there:
        row = []
        for topology in shapes:
            mine = [cell for (at, manager, _), cell in cells.items() if (at, manager) == (topology, name)]
            count = Counter(cell.verdict for cell in mine)
            all_ = sum((at, manager) == (topology, name) for at, manager, _ in wanted)
            told = [f"{count[one]} {one}" for one in VERDICTS if count[one]]
            row.append(f"{', '.join(told) or 'not run'} of {all_}")
        lines.append(f"| [{name}](#{name.lower()}) | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _section(claim: Claim, cells: Mapping[tuple[str, str, str], Cell], ttl_s: float) -> str:
    mine = [cell for cell in cells.values() if cell.manager == claim.manager]
    judges = sorted({judge for cell in mine for judge in cell.judges})
    judged = f"; judged by {', '.join(judges)}" if judges else ""
    lines = [f"## {claim.manager}\n", f"`{claim.text}`, workload `{claim.workload}`{judged}.", ""]
    if not mine:
        return "\n".join([*lines, "Not run yet.", ""])
    lines += [
        "| fault | topology | verdict | faults | p50 | worst | bound |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in sorted(mine, key=lambda one: (one.fault, one.topology)):
        bound = bound_of(cell.fault)
        worst_s = f"{cell.worst_s:.2f}" + (f" ({cell.healed_s:.2f} after it was undone)" if bound.after_heal else "")
        figures = f"{cell.faults} | {cell.p50_s:.2f} | {worst_s}" if cell.verdict != "not judged" else "- | - | -"
        lines.append(f"| `{cell.fault}` | {cell.topology} | {cell.verdict} | {figures} | {bound.told(ttl_s) or '-'} |")
    return "\n".join([*lines, ""])


def _flat(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
