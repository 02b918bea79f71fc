"""Intel's GVT-g: the kernel's switches that stand against it, all at once, because each costs a
reboot; and the types that i915 makes, known before its module kvmgt is loaded."""

from __future__ import annotations

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.facts.vgpu_model import VgpuFacts
from qlaunch.plan.cards import is_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.vgpu_want import Choice, Want, is_named

_NEW_START = "(qlaunch host setup --gvt --apply) and start the host anew"
_OFF = ("N", "0")
# The end of a type's name, its MiB in both apertures, its screen (vgpu_types, gvt/vgpu.c).
_TYPES = (
    ("8", 448, (1024, 768)), ("4", 640, (1920, 1200)), ("2", 1280, (1920, 1200)),
    ("1", 2560, (1920, 1200)),
)
# What i915 makes vGPUs of (is_supported_device, drivers/gpu/drm/i915/intel_gvt.c): the beginnings
# of their ids in include/drm/i915_pciids.h, which no other platform of i915's shares.
_BROADWELL = "8086:16"  # its types are V4, all later ones' V5 (intel_gvt_init_vgpu_types)
_MAKERS = (
    _BROADWELL, "8086:19", "8086:59",  # Skylake, Kaby Lake
    "8086:0a84", "8086:1a84", "8086:1a85", "8086:5a84", "8086:5a85",  # Broxton (Apollo Lake)
    "8086:3e", "8086:87c", "8086:9b",  # Coffee and Whiskey Lake, Amber Lake, Comet Lake
)


def gvt_card(want: Want, facts: HostFacts, info: VgpuFacts) -> PciDevice | None:
    """The Intel card that makes no types, but would have to for this want; of several one that
    can."""
    if want.type and not is_gvt(want.type):
        return None
    names = [p.name for p in info.parents]
    cards = [
        d for d in facts.pci or ()
        if d.driver == "i915" and is_named(d, want.parent) and d.address not in names
    ]
    return next((d for d in cards if is_maker(d)), cards[0] if cards else None)


def is_maker(card: PciDevice) -> bool:
    """Whether GVT-g is for this card, by its id: until kvmgt is loaded nothing else tells."""
    return card.id.startswith(_MAKERS)


def find_other_driver(want: Want, facts: HostFacts) -> Problem | None:
    """An Intel card that i915 does not have cannot make a type of i915's."""
    card = next(
        (d for d in facts.pci or ()
         if is_display(d) and d.id.startswith("8086:") and d.driver != "i915" and not d.physfn
         and is_named(d, want.parent)), None,
    )
    if card is None or not is_gvt(want.type or ""):
        return None
    return Problem(
        f"GVT-g is i915's, and {card.address} is on {card.driver or 'no driver'}",
        found=f"{card.address} [{card.id}]",
        hint=f"qlaunch unbind {card.address} gives it back, where VFIO has it; xe has no GVT-g"
        if card.driver else "modprobe i915",
    ) if is_maker(card) else _no_gvt(card)


def is_gvt(kind: str) -> bool:
    """Whether a type's name is one of i915's."""
    return "i915-" in kind or "GVTg" in kind


def make_gvt(want: Want, info: VgpuFacts, card: PciDevice) -> Choice | Problem:
    """A type that is there once kvmgt is loaded, or why there will be none."""
    refusal = _refusal(info, card) if is_maker(card) else _no_gvt(card)
    if refusal is not None:
        return refusal
    if not want.of_type:
        return Problem(
            f"which types {card.address} has is known once kvmgt is loaded",
            found="the module kvmgt is not loaded", hint="modprobe kvmgt",
        )
    kind = _coming(want, card)
    if not kind:
        return Problem(
            "GVT-g has no type as large", allowed=str(want),
            found=f"the largest has {_TYPES[-1][1]}M and shows "
            f"{'x'.join(str(n) for n in _TYPES[-1][2])}",
        )
    return Choice(
        kind="mdev", parent=card.address, type=kind, load="kvmgt",
        free="rule: how many it can make is known once kvmgt is loaded",
    )


