"""Stubs: what the user calls methods on.

Owns generating a stub class from a user's class, colours of methods, and refs inside values. Leaves sending to the runtime.
Invariants: a stub's method has the colour of the class's method; a stub equals another of the same microservice; pickled,
it is a ref and becomes a stub of the receiver's runtime.
Failure behaviour: calling a blocking method on a running event loop raises at once and says how to await it.
"""

# ruff: noqa: SLF001 - stubs keep their own names out of the user's way with an _amino_ prefix

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from amino.aio.mode import drive, on_loop, running_loop
from amino.contracts.calls import CURRENT, PerShard
from amino.errors import Invalid
from amino.marks import ASYNC, BROADCAST, KEYED, fold_of, method_table
from amino.wire.codec import BINDING, Reference

if TYPE_CHECKING:
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Stub:
    """Base of all stubs; a ref to one microservice. Immutable, thread-safe, picklable, hashable."""

    __slots__ = ("_amino_cls", "_amino_runtime", "_amino_target")
    _amino_runtime: Runtime | None
    _amino_target: Target
    _amino_cls: str

    def __init__(self, runtime: Runtime | None, target: Target, cls: str) -> None:
        object.__setattr__(self, "_amino_runtime", runtime)
        object.__setattr__(self, "_amino_target", target)
        object.__setattr__(self, "_amino_cls", cls)

    @property
    def __amino_reference__(self) -> Reference:
        return Reference(self._amino_target.microservice, self._amino_cls, self._amino_target.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._amino_target.microservice, self._amino_cls, self._amino_target.name))

    def __copy__(self) -> Stub:
        return self

    def __deepcopy__(self, memo: object) -> Stub:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stub) and other._amino_target.microservice == self._amino_target.microservice

    def __hash__(self) -> int:
        return hash(self._amino_target.microservice)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{name} is not public; only public methods can be called from outside")
        methods = ", ".join(each for each in dir(type(self)) if not each.startswith("_"))
        raise AttributeError(f"{self!r} has no public method {name!r}; it has {methods or 'none'}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set on {self!r}: its state is on a server; call a method that sets it")

    def __repr__(self) -> str:
        name = f" {self._amino_target.name!r}" if self._amino_target.name else ""
        return (
            f"<stub of {self._amino_cls.rpartition(':')[2] or 'microservice'}{name} {self._amino_target.microservice}>"
        )


class DynamicStub(Stub):
    """A stub of a class that is not known here; its methods are looked up when first used."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{name} is not public; only public methods can be called from outside")
        runtime, target = _home_of(self)
        methods = runtime.known_methods(target)
        if methods is None:
            if on_loop():
                return _undecided(self, name)
            methods = drive(runtime.methods(target))
        if name not in methods:
            raise AttributeError(f"{self!r} has no public method {name!r}; it has {', '.join(sorted(methods))}")
        return functools.partial(_method(name, methods[name]), self)


def _undecided(stub: DynamicStub, name: str) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        runtime, target = _home_of(stub)
        flags = (await runtime.methods(target)).get(name, 0)
        return await _method(name, flags).__amino_async__(stub, *args, **kwargs)  # type: ignore[attr-defined]

    call.__amino_async__ = call  # type: ignore[attr-defined]
    return call


def _home_of(stub: Stub) -> tuple[Runtime, Target]:
    """Return the runtime that calls through ``stub``, and its target there; unbound stubs borrow the method's they are in."""
    runtime, target = stub._amino_runtime, stub._amino_target
    if runtime is not None:
        return runtime, target
    current = CURRENT.get()
    if current is None:
        raise Invalid(f"{stub!r} belongs to no cluster here; use cluster.bind(stub) after amino.connect")
    runtime = cast("Runtime", current.runtime)
    return runtime, runtime.target(target.microservice, target.name)


