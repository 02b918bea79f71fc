"""Cards, viewers and sound cards as a real QEMU has built them, by QMP and by their sockets."""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.errors import HostError
from qlaunch.facts.probe import read_facts
from qlaunch.host.handler import Host
from qlaunch.host.shared import MakeSharedHandler
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeShared
from qlaunch.plan.wanted import facts_wanted
from qlaunch.run.handover import opened
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run
from tests.fake.plans import profile

pytestmark = pytest.mark.qemu


class Built(NamedTuple):
    """A running machine, and where its sockets are."""

    plan: Plan
    process: QemuProcess
    directory: Path

    def ask(self, *questions: tuple[str, dict[str, Any]] | str) -> list[Any]:
        """Answers in order."""

        async def talk() -> list[Any]:
            monitor: Monitor = await wait_ready(
                f"{self.plan.runtime_dir}/control.sock", self.process, timeout=60,
                last_words=lambda: last_words(f"{self.plan.runtime_dir}/log"),
            )
            async with monitor:
                return [
                    await monitor.execute(q) if isinstance(q, str) else await monitor.execute(*q)
                    for q in questions
                ]

        return run(talk())

    def get(self, device: str, *properties: str) -> list[Any]:
        """Properties of a device with an id."""
        return self.ask(*(
            ("qom-get", {"path": f"/machine/peripheral/{device}", "property": p})
            for p in properties
        ))


def plan_of(text: str, qemu: str, machine: str = "q35") -> Plan:
    """As an ordinary user's, so that all of it is this account's."""
    table = profile(f'[machine]\ntype = "{machine}"\naccel = "tcg"\nmemory = "64M"\n'
                    f'[qemu]\nbinary = "{qemu}"\n{text}')
    facts = read_facts(facts_wanted(table, holders=False))
    assert facts.invoker is not None
    me = msgspec.structs.replace(facts.invoker, root=False, uid=os.geteuid(), gid=os.getegid())
    return make_plan(table, msgspec.structs.replace(facts, invoker=me, files=()))


def placed(plan: Plan, directory: Path) -> Plan:
    """The plan with its runtime files in a directory of the test's."""
    place = str(directory)
    return msgspec.structs.replace(
        plan, runtime_dir=place, socket_dir=place, state_dir=place, account=None, steps=()
    )


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Iterator[QemuProcess]:
    """A QEMU on the plan's own command line, ended with the block."""
    log = directory / "log"
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with log.open("ab") as stderr, opened(plan, lock, []) as held:
        process = start_qemu(
            render_argv(plan), fds=held.fds, stderr_fd=stderr.fileno(), env=plan.profile.qemu.env
        )
    os.close(lock)
    try:
        yield process
    finally:
        process.send(9)
        process.wait(30)
        process.close()


@contextlib.contextmanager
def built(text: str, qemu: str, directory: Path, machine: str = "q35") -> Iterator[Built]:
    plan = plan_of(text, qemu, machine)
    assert [p for p in plan.problems if p.severity == "error"] == []
    plan = placed(plan, directory)
    with started(plan, directory) as process:
        yield Built(plan, process, directory)


# -- cards ------------------------------------------------------------------------------------

