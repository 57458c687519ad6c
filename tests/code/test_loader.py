"""Loading classes by path and from bundles, and what is said when it cannot be done."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amino.code import bundle_modules
from amino.code.bundle import describe_class, zip_folder
from amino.code.bundle_modules import active, install, package_of
from amino.code.loader import BundleContent, CodeLoader, parse_path, use_app_dirs
from amino.errors import CodeUnavailable, Invalid, NotFound, StoreFailed
from amino.wire.by_value import plain_module

COUNTER = """
import shop.models
import shop.models as aliased
from shop.models import Item
from . import models
from .models import Item as Again
import json


class Counter:
    step = {step}

    def __init__(self):
        self.items = [Item(1)]

    def add(self):
        from shop.lazy import LAZY
        self.items.append(Item(self.step + LAZY))
        return len(self.items)

    def consistent(self):
        return shop.models.Item is Item is Again is aliased.Item is models.Item and json.dumps(1) == "1"
"""
MODELS = """
from dataclasses import dataclass


@dataclass
class Item:
    price: int
"""


def _app(root: Path, step: int, package: str = "shop") -> Path:
    folder = root / f"app{step}"
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"VERSION = {step}\n")
    (folder / package / "counter.py").write_text(COUNTER.format(step=step).replace("shop", package))
    (folder / package / "models.py").write_text(MODELS)
    (folder / package / "lazy.py").write_text("LAZY = 100\n")
    return folder


class Bundles:
    """A cluster's bundles, in memory, that counts how often each is fetched."""

    def __init__(self) -> None:
        self.content: dict[str, BundleContent] = {}
        self.fetched: list[str] = []
        self.failure: Exception | None = None

    def add(self, kind: str, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.content[sha256] = BundleContent(kind, content)
        return sha256

    async def fetch(self, sha256: str) -> BundleContent:
        self.fetched.append(sha256)
        if self.failure is not None:
            raise self.failure
        if sha256 not in self.content:
            raise NotFound(f"bundle {sha256} is not there")
        return self.content[sha256]


@pytest.fixture
def bundles() -> Bundles:
    return Bundles()


@pytest.fixture
def loader(bundles: Bundles, tmp_path: Path) -> CodeLoader:
    return CodeLoader(bundles.fetch, tmp_path / "cache")


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    modules, path, bundles_before = dict(sys.modules), list(sys.path), dict(bundle_modules._finder.bundles)
    yield
    for name in set(sys.modules) - set(modules):
        if name.startswith((bundle_modules.PREFIX, "shop", "broken_app")):
            del sys.modules[name]
    sys.path[:] = path
    bundle_modules._finder.bundles = bundles_before


async def test_by_path(loader: CodeLoader, tmp_path: Path) -> None:
    """A class in an app dir is imported by its path; asked again, it is the same class."""
    use_app_dirs([_app(tmp_path, 1)])
    counter = await loader.load("shop.counter:Counter")
    assert counter().consistent()
    assert await loader.load("shop.counter:Counter") is counter
    assert sys.modules["shop.counter"].Counter is counter


async def test_app_dirs_come_first_and_in_order(tmp_path: Path) -> None:
    """The first app dir wins over the second, and both over what is installed."""
    first, second = _app(tmp_path, 1), _app(tmp_path, 2)
    use_app_dirs([first, second])
    use_app_dirs([first, second])
    assert sys.path[:2] == [str(first), str(second)]
    with pytest.raises(Invalid, match="not a folder"):
        use_app_dirs([tmp_path / "none"])


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no_such_package.m:C", "ModuleNotFoundError.*no_such_package.*--app-dir"),
        ("amino.errors:Nothing", "has no such name"),
        ("amino.marks:readonly", "has a function of that name"),
        ("__main__:Counter", "by value"),
        ("amino.errors:f.<locals>.C", "by value"),
        ("subprocess:Popen", "standard library"),
        ("broken_app.counter:Counter", "ZeroDivisionError.*--app-dir"),
    ],
)
async def test_unavailable_says_why(loader: CodeLoader, tmp_path: Path, path: str, why: str) -> None:
    """Each way in which a path leads nowhere has its reason and remedy in the error."""
    folder = tmp_path / "broken"
    (folder / "broken_app").mkdir(parents=True)
    (folder / "broken_app" / "counter.py").write_text("1 / 0\n")
    use_app_dirs([folder])
    with pytest.raises(CodeUnavailable, match=why):
        await loader.load(path)


