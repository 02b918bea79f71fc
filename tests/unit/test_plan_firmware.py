"""Which firmware a machine gets, what its board says, its clock, kernel and IOMMU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import plan_options
from qlaunch.cli.common import Made
from qlaunch.cli.plan import plan_text
from qlaunch.facts.firmware import read_firmware
from qlaunch.facts.model import Firmware, HostFacts, HostFile
from qlaunch.plan.model import Plan, PlannedFirmware
from qlaunch.profile.read import read_profile
from tests.fake.firmware import ovmf, packaged
from tests.fake.plans import NET, QEMU, ROOT, USER, device, host, planned, said
from tests.fake.trees import Tree

VARS = "/home/user/.local/state/qlaunch/vm/uefi-vars"
MORE = (*QEMU.devices, "intel-iommu", "amd-iommu", "virtio-iommu-pci")


@pytest.fixture
def offered(tmp_path: Path) -> tuple[Firmware, ...]:
    """Debian's three."""
    tree = Tree(tmp_path)
    ovmf(tree)
    return packaged(read_firmware(None, tmp_path)) or ()


def facts(offered: tuple[Firmware, ...] | None, **more: Any) -> HostFacts:
    qemu = replace(QEMU, devices=MORE, aliases={"q35": "pc-q35-8.2", "pc": "pc-i440fx-8.2"})
    known = {"qemu": qemu, "invoker": USER, "programs": {"qemu-img": "/usr/bin/qemu-img"}}
    return host(firmware=offered, **{**known, **more})


def words(plan: Plan, flag: str) -> list[str]:
    return [" ".join(o.words[1:]) for o in plan_options(plan) if o.flag == flag]


def chosen(text: str, offered: tuple[Firmware, ...] | None, **more: Any) -> PlannedFirmware:
    plan = planned(text, facts(offered, **more))
    assert said(plan) == []
    assert plan.firmware is not None
    return plan.firmware


@pytest.mark.parametrize(
    ("text", "code", "kept"),
    [
        ('[machine]\nfirmware = "uefi"', "OVMF_CODE_4M.fd", "-528K"),
        ('[machine]\nfirmware = "uefi"\nsecure_boot = false\ntype = "pc"', "OVMF_CODE_4M.fd",
         "-528K"),
        ("[machine]\nsecure_boot = true", "OVMF_CODE_4M.ms.fd", "-secure-528K"),
        ('[machine]\nsecure_boot = "setup"', "OVMF_CODE_4M.secboot.fd", "-setup-528K"),
        ('guest = "windows11"', "OVMF_CODE_4M.ms.fd", "-secure-528K"),
        ('guest = "windows11"\n[machine]\nsecure_boot = false', "OVMF_CODE_4M.fd", "-528K"),
    ],
)
def test_the_pair_that_fits(
    text: str, code: str, kept: str, offered: tuple[Firmware, ...]
) -> None:
    firmware = chosen(text, offered)
    assert firmware.code == f"/usr/share/OVMF/{code}"
    assert firmware.vars == f"{VARS}{kept}.qcow2"
    assert firmware.smm is firmware.secure_flash is (code != "OVMF_CODE_4M.fd")


def test_variables_are_made_from_the_template_of_the_same_descriptor(
    offered: tuple[Firmware, ...]
) -> None:
    plan = planned("[machine]\nsecure_boot = true", facts(offered))
    (make,) = plan.makes
    assert make.argv == (
        "/usr/bin/qemu-img", "convert", "-f", "raw", "-O", "qcow2",
        "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", f"{make.path}.new",
    )
    assert make.path == f"{VARS}-secure-528K.qcow2"
    (machine,) = words(plan, "-machine")
    assert "smm=on,pflash0=uefi-code,pflash1=uefi-vars" in machine
    assert words(plan, "-global") == ["driver=cfi.pflash01,property=secure,value=on"]
    code, kept = words(plan, "-blockdev")
    assert "read-only=on" in code
    assert kept == f"driver=qcow2,node-name=uefi-vars,file.driver=file,file.filename={make.path}"