def _method(name: str, flags: int, original: Any = None) -> Callable[..., Any]:
    if flags & (KEYED | BROADCAST):
        return _sharded(name, flags, original)

    async def asynchronous(self: Stub, *args: Any, **kwargs: Any) -> Any:
        runtime, target = self._amino_runtime, self._amino_target
        if runtime is None:
            runtime, target = _home_of(self)
        return await runtime.invoke(target, name, flags, args, kwargs)

    if flags & ASYNC:
        function: Callable[..., Any] = asynchronous
    else:

        def blocking(self: Stub, *args: Any, **kwargs: Any) -> Any:
            if running_loop() is not None:
                raise _on_a_loop(f"{type(self).__name__}.{name}")
            runtime, target = self._amino_runtime, self._amino_target
            if runtime is None:
                runtime, target = _home_of(self)
            return drive(runtime.invoke(target, name, flags, args, kwargs))

        function = blocking
    function.__name__ = name
    function.__amino_async__ = asynchronous  # type: ignore[attr-defined]
    return function


def _sharded(name: str, flags: int, original: Any) -> Callable[..., Any]:
    """Return a method that passes its arguments by position, where managers find the key, and folds results."""
    signature = inspect.signature(original) if original is not None else None
    fold = fold_of(original)

    async def asynchronous(self: Stub, *args: Any, **kwargs: Any) -> Any:
        if signature is not None and kwargs:
            bound = signature.bind(self, *args, **kwargs)
            args, kwargs = bound.args[1:], bound.kwargs
        runtime, target = _home_of(self)
        result = await runtime.invoke(target, name, flags, args, kwargs)
        return fold(list(result)) if type(result) is PerShard else result

    def blocking(self: Stub, *args: Any, **kwargs: Any) -> Any:
        if on_loop():
            raise _on_a_loop(f"{type(self).__name__}.{name}")
        return drive(asynchronous(self, *args, **kwargs))

    function: Callable[..., Any] = asynchronous if flags & ASYNC else blocking
    function.__name__ = name
    function.__amino_async__ = asynchronous  # type: ignore[attr-defined]
    return function


def _on_a_loop(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what} blocks, and an event loop is running in this thread; write: await amino.aio({what.rpartition('.')[0]}"
        f".{what.rpartition('.')[2]})(...)"
    )


_classes: WeakKeyDictionary[type, type[Stub]] = WeakKeyDictionary()


def stub_class(cls: type) -> type[Stub]:
    """Return the stub class of a user's class; made once."""
    found = _classes.get(cls)
    if found is None:
        members: dict[str, Any] = {"__slots__": (), "__doc__": cls.__doc__, "__module__": cls.__module__}
        for name, flags in method_table(cls).items():
            original = getattr(cls, name)
            function = _method(name, flags, original)
            function.__doc__ = original.__doc__
            function.__qualname__ = f"{cls.__qualname__}.{name}"
            function.__wrapped__ = original  # type: ignore[attr-defined] # editors and inspect show the user's signature
            members[name] = function
        found = _classes[cls] = type(f"{cls.__name__}Stub", (Stub,), members)
    return found


def _rebuild(microservice: str, cls: str, name: str) -> Any:
    reference = Reference(microservice, cls, name)
    binding = BINDING.get()
    if binding is None:
        current = CURRENT.get()
        binding = current.runtime if current is not None else None
    if binding is not None:
        return binding.bind(reference)
    from amino.stubs.target import Target

    return DynamicStub(None, Target(microservice, name), cls)


def aio(method: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return the awaitable form of a blocking stub or cluster method: ``await amino.aio(counter.add)(5)``.

    Args:
        method: a bound method of a stub or of a ``Cluster``; one that is async already is returned as it is.

    Raises:
        Invalid: it is neither.
    """
    function: Any = method
    bound: tuple[Any, ...] = ()
    if isinstance(function, functools.partial):
        function, bound = function.func, function.args
    elif inspect.ismethod(function):
        function, bound = function.__func__, (function.__self__,)
    asynchronous = getattr(function, "__amino_async__", None)
    if asynchronous is None:
        raise Invalid(f"amino.aio takes a method of a stub or cluster, not {method!r}")
    return functools.partial(asynchronous, *bound)


def blocking(function: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """Make a dual-mode coroutine method callable from blocking code; ``aio`` gets the coroutine back."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if on_loop():
            raise _on_a_loop(f"cluster.{function.__name__}")
        return drive(function(*args, **kwargs))  # type: ignore[arg-type]

    call.__amino_async__ = function  # type: ignore[attr-defined]
    return call
