"""What `devices --vgpu` prints: which devices of this host can be sliced, and who has what."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from msgspec.structs import replace

from qlaunch.cli.base import runtime_base
from qlaunch.cli.devices import named
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK, HostError, Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.facts.vgpu_model import MdevParent, MdevType, NvidiaVf, Sriov, VgpuFacts
from qlaunch.plan.vgpu_mdev import find_mdev
from qlaunch.plan.vgpu_want import Taken, Want, user_of
from qlaunch.run.slices import owner_of
from qlaunch.values import PciAddress, Size


def run_slices(args: argparse.Namespace) -> int:
    """Print them. A snapshot has no owners."""
    from qlaunch.facts.model import Wanted
    from qlaunch.facts.probe import read_facts, read_snapshot

    wanted = Wanted(holders=True, cpus=False, memory=False, kvm=False, links=False, qemu=None,
                    vgpu=True)
    facts = read_snapshot(Path(args.facts)) if args.facts else read_facts(wanted)
    if facts.vgpu is None:
        raise HostError(
            Problem("this snapshot does not say what its host can be sliced into",
                    where=str(args.facts), hint="write it anew: qlaunch facts --json > FILE")
        )
    if args.address:
        facts = only_of(facts, set(named(facts, args.address)))
        if not args.json and not (facts.vgpu and (facts.vgpu.parents or facts.vgpu.sriov)):
            raise HostError(Problem("none of these can be sliced", found=" ".join(args.address),
                                    hint="qlaunch devices --vgpu lists what can"))
    listing = Listing(facts, "" if args.facts else runtime_base(), _openers(facts, args.facts))
    if args.json:
        write_json({"mdev": listing.mdev_json(), "sriov": listing.sriov_json()})
    else:
        write(listing.text())
    return EXIT_OK


def only_of(facts: HostFacts, wanted: set[PciAddress]) -> HostFacts:
    """The host with the slices of these devices alone; one of a card's functions means the card."""
    info = facts.vgpu or VgpuFacts()
    cards = wanted | {d.physfn for d in facts.pci or () if d.address in wanted and d.physfn}
    return replace(facts, vgpu=replace(
        info, parents=tuple(p for p in info.parents if p.address in cards),
        sriov=tuple(s for s in info.sriov if s.address in cards),
    ))


def _openers(facts: HostFacts, snapshot: str | None) -> dict[str, str]:
    """UUID → the process that has the mediated device open. Of other users' only root sees it."""
    from qlaunch.facts.processes import read_process_holders

    info = facts.vgpu or VgpuFacts()
    nodes = {f"/dev/vfio/{m.group}": m.uuid for m in info.mdevs if m.group is not None}
    found = {} if snapshot else read_process_holders(Path("/"), nodes)
    return {uuid: str(holders[0]) for uuid, holders in found.items()}


