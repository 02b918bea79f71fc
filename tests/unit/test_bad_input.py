"""Everything a new user may get wrong: one clear message, a hint, the exit code, nothing written.

Devices, CPUs and QEMUs that this machine lacks are those of recorded machines (--facts).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from qlaunch.codec import from_json, to_json
from qlaunch.facts.model import HostFacts, HostFile
from qlaunch.vm.words import remedy
from tests.fake.typed import Type, Typed, typing

TOP = Path(__file__).parents[2]
FX8120 = TOP / "tests/data/facts/fx8120.json"
PLAIN = TOP / "tests/data/facts/plain.json"
WIDTH = 100  # of a headline without its place

OK = '[machine]\nmemory = "64M"\n[[disk]]\nfile = "disk.img"\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory the user is in, with their profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    files: dict[str, bytes] = {
        "ok.toml": OK.encode(), "empty.toml": b"", "latin.toml": b'name = "caf\xe9"\n',
        "words.toml": b"hello world\n", "nul.toml": b'name = "a\0b"\n',
        "utf16.toml": "\ufeffname = 'x'".encode("utf-16-le"),
        "open.toml": OK.encode(), "twice.toml": b"[cpu]\ncores = 1\ncores = 2\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "open.toml").chmod(0o666)
    (tmp_path / "directory.toml").mkdir()
    with (tmp_path / "big.toml").open("wb") as file:
        file.truncate(100 << 20)
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    yield tmp_path


@pytest.fixture
def typed(desk: Path, capfd: pytest.CaptureFixture[str]) -> Type:
    return typing(capfd)


def judge(found: Typed, code: int, says: str, faults: int = 1) -> None:
    """One headline a fault, not too wide, with something to go on with."""
    assert found.code == code, found
    headlines = found.faults()
    assert len(headlines) == faults, found.err
    assert says in found.err, found.err
    for block in re.split(r"^(?=error: )", found.err, flags=re.M)[1:]:
        lines = block.splitlines()
        told = lines[0].rpartition(": ")[2]
        assert len(told) <= WIDTH, told
        # what is allowed or meant may stand in the headline itself: "expected a size like 8G"
        helps = [line for line in lines if line.startswith(("hint: ", "  allowed: "))]
        assert helps or "expected " in lines[0] or "wanted" in lines[0], block
        assert len({line for line in lines if line}) == len([line for line in lines if line])


PROFILES = [
    ("missing", "there is no profile of this name in ./"),
    ("missing.toml", "missing.toml: there is no such file"),
    ("opne.toml", "did you mean open?"),
    ("", '"": there is no profile of this name'),
    ("a\0b", "there is no profile of this name"),
    ("empty.toml", "there is nothing to boot from"),
    ("empty", "there is nothing to boot from"),
    ("latin.toml", "latin.toml:1:12: not UTF-8 text"),
    ("utf16.toml", "this looks like UTF-16"),
    ("words.toml", "words.toml:1:7"),
    ("nul.toml", "a NUL byte"),
    ("twice.toml", "this key is said twice"),
    ("directory.toml", "this is a directory"),
    ("big.toml", "larger than 1 MiB, which no profile is\n  found:   104857600 bytes"),
    ("pipe.toml", "this is a pipe"),
    ("loop.toml", "loop.toml: cannot be read: too many levels of symbolic links"),
    ("/dev/zero", "this is a device"),
    ("/proc/self/mem", "cannot be read"),
]


@pytest.mark.parametrize("verb", ["run", "check", "plan", "argv"])
@pytest.mark.parametrize(("profile", "says"), PROFILES, ids=[repr(p[0]) for p in PROFILES])
def test_a_profile_that_is_none(typed: Type, verb: str, profile: str, says: str) -> None:
    found = typed(verb, profile)
    assert (found.code, found.out) == (2, ""), found
    assert len(found.faults()) == 1, found.err
    assert says in found.err


@pytest.mark.parametrize(
    "profile", ["missing", "missing.toml", "empty.toml", "latin.toml", "big.toml",
                "directory.toml", "pipe.toml", "nul.toml"],
)  # fmt: skip
def test_a_profile_that_is_none_has_a_hint(typed: Type, profile: str) -> None:
    assert "\nhint: " in typed("check", profile).err


@pytest.mark.skipif(os.geteuid() != 0, reason="what others may write matters to root only")
def test_a_profile_that_others_may_write(typed: Type, desk: Path) -> None:
    judge(typed("run", "open.toml"), 2, "hint: chmod go-w ")
    (desk / "open.toml").chmod(0o644)
    os.chown(desk / "open.toml", 12345, 12345)
    judge(typed("run", "open.toml"), 2, "another user owns the file")
    (desk / "shared").mkdir()
    (desk / "shared").chmod(0o777)
    (desk / "shared/ok.toml").write_text(OK)
    judge(typed("run", "shared/ok.toml"), 2, "others may write the directory")


class Case(NamedTuple):
    """What is set in a profile that is fine, what is said, and how it ends."""

    setting: str
    says: str
    code: int = 1
    host: str = "fx8120"
    faults: int = 1


def pci(device: str, more: str = "") -> str:
    return f'pci=[{{device="{device}"{more}}}]'


CASES = [
    # devices
    Case(pci("09:00.0"), "this host has no such PCI device\n  found:   0000:09:00.0"),
    Case(pci("ffff:ffff"), "this host has no such PCI device\n  found:   ffff:ffff"),
    Case(pci("00:02.0"), "0000:00:02.0 is a bridge"),
    Case(pci("02:00.0", ',functions="all"'), "is in use: Xorg (pid 812) of session-2.scope"),
    Case(pci("00:11.0"), "carries the host's file system / (/dev/sda1)", faults=2),
    Case(pci("00:11.0"), "hint: swapoff /dev/sda2", faults=2),
    Case(pci("04:00.0"), "carries enp4s0 (through br0), the default route"),
    Case(pci("03:00.0"), "IOMMU group 8 of 0000:03:00.0 also holds 0000:03:00.1"),
    Case(pci("00:12.0"), "also holds 0000:00:12.2, which the profile does not name"),
    Case(pci("03:00.0", ',functions="all",id="10de:9999"'), "another device stands at"),
    Case(pci("3:0.0"), "expected a PCI address like 03:00.0", 2),
    Case(pci("01:00.0", ',functions="all"'), "this host's IOMMU is off", host="plain"),
    Case(pci("01:00.0"), "hint: switch on VT-d in the BIOS setup", host="plain"),
    # KVM and QEMU
    Case('machine.accel="kvm"', "this host has no KVM", host="plain"),
    Case('machine.type="q36"', "QEMU 7.2.22 has no such machine"),
    Case('display.vga="rutabaga"', "this QEMU has no device virtio-vga-rutabaga"),
    Case('machine.accel="xen"', "machine.accel", 2),
    # disks
    Case('disk[0].file="/mounted"', "the host has this block device mounted"),
    Case('disk[0].file="/swapped"', "the host uses this block device"),
    Case('disk[0].file="/gone.qcow2"', "hint: qemu-img create -f qcow2 '/gone.qcow2' 64G"),
    Case('disk[0].file="/folder"', "this is a directory"),
    Case('disk[0].file=""', "expected a path, not an empty text", 2),
    Case('disk[0].file="/a\\nb"', "a control character", 2),
    Case('disk=[{file="a"},{file="a"}]', "hint: make both read_only, or give each", 2),
    Case('disk[0].bus="scsy"', "disk[0].bus", 2),
    # words that do not parse
    Case('net=[{user={},mac="52:54:00"}]', "expected a MAC address like", 2),
    Case('net=[{user={},mac="01:00:5e:00:00:01"}]', "expected a unicast MAC address", 2),
    Case('net=[{user={forward=["tcp:99999:22"]}}]', "a port number from 1 to 65535", 2),
    Case('machine.memory="8Q"', "expected a size with a unit like 8G", 2),
    Case("machine.memory=8", 'hint: write it with a unit, in quotes: "8G"', 2),
    Case('machine.memory="0G"', "less than a machine can start with", 2),
    Case('disk[0].addr="zz"', "expected a guest slot like 05 or 1c.0", 2),
    Case('disk[0].addr="1f"', "guest slot 1f.0 is already taken by the chipset"),
    Case('cpu.pin.vcpus=["x"]', "expected a CPU list like 0,4 or 2-5", 2),
    Case('cpu.pin.vcpus=["3-1"]', "expected a CPU list like 0,4 or 2-5", 2),
    Case('cpu.pin.vcpus=["0","1"]', "2 entries listed for 1 vCPUs", 2),
    Case('uuid="x"', "expected a UUID like", 2),
    Case('name="a/b"', "expected a name of letters, digits", 2),
    Case('stop.timeout="soon"', "expected a duration with a unit like 60s", 2),
    Case("cpu.coers=2", "did you mean cores?", 2),
    Case("cpu.cores=0", "expected a whole number from 1 to 1024", 2),
    Case("cpu.cores=two", "expected a whole number", 2),
    Case("cpu.cores", "KEY=VALUE is wanted", 2),
    # CPUs
    Case('cpu.pin.vcpus=["8"]', "this host has no CPU 8\n  found:   8\n  allowed: online CPUs 0-2"),
    Case('cpu.pin.vcpus=["3"]', "hint: echo 1 | sudo tee /sys/devices/system/cpu/cpu3/online"),
    Case('cpu.pin.emulator="2-9"', "this host has no CPUs 8-9", faults=2),
    # networks
    Case('net=[{bridge="br9"}]', "hint: make_bridge = true"),
    Case('net=[{bridge="enp4s0"}]', "enp4s0 is a physical link, not a bridge"),
    Case('net=[{tap="tap9"}]', "hint: ip tuntap add tap9 mode tap"),
]  # fmt: skip


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The recorded machines, with an offline CPU and disks in every state."""
    found = {}
    files = (
        HostFile(path="/mounted", kind="block", mounted=("/home",)),
        HostFile(path="/swapped", kind="block", in_use="swap"),
        HostFile(path="/gone.qcow2", kind="missing"), HostFile(path="/folder", kind="directory"),
    )
    for path in (FX8120, PLAIN):
        facts = from_json(path.read_bytes(), HostFacts)
        cpus = tuple(
            msgspec.structs.replace(c, online=c.id != 3) for c in facts.cpus or ()
        )
        facts = msgspec.structs.replace(facts, cpus=cpus, files=(*facts.files, *files))
        copy = tmp_path_factory.mktemp("facts") / path.name
        copy.write_bytes(to_json(facts))
        found[path.stem] = str(copy)
    return found


