"""All rules over one host, and those that matter to one machine's plan.

`doctor` shows the first, `check` the second, in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from qlaunch.advise import cards, iommu, kernel, leftovers, network, programs, speed
from qlaunch.advise.finding import LEVELS, Finding, Host, unexamined
from qlaunch.facts.health_model import Health, health_of
from qlaunch.facts.model import HostFacts
from qlaunch.plan.model import Plan

Rule = Callable[[Host], Iterator[Finding]]
# In this order they are told. A rule that says nothing had nothing to look at.
RULES: dict[str, tuple[Rule, ...]] = {
    "pci": (iommu.iommu, iommu.remapping, iommu.groups, kernel.modules),
    "kvm": (kernel.kvm, kernel.nested, kernel.ignore_msrs),
    "memory": (speed.hugepages,),
    "memlock": (speed.memlock,),
    "cpu": (speed.governor,),
    "qemu": (programs.qemu, programs.parts),
    "uefi": (programs.ovmf,),
    "helpers": (programs.helpers,),
    "net": (network.devices, network.bridges, network.firewall),
    "seats": (cards.seats,),
    "lockdown": (kernel.lockdown,),
    "cards": (cards.boot_vga, cards.framebuffers, cards.laptop),
    "quirks": (cards.quirks,),  # of a plan's devices they are among its problems
    "leftovers": (leftovers.leftovers,),
}

_WINDOWS = ("nested", "ignore_msrs")  # notes that no other guest is after


def examine(facts: HostFacts) -> list[Finding]:
    """Every finding on this host, gravest first; facts without a doctor's part are judged by the
    rest."""
    return _ordered(_asked(facts, tuple(RULES)))


def examine_for(facts: HostFacts, plan: Plan) -> list[Finding]:
    """What matters to this machine, about its devices.

    What the plan can do without is no fault here: that is told by the plan's own problems. Of
    modules it does not know, and VFIO's are asked for only where they are needed.
    """
    able = not any(problem.severity == "error" for problem in plan.problems)
    passed = {card.address for card in plan.cards}
    found = [
        replace(one, level="warning")
        if able and one.level == "fault" and one.subject != "modules" else one
        for one in _asked(facts, _topics(plan))
        if (not one.devices or passed & set(one.devices))
        and (one.subject not in _WINDOWS or plan.profile.guest.startswith("windows"))
    ]
    return _ordered(found)


def _asked(facts: HostFacts, topics: Sequence[str]) -> list[Finding]:
    health = health_of(facts)
    host = Host(facts, health or Health())
    found: list[Finding] = []
    if health is None and "pci" in topics:
        found.append(unexamined("modules, limits", "how this host is set up: it was not recorded",
                                fix="write the facts anew: qlaunch facts --json > FILE"))
    for topic in topics:
        for rule in RULES[topic]:
            found += rule(host)
    return found


def _topics(plan: Plan) -> tuple[str, ...]:
    """Keys of RULES that this plan depends on, in their order."""
    profile = plan.profile
    passes = bool(profile.pci or profile.vgpu)
    tables = {
        "pci": passes, "lockdown": passes, "cards": passes, "seats": passes,
        "kvm": profile.machine.accel != "tcg",
        "memory": bool(profile.machine.hugepages),
        "memlock": plan.memlock is not None and not plan.needs_root,
        "cpu": profile.cpu.pin is not None and profile.cpu.governor is None,
        "qemu": True,
        "uefi": plan.firmware is not None,
        "net": any(net.bridge or net.nat for net in profile.net),
    }
    return tuple(topic for topic in RULES if tables.get(topic))


def _ordered(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda one: LEVELS.index(one.level))
