# Sourced by contrib/check and contrib/demo: system packages where they are missing, and the
# virtual environment in .venv. Quick when there is nothing to do.

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$top" || exit 1

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# packages DEBIAN-NAMES: install those that are missing; elsewhere name them and stop.
packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        missing_elsewhere
        return
    fi
    missing=''
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $name"
    done
    [ -z "$missing" ] && return
    echo "installing:$missing" >&2
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
        echo "error: root is needed to install:$missing" >&2
        echo "hint: run this as root, or install them yourself" >&2
        exit 1
    fi
    as_root apt-get update -q >&2
    # shellcheck disable=SC2086 # one word a package
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing >&2 || exit 1
}

missing_elsewhere() {
    for tool in $tools; do
        command -v "$tool" >/dev/null 2>&1 && continue
        # shellcheck disable=SC1091
        id=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}")
        case "$id" in
        *fedora* | *rhel*) say="dnf install $fedora" ;;
        *arch*) say="pacman -S $arch" ;;
        *suse*) say="zypper install $suse" ;;
        *) say="your distribution's packages of: $fedora" ;;
        esac
        echo "error: $tool is missing, and only Debian and Ubuntu are set up by this script" >&2
        echo "hint: $say" >&2
        exit 1
    done
}

# environment EXTRA: .venv with qlaunch and its dependencies, made again when pyproject.toml changes.
environment() {
    stamp=".venv/.qlaunch-$1"
    if [ ! -x .venv/bin/python ]; then
        python3 -m venv .venv || exit 1
    fi
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "installing Python packages into .venv" >&2
        # compat: a line in a .pth file; the other kind imports a finder at each start, for 12 ms.
        .venv/bin/python -m pip install -q --disable-pip-version-check \
            --config-settings editable_mode=compat -e ".$1" >&2 || exit 1
        touch "$stamp"
    fi
}
