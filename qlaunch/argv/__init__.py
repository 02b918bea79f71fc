"""QEMU's language: a plan becomes options, and options become the argument vector."""
