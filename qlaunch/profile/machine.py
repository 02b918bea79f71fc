"""The machine itself: chipset, firmware, clock, memory."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Duration, HostPath, Size

GuestName = Literal["windows7", "windows10", "windows11", "linux", "other"]


class AcpiTable(Table, frozen=True):
    """An extra ACPI table handed to the guest's firmware."""

    file: Annotated[HostPath, Meta(description="File with a complete ACPI table, header included.")]


# Told to editors here, and held by check_machine.py.
FORMS = {
    "boot_order": ("^[acdn]{1,4}$", 'letters of "acdn", each once'),
    "rtc": (
        "^(utc|localtime|[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2})?)$",
        '"utc", "localtime" or a date like 2013-10-17T12:00:00',
    ),
}
FwCfgName = Annotated[
    str,
    Meta(
        pattern=r"^opt/[!-~]{1,51}$",
        extra={"form": "a name like opt/org.example/key (opt/ and up to 51 more)"},
    ),
]


class Uefi(Table, frozen=True):
    """UEFI firmware of your own, in place of the one that the host's descriptors name."""

    code: Annotated[HostPath, Meta(description="The firmware's code; never written to.")]
    vars: Annotated[
        HostPath | None,
        Meta(
            description="Template of the firmware's variables; the machine gets a copy of its own. "
            "Without one the firmware forgets its settings."
        ),
    ] = None
    format: Annotated[
        Literal["raw", "qcow2"], Meta(description="Format of both files.")
    ] = "raw"


class FwCfgFile(Table, frozen=True):
    """A file that the guest can read through fw_cfg."""

    name: Annotated[FwCfgName, Meta(description='Its name in the guest, "opt/…".')]
    file: Annotated[HostPath, Meta(description="The file on the host, read at start.")]


class Machine(Table, frozen=True):
    """Chipset, acceleration, memory, firmware and boot menu."""

    type: Annotated[
        str, Meta(description='QEMU machine: "q35", "pc", or a pinned version like "pc-q35-7.2".')
    ] = "q35"
    accel: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description='"auto" takes KVM where it is usable; "kvm" insists; "tcg" emulates.'),
    ] = "auto"
    memory: Annotated[Size, Meta(description='Guest memory, e.g. "8G".')] = Size(2 << 30)
    hugepages: Annotated[
        bool | Literal["2M", "1G"],
        Meta(
            description="Back guest memory with huge pages of this size (true means 2M); "
            "missing pages are reserved at start and given back at exit."
        ),
    ] = False
    firmware: Annotated[
        Literal["bios", "uefi"] | Uefi | None,
        Meta(
            description='"bios" is QEMU\'s own SeaBIOS; "uefi" is the host\'s OVMF, found by its '
            'descriptors; {code = "…", vars = "…"} is one of your own. The guest\'s era decides '
            "when absent."
        ),
    ] = None
    secure_boot: Annotated[
        bool | Literal["setup"] | None,
        Meta(
            description="true: UEFI with Secure Boot and Microsoft's keys enrolled; \"setup\": "
            "able to, without any keys yet; the guest's era decides when absent."
        ),
    ] = None
    smm: Annotated[
        bool | None,
        Meta(description="Emulate system management mode; on for Secure Boot when absent."),
    ] = None
    bios: Annotated[
        HostPath | None, Meta(description="A firmware image of your own, given to QEMU as -bios.")
    ] = None
    boot_menu: Annotated[bool, Meta(description="Offer the firmware's boot menu.")] = False
    boot_timeout: Annotated[
        Duration | None, Meta(description='How long the boot menu is offered, e.g. "5s".')
    ] = None
    boot_order: Annotated[
        str | None,
        Meta(
            extra_json_schema={"pattern": FORMS["boot_order"][0]},
            description='The BIOS\'s own order by kinds: a floppy, c disk, d CD, n network; "cd". '
            "Devices with a boot number come first."
        ),
    ] = None
    boot_strict: Annotated[
        bool, Meta(description="Try devices with a boot number only, and no others.")
    ] = False
    boot_retry: Annotated[
        Duration | None,
        Meta(description="Let the BIOS start over this long after it found nothing to boot."),
    ] = None
    rtc: Annotated[
        str | None,
        Meta(
            extra_json_schema={"pattern": FORMS["rtc"][0]},
            description='What the guest\'s clock shows at start: "utc", "localtime" or a date like '
            '"2013-10-17T12:00:00"; the guest\'s era decides when absent.'
        ),
    ] = None
    rtc_clock: Annotated[
        Literal["host", "rt", "vm"] | None,
        Meta(
            description='What drives that clock: "host" follows the host\'s, which may be set; '
            '"rt" does not follow that; "vm" stands still while the guest is paused.'
        ),
    ] = None
    rtc_driftfix: Annotated[
        Literal["none", "slew"] | None,
        Meta(
            description='"slew" gives the guest the clock ticks that it missed; the guest\'s era '
            "decides when absent."
        ),
    ] = None
    pit_policy: Annotated[
        Literal["delay", "discard"] | None,
        Meta(description="What becomes of ticks that the guest missed of KVM's interval timer."),
    ] = None
    hpet: Annotated[
        bool | None,
        Meta(description="Give the board an HPET; the guest's era decides when absent."),
    ] = None
    iommu: Annotated[
        Literal["intel", "amd", "virtio"] | None,
        Meta(
            description="Give the guest an IOMMU of its own, to pass devices on to guests in it "
            "(q35)."
        ),
    ] = None
    usb: Annotated[
        Literal["xhci", "ehci", "uhci", "none"] | None,
        Meta(
            description="The USB controller (3.0, 2.0, 1.1); absent, there is one of the guest's "
            "era as soon as something is plugged into it."
        ),
    ] = None
    pvpanic: Annotated[
        bool | Literal["isa", "pci"],
        Meta(
            description="A device by which the guest says that it has crashed; true is the ISA "
            "one, which Windows and Linux know."
        ),
    ] = False
    vmcoreinfo: Annotated[
        bool,
        Meta(description="Let the guest say where its crash notes are, for memory dumps."),
    ] = False
    acpi_tables: Annotated[
        tuple[AcpiTable, ...], Meta(description="Extra ACPI tables, in order.")
    ] = ()
    fw_cfg: Annotated[
        dict[FwCfgName, str] | None,
        Meta(description='Texts the guest can read through fw_cfg, by name ("opt/…").'),
    ] = None
    fw_cfg_files: Annotated[
        tuple[FwCfgFile, ...], Meta(description="Files the guest can read through fw_cfg.")
    ] = ()
