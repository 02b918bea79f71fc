"""`qlaunch new`: what it writes passes `check`, what it cannot do leaves nothing."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from qlaunch.advise.answers import (
    against,
    cards,
    propose_card,
    propose_cpus,
    propose_guest,
    propose_memory,
)
from qlaunch.advise.newprofile import toml_text
from qlaunch.codec import to_json
from qlaunch.facts.model import Cpu, HostFacts, MemoryNode
from qlaunch.facts.probe import read_snapshot
from qlaunch.plan.eras import ERAS
from qlaunch.values import CpuSet
from tests.fake import doctor_hosts as hosts
from tests.fake.typed import Type, typing

TOP = Path(__file__).parents[2]
DATA = TOP / "tests/data/facts"
FX = str(DATA / "fx8120.json")
PLAIN = str(DATA / "plain.json")
ALL = (
    "--guest", "linux", "--card", "none", "--cpus", "2", "--memory", "2G", "--disk", "8G",
    "--network", "user",
)  # fmt: skip


@pytest.fixture
def typed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Type:
    monkeypatch.chdir(tmp_path)
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    return typing(capfd)


def written(path: str = "linux.toml") -> dict[str, object]:
    return tomli.loads(Path(path).read_text())


def names(directory: Path = Path()) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The healthy host with firmware, a TPM and what networks need."""
    where = tmp_path_factory.mktemp("host")
    read = hosts.examined(hosts.healthy(where / "root"))
    programs = {name: f"/usr/bin/{name}" for name in ("swtpm", "nft", "dnsmasq", "qemu-img")}
    file = where / "facts.json"
    file.write_bytes(to_json(replace(read, programs=programs)))
    return str(file)


@pytest.mark.parametrize(
    ("guest", "card", "network"),
    [(guest, card, "nat" if card == "none" else "bridge:br0")
     for guest in sorted(ERAS) for card in ("03:00.0", "none")]
    + [("linux", "none", "user"), ("linux", "03:00.0", "none")],
)  # fmt: skip
def test_what_is_written_passes_check(
    typed: Type, facts: str, guest: str, card: str, network: str
) -> None:
    words = ("--guest", guest, "--card", card, "--network", network, "--yes", "--facts", facts)
    found = typed("new", "vm", *words, changes=True)
    assert found.code == 0, found.err
    assert found.out.startswith("vm.toml is written, and can run here.\n")
    checked = typed("check", "vm.toml", "--facts", facts)
    assert checked.code == 0, checked.err
    text = Path("vm.toml").read_text()
    assert [line for line in text.splitlines() if len(line) > 96] == []
    assert text.count("#") > 8
    assert ("0000:03:00.0" in found.out) is (card != "none")
    assert names() == ["vm.toml"]


HOSTS = sorted(path.stem for path in DATA.glob("*.json") if not path.stem.startswith("qemu-"))


@pytest.mark.parametrize("host", HOSTS)
def test_proposals_of_every_host(typed: Type, host: str) -> None:
    facts = str(DATA / f"{host}.json")
    assert typed("new", "--guest", "linux", "--yes", "--facts", facts, changes=True).code == 0
    assert typed("check", "linux", "--facts", facts).code == 0
    found = typed("new", "own", "--yes", "--facts", facts, changes=True)
    assert found.code == 0, found.err
    told = written("own.toml")
    lacks = read_snapshot(Path(facts)).firmware == ()
    assert told["guest"] == ("windows10" if lacks else "windows11")
    checked = typed("check", "own", "--facts", facts)
    assert checked.code == 0
    assert "is a newer machine with every newer QEMU" not in checked.out + checked.err
    assert str(told["machine"]["type"]).startswith("pc-q35-")  # type: ignore[index]


