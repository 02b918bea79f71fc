"""Rules about the board that need no host."""

from __future__ import annotations

import pytest

from qlaunch.profile.check import check_profile
from tests.fake.plans import profile

DISK = '[[disk]]\nfile = "/d"\n'
CARD = '[[pci]]\ndevice = "03:00.0"\n'


def told(machine: str, more: str = DISK) -> list[str]:
    """What is said of a [machine], with its severity."""
    return [
        f"{f.problem.severity} {'.'.join(map(str, f.path))}: {f.problem.message}"
        for f in check_profile(profile(f"{more}[machine]\n{machine}\n"))
    ]


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ('bios = "/b"\nfirmware = "uefi"',
         "error machine.bios: an image of your own and UEFI from the host"),
        ('bios = "/b"\nsecure_boot = true',
         "error machine.bios: an image of your own and UEFI from the host"),
        ('firmware = "bios"\nsecure_boot = true',
         "error machine.secure_boot: Secure Boot is UEFI's"),
        ("secure_boot = true\nsmm = false",
         "error machine.smm: Secure Boot keeps its variables in SMM"),
        ('secure_boot = "setup"\ntype = "pc"',
         "error machine.secure_boot: Secure Boot needs SMM, which q35 has"),
        ('boot_timeout = "2min"', "error machine.boot_timeout: longer than the BIOS can wait"),
        ('boot_retry = "66s"', "error machine.boot_retry: longer than the BIOS can wait"),
        ('boot_order = "cc"', 'error machine.boot_order: expected letters of "acdn", each once'),
        ('boot_order = "x"', 'error machine.boot_order: expected letters of "acdn", each once'),
        ('rtc = "now"',
         'error machine.rtc: expected "utc", "localtime" or a date like 2013-10-17T12:00:00'),
        ('rtc = "2013-02-30"', "error machine.rtc: there is no such date"),
        ("boot_strict = true",
         "error machine.boot_strict: no device has a boot number, so nothing would be tried"),
        ('acpi_tables = [{ file = "/a" }, { file = "/b:c" }]',
         "error machine.acpi_tables.1.file: QEMU takes what is behind a colon for another table"),
        ('fw_cfg = { "opt/a" = "x" }\nfw_cfg_files = [{ name = "opt/a", file = "/a" }]',
         'error machine.fw_cfg_files.0.name: machine.fw_cfg."opt/a" has the same name'),
        ('fw_cfg_files = [{ name = "opt/a", file = "/a" }, { name = "opt/a", file = "/b" }]',
         "error machine.fw_cfg_files.1.name: machine.fw_cfg_files[0].name has the same name"),
        ('iommu = "virtio"\ntype = "pc"',
         "error machine.iommu: the guest's IOMMU needs PCI Express"),
    ],
)
def test_a_contradiction_is_told_once(machine: str, message: str) -> None:
    assert told(machine) == [message]


@pytest.mark.parametrize("table", [DISK, '[[cdrom]]\n', CARD, "[[net]]\nuser = {}\n"])
def test_a_kernel_is_number_0(table: str) -> None:
    key = table.partition("]]")[0].strip("[")
    kernel = '[kernel]\nfile = "/k"\n'
    assert told("", f"{table}boot = 0\n{kernel}") == [
        f"error {key}.0.boot: kernel has the same place in the boot order"]
    assert told("", f"{table}boot = 1\n{kernel}") == []
    assert told("", f"{table}boot = 0\n") == []


@pytest.mark.parametrize(
    "machine",
    [
        'firmware = "uefi"', 'firmware = { code = "/c", vars = "/v" }\nsecure_boot = true',
        'bios = "/b"', 'firmware = "bios"\nsecure_boot = false', 'rtc = "localtime"',
        'rtc = "2024-02-29T23:59:59"', 'boot_order = "cdn"', 'boot_timeout = "65.5s"',
        'iommu = "intel"', 'type = "pc-q35-7.2"\nsecure_boot = true',
    ],
)
def test_what_goes_together(machine: str) -> None:
    assert told(machine) == []


def test_cards_and_firmware() -> None:
    assert told('firmware = "uefi"', f"{CARD}x_vga = true\n{DISK}") == [
        "warning pci.0.x_vga: UEFI does not use legacy VGA, and the host's own card may go dark"
    ]
    assert [t for t in told('iommu = "amd"', CARD + DISK) if t.startswith("warning")] == [
        "warning machine.iommu: QEMU's AMD IOMMU does not tell the host what the guest maps, so "
        "that devices of the host do not work behind it"
    ]


def test_a_kernel_is_something_to_boot() -> None:
    assert told("", '[kernel]\nfile = "/k"\n') == []
    assert told("boot_strict = true", '[kernel]\nfile = "/k"\n') == []


def test_many_vcpus_need_an_iommu_that_reaches_them() -> None:
    many = f"[cpu]\ncores = 256\n{DISK}"
    assert told("", many) == ["error cpu: 256 vCPUs, and a guest can have 255"]
    assert told('iommu = "intel"', many) == []


def test_a_global_names_a_type_and_a_property() -> None:
    text = f'{DISK}[qemu]\nglobals = {{ "host_mtu" = 9000, "VGA.vgamem_mb" = 32 }}\n'
    (finding,) = check_profile(profile(text))
    assert finding.path == ("qemu", "globals", "host_mtu")
    assert finding.problem.message == "expected a device type and its property"
