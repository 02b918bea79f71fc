"""Firmware descriptors of a recorded tree, and the host's own DMI texts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.facts.firmware import read_dmi, read_firmware
from qlaunch.facts.model import Invoker
from tests.fake.firmware import CODE_SIZE, DEBIAN, SHARED, VARS_SIZE, descriptor, ovmf
from tests.fake.trees import Tree

ME = Invoker(root=False, uid=os.getuid(), gid=os.getgid(), name="me", home="/home/me")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tmp_path.chmod(0o755)
    return Tree(tmp_path)


def names(tree: Tree, account: Invoker | None = ME) -> list[str]:
    return [f.descriptor.rpartition("/")[2] for f in read_firmware(account, tree.root)]


def put(tree: Tree, path: str, code: str = "/fw/CODE.fd", **more: object) -> None:
    tree.write(path, json.dumps(descriptor(code, "/fw/VARS.fd", **more)))  # type: ignore[arg-type]


def test_debians_descriptors_with_their_pairs(tree: Tree) -> None:
    ovmf(tree)
    found = read_firmware(ME, tree.root)
    assert [f.descriptor for f in found] == [f"/{SHARED}/{name}" for name in sorted(DEBIAN)]
    enrolled, _, plain = found
    assert enrolled.code.path == "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
    assert enrolled.vars is not None
    assert enrolled.vars.path == "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
    assert (enrolled.code.size, enrolled.vars_size) == (CODE_SIZE, VARS_SIZE)
    assert {"enrolled-keys", "requires-smm", "secure-boot"} < set(enrolled.features)
    assert plain.machines == ("pc-i440fx-*", "pc-q35-*")


def test_etc_and_the_users_own_replace_by_name_and_names_are_in_order(tree: Tree) -> None:
    put(tree, "usr/share/qemu/firmware/50-b.json", "/fw/shared")
    put(tree, "usr/share/qemu/firmware/60-c.json")
    put(tree, "etc/qemu/firmware/50-b.json", "/fw/etc")
    put(tree, "etc/qemu/firmware/10-a.json")
    put(tree, "home/me/.config/qemu/firmware/50-b.json", "/fw/mine")
    tree.write("etc/qemu/firmware/60-c.json", b"")  # an empty one hides it
    assert names(tree) == ["10-a.json", "50-b.json"]
    assert read_firmware(ME, tree.root)[1].code.path == "/fw/mine"
    other = replace(ME, home="/home/other")
    assert read_firmware(other, tree.root)[1].code.path == "/fw/etc"
    assert names(tree, None) == ["10-a.json", "50-b.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"interface-types": ["uefi"]}', "\udcff", '"text"',
        json.dumps(descriptor("/c", "/v", arch="aarch64")),
        json.dumps(descriptor("/c", "/v") | {"interface-types": ["bios"]}),
        json.dumps(descriptor("/c", "/v") | {"targets": [{"architecture": "x86_64"}]}),
        json.dumps(descriptor("/c", "/v", device="memory")),
        json.dumps(descriptor("/c", "/v") | {"mapping": {"device": "flash"}}),
    ],
)
def test_what_is_no_firmware_of_ours_is_passed_over(tree: Tree, text: str) -> None:
    tree.write(f"{SHARED}/10-bad.json", text.encode(errors="surrogateescape"))
    put(tree, f"{SHARED}/20-good.json")
    assert names(tree) == ["20-good.json"]


def test_a_fifo_or_directory_in_the_users_own_directory_blocks_nobody(tree: Tree) -> None:
    tree.directory("home/me/.config/qemu/firmware/20-dir.json")
    os.mkfifo(tree.root / "home/me/.config/qemu/firmware/10-fifo.json")
    assert names(tree) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read what others may not")
def test_root_reads_a_users_descriptor_only_where_that_user_may(tree: Tree) -> None:
    put(tree, "home/me/.config/qemu/firmware/10-secret.json")
    file = tree.root / "home/me/.config/qemu/firmware/10-secret.json"
    user = replace(ME, uid=12345, gid=12345)
    assert names(tree, user) == ["10-secret.json"]
    file.chmod(0o600)
    assert names(tree, user) == []


def test_a_qcow2_template_tells_what_flash_it_is(tree: Tree) -> None:
    head = b"QFI\xfb" + bytes(20) + (540672).to_bytes(8, "big") + bytes(80)
    tree.write("fw/VARS.qcow2", head)
    tree.write(f"{SHARED}/10-q.json", json.dumps(
        descriptor("/fw/CODE.qcow2", "/fw/VARS.qcow2", kind="qcow2", mode="split")
    ))
    (found,) = read_firmware(ME, tree.root)
    assert (found.vars_size, found.vars_format, found.mode) == (540672, "qcow2", "split")
    tree.write("fw/VARS.qcow2", b"QFI")
    assert read_firmware(ME, tree.root)[0].vars_size is None


def test_what_the_board_says_and_what_it_says_to_root_only(tree: Tree) -> None:
    base = "sys/class/dmi/id"
    assert read_dmi(tree.root) == {}
    tree.write(f"{base}/sys_vendor", "ASUSTeK")
    tree.write(f"{base}/modalias", "dmi:…")
    (tree.directory(base) / "product_serial").symlink_to("nowhere")  # does not answer
    assert read_dmi(tree.root) == {"sys_vendor": "ASUSTeK", "product_serial": None}
    serial = tree.write(f"{base}/board_serial", "MT7")
    serial.chmod(0o400)
    user = replace(ME, root=True, uid=54321, gid=54321, groups=(), asked=54321)
    told = read_dmi(tree.root, user)
    assert (told["sys_vendor"], told["board_serial"]) == ("ASUSTeK", None)
    assert read_dmi(tree.root)["board_serial"] == "MT7"
