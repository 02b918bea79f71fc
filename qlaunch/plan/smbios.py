"""What the guest's board says of itself: the profile's words, and the host's where it asks for
them."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PlannedSmbios
from qlaunch.profile.firmware import Smbios

# table of the profile → (SMBIOS type, its key → QEMU's, and → the host's file in /sys/class/dmi/id)
_TABLES: dict[str, tuple[int, dict[str, tuple[str, str]]]] = {
    "bios": (0, {
        "vendor": ("vendor", "bios_vendor"), "version": ("version", "bios_version"),
        "date": ("date", "bios_date"), "release": ("release", "bios_release"),
    }),
    "system": (1, {
        "manufacturer": ("manufacturer", "sys_vendor"), "product": ("product", "product_name"),
        "version": ("version", "product_version"), "serial": ("serial", "product_serial"),
        "sku": ("sku", "product_sku"), "family": ("family", "product_family"),
    }),
    "board": (2, {
        "manufacturer": ("manufacturer", "board_vendor"), "product": ("product", "board_name"),
        "version": ("version", "board_version"), "serial": ("serial", "board_serial"),
        "asset": ("asset", "board_asset_tag"), "location": ("location", ""),
    }),
    "chassis": (3, {
        "manufacturer": ("manufacturer", "chassis_vendor"),
        "version": ("version", "chassis_version"), "serial": ("serial", "chassis_serial"),
        "asset": ("asset", "chassis_asset_tag"), "sku": ("sku", ""),
    }),
}  # fmt: skip


def plan_smbios(draft: Draft) -> None:
    """One table a type that has anything to say."""
    smbios = draft.profile.smbios
    if smbios is None:
        return
    uefi = draft.decided.get("firmware") is not None
    draft.decided["smbios"] = tuple(_tables(draft, smbios, uefi))
    if not smbios.copy or draft.facts.dmi is None:
        return
    hidden = [name for name, text in draft.facts.dmi.items() if text is None]
    if not draft.facts.dmi:
        draft.problem("this host's board says nothing of itself", "smbios.copy",
                      found="no /sys/class/dmi/id", hint="leave smbios.copy out",
                      severity="warning")
    elif hidden:
        draft.problem("not copied: the host tells root only", "smbios.copy",
                      found=", ".join(hidden), severity="note",
                      hint="give them in [smbios]; machines of root's own may copy them")


def _tables(draft: Draft, smbios: Smbios, uefi: bool) -> Iterator[PlannedSmbios]:
    for name, (number, keys) in _TABLES.items():
        given: dict[str, str] = getattr(smbios, name) or {}
        host = (draft.facts.dmi or {}) if smbios.copy else {}
        fields = []
        for key, (theirs, file) in keys.items():
            text = given.get(key) or host.get(file)
            if text:
                fields.append((theirs, text))
        if fields:
            if number == 0 and uefi:
                fields.append(("uefi", "on"))
            why = [f"smbios.{name}"] * bool(given) + ["smbios.copy"] * smbios.copy
            yield PlannedSmbios(type=number, fields=tuple(fields), why="; ".join(why))
    if smbios.oem_strings:
        values = tuple(("value", text) for text in smbios.oem_strings)
        yield PlannedSmbios(type=11, fields=values, why="smbios.oem_strings")
