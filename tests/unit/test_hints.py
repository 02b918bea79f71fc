"""Every fault says what to do: a hint, what is allowed, or what is expected.

What is left out is listed, with the reason.
"""

from __future__ import annotations

import ast
import errno
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.cli.main import VERBS, Parser
from qlaunch.errors import Problem
from qlaunch.host.sysfs import way_on
from qlaunch.vm.monitor import QmpError

PACKAGE = Path(__file__).parents[2] / "qlaunch"
ROOMS = (".", *sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
ERRORS = ("QlaunchError", "UsageError", "ProfileError", "HostError", "StuckError",
          "NotRestoredError")
# What is only made of another problem's words, or tells of one that was granted.
MADE_OF_OTHERS = {
    "cli/devices.py": {"device"}, "plan/quirks.py": {"device"},
    "plan/handover.py": {"'only bridges, which stay with the host'"},
    "plan/vgpu_choose.py": {  # why a wish was not granted: the next is tried
        "\"it is another table's: a machine has one such card\"", "\"it is another table's\"",
        "f'it is in use by the machine {taken.claims[device.address]}'",
        "f'wish {place + 1} was granted: {wish_text(wish)}'",
    },
    "profile/read.py": {"f'{by}: {note}'", "f'cannot be judged: {error}'"},
    # to the journal of a unit, which nobody at a terminal reads
    "cli/unit.py": {"'who asked for this machine does not wait any more'",
                    "'somebody else asked for this machine'"},
    # of a sentence whose raiser has nothing else to say; those are found where they are raised
    "errors.py": {"problems"},
    # another process's fault, with its hint
    "host/netchild.py": {"*answer['problem']"},
    # who pressed Ctrl-C or asked for the stop knows what to do next; the host is as it was
    "run/engine.py": {"f'interrupted before this was done: {step}'"},
    "run/live.py": {"'stopped before the guest ran'"},
    "run/terminal.py": {"f'interrupted; {done}'"},
    "run/verdict.py": {"'interrupted; the host is as it was'"},
    # notes, beside faults with a hint
    "host/release.py": {"told"},
    "setup/apply.py": {"'what was written has been put back'"},
}


def mute(text: str) -> set[str]:
    """The messages that say nothing of what to do."""
    found = set()
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        said = {keyword.arg for keyword in call.keywords}
        message = ast.unparse(call.args[0])
        if name in ERRORS and isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            found.add(message)
        if name in ("Problem", "problem") and not said & {"hint", "allowed", None} and (
            len(call.args) < 5 and not message.lstrip("f").startswith(("'expected ", '"expected '))
        ):
            found.add(message)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_fault_says_what_to_do(room: str) -> None:
    silent = {
        (str(path.relative_to(PACKAGE)), message)
        for path in (PACKAGE / room).glob("*.py")
        for message in mute(path.read_text()) - MADE_OF_OTHERS.get(
            str(path.relative_to(PACKAGE)), set())
    }
    assert silent == set()


def test_nothing_is_left_out_that_is_no_more() -> None:
    for name, messages in MADE_OF_OTHERS.items():
        assert messages <= mute((PACKAGE / name).read_text()), name


def test_what_is_mute() -> None:
    assert mute("Problem('no', found='x')") == {"'no'"}
    assert mute("HostError('no')\nHostError(problem)\nHostError(f'{no}')") == {"'no'", "f'{no}'"}
    assert mute("Problem('no', found='x', hint='y')\nProblem(f'expected {x}')") == set()


def test_a_hint_names_the_machine_once_that_is_known() -> None:
    error = QmpError("device_add", "GenericError", "no")
    assert error.problems[0].hint == "qlaunch logs NAME may tell more"
    error.of("my vm")
    assert error.problems[0].hint == "qlaunch logs 'my vm' may tell more"
    assert str(error).endswith("hint: qlaunch logs 'my vm' may tell more")
    for verb in ("reset", "detach", "console", "stop"):
        hint = f"qlaunch {verb} NAME --x, qlaunch NAME"
        assert Problem("no", hint=hint).of("a").hint == f"qlaunch {verb} 'a' --x, qlaunch NAME"
    locked = QmpError("blockdev-add", "GenericError", 'Failed to get shared "write" lock')
    assert locked.problems[0].hint.startswith("another program has this image open: ")
    assert Problem("no", hint="ip link add NAME type bridge").of("x").hint.count("NAME") == 1


ITSELF = ("run", "bind", "unbind", "rom", "vgpu", "host", "selftest")  # ask for root (elevate.py)
COMMAND = re.compile(r"(sudo )?(?<![-\w/.])qlaunch ([a-z]+)((?: [^;,:()`\n]+)?)")


def said(text: str) -> Iterator[str]:
    """Every text of a module, with X for what is filled in; no docstring."""
    tree = ast.parse(text)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "X"
                          for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (
                id(node) not in parts):
            yield node.value


def options(verb: str) -> set[str]:
    module = importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}")
    parser = Parser(prog=verb)
    module.add_arguments(parser)
    return set(parser._option_string_actions)


