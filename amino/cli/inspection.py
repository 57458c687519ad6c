"""``amino get`` and ``amino describe``: what there is, and why it is as it is.

Owns columns and filters. Leaves finding to the registry and layout to ``output``.
Invariant: these commands change nothing.
Failure behaviour: as the registry's; an empty list is no error.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from amino.cli import output
from amino.cli.connection import connected
from amino.cli.names import conditions, naming
from amino.cli.output import Column, Form
from amino.contracts.documents import GroupDocument, Requirement
from amino.contracts.services import (
    ByName,
    Description,
    Empty,
    EventInfo,
    EventsRequest,
    MicroserviceInfo,
    ServerInfo,
    SlotInfo,
)
from amino.errors import NotFound
from amino.stubs.cluster import Cluster

get_commands = typer.Typer(
    help="List servers, microservices, replicas, slots, checkpoints or events.", no_args_is_help=True
)

FormOption = Annotated[Form, typer.Option("--output", "-o", help="How to show it.")]
ClassFilter = Annotated[str, typer.Option("--class", help="Of this class: module:Class.")]
LabelFilter = Annotated[
    list[str] | None, typer.Option("--label", "-l", help="Where this holds: key=value, key!=value or key. Repeatable.")
]
ServerFilter = Annotated[str, typer.Option("--server", "-s", help="On this server.")]
RegionFilter = Annotated[str, typer.Option("--region", help="In this region.")]
StateFilter = Annotated[
    str, typer.Option("--state", help="In this state: creating, active, lost, quarantined, deleting.")
]
ApplicationFilter = Annotated[str, typer.Option("--application", help="Of this application.")]


def _server_state(row: ServerInfo) -> str:
    return "cordoned" if row.cordoned else "ready"


_SERVERS: list[Column[ServerInfo]] = [
    Column("NAME", lambda row: row.record.name),
    Column("STATE", _server_state),
    Column("ADDRESS", lambda row: row.record.address),
    Column("REGION", lambda row: row.record.labels.get("region", "")),
    Column("REPLICAS", lambda row: row.replicas),
    Column("SLOTS", lambda row: row.slots),
    Column("AGE", lambda row: output.age(row.record.started_at)),
    Column("INCARNATION", lambda row: row.incarnation, wide=True),
    Column("GRPC", lambda row: row.record.grpc_address, wide=True),
    Column("LABELS", lambda row: row.record.labels, wide=True),
    Column("PID", lambda row: row.record.pid, wide=True),
    Column("VERSION", lambda row: row.record.version, wide=True),
]
_MICROSERVICES: list[Column[MicroserviceInfo]] = [
    Column("NAME", lambda row: row.name or "-"),
    Column("ID", lambda row: row.id),
    Column("CLASS", lambda row: row.cls),
    Column("STATE", lambda row: row.state),
    Column("SERVERS", lambda row: row.servers),
    Column("AGE", lambda row: output.age(row.created_at)),
    Column("DMS", lambda row: row.dms, wide=True),
    Column("EPOCH", lambda row: row.epoch, wide=True),
    Column("SLOT", lambda row: row.slot, wide=True),
    Column("APPLICATION", lambda row: row.application, wide=True),
    Column("LABELS", lambda row: row.labels, wide=True),
]
_SLOTS: list[Column[SlotInfo]] = [
    Column("SLOT", lambda row: row.slot),
    Column("LEADER", lambda row: row.leader or "-"),
    Column("MICROSERVICES", lambda row: row.microservices),
]
_REPLICAS: list[Column[dict[str, Any]]] = [
    Column("MICROSERVICE", lambda row: row["name"] or row["microservice"]),
    Column("PATH", lambda row: row["path"]),
    Column("REPLICA", lambda row: row["replica"]),
    Column("SERVER", lambda row: row["server"]),
    Column("EPOCH", lambda row: row["epoch"]),
    Column("STATE", lambda row: row["state"]),
    Column("ROLE", lambda row: row["role"]),
    Column("INCARNATION", lambda row: row["incarnation"], wide=True),
    Column("ID", lambda row: row["microservice"], wide=True),
]
_CHECKPOINTS: list[Column[dict[str, Any]]] = [
    Column("MICROSERVICE", lambda row: row["name"] or row["microservice"]),
    Column("PATH", lambda row: row.get("path", "/")),
    Column("EPOCH", lambda row: row.get("epoch")),
    Column("SEQUENCE", lambda row: row.get("sequence")),
    Column("SIZE", lambda row: output.size(int(row.get("size", 0)))),
    Column("AGE", lambda row: output.age(float(row.get("taken_at", 0.0)))),
    Column("URL", lambda row: row.get("url"), wide=True),
    Column("TAKEN", lambda row: output.at_time(float(row.get("taken_at", 0.0))), wide=True),
]
EVENT_COLUMNS: list[Column[EventInfo]] = [
    Column("TIME", lambda row: output.at_time(row.at)),
    Column("KIND", lambda row: row.kind),
    Column("MICROSERVICE", lambda row: row.microservice),
    Column("SERVER", lambda row: row.server),
    Column("TEXT", lambda row: row.text),
    Column("REVISION", lambda row: row.revision, wide=True),
]


@get_commands.command("servers")
@connected
def get_servers(
    cluster: Cluster,
    label: LabelFilter = None,
    region: RegionFilter = "",
    state: Annotated[str, typer.Option("--state", help="ready or cordoned.")] = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List live kernel servers."""
    wanted = conditions(label or [])
    rows = [
        row
        for row in cluster.servers()
        if all(_holds(each, row.record.labels) for each in wanted)
        and region in {"", row.record.labels.get("region", "")}
        and state in {"", _server_state(row)}
    ]
    output.show_rows(sorted(rows, key=lambda row: row.record.name), _SERVERS, form, msgspec.to_builtins)


