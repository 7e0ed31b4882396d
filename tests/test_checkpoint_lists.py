"""Every public file is recognised by names and shapes alone, and its module takes its tensors.

Lists are found in ``MMGEN_CHECKPOINT_LISTS`` (default tests/checkpoints), one per system.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen_core.checkpoints import Checkpoint
from mmgen_core.systems import identify

ROOT = Path(os.environ.get("MMGEN_CHECKPOINT_LISTS", Path(__file__).parent / "checkpoints"))


def files() -> list:
    entries = []
    for path in sorted(ROOT.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        by_name = {e[key]: e for key in ("variant", "file") for e in content["files"] if key in e}
        for entry in content["files"]:
            tensors = entry.get("tensors") or by_name[entry["same_tensors_as"]]["tensors"]
            tensors = of_all_parts(entry["file"], tensors)
            name = f"{path.stem}/{entry['file']}"
            entries.append(pytest.param(content["system"], entry, tensors, id=name))
    return entries


def of_all_parts(file: str, tensors: dict) -> dict:
    """The tensors of model-parallel files, which lists give for one part ("x.{00..03}.pth"),
    named as reading them all together names them."""
    found = re.fullmatch(r".*consolidated\.\{(\d\d)\.\.(\d\d)\}\.pth", file)
    if found is None:
        return tensors
    ranks = range(int(found[1]), int(found[2]) + 1)
    return {f"rank{rank:02}.{name}": shape for rank in ranks for name, shape in tensors.items()}


def test_there_are_lists():
    assert files(), f"no checkpoint lists in {ROOT}"


@pytest.mark.parametrize(("system", "entry", "tensors"), files())
def test_public_file(system: str, entry: dict, tensors: dict):
    integers = set(entry.get("non_float_keys", []))
    checkpoint = Checkpoint(
        Path(entry["file"]),
        {
            name: torch.empty(
                shape, device="meta", dtype=torch.int64 if name in integers else torch.float32
            )
            for name, shape in tensors.items()
        },
    )
    match = identify(checkpoint)
    sizes_of(system)(entry, match.params)
    module = match.architecture.module(match.params, torch.float32, "meta")
    state = match.architecture.state_dict(checkpoint.tensors, match.params)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected
    assert all(match.architecture.ignored.values()), "an ignored tensor needs its reason"


def sizes_of(system: str) -> Callable[[dict, Any], None]:
    """The system's check that the recognised sizes are those of the file's published config:
    ``check`` of sizes_<system>.py."""
    return importlib.import_module(f"sizes_{system.replace('-', '_')}").check
