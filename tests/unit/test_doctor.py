"""What a doctor says of recorded machines: the fault, where it was seen, and what to type."""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.advise.examine import RULES, examine
from qlaunch.advise.finding import Finding
from qlaunch.codec import from_json, to_json
from qlaunch.facts.health_model import ExaminedFacts, Health, health_of
from qlaunch.facts.model import HostFacts, Iommu
from qlaunch.facts.net_model import NetworkState
from tests.fake import doctor_hosts as hosts
from tests.fake.trees import Tree
from tests.fake.typed import Type, typing

DISK = '[[disk]]\nfile = "x.img"\ncreate = { size = "1G" }\n'
TOP = Path(__file__).parents[2]


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Type:
    return typing(capfd)


def of(found: list[Finding], subject: str) -> Finding:
    (one,) = [f for f in found if f.subject == subject]
    return one


def levels(found: list[Finding], *which: str) -> list[tuple[str, str]]:
    return [(f.level, f.subject) for f in found if f.level in which]


def examine_tree(tree: Tree) -> list[Finding]:
    return examine(hosts.examined(tree))


def test_a_healthy_machine_has_nothing_wrong(tmp_path: Path) -> None:
    found = examine_tree(hosts.healthy(tmp_path))
    assert levels(found, "fault", "warning", "unknown", "note") == [("note", "quirks")]
    assert {f.subject for f in found} >= {
        "IOMMU", "interrupt remapping", "groups", "modules", "KVM", "nested", "ignore_msrs",
        "hugepages", "memlock", "governor", "QEMU", "QEMU's parts", "OVMF", "helpers", "bridge",
        "firewall", "seats, holders", "lockdown", "boot_vga", "framebuffers", "leftovers",
    }  # fmt: skip
    assert [f.subject for f in found if not f.evidence and f.subject != "seats, holders"] == []


def test_off_in_the_firmware(tmp_path: Path) -> None:
    found = examine_tree(hosts.iommu_off_in_firmware(tmp_path))
    assert levels(found, "fault") == [("fault", "IOMMU")]
    one = of(found, "IOMMU")
    assert one.message == "off: the firmware has no IVRS table"
    assert ("/sys/firmware/acpi/tables", "neither DMAR nor IVRS") in one.evidence
    assert one.fix == ("switch on IOMMU (AMD-Vi) in the BIOS setup", "reboot")
    assert all(f.subject != "interrupt remapping" for f in found)


def test_off_on_the_kernels_command_line(tmp_path: Path) -> None:
    found = examine_tree(hosts.iommu_off_on_kernel_line(tmp_path))
    assert levels(found, "fault") == [("fault", "IOMMU")]
    one = of(found, "IOMMU")
    assert ("/proc/cmdline", "amd_iommu=off") in one.evidence
    assert one.fix == (
        "take amd_iommu=off out of /etc/default/grub", "sudo update-grub", "reboot"
    )


@pytest.mark.parametrize(
    ("files", "first"),
    [
        ({}, "add intel_iommu=on to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub"),
        ({"usr/bin/kernelstub": "", "etc/kernelstub/configuration": "{}"},
         "sudo kernelstub -a intel_iommu=on"),
        ({"usr/sbin/grubby": "", "etc/os-release": "ID=fedora"},
         "sudo grubby --update-kernel=ALL --args=intel_iommu=on"),
        ({"usr/sbin/grubby": ""},
         "add intel_iommu=on to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub"),
        ({"usr/bin/rpm-ostree": "", "run/ostree-booted": ""},
         "sudo rpm-ostree kargs --append-if-missing=intel_iommu=on"),
    ],
)
def test_the_boot_loaders_own_command(tmp_path: Path, files: dict[str, str], first: str) -> None:
    tree = hosts.iommu_off_in_firmware(tmp_path)
    tree.cpus("0-7", flags="vmx", vendor="GenuineIntel")
    tree.write("sys/firmware/acpi/tables/DMAR", b"DMAR")
    for path, text in files.items():
        tree.write(path, text)
    fix = of(examine_tree(tree), "IOMMU").fix
    assert fix[:2] == ("qlaunch host setup --apply", "reboot")
    assert fix[3] == first


