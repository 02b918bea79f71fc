"""What the host's QEMU, KVM, screen, CPUs and memory allow."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from qlaunch.errors import Problem
from qlaunch.facts.model import HugePages, Kvm, MemoryNode
from qlaunch.plan.steps import ReserveHugePages
from tests.fake.plans import NET, QEMU, USER, device, host, planned, said

NO_KVM = Kvm(present=False, usable=False, reason="there is no /dev/kvm", hint="modprobe kvm_amd")
ODD_KVM = Kvm(present=True, usable=False, reason="no svm", hint='accel = "tcg"')
GIB = 1 << 30


def one(text: str, **facts: object) -> Problem:
    """The only thing the plan has to say."""
    (problem,) = planned(text, host(**facts)).problems
    return problem


# -- QEMU -------------------------------------------------------------------------------------


def test_no_qemu() -> None:
    problem = one("", qemu=None)
    assert problem.message.startswith("QEMU is not installed")
    assert (problem.where, problem.found) == ("qemu.binary", "qemu-system-x86_64")
    assert "qemu-system-x86 (Debian" in problem.hint
    problem = one('[qemu]\nbinary = "/opt/q"\n', qemu=None)
    assert (problem.message, problem.found) == ("there is no such program", "/opt/q")


def test_an_old_qemu() -> None:
    problem = one("", qemu=replace(QEMU, version=(6, 1, 9)))
    assert problem.message == "this QEMU is too old"
    assert (problem.found, problem.allowed) == (f"{QEMU.path} 6.1.9", "6.2.0 or newer")
    assert "[qemu] binary" in problem.hint
    assert planned("", host(qemu=replace(QEMU, version=(6, 2, 0)))).problems == ()


def test_a_machine_this_qemu_does_not_have() -> None:
    problem = one('[machine]\ntype = "pc-q35-9.9"\n')
    assert problem.message == "QEMU 8.2.0 has no such machine"
    assert problem.allowed == "pc-q35-7.2, pc-q35-8.2"
    assert one('[machine]\ntype = "q36"\n').allowed == "q35, pc"
    assert planned('[machine]\ntype = "pc-q35-7.2"\n').problems == ()
    micro = host(qemu=replace(QEMU, machines=("microvm", "pc-i440fx-2.12")))
    assert said(planned('[machine]\ntype = "microvm"\n', micro)) == [
        "machine.type: no machine of this kind is put together here"
    ]
    assert said(planned('[machine]\ntype = "pc-i440fx-2.12"\n', micro)) == []
    silent = host(qemu=replace(QEMU, machines=()))
    assert planned('[machine]\ntype = "q36"\n', silent).problems == ()


@pytest.mark.parametrize(
    ("text", "missing", "key"),
    [
        ('[[disk]]\nfile = "/x"\n', "virtio-blk-pci", "disk[0].bus"),
        ('[[disk]]\nfile = "/x"\nbus = "sata"\n', "ide-hd", "disk[0].bus"),
        ('[[cdrom]]\nfile = "/x"\n', "ide-cd", "cdrom[0].bus"),
        ('[[net]]\nuser = {}\nmodel = "e1000e"\n', "e1000e", "net[0].model"),
        ('[display]\nvga = "std"\n', "VGA", "display.vga"),
        ('[[pci]]\ndevice = "04:00.0"\n', "vfio-pci", "pci[0].device"),
    ],
)
def test_a_device_this_qemu_does_not_have(text: str, missing: str, key: str) -> None:
    nic = device("04:00.0", "10ec:8168", NET, group=9)
    without = replace(QEMU, devices=tuple(d for d in QEMU.devices if d != missing))
    problem, *more = planned(text, host(nic, qemu=without)).problems
    assert not more
    assert (problem.where, problem.message) == (key, f"this QEMU has no device {missing}")
    assert "8.2.0" in problem.found
    assert problem.hint
    assert planned(text, host(nic)).problems == ()


# -- KVM --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accel", "kvm", "taken", "severity", "words"),
    [
        ("auto", None, "kvm", "", ""),
        ("auto", NO_KVM, "tcg", "warning", "emulated and slow"),
        ("auto", ODD_KVM, "tcg", "warning", "emulated and slow"),
        ("kvm", NO_KVM, "kvm", "error", "this host has no KVM"),
        ("kvm", ODD_KVM, "kvm", "warning", "KVM looks unusable here"),
        ("tcg", NO_KVM, "tcg", "", ""),
        ("tcg", None, "tcg", "", ""),
    ],
)
def test_the_accelerator(
    accel: str, kvm: Kvm | None, taken: str, severity: str, words: str
) -> None:
    facts = host() if kvm is None else host(kvm=kvm)
    plan = planned(f'[machine]\naccel = "{accel}"\n', facts)
    assert plan.accel == taken
    assert [p.severity for p in plan.problems] == ([severity] if severity else [])
    for problem in plan.problems:
        assert words in problem.message
        assert (problem.where, problem.hint) == ("machine.accel", kvm.hint if kvm else "")


# -- screen -----------------------------------------------------------------------------------


def test_the_display() -> None:
    auto = '[display]\ntype = "auto"\n'
    assert planned(auto).display == "gtk"
    assert planned(auto, host(invoker=replace(USER, display=False))).display == "none"
    bare = replace(QEMU, displays=("none",))
    plan = planned(auto, host(qemu=bare))
    assert (plan.display, said(plan, "warning")) == (
        "none", ["display.type: this QEMU can open no window; it runs without one"],
    )
    problem = one('[display]\ntype = "gtk"\n', qemu=bare)
    assert problem.message == "this QEMU cannot show a gtk display"
    assert "qemu-system-gui" in problem.hint
    assert planned('[display]\ntype = "gtk"\n').problems == ()


# -- CPUs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "where", "message", "hint"),
    [
        ('vcpus = ["9"]', "cpu.pin.vcpus[0]", "this host has no CPU 9", "lscpu -e"),
        ('vcpus = ["2-9"]', "cpu.pin.vcpus[0]", "this host has no CPUs 4-9", ""),
        ('vcpus = ["3"]', "cpu.pin.vcpus[0]", "CPU 3 is offline", "cpu3/online"),
        ('vcpus = ["0"]\nemulator = "3"', "cpu.pin.emulator", "CPU 3 is offline", ""),
        ('vcpus = ["0"]\niothreads = "8"', "cpu.pin.iothreads", "this host has no CPU 8", ""),
    ],
)
def test_pins_to_cpus_that_are_not_there(pin: str, where: str, message: str, hint: str) -> None:
    plan = planned(f"[cpu.pin]\n{pin}\n")
    found = [p for p in plan.problems if p.message == message]
    assert [p.where for p in found] == [where]
    assert hint in found[0].hint
    assert found[0].hint
    assert found[0].allowed == "online CPUs 0-2"


def test_pins_that_are_fine() -> None:
    plan = planned('[cpu]\ncores = 2\npin = { vcpus = ["0", "1-2"], emulator = "0" }\n')
    assert plan.problems == ()
    assert plan.pins is not None
    assert [str(c) for c in plan.pins.vcpus] == ["0", "1-2"]
    assert str(plan.pins.emulator) == "0"
    assert planned("").pins is None
    assert planned('[cpu.pin]\nvcpus = ["99"]\n', host(cpus=None)).problems == ()


# -- memory -----------------------------------------------------------------------------------


def node(free: int, size: int = 2 << 20) -> tuple[MemoryNode, ...]:
    pages = HugePages(size=size, total=free, free=free)
    return (MemoryNode(id=0, total=8 * GIB, free=4 * GIB, hugepages=(pages,)),)


def test_huge_pages() -> None:
    text = '[machine]\nmemory = "64M"\nhugepages = true\n'
    (step,) = planned(text, host(memory=node(31))).steps
    assert isinstance(step, ReserveHugePages)
    assert (step.size, step.count) == (2 << 20, 32)
    assert planned(text, host(memory=node(32))).steps == ()
    assert len(planned(text, host(memory=None)).steps) == 1
    problem = one('[machine]\nmemory = "1G"\nhugepages = "1G"\n', memory=node(3))
    assert problem.message == "this kernel has no huge pages of this size"
    assert (problem.found, problem.allowed) == ("1024M", "2M")
    assert "hugepagesz=1G" in problem.hint
    problem = one('[machine]\nmemory = "63M"\nhugepages = true\n', memory=node(99))
    assert problem.message == "the memory is no whole number of huge pages"
    assert problem.hint


def test_what_is_pinned_may_be_pinned_and_has_time() -> None:
    nic = device("04:00.0", "10ec:8168", NET, group=9)
    text = '[machine]\nmemory = "16G"\n'
    plain = planned(text)
    passed = planned(text + '[[pci]]\ndevice = "04:00.0"\n', host(nic))
    assert (plain.memlock, passed.memlock) == (None, 17 * GIB)
    assert (plain.ready_timeout, passed.ready_timeout) == (30.0, 64.0)
    assert planned('[machine]\nmemory = "64G"\n').ready_timeout == 64.0