def impossible(text: str) -> list[str]:
    """Our commands in it that nobody can type."""
    wrong = []
    for match in COMMAND.finditer(text):
        root, verb, rest = match.groups()
        if verb not in VERBS:
            wrong += [match[0]] if root or rest.startswith(" --") else []
            continue
        known = options(verb)
        if verb == "on":
            rest = ""  # the verb's own options follow
        unknown = [word for word in re.findall(r"(?<= )--[a-z-]+", rest) if word not in known]
        wrong += [match[0]] if unknown or (root and verb in ITSELF) else []
    return wrong


@pytest.mark.parametrize("room", ROOMS)
def test_every_command_can_be_typed(room: str) -> None:
    """Verbs and options exist; sudo, which does not find every qlaunch, is left to the verbs that
    ask for root themselves (what is left is spelled by cli/command.py)."""
    wrong = {str(path.relative_to(PACKAGE)): found
             for path in (PACKAGE / room).glob("*.py")
             if (found := [one for text in said(path.read_text()) for one in impossible(text)])}
    assert wrong == {}


@pytest.mark.parametrize("room", ROOMS)
def test_what_the_kernel_is_told_is_told_by_root(room: str) -> None:
    """`sudo echo 1 > FILE` opens the file as whoever types it."""
    wrong = {str(path.relative_to(PACKAGE)): found
             for path in (PACKAGE / room).glob("*.py")
             if (found := [text for text in said(path.read_text())
                           if re.search(r"echo \S+ > ", text)])}
    assert wrong == {}


def test_what_cannot_be_typed() -> None:
    assert impossible("sudo qlaunch bind X") == ["sudo qlaunch bind X"]
    assert impossible("a; qlaunch logs X --tail 3") == ["qlaunch logs X --tail 3"]
    assert impossible("sudo qlaunch statsu X") == ["sudo qlaunch statsu X"]
    assert impossible("qlaunch recover --all puts a host back; qlaunch there") == []
    assert impossible("root's machines: sudo qlaunch ps") == []
    assert list(said('"doc"\nx = f"a{b}c" "d"')) == ["aXcd"]


def test_verbs_that_change_the_host_ask_for_root() -> None:
    asks = {path.stem for path in (PACKAGE / "cli").glob("*.py")
            if {"need_root", "become_root"} & set(re.findall(r"\w+", path.read_text()))}
    assert asks - {"byhand", "elevate"} == set(ITSELF)


def test_whoever_knows_the_machine_names_it() -> None:
    """NAME is for whom `of` then tells: rooms below, and what `talk` does with a monitor."""
    wrong = {path.name: found for path in (PACKAGE / "cli").glob("*.py")
             if path.name not in ("main.py", "control.py")
             and (found := [text for text in said(path.read_text())
                            if re.search(r"^(?!example).*qlaunch [a-z]+ NAME", text, re.DOTALL)])}
    assert wrong == {}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_file_of_the_kernels_that_cannot_be_written(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    said = {errno.EPERM: "sudo qlaunch", errno.EROFS: "findmnt -T", errno.ENOSPC: "df -h",
            errno.EIO: "sudo dmesg"}
    assert said[number] in way_on(OSError(number, "x"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "needs root" not in way_on(OSError(number, "x"))
