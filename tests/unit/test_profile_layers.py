"""Several files and `--set` become one profile, and every key still knows where it was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.errors import ProfileError, UsageError
from qlaunch.profile.keys import key_text, parse_key
from qlaunch.profile.read import Loaded, read_profile

BOOT = "[[cdrom]]\nfile = 'install.iso'\n"


def write(directory: Path, **files: str) -> Path:
    """`a=...` becomes a.toml; the path of vm.toml."""
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory / "vm.toml"


def load(directory: Path, *overrides: str, **files: str) -> Loaded:
    return read_profile(write(directory, **files), overrides)


def told(directory: Path, *overrides: str, **files: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(directory, *overrides, **files)
    return str(caught.value).replace(str(directory), "DIR")


def test_tables_merge_lists_of_tables_append_other_values_replace(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        base='guest = "linux"\n[cpu]\ncores = 2\nthreads = 2\nflags = ["+a", "+b"]\n'
        '[[disk]]\nfile = "base.img"\n[balloon]\n',
        vm='extends = "base.toml"\n[cpu]\ncores = 4\nflags = ["+c"]\n[[disk]]\nfile = "vm.img"\n',
    )
    profile = loaded.profile
    assert (profile.name, profile.guest, profile.extends) == ("vm", "linux", ())
    assert (profile.cpu.cores, profile.cpu.threads, profile.cpu.flags) == (4, 2, ("+c",))
    assert [disk.file for disk in profile.disk] == [
        str(tmp_path / "base.img"), str(tmp_path / "vm.img")
    ]
    assert [source.path.name for source in loaded.sources] == ["vm.toml", "base.toml"]
    assert loaded.sources[0].text.startswith("extends")
    assert {key: loaded.origin(key) for key in (
        "guest", "cpu.cores", "cpu.threads", "cpu.flags", "cpu.flags[1]", "disk[0].file",
        "disk[1]", "disk[1].file", "disk[1].bus", "balloon", "stop.timeout", "no such key!",
    )} == {
        "guest": "base.toml:1", "cpu.cores": "vm.toml:3", "cpu.threads": "base.toml:4",
        "cpu.flags": "vm.toml:4", "cpu.flags[1]": "vm.toml:4", "disk[0].file": "base.toml:7",
        "disk[1]": "vm.toml:5", "disk[1].file": "vm.toml:6", "disk[1].bus": "vm.toml:5",
        "balloon": "base.toml:8", "stop.timeout": "", "no such key!": "",
    }


def test_later_bases_go_over_earlier_ones_and_each_file_counts_once(tmp_path: Path) -> None:
    profile = load(
        tmp_path,
        root='guest = "linux"\n[[disk]]\nfile = "root.img"\n',
        a='extends = "root.toml"\n[cpu]\ncores = 2\n',
        b='extends = ["root.toml"]\n[cpu]\ncores = 3\n',
        vm='extends = ["a.toml", "b.toml"]\n',
    ).profile
    assert profile.cpu.cores == 3
    assert len(profile.disk) == 1


def test_paths_are_relative_to_the_file_that_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("IMAGES", "/img")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SUDO_UID", raising=False)
    profile = load(
        tmp_path,
        'disk[3].file="set.img"', "machine.bios=~/bios.bin", "qemu.binary=./qemu",
        sub__base='[[disk]]\nfile = "base.img"\n[[disk]]\nfile = "${IMAGES}/$HOME/~"\n'
        "[machine]\nacpi_tables = [{ file = 'a.aml' }]\n",
        vm='extends = "sub/base.toml"\n[[disk]]\nfile = "~/vm.img"\n',
    ).profile
    assert [disk.file for disk in profile.disk] == [
        f"{tmp_path}/sub/base.img", "/img/$HOME/~", "/home/me/vm.img", f"{tmp_path}/here/set.img"
    ]
    assert profile.machine.acpi_tables[0].file == f"{tmp_path}/sub/a.aml"
    assert profile.machine.bios == "/home/me/bios.bin"
    assert profile.qemu.binary == f"{tmp_path}/here/qemu"


@pytest.mark.parametrize(
    ("binary", "expected"),
    [
        ("qemu-system-x86_64", "qemu-system-x86_64"), ("./myqemu", "$TMP/a/myqemu"),
        ("build/qemu", "$TMP/a/build/qemu"), ("~/q", "/home/me/q"), ("/opt/q", "/opt/q"),
        ("../q", "$TMP/a/../q"), ("${QEMU_DIR}/q", "/opt/qemu/q"), ("~q", "$TMP/a/~q"),
    ],
)
def test_qemu_is_a_path_when_it_looks_like_one(
    tmp_path: Path, binary: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("QEMU_DIR", "/opt/qemu")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/base.toml").write_text(f'[qemu]\nbinary = "{binary}"\n')
    (tmp_path / "vm.toml").write_text('extends = "a/base.toml"\n[[disk]]\nfile = "x.img"\n')
    loaded = read_profile(tmp_path / "vm.toml", (), root_user=False)
    assert loaded.profile.qemu.binary == expected.replace("$TMP", str(tmp_path))


def test_a_fault_of_a_replaced_value_is_no_fault(tmp_path: Path) -> None:
    files = {
        "base": '[machine]\nbios = "${NOT_SET_AT_ALL}"\n',
        "vm": 'extends = "base.toml"\n[machine]\nbios = "mine.bin"\n' + BOOT,
    }
    assert load(tmp_path, **files).profile.machine.bios == str(tmp_path / "mine.bin")
    files["vm"] = 'extends = "base.toml"\n' + BOOT
    assert told(tmp_path, **files).startswith(
        "error: base.toml:2: machine.bios: the environment variable NOT_SET_AT_ALL is not set\n"
    )


def test_faults_name_the_file_they_stand_in(tmp_path: Path) -> None:
    message = told(
        tmp_path, "cpu.threads=0",
        base='[[disk]]\nfile = "a"\nbus = "x"\n[cpu]\ncors = 1\n',
        vm='extends = "base.toml"\n[[disk]]\nfile = "b"\nbus = "y"\n',
    )
    assert [line for line in message.splitlines() if line.startswith("error")] == [
        "error: vm.toml:4: disk[1].bus: unknown value",
        "error: base.toml:3: disk[0].bus: unknown value",
        "error: base.toml:5: cpu.cors: unknown key",
        "error: --set: cpu.threads: expected a whole number from 1 to 1024",
    ]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = {"sub__vm": "[cpu]\ncores = 2\n", "vm": 'extends = "sub/vm.toml"\n' + BOOT}
    assert load(tmp_path, **files).origin("cpu.cores") == f"{tmp_path}/sub/vm.toml:2"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"vm": 'name = "x"\nextends = "nope.toml"\n'},
            "error: vm.toml:2: extends: there is no such file\n  found:   DIR/nope.toml\n"
            "hint: paths are relative to the file that says them",
        ),
        (
            {"vm": 'extends = [\n  "nope.toml",\n  "sub",\n]\n', "sub__x": ""},
            "error: vm.toml:2: extends: there is no such file\n  found:   DIR/nope.toml\n"
            "hint: paths are relative to the file that says them\n"
            "error: vm.toml:3: extends: this is a directory\n  found:   DIR/sub\n"
            "hint: a profile is a regular file, NAME.toml",
        ),
        (
            {"vm": 'extends = "vm.toml"\n'},
            "error: vm.toml:1: extends: the profile extends itself\n"
            "  found:   vm.toml → vm.toml\nhint: take this one out",
        ),
        (
            {"vm": 'extends = "a.toml"\n', "a": "extends = './sub/../b.toml'\n", "sub__x": "",
             "b": "\nextends = 'a.toml'\n"},
            "error: b.toml:2: extends: the profile extends itself\n"
            "  found:   vm.toml → a.toml → b.toml → a.toml\nhint: take this one out",
        ),
        (
            {"vm": 'extends = "${NOT_SET_AT_ALL}/a.toml"\n'},
            "error: vm.toml:1: extends: the environment variable NOT_SET_AT_ALL is not set\n"
            '  found:   "${NOT_SET_AT_ALL}/a.toml"',
        ),
        (
            {"vm": "extends = ['a.toml', 'b.toml']\n", "a": "x =\n", "b": "\n\ny\n"},
            "error: a.toml:1:4: this is not a TOML value\n  found:   x =\n"
            'hint: text is written in quotes: key = "text"\n'
            'error: b.toml:3:2: expected "=" after a key\n  found:   y\n'
            "hint: a line is key = value, [table] or # comment",
        ),
        (
            {"vm": "extends = ['a.toml', 2]\n" + BOOT},
            "error: vm.toml:1: extends[1]: expected text, not a whole number\n  found:   2\n"
            'hint: write it in quotes: "2"',
        ),
    ],
)
def test_bases_that_cannot_be_read(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert told(tmp_path, **files) == expected


def test_a_long_chain_ends(tmp_path: Path) -> None:
    files = {f"f{n}": f'extends = "f{n + 1}.toml"\n' for n in range(20)}
    message = told(tmp_path, **files, f20=BOOT, vm='extends = "f0.toml"\n')
    assert "more than 16 files extend one another" in message
    assert load(tmp_path, f16=BOOT, f15=BOOT).profile.cdrom


def test_a_wide_fan_ends(tmp_path: Path) -> None:
    files = {f"f{n}": "" for n in range(100)}
    names = ", ".join(f'"{name}.toml"' for name in files)
    assert "more than 64 files" in told(tmp_path, **files, vm=f"extends = [{names}]\n")


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("cpu.cores=4", "cpu.cores", 4),
        ("cpu.cores = 4 # four", "cpu.cores", 4),
        ("machine.memory=8G", "machine.memory", 8 << 30),
        ('machine.memory="8G"', "machine.memory", 8 << 30),
        ("cpu.hyperv=['vapic']", "cpu.hyperv", ("vapic",)),
        ("qemu.env.A=x = y", "qemu.env", {"A": "x = y"}),
        ('qemu.env."A.B"=1 2', "qemu.env", {"A.B": "1 2"}),
        ('qemu.env={"A" = "x"}', "qemu.env", {"A": "x"}),
        ("qemu.env.A=1\nB = 2", "qemu.env", {"A": "1\nB = 2"}),
        ("cpu={cores=2}", "cpu.cores", 2),
        ("cdrom[0].boot=3", "cdrom[0].boot", 3),
        ("cpu.pin.vcpus=[7]", "cpu.pin.vcpus", ((7,),)),
        ("qemu.args=[]", "qemu.args", ()),
    ],
)
def test_set(tmp_path: Path, text: str, key: str, expected: object) -> None:
    vm = f"[cpu]\nmodel = 'max'\n{BOOT}"
    loaded = load(tmp_path, text, vm=vm)
    value: object = loaded.profile
    for part in parse_key(key):
        value = value[part] if isinstance(part, int) else getattr(value, part)  # type: ignore[index]
    assert value == expected
    assert loaded.origin(text.partition("=")[0].strip()) == "--set"


def test_set_replaces_and_appends(tmp_path: Path) -> None:
    vm = f"[cpu]\nmodel = 'max'\n{BOOT}"
    loaded = load(tmp_path, "cpu={cores=2}", "net[0].user={}", "cpu.threads=2", vm=vm)
    assert (loaded.profile.cpu.model, loaded.profile.cpu.count) == ("host", 4)
    assert loaded.profile.net[0].user is not None
    assert (loaded.origin("cpu.model"), loaded.origin("net[0]")) == ("--set", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu.cores", "--set cpu.cores: KEY=VALUE is wanted"),
        ("=4", "--set =4: a key is wanted at column 1"),
        ("cpu..cores=4", "--set cpu..cores=4: a key is wanted at column 5"),
        ("cpu.=4", "--set cpu.=4: a key is wanted at column 5"),
        ("disk[x].file=a", '--set disk[x].file=a: "." or "[number]" is wanted at column 5'),
        ("[0]=a", "--set [0]=a: a key is wanted at column 1"),
        ("disk.file=a", "--set disk.file: disk is a list"),
        ("disk[2].file=a", "--set disk[2].file: disk has 1 entries, counted from 0"),
        ("cpu[0].cores=1", "--set cpu[0].cores: cpu is not a list"),
        ("guest.x=1", "--set guest.x: guest is not a table"),
        ("extends=a.toml", "--set extends=a.toml: extends can only be said in a file"),
        ('"a', '--set "a: KEY=VALUE is wanted'),
        ("a b=1", '--set a b=1: "." or "[number]" is wanted at column 2'),
        ("disk[99999].file=a", '"." or "[number]" is wanted at column 5'),
        ("\n=1", "--set \\n=1: a key is wanted at column 1"),
    ],
)
def test_bad_set(tmp_path: Path, text: str, expected: str) -> None:
    vm = 'guest = "linux"\n[cpu]\n[[disk]]\nfile = "a"\n'
    assert expected in told(tmp_path, text, vm=vm)


def test_a_bad_value_of_set_is_told_with_its_key(tmp_path: Path) -> None:
    assert told(tmp_path, "cpu.cores=many", "cpu.cors=2", "machine.bios=${NOT_SET_AT_ALL}",
                vm=BOOT).splitlines()[:4] == [
        "error: --set: machine.bios: the environment variable NOT_SET_AT_ALL is not set",
        '  found:   "${NOT_SET_AT_ALL}"',
        "hint: export it, or write the path out",
        "error: --set: cpu.cores: expected a whole number from 1 to 1024, not text",
    ]


@pytest.mark.parametrize(
    "path", [("disk", 1, "bus"), ("a",), ("a b", "c.d", 0), ("é", ""), ('"', "\\", "\n\x00\x7f")]
)
def test_key_text_is_read_back(path: tuple[str | int, ...]) -> None:
    assert parse_key(key_text(path)) == path


def test_profile_error_is_a_usage_error() -> None:
    assert issubclass(ProfileError, UsageError)
