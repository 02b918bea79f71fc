#!/bin/sh
# Builds the kernel's own sample mediated devices (mdpy, mbochs, mtty), and the driver that a guest
# has for mdpy's screen, for the packaged kernel that the lab boots: distributions do not ship them.
# They are real ones, with types and instance limits, and need no hardware. Built where they are
# used and never committed.
# Arguments: the kernel's release, the directory for the modules.
# Needs: linux-source, linux-headers of that release, gcc, make.
set -eu
release=$1
out=$2
headers=/usr/src/linux-headers-$release
samples="mdpy mdpy-fb mbochs mtty"

missing() {
    echo "samples.sh: $1: apt install linux-source linux-headers-$release gcc make" >&2
    exit 3
}

[ -d "$headers" ] || missing "no $headers"
if [ "$(cat "$out/release" 2>/dev/null)" = "$release" ]; then
    exit 0
fi
# linux-source-6.1.tar.xz, of the same series as the kernel
series=$(echo "$release" | cut -d. -f1,2)
source=$(ls /usr/src/linux-source-"$series"*.tar.* 2>/dev/null | head -n 1)
[ -n "$source" ] || missing "no /usr/src/linux-source-$series.tar.*"
command -v gcc >/dev/null && command -v make >/dev/null || missing "no compiler"

mkdir -p "$out"
rm -f "$out/release"
# The font is what a guest's text on such a screen is read by.
tar -xf "$source" -C "$out" --strip-components=3 --wildcards \
    '*/samples/vfio-mdev/*' '*/lib/fonts/font_8x16.c'
{
    printf 'obj-m :='
    for name in $samples; do printf ' %s.o' "$name"; done
    printf '\n'
} > "$out/Makefile"
make -s -C "$headers" M="$out" modules >&2
echo "$release" > "$out/release"
