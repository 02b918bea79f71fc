"""Shells complete verbs, options, profiles, machines and addresses."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.cli.candidates import FILES, candidates
from qlaunch.cli.main import VERBS
from qlaunch.desktop.entry import Shortcut, entry_text
from qlaunch.run.info import info_of, write_info
from tests.fake.plans import NET, device, host, planned


def test_verbs() -> None:
    assert candidates(["st"]) == ["status", "stop"]
    assert candidates([""]) == list(VERBS)
    assert candidates(["nothing", ""]) == []


def test_options_and_their_values() -> None:
    assert "--detach" in candidates(["run", "win7", "--d"])
    assert candidates(["plan", "--facts", ""]) == [FILES]
    assert candidates(["stop", "--"]) == ["--help", "--now", "--force", "--timeout"]
    assert candidates(["stop", "--timeout", ""]) == []


def test_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "win7.toml").write_text("")
    (tmp_path / "a b.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    assert candidates(["run", ""]) == ["a b", "win7"]
    assert candidates(["run", "--set", "x=1", "w"]) == ["win7"]
    assert candidates(["run", "win7", ""]) == []
    assert candidates(["run", "./w"]) == [FILES]


def test_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "win7").mkdir()
    monkeypatch.setattr("qlaunch.cli.base.runtime_base", lambda: str(tmp_path))
    assert candidates(["stop", "w"]) == ["win7"]
    assert candidates(["media", "win7", ""]) != ["win7"]


def test_choices() -> None:
    assert candidates(["vgpu", ""]) == ["create", "remove"]
    assert candidates(["host", "re"]) == ["revert"]
    assert candidates(["desktop", ""]) == ["install", "remove", "list"]
    assert candidates(["completion", "z"]) == ["zsh"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that runs, with a card and a USB device; profiles in the working directory."""
    base, here = tmp_path / "base", tmp_path / "here"
    (base / "win7").mkdir(parents=True)
    here.mkdir()
    (here / "vm.toml").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("qlaunch.cli.base.runtime_base", lambda: str(base))
    plan = planned('[[pci]]\ndevice = "04:00.0"\n[[usb]]\ndevice = "046d:c52b"\n'
                   '[[serial]]\n[[serial]]\n', host(device("04:00.0", "1:1", NET, group=4)))
    info = info_of(plan, "/x/win7.toml", 0.0, trusted=False)
    write_info(replace(info, runtime_dir=str(base / "win7"), socket_dir=str(base / "win7")))
    for number in (0, 1):
        (base / f"win7/serial{number}.sock").touch()
    return base


@pytest.mark.parametrize("action", ["stop", "view", "recover"])
def test_desktop_actions_on_machines(machine: Path, action: str) -> None:
    assert candidates(["desktop", action, ""]) == ["win7"]


def test_desktop_actions_on_profiles_and_entries(machine: Path, tmp_path: Path) -> None:
    assert candidates(["desktop", "start", ""]) == ["vm"]
    assert candidates(["desktop", "install", ""]) == ["vm"]
    assert candidates(["desktop", "list", ""]) == []
    entry = tmp_path / "share/applications/qlaunch-old.desktop"
    entry.parent.mkdir(parents=True)
    shortcut = Shortcut("old", "other", "/x/old.toml", ("qlaunch",), "qemu", devices=False)
    entry.write_text(entry_text(shortcut))
    assert candidates(["desktop", "remove", ""]) == ["old"]


def test_devices_and_ports_are_the_machines(machine: Path) -> None:
    assert candidates(["detach", "win7", ""]) == ["04:00.0", "046d:c52b"]
    assert candidates(["attach", "win7", "04:00.0", "046"]) == ["046d:c52b"]
    assert candidates(["detach", "none", ""]) == []
    assert candidates(["console", "win7", ""]) == ["serial0", "serial1"]


def test_another_machine(machine: Path, tmp_path: Path) -> None:
    """Its host from ssh's files, its verbs and our profiles; what runs here does not run there."""
    ssh = tmp_path / ".ssh"
    (ssh / "more").mkdir(parents=True)
    (ssh / "config").write_text(
        'Include more/*.conf\nHost rack7 rack8\n  User anna\nhost=dev !no *.org\n')
    (ssh / "more/lab.conf").write_text("Host lab1\nInclude ~/.ssh/config\n")
    (ssh / "known_hosts").write_text(
        "|1|abc=|def= ssh-ed25519 AA\nattic,10.0.0.7 ssh-ed25519 AA\n\n[x]:22 ssh-rsa A\n")
    assert candidates(["on", ""]) == ["lab1", "rack7", "rack8", "dev", "attic", "10.0.0.7"]
    assert candidates(["on", "root@rack"]) == ["root@rack7", "root@rack8"]
    (tmp_path / "own config").write_text("Host there\n")
    assert candidates(["on", "-F", str(tmp_path / "own config"), "t"]) == ["there"]
    assert candidates(["on", "-F", ""]) == [FILES]
    assert candidates(["on", "rack7", "st"]) == ["status", "stop"]
    assert candidates(["on", "-p", "22", "rack7", "de"]) == ["devices", "detach"]
    assert candidates(["on", "rack7", "run", ""]) == ["vm"]
    assert "--detach" in candidates(["on", "rack7", "run", "vm", "--"])
    assert candidates(["on", "rack7", "vgpu", ""]) == ["create", "remove"]
    for verb in ("stop", "detach", "bind", "on", "desktop"):
        assert candidates(["on", "rack7", verb, ""]) == []


