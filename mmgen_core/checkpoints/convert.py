"""What a file is, in words; and pickles rewritten as safetensors, once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..systems import identify
from .files import CheckpointError, read_checkpoint


def describe(path: str | Path) -> dict[str, Any]:
    """System, sizes, licence and tensor counts of a checkpoint, as flat rows of a table."""
    checkpoint = read_checkpoint(path)
    match = identify(checkpoint)
    tensors = checkpoint.tensors.values()
    return {
        "file": str(checkpoint.path),
        "is": match.architecture.name,
        "loads as": match.architecture.kind,
        "licence of the public weights": match.architecture.licence,
        "public weights": match.architecture.origin,
        "tensors": len(checkpoint.tensors),
        "values": sum(t.numel() for t in tensors),
        "dtypes": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors})),
        **_flat(asdict(match.params)),
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sizes side by side; a name that is taken gets its part's in front."""
    rows = {}
    for part, value in values.items():
        inner = _flat(value) if isinstance(value, Mapping) else {part: value}
        rows |= {f"{part} {name}" if name in rows else name: v for name, v in inner.items()}
    return rows


def convert_checkpoint(source: str | Path, target: str | Path) -> None:
    """Rewrite a recognised checkpoint as safetensors, in its published key layout.

    The target appears only when complete, and an existing file is never replaced.

    Raises:
        CheckpointError: the source cannot be read or recognised, or the target exists.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target} must end with .safetensors.")
    if target.exists():
        raise CheckpointError(f"{target} exists already; it was left as it is.")
    checkpoint = read_checkpoint(source)
    identify(checkpoint)
    metadata = {"config": json.dumps(checkpoint.config)} if checkpoint.config else None
    write_safetensors(checkpoint.tensors, target, metadata)


def write_safetensors(
    tensors: Mapping[str, Tensor], target: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a file under another name first, so that a half-written one is never seen."""
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(unshared(tensors), partial, metadata)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a pickle may share memory, which the format does not allow; only those that do
    are copied, so that a mapped file need not fit into memory."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return own
