"""The kernel's pools of huge pages.

Two machines share a pool and end in any order, so an undo takes away what its own step added
rather than writing the old total: an absolute number would take the other's pages. How many were
added is known from `apply`. When that is not on record (killed in between), only what stands above
the captured number is taken, and pages may stay behind rather than be taken from somebody.
"""

from __future__ import annotations

from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import ReserveHugePages


class ReserveHugePagesHandler:
    """nr_hugepages of the machine or of one node."""

    def capture(self, host: Host, step: ReserveHugePages) -> Captured:
        """The pool's size and how many of its pages nobody has or has reserved."""
        pool = _pool(host, step)
        if not pool.is_dir():
            raise HostError(
                Problem(
                    f"there are no huge pages of {step.size >> 10} KiB", where=str(pool),
                    hint="ls /sys/kernel/mm/hugepages shows the sizes this host has",
                )
            )
        return {"nr": _persistent(pool), "free": _free(pool)}

    def apply(self, host: Host, step: ReserveHugePages, captured: Captured) -> None:
        """Raise the pool until `count` pages are free, with memory compacted when it falls short.

        Raises HostError when the kernel gives fewer; those that it gave are put back by `undo`.
        """
        pool = _pool(host, step)
        captured["raised"] = 0
        missing = step.count - _free(pool)
        if missing <= 0:
            return
        before = _persistent(pool)
        del captured["raised"]  # not known until the kernel is done
        _write(host, pool, before + missing)
        if _free(pool) < step.count and _compact(host, step):
            _write(host, pool, before + missing)
        captured["raised"] = max(0, _persistent(pool) - before)
        if _free(pool) < step.count:
            raise HostError(
                Problem(
                    "the kernel has not enough contiguous memory for the huge pages",
                    where=str(pool),
                    found=f"{_free(pool)} of {step.count} pages of {step.size >> 10} KiB",
                    hint="memory has been compacted; end what uses much of it, or reserve the "
                    f"pages at boot: hugepagesz={step.size >> 10}K hugepages={step.count}",
                )
            )

    def undo(self, host: Host, step: ReserveHugePages, captured: Captured) -> str | None:
        """Take away what was added. Raises HostError when the pool did not shrink.

        Pages that another process uses meanwhile become surplus and go when it frees them
        (mm/hugetlb.c adjust_pool_surplus).
        """
        pool = _pool(host, step)
        now = _persistent(pool)
        raised = captured.get("raised")
        if raised is None:
            raised = min(max(0, now - captured["nr"]), max(0, step.count - captured["free"]))
        target = max(0, now - raised)
        if target == now:
            return None
        _write(host, pool, target)
        left = _persistent(pool)
        if left > target:
            raise HostError(
                Problem(
                    "the pool of huge pages did not shrink", where=str(pool),
                    found=f"{left} pages", allowed=f"{target}",
                    hint=f"echo {target} | sudo tee {pool}/nr_hugepages",
                )
            )
        surplus = sysfs.read_number(pool / "surplus_hugepages") or 0
        later = f"; {surplus} in use elsewhere go when they are freed" if surplus else ""
        return f"{now - left} huge pages of {step.size >> 10} KiB given back{later}"


def _pool(host: Host, step: ReserveHugePages) -> Path:
    where = "sys/kernel/mm" if step.node is None else f"sys/devices/system/node/node{step.node}"
    return host.path(f"{where}/hugepages/hugepages-{step.size >> 10}kB")


def _persistent(pool: Path) -> int:
    """Pages that stay in the pool; nr_hugepages counts the surplus ones too."""
    surplus = sysfs.read_number(pool / "surplus_hugepages") or 0
    return (sysfs.read_number(pool / "nr_hugepages") or 0) - surplus


def _free(pool: Path) -> int:
    """Pages that are free and not promised to a mapping. A node does not tell what is promised."""
    promised = sysfs.read_number(pool / "resv_hugepages") or 0
    return (sysfs.read_number(pool / "free_hugepages") or 0) - promised


def _compact(host: Host, step: ReserveHugePages) -> bool:
    """Have the kernel move what can be moved together (vm.compact_memory): harms nobody."""
    node = step.node
    path = host.path(
        "proc/sys/vm/compact_memory" if node is None
        else f"sys/devices/system/node/node{node}/compact"
    )
    if not path.exists():
        return False
    try:
        sysfs.guarded_write(host, path, "1", "compacting memory")
    except OSError:
        return False
    return True


def _write(host: Host, pool: Path, count: int) -> None:
    path = pool / "nr_hugepages"
    try:  # compaction for many pages takes its time
        sysfs.guarded_write(host, path, str(count), f"setting {path} to {count}")
    except OSError as error:
        raise HostError(
            Problem(f"the pool cannot be set to {count} pages", str(path), found=str(error),
                    hint=sysfs.way_on(error))
        ) from error