def test_what_is_no_graphics_card_is_none(typed: Type) -> None:
    """A laptop's NVMe; a slice of a card, which [[vgpu]] is for."""
    for host, address in (("gvt-laptop", "03:00.0"), ("ada-server", "41:00.4")):
        found = typed("new", "x", "--guest", "linux", "--card", address, "--yes",
                      "--facts", str(DATA / f"{host}.json"))
        assert (found.code, names()) == (2, [])
        assert f"--card: this is no answer\n  found:   {address}\n" in found.err


def test_flags_answer_all_without_a_terminal(typed: Type) -> None:
    found = typed("new", *ALL, "--facts", PLAIN, changes=True)
    assert found.code == 0
    told = written()
    assert told["name"] == "linux"
    assert told["machine"] == {"memory": "2G"}
    assert told["cpu"] == {"cores": 2}
    assert found.out.endswith("next: qlaunch plan linux; qlaunch run linux\n")


def test_nobody_to_ask(typed: Type) -> None:
    with Path(os.devnull).open() as null:
        old = sys.stdin
        sys.stdin = null
        try:
            found = typed("new", "x", "--guest", "linux", "--facts", PLAIN)
        finally:
            sys.stdin = old
    assert (found.code, found.out) == (2, "")
    assert "there is no terminal to ask at" in found.err
    assert "not said: --card --cpus --memory --disk --network" in found.err
    assert names() == []


@pytest.mark.parametrize(
    ("flag", "text", "allowed"),
    [
        ("guest", "windows12", "did you mean windows11?"), ("guest", "", "windows7"),
        ("card", "9", "03:00.0, "), ("card", "09:00.0", "03:00.0, "), ("card", "00:02.0", "none"),
        ("cpus", "0", "auto, or 1 to 8"), ("cpus", "9", "1 to 8"), ("cpus", "two", "auto"),
        ("memory", "8", "a size like 8G"), ("memory", "1K", "64M or more"),
        ("memory", "900G", "less than"), ("disk", "", "a size like 64G"),
        ("network", "bridge", "bridge:NAME"), ("network", "bridge:", "bridge:NAME"),
        ("network", "bridge:a/../b", "bridge:NAME"), ("network", "wifi", "nat, user, none"),
    ],
)  # fmt: skip
def test_answers_that_are_none(
    typed: Type, facts: str, flag: str, text: str, allowed: str
) -> None:
    found = typed("new", "x", f"--{flag}", text, "--yes", "--facts", facts)
    assert (found.code, found.out, len(found.faults())) == (2, "", 1), found
    assert f"error: --{flag}: this is no answer" in found.err
    assert allowed in found.err
    assert not Path("x.toml").exists()


def test_a_name_that_is_none(typed: Type) -> None:
    for name in ("../x", "größe", "", "a/b"):
        found = typed("new", name, *ALL, "--facts", PLAIN)
        assert (found.code, len(found.faults())) == (2, 1)


def test_it_does_not_overwrite(typed: Type) -> None:
    Path("linux.toml").write_text("mine")
    found = typed("new", *ALL, "--facts", PLAIN)
    assert (found.code, found.out) == (1, "")
    assert "there is a file already" in found.err
    assert Path("linux.toml").read_text() == "mine"
    assert typed("new", *ALL, "--facts", PLAIN, "--force", changes=True).code == 0
    assert written()["guest"] == "linux"
    assert names() == ["linux.toml"]
    Path("gone.toml").symlink_to("nowhere")
    assert typed("new", *ALL, "--facts", PLAIN, "--output", "gone.toml").code == 1


