"""Render nodes, a session's sockets and kvmfr, as recorded trees show them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from qlaunch.codec import from_json, to_json
from qlaunch.facts.desktop import read_desktop
from qlaunch.facts.desktop_model import Desktop, RenderNode
from qlaunch.facts.model import HostFacts, Invoker
from qlaunch.values import PciAddress
from tests.fake.trees import Tree

ME = Invoker(
    root=False, uid=os.geteuid(), gid=os.getegid(), name="me", groups=tuple(os.getgroups()),
    runtime_dir="/run/user/1000",
)
STRANGER = msgspec.structs.replace(ME, uid=54321, gid=54321, groups=(54321,))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tmp_path.chmod(0o755)
    tree = Tree(tmp_path)
    for number, (address, driver) in enumerate((("0000:03:00.0", "nouveau"),
                                                ("0000:00:02.0", "i915"))):
        device = tree.pci(address, "8086:0412", 0x030000, driver=driver)
        tree.drm(device, number, 128 + number)
        (tmp_path / f"dev/dri/renderD{128 + number}").chmod(0o660)
    return tree


def test_render_nodes(tree: Tree) -> None:
    first, second = read_desktop(ME, tree.root).render
    assert first == RenderNode(
        path="/dev/dri/renderD128", pci=PciAddress("0000:03:00.0"), driver="nouveau", usable=True,
        group=first.group,
    )
    assert (second.path, second.pci, second.driver) == ("/dev/dri/renderD129", "0000:00:02.0",
                                                        "i915")
    assert first.group  # the file's group, by name


@pytest.mark.skipif(os.geteuid() != 0, reason="root may use every node")
def test_a_node_of_others(tree: Tree) -> None:
    node = tree.root / "dev/dri/renderD128"
    nodes = read_desktop(STRANGER, tree.root).render
    assert [n.usable for n in nodes] == [False, False]
    os.chown(node, 0, 54321)
    assert [n.usable for n in read_desktop(STRANGER, tree.root).render] == [True, False]
    assert read_desktop(STRANGER, tree.root).render[0].group == "54321"  # a group without a name
    node.chmod(0o600)
    assert read_desktop(STRANGER, tree.root).render[0].group == ""  # none would help


def test_a_node_udev_has_not_made(tree: Tree) -> None:
    (tree.root / "dev/dri/renderD128").unlink()
    assert [n.usable for n in read_desktop(ME, tree.root).render] == [False, True]


def test_ten_nodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for number in (1000, 128, 129):
        device = tree.pci(f"0000:{number % 100:02x}:00.0", "1:2", 0x030000)
        tree.drm(device, number, number)
    paths = [n.path for n in read_desktop(ME, tmp_path).render]
    assert paths == [f"/dev/dri/renderD{n}" for n in (128, 129, 1000)]


def test_a_gpu_that_is_no_pci_device(tmp_path: Path) -> None:
    """vgem, and the GPUs of boards without PCI."""
    tree = Tree(tmp_path)
    tree.directory("sys/devices/platform/vgem/drm/renderD128")
    tree.link("sys/devices/platform/vgem/drm/renderD128/device", "../../../vgem")
    tree.link("sys/class/drm/renderD128", "../../devices/platform/vgem/drm/renderD128")
    tree.write("dev/dri/renderD128")
    (node,) = read_desktop(ME, tmp_path).render
    assert (node.pci, node.driver) == (None, "")


def test_the_session_of_the_account(tmp_path: Path) -> None:
    assert read_desktop(ME, tmp_path).sockets == {}
    base = tmp_path / "run/user/1000"
    (base / "pulse").mkdir(parents=True)
    names = ("bus", "pipewire-0", "pulse/native", "wayland-1")
    listeners = []
    for name in names:
        listener = socket.socket(socket.AF_UNIX)
        before = Path.cwd()
        os.chdir(base)  # a socket's path is at most 107 bytes
        try:
            listener.bind(name)
        finally:
            os.chdir(before)
        listeners.append(listener)
    (base / "wayland-0.lock").touch()
    found = read_desktop(ME, tmp_path).sockets
    assert found == {
        "bus": "/run/user/1000/bus", "pipewire": "/run/user/1000/pipewire-0",
        "pulse": "/run/user/1000/pulse/native", "wayland": "/run/user/1000/wayland-1",
    }
    elsewhere = msgspec.structs.replace(ME, runtime_dir="")
    assert read_desktop(elsewhere, tmp_path).sockets == {}
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("said", "sizes"), [("128,64", (128 << 20, 64 << 20)), ("32", (32 << 20,)), ("", ())]
)
def test_kvmfr(tmp_path: Path, said: str, sizes: tuple[int, ...]) -> None:
    assert read_desktop(ME, tmp_path).kvmfr is None
    Tree(tmp_path).write("sys/module/kvmfr/parameters/static_size_mb", said)
    assert read_desktop(ME, tmp_path).kvmfr == sizes


def test_it_is_kept_in_a_snapshot(tree: Tree) -> None:
    facts = HostFacts(desktop=read_desktop(ME, tree.root))
    assert from_json(to_json(facts), HostFacts) == facts
    assert from_json(b"{}", HostFacts).desktop is None  # one of before: nobody looked
    assert Desktop() != facts.desktop
