"""What the flavours of a virtio card need of QEMU and of the host: Vulkan (venus), pictures that
are shared instead of copied (blob), and a window for GPU memory (hostmem).

From QEMU's virtio_gpu_device_realize (hw/display/virtio-gpu.c): before 9.2 blobs and OpenGL
exclude each other; a card without OpenGL makes blobs by /dev/udmabuf, of guest memory that is a
memfd; rutabaga's blobs are always on.
"""

from __future__ import annotations

from qlaunch.plan.display import VGA
from qlaunch.plan.draft import Draft
from qlaunch.plan.packages import install_hint

UDMABUF = "/dev/udmabuf"
_FLAT = ("virtio", "virtio-gl")


def plan_virtio(draft: Draft) -> None:
    """Shared guest memory where blobs become dmabufs, and every reason why there are none."""
    display = draft.profile.display
    blob = display.blob and display.vga in _FLAT
    if display.vga == "venus" or blob:
        key = "display.blob" if blob else "display.vga"
        draft.share_memory = draft.share_memory or key
    if display.vga == "venus":
        _check_venus(draft)
    elif display.vga == "virtio-gl" and blob:
        _check_blob_gl(draft)
    elif blob:
        _check_udmabuf(draft)
    if display.hostmem is not None and display.vga in _FLAT:
        _check_window(draft)


def _check_venus(draft: Draft) -> None:
    if _is_old(draft):
        _refuse(draft, "this QEMU's virtio-vga-gl has no Vulkan (venus)", "display.vga",
                '"virtio-gl", "virtio", "std" …')


def _check_blob_gl(draft: Draft) -> None:
    if _is_old(draft):
        _refuse(draft, "this QEMU's virtio-vga-gl shares no pictures (blob)", "display.blob",
                "false; with vga = \"virtio\", true")


def _is_old(draft: Draft) -> bool:
    """Venus and blobs of virglrenderer's came together."""
    qemu = draft.facts.qemu
    card = VGA["venus"]
    return qemu is not None and qemu.has(card) and not qemu.has(card, "venus")


def _refuse(draft: Draft, message: str, where: str, allowed: str) -> None:
    version = draft.facts.qemu.version if draft.facts.qemu else ()
    draft.problem(message, where, found=".".join(str(n) for n in version), allowed=allowed,
                  hint=install_hint("virtio-vga-gl.venus", version))


def _check_udmabuf(draft: Draft) -> None:
    file, account = draft.facts.file(UDMABUF), draft.account
    if file is None:
        return
    if file.kind != "char":
        draft.problem(
            "this host cannot share a guest's pictures", "display.blob",
            found=f"{UDMABUF}: {file.kind}",
            hint="modprobe udmabuf (CONFIG_UDMABUF); or leave blob out, or take a card with OpenGL",
        )
    elif not (file.readable and file.writable) and not (account and file.gid in account.groups):
        who = account or draft.facts.invoker
        name = who.name if who else "USER"
        draft.problem(
            f"{name} may not share a guest's pictures", "display.blob", found=UDMABUF,
            hint=f"its group is often kvm: sudo usermod -aG kvm {name}, and log in again",
        )


def _check_window(draft: Draft) -> None:
    qemu, card = draft.facts.qemu, VGA[draft.profile.display.vga]
    if qemu is not None and qemu.has(card) and not qemu.has(card, "hostmem"):
        draft.problem(
            f"this QEMU's {card} has no window for GPU memory", "display.hostmem",
            found=".".join(str(n) for n in qemu.version),
            hint="it came with QEMU 8.2; leave hostmem out",
        )
