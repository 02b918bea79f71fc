"""The reader's happy path: names, paths, defaults; and how a PROFILE argument is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.cpu import Pin
from qlaunch.profile.find import find_profile, profile_directories, profile_names
from qlaunch.profile.paths import PathRules, expand_path
from qlaunch.profile.read import read_profile
from qlaunch.values import CpuSet, Duration, Size

BOOT = "[[cdrom]]\nfile = 'install.iso'\n"
TEXT = """\
#:schema qlaunch.schema.json
guest = "windows7"

[machine]
memory = "8G"
hugepages = "2M"
acpi_tables = [{ file = "/usr/share/seabios/q35-acpi-dsdt.aml" }]

[cpu]
cores = 3
threads = 2
hyperv = true
vendor_id = "0123456789ab"
pin = { vcpus = [1, 2, 3, "5", "6,7", "7-9"], emulator = "0,4", iothreads = 0 }

[[disk]]
file = "/dev/disk/by-id/x-part6"
boot = 2
addr = "5"

[[cdrom]]
file = "windows7.iso"
boot = 1

[[net]]
bridge = "br0"
mac = "52:54:00:26:7F:96"

[[pci]]
device = "03:00.0"
x_vga = true
rom = "../gtx560.rom"

[stop]
timeout = "2min"
"""


def test_values_are_typed(tmp_path: Path) -> None:
    (tmp_path / "win7.toml").write_text(TEXT, encoding="utf-8")
    loaded = read_profile(tmp_path / "win7.toml")
    profile = loaded.profile
    assert (profile.name, profile.guest) == ("win7", "windows7")
    assert (profile.machine.memory, profile.stop.timeout) == (Size(8 << 30), Duration(120))
    assert isinstance(profile.cpu.pin, Pin)
    assert profile.cpu.pin.vcpus == (
        CpuSet([1]), CpuSet([2]), CpuSet([3]), CpuSet([5]), CpuSet([6, 7]), CpuSet([7, 8, 9])
    )
    assert profile.cpu.pin.iothreads == CpuSet([0])
    assert profile.net[0].mac == "52:54:00:26:7f:96"
    assert profile.pci[0].device == "0000:03:00.0"
    assert profile.disk[0].addr == "05.0"
    assert profile.cdrom[0].file == str(tmp_path / "windows7.iso")
    assert profile.pci[0].rom == f"{tmp_path}/../gtx560.rom"
    assert loaded.warnings == ()
    assert type(profile.cpu.vendor_id) is str
    assert (loaded.origin("cpu.pin.vcpus[3]"), loaded.origin(("disk", 0, "boot"))) == (
        "win7.toml:14", "win7.toml:18"
    )


def test_no_lines_are_counted_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "win7.toml").write_text(TEXT, encoding="utf-8")

    def refuse(text: str) -> None:
        raise AssertionError("lines were counted")

    monkeypatch.setattr("qlaunch.profile.lines.key_lines", refuse)
    loaded = read_profile(tmp_path / "win7.toml")
    with pytest.raises(AssertionError, match="counted"):
        loaded.origin("guest")


def test_the_error_path_is_imported_late(tmp_path: Path) -> None:
    script = (
        "import sys; from qlaunch.profile.read import read_profile;"
        "read_profile(sys.argv[1]);"
        "print([m for m in ('difflib', 'qlaunch.profile.faults')"
        " if m in sys.modules])"
    )
    (tmp_path / "win7.toml").write_text(TEXT, encoding="utf-8")
    words = [sys.executable, "-c", script, str(tmp_path / "win7.toml")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a.b.toml", "a.b"), ("My VM 2.toml", "My VM 2"), ("plain", "plain")],
)
def test_the_name_is_the_files_stem(tmp_path: Path, file: str, expected: str) -> None:
    (tmp_path / file).write_text(BOOT, encoding="utf-8")
    loaded = read_profile(tmp_path / file)
    assert (loaded.profile.name, loaded.origin("name")) == (expected, "")


def test_a_stem_that_is_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a,b.toml"
    path.write_text(BOOT, encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert str(caught.value) == (
        "error: a,b.toml: name: the file's name does not do as the machine's: expected a name of "
        "letters, digits, spaces and . _ + - (at most 63)\n  found:   a,b\n"
        'hint: add name = "…" to the profile'
    )
    path.write_text('name = "ab"\n' + BOOT, encoding="utf-8")
    assert read_profile(path).profile.name == "ab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "/p/a"), ("/a", "/a"), ("./a/../b", "/p/a/../b"), ("~", "/home/me"),
        ("~/a", "/home/me/a"), ("~you/a", "/p/~you/a"), ("a~", "/p/a~"),
        ("${X}", "/x y"), ("${X}/${REL}", "/x y/r"), ("${REL}/a", "/p/r/a"), ("$X/a", "/p/$X/a"),
        ("${X", "/p/${X"), ("${}", "/p/${}"), ("$${X}", "/p/$/x y"), ("${TILDE}", "/p/~"),
        ("${AGAIN}", "/p/${X}"), ("a,b=c", "/p/a,b=c"),
    ],
)
def test_path_expansion(text: str, expected: str) -> None:
    environ = {"X": "/x y", "REL": "r", "TILDE": "~", "AGAIN": "${X}"}
    assert expand_path(text, PathRules(Path("/p"), "/home/me", environ)) == expected


def test_home_is_the_asking_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    from qlaunch.profile.paths import home_directory

    user = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    monkeypatch.setenv("SUDO_UID", str(user.pw_uid))
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert home_directory() == user.pw_dir
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert home_directory() == "/root"


def test_find_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    user, system = tmp_path / "user", tmp_path / "etc"
    directories = (Path(), user, system)
    for directory, names in ((user, ["win7", "both"]), (system, ["deb", "both"])):
        directory.mkdir()
        for name in names:
            (directory / f"{name}.toml").touch()
    (tmp_path / "here.toml").touch()
    (tmp_path / "bare").touch()
    (tmp_path / "user" / "notes.txt").touch()
    for name, text in (  # of other programs
        ("pyproject", '[build-system]\nrequires = []\n[project]\nname = "x"\n'),
        ("ruff", 'line-length = 100\n[lint]\nselect = []\n'),
    ):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    assert profile_names(directories) == ["here", "both", "win7", "deb"]
    assert {
        text: str(find_profile(text, directories))
        for text in ("here", "here.toml", "win7", "both", "deb", "./bare", "bare", "user/win7.toml")
    } == {
        "here": "here.toml", "here.toml": "here.toml", "win7": f"{user}/win7.toml",
        "both": f"{user}/both.toml", "deb": f"{system}/deb.toml", "./bare": "bare",
        "bare": "bare", "user/win7.toml": "user/win7.toml",
    }
    for text, expected in (
        ("wn7", f"wn7: there is no profile of this name in ./, {user}/, {system}/\n"
                "hint: did you mean win7?"),
        ("xyzzy", f"xyzzy: there is no profile of this name in ./, {user}/, {system}/"),
        ("her.toml", "her.toml: there is no such file\nhint: did you mean here?"),
        ("user/win8.toml", "user/win8.toml: there is no such file\nhint: did you mean win7?"),
        ("user", f"user: there is no profile of this name in ./, {user}/, {system}/"),
        ("", f'"": there is no profile of this name in ./, {user}/, {system}/'),
        ("a\0b", f"a\\x00b: there is no profile of this name in ./, {user}/, {system}/"),
    ):
        with pytest.raises(ProfileError) as caught:
            find_profile(text, directories)
        assert str(caught.value).removeprefix("error: ").startswith(expected)


@pytest.mark.parametrize(
    "text", ["", "# todo\n", "name = \"x\"\n", "cpu.cores = 2\n", "  [[ disk ]]\n", "[[disk",
             "[pci]\n[project]\n", "machine = {memory = \"1G\"}\n", "\xff"],
)  # fmt: skip
def test_what_may_be_a_profile_is_offered(text: str, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(text, encoding="latin-1")
    assert profile_names((tmp_path,)) == ["one"]


def test_profile_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    system = Path("/etc/qlaunch")
    assert profile_directories({}) == (Path(), Path("/home/me/.config/qlaunch"), system)
    assert profile_directories({"XDG_CONFIG_HOME": "rel"})[1] == Path("/home/me/.config/qlaunch")
    assert profile_directories({"XDG_CONFIG_HOME": "/c"})[1] == Path("/c/qlaunch")
