"""Completion for shells: the candidates for a word, and the few lines by which
bash, zsh and fish ask for them.

The candidates are made from the verbs' own options, so no list has to be kept
beside them; profiles, running machines and PCI addresses are looked up.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator, Sequence

from qlaunch.cli.text import write
from qlaunch.errors import EXIT_OK, Problem, UsageError

EXAMPLE = """\
example:
  qlaunch completion bash > ~/.local/share/bash-completion/completions/qlaunch
  qlaunch completion zsh > ~/.zfunc/_qlaunch       with ~/.zfunc in fpath
  qlaunch completion fish > ~/.config/fish/completions/qlaunch.fish
"""
# bash splits words at : and =, and inserts what it gets as it is.
_BASH = """\
_qlaunch() {
    local words=() word prefix i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        if ((i > 1)) && [[ ${COMP_WORDS[i]} == [:=]* || ${COMP_WORDS[i - 1]} == *[:=] ]]; then
            words[${#words[@]} - 1]+=${COMP_WORDS[i]}
        else
            words+=("${COMP_WORDS[i]}")
        fi
    done
    word=${words[${#words[@]} - 1]}
    prefix=${word%"${word##*[:=]}"}
    mapfile -t COMPREPLY < <(qlaunch completion words -- "${words[@]}" 2>/dev/null)
    if [[ ${COMPREPLY[0]} == '<files>' ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
        compopt -o filenames
        return
    fi
    for i in "${!COMPREPLY[@]}"; do
        printf -v "COMPREPLY[i]" %q "${COMPREPLY[i]#"$prefix"}"
    done
}
complete -F _qlaunch qlaunch
"""
_ZSH = """\
#compdef qlaunch
local -a found
found=("${(@f)$(qlaunch completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
if [[ $found[1] == '<files>' ]]; then
    _files
elif [[ -n $found[1] ]]; then
    compadd -- $found
fi
"""
_FISH = """\
function __qlaunch_words
    set -l words (commandline -opc) (commandline -ct)
    set -l found (qlaunch completion words -- $words[2..-1] 2>/dev/null)
    if test "$found[1]" = '<files>'
        __fish_complete_path (commandline -ct)
    else
        printf "%s\\n" $found
    end
end
complete -c qlaunch -f -a '(__qlaunch_words)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
# metavar → (a word of the argument's help, its values)
_WORDS = {
    "ACTION": (
        ("create or remove", ("create", "remove")),
        ("setup, revert", ("setup", "revert", "show")),
        ("install, remove", ("install", "remove", "list")), ("", ()),
    ),
    "SHELL": (("", tuple(_SCRIPTS)),),
}
FILES = "<files>"  # let the shell complete a file's name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to print."""
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
    rest = parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest.required = False  # else it would be told of as missing


def run(args: argparse.Namespace) -> int:
    """Print a script, or the candidates for the last of the words, one a line."""
    if args.words and args.shell != "words":
        raise UsageError(Problem(f"unrecognized arguments: {' '.join(args.words)}",
                                 where="qlaunch completion", hint="qlaunch completion --help"))
    if args.shell in _SCRIPTS:
        write(_SCRIPTS[args.shell])
        return EXIT_OK
    if args.shell != "words":
        raise UsageError(
            Problem("this shell is not known", found=args.shell, allowed=", ".join(_SCRIPTS),
                    hint="qlaunch completion --help")
        )
    words = args.words[args.words[:1] == ["--"] :]
    write("".join(f"{found}\n" for found in candidates(words or [""])))
    return EXIT_OK


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after `qlaunch` may become."""
    from qlaunch.cli.main import VERBS

    *before, word = words
    if not before:
        return [verb for verb in VERBS if verb.startswith(word)]
    if before[0] not in VERBS:
        return []
    parser = argparse.ArgumentParser(add_help=True)
    importlib.import_module(f"qlaunch.cli.{VERBS[before[0]][0]}").add_arguments(parser)
    found = list(dict.fromkeys(_of_verb(parser, before, word)))
    return [each for each in found if each.startswith(word) or each == FILES]


def _of_verb(parser: argparse.ArgumentParser, before: Sequence[str], word: str) -> Iterator[str]:
    options = {name: action for action in parser._actions for name in action.option_strings}
    last = options.get(before[-1])
    if last is not None and last.nargs != 0:
        yield from _values(last, word)
    elif word.startswith("-"):
        yield from options
    else:
        yield from _positional(parser, options, before, word)


def _positional(
    parser: argparse.ArgumentParser, options: dict[str, argparse.Action], before: Sequence[str],
    word: str,
) -> Iterator[str]:
    """Values of the next argument without a dash; of the last one, when it may be repeated."""
    given, skip = 0, False
    for each in before[1:]:
        action = options.get(each)
        given += not skip and action is None and not each.startswith("-")
        skip = action is not None and action.nargs != 0
    places = [action for action in parser._actions if not action.option_strings]
    if not places or (given >= len(places) and places[-1].nargs not in ("*", "+")):
        return
    yield from _values(places[min(given, len(places) - 1)], word)


def _values(action: argparse.Action, word: str) -> Iterator[str]:
    if action.choices is not None:
        yield from map(str, action.choices)
        return
    kind = str(action.metavar or action.dest).upper()
    if kind in _WORDS:
        yield from next(w for verbs, w in _WORDS[kind] if verbs in (action.help or ""))
    elif kind.startswith("PROFILE"):
        from qlaunch.profile.find import profile_names

        yield from [FILES] if "/" in word else profile_names() or [FILES]
    elif kind == "NAME":
        yield from _machines()
    elif kind.startswith(("ADDRESS", "DEVICE", "PARENT")):
        yield from sorted(entry.removeprefix("0000:") for entry in _listed("/sys/bus/pci/devices"))
    elif "FILE" in kind or "DIR" in kind:
        yield FILES


def _machines() -> Iterator[str]:
    from qlaunch.cli.base import runtime_base
    from qlaunch.cli.known import machines_of_root
    from qlaunch.run.info import machine_names

    yield from machine_names(runtime_base())
    yield from machines_of_root()


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []
