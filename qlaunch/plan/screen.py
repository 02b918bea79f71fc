"""What showing a machine takes beside its display type: OpenGL and the GPU that draws, the
emulated card's memory, VNC's password, the D-Bus address, Looking Glass's memory.

GTK and SDL draw on the GPU of the desktop they are on. SPICE, D-Bus, and VNC by way of
egl-headless draw without a window, on a GPU named by its render node: never one that this machine
is given, which has left the host by then.
"""

from __future__ import annotations

import re

from qlaunch.facts.desktop_model import Desktop, RenderNode
from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_file
from qlaunch.plan.screen_model import PlannedScreen
from qlaunch.plan.shmem import DIRECTORY, share_memory
from qlaunch.plan.steps import OwnNode
from qlaunch.values import HostPath

MIB = 1 << 20
VIRGL_CARDS = ("virtio-gl", "venus")  # they start with an OpenGL display only
OFFSCREEN = ("egl-headless", "spice", "dbus", "vnc")
_DEFAULT_MEMORY = 16 * MIB  # of std, qxl and bochs
_LG_HEAD = 10 * MIB  # what Looking Glass keeps beside two frames (its manual, "Determining memory")
_KVMFR = re.compile(r"^/dev/kvmfr([0-9]{1,3})$")
_BY_PATH = re.compile(r"pci-([0-9a-f:.]+)-render$")


def plan_screen(draft: Draft, kind: str) -> None:
    """Everything but the display type and the card's place; in `decided["screen"]`."""
    display = draft.profile.display
    gl, gl_why = _gl(draft, kind)
    memory, memory_why = _memory(draft)
    if display.vga == "venus" or display.blob or display.hostmem is not None:
        from qlaunch.plan.virtio_gpu import plan_virtio

        plan_virtio(draft)
    node, node_why = "", ""
    if gl not in ("", "off") and kind in OFFSCREEN:
        node, node_why = _render_node(draft, _key_of_gl(draft))
    if kind == "looking-glass":
        _looking_glass(draft)
    draft.decided["screen"] = PlannedScreen(
        gl=gl, gl_why=gl_why, render_node=node, render_why=node_why,
        memory=memory, memory_why=memory_why, secret=_secret(draft) if kind == "vnc" else None,
        bus=_bus(draft) if kind == "dbus" else "", wayland=_wayland(draft),
    )


