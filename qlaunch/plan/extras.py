"""Small devices: random numbers, watchdog, pvpanic, vmcoreinfo, vsock."""

from __future__ import annotations

from uuid import UUID

from qlaunch.plan.draft import Draft
from qlaunch.plan.plugs import PlannedVsock
from qlaunch.plan.steps import LoadModule

VHOST_VSOCK = "/dev/vhost-vsock"
_FIRST_CID = 3  # 0 to 2 are the hypervisor, the loopback and the host (vsock(7))
_CIDS = 0xFFFFFFFF - _FIRST_CID  # 0xffffffff is VMADDR_CID_ANY


def plan_rng(draft: Draft) -> None:
    """virtio-rng; /dev/hwrng is root's, so it is opened for QEMU."""
    rng = draft.profile.rng
    if rng is None:
        return
    draft.need("virtio-rng-pci", "rng")
    draft.place("rng", "rng0", "rng", addr=rng.addr)
    if rng.source == "builtin":
        return
    path = f"/dev/{rng.source}"
    file = draft.facts.file(path)
    if file is not None and file.kind != "char":
        draft.problem("this host has no such source of random numbers", "rng.source", found=path,
                      hint='source = "urandom" is always there')
    elif file is not None and not file.readable:
        if draft.account is None:
            draft.problem("you may not read this source of random numbers", "rng.source",
                          found=path, hint='source = "urandom" is for everybody')
        else:
            draft.decided["rng_fd"] = draft.fd("file", path, writable=False)


def plan_watchdog(draft: Draft) -> None:
    """A PCI watchdog's place; the other is in the chipset."""
    watchdog = draft.profile.watchdog
    if watchdog is not None and watchdog.model == "i6300esb":
        draft.need("i6300esb", "watchdog.model")
        draft.place("watchdog", "watchdog", "watchdog", addr=watchdog.addr)


def plan_notices(draft: Draft) -> None:
    """pvpanic and vmcoreinfo: what a guest that crashes leaves behind."""
    machine = draft.profile.machine
    if machine.pvpanic == "pci":
        draft.need("pvpanic-pci", "machine.pvpanic")
        draft.place("pvpanic", "pvpanic", "machine.pvpanic")
    elif machine.pvpanic:
        draft.need("pvpanic", "machine.pvpanic")
    if machine.vmcoreinfo:
        draft.need("vmcoreinfo", "machine.vmcoreinfo")


def plan_vsock(draft: Draft) -> None:
    """The guest's address, and /dev/vhost-vsock, which every machine opens anew."""
    vsock = draft.profile.vsock
    if vsock is None:
        return
    draft.need("vhost-vsock-pci", "vsock")
    node = draft.facts.file(VHOST_VSOCK)
    if node is not None and node.kind == "missing":
        draft.steps.append(LoadModule(module="vhost_vsock", why="vsock"))
    elif node is not None and draft.account is None and not (node.readable and node.writable):
        draft.problem(f"you may not use {VHOST_VSOCK}", "vsock",
                      hint=f"ls -l {VHOST_VSOCK} names the group that may; "
                      "or as root: qlaunch run …")
    taken = draft.facts.vsock_cids or ()
    cid, why = vsock.cid, "vsock.cid"
    if cid == "auto":
        first = UUID(draft.uuid).int % _CIDS
        cid = next(c for n in range(len(taken) + 1)
                   if (c := (first + n) % _CIDS + _FIRST_CID) not in taken)
        why = "rule: derived from the machine's uuid"
    elif cid in taken:
        draft.problem("a machine that runs has this vsock address", "vsock.cid", found=str(cid),
                      hint='cid = "auto" takes one that is free')
    draft.decided["vsock"] = PlannedVsock(
        cid=int(cid), why=why, fd=draft.fd("file", VHOST_VSOCK),
        place=draft.place("vsock", "vsock0", "vsock", addr=vsock.addr),
    )