async def test_a_package_installed_later_is_found(loader: CodeLoader, tmp_path: Path) -> None:
    """A failure is not remembered: once the code is there it loads."""
    (tmp_path / "app1").mkdir()
    use_app_dirs([tmp_path / "app1"])
    with pytest.raises(CodeUnavailable):
        await loader.load("shop.counter:Counter")
    (tmp_path / "app1").rmdir()
    _app(tmp_path, 1)
    assert (await loader.load("shop.counter:Counter")).__name__ == "Counter"


@pytest.mark.parametrize("path", ["", "Counter", "a.b.C", "a:", ":C", "a b:C", "a:C()", "a:C.", "../x:C", "a:1"])
def test_paths_have_one_form(path: str) -> None:
    """Anything but module:QualifiedName is refused before anything is imported."""
    with pytest.raises(Invalid, match="module:QualifiedName"):
        parse_path(path)


async def test_by_value(loader: CodeLoader, bundles: Bundles) -> None:
    """A class of a function body loads from its bundle and works."""

    class Counter:
        def get(self) -> int:
            return 42

    described = describe_class(Counter)
    assert described.content is not None
    sha256 = bundles.add("pickle", described.content)
    assert sha256 == described.sha256
    loaded = await loader.load(described.path, sha256)
    assert loaded().get() == 42
    assert await loader.load(described.path, sha256) is loaded
    assert bundles.fetched == [sha256]


