"""How clients name and pack classes."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import types
import zipfile
from pathlib import Path

import cloudpickle
import pytest

from amino.code.bundle import BUNDLE_BYTES_MAX, describe_class, zip_folder
from amino.errors import Invalid


class Importable:
    """A class that can be imported by its path."""

    class Inner:
        """Another one."""


def test_importable_classes_go_by_path() -> None:
    """A class found under its own path needs no bundle, nested in another class or not."""
    described = describe_class(Importable)
    assert (described.path, described.sha256, described.content) == (f"{__name__}:Importable", "", None)
    assert describe_class(Importable.Inner).path == f"{__name__}:Importable.Inner"


def test_local_classes_go_by_value() -> None:
    """A class of a function body is packed, under the sha256 of its content."""

    class Local:
        pass

    described = describe_class(Local)
    assert described.path.endswith("<locals>.Local")
    assert described.content is not None
    assert described.sha256 == hashlib.sha256(described.content).hexdigest()


def test_classes_of_main_and_of_made_up_modules_go_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts and notebooks cannot be imported elsewhere, though they are in sys.modules."""
    for name in ("__main__", "made_up_module"):
        module = types.ModuleType(name)
        exec("class Counter:\n    def get(self): return 1", vars(module))
        monkeypatch.setitem(sys.modules, name, module)
        assert describe_class(module.Counter).content is not None  # type: ignore[attr-defined]


def test_shadowed_classes_go_by_value() -> None:
    """A class whose path leads to something else now would load as something else."""
    lost = type("Importable", (), {"__module__": __name__})
    assert describe_class(lost).content is not None


def test_registered_modules_go_by_value() -> None:
    """A module registered with cloudpickle is packed although it can be imported; so is a class on request."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert describe_class(Importable).content is not None
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert describe_class(Importable, by_value_always=True).content is not None
    assert describe_class(Importable).content is None


def test_what_cannot_be_packed_says_why() -> None:
    """A class that refers to a lock or to a huge object, and a thing that is no class, are refused with the remedy."""
    import threading

    lock, huge = threading.Lock(), os.urandom(BUNDLE_BYTES_MAX)

    class Locked:
        def get(self) -> object:
            return lock

    class Huge:
        def get(self) -> object:
            return huge

    with pytest.raises(Invalid, match=r"cannot be sent by value.*lock"):
        describe_class(Locked)
    with pytest.raises(Invalid, match="large objects"):
        describe_class(Huge)
    with pytest.raises(Invalid, match="is not a class"):
        describe_class(Importable())  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    for name, text in {
        "shop/__init__.py": "",
        "shop/counter.py": "class Counter: pass\n",
        "shop/data.txt": "42",
        "shop/__pycache__/counter.cpython-311.pyc": "no",
        ".git/config": "no",
        "venv/lib/x.py": "no",
        "shop/.hidden.py": "no",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_zips_are_deterministic(folder: Path) -> None:
    """The same files pack to the same bytes, whatever their times; byte code and hidden files are left out."""
    first = zip_folder(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert zip_folder(str(folder)) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == ["shop/__init__.py", "shop/counter.py", "shop/data.txt"]


def test_links_do_not_lead_outside(folder: Path, tmp_path: Path) -> None:
    """A symbolic link to a file elsewhere is not packed."""
    (tmp_path / "secret.py").write_text("secret")
    (folder / "shop" / "leak.py").symlink_to(tmp_path / "secret.py")
    with zipfile.ZipFile(io.BytesIO(zip_folder(folder))) as archive:
        assert "shop/leak.py" not in archive.namelist()


def test_folders_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    """No folder, no Python in it, or too much of it: the error says what to give instead."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match="is not a folder"):
        zip_folder(tmp_path / "none")
    with pytest.raises(Invalid, match="no Python file"):
        zip_folder(tmp_path / "empty")
    (folder / "shop" / "noise.bin").write_bytes(os.urandom(5000))
    with pytest.raises(Invalid, match="more than 2000"):
        zip_folder(folder, bytes_max=2000)
    with pytest.raises(Invalid, match="more than 400"):
        zip_folder(folder, bytes_max=100)
