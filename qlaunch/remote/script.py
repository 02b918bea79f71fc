"""What the other machine's shell is given to do: two scripts for sh, and how words reach it.

The guard runs as long as we are connected. It finds qlaunch, takes the files we send into a
temporary directory, and says so; then it waits for words on its input: signals for the verb, and
`over` at the end. When the input ends without that, the connection or its user is gone, and the
verb gets the SIGHUP that closing its terminal would have sent. Either way the directory goes.

The verb's script says its pid to the guard and becomes qlaunch. Login shells differ, so that each
script is one line without a single quote, given to sh by shlex.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import join

# Arguments: marker, qlaunch or "", machine, directory or "", whether to send SIGHUP, then a name
# and a size for each file. A pid counts only while its process has our directory's random name
# among its words or variables; root's process, which we may not signal, is ended by its name.
_GUARD = (
    "m=$1 q=$2 n=$3 t=$4 w=$5; shift 5; umask 077; trap \"\" HUP INT TERM PIPE; "
    'case $q in "~/"*) q=$HOME/${q#??};; esac; case $t in "~/"*) t=$HOME/${t#??};; esac; '
    'if [ -z "$q" ]; then for q in qlaunch "$HOME/.local/bin/qlaunch" "$HOME/bin/qlaunch" '
    "/usr/local/bin/qlaunch qlaunch; do "
    'command -v "$q" >/dev/null 2>&1 && break; done; fi; '
    'command -v "$q" >/dev/null 2>&1 || { echo "$m missing $q"; exit 0; }; '
    'v=$("$q" --version 2>&1 </dev/null) || '
    '{ echo "$m broken $(echo "$v" | tail -n 1)"; exit 0; }; '
    'cd "${t:-$HOME}" 2>/dev/null || { echo "$m directory $t"; exit 0; }; '
    'd=$(mktemp -d "${TMPDIR:-/tmp}/qlaunch-XXXXXXXXXX" 2>&1) || '
    '{ echo "$m temporary $d"; exit 0; }; '
    'while [ $# -gt 0 ]; do head -c "$2" >"$d/$1"; '
    '[ "$(wc -c <"$d/$1")" -eq "$2" ] || '
    '{ rm -rf "$d"; echo "$m temporary not all of $1 was stored"; exit 0; }; shift 2; done; '
    'echo "$m qlaunch $q"; echo "$m version $v"; echo "$m directory $PWD"; echo "$m ready $d"; '
    "o=; exec 2>/dev/null; "
    "while read -r s; do case $s in over) o=1; break;; "
    'INT|TERM|HUP) p=; read -r p <"$d/pid"; '
    '[ -z "$p" ] || kill -"$s" "$p" || [ -z "$n" ] || "$q" stop "$n" </dev/null >/dev/null & ;; '
    "esac; done; "
    'mv "$d" "$d.over"; '
    'if [ -z "$o" ] && [ -n "$w" ]; then p=; read -r p <"$d.over/pid"; '
    'if [ -n "$p" ] && cat "/proc/$p/cmdline" "/proc/$p/environ" | '
    'tr "\\000" "\\n" | grep -qF "$d"; then '
    'kill -HUP "$p" || [ -z "$n" ] || "$q" stop "$n" </dev/null >/dev/null; fi; fi; '
    'rm -rf "$d.over"'
)
# Arguments: qlaunch, the temporary directory, the working directory, what follows `qlaunch on`
# here, for hints (cli/command.py); the verb and its words.
_VERB = (
    'q=$1 d=$2 v=$4; cd "$3" || exit 1; shift 4; '
    '{ echo $$ >"$d/pid"; } 2>/dev/null || exit 255; '
    'QLAUNCH_ON=$d QLAUNCH_VIA=$v; export QLAUNCH_ON QLAUNCH_VIA; exec "$q" "$@"'
)


def guard_command(
    marker: str, qlaunch: str, machine: str, directory: str, *, hang_up: bool,
    files: Sequence[tuple[str, int]] = (),
) -> str:
    """The guard's command line, for the login shell of the other machine."""
    sizes = [word for name, size in files for word in (name, str(size))]
    return _sh(_GUARD, marker, qlaunch, machine, directory, "1" if hang_up else "", *sizes)


def verb_command(
    qlaunch: str, temporary: str, directory: str, words: Sequence[str], via: str = ""
) -> str:
    """The verb's command line, for the login shell of the other machine."""
    return _sh(_VERB, qlaunch, temporary, directory, via, *words)


def _sh(script: str, *arguments: str) -> str:
    return "exec " + join(["sh", "-c", script, "qlaunch-on", *arguments])
