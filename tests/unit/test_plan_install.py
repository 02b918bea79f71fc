"""`--install`: what of a profile changes for the installation, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.cli.common import Made, plan_for
from qlaunch.cli.main import main
from qlaunch.cli.plan import shown
from qlaunch.plan.firmware import firmware_kind
from qlaunch.plan.install import for_installing, with_window
from qlaunch.profile.read import read_profile
from tests.fake.plans import QEMU, USER, host, profile

TOP = Path(__file__).parents[2]
FACTS = TOP / "tests/data/facts/fx8120.json"
CARD = '[[pci]]\ndevice = "03:00.0"\nx_vga = true\n'
DISKS = (
    '[[disk]]\nfile = "/d"\nboot = 1\niothread = true\nqueues = 4\naddr = "05"\n'
    '[[cdrom]]\nfile = "/drivers"\n[[cdrom]]\nfile = "/installer"\nboot = 2\n'
    "[[net]]\nuser = {}\nboot = 3\n"
)


def test_the_hosts_devices_and_what_is_done_for_them_stay_out() -> None:
    made = for_installing(profile(
        CARD + '[[input]]\nevdev = "/dev/input/event3"\n[[input]]\ntype = "tablet"\n'
        '[hooks]\nbefore = [["systemctl", "stop", "gdm"]]\n'
        '[[usb]]\ndevice = "046d:c52b"\n[display]\ntype = "looking-glass"\n'
    ))
    assert not made.profile.pci and not made.profile.usb
    assert [i.type for i in made.profile.input] == ["tablet"]
    assert made.profile.hooks.before == ()
    assert (made.profile.display.type, made.profile.display.vga) == ("auto", "std")
    assert made.changes == (
        "no [[pci]]", "no [[usb]]", "no evdev", "no hooks",
        'display.type = "auto", display.vga = "std"',
    )


@pytest.mark.parametrize("kind", ["auto", "gtk", "sdl", "vnc", "spice"])
def test_a_screen_that_can_be_seen_stays(kind: str) -> None:
    text = f'[display]\ntype = "{kind}"\nvga = "qxl"\n'
    assert for_installing(profile(text)).changes == ()


def test_the_disc_of_the_lowest_number_is_first_and_the_others_keep_their_order() -> None:
    made = for_installing(profile(DISKS)).profile
    assert [d.boot for d in made.cdrom] == [None, 0]
    assert (made.disk[0].boot, made.net[0].boot) == (2, 4)
    alone = for_installing(profile('[[cdrom]]\nfile = "/a"\n[[cdrom]]\nfile = "/b"\n')).profile
    assert [d.boot for d in alone.cdrom] == [0, None]


def test_a_kernel_is_started_whatever_disc_there_is() -> None:
    made = for_installing(profile(f'{DISKS}[kernel]\nfile = "/k"\n'))
    assert [d.boot for d in made.profile.cdrom] == [None, 2]
    assert not any("boots first" in told for told in made.changes)


def test_disks_and_cards_change_only_where_it_is_asked_for() -> None:
    same = for_installing(profile(f'guest = "windows10"\n{DISKS}')).profile
    assert (same.disk[0].bus, same.net[0].model) == ("virtio", "virtio")
    text = f'guest = "windows10"\n{DISKS}[install]\nfriendly = true\n'
    made = for_installing(profile(text))
    disk = made.profile.disk[0]
    assert (disk.bus, disk.iothread, disk.queues, disk.addr) == ("sata", False, None, None)
    assert disk.boot == 2
    assert made.profile.net[0].model == "e1000e"
    assert ("disk", 0, "bus") in made.keys and ("net", 0, "model") in made.keys
    own = for_installing(profile(f'{DISKS}[install]\nbus = "ide"\nnet = "rtl8139"\n')).profile
    assert (own.disk[0].bus, own.net[0].model) == ("ide", "rtl8139")
    old = f'guest = "windows7"\n{DISKS}[install]\nfriendly = true\n[machine]\ntype = "pc"\n'
    made_old = for_installing(profile(old)).profile
    assert (made_old.disk[0].bus, made_old.net[0].model) == ("ide", "e1000")
    kept = for_installing(profile(
        '[[disk]]\nfile = "/d"\nread_only = true\n[install]\nfriendly = true\n'
    ))
    assert kept.profile.disk[0].bus == "virtio"
    linux = for_installing(profile(f'guest = "linux"\n{DISKS}[install]\nfriendly = true\n'))
    assert linux.profile.disk[0].iothread is True


def test_the_firmware_is_that_of_the_later_starts() -> None:
    machine = profile('guest = "windows11"\n' + CARD)
    assert firmware_kind(machine)[0] == "bios"
    made = for_installing(machine)
    assert firmware_kind(made.profile)[0] == "bios"
    assert any("machine.firmware" in told for told in made.changes)


def test_without_a_screen_it_is_seen_by_vnc() -> None:
    made = for_installing(profile("")).profile
    qemu = replace(QEMU, displays=("gtk", "none", "vnc"))
    there, nowhere = replace(USER, display=True), replace(USER, display=False)
    assert with_window(made, host(qemu=qemu, invoker=there)).display.type == "auto"
    assert with_window(made, host(qemu=qemu, invoker=nowhere)).display.type == "vnc"
    bare = replace(QEMU, displays=("none", "vnc"))
    assert with_window(made, host(qemu=bare, invoker=there)).display.type == "vnc"
    gtk = profile('[display]\ntype = "gtk"\nvga = "std"\n')
    assert with_window(gtk, host(qemu=qemu, invoker=nowhere)).display.type == "gtk"


def test_win7_installs_in_a_window_and_plan_says_what_did_that() -> None:
    loaded = read_profile(TOP / "profiles/win7.toml", (), root_user=False)
    made = for_installing(loaded.profile)
    loaded = loaded.changed(made.profile, made.keys, "--install", "; ".join(made.changes))
    facts, plan = plan_for(loaded, str(FACTS), holders=False)
    told = shown(Made(loaded, facts, plan))
    assert not any("vfio" in step.text for step in told.steps)
    words = {" ".join(o.words): o.why for o in told.options}
    assert words["-device VGA,id=vga,bus=pcie.0,addr=01.0"] == "--install display.vga"
    assert not any("vfio-pci" in w or "ioh3420" in w for w in words)
    disc = next(w for w in words if w.startswith("-device ide-cd,bus=ide.1"))
    assert disc.endswith("bootindex=0")
    disk = next(w for w in words if w.startswith("-device virtio-blk-pci"))
    assert "addr=05.0" in disk and disk.endswith("bootindex=3")
    assert "win7.toml:" in words[disk]
    (note,) = [p for p in told.problems if p["message"].startswith("--install: ")]
    assert note["severity"] == "note"


@pytest.mark.parametrize("verb", ["plan", "argv", "check"])
def test_every_verb_that_plans_has_it(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('[[cdrom]]\nfile = "a.iso"\n[[pci]]\ndevice = "03:00.0"\n')
    main([verb, str(file), "--install", "--facts", str(FACTS)])
    said = capsys.readouterr()
    assert "--install: no [[pci]]" in said.err
    assert "vfio-pci" not in said.out