async def test_zip_bundle(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """A pushed folder is imported in its own name space; every way to import inside it means its own modules."""
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    counter = await loader.load("shop.counter:Counter", sha256)
    assert counter.__module__ == f"{package_of(sha256)}.shop.counter"
    assert plain_module(counter.__module__) == "shop.counter"
    instance = counter()
    assert instance.consistent()
    assert instance.add() == 2
    assert "shop" not in sys.modules
    assert "shop.lazy" not in sys.modules


async def test_two_versions_live_side_by_side(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """Bundles with the same modules do not see each other, nor the package of that name on the server's path."""
    use_app_dirs([_app(tmp_path, 3)])
    by_path = await loader.load("shop.counter:Counter")
    shas = [bundles.add("zip", zip_folder(_app(tmp_path, step))) for step in (1, 2)]
    one, two = [await loader.load("shop.counter:Counter", sha256) for sha256 in shas]
    assert [cls.step for cls in (one, two, by_path)] == [1, 2, 3]
    instances = [cls() for cls in (one, two, by_path)]
    for instance in instances:
        instance.add()
        assert instance.consistent()
    assert [instance.items[-1].price for instance in instances] == [101, 102, 103]


async def test_state_unpickles_where_the_bundle_is(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """State names its version, so another server that has the bundle rebuilds it with plain pickle."""
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    counter = await loader.load("shop.counter:Counter", sha256)
    again = pickle.loads(pickle.dumps(counter()))
    assert type(again) is counter


def _resolving(find_class: Callable[[str, str], Any], data: bytes) -> Any:
    import io

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return find_class(module, name)

    return Unpickler(io.BytesIO(data)).load()


async def test_pickles_mean_the_readers_code(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """What a client or another version wrote becomes an object of the bundle whose code reads it."""
    old, new = [bundles.add("zip", zip_folder(_app(tmp_path, step))) for step in (1, 2)]
    old_counter = await loader.load("shop.counter:Counter", old)
    new_counter = await loader.load("shop.counter:Counter", new)
    find_class = loader.find_class(new)
    assert find_class is not None
    assert type(_resolving(find_class, pickle.dumps(old_counter()))) is new_counter
    by_client = pickle.dumps(old_counter()).replace(package_of(old).encode() + b".", b"")
    assert b"amino_code" not in by_client
    from_client = _resolving(find_class, _protocol_0_names(old_counter, old))
    assert from_client is new_counter
    assert _resolving(find_class, pickle.dumps({1, 2, "x"})) == {1, 2, "x"}
    assert loader.find_class("") is None


def _protocol_0_names(cls: type, sha256: str) -> bytes:
    """Return a pickle of the class as a client with the plain package would write it."""
    return pickle.dumps(cls, 0).replace(package_of(sha256).encode() + b".", b"")


async def test_clients_read_bundle_names_as_their_own(
    loader: CodeLoader, bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the bundle is not, its names mean the plain package; loading the bundle later ends that."""
    folder = _app(tmp_path, 1)
    content = zip_folder(folder)
    sha256 = bundles.add("zip", content)
    install()
    use_app_dirs([folder])
    name = package_of(sha256)
    data = f"c{name}.shop.models\nItem\n.".encode()
    import importlib

    plain = importlib.import_module("shop.models").Item
    assert pickle.loads(data) is plain
    assert sys.modules["shop.models"].__spec__ is not None
    assert sys.modules["shop.models"].__spec__.name == "shop.models"
    await loader.load("shop.counter:Counter", sha256)
    assert pickle.loads(data) is not plain
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        pickle.loads(f"c{name[:-1]}0.no_such\nItem\n.".encode())


async def test_loading_at_once_fetches_once(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """Fifty microservices of one new bundle fetch it once and get one class."""
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    loaded = await asyncio.gather(*[loader.load("shop.counter:Counter", sha256) for _ in range(50)])
    assert len(set(loaded)) == 1
    assert bundles.fetched == [sha256]


async def test_two_servers_in_one_process_share_classes(bundles: Bundles, tmp_path: Path) -> None:
    """Loaders of two kernel servers in one process give the same class for the same bundle."""
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    one, two = CodeLoader(bundles.fetch, tmp_path / "one"), CodeLoader(bundles.fetch, tmp_path / "two")
    assert await one.load("shop.counter:Counter", sha256) is await two.load("shop.counter:Counter", sha256)


async def test_bad_bundles_say_why(loader: CodeLoader, bundles: Bundles, tmp_path: Path) -> None:
    """Unknown, damaged, of another kind, of another class or module: each has its reason."""

    class Local:
        pass

    class Other:
        pass

    described = describe_class(Local)
    assert described.content is not None
    with pytest.raises(Invalid, match="not a sha256"):
        await loader.load("a:B", "xyz")
    with pytest.raises(CodeUnavailable, match="not in the cluster"):
        await loader.load("a:B", "0" * 64)
    bundles.content["1" * 64] = BundleContent("pickle", described.content)
    with pytest.raises(CodeUnavailable, match="damaged"):
        await loader.load(described.path, "1" * 64)
    with pytest.raises(CodeUnavailable, match="release"):
        await loader.load("a:B", bundles.add("tar", b"x"))
    with pytest.raises(CodeUnavailable, match="does not hold a class"):
        await loader.load("a:B", bundles.add("pickle", b"x"))
    with pytest.raises(CodeUnavailable, match="not class"):
        await loader.load(describe_class(Other).path, bundles.add("pickle", described.content))
    broken = described.content[:-20]
    with pytest.raises(CodeUnavailable, match="cannot be rebuilt"):
        await loader.load(described.path, bundles.add("pickle", broken))
    _, _, rest = described.content.partition(b"\n")
    with pytest.raises(CodeUnavailable, match="cpython-27"):
        await loader.load(described.path, bundles.add("pickle", b"amino-class 1 cpython-27\n" + rest))
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    with pytest.raises(CodeUnavailable, match=r"does not contain 'other.m', only .*shop"):
        await loader.load("other.m:C", sha256)
    with pytest.raises(CodeUnavailable, match="ModuleNotFoundError"):
        await loader.load("shop.none:C", sha256)


async def test_passing_troubles_are_no_verdict_on_the_code(
    loader: CodeLoader, bundles: Bundles, tmp_path: Path
) -> None:
    """A store that is away makes loading fail as such, so that the server is not called unable; later it loads."""
    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    bundles.failure = StoreFailed("unreachable")
    with pytest.raises(StoreFailed):
        await loader.load("shop.counter:Counter", sha256)
    bundles.failure = None
    assert active(sha256) is None
    assert await loader.load("shop.counter:Counter", sha256)


async def test_values_decoded_for_a_bundle_are_of_its_classes(
    loader: CodeLoader, bundles: Bundles, tmp_path: Path
) -> None:
    """The codec resolves names by the code set in its context, out-of-band buffers included."""
    from amino.wire import codec

    sha256 = bundles.add("zip", zip_folder(_app(tmp_path, 1)))
    counter = await loader.load("shop.counter:Counter", sha256)
    item = type(counter().items[0])
    data = _protocol_0_names(item, sha256)
    with pytest.raises(Invalid, match="cannot be rebuilt"):
        codec.decode(codec.PICKLED, [data])
    token = codec.FIND_CLASS.set(loader.find_class(sha256))
    try:
        assert codec.decode(codec.PICKLED, [data]) is item
        number, segments = codec.encode([item(1), bytearray(100_000), pickle.PickleBuffer(b"x" * 100)])
        assert codec.decode(number, segments)[0] == item(1)
    finally:
        codec.FIND_CLASS.reset(token)
