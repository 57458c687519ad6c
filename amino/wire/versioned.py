"""State with a version: objects whose classes change from release to release, and what is stored of them.

Owns ``__amino_version__``, ``__amino_upgrade__`` and ``__amino_downgrade__``: what they may be, and when they are called.
Leaves everything of classes that declare no version to ``pickle``.
Invariants: state reaches a class only in the form of that class's own version; what is written names its version; the
classes' functions never see the live object's own ``__dict__``.
Failure behaviour: state of a later version than the class here raises ``CodeUnavailable`` (another server may have that
class); so does whatever an upgrade raises. A declaration that cannot work raises ``Invalid``.
"""

from __future__ import annotations

import copyreg
import types
from typing import Any

from amino.errors import AminoError, CodeUnavailable, Invalid
from amino.wire import by_value

VERSION, UPGRADE, DOWNGRADE = "__amino_version__", "__amino_upgrade__", "__amino_downgrade__"
VERSION_MAX = 2**31 - 1
_CREATED_PLAINLY = (copyreg.__newobj__, copyreg.__newobj_ex__)  # type: ignore[attr-defined]  # missing in typeshed


def version_of(cls: type) -> int:
    """Return the version of state that ``cls`` declares; 0 if it declares none."""
    version = getattr(cls, VERSION, 0)
    return version if isinstance(version, int) else 0


def check_versions(cls: type) -> None:
    """Check what ``cls`` declares about the versions of its state.

    Raises:
        Invalid: the version is no whole number from 0, or there is no function to read what earlier versions wrote.
    """
    version = getattr(cls, VERSION, 0)
    name = f"{by_value.plain_module(cls.__module__)}:{cls.__qualname__}"
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= VERSION_MAX:
        raise Invalid(f"{name}.{VERSION} is {version!r}; declare a whole number from 0 to {VERSION_MAX}")
    if version > 1 and getattr(cls, UPGRADE, None) is None:
        raise Invalid(
            f"{name} declares {VERSION} = {version} and cannot read what earlier versions wrote; give it a classmethod "
            f"{UPGRADE}(cls, state, version) that returns the state as version {version} has it"
        )
    if version == 0 and getattr(cls, DOWNGRADE, None) is not None:
        raise Invalid(f"{name} declares {DOWNGRADE} and no {VERSION}; nothing is older than an undeclared version")


class Reducer:
    """Writes versions into a pickle: ``reduce`` is what its pickler asks of each object first.

    Args:
        older: write classes that declare ``__amino_downgrade__`` as the version before theirs has them.

    Attributes:
        downgradable: classes met that declare ``__amino_downgrade__``.
    """

    def __init__(self, *, older: bool = False) -> None:
        self._older = older
        self.downgradable: set[type] = set()

    def __repr__(self) -> str:
        return f"Reducer({'older, ' if self._older else ''}{len(self.downgradable)} downgradable)"

    def reduce(self, obj: Any) -> Any:
        """Return how ``obj`` is pickled if its class declares a version, else ``NotImplemented``."""
        cls = type(obj)
        version = version_of(cls)
        if not version:
            return NotImplemented
        reduced = obj.__reduce_ex__(5)
        if isinstance(reduced, str) or reduced[0] not in _CREATED_PLAINLY:
            return NotImplemented  # it says itself how it is made again, and keeps its versions itself
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        state = _attributes(state)
        downgrade = getattr(cls, DOWNGRADE, None)
        if downgrade is not None:
            self.downgradable.add(cls)
            if self._older:
                version -= 1
                state = downgrade(state, version)
        return function, arguments, (version, state), items, pairs, restore_state


def _attributes(state: Any) -> Any:
    """Return what ``__amino_upgrade__`` gets: a dict of the attributes, or what the class's ``__getstate__`` returns."""
    if state is None:
        return {}
    if (
        isinstance(state, tuple)
        and len(state) == 2
        and isinstance(state[1], dict)
        and isinstance(state[0], dict | None)
    ):
        return {**(state[0] or {}), **state[1]}  # a class with __slots__
    return dict(state) if type(state) is dict else state


def restore_state(obj: Any, versioned: tuple[int, Any]) -> None:
    """Give ``obj``, just made and empty, its state. Pickles name this function: it stays where it is.

    Raises:
        CodeUnavailable: the state is of a later version than ``obj``'s class, or its upgrade failed.
    """
    version, state = versioned
    _set_state(obj, upgraded(type(obj), version, state))


def upgraded(cls: type, version: int, state: Any) -> Any:
    """Return ``state``, which version ``version`` of ``cls`` wrote, as ``cls`` has it.

    Raises:
        CodeUnavailable: it is of a later version than ``cls``, or its upgrade failed.
    """
    own = version_of(cls)
    name = f"{by_value.plain_module(cls.__module__)}:{cls.__qualname__}"
    if version > own:
        here = f"is of version {own}" if own else "declares none"
        raise CodeUnavailable(
            f"the state is of version {version} of {name}, and the class here {here}; "
            f"place it on a server with the later class, or declare {DOWNGRADE} there before going back",
            cls=name,
            state_version=version,
            class_version=own,
        )
    upgrade = getattr(cls, UPGRADE, None)
    if version == own or upgrade is None:
        return state
    try:
        return upgrade(state, version)
    except AminoError:
        raise
    except Exception as error:  # the class's own code may raise anything
        raise CodeUnavailable(
            f"{name}.{UPGRADE} could not read state of version {version}: {type(error).__name__}: {error}",
            cls=name,
            state_version=version,
            class_version=own,
        ) from error


def upgrade_undeclared(obj: Any) -> None:
    """Bring ``obj``, restored from state that named no version, to the version of its class.

    Raises:
        CodeUnavailable: its upgrade failed.
    """
    cls = type(obj)
    if not version_of(cls) or getattr(cls, UPGRADE, None) is None:
        return
    reduced = obj.__reduce_ex__(5)
    state = _attributes(reduced[2] if not isinstance(reduced, str) and len(reduced) > 2 else None)
    _set_state(obj, upgraded(cls, 0, state), replace=True)


def _set_state(obj: Any, state: Any, *, replace: bool = False) -> None:
    own = getattr(obj, "__setstate__", None)
    if own is not None:
        own(state)
        return
    if not isinstance(state, dict):
        raise CodeUnavailable(
            f"{type(obj).__qualname__}.{UPGRADE} returned a {type(state).__name__}; return a dict of the attributes, or "
            "declare __setstate__"
        )
    attributes = getattr(obj, "__dict__", None)
    if attributes is not None and replace:
        attributes.clear()
    for name, value in state.items():
        if attributes is not None and not _is_slot(type(obj), name):
            attributes[name] = value
        else:
            object.__setattr__(obj, name, value)


def _is_slot(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), types.MemberDescriptorType)
