"""Drop-ins that are ours alone: modules at boot, huge pages, and access without root.

modules-load.d(5) names what nothing else loads. vm.nr_hugepages is for pages of the default size;
pages of 1 GiB are set aside on the kernel command line, before memory is in pieces
(Documentation/admin-guide/mm/hugetlbpage.rst). VFIO pins all guest memory, so an account without
root needs its memory lock limit raised: limits.conf(5) for logins, and for what the user's own
systemd starts a drop-in of its service, which has limits of its own (systemd.exec(5)).
"""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.errors import Problem
from qlaunch.setup.model import HEAD, Part, SetupFacts, Wishes
from qlaunch.values import Size

MODULES = "/etc/modules-load.d/qlaunch.conf"
SYSCTL = "/etc/sysctl.d/qlaunch.conf"
UDEV = "/etc/udev/rules.d/90-qlaunch.rules"
LIMITS = "/etc/security/limits.d/qlaunch.conf"
SMALL, LARGE = 2 << 20, 1 << 30
LEFT = 2 << 30  # bytes that a host cannot start without


def user_unit(uid: int) -> str:
    """The drop-in of a user's systemd (user@.service(5))."""
    return f"/etc/systemd/system/user@{uid}.service.d/qlaunch.conf"


def file_problems(facts: SetupFacts, wishes: Wishes) -> Iterator[Problem]:
    """What stands against these drop-ins."""
    if wishes.user and wishes.user not in facts.users:
        yield Problem("there is no such user", where="--user", found=wishes.user,
                      hint="getent passwd lists the accounts")
    if wishes.user and facts.users.get(wishes.user) == 0:
        yield Problem("root needs no permission", where="--user", found=wishes.user,
                      hint="name the account that will run the machines")
    if any(p.size == SMALL for p in wishes.hugepages) and facts.page != SMALL:
        yield Problem(
            "pages of 2 MiB are set aside by sysctl, which is for the default size only",
            where="--hugepages", found=f"default_hugepagesz is {Size(facts.page)}",
            hint="take default_hugepagesz off the kernel command line",
        )
    asked = sum(p.size * p.count for p in wishes.hugepages)
    if asked and facts.memory is not None and asked > facts.memory - LEFT:
        yield Problem(
            "these huge pages would leave the host less than 2 GiB, and it might not start",
            where="--hugepages", found=f"{asked >> 20} MiB of {facts.memory >> 20} MiB",
            hint="ask for fewer: as much as the guests have together",
        )
    if wishes.gvt and facts.cpu == "amd":
        yield Problem("GVT-g slices Intel's graphics", where="--gvt", found="the CPU is AMD's",
                      hint="leave --gvt out; qlaunch devices --vgpu shows what can be sliced")


def hugepage_words(wishes: Wishes) -> Iterator[tuple[str, ...]]:
    """Kernel parameters for pages of 1 GiB."""
    for pages in wishes.hugepages:
        if pages.size == LARGE and pages.count:
            yield ("hugepagesz=1G", f"hugepages={pages.count}")


def file_parts(facts: SetupFacts, wishes: Wishes) -> Iterator[Part]:
    """The drop-ins for these wishes."""
    modules = [m for m in ("vfio_iommu_type1", "vfio_pci") if m not in facts.builtin]
    if wishes.gvt:
        modules.append("kvmgt")
    if modules:
        yield _own(MODULES, "\n".join(modules))
    for pages in wishes.hugepages:
        if pages.size == SMALL:
            yield _own(SYSCTL, f"vm.nr_hugepages = {pages.count}")
    if wishes.user:
        yield from _user_parts(facts, wishes)


def _user_parts(facts: SetupFacts, wishes: Wishes) -> Iterator[Part]:
    user = wishes.user
    rule = f'SUBSYSTEM=="vfio", OWNER="{user}"\nSUBSYSTEM=="vfio-dev", OWNER="{user}"'
    yield Part(path=UDEV, kind="own", text=f"{HEAD}{rule}\n", subject="udev")
    limit = "unlimited" if wishes.memlock is None else str(wishes.memlock >> 10)
    yield _own(LIMITS, f"{user} soft memlock {limit}\n{user} hard memlock {limit}")
    value = "infinity" if wishes.memlock is None else str(int(wishes.memlock))
    yield Part(path=user_unit(facts.users[user]), kind="own", subject="systemd",
               text=f"{HEAD}[Service]\nLimitMEMLOCK={value}\n")


def _own(path: str, text: str) -> Part:
    return Part(path=path, kind="own", text=f"{HEAD}{text}\n")
