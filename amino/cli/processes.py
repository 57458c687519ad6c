"""``amino server``, ``amino up`` and ``amino demo``: commands that run processes.

Owns their options and what they show while they run. Leaves processes to ``amino.node``, the demo to ``cli.demo``.
Invariant: when the command ends, so have its processes.
Failure behaviour: what prevents the start is said in one line; a server that dies while ``amino up`` runs is reported and
restarted by its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from amino.cli import output
from amino.cli.demo import FailoverKind
from amino.cli.failures import ERROR
from amino.config import DashboardConfig, ServerConfig, load_server_config, parse_labels
from amino.errors import Invalid
from amino.rpc.tls import TlsConfig, check_listen

_PANEL = "Cluster"
EtcdBinary = Annotated[Path | None, typer.Option("--etcd-binary", help="etcd program; default: from PATH.")]
AppDirs = Annotated[
    list[Path] | None, typer.Option("--app-dir", help="Folder to import classes from. Repeatable.", file_okay=False)
]


def server(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML or TOML file with any of these.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Name of the cluster.", rich_help_panel=_PANEL)] = None,
    name: Annotated[str | None, typer.Option(help="Unique in the cluster; default: the host's name.")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port of the peer link.")] = None,
    grpc_listen: Annotated[str | None, typer.Option(help="host:port of gRPC; empty: none.")] = None,
    health_listen: Annotated[str | None, typer.Option(help="host:port that answers probes over HTTP.")] = None,
    dashboard: Annotated[
        str | None, typer.Option(help="host:port of the dashboard. To act there: AMINO_DASHBOARD_TOKEN.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(help="Host that others reach it by, if not that of --listen.")
    ] = None,
    etcd: Annotated[list[str] | None, typer.Option("--etcd", help="host:port of an etcd member. Repeatable.")] = None,
    etcd_user: Annotated[str | None, typer.Option(help="Its password is read from AMINO_ETCD_PASSWORD.")] = None,
    etcd_ca: Annotated[str | None, typer.Option(help="PEM file of etcd's authority.")] = None,
    etcd_cert: Annotated[str | None, typer.Option(help="PEM file of our certificate towards etcd.")] = None,
    etcd_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    session_ttl_s: Annotated[
        int | None, typer.Option(help="Seconds until a vanished server is lost; 2 or more.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value. Repeatable.")] = None,
    capacity: Annotated[int | None, typer.Option(help="Most replicas; 0: no bound.")] = None,
    app_dir: AppDirs = None,
    store: Annotated[str | None, typer.Option(help="URL of the checkpoint store, equal for all servers.")] = None,
    tls_ca: Annotated[str | None, typer.Option(help="PEM file of the cluster's authority.")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file of the server's certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback without TLS.")] = False,
    hold_s: Annotated[float | None, typer.Option(help="Seconds calls wait for the session to be valid again.")] = None,
    hang_s: Annotated[float | None, typer.Option(help="Seconds of silence after which the process is killed.")] = None,
    dedup_horizon_s: Annotated[float | None, typer.Option(help="Seconds answers are kept for retries.")] = None,
    drain_timeout_s: Annotated[float | None, typer.Option(help="Seconds a drain may take.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run a kernel server under its supervisor. SIGTERM drains it; a second one stops it now."""
    options: dict[str, Any] = {
        "cluster": cluster, "name": name, "listen": listen, "grpc_listen": grpc_listen,
        "health_listen": health_listen, "dashboard.listen": dashboard, "advertise": advertise,
        "etcd.endpoints": etcd, "etcd.user": etcd_user, "etcd.tls.ca": etcd_ca, "etcd.tls.cert": etcd_cert,
        "etcd.tls.key": etcd_key, "session.ttl_s": session_ttl_s, "capacity": capacity,
        "labels": parse_labels(label, "--label") if label else None,
        "app_dirs": [str(folder) for folder in app_dir] if app_dir else None, "store": store,
        "tls.ca": tls_ca, "tls.cert": tls_cert, "tls.key": tls_key, "insecure": insecure or None, "hold_s": hold_s,
        "hang_s": hang_s, "dedup_horizon_s": dedup_horizon_s, "drain_timeout_s": drain_timeout_s,
        "log_format": log_format, "log_level": log_level,
    }  # fmt: skip
    from amino.node.supervisor import supervise
    from amino.telemetry import logs
    from amino.telemetry.trace import Telemetry

    chosen = load_server_config(options, file=config)
    _check_exposure(chosen)
    logs.configure(Telemetry.disabled(), form=chosen.log_format, level=chosen.log_level.upper())
    ended = asyncio.run(supervise(chosen))
    if ended.code:
        raise Invalid(ended.message)


