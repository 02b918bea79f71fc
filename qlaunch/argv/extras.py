"""Small devices: random numbers, watchdog, pvpanic, vmcoreinfo, vsock."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, option, place
from qlaunch.plan.extras import VHOST_VSOCK
from qlaunch.plan.model import Plan


def rng_options(plan: Plan) -> list[Option]:
    """The source, and the device that it feeds."""
    rng, where = plan.profile.rng, plan.places["rng0"]
    if rng is None:
        return []
    options = []
    if rng.source == "builtin":
        options.append(option("-object", "rng-builtin", why="rng.source", id="rng0-source"))
    else:
        path = f"/dev/{rng.source}"
        if plan.rng_fd is not None:
            options.append(option("-add-fd", why="rule: QEMU's account cannot open this file",
                                  fd=plan.rng_fd, set=plan.rng_fd, opaque=path))
            path = f"/dev/fdset/{plan.rng_fd}"
        options.append(option("-object", "rng-random", why="rng.source", id="rng0-source",
                              filename=path))
    limited = rng.rate is not None
    options.append(device(
        "virtio-rng-pci", "rng; rng.rate" if limited else "rng", id="rng0", rng="rng0-source",
        max_bytes=int(rng.rate) if rng.rate is not None else None,
        period=1000 if limited else None, **place(where.bus, where.addr),
    ))
    return options


def watchdog_options(plan: Plan) -> list[Option]:
    """The timer, and what it does."""
    watchdog = plan.profile.watchdog
    if watchdog is None:
        return []
    if watchdog.model == "itco":
        # It would count, and never act: noreboot is the pin that boards strap for this.
        timer = option("-global", why="watchdog.model", **{"ICH9-LPC.noreboot": False})
    else:
        where = plan.places["watchdog"]
        timer = device("i6300esb", "watchdog.model", id="watchdog",
                       **place(where.bus, where.addr))
    return [timer, option("-action", why="watchdog.action", watchdog=watchdog.action)]


def notice_options(plan: Plan) -> list[Option]:
    """pvpanic and vmcoreinfo."""
    machine = plan.profile.machine
    options = []
    if machine.pvpanic == "pci":
        where = plan.places["pvpanic"]
        options.append(device("pvpanic-pci", "machine.pvpanic", id="pvpanic",
                              **place(where.bus, where.addr)))
    elif machine.pvpanic:
        options.append(device("pvpanic", "machine.pvpanic", id="pvpanic"))
    if machine.vmcoreinfo:
        options.append(device("vmcoreinfo", "machine.vmcoreinfo", id="vmcoreinfo"))
    return options


def vsock_options(plan: Plan) -> list[Option]:
    """The device over an open /dev/vhost-vsock."""
    vsock = plan.vsock
    if vsock is None:
        return []
    return [device("vhost-vsock-pci", f"{vsock.why}; rule: {VHOST_VSOCK} is opened for QEMU",
                   id="vsock0", guest_cid=vsock.cid, vhostfd=str(vsock.fd),
                   **place(vsock.place.bus, vsock.place.addr))]