def resolution(text: str | None) -> tuple[int, int] | None:
    """Width and height of "1920x1080"."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    return int(width), int(height)


def looking_glass_size(width: int, height: int, hdr: bool) -> int:
    """Bytes: two frames of 4 (HDR: 8) bytes a pixel and 10 MiB, rounded up to a power of two."""
    return _power_of_two(width * height * (8 if hdr else 4) * 2 + _LG_HEAD)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _gl(draft: Draft, kind: str) -> tuple[str, str]:
    display = draft.profile.display
    if display.gl is not None:
        word = display.gl if isinstance(display.gl, str) else "on" if display.gl else "off"
        return word, "display.gl"
    if display.vga in VIRGL_CARDS and kind != "none":
        return "on", f"rule: a {display.vga} card draws with OpenGL"
    if draft.wants_gl and kind not in ("none", "vnc"):
        return "on", draft.wants_gl
    return ("on", "display.type") if kind == "egl-headless" else ("", "")


def _memory(draft: Draft) -> tuple[int | None, str]:
    display = draft.profile.display
    if display.vga_memory is not None:
        return int(display.vga_memory), "display.vga_memory"
    size = resolution(display.resolution)
    if size is None or display.vga not in ("std", "qxl", "bochs"):
        return None, ""
    need = _power_of_two(size[0] * size[1] * 4)
    if need <= _DEFAULT_MEMORY:
        return None, ""
    return need, f"rule: {display.resolution} does not fit into 16 MiB"


# -- the GPU that draws -----------------------------------------------------------------------


def _key_of_gl(draft: Draft) -> str:
    display = draft.profile.display
    if display.gl is not None:
        return "display.gl"
    return "display.vga" if display.vga in VIRGL_CARDS else "display.type"


def _render_node(draft: Draft, key: str) -> tuple[str, str]:
    desktop = draft.facts.desktop
    wanted = draft.profile.display.render_node
    given = {card.address for card in draft.decided.get("cards", ())}
    if wanted is not None:
        _check_wanted(draft, wanted, desktop or Desktop(), given)
        return wanted, "display.render_node"
    if desktop is None:
        return "", ""
    free = [node for node in desktop.render if node.pci not in given]
    usable = [node for node in free if node.usable]
    if usable:
        chosen = usable[0]
        who = f"{chosen.pci or 'it'} ({chosen.driver})" if chosen.driver else str(chosen.pci)
        return chosen.path, f"rule: {who} is the first GPU that stays with the host"
    if free:
        _refused(draft, free[0], key)
    else:
        found = ", ".join(f"{n.path} of {n.pci}, which the guest has" for n in desktop.render)
        draft.problem(
            "there is no GPU to draw with", key, found=found or "no /dev/dri/renderD*",
            hint='without OpenGL: display.vga = "virtio" or "std", and display.gl = false',
        )
    return "", ""


def _check_wanted(
    draft: Draft, wanted: HostPath, desktop: Desktop, given: set[str]
) -> None:
    where = "display.render_node"
    by_path = _BY_PATH.search(wanted)
    address = by_path[1] if by_path else ""
    node = next((n for n in desktop.render if wanted == n.path or n.pci == address), None)
    file = draft.facts.file(wanted)
    if node is not None and node.pci in given:
        draft.problem("this GPU is handed to the guest", where, found=f"{wanted} of {node.pci}",
                      hint="name the render node of a GPU that stays: ls -l /dev/dri/by-path")
    elif file is not None and file.kind != "char":
        draft.problem("this is no GPU's render node", where, found=f"{wanted}: {file.kind}",
                      hint="ls -l /dev/dri/by-path shows those there are")
    elif file is not None and not (file.readable and file.writable):
        _refused(draft, node or RenderNode(path=wanted), where)


def _refused(draft: Draft, node: RenderNode, where: str) -> None:
    account = draft.account or draft.facts.invoker
    name, group = account.name if account else "you", node.group or "render"
    hint = f"sudo usermod -aG {group} {name}, and log in again"
    if draft.account is not None and draft.account.home == "/nonexistent":  # in no group
        hint = f'[qemu] user = "NAME", of a user who is in the group {group}'
    draft.problem(f"{name} may not draw with this GPU", where, found=node.path, hint=hint)


# -- VNC, D-Bus, Wayland ----------------------------------------------------------------------


def _secret(draft: Draft) -> int | None:
    path = draft.profile.display.password_file
    if path is None:
        return None
    check_file(draft, draft.facts.file(path), "display.password_file", read_only=True)
    return draft.fd("secret", path, writable=False)


def _bus(draft: Draft) -> str:
    bus = draft.profile.display.bus
    desktop = draft.facts.desktop
    if bus != "session":
        return "" if bus == "p2p" else bus
    if desktop is None:
        return ""
    if "bus" not in desktop.sockets:
        draft.problem(
            "the user that QEMU runs as has no session bus", "display.bus",
            found=_no_session(draft),
            hint='log in as that user, or use bus = "p2p"',
        )
        return ""
    return f"unix:path={desktop.sockets['bus']}"


def _wayland(draft: Draft) -> str:
    desktop = draft.facts.desktop
    if not draft.profile.display.cross_domain or desktop is None:
        return ""
    if "wayland" not in desktop.sockets:
        draft.problem("the user that QEMU runs as has no Wayland desktop", "display.cross_domain",
                      found=_no_session(draft), hint="leave cross_domain out")
    return desktop.sockets.get("wayland", "")


def _no_session(draft: Draft) -> str:
    invoker = draft.facts.invoker
    if invoker is None:
        return ""
    return f"nothing in {invoker.runtime_dir}" if invoker.runtime_dir else (
        f"{invoker.name} has no /run/user/{invoker.uid}"
    )


# -- Looking Glass ----------------------------------------------------------------------------


def _looking_glass(draft: Draft) -> None:
    display = draft.profile.display
    size = resolution(display.resolution)
    need = looking_glass_size(*size, display.hdr) if size else 0
    if display.kvmfr is None:
        share_memory(draft, "looking-glass", "display.resolution",
                     f"{DIRECTORY}/{display.shared_file}", need or 32 * MIB, kind="looking-glass")
        _check_client(draft)
        return
    region = _kvmfr(draft, display.kvmfr, need)
    share_memory(draft, "looking-glass", "display.kvmfr", display.kvmfr, region,
                 kind="looking-glass", made=False)


def _kvmfr(draft: Draft, path: str, need: int) -> int:
    """The size of the module's region, which QEMU must map as a whole."""
    desktop, file = draft.facts.desktop, draft.facts.file(path)
    match = _KVMFR.match(path)
    number = int(match[1]) if match else -1  # the profile's rules have told it
    regions = desktop.kvmfr if desktop else None
    hint = f"modprobe kvmfr static_size_mb={max(need, 32 * MIB) >> 20}"
    if file is not None and file.kind != "char":
        draft.problem("there is no such kvmfr device", "display.kvmfr", found=path, hint=hint)
    elif number >= 0 and file is not None and not (file.readable and file.writable):
        _lend(draft, path)
    if regions is None or not 0 <= number < len(regions):
        return need or 32 * MIB
    if need > regions[number]:
        draft.problem(
            "kvmfr's memory is too small for this resolution", "display.resolution",
            found=f"{regions[number] >> 20} MiB, and {need >> 20} MiB are needed",
            hint=f"modprobe -r kvmfr; {hint}",
        )
    return regions[number]


def _lend(draft: Draft, path: str) -> None:
    if draft.account is not None:
        draft.steps.append(OwnNode(path=HostPath(path), uid=draft.account.uid,
                                   gid=draft.account.gid, why="display.kvmfr"))
        return
    name = draft.facts.invoker.name if draft.facts.invoker else "USER"
    draft.problem("you may not use this kvmfr device", "display.kvmfr", found=path,
                  hint=f"""a udev rule: SUBSYSTEM=="kvmfr", OWNER="{name}", MODE="0600\"""")


def _check_client(draft: Draft) -> None:
    """Looking Glass's client is the desktop user's, and so must the file be."""
    invoker = draft.facts.invoker
    if invoker and invoker.root and invoker.asked is None and not draft.profile.qemu.user:
        draft.problem(
            f"the client has to run as {invoker.name}, whom QEMU runs as", "display.type",
            hint='name the desktop\'s user: [qemu] user = "NAME"', severity="warning",
        )
