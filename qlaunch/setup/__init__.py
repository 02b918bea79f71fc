"""Preparing the host for passthrough, once: kernel parameters, drop-ins, access without root."""
