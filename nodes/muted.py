"""Keeping one expected warning out of the host's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def muted(text: str) -> Iterator[None]:
    """Records of the root logger whose message contains ``text`` are not shown meanwhile."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
