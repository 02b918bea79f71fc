#!/bin/sh
# Makes the freshly booted lab host look like a host in use: its devices have their drivers.
# Needed where udev is not installed; where it is, this finds everything loaded.
# Arguments: the result directory, modules.
results=$1
shift

# What is read again and again goes into memory (tests/lab/hot.py says why).
hot=/run/qlaunch-hot
mkdir -p "$hot"
mount -t tmpfs -o size=1G,mode=755 tmpfs "$hot"
tar -xf "$results/hot.tar" -C "$hot"
while read -r path; do
    mount --bind "$hot$path" "$path"
done < "$results/hot.list"

modprobe -a "$@"
if command -v udevadm >/dev/null && [ -S /run/udev/control ]; then
    udevadm settle --timeout=30
fi
# On the console from here on: only what the tests print.
dmesg -n 1
