"""The emulated card and what shows it: options, the GPU that draws, Looking Glass, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import plan_options, render_argv
from qlaunch.errors import Problem
from qlaunch.facts.desktop_model import Desktop, RenderNode
from qlaunch.facts.model import HostFacts, HostFile, QemuBinary, Ram
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.packages import PACKAGES, install_hint
from qlaunch.plan.screen import looking_glass_size
from qlaunch.plan.steps import MakeShared, OwnNode
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.audio import Audio
from qlaunch.profile.display import Display
from qlaunch.profile.table import Table
from qlaunch.profile.tables import key_type
from qlaunch.values import PciAddress
from tests.fake.plans import ROOT, USER, device, host, planned, profile, said
from tests.fake.snapshots import qemu72, qemu100

NODE = RenderNode(path="/dev/dri/renderD128", pci=PciAddress("0000:00:02.0"), driver="i915",
                  group="render")
GUESTS = RenderNode(path="/dev/dri/renderD129", pci=PciAddress("0000:01:00.0"), driver="nouveau",
                    group="render")
SESSION = {"bus": "/run/user/1000/bus", "wayland": "/run/user/1000/wayland-0"}
DESKTOP = Desktop(render=(NODE, GUESTS), sockets=SESSION)


def facts(*devices: Any, qemu: QemuBinary | None = None, **more: Any) -> HostFacts:
    more = {"desktop": DESKTOP, **more}
    return host(*devices, qemu=qemu or qemu100(), **more)


def shown(text: str, **more: Any) -> Plan:
    return planned(f"[display]\n{text}\n", facts(**more))


def one(plan: Plan, severity: str = "error") -> Problem:
    (problem,) = [p for p in plan.problems if p.severity == severity]
    return problem


def option(plan: Plan, flag: str) -> list[str]:
    argv = render_argv(plan)
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


def card(text: str, **more: Any) -> str:
    plan = shown(text, **more)
    assert said(plan) == []
    return next(word for word in option(plan, "-device") if ",id=vga" in word)


CARDS = {
    'vga = "std"': "VGA,id=vga,bus=pcie.0,addr=01.0",
    'vga = "std"\nvga_memory = "64M"\nresolution = "1280x720"\nedid = false':
        "VGA,id=vga,bus=pcie.0,addr=01.0,vgamem_mb=64,edid=off,xres=1280,yres=720",
    'vga = "std"\nresolution = "2560x1600"':
        "VGA,id=vga,bus=pcie.0,addr=01.0,xres=2560,yres=1600",  # 15.6 MiB
    'vga = "std"\nresolution = "2560x1640"':
        "VGA,id=vga,bus=pcie.0,addr=01.0,vgamem_mb=32,xres=2560,yres=1640",
    'vga = "qxl"\nheads = 2\nvga_memory = "32M"':
        "qxl-vga,id=vga,bus=pcie.0,addr=01.0,vgamem_mb=32,max_outputs=2",
    'vga = "cirrus"\nvga_memory = "8M"': "cirrus-vga,id=vga,bus=pcie.0,addr=17.0,vgamem_mb=8",
    'vga = "bochs"\nvga_memory = "32M"\nresolution = "800x600"':
        "bochs-display,id=vga,bus=pcie.0,addr=01.0,vgamem=33554432,xres=800,yres=600",
    'vga = "virtio"\nheads = 3\nedid = true\nvga_memory = "512M"':
        "virtio-vga,id=vga,bus=pcie.0,addr=01.0,max_outputs=3,edid=on,max_hostmem=536870912",
    'vga = "virtio-gl"\ntype = "gtk"': "virtio-vga-gl,id=vga,bus=pcie.0,addr=01.0",
    'vga = "venus"\ntype = "gtk"':
        "virtio-vga-gl,id=vga,bus=pcie.0,addr=01.0,venus=on,blob=on,hostmem=8G",
    'vga = "venus"\ntype = "sdl"\nhostmem = "4G"\nresolution = "1920x1080"':
        "virtio-vga-gl,id=vga,bus=pcie.0,addr=01.0,venus=on,blob=on,hostmem=4G,"
        "xres=1920,yres=1080",
    'vga = "virtio"\nblob = true\nhostmem = "256M"\nheads = 2':
        "virtio-vga,id=vga,bus=pcie.0,addr=01.0,blob=on,hostmem=256M,max_outputs=2",
    'vga = "virtio-gl"\ntype = "gtk"\nblob = true\nhostmem = "1G"':
        "virtio-vga-gl,id=vga,bus=pcie.0,addr=01.0,blob=on,hostmem=1G",
    'vga = "ramfb"': "ramfb,id=vga",
}


@pytest.mark.parametrize(("text", "wanted"), CARDS.items())
def test_cards(text: str, wanted: str) -> None:
    assert card(text) == wanted


def test_rutabaga() -> None:
    qemu = qemu100()
    built = replace(qemu, devices=(*qemu.devices, "virtio-vga-rutabaga"))
    base = "virtio-vga-rutabaga,id=vga,bus=pcie.0,addr=01.0,gfxstream-vulkan=on,hostmem=8G"
    assert card('vga = "rutabaga"', qemu=built) == base
    assert card('vga = "rutabaga"\ncross_domain = true', qemu=built) == (
        f"{base},cross-domain=on,wayland-socket-path=/run/user/1000/wayland-0"
    )
    assert card('vga = "rutabaga"\ngfxstream = false\ncross_domain = true', qemu=built) == (
        "virtio-vga-rutabaga,id=vga,bus=pcie.0,addr=01.0,hostmem=8G,cross-domain=on,"
        "wayland-socket-path=/run/user/1000/wayland-0"
    )
    plan = shown('vga = "rutabaga"\ncross_domain = true', qemu=built, desktop=Desktop())
    assert (one(plan).where, one(plan).found) == ("display.cross_domain",
                                                  "nothing in /run/user/1000")


def test_a_card_on_the_pc_machine() -> None:
    plan = planned('[machine]\ntype = "pc"\n[display]\nvga = "std"\n', facts())
    assert said(plan) == []
    assert "VGA,id=vga,bus=pci.0,addr=02.0" in option(plan, "-device")


# -- what shows it ----------------------------------------------------------------------------

VIEWS = {
    'type = "none"': "none",
    'type = "gtk"': "gtk",
    'type = "gtk"\ngl = "es"\nfull_screen = true\nzoom_to_fit = true\nshow_menubar = false\n'
    "show_tabs = false\nshow_cursor = true\nwindow_close = false\ngrab_on_hover = true":
        "gtk,gl=es,full-screen=on,show-cursor=on,window-close=off,zoom-to-fit=on,"
        "show-menubar=off,show-tabs=off,grab-on-hover=on",
    'type = "sdl"\ngl = false\ngrab_mod = "rctrl"\nzoom_to_fit = true':
        "sdl,gl=off,grab-mod=rctrl",
    'type = "sdl"\nvga = "virtio-gl"': "sdl,gl=on",
    'type = "auto"\nzoom_to_fit = true\ngrab_mod = "rctrl"': "gtk,zoom-to-fit=on",
    'type = "dbus"': "dbus,addr=unix:path=/run/user/1000/bus",
    'type = "dbus"\nbus = "p2p"\ngl = true': "dbus,gl=on,rendernode=/dev/dri/renderD128,p2p=on",
    'type = "dbus"\nbus = "unix:path=/run/b,guid=1"': "dbus,addr=unix:path=/run/b,,guid=1",
    'type = "egl-headless"': "egl-headless,rendernode=/dev/dri/renderD128",
    'type = "vnc"\nvga = "virtio-gl"': "egl-headless,rendernode=/dev/dri/renderD128",
    'type = "vnc"\ngl = false': "none",
    'type = "spice"\nvga = "virtio-gl"': "none",
}


@pytest.mark.parametrize(("text", "wanted"), VIEWS.items())
def test_views(text: str, wanted: str) -> None:
    plan = shown(text)
    assert said(plan) == []
    assert option(plan, "-display") == [wanted]


SPICE = (
    "unix=on,addr=/run/qlaunch/.by-uid/1000/vm/spice.sock,disable-ticketing=on,"
    "seamless-migration=off"
)
PLAIN = (
    ",image-compression=off,jpeg-wan-compression=never,zlib-glz-wan-compression=never,"
    "playback-compression=off,streaming-video=off"
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", SPICE + PLAIN),
        ("compression = true", SPICE),
        ("agent_mouse = false\ncopy_paste = false\nfile_transfer = false",
         f"{SPICE}{PLAIN},disable-copy-paste=on,disable-agent-file-xfer=on,agent-mouse=off"),
        ("gl = true", f"{SPICE}{PLAIN},gl=on,rendernode=/dev/dri/renderD128"),
        ("gl = false", f"{SPICE}{PLAIN},gl=off"),
    ],
)
def test_spice(text: str, wanted: str) -> None:
    plan = shown(f'type = "spice"\n{text}')
    assert (said(plan), option(plan, "-spice")) == ([], [wanted])


def test_vnc_on_its_socket() -> None:
    plan = shown('type = "vnc"')
    assert option(plan, "-vnc") == ["unix:/run/qlaunch/.by-uid/1000/vm/vnc.sock"]
    assert option(plan, "-object") == []


@pytest.mark.parametrize(
    ("listen", "wanted"),
    [("127.0.0.1:5901", "127.0.0.1:1"), ("[::1]:5900", "[::1]:0"), (":6000", ":100")],
)
def test_vnc_on_tcp_with_a_password(listen: str, wanted: str) -> None:
    secret = HostFile(path="/p", kind="file", readable=True)
    plan = shown(f'type = "vnc"\nlisten = "{listen}"\npassword_file = "/p"', files=(secret,))
    assert said(plan) == []
    number = plan.fd("secret", "/p")
    assert option(plan, "-object") == [f"secret,id=vnc-password,file=/proc/self/fd/{number}"]
    assert option(plan, "-vnc") == [f"{wanted},password-secret=vnc-password"]
    argv = render_argv(plan)
    assert argv.index("-object") < argv.index("-vnc")


def test_a_password_that_the_asking_user_cannot_read_is_not_read_for_them() -> None:
    text = 'type = "vnc"\npassword_file = "/etc/shadow"'
    closed = HostFile(path="/etc/shadow", kind="file", readable=False, writable=False)
    assert one(shown(text, files=(closed,))).where == "display.password_file"
    own = replace(ROOT, asked=None, uid=65534, name="nobody")
    assert said(shown(text, files=(closed,), invoker=own)) == []  # root's own profile
    assert one(shown(text, files=(HostFile(path="/etc/shadow", kind="missing"),))).message == (
        "no such file"
    )


def test_reasons_name_the_keys() -> None:
    plan = shown('type = "spice"\nvga = "virtio-gl"\nheads = 2')
    why = {o.words[0]: o.why for o in plan_options(plan) if o.words[0] in ("-spice", "-display")}
    assert why["-spice"] == (
        "display.type; rule: a virtio-gl card draws with OpenGL; "
        "rule: 0000:00:02.0 (i915) is the first GPU that stays with the host"
    )
    (vga,) = [o.why for o in plan_options(plan) if "virtio-vga-gl" in o.words[-1]]
    assert vga == "display.vga; display.heads"


def test_helpers_are_let_start_for_windows_and_venus_only() -> None:
    for text, spawn in (('type = "gtk"', "allow"), ('type = "spice"', "deny"),
                        ('type = "egl-headless"\nvga = "virtio-gl"', "deny"),
                        ('type = "egl-headless"\nvga = "venus"', "allow")):
        (sandbox,) = option(shown(text), "-sandbox")
        assert f"spawn={spawn}" in sandbox, text


# -- what this QEMU lacks ---------------------------------------------------------------------


def test_a_display_this_qemu_lacks() -> None:
    bare = replace(qemu100(), displays=("curses", "none", "vnc"))
    for kind, part in (("gtk", "gtk"), ("sdl", "sdl"), ("spice", "spice"), ("dbus", "dbus"),
                       ("egl-headless", "egl-headless"), ("looking-glass", "spice")):
        plan = shown(f'type = "{kind}"\nresolution = "640x480"\nvga = "std"', qemu=bare)
        problem = one(plan)
        assert problem.message == f"this QEMU cannot show a {part} display"
        assert problem.hint == install_hint(f"display {part}")
        assert "(Debian)" in problem.hint
        assert "qemu-ui-" in problem.hint


def test_a_card_this_qemu_lacks() -> None:
    problem = one(shown('vga = "rutabaga"'))
    assert problem.hint == (
        "install qemu-device-display-virtio-vga-rutabaga (Fedora), "
        "qemu-hw-display-virtio-vga-rutabaga (Arch); Debian does not build it"
    )
    qemu = qemu100()
    without = replace(qemu, devices=tuple(d for d in qemu.devices if d != "qxl-vga"))
    assert "qemu-system-modules-spice (Debian), qemu-device-display-qxl (Fedora), " in one(
        shown('vga = "qxl"', qemu=without)
    ).hint


def test_venus_is_told_by_its_property() -> None:
    assert said(shown('vga = "venus"\ntype = "gtk"')) == []
    problem = one(shown('vga = "venus"\ntype = "gtk"', qemu=qemu72()))
    assert problem.message == "this QEMU's virtio-vga-gl has no Vulkan (venus)"
    assert problem.hint.startswith("it came with QEMU 9.2; with that, install qemu-system-modules")


def test_shared_pictures_need_memory_that_can_be_shared() -> None:
    for text in ('vga = "virtio"\nblob = true', 'vga = "virtio-gl"\ntype = "gtk"\nblob = true'):
        plan = shown(text)
        assert said(plan) == []
        assert plan.memory is not None
        [backend] = plan.memory.backends
        assert (backend.type, backend.share) == ("memory-backend-memfd", True)
        assert "display.blob" in backend.why
    assert shown('vga = "virtio"').memory is None


def test_shared_pictures_need_a_kernel_and_a_qemu_for_them() -> None:
    text = 'vga = "virtio"\nblob = true'
    assert "/dev/udmabuf" in facts_wanted(profile(f"[display]\n{text}\n"), holders=False).files
    node = HostFile(path="/dev/udmabuf", kind="char", gid=104, readable=True, writable=True)
    denied = replace(node, readable=False, writable=False)
    assert said(shown(text, files=(node,))) == []
    problem = one(shown(text, files=(replace(node, kind="missing"),)))
    assert (problem.where, problem.hint[:16]) == ("display.blob", "modprobe udmabuf")
    assert "usermod -aG kvm" in one(shown(text, files=(denied,))).hint
    kvm = HostFile(path="/dev/kvm", kind="char", gid=104, mode=0o660, readable=False,
                   writable=False)
    assert said(shown(text, files=(denied, kvm))) == [], "QEMU's account is given its group"
    assert said(shown(text, qemu=qemu72())) == []
    gl = 'vga = "virtio-gl"\ntype = "gtk"\nblob = true'
    assert said(shown(gl, files=(denied,))) == [], "virglrenderer makes them another way"
    problem = one(shown(gl, qemu=qemu72()))
    assert problem.message == "this QEMU's virtio-vga-gl shares no pictures (blob)"
    assert problem.hint.startswith("it came with QEMU 9.2")
    problem = one(shown(f'{text}\nhostmem = "1G"', qemu=qemu72()))
    assert problem.message == "this QEMU's virtio-vga has no window for GPU memory"


def test_every_part_that_can_be_lacking_has_its_packages() -> None:
    """Devices are in test_packages.py."""
    kinds = choices(Display, "type") - {"none", "auto", "vnc", "looking-glass"}
    assert {f"display {kind}" for kind in kinds} <= set(PACKAGES)
    backends = {{"pulse": "pa"}.get(b, b) for b in choices(Audio, "backend")} - {"auto", "none"}
    assert {f"audiodev {backend}" for backend in backends} <= set(PACKAGES)
    assert all(p.fedora and p.arch for p in PACKAGES.values())


def choices(table: type[Table], key: str) -> set[str]:
    kind = key_type(table, key).__origin__
    return set(kind.__args__)


# -- the GPU that draws -----------------------------------------------------------------------

GPU = device("01:00.0", "10de:1200")
OFF = 'type = "egl-headless"'


def test_a_card_that_the_guest_gets_does_not_draw() -> None:
    text = f'[display]\n{OFF}\n[[pci]]\ndevice = "01:00.0"\n'
    first = Desktop(render=(GUESTS, NODE))
    plan = planned(text, facts(GPU, desktop=first))
    assert (said(plan), plan.screen and plan.screen.render_node) == ([], "/dev/dri/renderD128")
    only = planned(text, facts(GPU, desktop=Desktop(render=(GUESTS,))))
    assert one(only).found == "/dev/dri/renderD129 of 0000:01:00.0, which the guest has"
    for wanted in ("/dev/dri/renderD129", "/dev/dri/by-path/pci-0000:01:00.0-render"):
        named = planned(text.replace(OFF, f'{OFF}\nrender_node = "{wanted}"'), facts(GPU))
        assert (one(named).where, one(named).message) == (
            "display.render_node", "this GPU is handed to the guest"
        )


def test_a_twin_of_the_passed_card_draws() -> None:
    text = f'[display]\n{OFF}\nrender_node = "/dev/dri/renderD128"\n[[pci]]\ndevice = "01:00.0"\n'
    assert said(planned(text, facts(GPU))) == []


def test_no_gpu_at_all() -> None:
    for text, where in ((OFF, "display.type"), ('type = "spice"\nvga = "venus"', "display.vga"),
                        ('type = "dbus"\ngl = true', "display.gl")):
        problem = one(shown(text, desktop=Desktop(sockets=SESSION)))
        assert (problem.where, problem.message) == (where, "there is no GPU to draw with")
        assert problem.found == "no /dev/dri/renderD*"
    assert said(shown(OFF, desktop=None)) == []  # nobody looked
    assert said(shown('type = "gtk"\nvga = "virtio-gl"', desktop=Desktop())) == []  # the desktop's


def test_a_gpu_of_a_group() -> None:
    closed = replace(NODE, usable=False)
    problem = one(shown(OFF, desktop=Desktop(render=(closed,))))
    assert problem.message == "user may not draw with this GPU"
    assert problem.hint == "sudo usermod -aG render user, and log in again"
    nobody = replace(USER, root=True, name="uid 63834", home="/nonexistent")
    problem = one(shown(OFF, desktop=Desktop(render=(closed,)), invoker=nobody))
    assert problem.hint == '[qemu] user = "NAME", of a user who is in the group render'
    plan = shown(OFF, desktop=Desktop(render=(closed, GUESTS)))
    assert plan.screen and plan.screen.render_node == "/dev/dri/renderD129"
    wanted = f'{OFF}\nrender_node = "/dev/dri/renderD128"'
    node = HostFile(path="/dev/dri/renderD128", kind="char", readable=False, writable=False)
    problem = one(shown(wanted, files=(node,), desktop=Desktop(render=(closed,)), invoker=USER))
    assert (problem.where, problem.hint[:30]) == ("display.render_node",
                                                  "sudo usermod -aG render user, ")
    missing = HostFile(path="/dev/dri/renderD128", kind="missing")
    assert one(shown(wanted, files=(missing,))).found == "/dev/dri/renderD128: missing"


def test_facts_are_asked_for_when_they_matter() -> None:
    def wanted(text: str) -> bool:
        return facts_wanted(profile(text), holders=False).desktop

    assert not wanted("")
    assert not wanted('[display]\ntype = "gtk"\nvga = "std"\n')
    for text in ('type = "dbus"', OFF, "gl = true", 'vga = "virtio-gl"', "cross_domain = true",
                 'type = "looking-glass"'):
        assert wanted(f"[display]\n{text}\n"), text
    assert wanted("[audio]\n")
    named = facts_wanted(profile('[display]\nrender_node = "/dev/dri/x"\npassword_file = "/p"\n'),
                         holders=False)
    assert named.files == ("/dev/dri/x", "/p")


def test_dbus_without_a_session() -> None:
    problem = one(shown('type = "dbus"', desktop=Desktop()))
    assert (problem.where, problem.found) == ("display.bus", "nothing in /run/user/1000")
    alone = replace(ROOT, runtime_dir="")
    problem = one(shown('type = "dbus"', desktop=Desktop(), invoker=alone))
    assert problem.found == "user has no /run/user/1000"
    assert said(shown('type = "dbus"\nbus = "p2p"', desktop=Desktop())) == []


# -- Looking Glass ----------------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.parametrize(
    ("width", "height", "hdr", "mib"),
    [(1920, 1080, False, 32), (1920, 1200, False, 32), (1920, 1080, True, 64),
     (2560, 1440, False, 64), (2560, 1440, True, 128), (3840, 2160, False, 128),
     (3840, 2160, True, 256), (5120, 2880, False, 128), (640, 480, False, 16)],
)  # fmt: skip
def test_the_size_of_looking_glass(width: int, height: int, hdr: bool, mib: int) -> None:
    """The table of its manual, and two of its formula."""
    assert looking_glass_size(width, height, hdr) == mib * MIB


def test_looking_glass() -> None:
    plan = shown('type = "looking-glass"\nresolution = "2560x1440"')
    assert said(plan) == said(plan, "warning") == []
    assert (
        "memory-backend-file,id=looking-glass-mem,mem-path=/dev/shm/looking-glass,"
        f"size={64 * MIB}B,share=on"
    ) in option(plan, "-object")
    assert option(plan, "-display") == ["none"]
    assert option(plan, "-spice") == [SPICE + PLAIN]
    (step,) = [s for s in plan.steps if isinstance(s, MakeShared)]
    assert (step.path, step.size, step.uid) == ("/dev/shm/looking-glass", 64 * MIB, 1000)
    (there,) = [w for w in option(plan, "-device") if w.startswith("ivshmem-plain")]
    beside = planned(
        '[display]\ntype = "looking-glass"\nresolution = "2560x1440"\nshared_file = "lg2"\n'
        '[[shmem]]\nname = "other"\nsize = "1M"\n', facts(),
    )
    assert said(beside) == []
    assert there in option(beside, "-device")  # it has not moved
    assert "mem-path=/dev/shm/lg2" in str(option(beside, "-object"))


@pytest.mark.parametrize(
    ("total", "free", "severity"), [(128, 60, "error"), (129, 127, "warning"), (512, 128, "")]
)
def test_its_memory_is_the_hosts(total: int, free: int, severity: str) -> None:
    ram = Ram(total=total * MIB, available=free * MIB)
    text = ('[machine]\nmemory = "16M"\n'
            '[display]\ntype = "looking-glass"\nresolution = "3840x2160"\n')
    plan = planned(text, replace(facts(), ram=ram))
    found = [(p.severity, p.where, p.message) for p in plan.problems]
    assert found == [(
        severity, "display.resolution", "looking at the guest takes more memory than this host has"
        + " free" * (severity == "warning"))] * bool(severity)
    shared = planned('[machine]\nmemory = "16M"\n[[shmem]]\nname = "x"\nsize = "128M"\n',
                     replace(facts(), ram=ram))
    assert [(p.severity, p.where) for p in shared.problems] == [
        (severity, "shmem[0]")] * bool(severity)


@pytest.mark.parametrize("index", [1, 2])
def test_looking_glass_and_shared_memory_have_places(index: int) -> None:
    text = '[display]\ntype = "looking-glass"\nresolution = "2560x1440"\n'
    tables = "".join(f'[[shmem]]\nname = "m{n}"\nsize = "1M"\n' for n in range(index))
    plan = planned(text + tables, facts())
    assert said(plan) == []
    assert len({s.place for s in plan.shmems}) == index + 1


def test_its_memory_is_locked_with_the_guests() -> None:
    text = '[[pci]]\ndevice = "01:00.0"\n[display]\n'
    plain = planned(text, facts(GPU))
    plan = planned(f'{text}type = "looking-glass"\nresolution = "1920x1080"\n', facts(GPU))
    assert plan.memlock and plain.memlock
    assert plan.memlock - plain.memlock == 32 * MIB


def test_root_is_told_that_the_client_is_the_users() -> None:
    text = 'type = "looking-glass"\nresolution = "1920x1080"'
    own = replace(ROOT, asked=None, uid=65534, name="nobody")
    assert "[qemu] user" in one(shown(text, invoker=own), "warning").hint
    named = make_plan(profile(f'[display]\n{text}\n[qemu]\nuser = "user"\n'),
                      facts(invoker=replace(own, uid=1000, name="user")))
    assert said(named, "warning") == []


KVMFR = 'type = "looking-glass"\nkvmfr = "/dev/kvmfr1"'
CHAR = HostFile(path="/dev/kvmfr1", kind="char")


def test_kvmfr() -> None:
    modules = replace(DESKTOP, kvmfr=(32 * MIB, 128 * MIB))
    plan = shown(KVMFR, desktop=modules, files=(CHAR,))
    assert said(plan) == []
    assert (f"memory-backend-file,id=looking-glass-mem,mem-path=/dev/kvmfr1,size={128 * MIB}B,"
            "share=on") in option(plan, "-object")
    assert plan.steps == ()
    large = shown(f'{KVMFR}\nresolution = "3840x2160"\nhdr = true', desktop=modules, files=(CHAR,))
    assert one(large).found == "128 MiB, and 256 MiB are needed"
    assert one(large).hint == "modprobe -r kvmfr; modprobe kvmfr static_size_mb=256"


def test_a_kvmfr_device_of_roots() -> None:
    modules = replace(DESKTOP, kvmfr=(32 * MIB, 128 * MIB))
    closed = replace(CHAR, readable=False, writable=False)
    plan = shown(KVMFR, desktop=modules, files=(closed,))
    (step,) = plan.steps
    assert isinstance(step, OwnNode)
    assert (step.path, step.uid) == ("/dev/kvmfr1", 1000)
    problem = one(shown(KVMFR, desktop=modules, files=(closed,), invoker=USER))
    assert problem.hint == 'a udev rule: SUBSYSTEM=="kvmfr", OWNER="user", MODE="0600"'
    missing = one(shown(KVMFR, files=(HostFile(path="/dev/kvmfr1", kind="missing"),)))
    assert missing.hint == "modprobe kvmfr static_size_mb=32"


# -- where there is no screen -----------------------------------------------------------------

HEADLESS = replace(USER, display=False)
WITHOUT: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {
    ('type = "gtk"\nvga = "std"', ("gtk", "none", "spice", "vnc")): ("vnc", "warning"),
    ('type = "sdl"\nvga = "std"', ("none", "spice")): ("spice", "warning"),
    ('type = "auto"\nvga = "std"', ("gtk", "none", "vnc")): ("vnc", "note"),
    ('type = "auto"\nvga = "std"', ("gtk", "none")): ("none", ""),
    ('type = "auto"', ("gtk", "none", "vnc")): ("none", ""),
    ('type = "gtk"', ("gtk", "none", "vnc")): ("none", ""),
    ('type = "gtk"\nvga = "std"', ("gtk", "none")): ("none", "warning"),
    ('type = "gtk"\nvga = "virtio-gl"', ("gtk", "none")): ("none", "error"),
    ('type = "auto"\nvga = "virtio-gl"', ("gtk", "none", "vnc")): ("vnc", "note"),
    ('type = "spice"\nvga = "std"', ("none", "spice")): ("spice", ""),
    ('type = "none"\nvga = "std"', ("none", "vnc")): ("none", ""),
}


@pytest.mark.parametrize(("asked", "wanted"), WITHOUT.items())
def test_a_window_without_a_screen(asked: tuple[str, tuple[str, ...]], wanted: tuple[str, str]
                                   ) -> None:
    text, displays = asked
    qemu = replace(qemu100(), displays=displays)
    plan = shown(text, qemu=qemu, invoker=HEADLESS)
    assert plan.display == wanted[0]
    assert [p.severity for p in plan.problems] == [wanted[1]] * bool(wanted[1])


def test_a_window_that_became_a_socket_lets_nobody_else_in() -> None:
    text = 'type = "gtk"\nvga = "std"\nlisten = ":5901"'
    plan = shown(text, qemu=replace(qemu100(), displays=("gtk", "vnc")), invoker=HEADLESS)
    (listens,) = option(plan, "-vnc")
    assert listens.startswith("unix:/run/")
    assert one(plan, "warning").hint == "qlaunch view 'vm'"


def test_a_screen_that_is_anothers_is_none() -> None:
    why = "nobody may not read /root/.Xauthority"
    plan = shown('type = "auto"\nvga = "std"', qemu=replace(qemu100(), displays=("gtk", "vnc")),
                 invoker=replace(HEADLESS, no_display=why))
    assert (plan.display, one(plan, "note").found) == ("vnc", why)
    assert plan.display_why == f"rule: {why}, so vnc on a socket"


@pytest.mark.parametrize("kind", ["auto", "gtk"])
def test_a_profile_can_name_its_screen(kind: str) -> None:
    text = f'type = "{kind}"\nvga = "std"\n[qemu.env]\nDISPLAY = ":7"'
    plan = shown(text, invoker=HEADLESS)
    assert (plan.display, said(plan)) == ("gtk", [])


def test_nobody_looked_for_a_screen() -> None:
    assert shown('type = "gtk"\nvga = "std"', invoker=None).display == "gtk"