def test_what_is_looked_up(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [("root", 0), ("daemon", 1), ("anna", 1000), ("nobody", 65534)]
    monkeypatch.setattr("pwd.getpwall", lambda: [
        pwd.struct_passwd((name, "x", uid, uid, "", "/", "")) for name, uid in people])
    assert candidates(["host", "setup", "--user", ""]) == ["anna"]
    assert candidates(["host", "setup", "--boot", "g"]) == ["grub", "grubby"]
    assert candidates(["plan", "vm", "--diff", ""]) == ["last", "vm"]
    assert candidates(["new", ""]) == []
    assert candidates(["new", "--guest", "windows1"]) == ["windows10", "windows11"]
    assert candidates(["new", "--network", "n"]) == ["nat", "none"]
    assert candidates(["new", "--card", "n"]) == ["none"]
    assert "win7" not in candidates(["unbind", "--driver", ""])


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_fails(verb: str) -> None:
    candidates([verb, ""])
    assert "--help" in candidates([verb, "-"])


def program(tmp_path: Path) -> Path:
    """A directory with `qlaunch` in it."""
    made = tmp_path / "bin/qlaunch"
    made.parent.mkdir()
    made.write_text(f'#!/bin/sh\nexec {sys.executable} -m qlaunch "$@"\n')
    made.chmod(0o755)
    return made.parent


def test_bash_for_real(tmp_path: Path) -> None:
    (tmp_path / "a b.toml").write_text("")
    script = f"""
PATH={program(tmp_path)}:$PATH
XDG_CONFIG_HOME={tmp_path}
source <(qlaunch completion bash)
cd {tmp_path}
COMP_WORDS=(qlaunch run a); COMP_CWORD=2; _qlaunch; printf '%s\\n' "${{COMPREPLY[@]}}"
COMP_WORDS=(qlaunch plan --facts bi); COMP_CWORD=3; _qlaunch 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
COMP_WORDS=(qlaunch run --set name=x a); COMP_CWORD=4; _qlaunch; printf '%s\\n' "${{COMPREPLY[@]}}"
COMP_WORDS=(qlaunch stop --); COMP_CWORD=2; _qlaunch; printf '%s\\n' "${{COMPREPLY[@]}}"
qlaunch() {{ echo "$*" >&2; echo 01:00.0; }}
COMP_WORDS=(qlaunch devices 01 : 0); COMP_CWORD=4; _qlaunch; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": "/"},
    )
    assert done.stdout == "a\\ b\nbin\na\\ b\n--help\n--now\n--force\n--timeout\n00.0\n", done


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_fish_for_real(tmp_path: Path) -> None:
    (tmp_path / "a b.toml").write_text("")
    (tmp_path / "win7.toml").write_text("")
    script = f"""
set -x PATH {program(tmp_path)} $PATH
set -x XDG_CONFIG_HOME {tmp_path}
qlaunch completion fish | source
cd {tmp_path}
complete -C 'qlaunch run '
complete -C 'qlaunch plan --facts ./wi'
complete -C 'qlaunch pau'
"""
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin",
             "HOME": str(tmp_path)},
    )
    assert done.stdout == "a b\nwin7\n./win7.toml\npause\n", done


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh_for_real(tmp_path: Path) -> None:
    """Its completion system stands aside: compadd tells what it is given."""
    (tmp_path / "a b.toml").write_text("")
    script = f"""
PATH={program(tmp_path)}:$PATH
XDG_CONFIG_HOME={tmp_path}
cd {tmp_path}
compadd() {{ shift; print -rl -- "$@" }}
_files() {{ print files }}
ask() {{ words=("$@") CURRENT=$#; eval "$(qlaunch completion zsh)" }}
ask qlaunch run ''
ask qlaunch run 'a\\ '
ask qlaunch plan --facts x
ask qlaunch run nothing
ask qlaunch pau
"""
    done = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin",
             "HOME": str(tmp_path)},
    )
    assert done.stdout == "a b\na b\nfiles\npause\n", done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_good_to_their_shells(shell: str, tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "qlaunch", "completion", shell], capture_output=True, check=True
    ).stdout
    assert b"qlaunch completion words --" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, check=True, cwd=tmp_path)