def _refusal(info: VgpuFacts, card: PciDevice) -> Problem | None:
    """Why a card that GVT-g is for makes nothing, and loading kvmgt would not help."""
    off = _switches(info, card)
    if off:
        return Problem(
            "; ".join(text for text, _, _ in off), found=" ".join(found for _, found, _ in off),
            hint=f"put {' '.join(wanted for _, _, wanted in off)} on the kernel command line "
            f"{_NEW_START}",
        )
    if "i915.enable_gvt" not in info.parameters:
        return Problem(
            "this kernel's i915 has no GVT-g", found="no parameter i915.enable_gvt",
            hint="use a kernel with CONFIG_DRM_I915_GVT; GVT-g is for Intel's 5th to 10th "
            "generation, newer ones have virtual functions instead",
        )
    if "kvmgt" in info.modules:
        return Problem(
            f"{card.address} makes no vGPU although GVT-g is on",
            found="/sys/class/mdev_bus has no entry of it",
            hint="GVT-g is for Intel's 5th to 10th generation; see dmesg | grep -i gvt",
        )
    return None


def _no_gvt(card: PciDevice) -> Problem:
    """A card older or newer than GVT-g. The newer ones that are sliced have virtual functions."""
    hint = f'its slices are virtual functions: parent = "{card.id}", in a list {{vf = "{card.id}"}}'
    return Problem(
        f"{card.address} is of a generation that has no GVT-g", found=f"{card.address} [{card.id}]",
        allowed="Intel's 5th to 10th generation, Ice Lake excepted",
        hint=hint if card.sriov_total else 'share it by an emulated card: display.vga = "virtio-gl"'
        ', in a list {virtio = "virtio-gl"}; Intel\'s 12th generation and newer have virtual '
        "functions where the kernel shows them (sriov_totalvfs)",
    )


def _switches(info: VgpuFacts, card: PciDevice) -> list[tuple[str, str, str]]:
    """(what is wrong, as it is, as it should be) of i915's parameters (intel_gvt.c)."""
    gvt, guc = (info.parameters.get(f"i915.enable_{name}", "") for name in ("gvt", "guc"))
    faults = []
    if gvt in _OFF:
        faults.append((f"GVT-g is switched off for {card.address}", f"i915.enable_gvt={gvt}",
                       "i915.enable_gvt=1"))
    if gvt and guc.isdigit() and int(guc) & 1:
        faults.append(("GVT-g does not work with GuC submission: i915 gives up on it at start",
                       f"i915.enable_guc={guc}", "i915.enable_guc=0"))
    return faults


def _coming(want: Want, card: PciDevice) -> str:
    """The type as its directory will be called; of several the smallest, "" for none. The largest
    need an aperture that not every firmware grants: then `create` tells."""
    if want.type is not None:
        return want.type if want.type.startswith("i915-") else f"i915-{want.type}"
    version = 4 if card.id.startswith(_BROADWELL) else 5
    for name, mib, (width, height) in _TYPES:
        if mib << 20 >= want.bytes and width >= want.pixels[0] and height >= want.pixels[1]:
            return f"i915-GVTg_V{version}_{name}"
    return ""


def check_refused(draft: Draft, key: str, wants: list[Want]) -> None:
    """What else the kernel is to be started with, told beside the switches that refused a type."""
    facts, info = draft.facts, draft.facts.vgpu
    if info is None:
        return
    for want in wants:
        card = gvt_card(want, facts, info)
        if card is not None and is_maker(card) and _switches(info, card):
            check_host(draft, key)
            return


def check_host(draft: Draft, key: str) -> None:
    """What Intel's cards want of the kernel beside the type itself."""
    info, iommu = draft.facts.vgpu, draft.facts.iommu
    ignores = info.parameters.get("kvm.ignore_msrs") if info else None
    if ignores in _OFF and draft.profile.guest.startswith("windows"):
        draft.problem(
            "Windows' Intel driver reads registers that KVM does not have; without "
            "kvm.ignore_msrs the guest stops with a blue screen", key, severity="warning",
            found="kvm.ignore_msrs=0",
            hint="echo 1 | sudo tee /sys/module/kvm/parameters/ignore_msrs (for all machines), or "
            "kvm.ignore_msrs=1 on the kernel command line",
        )
    if iommu is not None and not iommu.enabled:
        draft.problem(
            "GVT-g runs without an IOMMU, and then nothing confines the vGPU's memory accesses "
            "but its driver", key, found=iommu.reason, hint=iommu.hint, severity="warning",
        )
