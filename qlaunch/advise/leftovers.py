"""What dead machines left behind: directories that nobody holds, devices nobody gave back."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host


def leftovers(host: Host) -> Iterator[Finding]:
    """Machines to recover; devices kept by VFIO that no machine has."""
    from shlex import quote

    found = host.health.leftovers
    if found is None:
        return
    for one in found:
        open_steps = f"{one.steps} steps not taken back" if one.steps else "nothing left to undo"
        sudo = "sudo " * one.path.startswith("/run/qlaunch/")
        yield Finding(
            subject="leftovers", level="warning",
            message=f"{one.name} is gone, and its launcher too: {open_steps}",
            evidence=(Evidence(f"{one.path}/lock", "held by nobody"),
                      Evidence(f"{one.path}/journal",
                               "missing" if one.steps is None else open_steps)),
            reason="what it took from the host may still be taken",
            fix=(f"{sudo}qlaunch recover {quote(one.name)}",),
        )
    kept = [
        device for device in host.facts.pci or ()
        if device.driver_override and "vfio" in device.driver_override and not device.holders
    ]
    if kept and not found:
        yield Finding(
            subject="leftovers", level="note", devices=tuple(d.address for d in kept),
            message=f"kept for guests by hand: {', '.join(d.address for d in kept)}",
            evidence=tuple(Evidence(f"/sys/bus/pci/devices/{d.address}/driver_override",
                                    d.driver_override or "") for d in kept),
            reason="their host drivers do not come back by themselves",
            fix=(f"qlaunch unbind {' '.join(d.address for d in kept)}",),
        )
    elif not found:
        yield Finding(subject="leftovers", level="ok", message="none",
                      evidence=(Evidence("/run/qlaunch", "no dead machine"),))
