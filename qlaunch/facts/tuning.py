"""Who decides about the host's CPUs beside us: cpufreq, irqbalance, systemd.

Documentation/admin-guide/pm/cpufreq.rst names the files of a policy. A virtual machine has none.
"""

from __future__ import annotations

from pathlib import Path

from qlaunch.facts.cgroup_model import CpuPolicy, Tuning
from qlaunch.facts.tree import base_of, list_names, read_attribute
from qlaunch.values import CpuSet

_POLICIES = "/sys/devices/system/cpu/cpufreq"


def read_tuning(root: Path = Path("/")) -> Tuning:
    """Below a root; raises nothing."""
    base = base_of(root)
    return Tuning(
        policies=tuple(_policies(base)),
        irqbalance=_irqbalance(base),
        systemd=Path(f"{base}/run/systemd/system").is_dir(),  # sd_booted(3)
    )


def _policies(base: str) -> list[CpuPolicy]:
    """By their first CPU. `related_cpus` has the offline ones too, separated by blanks."""
    found = []
    for name in list_names(f"{base}{_POLICIES}"):
        where = f"{base}{_POLICIES}/{name}"
        governor = read_attribute(f"{where}/scaling_governor")
        if not name.startswith("policy") or not governor:
            continue
        words = (read_attribute(f"{where}/related_cpus") or name[6:]).split()
        offered = (read_attribute(f"{where}/scaling_available_governors") or "").split()
        cpus = CpuSet(int(word) for word in words if word.isdigit())
        found.append(CpuPolicy(cpus=cpus, governor=governor, offered=tuple(offered)))
    return sorted(found, key=lambda policy: policy.cpus)


def _irqbalance(base: str) -> int | None:
    pids = (name for name in list_names(f"{base}/proc") if name.isdigit())
    return next(
        (int(pid) for pid in pids if read_attribute(f"{base}/proc/{pid}/comm") == "irqbalance"),
        None,
    )
