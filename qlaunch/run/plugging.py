"""`detach` and `attach`: a device of a running machine goes back to the host, and comes again.

The machine's journal tells of every device step, so its own journal is where these are undone and
done: under the host lock, and only while its QEMU lives. Whoever ends the machine (its launcher,
`recover`) takes the host lock and reads the journal again before it undoes what is left, so that no
device is returned twice and none forgotten, wherever one of them is killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from qlaunch.argv.cards import card_option, device_add
from qlaunch.errors import HostError, NotRestoredError, Problem, QlaunchError
from qlaunch.host import device
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.model import PlannedCard
from qlaunch.plan.steps import OwnGroup, Step, TakeDevice, devices_of
from qlaunch.run.engine import Engine
from qlaunch.run.info import Info, find_qemu
from qlaunch.run.journal import FILE_NAME, Intent, Journal, Record, open_journal, read_journal
from qlaunch.run.locks import HostLock
from qlaunch.run.talk import connect
from qlaunch.values import PciAddress
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.unplug import plug, plugged_in, unplug

Say = Callable[[str], None]
Check = Callable[[Sequence[PciAddress]], None]
T = TypeVar("T")


def detach_cards(
    base: str, info: Info, cards: Sequence[PlannedCard], *, timeout: float, say: Say, host: Host
) -> None:
    """Have these out of the guest, reset, and back on their host drivers.

    Raises HostError when the guest keeps them (nothing was changed), NotRestoredError when one did
    not come back to the host.
    """
    check_groups(info, cards)
    with_monitor(
        info, lambda m: unplug(m, [c.id for c in in_order(cards)], timeout=timeout, say=say)
    )
    with open_running(base, info.name, say) as (journal, records):
        mine = addresses_with(host, records, cards)
        engine = Engine.resume(host, journal, HANDLERS, records, only=is_of(mine))
        outcome = engine.undo_all()
    for sentence in outcome.sentences:
        say(sentence)
    outcome.check()


def attach_cards(
    base: str, info: Info, cards: Sequence[PlannedCard], *, check: Check, say: Say, host: Host
) -> None:
    """Take these from the host again, as at the machine's start, and plug them in.

    `check` raises HostError for what stands against taking some addresses. Raises HostError when
    they stay with the host, NotRestoredError when one is left between the two.
    """
    there = with_monitor(info, plugged_in)
    if all(card.id in there for card in cards):
        say(f"the guest has {_names(cards)} already")
        return
    check_groups(info, cards, there)
    with open_running(base, info.name, say) as (journal, records):
        mine = addresses_with(host, records, cards)
        engine = Engine.resume(host, journal, HANDLERS, records, only=is_of(mine))
        missing = [s for s in steps_of(records, mine) if s not in engine.pending]
        check([step.address for step in missing if isinstance(step, TakeDevice)])
        engine.apply(missing)
    devices = [
        device_add(card_option(card)) for card in reversed(in_order(cards)) if card.id not in there
    ]
    try:
        with_monitor(info, lambda m: plug(m, devices, timeout=info.ready_timeout))
    except QlaunchError as error:
        _take_back(base, info.name, is_of(mine), error, say, host)
    say(f"the guest has {_names(cards)}")


def _take_back(
    base: str, name: str, mine: Callable[[Step], bool], error: QlaunchError, say: Say, host: Host
) -> NoReturn:
    """QEMU did not take the devices: they go back to the host."""
    with open_running(base, name, say) as (journal, records):
        outcome = Engine.resume(host, journal, HANDLERS, records, only=mine).undo_all()
    if outcome.left:
        raise NotRestoredError([*error.problems, *outcome.problems]) from error
    for sentence in outcome.sentences:
        say(sentence)
    raise error


def in_order(cards: Iterable[PlannedCard]) -> list[PlannedCard]:
    """Function 0 of each slot in front."""
    return sorted(cards, key=lambda c: (c.place.bus, c.place.addr or ""))


def steps_of(records: Sequence[Record], addresses: set[PciAddress]) -> list[Step]:
    """What was done to these devices at the machine's start, each step once."""
    mine = is_of(addresses)
    return list(dict.fromkeys(r.step for r in records if isinstance(r, Intent) and mine(r.step)))


def addresses_with(
    host: Host, records: Sequence[Record], cards: Sequence[PlannedCard]
) -> set[PciAddress]:
    """The cards', and those of their IOMMU groups that the machine took along."""
    groups = {device.read_group(host, c.address) for c in cards} - {None}
    taken = {r.step.address for r in records
             if isinstance(r, Intent) and isinstance(r.step, TakeDevice)}
    return {c.address for c in cards} | {
        a for a in taken if device.read_group(host, a) in groups
    }


def is_of(addresses: set[PciAddress]) -> Callable[[Step], bool]:
    """Whether a step is about one of these devices."""

    def mine(step: Step) -> bool:
        if isinstance(step, OwnGroup):
            return step.address in addresses
        return bool(addresses.intersection(devices_of(step)))

    return mine


def check_groups(
    info: Info, cards: Sequence[PlannedCard], there: Iterable[str] | None = None
) -> None:
    """The host gets a whole IOMMU group back, or nothing of it; and so does the guest."""
    groups = {c.iommu_group for c in cards} - {None}
    others = [
        c for c in info.cards if c.iommu_group in groups and c not in cards
        and (there is None or c.id not in there)
    ]
    if others:
        names = " ".join(c.address for c in (*cards, *others))
        raise HostError(
            Problem(
                f"{others[0].address} is in the same IOMMU group, which goes as a whole",
                where=cards[0].address, hint=f"name them together: {names}",
            )
        )


@contextlib.contextmanager
def open_running(base: str, name: str, say: Say) -> Iterator[tuple[Journal, tuple[Record, ...]]]:
    """The machine's journal, to be written by us for the length of a block, under the host lock.

    Raises HostError when its QEMU has ended: then everything is given back by whoever ends it.
    """
    runtime = f"{base}/{name}"
    with HostLock(base, say):
        if find_qemu(runtime) is None:
            raise HostError(
                Problem(f"{name} has ended meanwhile; its devices go back to the host",
                        hint=f"qlaunch logs '{name}'")
            )
        path = Path(runtime, FILE_NAME)
        records = read_journal(path).records
        journal = open_journal(path)
        try:
            yield journal, records
        finally:
            journal.close()


def with_monitor(info: Info, work: Callable[[Monitor], Coroutine[Any, Any, T]]) -> T:
    """What `work` returns, told the machine's monitor. Raises HostError when it cannot be had."""

    async def talk() -> T:
        async with await connect(info) as monitor:
            return await work(monitor)

    try:
        return asyncio.run(talk())
    except HostError as error:
        error.of(info.name)
        raise


def _names(cards: Sequence[PlannedCard]) -> str:
    return ", ".join(card.address for card in cards)
