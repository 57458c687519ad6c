"""The cluster as a user sees it: create, find, delete, move; every method blocks and has an ``amino.aio`` form.

Owns the user's verbs. Leaves calls to ``runtime`` and ``stub``, operations to the registry.
Invariants: creating is idempotent by id, so no retry makes a second object; stubs are typed as the user's class.
Failure behaviour: registry errors arrive as themselves; after ``close`` every method raises ``ClusterUnavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec

from amino.aio.mode import offload
from amino.contracts.calls import CURRENT
from amino.contracts.services import (
    ApplicationRequest,
    ByName,
    ChangeReply,
    ChangeRequest,
    CreateRequest,
    DeleteRequest,
    Description,
    Empty,
    FindReply,
    FindRequest,
    LocateRequest,
    Location,
    MicroserviceInfo,
    MoveRequest,
    PushCodeRequest,
    ScaleRequest,
    ServerInfo,
    home_of,
)
from amino.errors import ClusterUnavailable, Invalid
from amino.ids import MicroserviceId, derived_id, new_id
from amino.stubs.events import Subscription, subscription
from amino.stubs.locks import Lock
from amino.stubs.runtime import DEADLINE, Runtime
from amino.stubs.spec import Spec
from amino.stubs.stub import DynamicStub, Stub, blocking
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from amino.contracts.documents import MicroserviceSpec, Requirement
    from amino.stubs.ports import Hosting

T = TypeVar("T")
_TIMEOUT_S = 30.0
PUSHED_FOR_S = 600.0
"""After so long code is pushed again before it is used: the cluster removes what is unused for much longer."""


class Cluster:
    """A connection to a cluster. Use as a context manager, or ``close`` it. Thread-safe.

    Args:
        runtime: sends calls.
        on_close: releases what the connection holds; called once.

    Attributes:
        device: the kernel server that this process embeds, None if it was connected without.
    """

    def __init__(self, runtime: Runtime, on_close: Callable[[], None] | None = None) -> None:
        self._runtime = runtime
        self._on_close = on_close
        self._pushed: dict[str, float] = {}
        self._closed = False
        self.device: Hosting | None = None
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
        await offload(self.close)

    def close(self) -> None:
        """Close all links; calls in flight end with an unknown outcome. Idempotent.

        A device leaves first: it hands its replicas over, which may take as long as its ``drain_timeout_s``.
        """
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
        """List microservices for which every given condition holds, in id order.

        Told by one server from what it watches: a change that another server has just acknowledged may be missing for some
        milliseconds. Names, ``attach`` and calls are always up to date.
        """
        request = FindRequest(_path(cls), name_prefix, tuple(label), server, region, state, application)
        return [row for page in await self._pages(request) for row in page.rows]

    find = blocking(_find)

    async def _describe_all(
        self,
        *,
        cls: type | str = "",
        label: Sequence[Requirement] = (),
        server: str = "",
        region: str = "",
        state: str = "",
        application: str = "",
        name_prefix: str = "",
    ) -> list[Description]:
        """As ``find``, with everything that ``describe`` tells of each but the constructor's arguments; some hundred at a time."""
        request = FindRequest(_path(cls), name_prefix, tuple(label), server, region, state, application, describe=True)
        return [one for page in await self._pages(request) for one in page.described]

    describe_all = blocking(_describe_all)

    async def _pages(self, request: FindRequest) -> list[FindReply]:
        pages: list[FindReply] = []
        while True:
            page = await self._call("find", request, _timeout_s())
            pages.append(page)
            if not page.more:
                return pages
            request = msgspec.structs.replace(request, after=page.rows[-1].id)

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
                busy to move; it stays where it is. OutcomeUnknown: no answer came, or the new server is lost already.
        """
        request = MoveRequest(**_naming(target), server=server, timeout_s=_timeout_s(), leave=False)
        location: Location = await self._call("move", request, request.timeout_s)
        self._runtime.learn(location)
        return home_of(location)

    move = blocking(_move)

    async def _apply(self, spec: Spec[Any], *, dry_run: bool = False) -> list[str]:
        """Give the running microservice of the spec's name this spec: other managers, options, code, placement, labels.

        State and answered requests stay; calls that wait go on. See ``docs/live-change.md``.

        Args:
            spec: from ``amino.spec``, with a name. dry_run: only tell what would change.

        Returns:
            What changed, one line each; empty if it had this spec already.

        Raises:
            NotFound: no microservice has that name. Invalid: something differs that cannot change, or the chain cannot work.
            CodeUnavailable, NoEligibleServer, StoreFailed: no server can run it so.
            NotExecuted: it is not active now, or too busy. In all these cases it goes on as it was.
        """
        if not spec.document.name:
            raise Invalid("cluster.apply needs a spec with a name, by which the microservice is found; add name=...")
        request = ChangeRequest(spec=await self._with_code(spec), dry_run=dry_run, timeout_s=_timeout_s())
        reply: ChangeReply = await self._call("change", request, request.timeout_s)
        self._runtime.learn(reply.location)
        return list(reply.changes)

    apply = blocking(_apply)

    def transaction(self, participant: Any = None) -> Any:
        """Return a transaction over several microservices that carry ``TwoPhaseCommit``: ``with cluster.transaction(): ...``.

        Args:
            participant: a resource outside that takes part and can veto, for example a ``SqlParticipant`` of ``amino.dm.transactions.sql``.

        Raises:
            TransactionAborted: at the end of the block: nothing was published anywhere. OutcomeUnknown: at its end: the answer
                was lost, every microservice learns the same outcome. Invalid: transactions do not nest.
        """
        if self._runtime.transaction is None:
            raise Invalid("this connection makes no transactions over several microservices")
        return self._runtime.transaction(self._runtime, participant)

    def lock(self, name: str, *, ttl_s: float = 10.0, wait_s: float | None = 30.0) -> Lock:
        """Return the distributed lock ``name``, not yet taken: ``with cluster.lock("orders") as lock: ...``.

        Args:
            name: of the lock, in the whole cluster; 1 to 128 letters, digits, ``.``, ``_`` or ``-``.
            ttl_s: seconds (0.5 to 3,600) after which others may have it when this process dies or is cut off. It is
                renewed in the background for as long as it is held.
            wait_s: seconds to wait for it, None without bound; then ``LockHeld``.

        Raises:
            Invalid: a value out of its range.
        """
        return Lock(self._runtime, self._call, name, ttl_s, wait_s)

    async def _scale(self, target: str | Any, *, shards: int = 0, replicas: int = 0, timeout_s: float = 60.0) -> None:
        """Have so many shards, or so many replicas of each replicated group, live; returns once it is so. Idempotent.

        Args:
            shards, replicas: one of the two, 1 to 1,000. timeout_s: seconds to wait.

        Raises:
            Invalid: both or none given, or the microservice has none of that kind. NotFound: there is none.
            OutcomeUnknown: it goes on and was not done in time. Conflict: another number was asked for meanwhile.
        """
        if bool(shards) == bool(replicas):
            raise Invalid(f"shards={shards}, replicas={replicas}: give one of the two, 1 or more")
        request = ScaleRequest(**_naming(target), shards=shards, replicas=replicas, timeout_s=timeout_s)
        self._runtime.learn(await self._call("scale", request, timeout_s + 1.0))

    scale = blocking(_scale)

    def subscribe(self, stub: Any, *, topic: str = "", after: str = "newest", patience_s: float = 60.0) -> Subscription:
        """Return an endless iterator over what a microservice emits: ``for event in cluster.subscribe(stub): ...``.

        On an event loop: ``async for event in cluster.subscribe(stub): ...``.

        Args:
            topic: only events of this topic; empty for all.
            after: ``newest`` (events from now on), ``oldest`` (those that are kept, too), or the token of the last event
                that was handled.
            patience_s: how long to ask again while the microservice cannot be reached, until its error is raised.

        Raises:
            Invalid: not a stub of this cluster, or no place to begin. NotFound: the microservice is gone.
        """
        if not isinstance(stub, Stub):
            raise Invalid(f"cluster.subscribe takes a stub, not {stub!r}; get one with cluster.get(name)")
        target = self._runtime.target(stub.__amino_reference__.microservice)
        return subscription(self._runtime, target, topic, after, patience_s)

    def bind(self, stub: T) -> T:
        """Return ``stub`` (for example one that was unpickled elsewhere) as a stub of this cluster."""
        if not isinstance(stub, Stub):
            raise Invalid(f"{stub!r} is not a stub; cluster.bind takes what cluster.new or a pickle of it gave")
        return cast("T", self._runtime.bind(stub.__amino_reference__))

    # --- details ---------------------------------------------------------------------------------------------------

    async def _call(self, method: str, request: msgspec.Struct, timeout_s: float) -> Any:
        if self._closed:
            raise ClusterUnavailable("this cluster connection is closed; open another with amino.connect")
        current = CURRENT.get()
        effects = current.effects if current is not None and current.runtime is self._runtime else None
        if effects is None:
            return await self._runtime.registry.call(method, request, timeout_s=timeout_s)
        if method == "push_code":  # depends on what this process has pushed before, not on the method
            return (
                Empty()
                if effects.replaying
                else await self._runtime.registry.call(method, request, timeout_s=timeout_s)
            )
        return await effects.outcome(
            effects.next("cluster"),
            lambda: self._runtime.registry.call(method, request, timeout_s=timeout_s),
            self._runtime,
        )

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
        now = self._runtime.clock.monotonic()
        if now - self._pushed.get(code.sha256, -PUSHED_FOR_S) >= PUSHED_FOR_S:
            assert code.content is not None
            push = PushCodeRequest(sha256=code.sha256, kind="pickle", content=code.content)
            await self._call("push_code", push, _timeout_s())
            self._pushed[code.sha256] = now
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


def _path(cls: type | str) -> str:
    return f"{cls.__module__}:{cls.__qualname__}" if isinstance(cls, type) else cls


def _timeout_s() -> float:
    return DEADLINE.get() or _TIMEOUT_S


def _naming(target: str | Any) -> dict[str, str]:
    if isinstance(target, str):
        return {"name": target}
    if isinstance(target, (Stub, DynamicStub)):
        return {"microservice": target.__amino_reference__.microservice}
    raise Invalid(f"{target!r} is neither a name nor a stub; give the microservice's name or its stub")
