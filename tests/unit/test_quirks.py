"""The table of known devices: whom each entry is about, and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlaunch.codec import to_json
from qlaunch.plan.quirks import quirk_problems, quirks_of, table
from tests.fake.plans import AUDIO, BRIDGE, device, host, planned, profile
from tests.fake.typed import Type
from tests.unit.test_cli_verbs import typed

__all__ = ["typed"]
USB = 0x0C0330
CARD = "[[pci]]\ndevice = '01:00.0'\n"


def names(ident: str, cls: int = 0x030000, text: str | None = None, **more: object) -> list[str]:
    found = device("01:00.0", ident, cls, **{"driver": None, **more})  # type: ignore[arg-type]
    return [q.id for q in quirks_of(found, None if text is None else profile(text))]


@pytest.mark.parametrize(
    ("ident", "quirk"),
    [
        ("1002:67df", "amd-polaris-reset"), ("1002:699f", "amd-polaris-reset"),
        ("1002:687f", "amd-vega-reset"), ("1002:66af", "amd-vega-reset"),
        ("1002:7310", "amd-navi-reset"), ("1002:7340", "amd-navi-reset"),
        ("1002:7550", "d3cold-navi48"),
        ("1002:73ff", "amd-navi23"),
        ("10de:1200", "nvidia-fermi-code43"), ("10de:06cd", "nvidia-fermi-code43"),
        ("10de:0dc4", "nvidia-fermi-code43"), ("10de:1086", "nvidia-fermi-code43"),
        ("10de:1b81", "nvidia-code43"), ("10de:2206", "nvidia-code43"),
    ],
)
def test_cards_by_their_ids(ident: str, quirk: str) -> None:
    assert names(ident) == [quirk]


@pytest.mark.parametrize("ident", ["1002:73bf", "1002:6798", "1002:744c", "8086:56a0"])
def test_cards_that_nothing_is_known_of(ident: str) -> None:
    assert names(ident) == []


def test_conditions() -> None:
    assert names("1002:67df", reset_methods=("device_specific", "bus")) == []
    assert names("1002:67df", reset_methods=("bus",)) == ["amd-polaris-reset"]
    assert names("1002:67df", AUDIO) == []
    assert names("10de:1200", text="guest = 'linux'") == []
    assert names("10de:1200", text="guest = 'windows7'") == ["nvidia-fermi-code43"]
    assert names("10de:1200", text="guest = 'windows7'\n[cpu]\nhide_kvm = true") == []
    assert names("10de:1b81", driver="nvidia", text="") == ["nvidia-unbind"]
    assert names("10de:1b38", 0x030200, text="") == ["d3cold-tesla-p40"]
    assert names("1002:731f") == ["amd-navi-reset", "d3cold-navi10"]
    assert names("1002:731f", reset_methods=("device_specific",)) == ["d3cold-navi10"]
    assert names("1002:731f", AUDIO) == []
    assert names("8086:0412") == []
    igpu = device("00:02.0", "8086:0412", driver="i915")
    assert [q.id for q in quirks_of(igpu)] == ["intel-igpu"]
    assert names("1b21:1242", USB, reset_methods=("pm", "bus")) == ["usb-without-flr"]
    assert names("1b21:1242", USB, reset_methods=("flr",)) == []
    assert names("1022:149c", USB, reset_methods=("pm",)) == ["no-flr-matisse"]
    assert names("10de:0568", BRIDGE) == []


def test_the_table_is_whole() -> None:
    quirks = table()
    assert len({q.id for q in quirks}) == len(quirks)
    for quirk in quirks:
        assert quirk.source.startswith("https://")
        assert quirk.text[0].islower() or quirk.text.startswith(("AMD", "NVIDIA"))
        assert not quirk.text.endswith(".")
        assert quirk.devices or quirk.classes
        assert set(quirk.covers) <= {q.id for q in quirks}
        assert set(quirk.guests) <= {"windows7", "windows10", "windows11", "linux", "other"}


def test_a_plans_devices_are_told_with_their_key() -> None:
    facts = host(device("01:00.0", "1002:67df"))
    (told,) = quirk_problems(planned(CARD, facts), facts)
    assert (told.where, told.severity) == ("pci[0].device", "warning")
    assert told.message.startswith("0000:01:00.0: AMD Polaris")
    assert "vendor-reset" in told.hint
    assert "https://github.com/gnif/vendor-reset" in told.hint


def test_check_plan_and_devices_show_them(typed: Type, tmp_path: Path) -> None:
    snapshot = tmp_path / "facts.json"
    snapshot.write_bytes(to_json(host(device("01:00.0", "1002:67df"))))
    path = tmp_path / "vm.toml"
    path.write_text(f"[[disk]]\nfile = '/x'\n{CARD}")
    facts = ("--facts", str(snapshot))
    known = "0000:01:00.0: AMD Polaris"
    assert f"vm.toml:4: pci[0].device: {known}" in typed("plan", str(path), *facts).err
    assert f"vm.toml:4: pci[0].device: {known}" in typed("check", str(path), *facts).err
    shown = typed("devices", "01:00.0", *facts).out
    assert known in shown
    assert [line for line in shown.splitlines() if len(line) > 80 and "https" not in line] == []
    (group,) = json.loads(typed("devices", "01:00.0", "--json", *facts).out)
    assert group["quirks"][0]["message"].startswith(known)
