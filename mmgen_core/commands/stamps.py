"""Finished steps leave a stamp with a hash of what they were made from; others are redone."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def key_of(*parts: object) -> str:
    """A hash of everything a step's result depends on."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def is_done(stamp: Path, key: str) -> bool:
    """Whether the step with this stamp file was finished from the same things."""
    try:
        return json.loads(stamp.read_text(encoding="utf-8")).get("key") == key
    except (OSError, ValueError, AttributeError):
        return False


def mark_done(stamp: Path, key: str) -> None:
    """Writes the stamp in one go, so that a half-written one cannot exist."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    fresh = stamp.with_name(stamp.name + ".new")
    fresh.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
    os.replace(fresh, stamp)


def forget(stamp: Path) -> None:
    """Takes the stamp away before a step begins: an interrupted step is redone."""
    stamp.unlink(missing_ok=True)
