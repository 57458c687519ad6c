"""Style as a unit test: what a reader may rely on in every module, test and document.

Owns the rules that no linter states. Leaves formatting, types and layers to ruff, mypy and import-linter.
Invariant: each rule names the files that break it. Failure behaviour: none of its own; it only reads.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import amino

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(amino.__file__).resolve().parent
GENERATED = PACKAGE / "wire" / "gen"
LINES_MAX = 500
NAMES_REFUSED = {"utils", "util", "helpers", "helper", "common", "misc"}
PYTHON_FOLDERS = ("tests", "bench", "chaos", "examples", "deploy", "tools", "docs")
TEXT_ENDINGS = {".py", ".md", ".toml", ".sh", ".yaml", ".yml", ".json", ".proto", ".js", ".txt", ".cfg"}

# Absolute paths of somebody's machine: work trees, home folders of people. Paths that Linux itself defines are fine.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|Users|root|work|workspace|mnt|opt)/[\w.]")
# Other materials of the makers, which a reader does not have.
PRIVATE_REFERENCE = re.compile(
    r"\bshared/(?:design|dms|style|testing)|\b(?:design|dms|style)\.md\b|(?<!docs/)(?<!\]\()\btesting\.md\b"
)


def _modules() -> Iterator[Path]:
    examples = PACKAGE / "cli" / "demo" / "apps"  # in a wheel: the demo's example, whose source is in examples/
    return (path for path in sorted(PACKAGE.rglob("*.py")) if not {GENERATED, examples} & set(path.parents))


def _python_files() -> Iterator[Path]:
    yield from _modules()
    for folder in PYTHON_FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in path.parts)


def _text_files() -> Iterator[Path]:
    yield from (path for path in _python_files() if path != Path(__file__).resolve())
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and path.suffix in TEXT_ENDINGS)
    for folder in (*PYTHON_FOLDERS, ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            ending_fits = path.suffix in TEXT_ENDINGS - {".py"} or (path.suffix == "" and path.is_file())
            if path.is_file() and ending_fits and not {"node_modules", "__pycache__"} & set(path.parts):
                yield path
    yield from sorted(PACKAGE.rglob("*.proto"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _shown(path: Path) -> str:
    for base in (ROOT, PACKAGE.parent):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def test_every_module_says_what_it_is_for() -> None:
    """Every module's docstring has text: at least one whole sentence."""
    silent = [_shown(path) for path in _modules() if len((ast.get_docstring(_tree(path)) or "").split()) < 4]
    assert not silent, f"modules without a docstring that says what they are for: {silent}"


def test_modules_say_what_they_own() -> None:
    """A module that is no package page and longer than a screen says what it owns and how it behaves at failure."""
    missing = []
    for path in _modules():
        if path.name == "__init__.py" or len(path.read_text(encoding="utf-8").splitlines()) < 60:
            continue
        text = (ast.get_docstring(_tree(path)) or "").lower()
        missing += [f"{_shown(path)} ({word})" for word in ("owns", "failure") if word not in text]
    assert not missing, f"docstrings lacking one of their four parts: {missing}"


def test_no_module_is_too_long() -> None:
    """No module is longer than 500 lines: by then it does two things."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _python_files()}
    long = [f"{_shown(path)}: {lines}" for path, lines in lengths.items() if lines > LINES_MAX]
    assert not long, f"modules over {LINES_MAX} lines: {long}"


def test_no_module_is_named_for_nothing() -> None:
    """Modules and folders are named by nouns of the trade, never utils, helpers, common or misc."""
    found = [_shown(path) for path in _python_files() if {path.stem, path.parent.name} & NAMES_REFUSED]
    assert not found, f"names that say nothing: {found}"


def test_packages_hold_no_code_in_their_front_page() -> None:
    """An ``__init__.py`` only re-exports: docstring, imports, names and ``__getattr__`` for lazy imports."""
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr, ast.If)
    found = []
    for path in _modules():
        if path.name != "__init__.py":
            continue
        for node in _tree(path).body:
            lazy = isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__", "main"}
            if not isinstance(node, allowed) and not lazy:
                found.append(f"{_shown(path)}:{node.lineno}")
    assert not found, f"code in __init__.py: {found}"


def test_re_exports_exist() -> None:
    """Every name in a package's ``__all__`` can be had from it, once, and every public import is listed there."""
    wrong = []
    for path in _modules():
        if path.name != "__init__.py":
            continue
        name = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        imported = {
            alias.asname or alias.name
            for node in _tree(path).body
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
        }
        public = {one for one in imported if not one.startswith("_")}
        if not public and "__all__" not in path.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(name)
        listed = list(getattr(module, "__all__", ()))
        wrong += [f"{name}: {one} is listed but missing" for one in listed if not hasattr(module, one)]
        wrong += [f"{name}: {one} is listed twice" for one in {one for one in listed if listed.count(one) > 1}]
        wrong += [f"{name}: {one} is imported but not listed in __all__" for one in sorted(public - set(listed))]
    assert not wrong, wrong


