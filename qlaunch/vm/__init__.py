"""QEMU itself: start it, speak to it, pin its threads, watch it and end it."""
