"""Names, folders and docstrings keep to CONTRIBUTING.md. The allow-lists in conventions.toml may only shrink."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("core", "images", "models", "store", "search", "indexer", "dedup", "explore", "evaluation", "service", "cli"),
    *("migrations", "src/simile/client"),
)
ALLOWED = tomllib.loads(Path(__file__).with_name("conventions.toml").read_text())
MAX_MODULES = 12  # in a folder

# Words that name nothing in this field. In identifiers they hide what a value is; in prose they are not plain English.
BANNED_NAMES = (
    *("asked", "asking", "wanted", "said", "shown", "kept", "looked", "told", "gone", "beside", "behind", "meant"),
    *("nobody", "somebody", "whoever", "whatever", "one", "picture", "pictures", "gauge", "unlike", "portrait"),
    *("nursery", "steward", "crew", "shelf", "ladder", "door", "house", "desk", "facts", "glance", "place", "places"),
)
BANNED_PROSE = (
    *("picture", "pictures", "nobody", "somebody", "whoever", "whose", "beside", "told", "gone", "wanted", "asked"),
    *("said", "look at", "looked", "lies", "stands", "meant", "as many as", "none that", "what is", "of which"),
)


def modules() -> list[Path]:
    """Every module of the product."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))] + [
        ROOT / "src/simile/__init__.py"
    ]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def words(identifier: str) -> list[str]:
    """The words of an identifier: `QueryImage` and `query_image` give query, image."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower())


def defined_names(path: Path) -> Iterator[str]:
    """Names that a module defines: classes, functions, parameters, attributes and variables."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    with path.open("rb") as file:
        yield from (token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def check_ratchet(found: dict[str, int], allowed: dict[str, int]) -> None:
    """Fail where a count grew, and where it shrank without its limit being lowered."""
    grown = {name: (count, allowed.get(name, 0)) for name, count in found.items() if count > allowed.get(name, 0)}
    assert grown == {}, "more than allowed (found, allowed); use the field's word"
    lower = {name: found.get(name, 0) for name, limit in allowed.items() if found.get(name, 0) < limit}
    assert lower == {}, "fewer than allowed: write these numbers into conventions.toml"


def count_names() -> dict[str, int]:
    counts = Counter(word for path in modules() for name in set(defined_names(path)) for word in words(name))
    return {word: counts[word] for word in BANNED_NAMES if counts[word]}


def count_prose() -> dict[str, int]:
    text = "\n".join(block for path in modules() for block in prose(path)).lower()
    counts = {phrase: len(re.findall(rf"\b{phrase}\b", text)) for phrase in BANNED_PROSE}
    return {phrase: count for phrase, count in counts.items() if count}


def count_undocumented() -> dict[str, int]:
    """Public modules, classes, functions and methods without a docstring, by package."""
    found: Counter[str] = Counter()
    for path in modules():
        package = path.relative_to(ROOT).parts[0]
        bodies = [tree(path).body]
        found[package] += path.name != "__init__.py" and ast.get_docstring(tree(path)) is None
        while bodies:
            for node in bodies.pop():
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    if node.name.startswith("_") or is_overload_or_override(node):
                        continue
                    found[package] += ast.get_docstring(node) is None
                    bodies += [node.body] if isinstance(node, ast.ClassDef) else []
    return {package: count for package, count in found.items() if count}


def is_overload_or_override(node: ast.AST) -> bool:
    """Whether a method documents itself: a setter, an overload, or the standard `forward` of a torch module."""
    names = {ast.unparse(decorator).split(".")[-1] for decorator in getattr(node, "decorator_list", [])}
    return bool(names & {"overload", "override", "setter"}) or getattr(node, "name", "") == "forward"


def count_modules() -> dict[str, int]:
    """Modules by folder, where there are more than MAX_MODULES."""
    folders = {path for top in (*PACKAGES, "tests", "benchmarks") for path in [ROOT / top, *(ROOT / top).rglob("*")]}
    counts = {
        folder.relative_to(ROOT).as_posix(): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for folder in folders
        if folder.is_dir()
    }
    return {name: count for name, count in sorted(counts.items()) if count > MAX_MODULES}


def count_positional_dataclasses() -> dict[str, int]:
    """Dataclasses with more than four fields that are not keyword-only, by package."""
    found: Counter[str] = Counter()
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                fields = sum(isinstance(statement, ast.AnnAssign) for statement in node.body)
                keyword_only = any("kw_only=True" in ast.unparse(d) for d in node.decorator_list)
                found[path.relative_to(ROOT).parts[0]] += fields > 4 and not keyword_only
    return {package: count for package, count in found.items() if count}


def test_layers_and_places_of_libraries_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_package_has_a_layer() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")["layers"]
    named = {name.strip().removeprefix("simile.") for layer in layers for name in layer.split("|")}
    linked = {path.name for path in (ROOT / "src" / "simile").iterdir() if path.is_symlink()}
    assert named == linked - {"migrations"}


def test_the_product_is_imported_under_its_own_name_only() -> None:
    tops = {package for package in PACKAGES if "/" not in package}
    wrong = []
    for path in [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in tops]
    assert wrong == []


@pytest.mark.real_processes
def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = ["torch", "faiss", "sqlalchemy", "alembic", "PIL", "fastapi", "sklearn", "scipy", "numpy", "pydantic"]
    heavy += ["simile.cli.search", "simile.cli.dedup"]
    code = "import contextlib, io, sys; from simile.cli.main import run; sys.argv = ['simile', '--help']\n"
    code += "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit): run()\n"
    code += f"assert 'Commands' in out.getvalue(); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_limits_are_made_from_the_settings_in_one_place() -> None:
    by_hand = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Limits"
        if node.args or node.keywords
    ]
    assert by_hand == []


def test_class_names_are_unique() -> None:
    found: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name.lstrip("_"), []).append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_dataclasses_with_more_than_four_fields_are_keyword_only() -> None:
    check_ratchet(count_positional_dataclasses(), ALLOWED["positional_dataclasses"])


def test_folders_hold_at_most_twelve_modules() -> None:
    check_ratchet(count_modules(), ALLOWED["modules_in_folder"])


def test_module_names_are_terms_of_the_field() -> None:
    names = {path.stem.removeprefix("test_") for path in [*modules(), *(ROOT / "tests").rglob("*.py")]}
    assert sorted(set(ALLOWED["unplaceable"]["names"]) & names) == []


def test_modules_that_end_in_ing_are_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "architecture.md").read_text().partition("end in *-ing*")[2]
    names = {path.stem for path in modules()} | {path.parent.name for path in modules()}
    last_words = {name.split("_")[-1] for name in names}
    known = re.findall(r"\w+", glossary)
    assert sorted(name for name in last_words if name.endswith("ing") and name not in known) == []


@pytest.mark.parametrize(
    ("count", "section"), [(count_names, "names"), (count_prose, "prose"), (count_undocumented, "undocumented")]
)
def test_exceptions_only_become_fewer(count: object, section: str) -> None:
    assert callable(count)
    check_ratchet(count(), ALLOWED[section])


if __name__ == "__main__":  # print the current numbers, to be written into conventions.toml
    for title, counts in {
        "names": count_names(),
        "prose": count_prose(),
        "undocumented": count_undocumented(),
        "modules_in_folder": count_modules(),
        "positional_dataclasses": count_positional_dataclasses(),
    }.items():
        print(f"[{title}]")
        print("".join(f'"{name}" = {number}\n' for name, number in counts.items()))
