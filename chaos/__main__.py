"""The command line: ``python -m chaos list | run NAME | replay FILE | soak``.

Owns commands, options and exit codes. Leaves runs to ``runner``, clusters and faults to ``amino.testing.chaos``.
Invariants: exit code 0: all that ran was judged to be good; 1: something was not; 2: it could not be run as asked.
Failure behaviour: an error is one line; nothing is left running.
"""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from amino.errors import AminoError, Invalid
from amino.testing.chaos.clusters.containers import IMAGE, unusable
from amino.testing.chaos.record import RunRecord
from chaos import display, releases
from chaos.scenarios import SCENARIOS, Scenario, named, with_faults

if TYPE_CHECKING:
    from amino.testing.chaos.clusters import Cluster
    from amino.testing.chaos.faults import Planned, Shape

app = typer.Typer(
    name="chaos",
    help="Break real clusters, judge what clients saw, and say so: the exit code is the verdict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FAILED, UNUSABLE = 1, 2
TOPOLOGIES = ("processes", "containers")
SAMPLE = ("auto-restart", "checkpoint-recovery", "replica-failover", "coordinator-failover")
IMAGE_USED = os.environ.get("AMINO_IMAGE", IMAGE)
ETCD_USED = os.environ.get("AMINO_ETCD_BINARIES", "").partition(":")[0] or None
CONTAINERS = 5
"""Kernel servers of a cluster of containers, at least."""


def _ready(path: Path | None) -> Path | None:
    """Make the folder of what is to be written when the run, of an hour perhaps, is over."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{path} cannot be written: {error}; name a file in a folder of yours") from error
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder; name a file in it")
    return path


Seed = Annotated[
    int | None, typer.Option(help="Of faults, targets and operations; default: a new one, which is shown.")
]
Topology = Annotated[str, typer.Option(help="processes, or containers (needs Docker and root).")]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", metavar="FOLDER", help="Write page, record and JUnit XML there.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the record there.", callback=_ready)
]


@app.command("list")
def list_() -> None:
    """List the scenarios."""
    table = Table(box=None, pad_edge=False)
    for title in ("scenario", "what it shows", "workloads", "faults"):
        table.add_column(title, overflow="fold", no_wrap=title == "scenario")
    for one in SCENARIOS.values():
        table.add_row(one.name, one.text, ", ".join(one.chains), ", ".join(one.faults))
    Console(highlight=False).print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Of a scenario; see list.")],
    seed: Seed = None,
    duration: Annotated[float, typer.Option(help="Seconds under faults.", min=5.0)] = 60.0,
    topology: Topology = TOPOLOGIES[0],
    fault: Annotated[
        list[str] | None, typer.Option(help="Only this one, at one target with ':' (kill-kernel:primary). Repeatable.")
    ] = None,
    json: JsonFile = None,
    report: ReportFolder = None,
) -> None:
    """Run one scenario; its verdict is the exit code."""
    scenario = named(name)
    if fault:
        scenario = with_faults(scenario, fault)
    chosen = seed if seed is not None else random.SystemRandom().randrange(1 << 31)
    record = one_run(scenario, topology, chosen, duration)
    show(record, json, report)
    raise typer.Exit(0 if record.ok else FAILED)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A record that run wrote.", exists=True, dir_okay=False)],
    json: JsonFile = None,
    report: ReportFolder = None,
) -> None:
    """Run what a record is of again: the same scenario, topology, seed, duration, and so the same schedule of faults."""
    before = RunRecord.load(file)
    record = one_run(named(before.scenario), before.topology, before.seed, before.duration_s)
    show(record, json, report)
    raise typer.Exit(0 if record.ok else FAILED)


@app.command()
def soak(
    hours: Annotated[float, typer.Option(help="How long.", min=0.001)] = 1.0,
    seed: Seed = None,
    topology: Topology = TOPOLOGIES[0],
    scenario: Annotated[str, typer.Option(help="Which scenario; default: the one with mixed managers.")] = "soak",
    json: JsonFile = None,
    report: ReportFolder = None,
) -> None:
    """Run mixed managers under random faults, one every 5 to 15 seconds, for hours, on one cluster."""
    chosen = seed if seed is not None else random.SystemRandom().randrange(1 << 31)
    record = one_run(named(scenario), topology, chosen, hours * 3600.0)
    show(record, json, report)
    raise typer.Exit(0 if record.ok else FAILED)


@app.command()
def sample(
    seed: Annotated[int, typer.Option(help="Of every run.")] = 1,
    duration: Annotated[float, typer.Option(help="Seconds under faults, of each run.", min=5.0)] = 30.0,
    folder: Annotated[Path, typer.Option(help="For the records.", file_okay=False)] = Path("build/chaos"),
) -> None:
    """Run the named scenarios for a short while on every topology that can be used here: what continuous integration runs."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for topology in TOPOLOGIES:
        why = unusable(IMAGE_USED, ETCD_USED) if topology == "containers" else ""
        if why:
            Console(highlight=False).print(f"no containers: {why}", soft_wrap=True)
            failed += ["containers"] if os.environ.get("CI") else []
            continue
        for name in SAMPLE:
            record = one_run(named(name), topology, seed, duration)
            show(record, report=folder)
            failed += [] if record.ok else [f"{name} on {topology}"]
    if failed:
        Console(highlight=False).print(f"failed: {', '.join(failed)}", style="bold red")
    raise typer.Exit(FAILED if failed else 0)


def one_run(
    scenario: Scenario, topology: str, seed: int, duration_s: float, schedule: Sequence[Planned] | None = None
) -> RunRecord:
    """Run a scenario, showing how it goes."""
    from chaos.runner import Run

    command = f"python -m chaos run {scenario.name} --topology {topology} --seed {seed} --duration {duration_s:g}"
    if dict(scenario.faults) != dict(named(scenario.name).faults):
        command += "".join(f" --fault {kind}" for kind in scenario.faults)
    console = Console(highlight=False, stderr=True)
    console.print(f"[bold]{scenario.name}[/] on {topology}, seed {seed}, {duration_s:g} s: {scenario.text}")
    console.print(f"[dim]again: {command}[/]")
    with tempfile.TemporaryDirectory(prefix="amino-release-") as folder:
        one = Run(
            scenario,
            cluster_for(scenario, topology, Path(folder) if scenario.release else None),
            seed=seed,
            duration_s=duration_s,
            command=command,
            schedule=schedule,
            display=display.Progress(console),
        )
        return asyncio.run(one.run())


def cluster_for(scenario: Scenario, topology: str, folder: Path | None = None) -> Cluster:
    """Make the cluster that a scenario wants; it is not started.

    Args:
        folder: where another release for its servers is made; None: there is none.

    Raises:
        Invalid: no such topology, or it cannot be used here; says why.
    """
    if topology not in TOPOLOGIES:
        raise Invalid(f"no topology {topology!r}; there are {', '.join(TOPOLOGIES)}")
    from amino.testing.chaos.clusters import ContainerCluster, ProcessCluster

    release = releases.make(releases.NEXT, folder).folder if folder is not None else None
    if topology == "containers":
        return ContainerCluster(
            max(scenario.servers, CONTAINERS),
            members=scenario.members,
            ttl_s=scenario.ttl_s,
            regions=scenario.regions,
            etcd_quota_mib=scenario.etcd_quota_mib,
            disk_mib=scenario.disk_mib,
            release=release,
            etcd_binary=ETCD_USED,
            image=IMAGE_USED,
            **scenario.fields,
        )
    return ProcessCluster(
        scenario.servers,
        devices=scenario.devices,
        members=scenario.members,
        ttl_s=scenario.ttl_s,
        regions=scenario.regions,
        etcd_quota_mib=scenario.etcd_quota_mib,
        disk_mib=scenario.disk_mib,
        release=release,
        clocks=scenario.clocks,
        etcd_binary=ETCD_USED,
        **scenario.fields,
    )


def show(record: RunRecord, json: Path | None = None, report: Path | None = None) -> None:
    """Print the verdicts and write the record where it was asked for."""
    display.summary(record)
    if json is not None:
        record.save(json)
    if report is not None:
        from chaos.report import write

        write(record, report)


@app.command()
def attach(
    address: Annotated[list[str] | None, typer.Option(help="host:port of a kernel server. Repeatable.")] = None,
    etcd: Annotated[list[str] | None, typer.Option(help="host:port of a member of etcd. Repeatable.")] = None,
    pids: Annotated[str, typer.Option(help="Process ids whose sizes are watched, joined by ','.")] = "",
    duration: Annotated[float, typer.Option(help="Seconds.", min=1.0)] = 60.0,
    scenario: Annotated[str, typer.Option(help="Whose workloads and managers are used.")] = SAMPLE[2],
    cluster: Annotated[str, typer.Option(help="Its name.")] = "amino",
    insecure: Annotated[bool, typer.Option("--insecure", help="Beyond loopback, without TLS.")] = False,
    seed: Seed = None,
    json: JsonFile = None,
    report: ReportFolder = None,
) -> None:
    """Record and judge on a cluster that somebody else started, while somebody else breaks it."""
    from chaos.attached import Attached

    one = Attached(
        named(scenario),
        addresses=address or [],
        etcd=etcd or [],
        pids=[int(one) for one in pids.split(",") if one.strip()],
        name=cluster,
        insecure=insecure,
        seed=seed if seed is not None else random.SystemRandom().randrange(1 << 31),
        duration_s=duration,
        display=display.Progress(),
    )
    record = asyncio.run(one.run())
    show(record, json, report)
    raise typer.Exit(0 if record.ok else FAILED)


@app.command()
def matrix(
    results: Annotated[Path, typer.Option(help="File of results; what has a verdict there is not run again.")] = Path(
        "docs/reports/matrix.json"
    ),
    page: Annotated[Path, typer.Option(help="The page that is made of all results.")] = Path("docs/guarantees.md"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only cells whose topology/manager/fault holds this text. Repeatable: any of them."),
    ] = None,
    again: Annotated[
        list[str] | None, typer.Option(help="Run cells with this verdict (late, violated, held) once more. Repeatable.")
    ] = None,
    topology: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all that can be used here.")] = None,
    seconds: Annotated[float, typer.Option(help="Under faults, of each run.", min=10.0)] = 40.0,
    together: Annotated[int, typer.Option(help="How many managers share a run at most.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Of every run.")] = 1,
    jobs: Annotated[int, typer.Option(help="Runs at a time; figures are honest with one.", min=1)] = 1,
    minutes: Annotated[float, typer.Option(help="Begin no run after so many minutes; 0: run all.", min=0.0)] = 0.0,
) -> None:
    """Run every manager that claims consistency under every fault that applies, and make docs/guarantees.md of it."""
    from chaos import guarantees
    from chaos import matrix as cells
    from chaos.claims import claims, scenario_of

    everything = scenario_of(tuple(claims()[0]))
    shapes = {one: _shape(everything, one) for one in TOPOLOGIES}
    usable = [one for one in TOPOLOGIES if one != "containers" or not unusable(IMAGE_USED, ETCD_USED)]
    unknown = set(topology or ()) - set(TOPOLOGIES)
    if unknown:
        raise Invalid(f"no topology {', '.join(sorted(unknown))}; there are {', '.join(TOPOLOGIES)}")
    chosen = {one: shapes[one] for one in topology or usable}
    strange = set(again or ()) - set(cells.VERDICTS)
    if strange:
        raise Invalid(f"no verdict {', '.join(sorted(strange))}; there are {', '.join(cells.VERDICTS)}")
    found = cells.run(
        chosen, results, only=only or (), again=again or (), together=together, seconds=seconds, seed=seed, jobs=jobs,
        minutes=minutes,
    )  # fmt: skip
    page.write_text(guarantees.page(found, shapes), encoding="utf-8")
    violated = [one for one in found.cells.values() if one.verdict in ("violated", "late")]
    Console(highlight=False).print(
        f"{len(found.cells)} cells, {len(violated)} of them not held; {page}", soft_wrap=True
    )
    raise typer.Exit(FAILED if violated else 0)


def _shape(scenario: Scenario, topology: str) -> Shape:
    """Return what faults need to know of the cluster that a scenario wants, without starting one."""
    from amino.testing.chaos.faults import Shape

    with tempfile.TemporaryDirectory(prefix="amino-release-") as folder:
        return Shape.of(cluster_for(scenario, topology, Path(folder) if scenario.release else None))


@app.command()
def prove(
    names: Annotated[list[str] | None, typer.Argument(help="Of defects; default: all.")] = None,
    patch: Annotated[
        Path | None,
        typer.Option(help="A defect of your own, as a patch; run with --scenario.", exists=True, dir_okay=False),
    ] = None,
    scenario: Annotated[str, typer.Option(help="That shows the defect of --patch.")] = SAMPLE[2],
    clean: Annotated[bool, typer.Option(help="Run the same on the unmodified sources, too.")] = True,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was seen there.")] = None,
) -> None:
    """Apply deliberate defects to copies of the sources, one at a time, and show which judge catches each."""
    from chaos import proof

    raise typer.Exit(0 if proof.prove(names or [], patch, scenario, clean=clean, json=json) else FAILED)


def main() -> int:
    """Run a command; returns the exit code."""
    started = time.monotonic()
    try:
        app()  # ends by SystemExit with the code of the command
    except AminoError as error:
        sys.stderr.write(f"{shlex.join(sys.argv[1:3])}: {error} ({time.monotonic() - started:.0f} s)\n")
        return UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