CARDS = {
    'vga = "std"\nvga_memory = "32M"\nresolution = "1920x1080"\nedid = false':
        ("VGA", {"vgamem_mb": 32, "xres": 1920, "yres": 1080, "edid": False}),
    'vga = "cirrus"\nvga_memory = "8M"': ("cirrus-vga", {"vgamem_mb": 8}),
    'vga = "qxl"\nheads = 2\nvga_memory = "32M"': ("qxl-vga", {"max_outputs": 2, "vgamem_mb": 32}),
    'vga = "virtio"\nheads = 2\nresolution = "2560x1440"\nvga_memory = "512M"':
        ("virtio-vga", {"max_outputs": 2, "xres": 2560, "max_hostmem": 512 << 20}),
    'vga = "bochs"\nvga_memory = "64M"\nresolution = "1280x720"':
        ("bochs-display", {"vgamem": 64 << 20, "yres": 720}),
    'vga = "ramfb"': ("ramfb", {}),
}  # fmt: skip


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("text", CARDS)
def test_a_card_is_what_the_profile_says(
    both_qemus: str, tmp_path: Path, machine: str, text: str
) -> None:
    kind, wanted = CARDS[text]
    with built(f"[display]\n{text}\n", both_qemus, tmp_path, machine) as vm:
        assert vm.get("vga", "type", *wanted) == [kind, *wanted.values()]
        (buses,) = vm.ask("query-pci")
    slots = {d["qdev_id"]: d["slot"] for b in buses for d in b["devices"] if b["bus"] == 0}
    place = vm.plan.places.get("vga")
    assert slots.get("vga") == (None if place is None else place.addr and place.addr.slot)


def test_a_virtio_card_has_a_window_for_gpu_memory(both_qemus: str, tmp_path: Path) -> None:
    text = '[display]\nvga = "virtio"\nhostmem = "256M"\n'
    errors = [p.message for p in plan_of(text, both_qemus).problems if p.severity == "error"]
    if errors:  # before QEMU 8.2
        assert errors == ["this QEMU's virtio-vga has no window for GPU memory"]
        assert "Property 'virtio-vga.hostmem' not found" in said_at_start(
            plan_of(text, both_qemus), tmp_path)
        return
    with built(text, both_qemus, tmp_path) as vm:
        assert vm.get("vga", "type", "hostmem") == ["virtio-vga", 256 << 20]


def test_shared_pictures_are_refused_before_qemu_would(both_qemus: str, tmp_path: Path) -> None:
    table = profile('[machine]\naccel = "tcg"\nmemory = "64M"\n[display]\nvga = "virtio"\n'
                    f'blob = true\n[qemu]\nbinary = "{both_qemus}"\n')
    plan = make_plan(table, read_facts(facts_wanted(table, holders=False)))
    errors = [p for p in plan.problems if p.severity == "error"]
    if not errors:
        plan = placed(plan, tmp_path)
        with started(plan, tmp_path) as process:
            assert Built(plan, process, tmp_path).get("vga", "blob") == [True]
        return
    assert [p.where for p in errors] == ["display.blob"]
    assert "udmabuf" in said_at_start(plan, tmp_path)


def said_at_start(plan: Plan, directory: Path) -> str:
    """What QEMU says of a command line that it refuses."""
    with started(placed(plan, directory), directory) as process:
        assert process.wait(60)
    return (directory / "log").read_text()


def test_opengl_without_a_gpu_is_refused_before_qemu_would(
    both_qemus: str, tmp_path: Path
) -> None:
    for text in ('type = "egl-headless"\nvga = "virtio-gl"', 'type = "spice"\ngl = true',
                 'type = "dbus"\nbus = "p2p"\ngl = true', 'type = "vnc"\ngl = true'):
        plan = plan_of(f"[display]\n{text}\n", both_qemus)
        errors = [p.message for p in plan.problems if p.severity == "error"]
        if Path("/dev/dri/renderD128").exists():
            assert errors == []
            continue
        assert errors == ["there is no GPU to draw with"]
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        log, plan = place / "log", placed(plan, place)
        with log.open("ab") as stderr, opened(plan, stderr.fileno(), []) as held:
            process = start_qemu(render_argv(plan), fds=held.fds, stderr_fd=stderr.fileno())
        with contextlib.closing(process):
            assert process.wait(60)
        assert "no drm render node" in log.read_text()


# -- viewers ----------------------------------------------------------------------------------


def vnc_offers(connection: socket.socket) -> bytes:
    """The security types of an RFB 3.8 server (RFC 6143, 7.1)."""
    connection.settimeout(30)
    assert connection.recv(12) == b"RFB 003.008\n"
    connection.sendall(b"RFB 003.008\n")
    count = connection.recv(1)[0]
    return connection.recv(count)


