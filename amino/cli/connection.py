"""Commands that talk to a cluster: their common options, and the connection handed to them.

Owns the options ``--address``, ``--cluster``, ``--timeout``, the TLS files and ``--insecure``. Leaves the commands' own.
Invariant: a connection is closed when its command ends, however it ends.
Failure behaviour: as ``amino.connect``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from amino.config import ClientConfig, TlsFiles
from amino.rpc.tls import TlsConfig
from amino.stubs.cluster import Cluster

REACH_S = 3.0  # a cluster that runs answers within this; a person should not wait longer to learn that it does not
_PANEL = "Connection"
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "address": (
        Annotated[
            str,
            typer.Option(
                "--address", "-a", envvar="AMINO_ADDRESS", help="host:port of servers, comma-separated.",
                rich_help_panel=_PANEL,
            ),
        ],
        "127.0.0.1:7400",
    ),
    "cluster_name": (
        Annotated[
            str, typer.Option("--cluster", envvar="AMINO_CLUSTER", help="Name of the cluster.", rich_help_panel=_PANEL)
        ],
        "amino",
    ),
    "timeout_s": (
        Annotated[float, typer.Option("--timeout", help="Seconds the command may take.", rich_help_panel=_PANEL)],
        30.0,
    ),
    "tls_ca": (
        Annotated[
            str, typer.Option("--tls-ca", envvar="AMINO_TLS_CA", help="PEM file of the authority.", rich_help_panel=_PANEL)
        ],
        "",
    ),
    "tls_cert": (
        Annotated[
            str, typer.Option("--tls-cert", envvar="AMINO_TLS_CERT", help="PEM file, ours.", rich_help_panel=_PANEL)
        ],
        "",
    ),
    "tls_key": (
        Annotated[
            str, typer.Option("--tls-key", envvar="AMINO_TLS_KEY", help="PEM file of its key.", rich_help_panel=_PANEL)
        ],
        "",
    ),
    "insecure": (
        Annotated[
            bool,
            typer.Option("--insecure", envvar="AMINO_INSECURE", help="Plain beyond loopback.", rich_help_panel=_PANEL),
        ],
        False,
    ),
}  # fmt: skip


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of ``command(cluster, ...)``: adds the options and hands it an open connection."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)

    def run(**given: Any) -> None:
        connection = {name: given.pop(name) for name in _OPTIONS}
        with connect(**connection) as cluster:
            import amino

            with amino.deadline(connection["timeout_s"]):
                command(cluster, **given)

    own = [each.replace(annotation=hints[each.name]) for each in list(signature.parameters.values())[1:]]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    parameters = [each.replace(kind=keyword) for each in own] + added
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    return run


def connect(
    *, address: str, cluster_name: str, timeout_s: float, tls_ca: str, tls_cert: str, tls_key: str, insecure: bool
) -> Cluster:
    """Connect as the options say; ``Invalid`` names the option that is wrong."""
    import amino

    files = TlsFiles(ca=tls_ca, cert=tls_cert, key=tls_key) if tls_ca or tls_cert or tls_key else None
    config = ClientConfig(address=address, cluster=cluster_name, tls=files, timeout_s=timeout_s)
    tls = None if files is None else TlsConfig(files.ca, files.cert, files.key)
    return amino.connect(
        *config.addresses, cluster=config.cluster, tls=tls, timeout_s=min(REACH_S, timeout_s), insecure=insecure
    )
