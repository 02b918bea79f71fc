"""The house keeps its shape: who may import whom, one door a library, no room too large.

The table is that of contrib/DESIGN.md. A late import inside a function counts like any other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "qlaunch"

BASE = {"errors", "values", "codec", "late"}
MAY: dict[str, set[str]] = {
    "errors": set(),
    "values": set(),
    "codec": {"values"},
    "late": set(),
    "children": {"errors"},
    "profile": BASE,
    "facts": BASE | {"children"},
    "plan": BASE
    | {"profile", "facts.model", "facts.net_model", "facts.vgpu_model", "facts.usb_model"}
    | {"facts.desktop_model", "facts.cgroup_model"},
    "argv": BASE | {"plan", "profile"},
    "advise": BASE
    | {"profile", "plan", "facts.model", "facts.net_model", "facts.health_model"},
    "host": BASE | {"children", "facts.model", "plan"},
    "setup": BASE | {"children", "facts"},
    "vm": BASE | {"children", "plan"},
    "run": BASE | {"children", "profile", "facts", "plan", "argv", "host", "vm"},
    "remote": {"children", "errors"},
    "desktop": set(),
    "cli": BASE
    | {"__version__", "children", "profile", "facts", "plan", "argv", "host", "vm", "run", "setup"}
    | {"advise", "remote", "desktop"},
    "__main__": {"cli"},
    "__init__": set(),
}
DOORS = {
    "pyroute2": "host/net.py",
    "qemu": "vm/monitor.py",
    "subprocess": "children.py",
    "tomli": "profile/read.py",
}
FORBIDDEN = {"tomllib", "multiprocessing", "pydantic", "requests"}


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything imported anywhere in a module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "qlaunch":
                names |= {f"qlaunch.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def faults(path: Path, source: str) -> list[str]:
    """What a module of the package imports against the table."""
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    allowed = MAY[room] | {room}
    found = []
    for name in imports(ast.parse(source)):
        head = name.split(".")[0]
        if head in FORBIDDEN:
            found.append(f"{relative}: imports {name}")
        if head in DOORS and str(relative) != DOORS[head]:
            found.append(f"{relative}: imports {name}, whose door is {DOORS[head]}")
        if head == "qlaunch":
            target = name.removeprefix("qlaunch").lstrip(".")
            if not any(target == a or (target.startswith(f"{a}.")) for a in allowed):
                found.append(f"{relative}: imports {name}, which {room} may not")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_the_package_is_found() -> None:
    assert {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES} == set(MAY)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    assert faults(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("plan/x.py", "import pyroute2"),
        ("plan/x.py", "from qlaunch.host import sysfs"),
        ("plan/x.py", "from qlaunch.facts.probe import read_facts"),
        ("facts/x.py", "def f():\n    from qlaunch.profile.read import read_profile"),
        ("host/x.py", "import subprocess"),
        ("run/x.py", "from qlaunch import cli"),
        ("argv/x.py", "import tomllib"),
    ],
)
def test_a_bad_import_is_seen(room: str, source: str) -> None:
    assert faults(PACKAGE / room, source) != []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_small(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 320, f"{path.name} has grown to {len(lines)} lines: split it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
