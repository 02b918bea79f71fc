"""Root for a plan that needs it: what is told, and the exact command that is run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qlaunch.cli.command import own_command
from qlaunch.cli.elevate import KEPT, become_root, root_command
from qlaunch.errors import HostError
from tests.fake.plans import NET, device, host, planned
from tests.fake.typed import Type, typing

WORDS = ["run", "my vm.toml", "--set", "cpu.cores=2"]
OWN = [sys.executable, "-I", "-m", "qlaunch", *WORDS]
BRIDGED = '[[net]]\nbridge = "br7"\nmake_bridge = true\n'


class Executed(BaseException):
    """Stands for the process that became another."""


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The command lines that would have been run; sudo and pkexec are there."""
    calls: list[list[str]] = []

    def execute(file: str, words: list[str]) -> None:
        calls.append(words)
        raise Executed(file)

    monkeypatch.setattr(os, "execvp", execute)
    monkeypatch.setattr(sys, "argv", ["qlaunch", *WORDS])
    monkeypatch.chdir(tmp_path)
    tools(tmp_path, "sudo", "pkexec")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in (*KEPT, "SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    return calls


def tools(directory: Path, *names: str) -> None:
    (directory / "bin").mkdir(exist_ok=True)
    for path in (directory / "bin").iterdir():
        path.unlink()
    for name in names:
        (directory / "bin" / name).touch(mode=0o755)


def test_sudo_at_a_terminal_keeps_the_screen_and_the_sound() -> None:
    env = {"DISPLAY": ":0", "XAUTHORITY": "/x", "SECRET": "1", "PYTHONPATH": "/evil"}
    assert root_command(True, env) == ["sudo", "--preserve-env=DISPLAY,XAUTHORITY", "--", *OWN]
    assert root_command(False, {}) == ["sudo", "--", *OWN]


@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_pkexec_on_a_desktop_without_a_terminal(tmp_path: Path, screen: str) -> None:
    """It empties the environment and goes to root's home: both are put right by env."""
    command = root_command(False, {screen: "0", "SECRET": "1"})
    assert command == ["pkexec", "env", f"--chdir={tmp_path}", f"{screen}=0", *OWN]


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    tools(tmp_path, "pkexec")
    assert (root_command(True, {"DISPLAY": ":0"}) or [""])[0] == "pkexec"
    assert root_command(True, {}) is None
    tools(tmp_path, "sudo")
    assert (root_command(True, {"DISPLAY": ":0"}) or [""])[0] == "sudo"
    assert root_command(False, {"DISPLAY": ":0"}) is None
    tools(tmp_path)
    assert root_command(True, {"DISPLAY": ":0"}) is None


def test_sudo_asks_in_a_window_where_there_is_no_pkexec(tmp_path: Path) -> None:
    tools(tmp_path, "sudo", "ssh-askpass", "mine")
    for more, program in (({}, "ssh-askpass"), ({"SUDO_ASKPASS": f"{tmp_path}/bin/mine"}, "mine"),
                          ({"SUDO_ASKPASS": "/gone"}, "ssh-askpass")):
        assert root_command(False, {"DISPLAY": ":0", **more}) == [
            "env", f"SUDO_ASKPASS={tmp_path}/bin/{program}", "sudo", "-A",
            "--preserve-env=DISPLAY", "--", *OWN,
        ]
    tools(tmp_path, "sudo", "ssh-askpass", "pkexec")
    assert (root_command(False, {"DISPLAY": ":0"}) or [""])[0] == "pkexec"


def test_an_unusual_runtime_directory_is_kept() -> None:
    """Root finds that of pam_systemd by itself, and a sudoers file need not allow it."""
    usual = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
    assert root_command(True, usual) == ["sudo", "--", *OWN]
    assert root_command(True, {"XDG_RUNTIME_DIR": "/tmp/mine", "WAYLAND_DISPLAY": "wayland-1"}) == [
        "sudo", "--preserve-env=WAYLAND_DISPLAY,XDG_RUNTIME_DIR", "--", *OWN]


def test_root_imports_nothing_from_where_it_was_asked(tmp_path: Path) -> None:
    """A qlaunch/ in a directory of somebody's would run as root."""
    import subprocess

    (tmp_path / "qlaunch").mkdir()
    (tmp_path / "qlaunch/__main__.py").write_text("print('theirs')")
    (tmp_path / "qlaunch/__init__.py").touch()
    command = root_command(True, {}) or []
    start = command.index("--") + 1
    done = subprocess.run(
        [*command[start:-len(WORDS)], "--version"], cwd=tmp_path, text=True, check=False,
        stdout=subprocess.PIPE, env={"PYTHONPATH": str(tmp_path)},
    )
    assert "theirs" not in done.stdout


def test_it_says_what_root_is_for(
    seen: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Executed):
        become_root(planned(BRIDGED))
    assert capsys.readouterr().err == "vm needs root to make the bridge br7 (qlaunch plan)\n"
    assert seen == [["sudo", "--", *OWN]]
    card = planned('[[pci]]\ndevice = "04:00.0"\n', host(device("04:00.0", "1:1", NET, group=4)))
    with pytest.raises(Executed):
        become_root(card)
    said = capsys.readouterr().err
    assert said.startswith("vm needs root to load the kernel module vfio_iommu_type1 and ")
    assert said.endswith(" more (qlaunch plan)\n")


def test_without_a_way_to_ask_the_command_is_told(tmp_path: Path) -> None:
    tools(tmp_path)
    with pytest.raises(HostError) as caught:
        become_root(planned(BRIDGED))
    (problem,) = caught.value.problems
    assert problem.message == "there is neither sudo nor pkexec to ask for it"
    assert problem.hint == "as root: qlaunch run 'my vm.toml' --set cpu.cores=2"
    assert caught.value.exit_code == 1


def test_sudo_that_cannot_ask_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(tmp_path, "sudo")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    with pytest.raises(HostError) as caught:
        become_root(planned(BRIDGED))
    (problem,) = caught.value.problems
    assert problem.hint.startswith("at a terminal: qlaunch run 'my vm.toml' --set cpu.cores=2; or ")


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Type:
    return typing(capfd)


def test_run_asks_before_anything_is_written(
    typed: Type, seen: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an ordinary user: the plan is made, its faults are told, then root is asked for."""
    monkeypatch.setattr("qlaunch.cli.common.plan_for", lambda *_, **__: (host(), planned(BRIDGED)))
    monkeypatch.setattr("qlaunch.cli.run.plan_for", lambda *_, **__: (host(), planned(BRIDGED)))
    (tmp_path / "my vm.toml").write_text('[[disk]]\nfile = "x"\n')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Executed):
        typed("run", "my vm.toml")
    assert seen == [["sudo", "--", *OWN]]
    wrong = planned('[[net]]\nbridge = "br9"\n')
    monkeypatch.setattr("qlaunch.cli.run.plan_for", lambda *_, **__: (host(), wrong))
    found = typed("run", "my vm.toml")
    assert (found.code, found.faults()) == (
        1, ["error: net[0].bridge: this host has no such bridge"],
    )
    assert len(seen) == 1


BY_HAND = [["bind", "03:00.0"], ["unbind", "03:00.0"], ["rom", "03:00.0", "card.rom"],
           ["vgpu", "remove", "41:00.5"]]


@pytest.mark.parametrize("words", BY_HAND, ids=lambda words: str(words[0]))
def test_by_hand_root_is_asked_for(
    typed: Type, monkeypatch: pytest.MonkeyPatch, seen: list[list[str]], words: list[str],
    capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:
    """`sudo qlaunch` would not find one that is in a virtual environment or ~/.local/bin."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["qlaunch", *words])
    with pytest.raises(Executed):
        typed(*words)
    assert seen == [["sudo", "--", sys.executable, "-I", "-m", "qlaunch", *words]]
    assert " needs root\n" in capfd.readouterr().err
    tools(tmp_path)
    found = typed(*words)
    assert found.code == 1
    assert f"hint: as root: {own_command()} {' '.join(words)}\n" in found.err
