"""What a golden profile is started with where its own host is not: files, taps and ports of the
test's in place of those it names, and without what no test machine has.

Both are tables, and `differing` finds what has been changed, so that a test can hold the one to the
other: what is in no table reaches QEMU as the profile says it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from qlaunch.profile.cpu import Pin
from qlaunch.profile.display import GL_CARDS, Display
from qlaunch.profile.network import Net
from qlaunch.profile.profile import Profile
from qlaunch.values import CpuSet, HostPath, Program, Size
from tests.fake.boot import acpi_table, kernel

MOST = Size(512 << 20)
# Key → what is in its place. The option is there all the same.
STANDS_IN = {
    "machine.accel": "tcg, because KVM is not everywhere",
    "machine.memory": "512M at most",
    "qemu.binary": "the QEMU that is tested",
    "qemu.env": "the X server of the test's",
    "cpu.pin.vcpus": "CPUs that this host lets us use",
    "cpu.pin.emulator": "the same",
    "cpu.pin.iothreads": "the same",
    "disk[].file": "an image of the test's",
    "disk[].create.backing": "an image of the test's",
    "cdrom[].file": "an image of the test's",
    "kernel.file": "the head of a kernel",
    "kernel.initrd": "a few bytes",
    "machine.acpi_tables[].file": "a table that is empty",
    "machine.fw_cfg_files[].file": "a few bytes",
    "serial[].file": "a file of the test's; for the host's port, a pseudo-terminal",
    "parallel[].file": "a file of the test's",
    "debugcon.file": "a file of the test's",
    "share[].path": "a directory of the test's, when the profile's is not there",
    "display.password_file": "a password of the test's",
    "display.listen": "a port that is free",
    "serial[].address": "a port that is free",
    "net[].user.forward": "ports that are free",
    "net[].passt.forward": "ports that are free",
    "display.shared_file": "a name of the test's below /dev/shm",
    "shmem[].name": "a name of the test's below /dev/shm",
    "net[].tap": "a tap of the test's, for all that host steps make",
    "net[].bridge": "that tap",
    "net[].make_bridge": "that tap",
    "net[].macvtap": "that tap",
    "net[].mode": "that tap",
    "net[].nat": "that tap",
}
# Key → why QEMU does not hear of it here.
LEFT_OUT = {
    "pci": "devices of the host's (tests/lab, test_host_words.py)",
    "vgpu": "devices of the host's (tests/lab, test_host_words.py)",
    "usb": "devices that have to be plugged in (test_replug.py, tests/lab)",
    "input": "evdev nodes of the host's (test_host_words.py)",
    "machine.hugepages": "pages that a host step reserves (test_cpu_memory.py)",
    "cpu.isolate": "CPUs and groups of the host's (tests/lab)",
    "cpu.governor": "CPUs of the host's (tests/unit/test_isolation.py)",
    "audio.backend": "a sound server (test_host_words.py)",
    "audio.server": "a sound server (test_host_words.py)",
    "audio.latency": "a sound server (test_host_words.py)",
    "parallel[].type": "a parallel port of the host's (test_host_words.py)",
    "display.kvmfr": "the kvmfr module",
    "display.resolution": "the size that kvmfr's memory has by itself",
    "display.cross_domain": "a Wayland desktop (test_wayland.py)",
    "vsock": "/dev/vhost-vsock (test_host_words.py)",
    "rng.source": "the generator, /dev/hwrng",
    "memory.lock": "the right to lock this much memory (test_cpu_memory.py)",
    "display.type": "a GPU or an X server; a window stands in where one of the two is there",
    "display.render_node": "a GPU",
    "display.vga": "Vulkan (venus), which the QEMUs of the tests are built without; for an OpenGL "
    "card without a GPU an X server, in a window of which it can be",
    "display.gl": "a GPU, where there is no window",
    "display.hostmem": "Vulkan",
    "display.blob": "a newer virglrenderer than the QEMUs of the tests are built with",
    "limits": "control groups, whatever QEMU does in them (test_service.py)",
}


class Here(NamedTuple):
    """What the test machine has."""

    place: Path  # a directory of the account's that QEMU runs as
    owner: int
    end: contextlib.ExitStack  # what is let go of afterwards
    screen: dict[str, str] | None  # the environment of who can open windows
    gpu: bool
    vsock: bool
    hwrng: bool
    lock: bool

    @classmethod
    def look(
        cls, place: Path, owner: int, end: contextlib.ExitStack, screen: dict[str, str] | None
    ) -> Here:
        """At this one."""
        gpu, vsock, hwrng = (
            Path(f"/dev/{node}").exists() for node in ("dri/renderD128", "vhost-vsock", "hwrng")
        )
        return cls(place, owner, end, screen, gpu, vsock, hwrng, _may_lock())

    def file(self, name: str, content: bytes = bytes(1 << 20)) -> HostPath:
        """One of ours."""
        path = self.place / name
        path.write_bytes(content)
        path.chmod(0o666)
        return HostPath(path)

    def lacking(self) -> set[str]:
        """Keys of LEFT_OUT that this machine leaves out of profiles that have them."""
        can = {"vsock"} if self.vsock else set()
        can |= {"rng.source"} if self.hwrng else set()
        can |= {"memory.lock"} if self.lock else set()
        can |= {"display.render_node", "display.gl"} if self.gpu else set()
        can |= {"display.type"} if self.gpu and self.screen else set()
        return set(LEFT_OUT) - can


def _may_lock() -> bool:
    """Whether QEMU's account can be allowed to lock as much as a machine has: the launcher's limit
    is as high, or it may raise it (CAP_SYS_RESOURCE, which containers are without)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (may,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    return bool(int(may, 16) >> 24 & 1) or most == resource.RLIM_INFINITY or most >= 2 << 30


def standing_in(profile: Profile, here: Here, qemu: str) -> Profile:
    """The profile that can be started here."""
    changed = replace(
        profile, pci=(), vgpu=(), limits=None, **_files(profile, here), **_ports(profile, here),
        net=tuple(_net(net, n) for n, net in enumerate(profile.net)),
        display=_display(profile.display, here),
        usb=tuple(u for u in profile.usb if u.redirect or u.optional),
        input=tuple(i for i in profile.input if i.evdev is None),
        cpu=replace(profile.cpu, pin=_pins(profile.cpu.pin), isolate=False, governor=None),
    )
    if profile.memory is not None and profile.memory.lock and not here.lock:
        changed = replace(changed, memory=replace(profile.memory, lock=False))
    if profile.vsock is not None and not here.vsock:
        changed = replace(changed, vsock=None)
    if profile.rng is not None and profile.rng.source == "hwrng" and not here.hwrng:
        changed = replace(changed, rng=replace(profile.rng, source="urandom"))
    if profile.audio is not None and profile.audio.backend in ("pulse", "pipewire", "jack"):
        silent = replace(profile.audio, backend="none", server=None, latency=None)
        changed = replace(changed, audio=silent)
    env = {**(profile.qemu.env or {}), **(here.screen or {})}
    return replace(changed, qemu=replace(profile.qemu, binary=Program(qemu), env=env or None))


def _files(profile: Profile, here: Here) -> dict[str, Any]:
    """Disks, boot files and shared directories of ours."""
    kernel_ = profile.kernel and replace(
        profile.kernel, file=here.file("kernel", kernel()),
        initrd=profile.kernel.initrd and here.file("initrd", b"initrd"),
    )
    machine = replace(
        profile.machine, accel="tcg", memory=min(profile.machine.memory, MOST), hugepages=False,
        acpi_tables=tuple(
            replace(t, file=here.file(f"table{n}", acpi_table()))
            for n, t in enumerate(profile.machine.acpi_tables)
        ),
        fw_cfg_files=tuple(
            replace(f, file=here.file(f"config{n}", b"{}"))
            for n, f in enumerate(profile.machine.fw_cfg_files)
        ),
    )
    disks = []
    for number, disk in enumerate(profile.disk):
        if disk.create is None:
            disks.append(replace(disk, file=here.file(f"disk{number}")))
            continue
        backing = disk.create.backing and _qcow2(here, f"backing{number}")
        disks.append(replace(disk, file=HostPath(here.place / f"disk{number}.{disk.format}"),
                             create=replace(disk.create, backing=backing)))
    return {
        "kernel": kernel_, "machine": machine, "disk": tuple(disks),
        "cdrom": tuple(
            replace(c, file=c.file and here.file(f"cd{n}")) for n, c in enumerate(profile.cdrom)
        ),
        "share": tuple(
            s if Path(s.path).is_dir() else replace(s, path=HostPath(here.place))
            for s in profile.share
        ),
        "shmem": tuple(
            replace(s, name=f"qlaunch-test-{os.getpid()}-{n}") for n, s in enumerate(profile.shmem)
        ),
    }


def _qcow2(here: Here, name: str) -> HostPath:
    path = here.file(name, b"")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


def _ports(profile: Profile, here: Here) -> dict[str, Any]:
    """Serial and parallel ports and the debug console, on files and ports of ours."""
    serial = []
    for number, port in enumerate(profile.serial):
        own = port.file
        if own is not None:
            own = _terminal(here) if port.type == "device" else here.file(f"serial{number}", b"")
        address = port.address and f"127.0.0.1:{free_port()}"
        serial.append(replace(port, file=own, address=address))
    parallel = tuple(
        replace(p, type="file" if p.type == "device" else p.type,
                file=p.file and here.file(f"parallel{n}", b""))
        for n, p in enumerate(profile.parallel)
    )
    debug = profile.debugcon
    if debug is not None and debug.file is not None:
        debug = replace(debug, file=here.file("debugcon", b""))
    return {"serial": tuple(serial), "parallel": parallel, "debugcon": debug}


def _terminal(here: Here) -> HostPath:
    """A pseudo-terminal, which a serial port of the host's is opened like."""
    master, slave = os.openpty()
    here.end.callback(os.close, master)
    name = os.ttyname(slave)
    os.close(slave)
    os.chown(name, here.owner, -1)
    return HostPath(name)


def _net(net: Net, number: int) -> Net:
    if net.user is not None:
        return replace(net, user=replace(net.user, forward=_forwards(net.user.forward)))
    if net.passt is not None:
        return replace(net, passt=replace(net.passt, forward=_forwards(net.passt.forward)))
    return replace(net, tap=f"qlgolden{number}", bridge=None, make_bridge=False, macvtap=None,
                   mode=None, nat=None)


def _forwards(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The same with other ports of the host's."""
    split = [text.rsplit(":", 2) for text in texts]
    return tuple(f"{head}:{free_port()}:{guest}" for head, _, guest in split)


def free_port() -> int:
    """One that nobody listens on, of those that VNC counts up to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pins(pin: Any) -> Any:
    if not isinstance(pin, Pin):
        return pin
    usable = sorted(os.sched_getaffinity(0))

    def clipped(cpus: CpuSet | None) -> CpuSet | None:
        return cpus and CpuSet(usable[cpu % len(usable)] for cpu in cpus)

    return Pin(vcpus=tuple(clipped(cpus) or cpus for cpus in pin.vcpus),
               emulator=clipped(pin.emulator), iothreads=clipped(pin.iothreads))


def _display(display: Display, here: Here) -> Display:
    if display.type == "looking-glass":
        size = display.resolution or ("1024x768" if display.kvmfr else None)
        return replace(display, kvmfr=None, resolution=size,
                       shared_file=f"qlaunch-test-{os.getpid()}-glass")
    if display.listen is not None:
        display = replace(display, listen=f"127.0.0.1:{free_port()}")
    if display.password_file is not None:
        secret = here.file("password", b"secret\n")
        Path(secret).chmod(0o600)
        os.chown(secret, here.owner, -1)
        display = replace(display, password_file=secret)
    return _drawn(replace(display, cross_domain=False), here)


def _drawn(display: Display, here: Here) -> Display:
    """With OpenGL where there is some: a GPU draws without a window, X's own library in one."""
    display = replace(display, blob=False)
    if display.vga == "venus":
        display = replace(display, vga="virtio-gl", hostmem=None)
    window = display.type in ("gtk", "sdl", "auto")
    card = display.vga in GL_CARDS or display.type == "egl-headless"
    if here.screen is not None if window else here.gpu:
        return display
    if not window and not card:
        return replace(display, gl=None, render_node=None)
    if here.screen is not None:
        return replace(display, type="gtk", render_node=None)
    vga = "virtio" if display.vga in GL_CARDS else display.vga
    return replace(display, type="none", vga=vga, gl=None, render_node=None, hostmem=None)


def differing(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """Keys of two profiles with different values, numbers left out; a list of another length is
    one key."""
    if isinstance(one, Struct) and type(one) is type(other):
        for name in one.__struct_fields__:
            below = f"{key}.{name}" if key else name
            yield from differing(getattr(one, name), getattr(other, name), below)
    elif isinstance(one, tuple) and one and isinstance(one[0], Struct) and (
        isinstance(other, tuple) and len(one) == len(other)
    ):
        for mine, theirs in zip(one, other, strict=True):
            yield from differing(mine, theirs, f"{key}[]")
    elif one != other:
        yield key


def has_screen() -> bool:
    """Whether an X server can be started."""
    return shutil.which("Xvfb") is not None
