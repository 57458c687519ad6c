"""Commands that change the cluster: call, move, cordon, drain, pause, restore, release, delete.

Owns their options and words. Leaves the operations to the registry.
Invariant: a command says what it did; what it did not do is an error.
Failure behaviour: as the operations'; a method that raises ends ``amino call`` with code 1.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Annotated, Any

import typer

from amino.cli import output
from amino.cli.connection import connected
from amino.cli.failures import ApplicationFailed
from amino.cli.inspection import FormOption
from amino.cli.names import naming, stub_of
from amino.cli.output import Form, ValueForm
from amino.contracts.services import (
    ByName,
    CordonRequest,
    DeleteRequest,
    DrainRequest,
    LocateRequest,
    Location,
    MoveRequest,
    PauseRequest,
    ScaleRequest,
)
from amino.errors import AminoError, Invalid, NotExecuted, NotFound, RemoteError
from amino.stubs.cluster import Cluster

MicroserviceArgument = Annotated[str, typer.Argument(metavar="NAME", help="A microservice's name or id.")]
ServerArgument = Annotated[str, typer.Argument(metavar="SERVER", help="A server's name.")]


@connected
def call(
    cluster: Cluster,
    name: MicroserviceArgument,
    method: Annotated[str, typer.Argument(help="A public method.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARG...", help="JSON values; what is no JSON is a string.")
    ] = None,
    keyword: Annotated[list[str] | None, typer.Option("--kwarg", "-k", help="key=JSON. Repeatable.")] = None,
    form: Annotated[ValueForm, typer.Option("--output", "-o", help="How to show the result.")] = ValueForm.TEXT,
) -> None:
    """Call a method and show its result: amino call hits add 5."""
    args = [value_of(each) for each in arguments or []]
    kwargs = dict(_keyword(each) for each in keyword or [])
    stub = stub_of(cluster, name)
    try:
        function = getattr(stub, method)
    except AttributeError as error:
        raise NotFound(f"{name}: {error}") from error
    try:
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except RemoteError as error:
        raise ApplicationFailed from error
    except AminoError:
        raise
    except Exception as error:  # whatever the method raises
        raise ApplicationFailed from error
    output.show_value(result, form)


@connected
def move(
    cluster: Cluster,
    name: MicroserviceArgument,
    server: Annotated[str, typer.Argument(help="Where to; default: anywhere else that fits.")] = "",
    replica: Annotated[str, typer.Option(help="Which replica, where there are several; default: the primary.")] = "",
    path: Annotated[str, typer.Option(help="Of which group, where there are shards: /0, /1, ...")] = "/",
) -> None:
    """Move a microservice, or one replica of it, to another server, live."""
    with output.progress(f"moving {name}"):
        request = MoveRequest(**naming(name), server=server, replica=replica, path=path)
        location: Location = cluster.registry.move(request)
    output.say(f"{name} is on {_servers(location)} now")


@connected
def scale(
    cluster: Cluster,
    name: MicroserviceArgument,
    shards: Annotated[int, typer.Option(min=0, max=1000, help="Divide its keys over so many shards.")] = 0,
    replicas: Annotated[int, typer.Option(min=0, max=1000, help="Have so many replicas (of each shard).")] = 0,
) -> None:
    """Change how many shards or replicas a microservice has, live; keys move while calls go on."""
    if bool(shards) == bool(replicas):
        raise Invalid(f"--shards {shards}, --replicas {replicas}: give one of the two, 1 or more")
    with output.progress(f"scaling {name}"):
        request = ScaleRequest(**naming(name), shards=shards, replicas=replicas)
        location: Location = cluster.registry.scale(request)
    what = f"{len(location.groups['/'].children)} shards" if shards else f"{replicas} replicas wanted"
    output.say(f"{name}: {what}, on {_servers(location)}")


@connected
def cordon(
    cluster: Cluster,
    server: ServerArgument,
    why: Annotated[str, typer.Option(help="Shown to others.")] = "by an operator",
) -> None:
    """Close a server to new replicas; those it has stay."""
    cluster.registry.cordon(CordonRequest(server, cordon=True, why=why))
    output.say(f"{server} takes no new replicas; amino uncordon {server} opens it")


@connected
def uncordon(cluster: Cluster, server: ServerArgument) -> None:
    """Open a cordoned server."""
    cluster.registry.cordon(CordonRequest(server, cordon=False))
    output.say(f"{server} takes new replicas")


@connected
def drain(
    cluster: Cluster,
    server: ServerArgument,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds the drain may take.")] = 60.0,
    why: Annotated[str, typer.Option(help="Shown to others, unless the server is cordoned for another reason.")] = "",
    until_restart: Annotated[
        bool, typer.Option("--until-restart", help="The server opens again when it starts again.")
    ] = False,
) -> None:
    """Cordon a server and move everything off it."""
    if until_restart:
        if why:
            raise Invalid(f"--why {why!r} with --until-restart, which has a reason of its own; give one of the two")
        from amino.node.cluster_document import SHUTTING_DOWN

        why = SHUTTING_DOWN
    with output.progress(f"draining {server}"):
        request = DrainRequest(server, timeout_s=wait_s, why=why, leave=until_restart)
        reply = cluster.registry.drain(request, timeout_s=wait_s + 5)
    output.say(f"{server}: {reply.moved} moved, {len(reply.left)} left")
    if reply.left:
        raise NotExecuted(
            f"{', '.join(reply.left[:5])}{' and others' if len(reply.left) > 5 else ''} could not be moved off {server}; "
            "amino describe says why each is where it is",
            reason="not-ready",
        )


@connected
def pause(cluster: Cluster) -> None:
    """Stop automatic recovery and balancing while you work on the cluster."""
    cluster.registry.pause(PauseRequest(paused=True))
    output.say("the cluster is paused: lost microservices are not recovered until amino resume")


@connected
def resume(cluster: Cluster) -> None:
    """Resume automatic recovery and balancing."""
    cluster.registry.pause(PauseRequest(paused=False))
    output.say("the cluster recovers and balances by itself again")


@connected
def restore(cluster: Cluster, name: MicroserviceArgument, form: FormOption = Form.TABLE) -> None:
    """Bring a lost microservice back: from its newest intact checkpoint, else by its constructor."""
    with output.progress(f"restoring {name}"):
        location = cluster.registry.restore(ByName(**naming(name)))
    _show_location(f"{name} is back", location, form)


@connected
def release(cluster: Cluster, name: MicroserviceArgument) -> None:
    """Let a quarantined microservice run again."""
    cluster.registry.release(ByName(**naming(name)))
    output.say(f"{name} may run again")


@connected
def delete(
    cluster: Cluster,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Microservices' names or ids.")],
    ignore_missing: Annotated[bool, typer.Option("--ignore-missing", help="What does not exist is no error.")] = False,
) -> None:
    """Delete microservices, with their state and checkpoints."""
    for name in names:
        try:
            cluster.registry.delete(DeleteRequest(**naming(name)))
        except NotFound as error:
            if not ignore_missing:
                raise NotFound(f"{name}: {error.message}", **error.details) from error
        else:
            output.say(f"{name} is deleted")


@connected
def locate(cluster: Cluster, name: MicroserviceArgument, form: FormOption = Form.TABLE) -> None:
    """Tell where a microservice is."""
    _show_location(name, cluster.registry.locate(LocateRequest(**naming(name))), form)


def value_of(text: str) -> Any:
    """Return a command line argument as a value: JSON if it is that, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _keyword(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise Invalid(f"--kwarg {text!r}; write name=value, the value as JSON or text")
    return key, value_of(value)


async def _awaited(result: Any) -> Any:
    return await result


def _show_location(what: str, location: Location, form: Form) -> None:
    if form in {Form.JSON, Form.YAML}:
        output.show_data(output.to_plain(location.groups), form)
    else:
        output.say(f"{what}: on {_servers(location)}")


def _servers(location: Location) -> str:
    servers = dict.fromkeys(replica.server for group in location.groups.values() for replica in group.replicas)
    return ", ".join(servers) or "no server"
