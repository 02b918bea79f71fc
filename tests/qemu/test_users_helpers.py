"""Helpers of machines of ordinary users: theirs, with their rights, whoever starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import UID, Stage
from tests.qemu.test_share import needs_virtiofsd
from tests.qemu.test_users import owners, stage

__all__ = ["stage"]
pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
]
STATE = ".local/state/qlaunch/vm/tpm2"


@pytest.fixture
def machine(stage: Stage) -> Iterator[Stage]:
    """The machine vm with a TPM, and share.toml, which shares two directories as well."""
    vm = stage.home / "vm.toml"
    stage.write("vm.toml", vm.read_text() + "[tpm]\n")
    for name, mode in (("mine", 0o700), ("roots", 0o700)):
        directory = stage.home / name
        directory.mkdir(mode=mode)
        if name == "mine":
            stage.give(directory)
        share = f'[[share]]\npath = "{directory}"\ntag = "a"\n'
        stage.write(f"{name}.toml", vm.read_text() + share)
    yield stage


@pytest.mark.parametrize("who", ["u", "s"])
def test_the_tpm_of_a_user_is_theirs(machine: Stage, who: str) -> None:
    # Those of this machine only: other tests run beside this one.
    mine = f"grep -qa 'HOME={machine.home}' /proc/$p/environ"
    left = f"for p in $(pgrep swtpm); do {mine} && echo $p; done"
    done = machine.run(f"{who} run vm.toml; echo $?; {left}; {who} run vm.toml; echo $?")
    assert done.stdout == "0\n0\n", done
    found = owners(machine.home)
    assert found[STATE] == (UID, "700")
    assert found[f"{STATE}/tpm2-00.permall"] == (UID, "600")
    assert {uid for path, (uid, _) in found.items() if "roots" not in path} == {UID}


@needs_virtiofsd
def test_a_share_that_root_starts_is_served_by_the_user(machine: Stage) -> None:
    mine = f"pgrep -f '^[^ ]*virtiofsd .*{machine.home}/'"  # others' tests run beside this one
    done = machine.run(
        "s run mine.toml --set 'machine.fw_cfg={}' --detach >&2; "
        f"for pid in $({mine}); do stat -c %u /proc/$pid; done; s stop vm --now >&2; {mine}"
    )
    assert f"{UID}\n" in done.stdout, done
    assert set(done.stdout.split()) == {str(UID)}


def test_a_user_shares_no_directory_of_roots(machine: Stage) -> None:
    for kind in ("virtiofs", "9p"):
        text = (machine.home / "roots.toml").read_text()
        machine.write("roots.toml", text.replace('tag = "a"', f'tag = "a"\ntype = "{kind}"'))
        done = machine.run(
            f"s run roots.toml; echo $?; pgrep -f '^[^ ]*virtiofsd .*{machine.home}/'"
        )
        machine.write("roots.toml", text)
        assert done.stdout == "1\n", done
        assert "share[0].path: tester, who QEMU runs as, may not read this directory" in done.stderr
    assert Path(machine.home / "roots").stat().st_uid == 0
