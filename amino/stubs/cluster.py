"""The cluster as a user sees it: create, find, delete, move; every method blocks and has an ``amino.aio`` form.

Owns the user's verbs. Leaves calls to ``runtime`` and ``stub``, operations to the registry.
Invariants: creating is idempotent by id, so no retry makes a second object; stubs are typed as the user's class.
Failure behaviour: registry errors arrive as themselves; after ``close`` every method raises ``ClusterUnavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec

from amino.contracts.calls import CURRENT
from amino.contracts.services import (
    ApplicationRequest,
    ByName,
    CreateRequest,
    DeleteRequest,
    Description,
    Empty,
    FindRequest,
    LocateRequest,
    Location,
    MicroserviceInfo,
    MoveRequest,
    PushCodeRequest,
    ServerInfo,
)
from amino.errors import ClusterUnavailable, Invalid
from amino.ids import MicroserviceId, derived_id, new_id
from amino.stubs.runtime import DEADLINE, Runtime
from amino.stubs.spec import Spec
from amino.stubs.stub import DynamicStub, Stub, blocking
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from amino.contracts.documents import MicroserviceSpec, Requirement

T = TypeVar("T")
_TIMEOUT_S = 30.0


class Cluster:
    """A connection to a cluster. Use as a context manager, or ``close`` it. Thread-safe.

    Args:
        runtime: sends calls.
        on_close: releases what the connection holds; called once.
    """

    def __init__(self, runtime: Runtime, on_close: Callable[[], None] | None = None) -> None:
        self._runtime = runtime
        self._on_close = on_close
        self._pushed: set[str] = set()
        self._closed = False
        runtime.cluster = self
        self.registry = BlockingRegistry(runtime)

    def __repr__(self) -> str:
        return f"<cluster at {', '.join(self._runtime.addresses.candidates())}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all links; calls in flight end with an unknown outcome. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._on_close is not None:
                self._on_close()

    # --- creating and finding --------------------------------------------------------------------------------------

    async def _create(self, spec: Spec[T], args: Sequence[Any], kwargs: dict[str, Any], if_exists: str) -> T:
        if not isinstance(spec, Spec):
            raise Invalid(f"cluster.new takes a spec, not {spec!r}; write amino.spec({getattr(spec, '__name__', 'C')})")
        document = await self._with_code(spec)
        request = CreateRequest(
            microservice=self._next_id(),
            spec=document,
            arguments=await self._pack(tuple(args), kwargs),
            if_exists=if_exists,
            timeout_s=_timeout_s(),
        )
        location: Location = await self._call("create", request, request.timeout_s)
        return self._stub(location, spec.cls)

    async def _new(self, spec: Spec[T], *args: Any, **kwargs: Any) -> T:
        """Create a microservice and return its stub, typed as the class.

        Args:
            spec: from ``amino.spec``. args, kwargs: for the constructor.

        Raises:
            AlreadyExists: the name is taken. ConstructionFailed: the constructor raised; nothing was created.
            NoEligibleServer: no server matches the placement or can load the code; says why for each.
            NotEncodable: an argument cannot be sent. Cancelling or a lost connection never makes a second object.
        """
        return await self._create(spec, args, kwargs, "fail")

    new = blocking(_new)

    async def _get_or_create(self, spec: Spec[T], *args: Any, **kwargs: Any) -> T:
        """Return the microservice of the spec's name, creating it if there is none; racing clients make one.

        Raises:
            Invalid: the spec has no name. Otherwise as ``new``.
        """
        if not spec.document.name:
            raise Invalid("get_or_create needs a spec with a name, by which the microservice is found; add name=...")
        return await self._create(spec, args, kwargs, "get")

    get_or_create = blocking(_get_or_create)

    async def _get(self, name: str, cls: type[T] | None = None) -> T:
        """Return a stub for the microservice called ``name``.

        Args:
            cls: types the stub; without it methods are looked up on the server.

        Raises:
            NotFound: no microservice has that name. StateLost, Quarantined: it has, and cannot be called.
        """
        location: Location = await self._call("locate", LocateRequest(name=name), _timeout_s())
        return self._stub(location, cls)

    get = blocking(_get)

    async def _delete(self, target: str | Any) -> None:
        """Delete a microservice, by name or stub, with everything kept for it; waits until it is gone.

        Raises:
            NotFound: there is none.
        """
        request = DeleteRequest(**_naming(target), timeout_s=_timeout_s())
        await self._call("delete", request, request.timeout_s)
        if request.microservice:
            self._runtime.forget(request.microservice)

    delete = blocking(_delete)

    async def _app(self, name: str, cls: type[T] | None = None) -> T:
        """Return the entry microservice of application ``name``, creating it once.

        Raises:
            NotFound: no application of that name is defined; ``amino apply`` one.
        """
        location: Location = await self._call("application", ByName(name=name), _timeout_s())
        return self._stub(location, cls)

    app = blocking(_app)

    async def _define_app(self, name: str, entry: Spec[Any], *args: Any, **kwargs: Any) -> None:
        """Define (or redefine) application ``name`` by its entry's spec and constructor arguments. Idempotent."""
        request = ApplicationRequest(
            name=name, entry=await self._with_code(entry), arguments=await self._pack(args, kwargs)
        )
        await self._call("define_application", request, _timeout_s())

    define_app = blocking(_define_app)

    async def _find(
        self,
        *,
        cls: type | str = "",
        label: Sequence[Requirement] = (),
        server: str = "",
        region: str = "",
        state: str = "",
        application: str = "",
        name_prefix: str = "",
    ) -> list[MicroserviceInfo]:
        """List microservices for which every given condition holds, in id order."""
        path = f"{cls.__module__}:{cls.__qualname__}" if isinstance(cls, type) else cls
        request = FindRequest(
            cls=path,
            name_prefix=name_prefix,
            label=tuple(label),
            server=server,
            region=region,
            state=state,
            application=application,
        )
        rows: list[MicroserviceInfo] = []
        while True:
            page = await self._call("find", request, _timeout_s())
            rows.extend(page.rows)
            if not page.more:
                return rows
            request = msgspec.structs.replace(request, after=page.rows[-1].id)

    find = blocking(_find)

    async def _servers(self, selector: Callable[[ServerInfo], bool] | None = None) -> list[ServerInfo]:
        """List live kernel servers, those for which ``selector`` holds."""
        membership = await self._call("members", Empty(), _timeout_s())
        return [each for each in membership.servers if selector is None or selector(each)]

    servers = blocking(_servers)

    def servers_nowait(self) -> list[ServerInfo]:
        """List the kernel servers as this process was told last, without asking; counts of replicas may be old."""
        membership = self._runtime.addresses.membership
        return list(membership.servers) if membership is not None else []

    async def _describe(self, target: str | Any) -> Description:
        """Tell everything about a microservice, by name or stub; also why it is where it is."""
        return cast("Description", await self._call("describe", ByName(**_naming(target)), _timeout_s()))

    describe = blocking(_describe)

    async def _move(self, target: str | Any, server: str = "") -> str:
        """Migrate a microservice, live; returns the server it is on now.

        Args:
            server: where to; empty for anywhere else that fits.

        Raises:
            NotFound: no such microservice or server. NoEligibleServer: the server does not fit. NotExecuted: it was too
                busy to move; it stays where it is.
        """
        request = MoveRequest(**_naming(target), server=server, timeout_s=_timeout_s())
        location: Location = await self._call("move", request, request.timeout_s)
        self._runtime.learn(location)
        return location.groups["/"].replicas[0].server

    move = blocking(_move)

    def bind(self, stub: T) -> T:
        """Return ``stub`` (for example one that was unpickled elsewhere) as a stub of this cluster."""
        if not isinstance(stub, Stub):
            raise Invalid(f"{stub!r} is not a stub; cluster.bind takes what cluster.new or a pickle of it gave")
        return cast("T", self._runtime.bind(stub.__amino_reference__))

    # --- details ---------------------------------------------------------------------------------------------------

    async def _call(self, method: str, request: msgspec.Struct, timeout_s: float) -> Any:
        if self._closed:
            raise ClusterUnavailable("this cluster connection is closed; open another with amino.connect")
        return await self._runtime.registry.call(method, request, timeout_s=timeout_s)

    def _stub(self, location: Location, cls: type[T] | None) -> T:
        target = self._runtime.learn(location)
        return cast("T", self._runtime.stub(target, cls, location.spec.cls))

    def _next_id(self) -> MicroserviceId:
        current = CURRENT.get()
        if current is None or current.runtime is not self._runtime:
            return new_id(self._runtime.entropy(12))
        return derived_id(str(current.request), "creates", current.next_created())

    async def _with_code(self, spec: Spec[Any]) -> MicroserviceSpec:
        code = self._runtime.describe_class(spec.cls)
        if not code.sha256:
            return msgspec.structs.replace(spec.document, cls=code.path)
        if code.sha256 not in self._pushed:
            assert code.content is not None
            push = PushCodeRequest(sha256=code.sha256, kind="pickle", content=code.content)
            await self._call("push_code", push, _timeout_s())
            self._pushed.add(code.sha256)
        return msgspec.structs.replace(spec.document, cls=code.path, code=code.sha256)

    async def _pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if not args and not kwargs:
            return codec.pack(None)
        return codec.pack((args, kwargs), trusted=await self._runtime.trusted())


class BlockingRegistry:
    """Every registry operation as a blocking method, ``registry.find(FindRequest(...))``; for tools."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return blocking(self._operation(name))

    def _operation(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def operation(request: msgspec.Struct, timeout_s: float | None = None) -> Any:
            bound = timeout_s or getattr(request, "timeout_s", None) or _timeout_s()
            return await self._runtime.registry.call(name, request, timeout_s=bound)

        operation.__name__ = name
        return operation


def _timeout_s() -> float:
    return DEADLINE.get() or _TIMEOUT_S


def _naming(target: str | Any) -> dict[str, str]:
    if isinstance(target, str):
        return {"name": target}
    if isinstance(target, (Stub, DynamicStub)):
        return {"microservice": target.__amino_reference__.microservice}
    raise Invalid(f"{target!r} is neither a name nor a stub; give the microservice's name or its stub")