def test_a_machine_of_roots_own_is_handed_its_variables(offered: tuple[Firmware, ...]) -> None:
    nobody = replace(ROOT, uid=65534, gid=65534, name="nobody", asked=None)
    plan = planned('[machine]\nfirmware = "uefi"', facts(offered, invoker=nobody))
    assert plan.firmware is not None
    assert plan.firmware.vars == "/var/lib/qlaunch/vm/uefi-vars-528K.qcow2"
    (fd,) = [f for f in plan.fds if f.kind == "file"]
    assert (fd.of, fd.writable, fd.number) == (plan.firmware.vars, True, plan.firmware.vars_fd)
    assert f"file.filename=/dev/fdset/{fd.number}" in words(plan, "-blockdev")[1]
    for_user = planned('[machine]\nfirmware = "uefi"', facts(offered, invoker=ROOT))
    assert for_user.firmware is not None and for_user.firmware.vars_fd is None


def test_without_firmware_packages_are_named() -> None:
    plan = planned('[machine]\nfirmware = "uefi"', facts(()))
    assert said(plan) == [
        "machine.firmware: this host has no UEFI firmware for the machine pc-q35-8.2"
    ]
    assert "ovmf (Debian), edk2-ovmf (Fedora, Arch)" in plan.problems[0].hint
    assert plan.firmware is None


def test_secure_boot_is_not_given_less_than_it_asks_for(offered: tuple[Firmware, ...]) -> None:
    plan = planned("[machine]\nsecure_boot = true", facts(offered[1:]))
    assert said(plan) == [
        "machine.firmware: this host has no UEFI firmware with Secure Boot and Microsoft's keys "
        "for the machine pc-q35-8.2"
    ]
    assert offered[1].descriptor in plan.problems[0].found
    assert '"setup"' in plan.problems[0].allowed
    plan = planned('[machine]\nsecure_boot = true\ntype = "pc"', facts(offered))
    assert len(said(plan)) == 1


def test_a_build_with_secure_boot_does_where_there_is_no_other(
    offered: tuple[Firmware, ...]
) -> None:
    firmware = chosen('[machine]\nfirmware = "uefi"', offered[:2])
    assert firmware.code.endswith("secboot.fd")
    assert firmware.smm
    assert "-setup-" in firmware.vars  # not those of a build without it


def test_secure_boot_of_an_era_takes_what_there_is(offered: tuple[Firmware, ...]) -> None:
    for rest, code, kept in (
        (offered[1:], "OVMF_CODE_4M.secboot.fd", "-setup"), (offered[2:], "OVMF_CODE_4M.fd", ""),
    ):
        plan = planned('guest = "windows11"', facts(rest))
        assert said(plan) == []
        assert said(plan, "warning") == [
            "machine.firmware: no UEFI firmware here has Microsoft's keys for Secure Boot enrolled"
        ]
        assert plan.firmware is not None
        assert plan.firmware.code.endswith(code)
        assert plan.firmware.vars == f"{VARS}{kept}-528K.qcow2"
    assert len(said(planned('guest = "windows11"', facts(())))) == 1


def test_a_template_that_is_gone_or_hidden_is_told(offered: tuple[Firmware, ...]) -> None:
    plain = offered[2]
    assert plain.vars is not None
    gone = replace(plain, vars=replace(plain.vars, kind="missing"))
    plan = planned('[machine]\nfirmware = "uefi"', facts((gone,)))
    assert said(plan) == ["machine.firmware: no such file"]
    hidden = replace(plain, code=replace(plain.code, readable=False))
    plan = planned('[machine]\nfirmware = "uefi"', facts((hidden,)))
    assert said(plan) == ["machine.firmware: you may not read this file"]


def test_nobody_looked_is_no_fault() -> None:
    plan = planned("[machine]\nsecure_boot = true", facts(None, programs={}))
    assert said(plan) == []
    assert plan.firmware is not None and plan.firmware.smm


def test_files_of_ones_own() -> None:
    files = (HostFile(path="/c", kind="file"), HostFile(path="/v", kind="file"))
    text = '[machine]\nfirmware = { code = "/c", vars = "/v" }\n'
    firmware = chosen(text, None, files=files)
    assert (firmware.code, firmware.vars) == ("/c", f"{VARS}-own.qcow2")
    assert not firmware.smm
    assert chosen(text + "secure_boot = true", None, files=files).secure_flash
    forgetful = chosen('[machine]\nfirmware = { code = "/c" }', None, files=files)
    assert forgetful.vars == ""
    plan = planned('[machine]\nfirmware = { code = "/c" }', facts(None, files=files))
    assert "pflash1" not in words(plan, "-machine")[0]
    missing = (HostFile(path="/c", kind="missing"),)
    plan = planned('[machine]\nfirmware = { code = "/c" }', facts(None, files=missing))
    assert said(plan) == ["machine.firmware.code: no such file"]