@pytest.mark.parametrize("case", CASES, ids=[f"{c.setting}@{c.host}" for c in CASES])
def test_one_clear_message(typed: Type, snapshots: dict[str, str], case: Case) -> None:
    found = typed("check", "ok", "--facts", snapshots[case.host], "--set", case.setting)
    judge(found, case.code, case.says, case.faults)
    if case.code == 1:
        assert f"ok cannot run here: {case.faults} fault(s)" in found.out
        # what only shows, shows: the same as warnings
        for verb in ("plan", "argv"):
            shown = typed(verb, "ok", "--facts", snapshots[case.host], "--set", case.setting)
            assert (shown.code, shown.faults()) == (0, [])
            assert case.says in shown.err
    else:
        assert found.out == ""


def test_what_is_fine_says_nothing(typed: Type, snapshots: dict[str, str]) -> None:
    found = typed("check", "ok", "--facts", snapshots["fx8120"])
    assert (found.code, found.err) == (0, "")
    *rows, empty, last = found.out.splitlines()
    assert rows and not empty
    assert all(row.startswith("ok ") for row in rows)
    assert last == "ok can run here: 0 fault(s), 0 warning(s) or note(s)"


def test_a_guest_without_kvm_is_told_once(typed: Type, snapshots: dict[str, str]) -> None:
    found = typed("check", "ok", "--facts", snapshots["plain"])
    assert found.code == 0
    assert found.err.count("warning: ") == 1
    assert "note: " not in found.err


