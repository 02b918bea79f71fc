"""What QEMU does when the guest reboots or crashes."""

from __future__ import annotations

from qlaunch.argv.option import Option, option
from qlaunch.plan.model import Plan


def stop_options(plan: Plan) -> list[Option]:
    """-action, where the profile says something else than QEMU does by itself."""
    stop = plan.profile.stop
    pairs = {"reboot": stop.on_reboot, "panic": stop.on_crash}
    return [
        option("-action", why=f"stop.on_{key}", **{action: value})
        for (action, value), key in zip(pairs.items(), ("reboot", "crash"), strict=True)
        if value is not None
    ]
