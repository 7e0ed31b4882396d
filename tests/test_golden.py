"""Every golden case, every expected tensor, at the case's own tolerance.

Cases are found in ``MMGEN_GOLDEN`` (default tests/golden) as <system>/<case>. A system's runner
``golden_<system>.py`` says how a case's tensors are obtained from the library; a case without a
runner or an expected tensor that the runner does not return is a failure.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(os.environ.get("MMGEN_GOLDEN", Path(__file__).parent / "golden"))
CASES = sorted(path.parent for path in ROOT.glob("*/*/config.json"))


@dataclass
class Case:
    folder: Path

    def __post_init__(self):
        self.spec = json.loads((self.folder / "config.json").read_text("utf-8"))
        tensors = load_io(self.folder)
        self.inputs = {k[6:]: v for k, v in tensors.items() if k.startswith("input.")}
        self.expected = {k[7:]: v for k, v in tensors.items() if k.startswith("expect.")}
        self.noise = {k[6:]: v for k, v in tensors.items() if k.startswith("noise.")}
        # What a recorded run did on the way, fed in again and compared by its runner.
        self.recorded = {k: v for k, v in tensors.items() if re.match(r"iter\d+\.", k)}
        parts = (self.inputs, self.expected, self.noise, self.recorded)
        known = sum(map(len, parts))
        assert known == len(tensors), "tensors of unknown kind"


def load_io(folder: Path) -> dict[str, torch.Tensor]:
    """Inputs and expected tensors; a case of a file format has its weights as the expected ones."""
    path = folder / "io.safetensors"
    if path.is_file():
        return load_file(path)
    weights = load_file(folder / "weights.safetensors")
    return {f"expect.{name}": tensor for name, tensor in weights.items()}


def test_there_are_cases():
    assert CASES, f"no golden cases in {ROOT}"


@pytest.mark.parametrize("folder", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_golden(folder: Path, monkeypatch):
    runner = importlib.import_module(f"golden_{folder.parent.name.replace('-', '_')}")
    case = Case(folder)
    actual = runner.run(case, monkeypatch)
    problems = []
    for name, expected in case.expected.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in runner.LEFT_OUT):
            continue
        if name not in actual:
            problems.append(f"{name}: not computed")
            continue
        try:
            compare(actual[name], expected, *runner.tolerance(case, name))
        except AssertionError as error:
            problems.append(f"{name}: {' '.join(str(error).split())[:300]}")
    assert not problems, "\n".join([f"{len(problems)} of {len(case.expected)}", *problems])


def compare(actual: torch.Tensor, expected: torch.Tensor, atol: float, rtol: float) -> None:
    if not expected.is_floating_point():
        atol = rtol = 0
    actual = actual.to(expected.dtype)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, equal_nan=False)
