"""What a manifest describes, brought about: created, changed, or found to be so already.

Owns the one meaning of applying, for the command line and for Kubernetes alike. Leaves decoding to ``decoding``, and where code
comes from to who applies.
Invariant: applying the same manifest twice changes nothing the second time.
Failure behaviour: as the registry's; nothing has changed then, or what has is finished by applying again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from amino.contracts.services import ApplicationRequest, ChangeReply, ChangeRequest, CreateRequest, Location
from amino.errors import NotFound
from amino.ids import new_id
from amino.manifests.decoding import Manifest
from amino.stubs.cluster import Cluster
from amino.wire import codec

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a manifest.

    Args:
        action: ``created``, ``changed``, ``unchanged`` or ``defined``; ``would be ...`` when only tried.
        id: of the microservice, if there is one.
        changes: one line for each difference of a running microservice.
    """

    action: str
    id: str = ""
    changes: tuple[str, ...] = ()


def is_bundle(code: str) -> bool:
    """Return whether ``code`` names a pushed bundle: the sha256 of its content."""
    return _SHA256.match(code) is not None


def apply_manifest(
    cluster: Cluster, manifest: Manifest, *, code: str, dry_run: bool = False, known: str = ""
) -> Applied:
    """Create what ``manifest`` describes, or change what runs otherwise. Blocks; idempotent.

    Args:
        code: sha256 of the bundle that its classes are in, empty for classes the servers have.
        dry_run: only find out what would be done, or why it cannot be.
        known: id of the microservice, if the manifest has been applied before: it is changed then, and not made again if it is gone.

    Raises:
        AminoError: as the registry's ``create``, ``change`` and ``define_application``.
    """
    spec = msgspec.structs.replace(manifest.spec, code=code)
    arguments = codec.pack((tuple(manifest.args), manifest.kwargs), trusted=False)
    if manifest.kind == "Application":
        if not dry_run:
            cluster.registry.define_application(ApplicationRequest(manifest.name, spec, arguments))
        return Applied("would be defined" if dry_run else "defined")
    if not dry_run and not known:
        request = CreateRequest(microservice=new_id(), spec=spec, arguments=arguments, if_exists="get")
        location: Location = cluster.registry.create(request)
        if location.microservice == request.microservice:
            return Applied("created", location.microservice)
        if location.spec == spec:
            return Applied("unchanged", location.microservice)
    try:
        reply: ChangeReply = cluster.registry.change(ChangeRequest(spec=spec, microservice=known, dry_run=dry_run))
    except NotFound:
        if not dry_run:
            raise
        return Applied("would be created")
    if not reply.changes:
        return Applied("unchanged", reply.location.microservice)
    return Applied("would be changed" if dry_run else "changed", reply.location.microservice, reply.changes)
