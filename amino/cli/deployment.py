"""``amino apply`` and ``amino app``: manifests and code into the cluster.

Owns the order of things: all manifests are decoded before anything is sent, code before what needs it. Leaves decoding and
applying to ``amino.manifests``, packing to ``amino.code``.
Invariant: applying the same manifest twice changes nothing the second time.
Failure behaviour: stops at the first manifest that fails and names it; those before it stay applied.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from amino.cli import output
from amino.cli.connection import connected
from amino.cli.output import ValueForm
from amino.code.bundle import zip_folder
from amino.contracts.services import ByName, Location, PushCodeRequest
from amino.errors import AminoError, Invalid
from amino.manifests import decoding
from amino.manifests.applying import apply_manifest, is_bundle
from amino.manifests.decoding import Manifest
from amino.stubs.cluster import Cluster

app_commands = typer.Typer(help="Push the code of applications, and start them.", no_args_is_help=True)
STDIN = "-"


@connected
def apply(
    cluster: Cluster,
    files: Annotated[
        list[str],
        typer.Option("--file", "-f", metavar="FILE", help="YAML manifests; - reads standard input. Repeatable."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done, or why it cannot be.")
    ] = False,
    form: Annotated[ValueForm, typer.Option("--output", "-o", help="How to show what was done.")] = ValueForm.TEXT,
) -> None:
    """Create what manifests describe, and change what runs otherwise: managers, options, code, placement, labels, onLoss."""
    read = [manifest for file in files for manifest in _read(file)]
    pushed: dict[Path, str] = {}
    done: list[dict[str, Any]] = []
    for manifest in read:
        try:
            code = _code(cluster, manifest, pushed, dry_run=dry_run)
            applied = apply_manifest(cluster, manifest, code=code, dry_run=dry_run)
        except AminoError as error:
            raise type(error)(f"{manifest.where} ({manifest.name}): {error.message}", **error.details) from error
        done.append({"kind": manifest.kind, "name": manifest.name, **asdict(applied)})
        if form is ValueForm.TEXT:
            output.say(f"{manifest.kind.lower()} {manifest.name}: {applied.action}")
            for change in applied.changes:
                output.say(f"  {change}")
    if form is not ValueForm.TEXT:
        output.show_data(done, form)


def _read(file: str) -> list[Manifest]:
    if file == STDIN:
        return decoding.decode(sys.stdin.buffer.read(decoding.BYTES_MAX + 1), "standard input", Path())
    return decoding.read(Path(file))


def _code(cluster: Cluster, manifest: Manifest, pushed: dict[Path, str], *, dry_run: bool) -> str:
    if not manifest.code or is_bundle(manifest.code):
        return manifest.code
    folder = (manifest.folder / manifest.code).resolve()
    if not folder.is_dir():
        raise Invalid(f"code {manifest.code!r} is neither the sha256 of a bundle nor a folder beside the manifest")
    if folder not in pushed:
        pushed[folder] = _sha256(zip_folder(folder)) if dry_run else _push(cluster, folder)
    return pushed[folder]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _push(cluster: Cluster, folder: Path) -> str:
    content = zip_folder(folder)
    sha256 = _sha256(content)
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
