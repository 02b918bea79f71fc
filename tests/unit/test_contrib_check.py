"""contrib/check runs every tier as whom it should, and never passes for having left some out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
STUBS = {  # what stands in for the machine
    "bin/id": 'echo "$ME"',
    "bin/apt-get": "exit 1",
    "contrib/qemu10": 'exit "$QEMU10"',
    "contrib/sshd": 'exit "$SSHD"',
    "bin/dpkg-query": 'echo "install ok installed"',
    "bin/sudo": (
        'case "$1" in -n) exit "$SUDO_CODE" ;; -H) shift ;; esac\nVIA=sudo\nexport VIA\nexec "$@"'
    ),
    ".venv/bin/python": 'echo "${VIA:-} ${SUDO_UID:-} $*"\ncase "$*" in *"$FAILS"*) exit 1 ;; esac',
}


# Programs without which a test would be left out where contrib/check has installed all it names.
WANTED = {
    "remote-viewer": "virt-viewer", "xtigervncviewer": "tigervnc-viewer", "tmux": "tmux",
    "Xvfb": "xvfb", "xwininfo": "x11-utils", "pkexec": "pkexec", "zsh": "zsh", "fish": "fish",
    "groff": "groff-base", "desktop-file-validate": "desktop-file-utils", "ssh": "openssh-client",
}


def check(
    top: Path, me: int, *words: str, sudo: int = 0, fails: str = "-", qemu10: int = 0, sshd: int = 0
) -> tuple[int, list[str]]:
    """Exit code, and for each pytest run who and which markers."""
    (top / "contrib").mkdir()
    for name in ("check", "setup.sh"):
        shutil.copy(TOP / "contrib" / name, top / "contrib")
    for name, text in STUBS.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    for name in ("pyproject.toml", ".venv/.qlaunch-[test]"):
        (top / name).touch()
    environ = {
        "PATH": f"{top}/bin:{os.environ['PATH']}", "ME": str(me), "SUDO_CODE": str(sudo),
        "SUDO_UID": "77", "FAILS": fails if fails != "-" else "nothing of this name",
        "QEMU10": str(qemu10), "SSHD": str(sshd),
    }
    done = subprocess.run(
        ["sh", "contrib/check", *words], cwd=top, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )
    return done.returncode, [*done.stdout.splitlines(), done.stderr]


@pytest.mark.parametrize("program", WANTED)
def test_what_tests_would_be_left_out_without_is_installed(program: str) -> None:
    tests = "".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py")
                    if path != Path(__file__))
    assert f'"{program}"' in tests
    text = (TOP / "contrib/check").read_text()
    named = text.split("\npackages ")[1].split("\nenvironment")[0]
    assert WANTED[program] in named.replace("\\\n", " ").split()


def test_root_runs_all(tmp_path: Path) -> None:
    code, (first, lab, _) = check(tmp_path, 0, "--nightly", "-k", "x")
    assert code == 0
    assert "-m not lab --nightly -n 2" in first
    assert "-m lab --nightly -n 2" in lab
    assert lab.endswith("-k x")


def test_others_run_through_sudo_what_needs_root(tmp_path: Path) -> None:
    code, (first, second, lab, _) = check(tmp_path, 1000)
    assert code == 0
    assert first.startswith(" 77 ")
    assert "not lab and not netns and not qemu" in first
    assert second.startswith("sudo  ")  # as plain root, not as root for somebody
    assert "-m netns or qemu" in second
    assert lab.startswith("sudo  ")


def test_without_sudo_it_says_what_is_left_out_and_fails(tmp_path: Path) -> None:
    code, (first, said) = check(tmp_path, 1000, sudo=1)
    assert code == 1
    assert "-m not lab and not netns " in first
    assert "left out for want of root: netns, lab" in said


@pytest.mark.parametrize("fails", ["-m not lab", "-m lab"])
def test_a_tier_that_fails_fails_the_whole_and_the_next_still_runs(
    tmp_path: Path, fails: str
) -> None:
    code, lines = check(tmp_path, 0, fails=fails)
    assert code == 1
    assert len(lines) == 3


def test_without_a_second_qemu_all_else_runs_and_the_whole_fails(tmp_path: Path) -> None:
    code, lines = check(tmp_path, 0, qemu10=1)
    assert code == 1
    assert len(lines) == 3


def test_without_an_sshd_all_else_runs_and_the_whole_fails(tmp_path: Path) -> None:
    code, lines = check(tmp_path, 0, sshd=1)
    assert code == 1
    assert len(lines) == 3
