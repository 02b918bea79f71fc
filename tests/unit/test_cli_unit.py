"""What `run --detach` asks of systemd: see tests/qemu/test_service.py for a real one."""

from __future__ import annotations

import pytest

from qlaunch.cli import unit


def test_the_service_is_this_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["qlaunch", "run", "my $HOME.toml", "--detach"])
    monkeypatch.setattr("sys.executable", '/opt/a b/"$x"/python')
    environ = {
        "PATH": "/bin", "LC_ALL": "C", "SUDO_UID": "1000", "QLAUNCH_UNIT": "", "AWS_SECRET": "s",
        "SUDO_COMMAND": "/bin/sh", "HOME": "/a\nb", "SSH_CONNECTION": "192.0.2.7",
    }
    words = unit.command("win 7+", "user", "qlaunch-1-ab", environ)
    end = words.index("--")
    assert words[end:] == [
        "--", '/opt/a b/"$$x"/python', "-I", "-m", "qlaunch", "run", "my $$HOME.toml", "--detach",
    ]
    assert words[:2] == ["systemd-run", "--user"]
    assert "--unit=qlaunch-win\\x207\\x2b.service" in words
    own = '"/opt/a b/\\"$$x\\"/python" "-I" "-m" "qlaunch"'
    assert f'--property=ExecStopPost=-{own} "recover" "win 7+"' in words
    assert [word for word in words if word.startswith("--setenv=")] == [
        "--setenv=LC_ALL=C", "--setenv=PATH=/bin", "--setenv=QLAUNCH_UNIT=qlaunch-1-ab",
        "--setenv=SSH_CONNECTION=192.0.2.7", "--setenv=SUDO_UID=1000",
    ]


def test_the_hosts_own_ends_before_its_disks_go() -> None:
    """A user's manager would take it for units that it lacks."""
    order = "--property=After=network-online.target remote-fs.target"
    assert order in unit.command("win7", "system", "qlaunch-1-ab", {})
    assert not [w for w in unit.command("win7", "user", "x", {}) if "After=" in w]


@pytest.mark.parametrize(("value", "service"), [("no", False), ("", False), ("qlaunch-1-ab", True)])
def test_who_is_the_service(monkeypatch: pytest.MonkeyPatch, value: str, service: bool) -> None:
    monkeypatch.setenv(unit.ASKED, value)
    assert unit.is_service() is service
    monkeypatch.delenv(unit.ASKED)
    assert not unit.is_service()


def test_a_child_when_systemd_shall_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlaunch.facts.logout.read_manager", lambda *_: "system")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/systemd-run")
    monkeypatch.setenv(unit.ASKED, "no")
    assert unit.manager() == ""
    monkeypatch.delenv(unit.ASKED)
    assert unit.manager() == "system"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert unit.manager() == ""
