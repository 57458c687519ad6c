"""A small API server of Kubernetes, for the operator's tests: resources, watches, patches, finalizers, schemas.

Owns the behaviour that an operator relies on: what is stored was validated and pruned by the definitions in ``deploy/``, ``status``
is written through its subresource only, ``generation`` counts changes of the spec, what has finalizers goes when they are gone.
What a program may ask is what the operator's roles in ``deploy/`` say; everything else is forbidden, as in a real cluster.
Leaves out what none of our parts asks for: other kinds, authentication, versions, server-side apply.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any, Self

import jsonpatch
import jsonschema
import yaml
from aiohttp import web

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "operator"
NAMESPACE = "amino"


class Refused(Exception):
    """What kubectl would show: the API server does not take a document."""


class ApiServer:
    """One API server with the definitions of Amino's resources; use as an async context manager."""

    def __init__(self) -> None:
        definitions = [each for each in yaml.safe_load_all((DEPLOY / "resources.yaml").read_text()) if each]
        self.definitions = {each["spec"]["names"]["plural"]: each for each in definitions}
        self.rules = [
            rule
            for each in yaml.safe_load_all((DEPLOY / "operator.yaml").read_text())
            if each["kind"] in {"Role", "ClusterRole"} and each["metadata"]["name"] == "amino-operator"
            for rule in each["rules"]
        ]
        self.kinds = {each["spec"]["names"]["kind"]: plural for plural, each in self.definitions.items()}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.plain: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.patches = 0
        self.asked: list[str] = []
        self.forbidden: list[str] = []
        self.tokens: set[str] = set()
        self.url = ""
        self._revision = 100
        self._watchers: dict[str, list[asyncio.Queue[dict[str, Any] | None]]] = {}
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        for queues in self._watchers.values():
            for queue in queues:
                queue.put_nowait(None)
        await self._runner.cleanup()

    # --- what kubectl does ---

    async def apply(self, document: dict[str, Any] | str) -> dict[str, Any]:
        """Create or replace the spec, labels and annotations of an object, as ``kubectl apply -f`` would."""
        document = yaml.safe_load(document) if isinstance(document, str) else copy.deepcopy(document)
        plural = self.kinds[document["kind"]]
        unknown: list[str] = []
        document = self._admit(plural, document, unknown)
        if unknown:
            raise Refused(f"strict decoding error: unknown field {', '.join(unknown)}")
        metadata = document["metadata"]
        key = (plural, metadata["name"])
        now = self.objects.get(key)
        if now is None:
            metadata |= {"namespace": NAMESPACE, "uid": f"uid-{len(self.asked)}-{metadata['name']}", "generation": 1}
            metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
            await self._store(key, document, "ADDED")
        else:
            changed = copy.deepcopy(now)
            changed["spec"] = document["spec"]
            changed["metadata"]["labels"] = metadata.get("labels", {})
            changed["metadata"].setdefault("annotations", {}).update(metadata.get("annotations", {}))
            await self._replace(key, now, changed)
        return copy.deepcopy(self.objects[key])

    async def delete(self, plural: str, name: str) -> None:
        """Delete an object; it goes when nobody holds it by a finalizer."""
        now = self.objects[plural, name]
        changed = copy.deepcopy(now)
        changed["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z"
        await self._replace((plural, name), now, changed)

    async def until(self, plural: str, name: str, holds: Any, patience_s: float = 60.0) -> dict[str, Any] | None:
        """Wait until ``holds(object)``, where the object may be None; returns it."""
        async with asyncio.timeout(patience_s), self._changed:
            await self._changed.wait_for(lambda: holds(self.objects.get((plural, name))))
        return copy.deepcopy(self.objects.get((plural, name)))

    # --- storing ---

    def _admit(self, plural: str, document: dict[str, Any], unknown: list[str]) -> dict[str, Any]:
        schema = self.definitions[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        try:
            jsonschema.validate(document, schema)
        except jsonschema.ValidationError as error:
            raise Refused(f"{error.json_path}: {error.message}") from error
        return _pruned(document, schema, "", unknown)

    async def _store(self, key: tuple[str, str], document: dict[str, Any], kind: str) -> None:
        self._revision += 1
        document["metadata"]["resourceVersion"] = str(self._revision)
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = document
        for queue in self._watchers.get(key[0], []):
            queue.put_nowait({"type": kind, "object": copy.deepcopy(document)})
        async with self._changed:
            self._changed.notify_all()

    async def _replace(self, key: tuple[str, str], now: dict[str, Any], changed: dict[str, Any]) -> None:
        changed = self._admit(key[0], changed, [])
        if changed == now:
            return
        if changed["spec"] != now["spec"]:
            changed["metadata"]["generation"] += 1
        gone = "deletionTimestamp" in changed["metadata"] and not changed["metadata"].get("finalizers")
        await self._store(key, changed, "DELETED" if gone else "MODIFIED")

    # --- what programs ask ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        self.tokens.add(request.headers.get("Authorization", ""))
        parts = [part for part in request.path.split("/") if part]
        if not self._may(request, parts):
            self.forbidden.append(self.asked[-1])
            return web.json_response({"kind": "Status", "code": 403, "message": request.path}, status=403)
        if request.path in self.plain:
            return await self._plain(request)
        match parts:
            case ["version"]:
                return web.json_response({"major": "1", "minor": "37"})
            case ["api"]:
                return web.json_response({"versions": ["v1"]})
            case ["api", "v1"]:
                return _resources("v1", [("events", "Event", True), ("namespaces", "Namespace", False)])
            case ["apis"]:
                groups = [("amino.run", "v1"), ("apiextensions.k8s.io", "v1")]
                return web.json_response({"groups": [_group(*each) for each in groups]})
            case ["apis", "amino.run", "v1"]:
                kinds = [(plural, kind, True) for kind, plural in self.kinds.items()]
                return _resources("amino.run/v1", kinds)
            case ["apis", "apiextensions.k8s.io", "v1"]:
                kind = ("customresourcedefinitions", "CustomResourceDefinition", False)
                return _resources("apiextensions.k8s.io/v1", [kind])
            case ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"]:
                return await self._list(request, "customresourcedefinitions", list(self.definitions.values()))
            case ["api", "v1", "namespaces"]:
                return await self._list(request, "namespaces", [{"metadata": {"name": NAMESPACE}}])
            case ["apis", "amino.run", "v1", "namespaces", namespace, plural] if plural in self.definitions:
                found = [each for key, each in self.objects.items() if key[0] == plural and namespace == NAMESPACE]
                return await self._list(request, plural, found)
            case ["apis", "amino.run", "v1", "namespaces", _, plural, name, *below] if request.method == "PATCH":
                return await self._patch(request, plural, name, below)
            case ["api", "v1", "namespaces", _, "events"] if request.method == "POST":
                self.events.append(await request.json())
                return web.json_response(self.events[-1], status=201)
        return web.json_response({"kind": "Status", "code": 404, "message": request.path}, status=404)

    def _may(self, request: web.Request, parts: list[str]) -> bool:
        """Return whether the operator's roles allow a request; what is there (discovery) anybody may ask."""
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            rest = rest[2:]
        if not rest:
            return True
        resource = "/".join([rest[0], *rest[2:]])
        listing = "watch" if request.query.get("watch") == "true" else "list"
        verb = {"GET": "get" if len(rest) > 1 else listing, "PATCH": "patch", "POST": "create"}.get(request.method)
        return any(
            group in rule["apiGroups"]
            and resource in rule["resources"]
            and verb in rule["verbs"]
            and (len(rest) < 2 or rest[1] in rule.get("resourceNames", rest[1:2]))
            for rule in self.rules
        )

    async def _list(self, request: web.Request, plural: str, found: list[dict[str, Any]]) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            listed = {"metadata": {"resourceVersion": str(self._revision)}, "items": found}
            return web.json_response(listed)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion", "0"))
        for each in found:  # what changed between the list and this watch
            if int(each["metadata"].get("resourceVersion", "0")) > since:
                queue.put_nowait({"type": "MODIFIED", "object": copy.deepcopy(each)})
        self._watchers.setdefault(plural, []).append(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionResetError:
            pass
        finally:
            self._watchers[plural].remove(queue)
        return response

    async def _patch(self, request: web.Request, plural: str, name: str, below: list[str]) -> web.StreamResponse:
        self.patches += 1
        change = await request.json()
        # nothing is awaited from here to where it is stored: a deletion would be undone
        now = self.objects.get((plural, name))
        if now is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        if request.content_type == "application/json-patch+json":
            try:
                patched = jsonpatch.apply_patch(now, change)
            except jsonpatch.JsonPatchException as error:
                return web.json_response({"kind": "Status", "code": 422, "message": str(error)}, status=422)
        else:
            patched = _merged(now, change)
        status = patched.pop("status", None)
        kept = (
            {**copy.deepcopy(now), "status": status}
            if below == ["status"]
            else {**patched, "status": now.get("status")}
        )
        if kept["status"] is None:
            del kept["status"]
        try:
            await self._replace((plural, name), now, kept)
        except Refused as error:
            return web.json_response({"kind": "Status", "code": 422, "message": str(error)}, status=422)
        return web.json_response(self.objects.get((plural, name), kept))

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        if request.method == "PATCH":
            self.patches += 1
            self.plain[request.path] = _merged(self.plain[request.path], await request.json())
        return web.json_response(self.plain[request.path])


def _group(name: str, version: str) -> dict[str, Any]:
    one = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _resources(version: str, kinds: list[tuple[str, str, bool]]) -> web.Response:
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    rows = [
        {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
        for plural, kind, namespaced in kinds
    ]
    rows += [{**row, "name": f"{row['name']}/status"} for row in rows if version.startswith("amino.run")]
    return web.json_response({"kind": "APIResourceList", "groupVersion": version, "resources": rows})


def _merged(now: Any, change: Any) -> Any:
    """Return ``now`` after a JSON merge patch (RFC 7396)."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    found = copy.deepcopy(now) if isinstance(now, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


def _pruned(value: Any, schema: dict[str, Any], where: str, unknown: list[str]) -> Any:
    """Return ``value`` without the fields that a structural schema does not know; they are added to ``unknown``."""
    if schema.get("x-kubernetes-preserve-unknown-fields") or where == ".metadata":
        return value
    if isinstance(value, list):
        return [_pruned(each, schema.get("items", {}), f"{where}[]", unknown) for each in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    unknown += [f"{where}.{key}" for key in value if key not in known]
    return {key: _pruned(each, known[key], f"{where}.{key}", unknown) for key, each in value.items() if key in known}