def test_no_path_of_one_machine() -> None:
    """No file names an absolute path of somebody's machine."""
    found = [
        f"{_shown(path)}:{number}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, f"absolute paths of one machine: {found}"


def test_everything_stands_alone() -> None:
    """No file refers to materials that only its makers had."""
    found = [
        f"{_shown(path)}:{number}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE_REFERENCE.search(line)
    ]
    assert not found, f"references a reader cannot follow: {found}"


def test_nothing_is_left_undone() -> None:
    """No module is a promise: no TODO, FIXME or XXX."""
    found = []
    for path in _modules():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"\b(?:TODO|FIXME|XXX)\b", line):
                found.append(f"{_shown(path)}:{number}")
    assert not found, f"unfinished: {found}"


def _test_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def _test_files() -> Iterator[Path]:
    return (path for path in sorted((ROOT / "tests").rglob("test_*.py")))


def test_every_test_says_what_it_shows() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{_shown(path)}::{node.name}"
        for path in _test_files()
        for node in _test_functions(path)
        if not ast.get_docstring(node)
    ]
    assert not silent, f"tests without a docstring: {silent}"


def test_no_test_sleeps_or_is_skipped_for_good() -> None:
    """Tests wait for events or virtual time; none sleeps for real, and none is skipped without a condition."""
    found = []
    for path in _test_files():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            sleeps = called == "time.sleep" and not _inside_nested_program(path, node)
            if sleeps or called in {"pytest.mark.skip", "pytest.mark.xfail"}:
                found.append(f"{_shown(path)}:{node.lineno} {called}")
    assert not found, f"sleeps or skips in tests: {found}"


def _inside_nested_program(path: Path, call: ast.Call) -> bool:
    """Return whether the call is in a microservice's method: user code under test may take its time."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("Test"):
            inside = node.lineno <= call.lineno <= (node.end_lineno or node.lineno)
            if inside:
                return True
    return False


def test_every_decision_is_indexed() -> None:
    """Each file in docs/decisions has its line in the index, and each link of the index leads somewhere."""
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index))
    present = {path.name for path in folder.glob("[0-9]*.md")}
    assert linked == present, f"not indexed: {sorted(present - linked)}; missing: {sorted(linked - present)}"


def test_decision_numbers_are_unique() -> None:
    """No two decisions share a number."""
    numbers = [path.name[:4] for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers)), f"decision numbers used twice: {sorted(numbers)}"


def test_every_dependency_is_recorded() -> None:
    """Each dependency of pyproject.toml has its line in the index of decisions."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8").lower()
    names = {re.split(r"[\[<>=!~; ]", one, maxsplit=1)[0].lower() for one in wanted}
    missing = sorted(name for name in names if f"`{name}`" not in index)
    assert not missing, f"dependencies without a line in docs/decisions/README.md: {missing}"


def _markdown_files() -> list[Path]:
    pages = [path for path in ROOT.iterdir() if path.suffix == ".md"]
    for folder in ("docs", "examples", "bench", "chaos", "deploy"):
        pages += [path for path in (ROOT / folder).rglob("*.md") if "node_modules" not in path.parts]
    return sorted(pages)


def test_links_in_documents_lead_somewhere() -> None:
    """Every relative link of every document names a file that exists."""
    links = [
        (page, target)
        for page in _markdown_files()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", target)
    ]
    broken = [
        f"{_shown(page)} -> {target}"
        for page, target in links
        if not (page.parent / target).exists() and not _in_package(page, target)
    ]
    assert not broken, f"broken links: {broken}"


def _in_package(page: Path, target: str) -> bool:
    """Return whether the link leads into the package, which may be installed elsewhere (tests of the wheel)."""
    parts = (page.parent / target).resolve().relative_to(ROOT).parts
    return parts[:1] == ("amino",) and PACKAGE.joinpath(*parts[1:]).exists()


@pytest.mark.parametrize("number", range(1, 9))
def test_every_invariant_is_explained(number: int) -> None:
    """docs/invariants.md has a section for each invariant, with how it is enforced and how it is tested."""
    text = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/invariants.md has no section {number}"
    assert "**Enforced**" in section[0], number
    assert "**Tested**" in section[0], number
