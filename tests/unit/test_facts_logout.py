"""What a logout does to a detached machine, as logind's files on recorded trees say."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from qlaunch.cli.command import own_command
from qlaunch.cli.detach import at_logout
from qlaunch.facts.logout import Logout, read_logout, read_manager
from tests.fake.trees import Tree

SCOPE = "0::/user.slice/user-1000.slice/session-3.scope"
RUNTIME = "/run/user/1000"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.directory("run/systemd/seats")
    tree.write("proc/self/cgroup", SCOPE)
    tree.write("etc/systemd/logind.conf", "[Login]\n#KillUserProcesses=no")
    return tree


def read(tree: Tree, runtime_dir: str = RUNTIME, user: str = "u", uid: int = 1000) -> Logout:
    return read_logout(user, uid, runtime_dir, tree.root)


def test_lingering_keeps_the_runtime_directory(tree: Tree) -> None:
    assert read(tree) == Logout("session-3.scope", kills=False, loses=True)
    assert read(tree, "") == Logout("session-3.scope")  # root's machines are in /run/qlaunch
    assert not read(tree, "/somewhere/of/mine").loses
    tree.write("var/lib/systemd/linger/u")
    assert not read(tree).loses


@pytest.mark.parametrize(("files", "kills"), [
    ({"etc/systemd/logind.conf": "[Login]\nKillUserProcesses=yes"}, True),
    ({"etc/systemd/logind.conf": "[Login]\n#KillUserProcesses=yes"}, True),
    ({"etc/systemd/logind.conf.d/a.conf": "[Login]\nKillUserProcesses = true"}, True),
    ({"usr/lib/systemd/logind.conf.d/a.conf": "[Login]\nKillUserProcesses=yes"}, True),
    ({"usr/lib/systemd/logind.conf.d/a.conf": "[Login]\nKillUserProcesses=yes",
      "etc/systemd/logind.conf.d/a.conf": ""}, False),
    ({"usr/lib/systemd/logind.conf.d/a.conf": "[Login]\nKillUserProcesses=yes",
      "etc/systemd/logind.conf.d/b.conf": "[Login]\nKillUserProcesses=no"}, False),
    ({"etc/systemd/logind.conf": "KillUserProcesses=yes\nKillExcludeUsers=root u"}, False),
    ({"etc/systemd/logind.conf": "KillUserProcesses=yes\nKillOnlyUsers=other"}, False),
    ({"etc/systemd/logind.conf": "KillUserProcesses=yes\nKillOnlyUsers=u"}, True),
    ({"etc/systemd/logind.conf": "KillUserProcesses=yes",
      "proc/self/cgroup": "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope"},
     False),
])
def test_what_logind_ends(tree: Tree, files: dict[str, str], kills: bool) -> None:
    for path, text in files.items():
        tree.write(path, text)
    assert read(tree).kills is kills


def test_without_logind_nothing_ends(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/self/cgroup", SCOPE)
    tree.write("etc/systemd/logind.conf", "KillUserProcesses=yes")
    assert read(tree) == Logout()


def test_whose_service_outlives_the_login(tree: Tree) -> None:
    """Root's manager; a user's own when it lives on; none where systemd is not PID 1."""
    tree.write("run/systemd/private")
    tree.write("run/user/1000/systemd/private")
    tree.write("var/lib/systemd/linger/u")
    assert [read_manager(u, RUNTIME, tree.root) for u in ("", "u")] == ["", ""]
    tree.directory("run/systemd/system")
    assert [read_manager(u, RUNTIME, tree.root) for u in ("", "u", "v")] == ["system", "user", ""]
    assert read_manager("u", "", tree.root) == ""
    assert read_manager("u", "/elsewhere", tree.root) == ""


def test_the_warning_says_what_to_type(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.geteuid())
    own = f"/run/user/{me.pw_uid}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", own)
    monkeypatch.setattr("sys.argv", ["qlaunch", "run", "my vm.toml", "--detach"])
    tree.write("proc/self/cgroup", SCOPE.replace("1000", str(me.pw_uid)))
    if me.pw_uid:
        (lost,) = at_logout(tree.root)
        assert lost.hint == f"sudo loginctl enable-linger {me.pw_name}"
    tree.write("etc/systemd/logind.conf", "KillUserProcesses=yes\nKillExcludeUsers=")
    (ended,) = at_logout(tree.root)
    assert ended.severity == "warning"
    assert "session-3.scope" in ended.found
    assert ended.hint.endswith(f"--scope {own_command()} run 'my vm.toml' --detach")
