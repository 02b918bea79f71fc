"""Input devices, and the host's that feed them."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, option, place
from qlaunch.plan.model import Plan


def input_options(plan: Plan) -> list[Option]:
    """The guest's devices, then the evdev objects."""
    options = []
    for planned in plan.inputs:
        where = place(planned.place.bus, planned.place.addr, planned.place.port)
        options.append(device(planned.device, planned.key, id=planned.id, **where))
    options += [
        option(
            "-object", "input-linux", why=evdev.why, id=evdev.id, evdev=evdev.path,
            grab_all=True if evdev.grab_all else None, repeat=True if evdev.repeat else None,
            **{"grab-toggle": evdev.grab_keys},
        )
        for evdev in plan.evdevs
    ]
    # QEMU's own name has an underscore where option() writes a dash.
    return [_spelled(made) for made in options]


def _spelled(made: Option) -> Option:
    args = tuple(("grab_all" if key == "grab-all" else key, value) for key, value in made.args)
    return Option(made.flag, args, made.why)
