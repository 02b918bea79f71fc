"""Shells complete verbs, options, profiles, machines and addresses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qlaunch.cli.completion import FILES, candidates
from qlaunch.cli.main import VERBS


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