def test_a_file_that_comes_meanwhile_is_kept(
    typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlaunch.cli import new

    monkeypatch.setattr(new, "_refuse", lambda *_, **__: Path("linux.toml").write_text("mine"))
    found = typed("new", *ALL, "--facts", PLAIN, changes=True)
    assert found.code == 1
    assert Path("linux.toml").read_text() == "mine"
    assert names() == ["linux.toml"]


def test_what_cannot_run_is_not_written(typed: Type) -> None:
    """The plain machine has no IOMMU: its card cannot be had."""
    found = typed("new", "vm", "--card", "01:00.0", "--yes", "--guest", "linux", "--facts", PLAIN,
                  changes=True)
    assert (found.code, found.out) == (1, "")
    assert "IOMMU is off" in found.err
    assert "nothing was written, because it could not run here" in found.err
    assert names() == []


def test_no_such_directory(typed: Type) -> None:
    found = typed("new", *ALL, "--facts", PLAIN, "--output", "a/b.toml")
    assert (found.code, len(found.faults())) == (1, 1)
    assert "mkdir -p a" in found.err


def test_a_disk_of_the_hosts(typed: Type, tmp_path: Path) -> None:
    image = tmp_path / "old \"disk\".img"
    image.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(1 << 16))
    words = ("--card", "none", "--guest", "windows7", "--network", "user", "--cpus", "1",
             "--memory", "64M")
    found = typed("new", "vm", *words, "--disk", image.name, changes=True)
    disk = written("vm.toml")["disk"] if found.code == 0 else None
    if found.code == 0:  # else this machine has no QEMU
        assert disk == [{"file": image.name, "format": "qcow2", "bus": "sata", "boot": 1}]
    (tmp_path / "sub").mkdir()
    found = typed("new", "vm", *words, "--disk", image.name, "--output", "sub/vm.toml",
                  changes=True)
    if found.code == 0:
        assert written("sub/vm.toml")["disk"][0]["file"] == str(image)  # type: ignore[index]
    missing = typed("new", "other", *words, "--disk", "missing.img")
    assert (missing.code, len(missing.faults())) == (1, 1)
    assert "a size such as 64G makes a new one" in missing.err


def test_a_partition_of_the_hosts(typed: Type) -> None:
    found = typed("new", "vm", "--guest", "windows7", "--card", "03:00.0", "--disk", "/dev/sdc6",
                  "--yes", "--facts", FX, changes=True)
    assert found.code == 0, found.err
    told = written("vm.toml")
    assert told["disk"] == [{"file": "/dev/sdc6", "format": "raw", "bus": "sata", "cache": "none",
                             "boot": 1}]
    assert told["pci"] == [{"device": "03:00.0", "id": "10de:1200", "x_vga": True,
                            "functions": "all"}]
    assert "from nouveau: dri/card1" in found.out


def test_what_the_host_loses(typed: Type, tmp_path: Path) -> None:
    """A group with a network card in it, which has an address; the display; the CPUs."""
    tree = hosts.healthy(tmp_path / "root")
    nic = tree.pci("0000:05:00.0", "8086:1533", 0x020000, driver="igb", group=8)
    tree.link_up("enp5s0", 9, below=nic)
    tree.route("enp5s0", "000A0A0A", "00FFFFFF")
    (tmp_path / "f.json").write_bytes(to_json(hosts.examined(tree)))
    words = ("new", "vm", "--guest", "linux", "--card", "03:00.0", "--yes")
    found = typed(*words, "--facts", "f.json", changes=True)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert "  0000:05:00.0  [8086:1533] from igb: net/enp5s0" in lines
    assert any("network: " in line and "has an address" in line for line in lines)
    assert any(line.startswith("  CPUs ") for line in lines)
    text = Path("vm.toml").read_text()
    assert 'group = "take"' in text
    assert "05:00.0 [8086:1533] on igb" in text


def test_what_the_host_cannot_lose(typed: Type, tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path / "root")
    nic = tree.pci("0000:05:00.0", "8086:1533", 0x020000, driver="igb", group=8)
    tree.link_up("enp5s0", 9, below=nic)
    tree.route("enp5s0")
    facts = hosts.examined(tree)
    (tmp_path / "f.json").write_bytes(to_json(facts))
    found = typed("new", "vm", "--guest", "linux", "--card", "03:00.0", "--yes",
                  "--facts", "f.json", changes=True)
    assert (found.code, found.out) == (1, "")
    assert "the default route" in found.err
    assert not Path("vm.toml").exists()
    assert propose_card(facts) == "none"
    assert [c.device.address for c in cards(facts) if c.obstacle]


