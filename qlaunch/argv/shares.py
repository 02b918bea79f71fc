"""Shared directories: virtiofs over a socket to its daemon, 9p from QEMU itself."""

from __future__ import annotations

from msgspec.structs import replace

from qlaunch.argv.option import Option, device, option, place
from qlaunch.plan.model import Plan
from qlaunch.plan.shares import DEVICES, share_id
from qlaunch.profile.shares import Share

QUEUE = 1024  # requests that may be under way; QEMU's default of 128 halts parallel readers


def share_options(plan: Plan) -> list[Option]:
    """A backend and a device each."""
    options: list[Option] = []
    for index, share in enumerate(plan.profile.share):
        made = _virtiofs if share.type == "virtiofs" else _ninep
        options += made(plan, share, share_id(index), f"share[{index}]")
    return options


def _virtiofs(plan: Plan, share: Share, ident: str, key: str) -> list[Option]:
    where = plan.places[ident]
    return [
        option("-chardev", "socket", why=key, id=f"{ident}-virtiofsd",
               fd=plan.fd("helper", ident)),
        device(DEVICES["virtiofs"], f"{key}.tag", id=ident, chardev=f"{ident}-virtiofsd",
               tag=share.tag, queue_size=QUEUE, **place(where.bus, where.addr)),
    ]


def _ninep(plan: Plan, share: Share, ident: str, key: str) -> list[Option]:
    where = plan.places[ident]
    backend = option("-fsdev", "local", why=f"{key}.path", id=f"{ident}-dir", path=share.path,
                     multidevs="remap", readonly=True if share.read_only else None)
    front = device(DEVICES["9p"], f"{key}.tag", id=ident, fsdev=f"{ident}-dir",
                   **place(where.bus, where.addr))
    model = share.security_model or "mapped-xattr"
    return [  # these two keep their underscores in QEMU
        replace(backend, args=(*backend.args, ("security_model", model))),
        replace(front, args=(*front.args, ("mount_tag", share.tag))),
    ]
