"""Ruff's rules of pyproject.toml hold everywhere."""

from __future__ import annotations

import subprocess
import sys

from mmgen_core.commands.places import ROOT


def test_ruff_finds_nothing():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
