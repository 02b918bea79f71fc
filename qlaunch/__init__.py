"""qlaunch: TOML profile in, QEMU with a passed-through card out, and the card back afterwards."""

__version__ = "0.1.0"
