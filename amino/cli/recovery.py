"""``amino rebuild``, the one command after the total loss of etcd, and ``amino settle`` for what only people can know.

Owns its options, its table and its exit code. Leaves the work to ``amino.node.rebuild``.
Invariant: it ends with 0 only if everything in the store is back, or will be once servers run.
Failure behaviour: what could not be brought back is in the table with its reason, and the exit code is 1.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amino.cli import output
from amino.cli.failures import ERROR
from amino.cli.inspection import FormOption
from amino.cli.output import Column, Form
from amino.config import load_server_config

if TYPE_CHECKING:
    from amino.oms.rebuilding import Outcome

_COLUMNS: tuple[Column[Any], ...] = (
    Column("NAME", lambda one: one.name or "-"),
    Column("ID", lambda one: one.id),
    Column("OUTCOME", lambda one: one.outcome),
    Column("STATE", lambda one: one.state or "-"),
    Column("CHECKPOINT", lambda one: one.checkpoint or "-"),
    Column("AGE", lambda one: output.age(one.taken_at) or "-"),
    Column("CLASS", lambda one: one.cls, wide=True),
    Column("GROUPS", lambda one: one.groups or "", wide=True),
    Column("SIZE", lambda one: output.size(one.size) if one.size else "", wide=True),
    Column("NOTE", lambda one: one.why),
)


ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The servers' YAML or TOML file.")]
ClusterOption = Annotated[str | None, typer.Option(help="Name of the cluster.")]
EtcdOption = Annotated[list[str] | None, typer.Option("--etcd", help="host:port of an etcd member. Repeatable.")]
EtcdUserOption = Annotated[str | None, typer.Option(help="Its password is read from AMINO_ETCD_PASSWORD.")]
EtcdCaOption = Annotated[str | None, typer.Option(help="PEM file of etcd's authority.")]
EtcdCertOption = Annotated[str | None, typer.Option(help="PEM file of our certificate towards etcd.")]
EtcdKeyOption = Annotated[str | None, typer.Option(help="PEM file of its key.")]


class Verdict(StrEnum):
    """How a transaction is settled."""

    COMMIT = "commit"
    ABORT = "abort"


def rebuild(
    config: ConfigOption = None,
    cluster: ClusterOption = None,
    etcd: EtcdOption = None,
    etcd_user: EtcdUserOption = None,
    etcd_ca: EtcdCaOption = None,
    etcd_cert: EtcdCertOption = None,
    etcd_key: EtcdKeyOption = None,
    store: Annotated[str | None, typer.Option(help="URL of the checkpoint store that the servers have.")] = None,
    restored: Annotated[
        bool, typer.Option("--etcd-restored", help="etcd is not empty but was restored from a backup; no server runs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, change nothing.")] = False,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the servers to restore.")] = 60.0,
    form: FormOption = Form.TABLE,
) -> None:
    """After the loss of etcd: bring back every microservice that has a checkpoint, under its name and id.

    Talks to etcd and the checkpoint store, not to servers; takes their options, file and variables. May be repeated.
    """
    from amino.node.rebuild import Progress
    from amino.node.rebuild import rebuild as run

    options: dict[str, Any] = {
        "cluster": cluster, "etcd.endpoints": etcd, "etcd.user": etcd_user, "etcd.tls.ca": etcd_ca,
        "etcd.tls.cert": etcd_cert, "etcd.tls.key": etcd_key, "store": store,
    }  # fmt: skip
    chosen = load_server_config(options, file=config)
    with output.counting("reading the checkpoint store") as show:

        def progress(now: Progress) -> None:
            show(now.what, now.done, now.of)

        outcomes, servers = asyncio.run(
            run(chosen, dry_run=dry_run, restored=restored, wait_s=wait_s, progress=progress)
        )
    output.show_rows(outcomes, _COLUMNS, form, output.to_plain)
    _conclude(outcomes, servers, dry_run=dry_run)


def settle(
    transaction: Annotated[
        str, typer.Argument(help="Its id, as `amino get events --kind transaction-in-doubt` shows it.")
    ],
    verdict: Annotated[Verdict, typer.Argument(help="What its participants are to do.")],
    config: ConfigOption = None,
    cluster: ClusterOption = None,
    etcd: EtcdOption = None,
    etcd_user: EtcdUserOption = None,
    etcd_ca: EtcdCaOption = None,
    etcd_cert: EtcdCertOption = None,
    etcd_key: EtcdKeyOption = None,
) -> None:
    """After the loss of etcd: decide a two-phase commit whose decision was lost with it, while its participants wait."""
    from amino.contracts.decisions import ABORTED, COMMITTED
    from amino.node.rebuild import settle as run

    options: dict[str, Any] = {
        "cluster": cluster, "etcd.endpoints": etcd, "etcd.user": etcd_user, "etcd.tls.ca": etcd_ca,
        "etcd.tls.cert": etcd_cert, "etcd.tls.key": etcd_key,
    }  # fmt: skip
    wanted = COMMITTED if verdict is Verdict.COMMIT else ABORTED
    outcome = asyncio.run(run(load_server_config(options, file=config), transaction, wanted))
    output.say(f"{transaction} is {outcome}; its participants learn of it when they ask next")
    if outcome != wanted:
        raise typer.Exit(ERROR)


def _conclude(outcomes: list[Outcome], servers: int, *, dry_run: bool) -> None:
    if servers or dry_run:
        bad = [one for one in outcomes if not one.is_good]
    else:
        bad = [one for one in outcomes if not one.is_good and one.state in ("", "lost", "quarantined")]
        output.say("no server runs yet: what was written comes back as soon as servers start")
    good = len(outcomes) - len(bad)
    verb = "can be brought back" if dry_run else "are back" if servers else "are written"
    output.say(f"{good} of {len(outcomes)} microservices {verb}")
    if bad:
        output.say("the others: see NOTE; repeat the command once that is mended, it leaves alone what is there")
        raise typer.Exit(ERROR)