def test_a_driver_that_stops_with_error_43(typed: Type) -> None:
    """A GTX 560 Ti's last driver does; the quirk is answered, and not told again."""
    words = ("--card", "03:00.0", "--yes", "--facts", FX)
    assert typed("new", "w", "--guest", "windows10", *words, changes=True).code == 0
    cpu = written("w.toml")["cpu"]
    assert isinstance(cpu, dict)
    assert (cpu["hide_kvm"], cpu["vendor_id"]) == (True, "qlaunch")
    assert "error 43" not in typed("check", "w", "--facts", FX).err
    assert typed("new", "l", "--guest", "linux", *words, changes=True).code == 0
    assert "hide_kvm" not in Path("l.toml").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another account")
def test_roots_file_is_the_directorys_owners(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through sudo; root on its own does not act on what others may write."""
    os.chown(tmp_path, 65534, 65534)
    found = typed("new", *ALL, "--facts", PLAIN, changes=True)
    assert (found.code, names()) == (2, [])
    assert ".linux.toml." not in found.err
    monkeypatch.setenv("SUDO_UID", "65534")
    assert typed("new", *ALL, "--facts", PLAIN, changes=True).code == 0
    made = Path("linux.toml").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (65534, 65534, 0o644)


def test_a_network_that_the_profile_cannot_name(typed: Type) -> None:
    """The reader's own fault names the file that was asked for, not the one beside it."""
    words = [w if w != "user" else "bridge:a,b" for w in ALL]
    found = typed("new", *words, "--facts", PLAIN, changes=True)
    assert found.code == 2
    assert "linux.toml" in found.err
    assert ".linux.toml." not in found.err
    assert names() == []


def test_cds(typed: Type) -> None:
    Path("a.iso").write_bytes(bytes(4096))
    Path("b.iso").write_bytes(bytes(4096))
    typed("new", *ALL, "--facts", PLAIN, "--iso", "a.iso", "--iso", "b.iso", changes=True)
    assert written()["cdrom"] == [{"file": "a.iso", "boot": 2}, {"file": "b.iso", "boot": 3}]


def test_proposals() -> None:
    facts = read_snapshot(Path(FX))
    assert propose_card(facts) == "03:00.0"
    own_only = tuple(
        replace(d, holders=(), iommu_group=None if d.address[5:7] == "03" else d.iommu_group)
        for d in facts.pci or ()
    )
    assert propose_card(replace(facts, pci=own_only)) == "none"  # the one it starts on stays
    assert propose_cpus(facts) == 6
    assert propose_cpus(HostFacts(cpus=(Cpu(id=0),))) == 1
    many = tuple(Cpu(id=n, core=n, siblings=CpuSet((n,))) for n in range(64))
    assert propose_cpus(HostFacts(cpus=many)) == 16
    node = MemoryNode(id=0, total=2 << 30, free=1 << 30)
    assert str(propose_memory(HostFacts(memory=(node,)))) == "1G"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    assert tomli.loads(f"a = {toml_text(text)}") == {"a": text}


# -- at a terminal ------------------------------------------------------------------------------


def asked(
    directory: Path, typed_in: bytes, *words: str, interrupt_at: bytes = b""
) -> tuple[int, str]:
    """The verb on a terminal of its own: its exit code, and what the terminal showed.

    When that has `interrupt_at` in it, the verb gets SIGINT.
    """
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "new", *words], cwd=directory, stdin=theirs,
        stdout=theirs, stderr=theirs, env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    os.close(theirs)
    os.write(ours, typed_in)
    shown = b""
    try:
        while select.select([ours], [], [], 60)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if interrupt_at and interrupt_at in shown:
                child.send_signal(signal.SIGINT)
                interrupt_at = b""
        return child.wait(10), shown.decode().replace("\r\n", "\n")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_the_questions(tmp_path: Path) -> None:
    """Wrong answers are asked again; Enter takes what is proposed."""
    code, shown = asked(tmp_path, b"windows13\nwindows7\n\n4\n2G\n20G\nuser\n", "--facts", FX)
    assert code == 0, shown
    assert "guest [windows11]: " in shown
    assert "that cannot be: windows7, windows10, windows11, linux, other" in shown
    assert "03:00.0  NVIDIA [10de:1200], on nouveau" in shown
    assert "02:00.0  AMD [1002:683f], on radeon, the host's own" in shown
    assert "card [03:00.0]: " in shown
    assert "network [bridge:br0]: " in shown
    told = written(str(tmp_path / "windows7.toml"))
    assert told["machine"] == {"memory": "2G", "type": "pc-q35-7.2"}
    assert told["cpu"] == {
        "cores": 2, "threads": 2, "pin": "auto", "hide_kvm": True, "vendor_id": "qlaunch",
    }
    assert told["net"] == [{"user": {}, "model": "e1000"}]