class Listing:
    """One host's slices. `base` is where claims are; "" for none."""

    def __init__(
        self, facts: HostFacts, base: str, openers: Mapping[str, str] | None = None
    ) -> None:
        self.facts = facts
        self.info = facts.vgpu or VgpuFacts()
        self.base = base
        self.openers = openers or {}

    def text(self) -> str:
        """All of it, at most 80 columns where the names allow it."""
        blocks = [self._parent(p) for p in self.info.parents]
        blocks += [self._physical(s) for s in self.info.sriov]
        if not blocks:
            blocks = [["no device of this host can be sliced"]]
        reason = None if self.info.parents or self.info.sriov else find_mdev(
            Want(), self.facts, self.info, Taken({}, set())
        )
        text = "\n".join("\n".join(block) + "\n" for block in blocks)
        return text + (f"\n{reason._replace(severity='note')}\n"
                       if isinstance(reason, Problem) else "")

    def _user(self, name: str, device: PciDevice | None = None) -> str:
        """Whose it is: the machine's name, else the process that has it open."""
        owner = owner_of(self.base, name) if self.base else ""
        return owner or self.openers.get(name, "") or user_of(device)

    # -- mediated devices -----------------------------------------------------------------------

    def _parent(self, parent: MdevParent) -> list[str]:
        device = self.facts.device(parent.name)
        what = f"  {device.id}  {device.driver}" if device else ""
        lines = [f"{parent.name}{what}: mediated devices"]
        lines += [_type_line(kind) for kind in parent.types]
        for one in self.info.mdevs:
            if one.parent == parent.name:
                user = self._user(one.uuid)
                lines.append(f"  {one.uuid}  {one.type}" + (f"  has {user}" if user else ""))
        return lines

    def mdev_json(self) -> list[dict[str, Any]]:
        """Parents with their types and devices."""
        return [
            {
                "parent": parent.name, "types": parent.types,
                "devices": [
                    {"uuid": m.uuid, "type": m.type, "group": m.group,
                     "owner": self._user(m.uuid) or None}
                    for m in self.info.mdevs if m.parent == parent.name
                ],
            }
            for parent in self.info.parents
        ]

    # -- virtual functions ----------------------------------------------------------------------

    def _physical(self, sriov: Sriov) -> list[str]:
        device = self.facts.device(sriov.address)
        if device is None:
            return []
        lines = [
            f"{device.address}  {device.id}  {device.driver or '-'}: "
            f"{device.sriov_count or 0} of {device.sriov_total} virtual functions on"
        ]
        lines += [f"  {line}" for line in self._nvidia_types(sriov)]
        for one in self._functions(sriov):
            lines += wrap(self._function_line(one), 80, initial_indent="  ",
                          subsequent_indent=" " * 16)
        return lines

    def _functions(self, sriov: Sriov) -> list[PciDevice]:
        return [d for d in self.facts.pci or () if d.physfn == sriov.address]

    def _nvidia(self, device: PciDevice) -> NvidiaVf | None:
        return next((v for v in self.info.nvidia if v.address == device.address), None)

    def _nvidia_types(self, sriov: Sriov) -> list[str]:
        """What the card can make now, and on how many of its functions."""
        vendors = [v for one in self._functions(sriov) if (v := self._nvidia(one)) is not None]
        counts = Counter(t for v in vendors for t in v.creatable)
        found = [
            f"{t.name} ({t.number}): on {n} function{'s' if n > 1 else ''}"
            + (f", {Size(t.memory)}" if t.memory else "")
            for t, n in counts.items()
        ]
        return found or (["nothing more can be made now"] if vendors else [])

    def _function_line(self, device: PciDevice) -> str:
        user, vendor = self._user(device.address, device), self._nvidia(device)
        if vendor is not None:
            names = {t.number: t.name for v in self.info.nvidia for t in v.creatable}
            what = names.get(vendor.current, f"type {vendor.current}")
            what = what if vendor.current else "no vGPU"
        else:
            what = device.driver or "-"
        return f"{device.address}  {what}" + (f"  has {user}" if user else "")

    def sriov_json(self) -> list[dict[str, Any]]:
        """Physical functions with their virtual ones."""
        listed = []
        for sriov in self.info.sriov:
            device = self.facts.device(sriov.address)
            if device is None:
                continue
            functions = []
            for one in self._functions(sriov):
                vendor = self._nvidia(one)
                functions.append({
                    "address": one.address, "driver": one.driver, "group": one.iommu_group,
                    "owner": self._user(one.address, one) or None,
                    "type": vendor.current if vendor else None,
                    "creatable": vendor.creatable if vendor else None,
                })
            listed.append({
                "address": device.address, "id": device.id, "driver": device.driver,
                "total": device.sriov_total, "count": device.sriov_count or 0,
                "functions": functions,
            })
        return listed


def _type_line(kind: MdevType) -> str:
    left = "?" if kind.available is None else str(kind.available)
    said = [f"{left} left"]
    if kind.memory:
        said.append(str(Size(kind.memory)))
    if kind.heads:
        said.append(f"{kind.heads} head" + ("s" if kind.heads > 1 else ""))
    if kind.width:
        said.append(f"{kind.width}x{kind.height}")
    name = f" ({kind.name})" if kind.name not in (kind.id, kind.id.partition("-")[2]) else ""
    return f"  {kind.id}{name}: {', '.join(said)}"