def test_systemd_boot_and_no_loader_known(tmp_path: Path) -> None:
    tree = hosts.iommu_off_in_firmware(tmp_path)
    tree.write("sys/firmware/acpi/tables/DMAR", b"DMAR")
    (tmp_path / "etc/default/grub").unlink()
    assert "in the boot loader" in of(examine_tree(tree), "IOMMU").fix[3]
    tree.write("boot/loader/entries/arch.conf", "linux /vmlinuz\noptions quiet")
    assert "/boot/loader/entries/*.conf" in of(examine_tree(tree), "IOMMU").fix[3]


@pytest.mark.parametrize(
    ("remaps", "unsafe", "level"),
    [(True, None, "ok"), (False, None, "fault"), (False, False, "fault"), (False, True, "warning"),
     (None, None, "unknown")],
)  # fmt: skip
def test_interrupt_remapping(
    tmp_path: Path, remaps: bool | None, unsafe: bool | None, level: str
) -> None:
    facts = hosts.examined(hosts.healthy(tmp_path))
    iommu = Iommu(enabled=True, groups=9, interrupt_remapping=remaps, unsafe_interrupts=unsafe)
    assert of(examine(replace(facts, iommu=iommu)), "interrupt remapping").level == level


def test_no_kvm(tmp_path: Path) -> None:
    found = examine_tree(hosts.no_kvm(tmp_path))
    assert levels(found, "fault") == [("fault", "KVM")]
    assert of(found, "KVM").evidence == (
        ("/dev/kvm", "missing"), ("/proc/cpuinfo", "neither vmx nor svm")
    )
    assert of(found, "KVM").fix == ("switch on VT-x (Intel) or SVM (AMD) in the BIOS setup",)