def _check_exposure(config: ServerConfig) -> None:
    """Refuse unusable certificates and open ports without them at once, before etcd is waited for."""
    tls = None
    if config.tls is not None:
        tls = TlsConfig(config.tls.ca, config.tls.cert, config.tls.key)
        tls.server_context()
    for address in filter(None, (config.listen, config.grpc_listen, config.dashboard.listen)):
        check_listen(address, tls, insecure=config.insecure)


def up(
    servers: Annotated[int, typer.Option("--servers", "-n", min=1, max=32, help="How many kernel servers.")] = 3,
    etcd_members: Annotated[int, typer.Option(help="1 or 3.")] = 1,
    etcd_binary: EtcdBinary = None,
    port: Annotated[int, typer.Option(help="Of the first server's peer link; gRPC is one above. 0: free ones.")] = 7400,
    app_dir: AppDirs = None,
    data: Annotated[Path | None, typer.Option(help="Keep data and logs in this folder.", file_okay=False)] = None,
    cluster: Annotated[str, typer.Option(help="Name of the cluster.")] = "amino",
    session_ttl_s: Annotated[int, typer.Option(help="Seconds until a vanished server is lost; 2 or more.")] = 3,
    dashboard: Annotated[
        str, typer.Option(help="host:port of the first server's dashboard, for example 127.0.0.1:7480.")
    ] = "",
) -> None:
    """Run a development cluster on this machine, with an etcd of its own, until Ctrl-C."""
    folders = tuple(str(folder.resolve()) for folder in app_dir or [Path()])
    asyncio.run(
        _up(
            servers=servers, etcd_members=etcd_members, etcd_binary=etcd_binary, port=port, app_dirs=folders,
            folder=data.resolve() if data is not None else None, cluster=cluster, session_ttl_s=session_ttl_s,
            dashboard=_dashboard(dashboard),
        )
    )  # fmt: skip


def _dashboard(listen: str) -> DashboardConfig | None:
    """Return the dashboard of a development cluster, with a token of its own unless one is given."""
    if not listen:
        return None
    return DashboardConfig(listen, os.environ.get("AMINO_DASHBOARD_TOKEN") or secrets.token_urlsafe(24))


async def _up(**options: Any) -> None:
    from amino.node.dev_cluster import DevCluster

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = loop.create_task(DevCluster.start(**options))

    def end() -> None:
        ended.set()
        starting.cancel()

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
    with output.progress(f"starting etcd and {options['servers']} servers"):
        try:
            cluster = await starting
        except asyncio.CancelledError:
            output.say("interrupted")
            raise typer.Exit(ERROR) from None
    watching = [loop.create_task(_watch(server)) for server in cluster.servers.values()]
    try:
        output.say(f"{len(cluster.servers)} servers run; Ctrl-C ends them. Data and logs: {cluster.folder}")
        for server in cluster.servers.values():
            serves = server.last
            assert serves is not None
            sys.stdout.write(f"{server.name}  {serves.address}  gRPC {serves.grpc_address}  pid {serves.pid}\n")
        shown = options["dashboard"]
        if shown is not None:  # what follows # stays in the browser
            sys.stdout.write(f"dashboard  http://{shown.listen}/#token={shown.token}\n")
        sys.stdout.flush()
        first = cluster.addresses[0]
        output.say(f"try: amino get servers{'' if first.endswith(':7400') else f' -a {first}'}")
        await ended.wait()
    finally:
        for task in watching:
            task.cancel()
        with output.progress("ending"):
            await cluster.aclose()


async def _watch(server: Any) -> None:
    """Tell when a server goes down and when it serves again."""
    known = server.serves
    while True:
        async with server.changed:
            await server.changed.wait()
            now = server.serves
        if now is None and known is not None:
            output.say(f"{server.name}: its process ended")
        elif now is not None and (known is None or now.incarnation != known.incarnation):
            output.say(f"{server.name} serves again, as incarnation {now.incarnation}")
        known = now


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the display.")] = False,
    servers: Annotated[int, typer.Option("--servers", "-n", min=2, max=9, help="How many kernel servers.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long the load runs.")] = 30.0,
    clients: Annotated[int, typer.Option(min=1, max=64, help="How many client threads.")] = 4,
    kill: Annotated[
        list[FailoverKind] | None,
        typer.Option(help="Which failovers, in order; repeatable. Default: kernel, then server."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the clients' choices.")] = 1,
    etcd_binary: EtcdBinary = None,
) -> None:
    """Watch a cluster lose the server that holds users' data, and go on with nothing lost."""
    from amino.cli.demo import run

    code = run(
        as_json=as_json, servers=servers, seconds=seconds, clients=clients, etcd_binary=etcd_binary, seed=seed,
        kills=kill or (),
    )  # fmt: skip
    if code:
        raise typer.Exit(code)