def test_a_disk_that_is_not_there_is_asked_for_again(tmp_path: Path) -> None:
    code, shown = asked(
        tmp_path, b"/nowhere/a.img\n\x04", "--guest", "linux", "--card", "none", "--cpus", "1",
        "--memory", "64M", "--network", "user", "--output", "x.toml",
    )
    assert (code, names(tmp_path)) == (2, [])
    assert "  that cannot be: a size like 64G for a new one, or an image or device that" in shown
    assert shown.count("disk [32G]: ") == 2


def test_what_this_host_cannot_do_is_asked_again_at_once(tmp_path: Path) -> None:
    """Not after the last of the six, when the plan fails."""
    code, shown = asked(tmp_path, b"windows11\n\n01:00.0\n\n\n\n\nbridge:br7\n\n", "--facts", PLAIN)
    assert code == 0, shown
    assert "guest [windows10]: " in shown
    assert "  that cannot be: windows11 wants UEFI firmware, and this host has none: inst" in shown
    assert "  that cannot be: this host's IOMMU is off, so no device can be handed" in shown
    assert "  that cannot be: this host has no bridge br7\n" in shown
    assert names(tmp_path) == ["windows10.toml"]


def test_what_is_lacking() -> None:
    none = HostFacts(programs={"swtpm": "", "nft": "", "dnsmasq": "/x"}, firmware=None)
    assert propose_guest(none) == "windows10"
    assert "install swtpm" in against("guest", "windows11", none)
    assert against("network", "nat", none) == "this host has no nft"
    assert against("network", "bridge:x", none) == ""  # nobody has looked
    assert propose_guest(HostFacts()) == "windows11"


def test_nothing_is_asked_for_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    code, shown = asked(tmp_path, b"", "mine", "--facts", FX)
    assert (code, "there is a file already" in shown, "]: " in shown) == (1, True, False)


def test_at_most_six_questions_and_fewer_with_flags(tmp_path: Path) -> None:
    code, shown = asked(tmp_path, b"\n" * 3, "--facts", FX, "--guest", "linux", "--card", "none",
                        "--network", "user")
    assert code == 0, shown
    assert shown.count("]: ") == 3


def test_the_end_of_the_input(tmp_path: Path) -> None:
    code, shown = asked(tmp_path, b"linux\n\x04", "--facts", FX)
    assert code == 2
    assert "the questions were not answered; nothing was written" in shown
    assert names(tmp_path) == []


def test_interrupted(tmp_path: Path) -> None:
    code, shown = asked(tmp_path, b"linux\n", "--facts", FX, interrupt_at=b"card [")
    assert (code, names(tmp_path)) == (130, [])
    assert "Traceback" not in shown
