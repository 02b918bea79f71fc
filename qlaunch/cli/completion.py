"""Completion for shells: the candidates for a word, and the few lines by which
bash, zsh and fish ask for them.

Verbs, options and what they can be are known, and what there is here is looked
up: profiles, machines and their devices, PCI addresses, ssh's hosts.
"""

from __future__ import annotations

import argparse

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
    from qlaunch.cli.candidates import candidates

    words = args.words[args.words[:1] == ["--"] :]
    write("".join(f"{found}\n" for found in candidates(words or [""])))
    return EXIT_OK