def test_kvms_module_is_not_loaded(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    (tmp_path / "dev/kvm").unlink()
    one = of(examine_tree(tree), "KVM")
    assert one.evidence[1] == ("/proc/modules", "no kvm_intel, no kvm_amd")
    assert one.fix == ("modprobe kvm_amd",)


def test_a_laptop_with_a_card_without_outputs(tmp_path: Path) -> None:
    found = examine_tree(hosts.optimus(tmp_path))
    (one,) = [f for f in found if f.subject == "quirks" and "no outputs" in f.message]
    assert (one.level, one.devices) == ("note", ("0000:01:00.0",))
    assert ("/sys/bus/pci/devices/0000:01:00.0/class", "0x030200") in one.evidence
    assert ("/sys/class/dmi/id/chassis_type", "10") in one.evidence
    assert "error 43" in one.reason
    assert of(found, "nested").level == "note"
    assert "kvm_intel nested=1" in of(found, "nested").fix[0]


def test_what_is_known_of_a_card(tmp_path: Path) -> None:
    """Of the card that a guest could get, and not of the host's own beside it."""
    tree = hosts.healthy(tmp_path)
    one = of(examine_tree(tree), "quirks")
    assert one.devices == ("0000:03:00.0",)
    assert "10de:1200" in one.evidence[0].value
    assert "https://" in one.reason


def test_what_is_known_of_many_is_told_once() -> None:
    """Virtual functions by number, beside the card that they are slices of."""
    facts = from_json((TOP / "tests/data/facts/ada-server.json").read_bytes(), ExaminedFacts)
    known = [f for f in examine(facts) if f.subject == "quirks"]
    texts = [f.message.partition(": ")[2] for f in known]
    assert len(texts) == len(set(texts)) > 0
    card = next(d for d in facts.pci or () if d.sriov_count)
    for one in known:
        assert one.message.startswith(f"{card.address} and its {card.sriov_count} virtual functi")
        assert len(one.devices) == 1 + (card.sriov_count or 0)
        assert [e.value for e in one.evidence] == [card.id]
    pair = tuple(replace(d, physfn=None) for d in facts.pci or () if d.address in one.devices[:2])
    names = {f.message.partition(": ")[0] for f in examine(replace(facts, pci=pair))
             if f.subject == "quirks"}
    assert names == {", ".join(one.devices[:2])}


def test_qemu_is_missing(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    found = examine(hosts.examined(tree, qemu=False))
    assert levels(found, "fault") == [("fault", "QEMU")]
    assert of(found, "QEMU").fix == ("sudo apt install qemu-system-x86",)
    tree.write("etc/os-release", "ID=nobara\nID_LIKE='rhel fedora'")
    found = examine(hosts.examined(tree, qemu=False))
    assert of(found, "QEMU").fix == ("sudo dnf install qemu-system-x86-core",)
    tree.write("etc/os-release", "ID=nixos")
    found = examine(hosts.examined(tree, qemu=False))
    assert "(Debian)" in of(found, "QEMU").fix[0]


def test_qemu_lacks_parts(tmp_path: Path) -> None:
    facts = hosts.examined(hosts.healthy(tmp_path))
    assert facts.qemu is not None
    bare = replace(facts.qemu, displays=("none", "vnc"), audiodevs=("none", "wav"))
    one = of(examine(replace(facts, qemu=bare)), "QEMU's parts")
    assert one.level == "note"
    assert "a window" in one.message
    assert "sound by PipeWire" in one.message
    assert any("qemu-system-gui (Debian)" in fix for fix in one.fix)
    old = replace(facts.qemu, version=(5, 2, 0))
    assert of(examine(replace(facts, qemu=old)), "QEMU").level == "fault"
    no_vfio = replace(facts.qemu, devices=("e1000",))
    assert "without vfio-pci" in of(examine(replace(facts, qemu=no_vfio)), "QEMU").message


def test_a_locked_down_kernel(tmp_path: Path) -> None:
    one = of(examine_tree(hosts.locked_down(tmp_path)), "lockdown")
    assert one.level == "warning"
    assert ("/sys/kernel/security/lockdown", "integrity") in one.evidence
    assert ("/sys/firmware/efi/efivars/SecureBoot-*", "on") in one.evidence
    assert one.fix[1] == "or switch Secure Boot off in the BIOS setup"


def test_docker_filters_bridges(tmp_path: Path) -> None:
    tree = hosts.docker(tmp_path)
    one = of(examine_tree(tree), "firewall")
    assert one.level == "warning"
    assert ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1") in one.evidence
    assert one.fix[0] == "sudo iptables -I DOCKER-USER -i br0 -j ACCEPT"
    assert "docker0" not in of(examine_tree(tree), "bridge").message
    facts = hosts.examined(tree)
    drops = NetworkState(managers=("docker",), bridge_calls=True,
                         drops=("forward ip filter FORWARD",))
    assert "and drops it" in of(examine(replace(facts, network=drops)), "firewall").message
    passes = NetworkState(managers=("docker",), bridge_calls=True, drops=())
    assert of(examine(replace(facts, network=passes)), "firewall").level == "ok"
    ufw = NetworkState(managers=("ufw",), drops=("forward ip filter FORWARD",))
    assert "ufw route" in of(examine(replace(facts, network=ufw)), "firewall").fix[0]


def test_the_firmwares_framebuffer(tmp_path: Path) -> None:
    one = of(examine_tree(hosts.simpledrm(tmp_path)), "framebuffers")
    assert (one.level, one.devices) == ("warning", ("0000:02:00.0",))
    assert ("/proc/fb", "0 simpledrmdrmfb") in one.evidence
    assert ("/proc/iomem", "BOOTFB in 0000:02:00.0") in one.evidence
    assert one.fix[0] == (
        "echo simple-framebuffer.0 | sudo tee "
        "/sys/bus/platform/drivers/simple-framebuffer/unbind"
    )
    assert any("initcall_blacklist=sysfb_init" in fix for fix in one.fix)


def test_whose_memory_it_is(tmp_path: Path) -> None:
    """What stands beside a card in /proc/iomem is not in its memory."""
    tree = Tree(tmp_path)
    tree.write("proc/iomem", (
        "00000000-00000000 : PCI Bus 0000:01\n"
        "  00000000-00000000 : 0000:01:00.0\n"
        "  00000000-00000000 : BOOTFB\n"
        "  00000000-00000000 : 0000:01:00.1\n"
        "    00000000-00000000 : ICH HD audio\n"
        "00000000-00000000 : efifb"
    ))
    from qlaunch.facts.health import read_health

    assert read_health("6.1", None, tmp_path).bar_users == {"0000:01:00.1": ("ICH HD audio",)}


def test_modules(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    for name in ("kvm", "tun"):
        tree.write("proc/modules", f"{name} 16384 0 - Live 0x0")
    assert of(examine_tree(tree), "modules").level == "ok"  # all can be loaded
    tree.write(f"{hosts.MODULES}/modules.dep", "kernel/drivers/vfio/vfio.ko.xz:")
    one = of(examine_tree(tree), "modules")
    assert (one.level, one.message) == (
        "fault", "this kernel has no vfio_pci, vfio_iommu_type1"
    )
    (tmp_path / "lib/modules" / hosts.RELEASE).rename(tmp_path / "lib/modules/6.1.0-29-amd64")
    one = of(examine_tree(tree), "modules")
    assert (one.level, one.fix) == ("fault", ("reboot",))


def test_slow_clocks_and_pages(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    tree.write("sys/devices/system/cpu/cpufreq/policy3/scaling_governor", "powersave")
    one = of(examine_tree(tree), "governor")
    assert (one.level, one.message) == ("warning", "CPUs 3 stay at their lowest clock")
    for cpu in range(8):
        tree.write(f"sys/devices/system/cpu/cpufreq/policy{cpu}/scaling_driver", "intel_pstate")
    assert of(examine_tree(tree), "governor").level == "ok"
    tree.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
    assert of(examine_tree(tree), "hugepages").level == "warning"
    tree.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never")
    tree.node(0, "0-7", 16000, 12000, {2048: (6000, 6000)})
    assert "reserved and unused" in of(examine_tree(tree), "hugepages").message


def test_limits(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    tree.write("proc/self/limits", "Max locked memory         8388608    8388608     bytes")
    one = of(examine_tree(tree), "memlock")
    assert (one.level, one.evidence) == (
        "note", (("/proc/self/limits", "Max locked memory 8M"),)
    )
    assert one.fix[1] == "qlaunch host setup --user user --apply"


def test_shared_groups(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    tree.pci("0000:05:00.0", "1b21:1242", 0x0C0330, driver="xhci_hcd", group=8)
    found = examine_tree(tree)
    one = of(found, "groups")
    assert (one.level, one.devices) == ("warning", ("0000:03:00.0",))
    assert one.evidence == (
        ("/sys/kernel/iommu_groups/8/devices", "0000:05:00.0 [1b21:1242] on xhci_hcd"),
    )
    tree.write("proc/cmdline", "quiet pcie_acs_override=downstream,multifunction")
    (tmp_path / "sys/bus/pci/devices/0000:05:00.0/iommu_group").unlink()
    one = of(examine_tree(tree), "groups")
    assert one.evidence == (
        ("/proc/cmdline", "pcie_acs_override=downstream,multifunction"),
    )


def test_who_sits_where(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    tree.process(900, "steam", "/user.slice/user-1000.slice/session-2.scope", ["/dev/dri/card1"])
    one = of(examine_tree(tree), "seats, holders")
    assert (one.level, one.devices) == ("note", ("0000:03:00.0",))
    assert ("/run/systemd/seats/seat0", "user (x11)") in one.evidence
    assert "steam" in one.message


def test_who_may_not_look_does_not_say_fine(tmp_path: Path) -> None:
    found = examine(hosts.examined(hosts.healthy(tmp_path), root=False))
    one = of(found, "seats, holders")
    assert (one.level, one.fix) == ("unknown", ("sudo qlaunch doctor",))


def test_the_boot_card_is_vfios(tmp_path: Path) -> None:
    facts = hosts.examined(hosts.healthy(tmp_path))
    assert facts.pci is not None
    only = tuple(d for d in facts.pci if d.address[5:7] != "03")
    assert "only graphics card" in of(examine(replace(facts, pci=only)), "boot_vga").message
    bound = tuple(replace(d, driver="vfio-pci") if d.boot_vga else d for d in facts.pci)
    assert "bound to vfio-pci" in of(examine(replace(facts, pci=bound)), "boot_vga").message


def test_what_dead_machines_left(tmp_path: Path) -> None:
    tree = hosts.healthy(tmp_path)
    records = (
        '{"record":"header","version":1}', '{"record":"intent","k":1}',
        '{"record":"applied","k":1}', '{"record":"intent","k":2}',
        '{"record":"undone","k":2}', "garbled",
    )  # fmt: skip
    tree.write("run/qlaunch/my vm/journal", "\n".join(records))
    lock = tree.write("run/qlaunch/my vm/lock")
    tree.directory("run/qlaunch/.claims")
    one = of(examine_tree(tree), "leftovers")
    assert (one.level, one.fix) == ("warning", ("sudo qlaunch recover 'my vm'",))
    assert one.message == "my vm is gone, and its launcher too: 1 steps not taken back"
    inode = lock.stat().st_ino
    tree.write("proc/locks", f"1: FLOCK  ADVISORY  WRITE 77 00:18:{inode} 0 EOF")
    assert of(examine_tree(tree), "leftovers").level == "ok"


def test_a_lock_that_is_really_held(tmp_path: Path) -> None:
    from qlaunch.facts.pinned import is_held

    with (tmp_path / "lock").open("w") as lock:
        assert not is_held(lock.name, "")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_held(lock.name, "")


def test_devices_that_were_kept(tmp_path: Path) -> None:
    facts = hosts.examined(hosts.healthy(tmp_path))
    kept = tuple(
        replace(d, driver="vfio-pci", driver_override="vfio-pci") if d.address[5:7] == "03" else d
        for d in facts.pci or ()
    )
    one = of(examine(replace(facts, pci=kept)), "leftovers")
    assert one.fix == ("qlaunch unbind 0000:03:00.0 0000:03:00.1",)


def test_this_host_is_read_without_faults_of_ours() -> None:
    from qlaunch.facts.health import read_health

    health = read_health(os.uname().release, None)
    assert health.memlock is not None
    assert set(health.modules) >= {"vfio_pci", "kvm"}


# -- the verb -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(hosts.HOSTS))
def test_the_table(tmp_path: Path, typed: Type, name: str) -> None:
    """At most 80 columns, no control characters, the exit code of its faults, JSON of the same."""
    facts = hosts.examined(hosts.HOSTS[name](tmp_path / "root"))
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(facts))
    found = typed("doctor", "--facts", str(file))
    faults = [line for line in found.out.splitlines() if line.startswith("FAULT")]
    assert (found.code, found.err) == (1 if faults else 0, "")
    assert [x for x in found.out.splitlines() if len(x) > 80 and len(x.split()) > 2] == []
    assert "\x1b" not in found.out
    told = json.loads(typed("doctor", "--facts", str(file), "--json").out)
    assert told["faults"] == len(faults)
    assert [f["subject"] for f in told["findings"]] == [f.subject for f in examine(facts)]
    for one in told["findings"]:
        if one["level"] in ("fault", "warning"):
            assert one["evidence"] and one["reason"] and one["fix"], one
            assert all(set(item) == {"file", "value"} for item in one["evidence"])


def test_commands_can_be_copied(tmp_path: Path, typed: Type) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(hosts.examined(hosts.docker(tmp_path / "root"))))
    text = typed("doctor", "--facts", str(file)).out
    whole = re.sub(r" \\\n +", " ", text)
    assert "fix:   sudo iptables -I DOCKER-USER -i br0 -j ACCEPT\n" in whole


def test_a_profiles_part_of_it(tmp_path: Path, typed: Type) -> None:
    """`check` says of the parts that the profile needs what the doctor says, and nothing else."""
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(hosts.examined(hosts.docker(tmp_path / "root"))))
    (tmp_path / "card.toml").write_text(
        f'guest = "linux"\n{DISK}[[net]]\nbridge = "br0"\n'
        '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n'
    )
    words = ("check", str(tmp_path / "card.toml"), "--facts", str(file))
    found = typed(*words)
    assert found.code == 0, found.err
    rows = [line[9:30].strip() for line in found.out.splitlines() if line[:1].strip()][:-1]
    assert rows == [
        "firewall", "IOMMU", "interrupt remapping", "groups", "modules", "KVM", "QEMU",
        "QEMU's parts", "bridge", "seats, holders", "lockdown", "framebuffers",
    ]
    assert found.out.endswith("\ncard can run here: 0 fault(s), 1 warning(s) or note(s)\n")
    told = json.loads(typed(*words, "--json").out)
    assert [f["subject"] for f in told["findings"]] == rows
    (tmp_path / "plain.toml").write_text(f'[machine]\naccel = "tcg"\n{DISK}')
    plain = typed("check", str(tmp_path / "plain.toml"), "--facts", str(file))
    assert plain.out.startswith("ok       QEMU ")


def test_without_vfios_modules_it_cannot_run(tmp_path: Path, typed: Type) -> None:
    """A kernel that was updated since the start: the plan does not know."""
    tree = hosts.healthy(tmp_path / "root")
    (tmp_path / "root/lib/modules" / hosts.RELEASE).rename(tmp_path / "root/lib/modules/6.1.0-29")
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(hosts.examined(tree)))
    (tmp_path / "card.toml").write_text(
        f'guest = "linux"\n{DISK}[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n')
    found = typed("check", str(tmp_path / "card.toml"), "--facts", str(file))
    assert (found.code, "error:" in found.err) == (1, False)
    assert "FAULT    modules " in found.out
    assert "\ncard cannot run here: 1 fault(s), " in found.out
    told = typed("check", str(tmp_path / "card.toml"), "--facts", str(file), "--json")
    assert (told.code, json.loads(told.out)["runs"]) == (1, False)
    (tmp_path / "plain.toml").write_text(DISK)
    assert typed("check", str(tmp_path / "plain.toml"), "--facts", str(file)).code == 0


def test_what_a_plan_does_without_is_no_fault(tmp_path: Path, typed: Type) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(hosts.examined(hosts.no_kvm(tmp_path / "root"))))
    (tmp_path / "any.toml").write_text(DISK)
    found = typed("check", str(tmp_path / "any.toml"), "--facts", str(file))
    assert found.code == 0
    assert found.out.startswith("warning  KVM ")


def test_a_snapshot_that_nobody_examined(typed: Type) -> None:
    found = typed("doctor", "--facts", str(TOP / "tests/data/facts/fx8120.json"))
    assert found.code == 0
    assert "unknown  modules, limits" in found.out
    assert "ok       modules" not in found.out
    assert "ok       leftovers" not in found.out


def test_a_snapshot_comes_back(tmp_path: Path) -> None:
    facts = hosts.examined(hosts.healthy(tmp_path))
    assert from_json(to_json(facts), ExaminedFacts) == facts
    plain = from_json(to_json(facts), HostFacts)
    assert health_of(plain) is None
    assert isinstance(health_of(facts), Health)
    assert set(RULES) >= {"pci", "kvm", "net"}
