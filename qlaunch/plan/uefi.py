"""Which UEFI firmware a machine gets: its code, read only, and variables of its own.

Code and template come from one descriptor, because they only work as the pair they were built as.
The machine's variables are a qcow2 file, so that snapshots can hold them, and are kept apart by
template and size: firmware does not start with variables of another kind.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from qlaunch.facts.model import Firmware, HostFile
from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_file
from qlaunch.plan.firmware import firmware_kind, machine_name, secure_boot
from qlaunch.plan.model import PlannedFirmware, PlannedMake
from qlaunch.profile.machine import Uefi
from qlaunch.values import HostPath, Size

PACKAGES = "ovmf (Debian), edk2-ovmf (Fedora, Arch) or qemu-ovmf-x86_64 (SUSE)"
# Where Debian has it: what is shown for a host whose firmware nobody has looked for.
_UNSEEN = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
_ALIASES = {"q35": "pc-q35-0", "pc": "pc-i440fx-0"}  # of a QEMU that does not tell
Secure: TypeAlias = bool | Literal["setup"]


def plan_uefi(draft: Draft) -> PlannedFirmware | None:
    """The firmware; None when there is none, which is a fault then."""
    own = draft.profile.machine.firmware
    secure, secure_why = secure_boot(draft.profile)
    why = firmware_kind(draft.profile)[1]
    why = f"{why}; {secure_why}" if secure and secure_why not in why else why
    if isinstance(own, Uefi):
        return _own(draft, own, bool(secure), why)
    if draft.facts.firmware is None:
        code, template = (HostFile(path=path, kind="file") for path in _UNSEEN)
        chosen: Firmware | None = Firmware(
            descriptor="", code=code, vars=template,
            features=("enrolled-keys", "requires-smm", "secure-boot") if secure else (),
        )
    else:
        chosen = _choose(draft, draft.facts.firmware, secure, secure_why)
    if chosen is None:
        _told_missing(draft, secure)
        return None
    if chosen.descriptor:
        why += f"; rule: the first that fits is {chosen.descriptor}"
        for file in (chosen.code, chosen.vars):
            if file is not None:
                check_file(draft, file, "machine.firmware", read_only=True, handed=False)
    path, fd = _variables(
        draft, chosen.vars.path if chosen.vars else None, chosen.vars_format,
        _suffix(chosen) + (f"-{Size(chosen.vars_size)}" if chosen.vars_size else ""),
    )
    smm = "requires-smm" in chosen.features
    return PlannedFirmware(
        code=chosen.code.path, code_format=chosen.code_format, vars=path, vars_fd=fd, smm=smm,
        secure_flash=smm, why=why,
    )


def _choose(
    draft: Draft, offered: tuple[Firmware, ...], secure: Secure, why: str
) -> Firmware | None:
    """The first that fits. Secure Boot that only the era asks for may be less than all of it."""
    machine = machine_name(draft)
    wishes: tuple[Secure, ...] = (secure,)
    if why.startswith("rule:"):
        wishes = (True, "setup", False)
    for wish in wishes:
        fitting = [f for f in offered if _fits(f, machine, wish)]
        if not fitting:
            continue
        if wish != secure:
            draft.problem(
                "no UEFI firmware here has Microsoft's keys for Secure Boot enrolled",
                "machine.firmware", found=f"taken: {fitting[0].descriptor}",
                hint="the guest's installer may be content with it; or name files with keys: "
                'firmware = {code = "…", vars = "…"} and secure_boot = true', severity="warning",
            )
        # Secure Boot's build is the second choice where nobody asked for it.
        return min(fitting, key=lambda f: not wish and "secure-boot" in f.features)
    return None


def _suffix(firmware: Firmware) -> str:
    """What kind of variables it works with, for their file's name."""
    if "enrolled-keys" in firmware.features:
        return "-secure"
    return "-setup" if "secure-boot" in firmware.features else ""


def _fits(firmware: Firmware, machine: str, secure: Secure) -> bool:
    """Whether it is for this machine and has the keys that are wanted, or none."""
    has = firmware.features
    return (
        firmware.mode == "split" and firmware.vars is not None
        and any(fnmatchcase(_ALIASES.get(machine, machine), glob) for glob in firmware.machines)
        and ("enrolled-keys" in has) == (secure is True)
        and (not secure or "secure-boot" in has)
        and not any(f.startswith(("amd-sev-snp", "intel-tdx")) for f in has)
    )


def _told_missing(draft: Draft, secure: Secure) -> None:
    machine, found = machine_name(draft), draft.facts.firmware or ()
    what = "UEFI firmware with Secure Boot" if secure else "UEFI firmware"
    keys = {True: " and Microsoft's keys", "setup": " and no keys", False: ""}[secure]
    have = ", ".join(f.descriptor for f in found)
    without = secure is True and any(_fits(f, machine, "setup") for f in found)
    draft.problem(
        f"this host has no {what}{keys} for the machine {machine}", "machine.firmware",
        found=f"not fitting: {have}" if have else "no descriptor in /usr/share/qemu/firmware",
        allowed='secure_boot = "setup", to enrol keys of your own' if without else "",
        hint=f'install {PACKAGES}, or name the files: firmware = {{code = "…", vars = "…"}}',
    )


def _own(draft: Draft, own: Uefi, secure: bool, why: str) -> PlannedFirmware:
    for file, key in ((own.code, "code"), (own.vars, "vars")):
        if file is not None:
            check_file(draft, draft.facts.file(file), f"machine.firmware.{key}", read_only=True,
                       handed=False)
    path, fd = _variables(draft, own.vars, own.format, "-own")
    return PlannedFirmware(
        code=own.code, code_format=own.format, vars=path, vars_fd=fd, smm=secure,
        secure_flash=secure, why=why,
    )


def _variables(
    draft: Draft, template: str | None, kind: str, suffix: str
) -> tuple[str, int | None]:
    """The machine's own variables, made at its first start; "" without a template."""
    if template is None:
        return "", None
    path = f"{draft.paths.state}/uefi-vars{suffix}.qcow2"
    tool = draft.program("qemu-img", "machine.firmware", "qemu-utils (Debian), qemu-img "
                         "(Fedora, Arch)")
    draft.makes.append(PlannedMake(
        path=path, key="machine.firmware", what="UEFI variables of the machine's own",
        argv=(tool, "convert", "-f", kind, "-O", "qcow2", template, f"{path}.new"),
    ))
    # Below /var/lib the directory is root's, and QEMU's account is let in by an fd only.
    handed = draft.account is not None and path.startswith("/var/lib/qlaunch/")
    return path, draft.fd("file", HostPath(path)) if handed else None