def test_legacy_vga_keeps_a_machine_on_its_bios() -> None:
    text = 'guest = "windows11"\n[[pci]]\ndevice = "03:00.0"\nx_vga = true\n'
    assert planned(text, host(device("03:00.0"))).firmware is None


def test_windows_7_has_no_hyperv_set_in_uefi(offered: tuple[Firmware, ...]) -> None:
    bios = planned('guest = "windows7"', facts(offered))
    assert "hv-relaxed" in words(bios, "-cpu")[0]
    uefi = 'guest = "windows7"\n[machine]\nfirmware = "uefi"\n'
    assert "hv-" not in words(planned(uefi, facts(offered)), "-cpu")[0]
    forced = planned(f"{uefi}[cpu]\nhyperv = true\n", facts(offered))
    assert "hv-relaxed" in words(forced, "-cpu")[0]


@pytest.mark.parametrize(
    ("text", "rtc", "board"),
    [
        ("", "base=utc", "q35,vmport=off"),
        ('guest = "windows10"', "base=localtime,driftfix=slew", "q35,vmport=off,hpet=off"),
        ('guest = "windows10"\n[machine]\nhpet = true\nrtc = "utc"\nrtc_driftfix = "none"',
         "base=utc,driftfix=none", "q35,vmport=off,hpet=on"),
        ('[machine]\nrtc = "2013-10-17T12:00:00"\nrtc_clock = "vm"\nsmm = false',
         "base=2013-10-17T12:00:00,clock=vm", "q35,vmport=off,smm=off"),
    ],
)
def test_clocks(text: str, rtc: str, board: str) -> None:
    plan = planned(text)
    assert words(plan, "-rtc") == [rtc]
    assert words(plan, "-machine") == [board]


def test_boot_settings() -> None:
    plan = planned(
        '[machine]\nboot_order = "dc"\nboot_menu = true\nboot_timeout = "2.5s"\n'
        'boot_retry = "10s"\nboot_strict = true\npit_policy = "discard"\n'
    )
    assert words(plan, "-boot") == [
        "order=dc,menu=on,splash-time=2500,reboot-timeout=10000,strict=on"
    ]
    assert words(plan, "-global") == ["kvm-pit.lost_tick_policy=discard"]
    assert words(planned(""), "-boot") == []


@pytest.mark.parametrize("guest", ["windows7", "windows10", "windows11"])
def test_windows_is_told_which_machine_to_pin(guest: str, offered: tuple[Firmware, ...]) -> None:
    where = "machine.type: "
    notes = [n for n in said(planned(f'guest = "{guest}"', facts(offered)), "note")
             if n.startswith(where)]
    assert len(notes) == 1
    plan = planned(f'guest = "{guest}"', facts(offered))
    hints = [p.hint for p in plan.problems if p.where == "machine.type"]
    assert hints == ['type = "pc-q35-8.2" keeps it']
    pinned = planned(f'guest = "{guest}"\n[machine]\ntype = "pc-q35-7.2"', facts(offered))
    assert not [n for n in said(pinned, "note") if n.startswith(where)]


def test_windows_11_asks_for_a_tpm(offered: tuple[Firmware, ...]) -> None:
    text = 'guest = "windows11"\n'
    assert "guest: this guest asks for a TPM 2.0" in said(planned(text, facts(offered)), "note")
    assert not any("TPM" in n for n in said(planned(f"{text}[tpm]\n", facts(offered)), "note"))


SMBIOS = '[smbios]\ncopy = true\nsystem = { serial = "mine, own" }\noem_strings = ["a", "b"]\n'


def test_smbios_is_the_profiles_then_the_hosts() -> None:
    dmi = {"sys_vendor": "ASUS", "product_serial": "host", "board_name": "M5A99",
           "bios_vendor": None, "product_name": ""}
    plan = planned(SMBIOS, facts(None, dmi=dmi))
    assert words(plan, "-smbios") == [
        "type=1,manufacturer=ASUS,serial=mine,, own", "type=2,product=M5A99",
        "type=11,value=a,value=b",
    ]
    (note,) = [p for p in plan.problems if p.where == "smbios.copy"]
    assert (note.severity, note.found) == ("note", "bios_vendor")
    plan = planned(SMBIOS, facts(None, dmi={}))
    assert said(plan, "warning") == ["smbios.copy: this host's board says nothing of itself"]
    assert said(planned(SMBIOS, facts(None)), "warning") == []


