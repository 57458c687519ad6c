"""``amino apply`` and ``amino app``: manifests and code into the cluster.

Owns the order of things: all manifests are decoded before anything is sent, code before what needs it. Leaves decoding to
``manifests`` and packing to ``amino.code``.
Invariant: applying the same manifest twice changes nothing the second time.
Failure behaviour: stops at the first manifest that fails and names it; those before it stay applied.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from amino.cli import manifests, output
from amino.cli.connection import connected
from amino.cli.manifests import Manifest
from amino.cli.output import ValueForm
from amino.code.bundle import zip_folder
from amino.contracts.documents import MicroserviceSpec
from amino.contracts.services import ApplicationRequest, ByName, CreateRequest, Location, PushCodeRequest
from amino.errors import AminoError, Conflict, Invalid
from amino.ids import new_id
from amino.stubs.cluster import Cluster
from amino.wire import codec

app_commands = typer.Typer(help="Push the code of applications, and start them.", no_args_is_help=True)
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
STDIN = "-"


@connected
def apply(
    cluster: Cluster,
    files: Annotated[
        list[str],
        typer.Option("--file", "-f", metavar="FILE", help="YAML manifests; - reads standard input. Repeatable."),
    ],
    form: Annotated[ValueForm, typer.Option("--output", "-o", help="How to show what was done.")] = ValueForm.TEXT,
) -> None:
    """Create what manifests describe. What exists already with the same content is left as it is."""
    read = [manifest for file in files for manifest in _read(file)]
    pushed: dict[Path, str] = {}
    done: list[dict[str, str]] = []
    for manifest in read:
        try:
            action, microservice = _apply_one(cluster, manifest, pushed)
        except AminoError as error:
            raise type(error)(f"{manifest.where} ({manifest.name}): {error.message}", **error.details) from error
        done.append({"kind": manifest.kind, "name": manifest.name, "action": action, "id": microservice})
        if form is ValueForm.TEXT:
            output.say(f"{manifest.kind.lower()} {manifest.name}: {action}")
    if form is not ValueForm.TEXT:
        output.show_data(done, form)


def _read(file: str) -> list[Manifest]:
    if file == STDIN:
        return manifests.decode(sys.stdin.buffer.read(manifests.BYTES_MAX + 1), "standard input", Path())
    return manifests.read(Path(file))


def _apply_one(cluster: Cluster, manifest: Manifest, pushed: dict[Path, str]) -> tuple[str, str]:
    spec = msgspec.structs.replace(manifest.spec, code=_code(cluster, manifest, pushed))
    arguments = codec.pack((tuple(manifest.args), manifest.kwargs), trusted=False)
    if manifest.kind == "Application":
        cluster.registry.define_application(ApplicationRequest(manifest.name, spec, arguments))
        return "defined", ""
    request = CreateRequest(microservice=new_id(), spec=spec, arguments=arguments, if_exists="get")
    location: Location = cluster.registry.create(request)
    if location.microservice == request.microservice:
        return "created", location.microservice
    differing = _differences(location.spec, spec)
    if differing:
        raise Conflict(
            f"it exists with another {', '.join(differing)}; this release changes no running microservice: "
            f"amino delete {manifest.name} first, or use another name"
        )
    return "unchanged", location.microservice


def _differences(running: MicroserviceSpec, wanted: MicroserviceSpec) -> list[str]:
    names = {"cls": "class", "on_loss": "onLoss"}
    return [
        names.get(field, field)
        for field in MicroserviceSpec.__struct_fields__
        if getattr(running, field) != getattr(wanted, field)
    ]


def _code(cluster: Cluster, manifest: Manifest, pushed: dict[Path, str]) -> str:
    if not manifest.code or _SHA256.match(manifest.code):
        return manifest.code
    folder = (manifest.folder / manifest.code).resolve()
    if not folder.is_dir():
        raise Invalid(f"code {manifest.code!r} is neither the sha256 of a bundle nor a folder beside the manifest")
    if folder not in pushed:
        pushed[folder] = _push(cluster, folder)
    return pushed[folder]


def _push(cluster: Cluster, folder: Path) -> str:
    content = zip_folder(folder)
    sha256 = hashlib.sha256(content).hexdigest()
    with output.progress(f"pushing {folder.name}, {output.size(len(content))}"):
        cluster.registry.push_code(PushCodeRequest(sha256=sha256, kind="zip", content=content))
    return sha256


@app_commands.command("push")
@connected
def app_push(
    cluster: Cluster,
    folder: Annotated[Path, typer.Argument(help="The folder that contains your package: what would be on sys.path.")],
) -> None:
    """Store a source folder as a bundle; prints its sha256, for `code:` in manifests."""
    sys.stdout.write(_push(cluster, folder) + "\n")


@app_commands.command("start")
@connected
def app_start(
    cluster: Cluster, name: Annotated[str, typer.Argument(help="Of an application that was applied.")]
) -> None:
    """Create an application's entry microservice if it does not run; prints its id."""
    location: Location = cluster.registry.application(ByName(name=name))
    sys.stdout.write(location.microservice + "\n")
