#!/bin/sh
# Makes the freshly booted lab host look like a host in use: its devices have their drivers.
# Needed where udev is not installed; where it is, this finds everything loaded.
# Arguments: modules.
modprobe -a "$@"
if command -v udevadm >/dev/null && [ -S /run/udev/control ]; then
    udevadm settle --timeout=30
fi
# On the console from here on: only what the tests print.
dmesg -n 1
