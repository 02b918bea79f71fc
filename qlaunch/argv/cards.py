"""Root ports and the host devices that are plugged into them."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, place
from qlaunch.plan.model import Plan, PlannedCard


def port_options(plan: Plan) -> list[Option]:
    """Root ports (on pc a bridge), before what is plugged into them."""
    return [
        Option("-device", (("", p.type), ("bus", "pci.0"), ("addr", p.addr),
                           ("chassis_nr", p.chassis), ("id", p.id)), p.why)
        if p.type == "pci-bridge" else
        device(p.type, p.why, bus="pcie.0", addr=p.addr, multifunction=True if p.multifunction
               else None, port=p.port, chassis=p.chassis, id=p.id)
        for p in plan.ports
    ]


def card_options(plan: Plan) -> list[Option]:
    """Passed-through functions."""
    return [card_option(card) for card in plan.cards]


def card_option(card: PlannedCard) -> Option:
    """One of them."""
    return device(
        "vfio-pci", card.key + (".functions" if card.companion else ""),
        host=card.address, id=card.id, **place(card.place.bus, card.place.addr),
        multifunction=True if card.multifunction else None,
        x_vga=True if card.x_vga else None, romfile=card.rom, rombar=_rombar(card.rombar),
        bootindex=card.boot,
    )


def device_add(made: Option) -> dict[str, Value]:
    """A `-device` option as the arguments of QMP's device_add, typed as it wants them."""
    return {key or "driver": value for key, value in made.args}


def _rombar(wanted: bool | None) -> int | None:
    return None if wanted is None else int(wanted)
