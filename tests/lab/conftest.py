"""Keeps the tests that need the lab's hardware from being collected outside of it."""

from __future__ import annotations

import os

collect_ignore = [] if "QLAUNCH_LAB_INSIDE" in os.environ else ["inside"]