def test_vnc_on_its_socket(both_qemus: str, tmp_path: Path) -> None:
    with built('[display]\ntype = "vnc"\nvga = "std"\n', both_qemus, tmp_path) as vm:
        (said,) = vm.ask("query-vnc")
        assert (said["enabled"], said["family"], said["auth"]) == (True, "unix", "none")
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.connect(str(tmp_path / "vnc.sock"))
            assert vnc_offers(viewer) == b"\1"  # None


def test_vnc_on_tcp_wants_the_password(both_qemus: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open\n")
    secret.chmod(0o600)
    port = free_port()
    text = (f'[display]\ntype = "vnc"\nvga = "std"\nlisten = "127.0.0.1:{port}"\n'
            f'password_file = "{secret}"\n')
    with built(text, both_qemus, tmp_path) as vm:
        (said,) = vm.ask("query-vnc")
        assert (said["host"], said["service"], said["auth"]) == ("127.0.0.1", str(port), "vnc")
        with socket.create_connection(("127.0.0.1", port)) as viewer:
            assert vnc_offers(viewer) == b"\2"  # VNC authentication
            viewer.sendall(b"\2")
            challenge = viewer.recv(16)
            assert len(challenge) == 16
            viewer.sendall(bytes(16))
            assert viewer.recv(4) == b"\0\0\0\1"  # refused
        with socket.create_connection(("127.0.0.1", port)) as viewer:
            vnc_offers(viewer)
            viewer.sendall(b"\2")
            answer = vnc_answer(b"open", viewer.recv(16))
            if answer is not None:
                viewer.sendall(answer)
                assert viewer.recv(4) == b"\0\0\0\0"  # and let in


def vnc_answer(password: bytes, challenge: bytes) -> bytes | None:
    """The challenge under DES with the bits of each byte reversed; None without openssl's DES."""
    key = bytes(int(f"{b:08b}"[::-1], 2) for b in password[:8].ljust(8, b"\0"))
    words = ["openssl", "enc", "-des-ecb", "-provider", "legacy", "-provider", "default", "-nopad",
             "-nosalt", "-K", key.hex()]
    if shutil.which("openssl") is None:
        return None
    done = subprocess.run(words, input=challenge, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def free_port() -> int:
    """One of VNC's."""
    for port in range(5950, 6000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_spice_on_its_socket(both_qemus: str, tmp_path: Path) -> None:
    text = '[display]\ntype = "spice"\nvga = "qxl"\nagent_mouse = false\n'
    with built(text, both_qemus, tmp_path) as vm:
        (said,) = vm.ask("query-spice")
        assert (said["enabled"], said["mouse-mode"]) == (True, "server")
        assert said["auth"] == "none"
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.connect(str(tmp_path / "spice.sock"))
            viewer.settimeout(30)
            # SpiceLinkHeader and SpiceLinkMess of the main channel, no capabilities
            viewer.sendall(b"REDQ" + b"\2\0\0\0\2\0\0\0" + (18).to_bytes(4, "little")
                           + bytes(4) + b"\1\0" + bytes(8) + (18).to_bytes(4, "little"))
            assert viewer.recv(4) == b"REDQ"


def test_a_dbus_viewer_is_let_in_through_qmp(both_qemus: str, tmp_path: Path) -> None:
    text = '[display]\ntype = "dbus"\nbus = "p2p"\nvga = "std"\n'
    with built(text, both_qemus, tmp_path) as vm:
        vm.ask("query-status")
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(socket.AF_UNIX) as qmp:
            qmp.connect(str(tmp_path / "qmp.sock"))
            qmp.settimeout(30)
            stream = qmp.makefile("r")
            stream.readline()
            send_qmp(qmp, stream, "qmp_capabilities")
            send_qmp(qmp, stream, "getfd", {"fdname": "viewer"}, theirs.fileno())
            send_qmp(qmp, stream, "add_client", {"protocol": "@dbus-display", "fdname": "viewer"})
            ours.settimeout(30)
            ours.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
            assert ours.recv(100).startswith(b"OK ")
            stream.close()


def send_qmp(
    qmp: socket.socket, stream: Any, command: str, arguments: dict[str, Any] | None = None,
    fd: int | None = None,
) -> None:
    message = msgspec.json.encode({"execute": command, "arguments": arguments or {}})
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd else []
    qmp.sendmsg([message], rights)
    answer = msgspec.json.decode(stream.readline())
    assert answer == {"return": {}}, answer


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon")
def test_a_dbus_display_on_a_bus(both_qemus: str, tmp_path: Path) -> None:
    address = f"unix:path={tmp_path}/bus"
    daemon = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", f"--address={address}", "--nopidfile"]
    )
    try:
        wait_for(tmp_path / "bus")
        text = f'[display]\ntype = "dbus"\nbus = "{address}"\nvga = "std"\n'
        with built(text, both_qemus, tmp_path) as vm:
            vm.ask("query-status")
            names = subprocess.run(
                ["dbus-send", f"--bus={address}", "--print-reply", "--dest=org.freedesktop.DBus",
                 "/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames"],
                capture_output=True, text=True, check=True,
            ).stdout
            assert '"org.qemu"' in names
    finally:
        daemon.kill()
        daemon.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


# -- Looking Glass ----------------------------------------------------------------------------


def test_looking_glass_has_its_memory(both_qemus: str, tmp_path: Path) -> None:
    name = f"qlaunch-test-{os.getpid()}"
    text = ('[display]\ntype = "looking-glass"\nresolution = "1920x1080"\n'
            f'shared_file = "{name}"\n')
    plan = plan_of(text, both_qemus)
    (step,) = [s for s in plan.steps if isinstance(s, MakeShared)]
    step = msgspec.structs.replace(step, uid=os.geteuid(), gid=os.getegid())
    file, handler, host = Path("/dev/shm", name), MakeSharedHandler(), Host()
    captured = handler.capture(host, step)
    try:
        handler.apply(host, step, captured)
        assert (file.stat().st_size, file.stat().st_mode & 0o777) == (32 << 20, 0o600)
        with built(text, both_qemus, tmp_path) as vm:
            backend = "/objects/looking-glass-mem"
            assert vm.ask(*(
                ("qom-get", {"path": backend, "property": p}) for p in ("size", "share")
            )) == [32 << 20, True]
            assert vm.get("looking-glass", "type", "memdev") == ["ivshmem-plain", backend]
    finally:
        handler.undo(host, step, captured)
    assert not file.exists()


# -- sound ------------------------------------------------------------------------------------

SOUND = {
    'model = "ich9"': ("codec", "hda-duplex"),
    'model = "hda"\ncodec = "micro"': ("codec", "hda-micro"),
    "capture = false": ("codec", "hda-output"),
    'model = "ac97"\ncapture = false': ("audio", "AC97"),
    'model = "usb"': ("audio", "usb-audio"),
    'model = "virtio"': ("audio", "virtio-sound-pci"),
}


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("text", SOUND)
def test_a_sound_card(both_qemus: str, tmp_path: Path, text: str, machine: str) -> None:
    if "virtio" in text and both_qemus == "qemu-system-x86_64":
        errors = [p.message for p in plan_of(f"[audio]\n{text}\n", both_qemus).problems
                  if p.severity == "error"]
        if errors:  # before QEMU 8.2
            assert errors == ["this QEMU has no device virtio-sound-pci"]
            return
    name, kind = SOUND[text]
    more = (f'[audio]\nbackend = "none"\ntimer_period = "5ms"\nbuffer = "40ms"\n{text}\n')
    with built(more, both_qemus, tmp_path, machine) as vm:
        assert vm.get(name, "type", "audiodev") == [kind, "sound"]
        if name == "codec":
            assert vm.get("audio", "type") == [
                "intel-hda" if 'model = "hda"' in text else "ich9-intel-hda"
            ]
    assert "rror" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("display", "backend"), [("spice", "spice"), ("dbus", "dbus"), ("none", "none")]
)
def test_a_viewer_plays_the_sound(
    both_qemus: str, tmp_path: Path, display: str, backend: str
) -> None:
    text = (f'[display]\ntype = "{display}"\nbus = "p2p"\nvga = "std"\n'
            f'[audio]\nbackend = "{backend}"\n')
    with built(text, both_qemus, tmp_path) as vm:
        assert vm.get("codec", "audiodev") == ["sound"]
        assert vm.ask("query-status")[0]["status"] == "prelaunch"
    assert (tmp_path / "log").read_text() == ""


# -- windows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    """An X server without a screen; its DISPLAY."""
    if shutil.which("Xvfb") is None or shutil.which("xwininfo") is None:
        pytest.skip("needs Xvfb and xwininfo")
    ours, theirs = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(theirs), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=(theirs,), stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    try:
        with os.fdopen(ours) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.kill()
        server.wait()


WINDOWS = {
    "gtk, all keys": 'type = "gtk"\nvga = "std"\nfull_screen = true\nzoom_to_fit = true\n'
    "show_menubar = false\nshow_tabs = true\nshow_cursor = true\nwindow_close = false\n"
    "grab_on_hover = true\n",
    "gtk, OpenGL": 'type = "gtk"\nvga = "virtio-gl"\nheads = 2\n',
    "sdl, all keys": 'type = "sdl"\nvga = "std"\ngl = false\nfull_screen = true\n'
    'show_cursor = true\nwindow_close = false\ngrab_mod = "rctrl"\n',
    "sdl, OpenGL": 'type = "sdl"\nvga = "virtio-gl"\n',
}


@pytest.mark.parametrize("text", WINDOWS.values(), ids=WINDOWS)
def test_a_window_opens_under_the_sandbox(
    both_qemus: str, tmp_path: Path, screen: str, text: str
) -> None:
    qemu = f'[qemu.env]\nDISPLAY = "{screen}"\nXDG_RUNTIME_DIR = "{tmp_path}"\n'
    with built(f"[display]\n{text}{qemu}", both_qemus, tmp_path) as vm:
        vm.ask("query-status", "cont")
        name = b'"QEMU (vm'
        deadline = time.monotonic() + 30
        while name not in windows(screen):
            assert time.monotonic() < deadline, windows(screen)
            time.sleep(0.05)
    assert "nitialization failed" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("text", [
    'vga = "virtio-gl"\nblob = true\nhostmem = "256M"', 'vga = "virtio-gl"\nblob = true',
    'vga = "venus"\nhostmem = "256M"',
])
def test_shared_pictures_of_a_card_with_opengl(
    both_qemus: str, tmp_path: Path, screen: str, text: str
) -> None:
    """A QEMU that is new enough may have been built with an old virglrenderer (Debian 12's
    backports): that only itself can tell."""
    text = (f'[display]\ntype = "gtk"\n{text}\n[qemu.env]\nDISPLAY = "{screen}"\n'
            f'XDG_RUNTIME_DIR = "{tmp_path}"\n')
    plan = plan_of(text, both_qemus)
    errors = [p.message for p in plan.problems if p.severity == "error"]
    if errors:
        assert all(e.startswith("this QEMU's virtio-vga-gl ") for e in errors)
        return
    with built(text, both_qemus, tmp_path) as vm:
        try:
            assert vm.get("vga", "blob") == [True]
        except HostError:
            assert "old virglrenderer" in (tmp_path / "log").read_text()


def windows(screen: str) -> bytes:
    """What windows there are, by their names; the root window is not looked into further."""
    return subprocess.run(
        ["xwininfo", "-display", screen, "-root", "-tree"], capture_output=True, check=False
    ).stdout
