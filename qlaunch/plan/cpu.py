"""The guest's processors: model, topology, Hyper-V set, and what this QEMU knows of them.

The topology follows the pins: with `pin = "auto"` and no `threads` of the profile's own, vCPUs
are paired in the guest as their CPUs are in the host; without `dies`, there is one for each level 3
cache that they are on.
"""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.plan.draft import Draft
from qlaunch.plan.eras import hyperv_set
from qlaunch.plan.model import PlannedCpu
from qlaunch.profile.cpu import Cpu

_MAX = "max-x86_64-cpu"  # has every property that any model has


def plan_cpu(draft: Draft, accel: str, picked: tuple[int, int, int] | None) -> PlannedCpu:
    """Decide; `picked` is (dies, cores, threads) of the automatic pins."""
    cpu = draft.profile.cpu
    model, why = cpu.model, "cpu.model"
    if model == "host" and accel == "tcg":
        model, why = "max", 'rule: "host" needs KVM, "max" is all QEMU can emulate'
    dies, cores, threads = picked or (cpu.dies or 1, cpu.cores, cpu.threads or 1)
    uefi = draft.decided.get("firmware") is not None
    names, hyperv_why = hyperv_set(draft.profile.guest, cpu.hyperv, uefi=uefi)
    _check_names(draft, model, names)
    if accel == "tcg":  # QEMU 7.2 says "kernel doesn't allow setting HyperV VP_INDEX", and ends
        names = _without_kvm(draft, names)
    return PlannedCpu(
        model=model, model_why=why, sockets=cpu.sockets, dies=dies, cores=cores,
        threads=threads, smp_why=_smp_why(cpu, dies, threads), hyperv=names, hyperv_why=hyperv_why,
        topoext=model == "host" and (threads > 1 or dies > 1) and _is_amd(draft)
        and not any(flag[1:] == "topoext" for flag in cpu.flags),
    )


def _smp_why(cpu: Cpu, dies: int, threads: int) -> str:
    keys = ["cpu.sockets", *["cpu.dies"] * ((cpu.dies or 1) > 1), "cpu.cores"]
    paired = cpu.threads is None and threads > 1
    keys.append("rule: threads as the host's, where the vCPUs are pinned" if paired else (
        "cpu.threads"
    ))
    if cpu.dies is None and dies > 1:
        keys.append("rule: a die for each level 3 cache that the vCPUs are on")
    return "; ".join(keys)


def _without_kvm(draft: Draft, names: tuple[str, ...]) -> tuple[str, ...]:
    if names and draft.profile.cpu.hyperv:
        draft.problem(
            "Hyper-V enlightenments are KVM's, and left out of an emulated machine", "cpu.hyperv",
            severity="note", hint='accel = "kvm" has them',
        )
    return ()


def _is_amd(draft: Draft) -> bool:
    return draft.facts.kvm is not None and draft.facts.kvm.extension == "svm"


def _check_names(draft: Draft, model: str, enlightenments: tuple[str, ...]) -> None:
    """A model, a feature or an enlightenment that this QEMU has not."""
    qemu = draft.facts.qemu
    if qemu is None:
        return
    known = qemu.properties.get(_MAX, ())
    if known:
        for key, name, property_name in _named(draft, enlightenments):
            if property_name.replace("_", "-") not in known and property_name not in known:
                draft.problem(
                    "this QEMU knows no such CPU feature", key, found=name,
                    hint=_nearest(name.lstrip("+-"), known)
                    or f"{qemu.path} -cpu help lists them",
                )
    if qemu.cpus and model not in qemu.cpus:
        draft.problem(
            "this QEMU knows no such CPU model", "cpu.model", found=model,
            hint=_nearest(model, qemu.cpus) or f"{qemu.path} -cpu help lists them",
        )


def _named(draft: Draft, enlightenments: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for index, flag in enumerate(draft.profile.cpu.flags):
        yield f"cpu.flags[{index}]", flag, flag[1:]
    for name in enlightenments:
        yield "cpu.hyperv", name, f"hv-{name}"


def _nearest(name: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else ""
