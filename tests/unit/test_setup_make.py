"""Which setup a host gets: refusals of early binding, conflicts, boot loaders, who reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlaunch.setup.apply import carry_out
from qlaunch.setup.edit import diff_text, holds, put, take
from qlaunch.setup.make import make_setup
from qlaunch.setup.model import MARK, Boot, Change, Pages, Part, Setup, Wishes
from qlaunch.setup.read import read_setup
from qlaunch.values import PciAddress, Size
from tests.fake.distros import MACHINE_ID, make_root
from tests.fake.trees import Tree

TWO_MIB, ONE_GIB = Size(2 << 20), Size(1 << 30)


def early(*addresses: str) -> Wishes:
    return Wishes(early=tuple(PciAddress(f"0000:{a}") for a in addresses))


def planned(tree: Tree, wishes: Wishes | None = None) -> Setup:
    wishes = wishes or Wishes()
    return make_setup(read_setup(tree.root, wishes, None), wishes, None)


def said(setup: Setup, severity: str = "error") -> list[str]:
    return [p.message for p in setup.problems if p.severity == severity]


def text(setup: Setup, path: str) -> str:
    return next((c.after or "" for c in setup.changes if c.path == path), "")


# -- early binding ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["00:02.0"], "the host's screen is on this card"),
        (["00:02.0", "01:00.0"], "this is the host's only graphics card"),
        (["09:00.0"], "there is no such device"),
        (["00:01.0"], "this is a bridge"),
        (["03:00.0"], "vfio-pci's ids would take 0000:04:00.0 too"),
        (["05:00.0"], "the host needs this device"),
    ],
)
def test_what_may_not_be_bound_early(
    addresses: list[str], message: str, tmp_path: Path
) -> None:
    setup = planned(make_root("debian", tmp_path), early(*addresses))
    assert setup.changes == () and setup.commands == ()
    assert any(one.startswith(message) for one in said(setup)), said(setup)
    assert all(p.hint for p in setup.problems)


def test_twins_that_both_go_may(tmp_path: Path) -> None:
    setup = planned(make_root("debian", tmp_path), early("03:00.0", "04:00.0"))
    assert said(setup) == []
    lines = text(setup, "/etc/modprobe.d/qlaunch.conf").splitlines()[1:]
    assert lines == ["options vfio-pci ids=1912:0014", "softdep xhci_pci pre: vfio-pci"]


@pytest.mark.parametrize("name", ["debian", "ubuntu", "fedora", "arch", "pop"])
def test_nothing_is_ever_blacklisted(name: str, tmp_path: Path) -> None:
    setup = planned(make_root(name, tmp_path), early("01:00.0", "01:00.1"))
    everything = "".join(c.after or "" for c in setup.changes) + str(setup.commands)
    for word in ("blacklist", "install ", "/bin/false", "rd.driver"):
        assert word not in everything


def test_without_early_no_ids_no_softdep_no_initramfs(tmp_path: Path) -> None:
    setup = planned(make_root("debian", tmp_path))
    paths = [c.path for c in setup.changes]
    assert paths == ["/etc/default/grub.d/zz-qlaunch.cfg", "/etc/modules-load.d/qlaunch.conf"]
    assert [c.argv[0] for c in setup.commands] == ["update-grub"]


def test_a_driver_that_is_built_in_is_told(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    tree.append("lib/modules/6.1.0-18-amd64/modules.builtin", "kernel/drivers/gpu/nouveau.ko")
    setup = planned(tree, early("01:00.0"))
    assert said(setup, "warning") == [
        "nouveau is built into the kernel and is there before vfio-pci"
    ]
    assert "softdep nouveau" not in text(setup, "/etc/modprobe.d/qlaunch.conf")


def test_an_unknown_initramfs_forbids_early_binding_only(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    (tmp_path / "usr/bin/mkinitramfs").unlink()
    assert said(planned(tree)) == []
    assert said(planned(tree, early("01:00.0")))[0].startswith("nothing was found that makes")


# -- kernel parameters ------------------------------------------------------------------------


def parameters(setup: Setup) -> list[str]:
    assert setup.record is not None
    return list(setup.record.shown)


def test_amd_needs_no_parameter_of_its_own(tmp_path: Path) -> None:
    assert parameters(planned(make_root("ubuntu", tmp_path))) == ["iommu=pt"]


@pytest.mark.parametrize(
    ("there", "left", "errors", "warnings"),
    [
        ("intel_iommu=on", ["iommu=pt"], 0, 0),
        ("intel_iommu=on,sm_on iommu=pt", [], 0, 0),
        ("intel_iommu=off", [], 1, 0),
        ("iommu=off", [], 1, 0),
        ("iommu=nopt", ["intel_iommu=on"], 0, 1),
        ("xintel_iommu=on", ["intel_iommu=on", "iommu=pt"], 0, 0),
    ],
)
def test_what_the_command_line_has_already(
    there: str, left: list[str], errors: int, warnings: int, tmp_path: Path
) -> None:
    tree = make_root("debian", tmp_path)
    tree.append("etc/default/grub", f'GRUB_CMDLINE_LINUX="{there}"')
    setup = planned(tree)
    assert (len(said(setup)) > 0, len(said(setup, "warning"))) == (errors > 0, warnings)
    if not errors:
        assert parameters(setup) == left


def test_hugepages(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    pages = (Pages(size=TWO_MIB, count=64), Pages(size=ONE_GIB, count=4))
    setup = planned(tree, Wishes(hugepages=pages))
    assert "vm.nr_hugepages = 64\n" in text(setup, "/etc/sysctl.d/qlaunch.conf")
    assert parameters(setup)[-2:] == ["hugepagesz=1G", "hugepages=4"]
    tree.append("etc/default/grub", 'GRUB_CMDLINE_LINUX="hugepagesz=1G hugepages=2"')
    setup = planned(tree, Wishes(hugepages=pages))
    assert said(setup, "warning")[0].startswith("the kernel command line has hugepages=2")
    assert "hugepages=4" not in parameters(setup)
    tree.write("proc/meminfo", "Hugepagesize:    1048576 kB")
    assert "the default size only" in said(planned(tree, Wishes(hugepages=pages)))[0]


def test_hugepages_leave_the_host_enough(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    assert said(planned(tree, Wishes(hugepages=(Pages(size=ONE_GIB, count=30),)))) == []
    (fault,) = said(planned(tree, Wishes(hugepages=(Pages(size=ONE_GIB, count=31),))))
    assert fault.startswith("these huge pages would leave the host less than 2 GiB")
    tree.write("proc/meminfo", "nothing")
    assert said(planned(tree, Wishes(hugepages=(Pages(size=ONE_GIB, count=31),)))) == []


def test_mkinitcpio_without_modconf(tmp_path: Path) -> None:
    tree = make_root("arch", tmp_path)
    assert said(planned(tree, early("01:00.0")), "warning") == []
    tree.write("etc/mkinitcpio.conf", "MODULES=()\nHOOKS=(base udev)")
    assert said(planned(tree, early("01:00.0")), "warning")[0].startswith("HOOKS has no modconf")


def test_gvt_on_intel_only(tmp_path: Path) -> None:
    setup = planned(make_root("debian", tmp_path / "d"), Wishes(gvt=True))
    wanted = {"i915.enable_gvt=1", "i915.enable_guc=0", "kvm.ignore_msrs=1"}
    assert wanted <= set(parameters(setup))
    assert "kvmgt\n" in text(setup, "/etc/modules-load.d/qlaunch.conf")
    assert said(planned(make_root("ubuntu", tmp_path / "u"), Wishes(gvt=True)))


# -- boot loaders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "boot"), [("GRUB 2.12", "grub"), ("systemd-boot 255", "systemd-boot"), ("", "")]
)
def test_two_boot_loaders(loader: str, boot: str, tmp_path: Path) -> None:
    tree = make_root("arch", tmp_path)
    tree.write("etc/default/grub", "GRUB_TIMEOUT=1")
    tree.write("usr/sbin/grub-mkconfig", ". /etc/default/grub")
    if loader:
        tree.write(
            "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
            b"\6\0\0\0" + loader.encode("utf-16-le") + b"\0\0",
        )
    setup = planned(tree)
    if boot:
        assert setup.record is not None and setup.record.boot == boot
    else:
        assert said(setup)[0].startswith("both GRUB and systemd-boot are installed")
        named = planned(tree, Wishes(boot="grub"))
        assert named.record is not None and named.record.boot == "grub"


def test_no_boot_loader_and_none(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    (tmp_path / "etc/default/grub").unlink()
    assert said(planned(tree))[0].startswith("no boot loader was found")
    setup = planned(tree, Wishes(boot="none"))
    assert [c.path for c in setup.changes] == ["/etc/modules-load.d/qlaunch.conf"]
    assert [p.found for p in setup.problems] == ["intel_iommu=on iommu=pt"]


@pytest.mark.parametrize("boot", ["kernelstub", "grubby", "rpm-ostree"])
def test_a_loader_that_is_not_here(boot: Boot, tmp_path: Path) -> None:
    assert "which is not here" in said(planned(make_root("debian", tmp_path), Wishes(boot=boot)))[0]


def test_ostree(tmp_path: Path) -> None:
    tree = make_root("fedora", tmp_path)
    tree.write("usr/bin/rpm-ostree")
    tree.write("run/ostree-booted")
    assert planned(tree).commands[0].argv == (
        "rpm-ostree", "kargs", "--append-if-missing=intel_iommu=on",
        "--append-if-missing=iommu=pt",
    )
    assert said(planned(tree, early("01:00.0")))


def test_nixos_is_left_to_itself(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    tree.write("etc/os-release", "ID=nixos")
    assert said(planned(tree)) == ["NixOS is set up in its own configuration"]


def test_entries_of_kernel_install_are_made_anew_and_not_edited(tmp_path: Path) -> None:
    tree = make_root("kernel-install", tmp_path)
    tree.write(f"boot/efi/loader/entries/{MACHINE_ID}-9.9.9-gone.conf", "linux /x\noptions a=b")
    setup = planned(tree)
    assert text(setup, "/etc/kernel/cmdline") == "root=UUID=1-2 ro quiet intel_iommu=on iommu=pt\n"
    # one of a kernel that is no longer installed is nobody's any more but the user's
    assert [c.path for c in setup.changes if "entries" in c.path] == [
        f"/boot/efi/loader/entries/{MACHINE_ID}-9.9.9-gone.conf"
    ]
    tree.write("usr/bin/reinstall-kernels")
    assert [c.argv for c in planned(tree).commands] == [("reinstall-kernels",)]


def test_kernelstub_gets_the_whole_list_when_something_goes(tmp_path: Path) -> None:
    from qlaunch.setup.parameters import keep_commands

    facts = read_setup(make_root("pop", tmp_path).root, Wishes(), None)
    (command,) = keep_commands("kernelstub", facts, ["a=1"], ["splash"])
    assert command.argv == ("kernelstub", "--options", "quiet loglevel=0 a=1")
    assert command.back == ("kernelstub", "--options", "quiet loglevel=0 splash")


def test_a_file_of_our_name_that_is_not_ours(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    tree.write("etc/modules-load.d/qlaunch.conf", "loop")
    assert said(planned(tree)) == [
        "this file is there already, and qlaunch has no record of writing it"
    ]


@pytest.mark.parametrize(("user", "fault"), [("nobody-here", "there is no such user"),
                                             ("root", "root needs no permission")])
def test_users(user: str, fault: str, tmp_path: Path) -> None:
    assert said(planned(make_root("debian", tmp_path), Wishes(user=user))) == [fault]


def test_daemons_that_do_not_run_are_not_spoken_to(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    spoken = [c.argv[0] for c in planned(tree, Wishes(user="anna")).commands]
    assert spoken == ["update-grub", "udevadm", "udevadm", "systemctl"]
    (tmp_path / "run/udev/control").unlink()
    (tmp_path / "run/systemd/system").rmdir()
    spoken = [c.argv[0] for c in planned(tree, Wishes(user="anna")).commands]
    assert spoken == ["update-grub"]


def test_a_user_who_may_not_look_into_the_boot_partition(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    facts = read_setup(tree.root, Wishes(), None)
    facts = msgspec.structs.replace(facts, denied=("/boot/efi/loader/entries",))
    setup = make_setup(facts, Wishes(), None)
    assert [p.severity for p in setup.problems] == ["note"]
    facts = msgspec.structs.replace(facts, loader="systemd-boot 255")
    assert said(make_setup(facts, Wishes(), None)) == [
        "the boot loader's files cannot be read by this user"
    ]


# -- those who read it ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["debian", "ubuntu", "arch-grub"])
def test_a_shell_that_reads_grubs_files_has_the_words_once(name: str, tmp_path: Path) -> None:
    tree = make_root(name, tmp_path)
    wishes = Wishes(hugepages=(Pages(size=ONE_GIB, count=4),))
    carry_out(tmp_path, planned(tree, wishes), None, lambda _: None)
    script = 'set -e; unset GRUB_CMDLINE_LINUX_DEFAULT; . "$1/etc/default/grub"\n'
    script += 'for x in "$1"/etc/default/grub.d/*.cfg; do if [ -e "$x" ]; then . "$x"; fi; done\n'
    script += 'printf %s "$GRUB_CMDLINE_LINUX_DEFAULT"'
    done = subprocess.run(["sh", "-c", script, "sh", str(tmp_path)], capture_output=True,
                          text=True, check=True)
    first = {"debian": "quiet splash intel_iommu=on", "ubuntu": "console=tty1", "arch-grub":
             " intel_iommu=on"}[name]
    assert done.stdout == f"{first} iommu=pt hugepagesz=1G hugepages=4"


@pytest.mark.parametrize("name", ["arch", "arch-grub"])
def test_a_shell_that_reads_mkinitcpios_files_has_the_module_first(
    name: str, tmp_path: Path
) -> None:
    tree = make_root(name, tmp_path)
    tree.write("etc/mkinitcpio.conf", "MODULES=(amdgpu btrfs)\nHOOKS=(base)")
    carry_out(tmp_path, planned(tree, early("01:00.0")), None, lambda _: None)
    script = '. "$1/etc/mkinitcpio.conf"; for x in "$1"/etc/mkinitcpio.conf.d/*.conf; do '
    script += '[ -e "$x" ] && . "$x"; done; echo "${MODULES[*]}"'
    done = subprocess.run(["bash", "-c", script, "bash", str(tmp_path)], capture_output=True,
                          text=True, check=True)
    assert done.stdout == "vfio_pci amdgpu btrfs\n"


@pytest.mark.skipif(shutil.which("modprobe") is None, reason="kmod is not installed")
def test_modprobe_understands_our_file(tmp_path: Path) -> None:
    tree = make_root("debian", tmp_path)
    carry_out(tmp_path, planned(tree, early("01:00.0", "01:00.1")), None, lambda _: None)
    done = subprocess.run(
        ["modprobe", "-C", str(tmp_path / "etc/modprobe.d"), "-c"], capture_output=True, text=True,
        check=True,
    )
    known = [line.replace("-", "_") for line in done.stdout.splitlines()
             if line.startswith(("options", "softdep")) and "vfio" in line]
    assert known == [
        "options vfio_pci ids=10de:1200,10de:0e0c", "softdep nouveau pre: vfio_pci",
        "softdep nvidia pre: vfio_pci", "softdep snd_hda_intel pre: vfio_pci",
    ]
    assert done.stderr == ""


# -- edits ------------------------------------------------------------------------------------

TEXT = st.text("ab #=\n\"$", max_size=40)


def part_of(kind: str, before: str | None) -> Part:
    if kind == "line":
        return Part(path="/f", kind="line", text='X="$X one two"', words="one two",
                    newline=bool(before) and not (before or "").endswith("\n"),
                    made="" if before is None else None)
    if kind == "words":
        return Part(path="/f", kind="words", text="one two", made="a b\n" if before is None
                    else None)
    return Part(path="/f", kind="own", text="# ours\none two\n")


@given(kind=st.sampled_from(["line", "words", "own"]), before=st.none() | TEXT)
def test_what_was_put_in_can_be_taken_out(kind: str, before: str | None) -> None:
    if kind == "own":
        before = None
    part = part_of(kind, before)
    after = put(before, part)
    assert holds(after, part)
    assert take(after, part) == before


@given(before=TEXT, behind=TEXT)
def test_lines_behind_ours_stay_lines(before: str, behind: str) -> None:
    part = part_of("line", before)
    end = "" if not before or before.endswith("\n") else "\n" if behind else ""
    assert take(put(before, part) + behind, part) == before + end + behind
    assert MARK not in (take(put(before, part) + behind, part) or "")


def test_diffs_are_patches(tmp_path: Path) -> None:
    change = Change(path="/f", before="a\nb", after="a\nb\nc\n")
    (tmp_path / "f").write_text("a\nb")
    patch = shutil.which("patch")
    assert diff_text(change).startswith("--- a/f\n+++ b/f\n@@ ")
    assert "\\ No newline at end of file\n" in diff_text(change)
    if patch:
        subprocess.run([patch, "-p1", "-s", "-d", str(tmp_path)], input=diff_text(change),
                       text=True, check=True)
        assert (tmp_path / "f").read_text() == "a\nb\nc\n"
