"""`devices --vgpu` and `vgpu`: what is listed, who has what, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.cli.slices import Listing
from qlaunch.cli.vgpu import find_function, find_nvidia_type, find_type
from qlaunch.errors import HostError, UsageError
from qlaunch.facts.probe import read_snapshot
from qlaunch.facts.vgpu_model import Mdev, VgpuFacts
from qlaunch.host.handler import Host
from qlaunch.run import slices
from qlaunch.run.claims import Owner, drop_claims, take_claims
from qlaunch.values import PciAddress
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.typed import Type, typing

DATA = Path(__file__).parents[1] / "data/facts"
UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def typed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Type:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qlaunch.cli.base.runtime_root", lambda *_: str(tmp_path / "run"))
    return typing(capfd)


def test_types_are_listed_with_what_they_can(typed: Type) -> None:
    found = typed("devices", "--vgpu", "--facts", str(DATA / "gvt-laptop.json"))
    assert found.code == 0
    assert found.out == (
        "0000:00:02.0  8086:5917  i915: mediated devices\n"
        "  i915-GVTg_V5_4: 1 left, 640M, 1 head, 1920x1200\n"
        "  i915-GVTg_V5_8: 2 left, 448M, 1 head, 1024x768\n"
    )


def test_functions_are_listed_with_what_they_can_become(typed: Type) -> None:
    found = typed("devices", "--vgpu", "--facts", str(DATA / "ada-server.json"))
    lines = found.out.splitlines()
    assert lines[0] == "0000:41:00.0  10de:26b1  nvidia: 8 of 8 virtual functions on"
    assert lines[1:6] == [
        "  NVIDIA RTX6000-Ada-2Q (555): on 7 functions, 2G",
        "  NVIDIA RTX6000-Ada-8Q (557): on 7 functions, 8G",
        "  NVIDIA RTX6000-Ada-16Q (559): on 7 functions, 16G",
        "  0000:41:00.4  NVIDIA RTX6000-Ada-16Q",
        "  0000:41:00.5  no vGPU",
    ]
    assert [line for line in lines if len(line) > 80] == []


def test_only_those_that_were_asked_for(typed: Type) -> None:
    def said(address: str) -> str:
        found = typed("devices", "--vgpu", address, "--facts", str(DATA / "ada-server.json"))
        return found.out if found.code == 0 else found.err

    assert said("41:00.0") == said("41:00.5") != ""
    assert "none of these can be sliced" in said("c3:00.0")
    assert "no such PCI device" in said("99:00.0")


def test_a_full_card_says_so() -> None:
    facts = read_snapshot(DATA / "ada-server.json")
    assert facts.vgpu is not None
    full = tuple(replace(v, creatable=()) for v in facts.vgpu.nvidia)
    text = Listing(replace(facts, vgpu=replace(facts.vgpu, nvidia=full)), "").text()
    assert "  nothing more can be made now\n  0000:41:00.4  type 559\n" in text


def test_an_old_snapshot_does_not_know(typed: Type) -> None:
    found = typed("devices", "--vgpu", "--facts", str(DATA / "plain.json"))
    assert found.code == 1
    assert "does not say what its host can be sliced into" in found.err


def test_json_has_all_of_it(typed: Type) -> None:
    for name in ("gvt-laptop", "ada-server"):
        found = typed("devices", "--vgpu", "--json", "--facts", str(DATA / f"{name}.json"))
        told = json.loads(found.out)
        if name == "gvt-laptop":
            assert told["mdev"][0]["types"][0]["memory"] == 640 << 20
        else:
            assert told["sriov"][0]["functions"][0]["type"] == 559
            assert len(told["sriov"][0]["functions"]) == 8


def test_a_host_with_nothing_says_what_is_missing() -> None:
    facts = replace(read_snapshot(DATA / "plain.json"), vgpu=VgpuFacts())
    text = Listing(facts, "").text()
    assert "no device of this host can be sliced" in text
    assert "hint:" in text


def test_owners_are_named(tmp_path: Path) -> None:
    facts = read_snapshot(DATA / "gvt-laptop.json")
    assert facts.vgpu is not None
    there = Mdev(uuid=UUID, parent="0000:00:02.0", type="i915-GVTg_V5_4", group=12)
    facts = replace(facts, vgpu=replace(facts.vgpu, mdevs=(there,)))
    claims = take_claims(str(tmp_path), Owner("win10"), [UUID])
    try:
        assert f"  {UUID}  i915-GVTg_V5_4  has win10" in Listing(facts, str(tmp_path)).text()
        text = Listing(facts, "", {UUID: "qemu-system-x86 (pid 7)"}).text()
        assert f"  {UUID}  i915-GVTg_V5_4  has qemu-system-x86 (pid 7)" in text, "not of ours"
    finally:
        drop_claims(claims)


def test_a_type_is_found_by_any_of_its_names() -> None:
    facts = read_snapshot(DATA / "gvt-laptop.json").vgpu
    assert facts is not None
    for kind in ("i915-GVTg_V5_4", "GVTg_V5_4"):
        parent, found = find_type(facts, "00:02.0", kind)
        assert (parent.name, found.id) == ("0000:00:02.0", "i915-GVTg_V5_4")
    with pytest.raises(UsageError, match="no vGPU can be made on this"):
        find_type(facts, "00:03.0", "x")
    with pytest.raises(UsageError, match="did you mean i915-GVTg_V5_"):
        find_type(facts, "00:02.0", "i915-GVTg_V5_3")


def test_a_functions_type_is_found_by_any_of_its_names() -> None:
    facts = read_snapshot(DATA / "ada-server.json").vgpu
    assert facts is not None
    function = find_function(facts, "41:00.5")
    assert function is not None
    for kind in ("557", "NVIDIA RTX6000-Ada-8Q", "RTX6000-Ada-8Q"):
        assert find_nvidia_type(function, kind).number == 557
    with pytest.raises(UsageError, match="did you mean NVIDIA RTX6000-Ada-8Q"):
        find_nvidia_type(function, "NVIDIA RTX6000-Ada-9Q")
    assert find_function(facts, "41:00.0") is None
    assert find_function(facts, "mdpy") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "00:02.0"), "takes PARENT TYPE"),
        (("remove", UUID, "x"), "takes UUID or ADDRESS"),
        (("remove", "zz"), "this is no UUID"),
        (("create", "a", "b", "--uuid", "zz"), "this is no UUID"),
        (("destroy", UUID), "there is no such action"),
    ],
)
def test_mistyped(typed: Type, words: tuple[str, ...], message: str) -> None:
    found = typed("vgpu", *words)
    assert found.code == 2
    assert message in found.err


class TestByHand:
    @pytest.fixture
    def kernel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VgpuKernel]:
        kernel = VgpuKernel(tmp_path / "host")
        kernel.add_parent("mdpy", {"mdpy-vga": 1}, pool=2)
        monkeypatch.setattr(slices, "telling", lambda say: kernel.host())
        yield kernel
        kernel.release()

    def test_made_and_removed(self, kernel: VgpuKernel, tmp_path: Path) -> None:
        base, said = str(tmp_path / "run"), list[str]()
        slices.create_slice(base, "mdpy", "mdpy-vga", UUID, said.append)
        assert kernel.mdevs() == [UUID]
        with pytest.raises(HostError, match="is there already"):
            slices.create_slice(base, "mdpy", "mdpy-vga", UUID, said.append)
        slices.remove_slice(base, UUID, said.append)
        assert kernel.mdevs() == []
        assert said == [
            f"{UUID} is a mdpy-vga of mdpy", f"{UUID}, mdpy-vga of mdpy, is removed",
        ]
        with pytest.raises(HostError, match="no such mediated device"):
            slices.remove_slice(base, UUID, said.append)

    def test_nvidias_on_a_function(self, kernel: VgpuKernel, tmp_path: Path) -> None:
        kernel.add_driver("nvidia")
        kernel.add_device("0000:41:00.0", ids="10de:26b1", driver="nvidia", group=40)
        kernel.add_sriov("0000:41:00.0", 1, offset=4, matches="nvidia")
        kernel.write(kernel.device("0000:41:00.0") / "sriov_numvfs", b"1")
        kernel.add_nvidia("0000:41:00.0", [(557, "NVIDIA RTX6000-Ada-8Q", 8)], pool=16)
        function = PciAddress("0000:41:00.4")
        base, said = str(tmp_path / "run"), list[str]()
        slices.set_type(base, function, 557, "NVIDIA RTX6000-Ada-8Q", said.append)
        assert kernel.read(function, "nvidia/current_vgpu_type") == "557"
        with pytest.raises(HostError, match="has a vGPU already"):
            slices.set_type(base, function, 557, "NVIDIA RTX6000-Ada-8Q", said.append)
        claims = take_claims(base, Owner("win10"), [function])
        with pytest.raises(HostError, match="in use by the machine win10"):
            slices.clear_type(base, function, said.append)
        drop_claims(claims)
        kernel.open_group(kernel.group(function) or 0)
        with pytest.raises(HostError, match="in use"):
            slices.clear_type(base, function, said.append)
        kernel.close_group(kernel.group(function) or 0)
        slices.clear_type(base, function, said.append)
        assert kernel.read(function, "nvidia/current_vgpu_type") == "0"
        with pytest.raises(HostError, match="has no vGPU"):
            slices.clear_type(base, function, said.append)
        with pytest.raises(HostError, match="no such PCI device"):
            slices.clear_type(base, PciAddress("0000:99:00.0"), said.append)
        assert said == [
            f"{function} is a NVIDIA RTX6000-Ada-8Q", f"the vGPU on {function} is taken away",
        ]

    def test_a_running_machines_is_refused(self, kernel: VgpuKernel, tmp_path: Path) -> None:
        base = str(tmp_path / "run")
        slices.create_slice(base, "mdpy", "mdpy-vga", UUID, lambda _: None)
        claims = take_claims(base, Owner("win10"), [UUID])
        with pytest.raises(HostError, match="in use by the machine win10"):
            slices.remove_slice(base, UUID, lambda _: None)
        drop_claims(claims)
        kernel.open_group(kernel.group_of(UUID))
        with pytest.raises(HostError, match="in use"):
            slices.remove_slice(base, UUID, lambda _: None)
        assert kernel.mdevs() == [UUID]
        assert Host().root == Path("/")
