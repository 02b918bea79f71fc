"""read_facts reads what is wanted, snapshots come back equal, and the checked-in ones are fresh."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.codec import from_json, to_json
from qlaunch.errors import UsageError
from qlaunch.facts.model import EVERYTHING, HostFacts, Wanted
from qlaunch.facts.probe import read_facts, read_kernel, read_snapshot
from tests.fake.snapshots import DATA, SNAPSHOTS
from tests.fake.trees import Tree

NOTHING = Wanted(
    cpus=False, memory=False, pci=False, kvm=False, iommu=False, links=False, qemu=None
)


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_checked_in_snapshots_are_fresh(tmp_path: Path, name: str) -> None:
    made = SNAPSHOTS[name](tmp_path)
    assert read_snapshot(DATA / f"{name}.json") == made, "run python -m tests.fake.snapshots"


def test_what_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    facts = read_facts(NOTHING, tmp_path)
    subjects = ("cpus", "memory", "pci", "kvm", "iommu", "links", "qemu")
    assert {subject: getattr(facts, subject) for subject in subjects} == dict.fromkeys(subjects)
    assert facts.files == ()
    assert facts.invoker is not None


def test_an_empty_tree_is_no_failure(tmp_path: Path) -> None:
    facts = read_facts(Wanted(qemu=None, holders=True, files=("/none",)), tmp_path)
    assert (facts.cpus, facts.pci, facts.links) == ((), (), ())
    assert [f.path for f in facts.files] == ["/none", "/dev/kvm"]
    assert facts.kvm is not None
    assert not facts.kvm.present


def test_holders_only_when_wanted(tmp_path: Path) -> None:
    Tree(tmp_path).pci("0000:01:00.0", "10de:1200", 0x030000)
    pci = read_facts(Wanted(qemu=None), tmp_path).pci
    held = read_facts(Wanted(qemu=None, holders=True), tmp_path).pci
    assert pci is not None
    assert held is not None
    assert (pci[0].holders, held[0].holders) == (None, ())


def test_kernel(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/modules", "vfio_pci 1 0 - Live 0x0\next4 1 0 - Live 0x0\ntun 1 0 - Live 0x0")
    tree.directory("sys/module/kvm_amd")
    tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    tree.write("proc/sys/kernel/osrelease", "6.1.0")
    kernel = read_kernel(tmp_path)
    assert kernel.modules == ("kvm_amd", "tun", "vfio_pci")
    assert (kernel.lockdown, kernel.release) == ("integrity", "6.1.0")
    tree.write("sys/kernel/security/lockdown", "[none] integrity confidentiality")
    assert read_kernel(tmp_path).lockdown == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "no facts"),
        (b"{", "no facts"),
        (b"\xff", "no facts"),
        (b"[]", "no facts"),
        (b'{"host": "x"}', "no facts"),
        (b'{"version": 2}', "another version"),
        (b'{"version": 1, "cpus": [{"id": "one"}]}', "no facts"),
        (b'{"version": 1, "pci": [{"address": "zz", "id": "1:2"}]}', "no facts"),
    ],
)
def test_bad_snapshots_name_the_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "host.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_snapshot(file)
    (problem,) = caught.value.problems
    assert problem.where == str(file)
    assert said in problem.message


def test_this_host_goes_to_json_and_back() -> None:
    facts = read_facts(Wanted(holders=EVERYTHING.holders, qemu=None, files=("/dev/null",)))
    assert from_json(to_json(facts), HostFacts) == facts
    assert facts.host
    kvm = facts.file("/dev/kvm")
    assert kvm is not None
    assert facts.kvm is not None
    assert (kvm.kind == "char") is facts.kvm.present
