"""What the guest finds before its disks: clock, boot order, firmware, tables, kernel, IOMMU."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.eras import ERAS
from qlaunch.plan.model import Plan, PlannedFirmware


def firmware_options(plan: Plan) -> list[Option]:
    """Clock, boot, firmware files, ACPI tables, fw_cfg, SMBIOS, kernel, IOMMU."""
    machine = plan.profile.machine
    options = [_rtc(plan), *_boot(plan)]
    if machine.bios:
        options.append(Option("-bios", why="machine.bios", whole=machine.bios))
    if plan.firmware:
        options += _flash(plan.firmware)
    options += [
        option("-acpitable", why=f"machine.acpi_tables[{i}].file", file=table.file)
        for i, table in enumerate(machine.acpi_tables)
    ]
    options += _fw_cfg(plan)
    options += [
        Option("-smbios", (("type", table.type), *table.fields), table.why)
        for table in plan.smbios
    ]
    options += _kernel(plan)
    if machine.iommu:
        options.append(_iommu(plan, machine.iommu))
    return options


def _rtc(plan: Plan) -> Option:
    machine, guest = plan.profile.machine, plan.profile.guest
    era = ERAS[guest]
    base = machine.rtc or era.rtc
    kept = {"localtime": "local"}.get(base, base)
    reasons = ["machine.rtc" if machine.rtc else f"rule: {guest} guests keep {kept} time"]
    drift = machine.rtc_driftfix or era.driftfix
    if machine.rtc_clock:
        reasons.append("machine.rtc_clock")
    if drift:
        reasons.append("machine.rtc_driftfix" if machine.rtc_driftfix
                       else f"rule: {guest} guests count the clock's ticks")
    return option("-rtc", why="; ".join(reasons), base=base, clock=machine.rtc_clock,
                  driftfix=drift)


def _boot(plan: Plan) -> list[Option]:
    """-boot with what the profile says of it; QEMU takes its times in milliseconds."""
    machine = plan.profile.machine
    said: dict[str, tuple[str, Value | None]] = {
        "order": ("boot_order", machine.boot_order),
        "menu": ("boot_menu", machine.boot_menu or None),
        "splash-time": ("boot_timeout", _milliseconds(machine.boot_timeout)),
        "reboot-timeout": ("boot_retry", _milliseconds(machine.boot_retry)),
        "strict": ("boot_strict", machine.boot_strict or None),
    }
    given = {name: value for name, (_, value) in said.items() if value is not None}
    if not given:
        return []
    why = "; ".join(f"machine.{key}" for key, value in said.values() if value is not None)
    return [option("-boot", why=why, **given)]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _flash(firmware: PlannedFirmware) -> list[Option]:
    """The code as the first flash chip, never written to, and the machine's variables."""
    options = [
        option("-blockdev", why=firmware.why, **_image(
            firmware.code_node, firmware.code_format, firmware.code, {"read-only": True},
        ))
    ]
    if firmware.vars:
        path = firmware.vars
        if firmware.vars_fd is not None:
            path = f"/dev/fdset/{firmware.vars_fd}"
            options.append(option("-add-fd", why="rule: QEMU's account cannot open this file",
                                  fd=firmware.vars_fd, set=firmware.vars_fd, opaque=firmware.vars))
        options.append(
            option("-blockdev", why="rule: the machine keeps UEFI variables of its own",
                   **_image(firmware.vars_node, "qcow2", path, {}))
        )
    if firmware.secure_flash:
        options.append(
            option("-global", why="rule: only the firmware itself may write its variables",
                   driver="cfi.pflash01", property="secure", value="on")
        )
    return options


def _image(node: str, kind: str, path: str, more: dict[str, Value]) -> dict[str, Value]:
    return {"driver": kind, "node-name": node, **more, "file.driver": "file",
            "file.filename": path}


def _fw_cfg(plan: Plan) -> list[Option]:
    machine = plan.profile.machine
    options = [
        option("-fw_cfg", why="machine.fw_cfg", name=name, string=text)
        for name, text in (machine.fw_cfg or {}).items()
    ]
    return options + [
        option("-fw_cfg", why=f"machine.fw_cfg_files[{i}].file", name=table.name, file=table.file)
        for i, table in enumerate(machine.fw_cfg_files)
    ]


def _kernel(plan: Plan) -> list[Option]:
    kernel = plan.profile.kernel
    if kernel is None:
        return []
    options = [Option("-kernel", why="kernel.file", whole=kernel.file)]
    if kernel.initrd:
        options.append(Option("-initrd", why="kernel.initrd", whole=kernel.initrd))
    if kernel.append:
        options.append(Option("-append", why="kernel.append", whole=kernel.append))
    return options


def _iommu(plan: Plan, kind: str) -> Option:
    """Before every device that it serves: QEMU asks for it when they are made."""
    if kind == "virtio":
        where = plan.places["iommu"]
        return device("virtio-iommu-pci", "machine.iommu", id="iommu", multifunction=True,
                      **place(where.bus, where.addr))
    passed = bool(plan.cards or plan.profile.vgpu)
    if kind == "amd":
        return device("amd-iommu", "machine.iommu", id="iommu", intremap=True)
    many = plan.profile.cpu.count > 255
    return device(
        "intel-iommu", "machine.iommu", id="iommu", intremap=True,
        # VFIO has to see what the guest maps, and x2APIC ids reach vCPUs above 255.
        caching_mode=True if passed else None, eim=True if many else None,
    )
