"""`qlaunch host` as it is typed: shows by default, writes with --apply, tells, refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fake.distros import make_root, snapshot
from tests.fake.typed import Type, typing


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return typing(capfd)


@pytest.fixture
def root(tmp_path: Path) -> str:
    make_root("debian", tmp_path)
    return str(tmp_path)


def test_shown_done_shown_and_taken_back(typed: Type, root: str) -> None:
    before = snapshot(Path(root))
    shown = typed("host", "setup", "--root", root)
    assert (shown.code, shown.err) == (0, "")
    assert "+++ b/etc/default/grub.d/zz-qlaunch.cfg\n" in shown.out
    assert "then, on the machine itself:\n  update-grub\n" in shown.out
    assert "nothing was changed; to do it: " in shown.out
    assert snapshot(Path(root)) == before
    assert "nothing was set up" in typed("host", "show", "--root", root).out
    assert "nothing to take back" in typed("host", "revert", "--root", root).out

    done = typed("host", "setup", "--root", root, "--apply", changes=True)
    assert done.code == 0 and "wrote /etc/default/grub.d/zz-qlaunch.cfg\n" in done.err
    assert typed("host", "setup", "--root", root).out == (
        "all is as it should be: nothing to change\n"
    )
    told = typed("host", "show", "--root", root).out
    assert "parameter  intel_iommu=on  (from the next boot on)\n" in told
    assert "file       /etc/modules-load.d/qlaunch.conf\n" in told

    back = typed("host", "revert", "--root", root)
    assert "+++ /dev/null\n" in back.out and "  update-grub\n" in back.out
    assert typed("host", "revert", "--root", root, "--apply", changes=True).code == 0
    assert snapshot(Path(root)) == before


def test_json(typed: Type, root: str) -> None:
    words = ("host", "setup", "--root", root, "--json", "--early", "01:00.0", "01:00.1")
    shown = json.loads(typed(*words).out)
    assert shown["applied"] is False and shown["boot"] == "grub"
    assert shown["parameters"] == ["intel_iommu=on", "iommu=pt"]
    assert ["update-initramfs", "-u", "-k", "all"] in shown["commands"]
    assert {c["action"] for c in shown["changes"]} == {"create", "edit"}
    assert json.loads(typed("host", "show", "--root", root, "--json").out) is None
    done = typed(*words, "--apply", changes=True)
    assert json.loads(done.out)["applied"] is True
    told = json.loads(typed("host", "show", "--root", root, "--json").out)
    assert told["complete"] is True and all(file["there"] for file in told["files"])
    assert told["wishes"]["early"] == ["0000:01:00.0", "0000:01:00.1"]


def test_show_tells_of_what_is_gone_and_of_the_running_kernel(typed: Type, root: str) -> None:
    typed("host", "setup", "--root", root, "--apply", changes=True)
    Path(root, "etc/modules-load.d/qlaunch.conf").write_text("loop\n")
    Path(root, "proc/cmdline").write_text("ro intel_iommu=on iommu=pt\n")
    told = typed("host", "show", "--root", root).out
    assert "parameter  intel_iommu=on\n" in told
    assert "file       /etc/modules-load.d/qlaunch.conf  (changed since, or gone)\n" in told


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        ("host", "the following arguments are required: ACTION", 2),
        ("host setpu", "did you mean setup?", 2),
        ("host revert --user anna", "host revert takes no --user", 2),
        ("host show --apply", "host show changes nothing", 2),
        ("host setup --early 1:2", "this is no PCI address", 2),
        ("host setup --hugepages 4M:3", "this is no size and number of huge pages", 2),
        ("host setup --hugepages 2M:x", "this is no size and number of huge pages", 2),
        ("host setup --hugepages 2M:1 --hugepages 2M:2", "this page size is named twice", 2),
        ("host setup --memlock 1G", "--memlock is the limit of an account", 2),
        ("host setup --user anna --memlock much", "--memlock takes a size", 2),
        ("host setup --boot lilo", "there is no such boot loader", 2),
        ("host setup --root /no/such", "this is no directory", 2),
        ("host setup --user bob", "there is no such user", 1),
        ("host setup --early 00:02.0", "the host's screen is on this card", 1),
    ],
)
def test_what_cannot_be(typed: Type, root: str, words: str, says: str, code: int) -> None:
    if "--root" not in words:
        words += f" --root {root}"
    found = typed(*words.split())
    assert (found.code, found.out) == (code, "")
    assert says in found.err
    assert len(found.faults()) == 1


def test_the_host_itself_wants_root_before_it_shows(
    typed: Type, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("qlaunch.cli.host._is_host", lambda _: True)
    monkeypatch.setattr("qlaunch.cli.elevate.root_command", lambda *_: None)
    found = typed("host", "setup", "--root", root, "--apply")
    assert found.code == 1 and "host setup --apply needs root" in found.err
    assert "hint: as root: " in found.err
    assert found.out == ""  # root's own run shows the difference
    assert typed("host", "setup", "--root", root).code == 0  # to show is for everybody


def test_a_record_that_cannot_be_understood(typed: Type, root: str) -> None:
    file = Path(root, "var/lib/qlaunch/host-setup.json")
    file.parent.mkdir()
    file.write_text("{")
    for action in ("setup", "revert", "show"):
        found = typed("host", action, "--root", root)
        assert found.code == 1 and "cannot be understood" in found.err


def test_texts_fit_into_80_columns(typed: Type, root: str) -> None:
    typed("host", "setup", "--root", root, "--user", "anna", "--apply", changes=True)
    texts = typed("host", "show", "--root", root).out.splitlines()
    texts += typed("host", "setup", "--root", root, "--early", "03:00.0").err.splitlines()
    assert [line for line in texts if len(line) > 80] == []
