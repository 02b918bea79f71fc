"""Every verb as it is mistyped, asked for help, and made to speak JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path

import pytest

from qlaunch.cli.main import VERBS
from tests.fake.typed import Type, typing

TOP = Path(__file__).parents[2]
FACTS = str(TOP / "tests/data/facts/fx8120.json")
WIN7 = str(TOP / "profiles/win7.toml")


@pytest.fixture
def typed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Type:
    monkeypatch.chdir(tmp_path)
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("qlaunch.cli.base.runtime_root", lambda *_: str(tmp_path / "run"))
    return typing(capfd)


# -- usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_fits_and_has_an_example(typed: Type, verb: str) -> None:
    found = typed(verb, "--help")
    assert (found.code, found.err) == (0, "")
    assert f"example:\n  qlaunch {verb}" in found.out
    assert [line for line in found.out.splitlines() if len(line) > 80] == []
    module = importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    for action in parser._actions:
        assert action.help, action.dest


def test_the_help_of_all_verbs(typed: Type) -> None:
    for words in (("--help",), ("-h",), ("help",)):
        found = typed(*words)
        assert (found.code, found.err) == (0, "")
        assert all(f"\n  {verb} " in found.out for verb in VERBS)
        assert [line for line in found.out.splitlines() if len(line) > 80] == []
    assert typed().code == 2
    assert typed("--version").out.startswith("qlaunch ")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_an_option_that_there_is_not(typed: Type, verb: str) -> None:
    words = ["x"] if verb not in ("ps", "facts", "schema", "doctor", "new") else []
    words += ["y"] if verb in ("attach", "detach", "rom") else []
    words = ["--nonsense", "x", "ps"] if verb == "on" else [*words, "--nonsense"]
    found = typed(verb, *words)
    assert (found.code, found.out, len(found.faults())) == (2, "", 1)
    assert "unrecognized arguments: --nonsense" in found.err
    assert f"qlaunch {verb} --help\n" in found.err.partition("hint: ")[2]


def test_the_option_that_was_meant(typed: Type) -> None:
    assert "hint: did you mean --detach?" in typed("run", "x", "--detatch").err
    assert "hint: did you mean --json?" in typed("ps", "--jsn").err


@pytest.mark.parametrize(
    "verb", ["run", "plan", "argv", "check", "bind", "unbind", "status", "stop", "logs", "recover"]
)
def test_a_verb_without_its_argument(typed: Type, verb: str) -> None:
    found = typed(verb)
    assert (found.code, found.out, len(found.faults())) == (2, "", 1)
    assert "hint: " in found.err


def test_a_missing_argument_is_called_as_in_the_help(typed: Type) -> None:
    assert "arguments are required: SHELL\n" in typed("completion").err


@pytest.mark.parametrize(
    ("word", "hint"),
    [("nonsense", "qlaunch --help lists the verbs"), ("rnu", "did you mean run?"),
     ("--nonsense", "qlaunch --help lists the verbs"), ("", "qlaunch --help lists the verbs"),
     ("device", "did you mean devices?")],
)  # fmt: skip
def test_a_verb_that_there_is_not(typed: Type, word: str, hint: str) -> None:
    found = typed(word)
    assert (found.code, found.out) == (2, "")
    assert found.faults() == ["error: qlaunch: there is no such verb"]
    assert f"hint: {hint}\n" in found.err


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        ("status gone", "no machine gone runs or left something behind", 1),
        ("stop gone", "no machine gone runs or left something behind", 1),
        ("recover gone", "no machine gone runs or left something behind", 1),
        ("logs gone", "gone has no log", 1),
        ("status größe", "this cannot be a machine's name", 2),
        ("stop ../..", "this cannot be a machine's name", 2),
        ("logs .claims", "this cannot be a machine's name", 2),
        ("recover", "name one machine, or say --all", 2),
        ("recover x --all", "name one machine, or say --all", 2),
        ("stop x --timeout soon", "--timeout takes a duration", 2),
        ("stop x --now --force", "not allowed with argument", 2),
        ("logs x -n many", "a number is wanted", 2),
        ("logs x -n -5", "--lines takes a number of lines", 2),
        ("argv x --json --oneline", "not allowed with argument", 2),
        (f"devices --facts {FACTS} zz", "this is no PCI address", 2),
        (f"devices --facts {FACTS} 99:00.0", "this host has no such PCI device", 2),
    ],
)
def test_arguments_that_cannot_be(typed: Type, words: str, says: str, code: int) -> None:
    found = typed(*words.split(" "))
    assert (found.code, found.out, len(found.faults())) == (code, "", 1), found
    assert says in found.err
    assert "\nhint: " in found.err


@pytest.mark.skipif(os.geteuid() != 0, reason="others are told that root is needed")
def test_bind_of_what_is_no_device(typed: Type) -> None:
    for verb in ("bind", "unbind"):
        found = typed(verb, "zz", "1:2")
        assert (found.code, len(found.faults())) == (2, 2)
        found = typed(verb, "ff:1f.7", "ff:1f.7")
        assert (found.code, len(found.faults())) == (2, 1)
        assert "0000:ff:1f.7: this host has no such PCI device\nhint: " in found.err


def test_recover_all_of_nothing_says_so(typed: Type) -> None:
    found = typed("recover", "--all")
    assert (found.code, found.out) == (0, "")
    assert found.err.strip()


# -- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("ps",), ("plan", WIN7, "--facts", FACTS), ("argv", WIN7, "--facts", FACTS),
     ("check", WIN7, "--facts", FACTS), ("devices", "--facts", FACTS), ("schema",),
     ("devices", "--cards", "--facts", FACTS), ("doctor", "--facts", FACTS)],
    ids=lambda w: w[0],
)  # fmt: skip
def test_json_is_json_and_nothing_else(typed: Type, words: tuple[str, ...]) -> None:
    json_word = () if words == ("schema",) else ("--json",)
    found = typed(*words, *json_word)
    assert json.loads(found.out) is not None
    assert found.out.endswith("\n")
    assert found.code == 0


def test_json_of_faults(typed: Type) -> None:
    wrong = ("--set", 'pci=[{device="09:00.0"}]')
    checked = typed("check", WIN7, "--facts", FACTS, *wrong, "--json")
    assert checked.code == 1
    said = json.loads(checked.out)
    assert said["runs"] is False
    assert [p["message"] for p in said["problems"] if p["severity"] == "error"] == [
        "this host has no such PCI device"
    ]
    assert checked.err == ""
    planned = typed("plan", WIN7, "--facts", FACTS, *wrong, "--json")
    assert "error" in [p["severity"] for p in json.loads(planned.out)["problems"]]


def test_plan_diff(typed: Type, tmp_path: Path) -> None:
    facts = ("--facts", FACTS)
    assert typed("plan", WIN7, *facts, "--diff", WIN7).out == "no difference\n"
    more = typed("plan", WIN7, *facts, "--diff", WIN7, "--set", "cpu.cores=2").out
    assert "--smp 1," in more
    assert "+-smp 2," in more
    found = typed("plan", WIN7, *facts, "--diff", "nope")
    assert (found.code, found.out) == (2, "")
    assert "nope: there is no profile of this name" in found.err


def test_names_with_spaces(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "my vm.toml").write_text('[[disk]]\nfile = "a b,c.img"\n')
    for name in ("my vm", "my vm.toml", str(tmp_path / "my vm.toml")):
        found = typed("argv", name, "--facts", FACTS)
        assert "'guest=my vm,debug-threads=on'" in found.out
        assert "a b,,c.img'" in found.out
    (tmp_path / "größe.toml").write_text('[[disk]]\nfile = "x"\n')
    found = typed("check", "größe", "--facts", FACTS)
    assert found.code == 2
    assert 'hint: add name = "…" to the profile' in found.err


def test_a_profile_given_by_name(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/qlaunch").mkdir(parents=True)
    (tmp_path / "config/qlaunch/there.toml").write_text('[[disk]]\nfile = "/x"\n')
    assert "guest=there" in typed("argv", "there", "--facts", FACTS).out
    assert "hint: did you mean there?" in typed("argv", "their", "--facts", FACTS).err


@pytest.mark.parametrize(
    "words",
    ["sendkey gone --hold 2000 f8", "console gone --escape ^A serial1", "media gone --json show",
     "screenshot gone --head 1 x.png", "devices --cards 01:00.0 --facts /gone"],
)  # fmt: skip
def test_options_stand_anywhere(typed: Type, words: str) -> None:
    assert "unrecognized" not in typed(*words.split()).err


def test_a_value_that_there_is_not(typed: Type) -> None:
    found = typed("top", "--sort", "cpus")
    assert found.err == (
        "error: qlaunch top --sort: there is no such choice\n  found:   cpus\n"
        "  allowed: name, cpu, memory\nhint: did you mean cpu?\n"
    )
    found = typed("sendkey", "x", "--hold", "long", "a")
    assert found.err == ("error: qlaunch sendkey --hold: a number is wanted\n  found:   long\n"
                         "hint: qlaunch sendkey --help\n")
    found = typed("devices", "--cards", "--jsn", "01:00.0")
    assert (found.code, "hint: did you mean --json?" in found.err) == (2, True)
