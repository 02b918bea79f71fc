"""The rules of disks, CD drives and controllers: what fits what, in the words that are printed."""

from __future__ import annotations

import pytest

from qlaunch.profile.check_storage import STORAGE_CHECKS
from qlaunch.profile.keys import key_text
from tests.fake.plans import profile


def told(text: str) -> list[str]:
    """Key, message and hint of each finding."""
    made = profile(text)
    return [
        f"{key_text(f.path)}: {f.problem.message} [{f.problem.found}] ({f.problem.hint})"
        for check in STORAGE_CHECKS for f in check(made)
    ]


def disk(more: str, file: str = "/a") -> str:
    return f'[[disk]]\nfile = "{file}"\n{more}\n'


FAULTS = [
    ('[[controller]]\ntype = "ahci"\nid = "rng0"\n', "controller[0].id", 'such as "hba0"'),
    ('[[controller]]\ntype = "ahci"\nid = "vga"\n', "controller[0].id", 'such as "hba0"'),
    (disk('bus = "scsi"\niothread = true'), "disk[0].iothread",
     'in a [[controller]] of type = "virtio-scsi": iothread = true'),
    (disk('bus = "nvme"\niothreads = 2'), "disk[0].iothreads", 'bus = "virtio"'),
    (disk("iothread = true\niothreads = 2"), "disk[0].iothreads", "leave iothread out"),
    (disk("iothreads = 4\nqueues = 2"), "disk[0].queues", "queues = 4"),
    (disk('bus = "usb"\nqueues = 2'), "disk[0].queues", 'bus = "virtio"'),
    (disk('bus = "sata"\nread_only = true'), "disk[0].read_only", 'bus = "virtio"'),
    (disk('controller = "x"'), "disk[0].controller", 'bus = "scsi" or "sata"'),
    (disk('bus = "nvme"\nport = 1'), "disk[0].port", "leave port out"),
    (disk('bus = "sata"\nlun = 1'), "disk[0].lun", 'bus = "scsi"'),
    (disk('wwn = "0x5000c50015ea71ac"'), "disk[0].wwn", 'bus = "scsi"'),
    (disk("rotation_rate = 1"), "disk[0].rotation_rate", "sata"),
    (disk('bus = "sata"\nrotation_rate = 300'), "disk[0].rotation_rate", "1 for an SSD"),
    (disk('bus = "ide"\nlogical_block_size = 4096'), "disk[0].logical_block_size", "virtio"),
    (disk("logical_block_size = 1000"), "disk[0].logical_block_size", "512 or 4096"),
    (disk("logical_block_size = 4096\nphysical_block_size = 512"), "disk[0].physical_block_size",
     "leave it out"),
    (disk('bus = "nvme"\nwerror = "stop"'), "disk[0].werror", "virtio"),
    (disk('detect_zeroes = "unmap"'), "disk[0].detect_zeroes", "discard = true"),
    (disk("throwaway = true\nread_only = true"), "disk[0].throwaway", "drop one of the two"),
    (disk('throwaway = true\nformat = "vmdk"'), "disk[0].throwaway", "qemu-img convert"),
    (disk("create = {}"), "disk[0].create", 'size = "64G"'),
    (disk('create = { size = "1000B" }'), "disk[0].create.size", "multiple of 512B"),
    (disk('create = { size = "1G", lazy_refcounts = true }'), "disk[0].create.lazy_refcounts",
     'format = "qcow2"'),
    (disk('create = { size = "1G", preallocation = "metadata" }'), "disk[0].create.preallocation",
     "falloc"),
    (disk('format = "vdi"\ncreate = { size = "1G", preallocation = "full" }'),
     "disk[0].create.preallocation", "leave it out"),
    (disk('format = "qcow2"\ncreate = { backing = "/b", preallocation = "falloc" }'),
     "disk[0].create.preallocation", "extended_l2"),
    (disk('create = { size = "1G", backing_format = "raw" }'), "disk[0].create.backing_format",
     'backing = "FILE"'),
    (disk('create = { size = "1G" }', "/a.qcow2"), "disk[0].create", 'format = "qcow2"'),
    ('[[controller]]\ntype = "lsi"\niothread = true\n', "controller[0].iothread", "virtio-scsi"),
    ('[[controller]]\ntype = "ahci"\nqueues = 2\n', "controller[0].queues", "virtio-scsi"),
    ('[[controller]]\ntype = "virtio-scsi"\niothread = true\niothreads = 2\n',
     "controller[0].iothreads", "leave iothread out"),
    (disk("") + '[[controller]]\ntype = "ahci"\nid = "disk0"\n', "controller[0].id", ""),
    (disk('bus = "scsi"\ncontroller = "x"'), "disk[0].controller", 'id = "x"'),
    (disk('bus = "scsi"\ncontroller = "ahci0"') + '[[controller]]\ntype = "ahci"\n',
     "disk[0].controller", ""),
    ('[[cdrom]]\ncontroller = "scsi0"\n[[controller]]\ntype = "virtio-scsi"\n',
     "cdrom[0].controller", ""),
    (disk('bus = "sata"\nport = 2') + "[[cdrom]]\nport = 2\n", "cdrom[0].port", ""),
    ('[[cdrom]]\nbus = "usb"\nport = 1\n', "cdrom[0].bus", "leave controller and port out"),
    ("[[cdrom]]\nlun = 1\n", "cdrom[0].lun", 'bus = "scsi"'),
    (disk("throwaway = true") + disk(""), "disk[1].file", "give each its own file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "hint"), FAULTS, ids=range(len(FAULTS)))
def test_a_contradiction_is_told_once_with_its_way_out(text: str, where: str, hint: str) -> None:
    (line,) = told(text)
    assert line.startswith(f"{where}: ")
    assert hint in line


@pytest.mark.parametrize(
    "text",
    [
        disk('bus = "scsi"\nread_only = true\nlun = 3\nport = 4\nwwn = "0x5000c50015ea71ac"'),
        disk("iothreads = 2\nqueues = 4"),
        disk('discard = true\ndetect_zeroes = "unmap"\nlogical_block_size = 4096'),
        disk('format = "qcow2"\ncreate = { size = "64G", preallocation = "metadata", '
             'lazy_refcounts = true, cluster_size = "2M" }', "/a.qcow2"),
        disk('format = "qcow2"\ncreate = { backing = "/b" }'),
        disk("throwaway = true") * 2, disk("read_only = true") + disk("throwaway = true"),
        disk("share_rw = true") * 2,
        '[[cdrom]]\n[[cdrom]]\nbus = "scsi"\nlun = 1\n[[cdrom]]\nbus = "usb"\n',
        disk('bus = "sata"\ncontroller = "ahci1"\nport = 2') + disk('bus = "sata"\nport = 2', "/b")
        + '[[controller]]\ntype = "ahci"\n[[controller]]\ntype = "ahci"\n',
        disk('bus = "scsi"\nport = 2\nlun = 0') + disk('bus = "scsi"\nport = 2\nlun = 1', "/b"),
    ],
)
def test_what_fits(text: str) -> None:
    assert told(text) == []