@pytest.mark.parametrize(
    ("name", "says"),
    [("nope", "the facts cannot be read: no such file"), ("ok.toml", "these are no facts"),
     ("/", "the facts cannot be read: is a directory"), ("big.toml", "these are no facts")],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["check", "plan", "argv"])
def test_facts_that_are_none(typed: Type, verb: str, name: str, says: str) -> None:
    judge(typed(verb, "ok", "--facts", name), 2, says)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ('-blockdev driver=raw: Failed to get "write" lock', "another program has this image open"),
        ('-x: Failed to get shared "write" lock\nIs another process using the image [/a b.img]?',
         "sudo fuser -v '/a b.img'"),
        ('-blockdev: Failed to get "consistent read" lock\n'
         "Is another process using the image [/dev/fdset/3]?", "sudo fuser -v IMAGE"),
        ("-blockdev driver=qcow2: Image is not in qcow2 format", "qemu-img info"),
        ("-device x: 'x' is not a valid device model name", "too old for it"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "lower machine.memory"),
        ("Could not set up host forwarding rule 'tcp::1-:22'", "ss -ltnp"),
        ("something new", "qlaunch plan PROFILE"), ("", "qlaunch plan PROFILE"),
    ],
)  # fmt: skip
def test_qemus_last_words_come_with_a_way_on(words: str, hint: str) -> None:
    assert hint in remedy(words)