@get_commands.command("microservices")
@connected
def get_microservices(
    cluster: Cluster,
    cls: ClassFilter = "",
    label: LabelFilter = None,
    server: ServerFilter = "",
    region: RegionFilter = "",
    state: StateFilter = "",
    application: ApplicationFilter = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List microservices."""
    rows = _find(cluster, cls, label, server, region, state, application)
    output.show_rows(rows, _MICROSERVICES, form, msgspec.to_builtins)


@get_commands.command("replicas")
@connected
def get_replicas(
    cluster: Cluster,
    cls: ClassFilter = "",
    label: LabelFilter = None,
    server: ServerFilter = "",
    region: RegionFilter = "",
    state: StateFilter = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List replicas, with the server each is on."""
    rows = [
        {
            "microservice": each.id, "name": each.record.spec.name, "path": path, "replica": replica.id,
            "server": replica.server, "incarnation": replica.incarnation, "epoch": group.epoch,
            "state": "serving" if replica.confirmed else "starting", "role": _role(group, replica.id),
        }
        for each in cluster.describe_all(cls=cls, label=conditions(label or []), server=server, region=region, state=state)
        for path, group in sorted(each.groups.items())
        for replica in group.replicas
        if server in {"", replica.server}
    ]  # fmt: skip
    output.show_rows(rows, _REPLICAS, form, dict)


def _role(group: GroupDocument, replica: str) -> str:
    """Return what a replica is in its group."""
    if group.kind != "replicated":
        return ""
    if replica == group.primary:
        return "primary"
    return "in sync" if replica in group.in_sync else "joining"


@get_commands.command("slots")
@connected
def get_slots(
    cluster: Cluster,
    server: Annotated[str, typer.Option("--server", "-s", help="Led by this server.")] = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List slots and their leaders."""
    rows = [row for row in cluster.registry.slots(Empty()).slots if server in {"", row.leader}]
    output.show_rows(rows, _SLOTS, form, msgspec.to_builtins)


@get_commands.command("checkpoints")
@connected
def get_checkpoints(
    cluster: Cluster,
    cls: ClassFilter = "",
    label: LabelFilter = None,
    server: ServerFilter = "",
    region: RegionFilter = "",
    state: StateFilter = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List checkpoints, the newest of each microservice first."""
    rows = [
        {"microservice": each.id, "name": each.record.spec.name, **checkpoint}
        for each in cluster.describe_all(
            cls=cls, label=conditions(label or []), server=server, region=region, state=state
        )
        for checkpoint in each.checkpoints
    ]
    output.show_rows(rows, _CHECKPOINTS, form, dict)


@get_commands.command("events")
@connected
def get_events(
    cluster: Cluster,
    kind: Annotated[str, typer.Option("--kind", help="Of this kind, for example recovered.")] = "",
    microservice: Annotated[str, typer.Option("--microservice", help="About this microservice: name or id.")] = "",
    server: Annotated[str, typer.Option("--server", "-s", help="About this server.")] = "",
    form: FormOption = Form.TABLE,
) -> None:
    """List what happened in the cluster, the newest last."""
    about = microservice
    if microservice and "name" in naming(microservice):
        about = cluster.registry.describe(ByName(name=microservice)).id
    rows = [
        row
        for row in cluster.registry.events(EventsRequest()).events
        if kind in {"", row.kind} and about in {"", row.microservice} and server in {"", row.server}
    ]
    output.show_rows(rows, EVENT_COLUMNS, form, msgspec.to_builtins)


@connected
def describe(
    cluster: Cluster,
    name: Annotated[str, typer.Argument(help="A microservice's name or id, or a server's name.")],
    form: FormOption = Form.TABLE,
) -> None:
    """Tell everything about a microservice or a server; also why a microservice is where it is."""
    try:
        found = cluster.registry.describe(ByName(**naming(name)))
    except NotFound:
        server = next((each for each in cluster.servers() if each.record.name == name), None)
        if server is None:
            raise
        _describe_server(cluster, server, form)
        return
    if form in {Form.JSON, Form.YAML}:
        data = output.to_plain(found)
        data["record"].pop("arguments", None)  # encoded for servers; of no use to a reader
        output.show_data(data, form)
        return
    _describe_microservice(found)


def _describe_microservice(found: Description) -> None:
    spec = found.record.spec
    fields: list[tuple[str, Any]] = [
        ("name", spec.name),
        ("id", found.id),
        ("class", spec.cls),
        ("code", spec.code),
        ("state", found.state),
        ("application", spec.application),
        ("labels", spec.labels),
        ("managers", [f"{dm.name} {_options(dm.options)}".strip() for dm in spec.dms]),
        ("placement", [_term(term) for term in spec.placement.selector]),
        ("on loss", spec.on_loss),
        ("slot", f"{found.slot}, led by {found.slot_leader or 'nobody yet'}"),
        ("created", output.at_time(found.record.created_at)),
    ]
    for path, group in sorted(found.groups.items()):
        replicas = [
            f"{each.id} on {each.server}, incarnation {each.incarnation}{'' if each.confirmed else ', starting'}"
            for each in group.replicas
        ]
        fields += [
            (f"group {path}", f"{group.phase}, epoch {group.epoch}"),
            ("replicas", replicas),
            ("primary", group.primary),
            ("in sync", ", ".join(group.in_sync)),
            ("shards", ", ".join(group.children)),
            ("asks for", group.report),
            ("moving", "" if group.move is None else f"{group.move.source} to {group.move.target.server}"),
            ("deaths", group.deaths),
            ("ineligible", [f"{server}: {reason}" for server, reason in sorted(group.ineligible.items())]),
            ("reason", group.reason),
        ]
    checkpoints = [
        f"epoch {each.get('epoch')}, sequence {each.get('sequence')}, {output.size(int(each.get('size', 0)))}, "
        f"{output.age(float(each.get('taken_at', 0.0)))} old"
        for each in found.checkpoints
    ]
    fields += [("checkpoints", checkpoints), ("why", found.explanation)]
    output.show_fields(fields)


def _describe_server(cluster: Cluster, server: ServerInfo, form: Form) -> None:
    hosted = cluster.find(server=server.record.name)
    if form in {Form.JSON, Form.YAML}:
        data = output.to_plain(server)
        output.show_data({**data, "microservices": [row.id for row in hosted]}, form)
        return
    record = server.record
    output.show_fields(
        [
            ("name", record.name),
            ("state", _server_state(server)),
            ("cordoned", server.cordoned),
            ("address", record.address),
            ("gRPC", record.grpc_address),
            ("incarnation", server.incarnation),
            ("labels", record.labels),
            ("capacity", record.capacity or "no bound"),
            ("replicas", server.replicas),
            ("slots", server.slots),
            ("store", record.store_id),
            ("pid", f"{record.pid}, supervisor {record.supervisor_pid}"),
            ("version", record.version),
            ("started", output.at_time(record.started_at)),
            ("microservices", [f"{row.name or row.id} ({row.cls}, {row.state})" for row in hosted]),
        ]
    )


def _find(
    cluster: Cluster,
    cls: str,
    label: list[str] | None,
    server: str,
    region: str,
    state: str,
    application: str,
) -> list[MicroserviceInfo]:
    return cluster.find(
        cls=cls, label=conditions(label or []), server=server, region=region, state=state, application=application
    )


def _holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    if requirement.operator == "Exists":
        return value is not None
    if requirement.operator == "NotIn":
        return value not in requirement.values
    return value in requirement.values


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _term(term: tuple[Requirement, ...]) -> str:
    return " and ".join(f"{each.key} {each.operator} {','.join(each.values)}".strip() for each in term)
