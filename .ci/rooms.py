"""Checks imports in both languages: rooms import only rooms below them, and files form no import cycle.

The rooms and their order are those of ``docs/architecture.md``. Run it from anywhere:
``python .ci/rooms.py``. It prints a line for each import that breaks a rule, and exits with 1 if there is
one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CRATE = ROOT / "src"
PACKAGE = ROOT / "python" / "koopflow"

# Rooms from the lowest to the highest: a room may import from the rooms before it. Rooms on the same line do
# not import each other.
RUST_ROOMS = [
    ["error"],
    ["world"],
    ["monitor", "condition"],
    ["tensor"],
    ["store"],
    ["nets", "metrics"],
    ["training"],
    ["velocity"],
    ["ode"],
    ["koopman"],
    ["spectrum"],
    ["data"],
    ["sampling"],
    ["flow", "forecast"],
    ["distill"],
    ["baselines"],
    ["python"],
]
PYTHON_ROOMS = [
    ["_core", "exceptions"],
    ["_batches"],
    ["_arrays", "_autocast", "_ending", "_tables", "_versions", "progress"],
    ["_checkpointing", "_clock", "_conditioning", "options", "tensorboard"],
    ["_parameters", "distributed", "hub"],
    ["datasets", "energies", "metrics", "steering", "twins"],
    ["teachers"],
    ["spectrum"],
    ["students"],
    ["baselines", "forecasting"],
    ["analysis"],
    ["plotting"],
    ["compare"],
    ["cli"],
    ["__init__", "__main__"],
]
# Libraries that only one room may import.
ONLY_IN = [
    (CRATE, r"\b(?:pyo3|numpy)::", "python", "pyo3"),
    (PACKAGE, r"^\s*(?:from|import) matplotlib\b", "plotting", "matplotlib"),
]


def main() -> int:
    complaints = [*rust(), *python(), *only_in()]
    for complaint in complaints:
        print(complaint)
    print(
        f"rooms: {len(complaints)} imports break a rule"
        if complaints
        else "rooms: every import goes downwards"
    )
    return 1 if complaints else 0


def rust() -> Iterator[str]:
    imports = {path: set(rust_imports(path)) for path in sorted(CRATE.rglob("*.rs"))}
    yield from upwards(CRATE, imports, RUST_ROOMS)
    yield from circles(CRATE, {path: found - {module_above(path)} for path, found in imports.items()})


def rust_imports(path: Path) -> Iterator[Path]:
    """The files that a Rust file names by module paths from ``crate`` and ``super``, without its tests."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    text = re.split(r"#\[cfg\(test\)\]\s*mod ", text)[0]
    for found in re.finditer(r"\b(crate|super)((?:::super)*)::([a-z_][\w:]*|\{[^;]*\})", text):
        start = CRATE if found[1] == "crate" else module_folder(path)
        for _ in range(found[2].count("super")):
            start = start.parent
        for name in expanded(found[3]):
            target = module_file(start, name)
            if target is not None and target != path:
                yield target


def expanded(tree: str) -> Iterator[str]:
    """A path ``a::b`` unchanged; for ``{a::b, c}`` each part up to the next branch."""
    if not tree.startswith("{"):
        yield tree
        return
    depth, part = 0, ""
    for letter in tree[1:]:
        if depth == 0 and letter in ",}":
            yield part.strip().split("{")[0].rstrip(":")
            part = ""
            continue
        depth += {"{": 1, "}": -1}.get(letter, 0)
        part += letter


def module_folder(path: Path) -> Path:
    """The folder in which ``super`` of a file looks for modules."""
    return path.parent.parent if path.name == "mod.rs" else path.parent


def module_above(path: Path) -> Path:
    """The ``mod.rs`` of a file's folder. Imports through it do not count as cycles."""
    return module_folder(path) / "mod.rs"


def module_file(start: Path, name: str) -> Path | None:
    """The file of the deepest module in a path."""
    place, file = start, start / "mod.rs" if (start / "mod.rs").exists() else None
    for part in name.split("::"):
        if (place / f"{part}.rs").exists():
            return place / f"{part}.rs"
        if not (place / part / "mod.rs").exists():
            break
        place, file = place / part, place / part / "mod.rs"
    return file


def python() -> Iterator[str]:
    # ``from . import _core`` goes through the package's ``__init__.py``, which is not a room.
    face = PACKAGE / "__init__.py"
    imports = {path: set(python_imports(path)) - {face} for path in sorted(PACKAGE.rglob("*.py"))}
    yield from upwards(PACKAGE, imports, PYTHON_ROOMS)
    yield from circles(PACKAGE, imports)


def python_imports(path: Path) -> Iterator[Path]:
    """The package's files that a Python file imports, including imports for typing and inside functions."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from python_file(tuple(name.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            for name in node.names:
                yield from python_file((*module, name.name)) or python_file(module)


def python_file(module: tuple[str, ...]) -> list[Path]:
    place = PACKAGE.parent.joinpath(*module)
    candidates = [place.with_suffix(".py"), place.with_suffix(".pyi"), place / "__init__.py"]
    return [path for path in candidates if PACKAGE in path.parents and path.exists()][:1]


def room_of(root: Path, path: Path) -> str:
    return path.relative_to(root).parts[0].split(".")[0]


def upwards(root: Path, imports: Mapping[Path, Iterable[Path]], floors: list[list[str]]) -> Iterator[str]:
    level = {room: height for height, floor in enumerate(floors) for room in floor}
    for path, targets in imports.items():
        own = room_of(root, path)
        if root == CRATE and own == "lib":
            continue
        if own not in level:
            yield f"{path.relative_to(ROOT)}: {own} is a room that .ci/rooms.py does not know"
            continue
        for target in sorted(targets):
            other = room_of(root, target)
            if other != own and other in level and level[other] >= level[own]:
                arrow = f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
                yield f"{arrow}: {own} does not stand above {other}"


def circles(root: Path, imports: Mapping[Path, Iterable[Path]]) -> Iterator[str]:
    """Import cycles of files, each once, by depth-first search."""
    state: dict[Path, int] = defaultdict(int)
    stack: list[Path] = []
    found = []

    def visit(path: Path) -> None:
        state[path] = 1
        stack.append(path)
        for target in sorted(imports.get(path, ())):
            if state[target] == 1:
                found.append([*stack[stack.index(target) :], target])
            elif state[target] == 0:
                visit(target)
        stack.pop()
        state[path] = 2

    for path in imports:
        if state[path] == 0:
            visit(path)
    for circle in found:
        yield "a circle: " + " -> ".join(str(path.relative_to(root)) for path in circle)


def only_in() -> Iterator[str]:
    for root, pattern, room, what in ONLY_IN:
        for path in sorted(root.rglob("*.rs" if root == CRATE else "*.py")):
            if room_of(root, path) != room and re.search(pattern, path.read_text(), flags=re.MULTILINE):
                yield f"{path.relative_to(ROOT)} knows {what}: only {room}/ may"


if __name__ == "__main__":
    sys.exit(main())
