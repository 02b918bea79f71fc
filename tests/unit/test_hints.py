"""Every fault says what to do: a hint, what is allowed, or what is expected.

What is left out is listed, with the reason.
"""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import pytest

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
    "run/session.py": {"'interrupted; nothing was changed'"},
    "run/verdict.py": {"'interrupted; the host is as it was'"},
    # a note, beside a fault with a hint
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
    assert Problem("no", hint="ip link add NAME type bridge").of("x").hint.count("NAME") == 1


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
