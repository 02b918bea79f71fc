"""What verbs print: columns, durations, names that were meant, groups of devices."""

from __future__ import annotations

import pytest

from qlaunch.cli.byhand import addresses_of
from qlaunch.cli.devices import group_text
from qlaunch.cli.known import machine_name
from qlaunch.cli.main import VERBS
from qlaunch.cli.ps import duration
from qlaunch.cli.text import columns, folded, nearest
from qlaunch.errors import Problem, UsageError
from qlaunch.facts.model import Holder, Iommu
from qlaunch.plan.handover import groups
from tests.fake.plans import AUDIO, BRIDGE, NET, device, host


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h 0m"), (86399, "23h 59m"),
     (90000, "1d 1h")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns() -> None:
    assert columns([("a", "bb", "c d"), ("aaa", "b", "")], ("X", "Y", "Z")) == (
        "X    Y   Z\na    bb  c d\naaa  b\n"
    )
    assert columns([], ("X", "Y")) == "X  Y\n"
    devices = "0000:01:00.0 " * 6
    assert columns([("win7", devices.strip()), ("a", "-")], ("N", "D"), fold=True) == (
        f"N     D\nwin7  {devices[:13 * 5].strip()}\n      0000:01:00.0\na     -\n"
    )


def test_nearest() -> None:
    assert nearest("statsu", VERBS) == "status"
    assert nearest("zzz", VERBS) is None


def test_a_problem_in_words() -> None:
    whole = Problem("it is so", "a.toml:1: b", "x", "y", "do z", "warning")
    assert str(whole) == (
        "warning: a.toml:1: b: it is so\n  found:   x\n  allowed: y\nhint: do z"
    )
    assert str(Problem("it is so")) == "error: it is so"
    long = "x" * 90
    assert str(Problem("no", allowed=f"{long}, a, b")) == (
        f"error: no\n  allowed: {long},\n           a, b")


@pytest.mark.parametrize(
    ("text", "name"),
    [("win7", "win7"), ("win7.toml", "win7"), ("/a/b/win7.toml", "win7"), ("my vm", "my vm")],
)
def test_a_machines_name(text: str, name: str) -> None:
    assert machine_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "..", "/", "-x", ".claims", "a\nb", "ü", "x" * 64])
def test_no_machines_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        machine_name(text)
    assert caught.value.problems[0].hint


def test_addresses_each_once_and_all_bad_ones() -> None:
    assert addresses_of(["3:0.0".replace("3:0", "03:00"), "0000:03:00.0"]) == ["0000:03:00.0"]
    with pytest.raises(UsageError) as caught:
        addresses_of(["x", "03:00.0", "y"])
    assert [p.found for p in caught.value.problems] == ["x", "y"]


def test_groups_fit_eighty_columns() -> None:
    xorg = Holder(
        kind="process", what="/dev/dri/card0", pid=812, command="Xorg", unit="session-2.scope",
        remedy="log out, or: loginctl terminate-session 2",
    )
    card = device("03:00.0", group=8, holders=(xorg,), boot_vga=True, reset_methods=("flr", "bus"))
    sound = device("03:00.1", "10de:0e0c", AUDIO, group=8, driver=None, reset_methods=())
    port = device("00:01.0", "8086:1", BRIDGE, group=7, driver="pcieport")
    nic = device("04:00.0", "8086:1", NET, group=9, sriov_total=7, sriov_count=2)
    texts = [group_text(g) for g in groups(host(card, sound, port, nic))]
    assert all(len(line) <= 80 for text in texts for line in text.splitlines())
    by_head = {text.splitlines()[0]: text for text in texts}
    held = by_head["group 8: cannot be handed over"]
    assert "Xorg (pid 812)" in held
    assert "hint: log out" in held
    assert "reset: flr bus" in held
    assert "the firmware's boot display" in held
    assert "reset: none" in held
    assert "group 7: bridges: stay with the host" in by_head
    assert "2 of 7 virtual functions on" in by_head["group 9: cannot be handed over"]
    assert "group 90: could be handed over" in by_head


def test_groups_say_why_the_iommu_is_off() -> None:
    off = Iommu(enabled=False, reason="the firmware has no DMAR table", hint="switch on VT-d")
    lonely = device("04:00.0", "8086:1", NET, group=None)
    text = group_text(groups(host(lonely, iommu=off))[-1])
    assert "no IOMMU group: cannot be handed over" in text
    assert "(the firmware has no DMAR table)" in " ".join(text.split())
    assert "hint: switch on VT-d" in text


def test_a_problem_on_a_terminal() -> None:
    problem = Problem(
        "is in use by a program that nobody has ever heard of before", "win7.toml:12: pci[0]",
        "one word after the other until there are more than fit", "a, b",
        "log out; or: echo 0000:01:00.0 | sudo tee /sys/bus/pci/drivers/amdgpu/unbind; then again",
    )
    assert folded(str(problem), 60).splitlines() == [
        "error: win7.toml:12: pci[0]: is in use by a program that",
        "  nobody has ever heard of before",
        "  found:   one word after the other until there are more",
        "           than fit",
        "  allowed: a, b",
        "hint: log out;",
        "      or: echo 0000:01:00.0 | sudo tee /sys/bus/pci/drivers/amdgpu/unbind;",
        "      then again",
    ]
    assert folded(str(problem), 200) == str(problem)
