"""The kernel: its modules, KVM and what KVM does for guests, Secure Boot's lockdown.

Sources: kernel_lockdown(7) for what a locked-down kernel refuses; Documentation/virt/kvm for
`ignore_msrs` and `nested`.
"""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host, unexamined
from qlaunch.advise.fixes import module_option

_NEEDED = ("vfio", "vfio_pci", "vfio_iommu_type1")
_YES = ("Y", "1")


def modules(host: Host) -> Iterator[Finding]:
    """VFIO's: loaded, built in, or there to be loaded."""
    health, kernel = host.health, host.facts.kernel
    release = kernel.release if kernel else "?"
    where = f"/lib/modules/{release}"
    states = {name: health.modules.get(name, "unknown") for name in _NEEDED}
    evidence = (
        Evidence(f"/proc/modules, {where}/modules.dep",
                 ", ".join(f"{name} {state}" for name, state in states.items())),
    )
    missing = [name for name, state in states.items() if state == "missing"]
    unknown = [name for name, state in states.items() if state == "unknown"]
    if missing:
        yield Finding(
            subject="modules", level="fault", message=f"this kernel has no {', '.join(missing)}",
            evidence=evidence, reason="VFIO is how the kernel hands a device to a guest",
            fix=("start a kernel built with CONFIG_VFIO_PCI (the distribution's generic one)",),
        )
    elif unknown and health.modules_dir is False:
        yield Finding(
            subject="modules", level="fault",
            message="there are no modules of the running kernel: was it updated since the start?",
            evidence=(Evidence(where, "missing"), *evidence),
            reason=f"{', '.join(unknown)} can no longer be loaded", fix=("reboot",),
        )
    elif unknown and health.modules:
        yield unexamined("modules", f"whether the kernel has {', '.join(unknown)}")
    elif not unknown:
        yield Finding(subject="modules", level="ok", message="VFIO is there", evidence=evidence)


def kvm(host: Host) -> Iterator[Finding]:
    """Whether guests run on the CPU itself."""
    found = host.facts.kvm
    if found is None:
        yield unexamined("KVM", "whether it works")
        return
    if found.usable:
        name = {"vmx": "Intel VT-x", "svm": "AMD SVM"}.get(found.extension, "the CPU's")
        yield Finding(subject="KVM", level="ok", message=f"works, by {name}",
                      evidence=(Evidence("/dev/kvm", "there"),
                                Evidence("/proc/cpuinfo", found.extension or "?")))
        return
    yield Finding(
        subject="KVM", level="fault", message=found.reason,
        evidence=(Evidence("/dev/kvm", "there" if found.present else "missing"),
                  Evidence("/proc/cpuinfo", found.extension or "neither vmx nor svm")
                  if found.present or "neither" in found.reason
                  else Evidence("/proc/modules", "no kvm_intel, no kvm_amd")),
        reason="guests would be emulated, ten times slower or more",
        fix=(found.hint,) if found.hint else (),
    )


def nested(host: Host) -> Iterator[Finding]:
    """Guests inside guests: WSL 2, Hyper-V and Windows' memory integrity are such."""
    for name in ("kvm_intel", "kvm_amd"):
        value = host.health.parameters.get(f"{name}.nested")
        if value is None:
            continue
        evidence = (Evidence(f"/sys/module/{name}/parameters/nested", value),)
        if value in _YES:
            yield Finding(subject="nested", level="ok", evidence=evidence,
                          message="guests may run guests (WSL 2, Hyper-V)")
        else:
            option = module_option(name, "nested=1")[0]
            yield Finding(
                subject="nested", level="note", evidence=evidence,
                message="off: WSL 2 and Hyper-V do not work in Windows guests",
                reason="they are hypervisors themselves",
                fix=(option, f"with no machine running: sudo modprobe -r {name}; "
                     f"sudo modprobe {name}"),
            )


def ignore_msrs(host: Host) -> Iterator[Finding]:
    """What becomes of a guest that reads a register KVM does not know."""
    value = host.health.parameters.get("kvm.ignore_msrs")
    if value is None:
        return
    evidence = (Evidence("/sys/module/kvm/parameters/ignore_msrs", value),)
    if value in _YES:
        yield Finding(subject="ignore_msrs", level="ok", evidence=evidence,
                      message="unknown registers read as zero")
        return
    yield Finding(
        subject="ignore_msrs", level="note", evidence=evidence,
        message="off: a Windows guest may stop with a blue screen",
        reason="some games, drivers and tools read CPU registers that KVM does not know",
        fix=module_option("kvm", "ignore_msrs=1"),
    )


def lockdown(host: Host) -> Iterator[Finding]:
    """Secure Boot, and the lockdown that comes with it on most distributions."""
    kernel, secure = host.facts.kernel, host.health.secure_boot
    mode = kernel.lockdown if kernel else ""
    said = {True: "on", False: "off", None: "not told (no UEFI?)"}[secure]
    evidence = (
        Evidence("/sys/kernel/security/lockdown", mode or "none"),
        Evidence("/sys/firmware/efi/efivars/SecureBoot-*", said),
    )
    if not mode:
        yield Finding(subject="lockdown", level="ok", message="the kernel is not locked down",
                      evidence=evidence)
        return
    yield Finding(
        subject="lockdown", level="warning", evidence=evidence,
        message=f"the kernel is locked down ({mode}): it loads signed modules only",
        reason="vfio-pci works; vendor-reset, kvmfr and NVIDIA's own driver do not load unless "
        "signed, and setpci may not write",
        fix=(
            "sign modules of your own and enrol the key: sudo mokutil --import KEY.der",
            "or switch Secure Boot off in the BIOS setup" if secure
            else "or take lockdown= off the kernel's command line",
        ),
    )