def test_the_bios_table_says_that_it_is_uefi(offered: tuple[Firmware, ...]) -> None:
    text = '[smbios]\nbios = { vendor = "v" }\n'
    assert words(planned(text, facts(None)), "-smbios") == ["type=0,vendor=v"]
    plan = planned(text + '[machine]\nfirmware = "uefi"', facts(offered))
    assert words(plan, "-smbios") == ["type=0,vendor=v,uefi=on"]


def test_a_kernel_and_its_files() -> None:
    text = '[kernel]\nfile = "/k,1"\ninitrd = "/i"\nappend = "a=b,c d"\n'
    plan = planned(text)
    assert [words(plan, f) for f in ("-kernel", "-initrd", "-append")] == [
        ["/k,1"], ["/i"], ["a=b,c d"]
    ]
    files = (HostFile(path="/k,1", kind="missing"),
             HostFile(path="/i", kind="file", readable=False))
    assert said(planned(text, facts(None, files=files))) == [
        "kernel.file: no such file", "kernel.initrd: you may not read this file"
    ]


def test_fw_cfg_files() -> None:
    text = '[machine]\nfw_cfg_files = [{ name = "opt/a/b", file = "/f" }]\n'
    assert words(planned(text), "-fw_cfg") == ["name=opt/a/b,file=/f"]
    files = (HostFile(path="/f", kind="missing"),)
    assert said(planned(text, facts(None, files=files))) == [
        "machine.fw_cfg_files[0].file: no such file"
    ]


@pytest.mark.parametrize(
    ("text", "wanted", "accel"),
    [
        ('iommu = "intel"', "intel-iommu,id=iommu,intremap=on", "kvm,kernel-irqchip=split"),
        ('iommu = "amd"', "amd-iommu,id=iommu,intremap=on", "kvm,kernel-irqchip=split"),
        ('iommu = "intel"\naccel = "tcg"', "intel-iommu,id=iommu,intremap=on", "tcg"),
        ('iommu = "virtio"', "virtio-iommu-pci,id=iommu,multifunction=on,bus=pcie.0,addr=02.6",
         "kvm"),
    ],
)
def test_an_iommu_comes_before_what_it_serves(text: str, wanted: str, accel: str) -> None:
    plan = planned(f'[machine]\n{text}\n[[disk]]\nfile = "/d"\n', facts(None))
    assert words(plan, "-device")[0] == wanted
    assert words(plan, "-accel") == [accel]
    assert said(plan) == []


def test_vfio_sees_what_the_guest_maps_and_many_vcpus_are_reached() -> None:
    text = '[machine]\niommu = "intel"\n[[pci]]\ndevice = "10:00.0"\n'
    plan = planned(text, facts(None, pci=(device("10:00.0", cls=NET),)))
    assert words(plan, "-device")[0].endswith("intremap=on,caching-mode=on")
    plan = planned('[machine]\niommu = "intel"\n[cpu]\ncores = 256\n', facts(None))
    assert words(plan, "-device")[0].endswith("intremap=on,eim=on")


def test_a_qemu_without_the_iommu_is_told() -> None:
    plan = planned('[machine]\niommu = "intel"\n', facts(None, qemu=QEMU))
    assert said(plan) == ["machine.iommu: this QEMU has no device intel-iommu"]


def test_globals_of_a_type_come_before_what_is_set_on_a_device() -> None:
    plan = planned(
        '[qemu]\nglobals = { "virtio-net-pci.host_mtu" = 9000, "ICH9-LPC.disable_s3" = 1 }\n'
        'set = { "net0.host_mtu" = 1500 }\n'
    )
    assert [" ".join(o.words) for o in plan_options(plan)][-3:] == [
        "-global driver=virtio-net-pci,property=host_mtu,value=9000",
        "-global driver=ICH9-LPC,property=disable_s3,value=1", "-set device.net0.host_mtu=1500",
    ]


def test_plan_names_what_the_first_start_makes(
    offered: tuple[Firmware, ...], tmp_path: Path
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('[machine]\nfirmware = "uefi"\n[[disk]]\nfile = "/d"\n')
    plan = planned('[machine]\nfirmware = "uefi"', facts(offered))
    made = Made(read_profile(file, (), root_user=False), facts(offered), plan)
    assert (
        f"made when missing, and kept: {VARS}-528K.qcow2: UEFI variables of the machine's own "
        in " ".join(plan_text(made).split())
    )
