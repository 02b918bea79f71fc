"""What a profile says reaches QEMU as it was written: parsed back by a model of QEMU's own parsers.

Most options are split at commas, a doubled comma being a literal one (get_opt_value(),
util/qemu-option.c; keyval_parse_one(), util/keyval.c); -bios and -uuid are taken whole, and -set
up to three dots and an equals sign (qemu_set_option(), softmmu/vl.c).
"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.argv.option import option, spell
from qlaunch.argv.render import plan_options, render_argv
from qlaunch.errors import UsageError
from qlaunch.facts.model import HostFile
from tests.fake.plans import ROOT, host, planned

WHOLE = {"-bios", "-uuid", "-set"}
SELF = type(ROOT)(root=True, uid=65534, gid=65534, name="nobody")


def parse(text: str) -> list[tuple[str, str]]:
    """QEMU's splitting: (key, value) pairs, "" for a word without an equals sign."""
    words, at = [""], 0
    while at < len(text):
        if text[at] == "," and text[at + 1 : at + 2] == ",":
            words[-1] += ","
            at += 1
        elif text[at] == ",":
            words.append("")
        else:
            words[-1] += text[at]
        at += 1
    return [(k, v) if eq else ("", k) for k, eq, v in (w.partition("=") for w in words)]


def options(argv: list[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(flag, pairs) of a command line."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for word in argv[1:]:
        if word.startswith("-") and (not found or found[-1][1] or re.fullmatch(r"-[a-z-]+", word)):
            found.append((word, []))
        elif found[-1][0] in WHOLE:
            found[-1][1].append(("", word))
        else:
            found[-1][1].extend(parse(word))
    return found


def value(argv: list[str], flag: str, key: str, *, having: str = "") -> list[str]:
    """All values of a key of all options of a flag that have a word."""
    return [
        v for f, pairs in options(argv) if f == flag and (not having or ("", having) in pairs)
        for k, v in pairs if k == key
    ]


plain = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30
) | st.text(",= ün\\'\"%:", min_size=1, max_size=12)
paths = plain.map(lambda text: "/" + text)
MAP = str.maketrans({"\\": "\\\\", '"': '\\"'})


def toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@settings(max_examples=150, deadline=None)
@given(paths, paths, paths, paths, plain)
def test_texts_reach_qemu_as_written(disk: str, rom: str, bios: str, table: str, more: str) -> None:
    text = f"""
[machine]
bios = {toml(bios)}
acpi_tables = [{{ file = {toml(table)} }}]
fw_cfg = {{ "opt/a,b=c" = {toml(more)} }}
[qemu]
set = {{ "disk0.x" = {toml(more)} }}
[[disk]]
file = {toml(disk)}
[[pci]]
device = "04:00.0"
rom = {toml(rom)}
[[serial]]
type = "file"
file = {toml(table)}
"""
    argv = render_argv(planned(text, host(invoker=None)))
    assert value(argv, "-blockdev", "file.filename") == [disk]
    assert value(argv, "-device", "romfile") == [rom]
    assert value(argv, "-acpitable", "file") == [table]
    assert value(argv, "-chardev", "path") == [table]
    assert value(argv, "-fw_cfg", "name") == ["opt/a,b=c"]
    assert value(argv, "-fw_cfg", "string") == [more]
    assert argv[argv.index("-bios") + 1] == bios
    assert argv[argv.index("-set") + 1] == f"device.disk0.x={more}"
    # and nothing slipped in beside them
    known = {"driver", "node-name", "file.driver", "file.filename"}
    assert {k for f, pairs in options(argv) if f == "-blockdev" for k, _ in pairs} == known


@settings(max_examples=50, deadline=None)
@given(paths)
def test_a_file_that_root_opens_keeps_its_name(path: str) -> None:
    locked = HostFile(path=path, kind="file", readable=False, writable=False)
    facts = host(files=(locked,), invoker=SELF)
    argv = render_argv(planned(f"[[disk]]\nfile = {toml(path)}\n", facts))
    assert value(argv, "-add-fd", "opaque") == [path]
    assert value(argv, "-blockdev", "file.filename") == ["/dev/fdset/103"]


@given(st.text(max_size=20), st.sampled_from(["", "key"]))
def test_spell_and_parse_are_inverse_or_refuse(text: str, key: str) -> None:
    control = any(ord(c) < 32 or ord(c) == 127 for c in text)
    if control:
        with pytest.raises(UsageError) as caught:
            spell(key, text)
        assert caught.value.exit_code == 2
        assert repr(text) in caught.value.problems[0].found
        return
    (pair,) = parse(spell("key", text))
    assert pair == ("key", text)


@pytest.mark.parametrize("bad", ["a\nb", "\0", "tab\t", "\x7f", "\x1b[31m"])
def test_control_characters_are_refused_wherever_they_are(bad: str) -> None:
    for text in (
        f"[[disk]]\nfile = {toml('/' + bad)}\n",
        f"[machine]\nbios = {toml('/' + bad)}\n",
        f'[qemu]\nset = {{ "a.b" = {toml(bad)} }}\n',
    ):
        with pytest.raises(UsageError):
            render_argv(planned(text, host(invoker=None)))


def test_words_numbers_and_switches() -> None:
    built = option("-device", "x,y", why="k", on_off=True, off=False, number=3, nothing=None)
    assert built.words == ("-device", "x,,y,on-off=on,off=off,number=3")
    assert built.why == "k"
    assert option("-nodefaults").words == ("-nodefaults",)
    argv = render_argv(planned('[qemu]\nset = { "a.b" = true, "a.c" = 3 }\n'))
    assert [argv[i + 1] for i, w in enumerate(argv) if w == "-set"] == [
        "device.a.b=on", "device.a.c=3",
    ]


def test_raw_arguments_come_last_and_verbatim() -> None:
    plan = planned('[qemu]\nargs = ["-x", "a,b", ""]\n')
    assert render_argv(plan)[-3:] == ["-x", "a,b", ""]
    assert [o.why for o in plan_options(plan)][-3:] == ["qemu.args"] * 3


def test_every_option_has_a_reason() -> None:
    text = """
[machine]
hugepages = true
boot_menu = true
[balloon]
[[disk]]
file = "/x"
iothread = true
cache = "none"
discard = true
[[net]]
user = { forward = ["tcp:2222:22"], restrict = true, hostname = "h" }
[[controller]]
type = "ahci"
[display]
type = "spice"
vga = "std"
[[serial]]
type = "socket"
[[serial]]
type = "stdio"
"""
    assert all(o.why for o in plan_options(planned(text)))


@pytest.mark.parametrize(
    ("display", "spawn"), [("gtk", "allow"), ("sdl", "allow"), ("none", "deny")]
)
def test_a_window_may_start_helpers_and_nothing_else_may(display: str, spawn: str) -> None:
    """GTK starts dbus-launch; under spawn=deny QEMU dies of SIGSYS before its window opens."""
    argv = render_argv(planned(f'[display]\ntype = "{display}"\n'))
    assert value(argv, "-sandbox", "spawn") == [spawn]
    assert value(argv, "-sandbox", "elevateprivileges") == ["deny"]


def test_what_a_reboot_and_a_crash_do() -> None:
    argv = render_argv(planned('[stop]\non_reboot = "shutdown"\non_crash = "pause"\n'))
    assert [argv[i + 1] for i, w in enumerate(argv) if w == "-action"] == [
        "reboot=shutdown", "panic=pause",
    ]
    assert "-action" not in render_argv(planned(""))
