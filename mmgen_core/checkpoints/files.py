"""Reading checkpoint files: safetensors (single or sharded), pickles without their code, and JAX
archives (msgpack)."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .msgpack import MsgpackError, read_msgpack, starts_like_msgpack

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
INDEX_SUFFIX, PICKLE_INDEX_SUFFIX = ".safetensors.index.json", ".bin.index.json"
CONSOLIDATED = re.compile(r"consolidated\.(\d\d)\.(?:pth|safetensors)")  # a model-parallel part
MSGPACK_SUFFIX = ".msgpack"  # Unified-IO's archives are called .bin

# Returns a file's (possibly nested) tensors and its string metadata.
Reader = Callable[[Path], tuple[dict[str, Any], dict[str, str]]]


class CheckpointError(ValueError):
    """A file that cannot be used: says which file, what was found, what was expected."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file, and what is known beside them (metadata, a config.json)."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_checkpoint(path: str | Path, reader: Reader | None = None) -> Checkpoint:
    """Open a checkpoint file.

    Args:
        path: .safetensors, .safetensors.index.json, a JAX archive (.msgpack, .bin), or a pickle
            (.pth, .pt, .bin, .ckpt), of which tensors and plain containers are read and code is
            refused.
        reader: replaces the built-in reading of one file (a host's own loader).

    Raises:
        CheckpointError: missing, truncated, of another kind, or a pickle that carries code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist.")
    read = reader or read_file
    tensors, metadata = {}, {}
    shards = shards_of(path)
    for shard in shards:
        check_file(shard)
        found, meta = read(shard)
        if len(shards) > 1 and (part := CONSOLIDATED.fullmatch(shard.name)):
            found = flatten_wrapper(shard, found)  # all parts have the same names
            found = {f"rank{part[1]}.{name}": tensor for name, tensor in found.items()}
        tensors.update(found)
        metadata.update(meta)
    config = read_config(path, tensors, metadata)
    return Checkpoint(path, without_byte_floats(flatten_wrapper(path, tensors)), config)


def without_byte_floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """8-bit floats are a way to store weights: read as fp16 (e4m3) or bf16 (e5m2), which hold them
    exactly, so that no policy takes them for the precision to compute in."""
    wider = {torch.float8_e4m3fn: torch.float16, torch.float8_e5m2: torch.bfloat16}
    return {
        name: tensor.to(wider[tensor.dtype]) if tensor.dtype in wider else tensor
        for name, tensor in tensors.items()
    }


def shards_of(path: Path) -> list[Path]:
    """The files to read: the path itself, the shards that an index names, or all model-parallel
    parts that lie beside one of them."""
    if CONSOLIDATED.fullmatch(path.name):
        return sorted(p for p in path.parent.iterdir() if CONSOLIDATED.fullmatch(p.name))
    if not path.name.endswith((INDEX_SUFFIX, PICKLE_INDEX_SUFFIX)):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is no index of shards (no weight_map): {error}") from error
    shards = [path.parent / Path(name).name for name in names]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{path.name} names {len(shards)} files, missing beside it: {', '.join(missing)}. "
            f"Copy them to {path.parent}."
        )
    return shards


def check_file(path: Path) -> None:
    """Raise CheckpointError if the file is cut off or not what its suffix says."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        _check_safetensors(path, size)
    elif path.suffix not in (*PICKLE_SUFFIXES, MSGPACK_SUFFIX):
        raise CheckpointError(
            f"{path.name}: unknown file type. Expected .safetensors, {INDEX_SUFFIX} or one of "
            f"{', '.join((*PICKLE_SUFFIXES, MSGPACK_SUFFIX))}."
        )
    elif size == 0:
        raise CheckpointError(f"{path.name} is empty. Download it again.")


def _check_safetensors(path: Path, size: int) -> None:
    with open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = file.read(header_size) if 0 < header_size <= size - 8 else b""
    try:
        entries = json.loads(header) if header else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        entries = {}
    spans = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
    if not spans:
        raise CheckpointError(
            f"{path.name} is no safetensors file, or it is cut off within its header "
            f"({size} bytes). Download it again."
        )
    if size < 8 + header_size + max(spans):
        raise CheckpointError(
            f"{path.name} is cut off: it has {size} bytes, its header says "
            f"{8 + header_size + max(spans)}. Download it again."
        )


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of one file, memory-mapped where the format allows."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {n: file.get_tensor(n) for n in file.keys()}, file.metadata() or {}
        except SafetensorError as error:
            raise CheckpointError(f"{path.name} is no readable safetensors: {error}") from error
    if path.suffix == MSGPACK_SUFFIX or _is_msgpack(path):
        try:
            return read_msgpack(path), {}
        except MsgpackError as error:
            raise CheckpointError(
                f"{path.name} is no whole JAX archive (msgpack): {error}. Download it again."
            ) from error
    return read_pickle(path), {}


def _is_msgpack(path: Path) -> bool:
    with open(path, "rb") as file:
        return starts_like_msgpack(file.read(1))


def read_pickle(path: Path) -> dict[str, Any]:
    """A pickled checkpoint's content. Only tensors and plain containers are unpickled."""
    try:
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than tensors and was not opened, because such a file can "
            f"run code: {first_line(error)}. Get a .safetensors version or one of weights only."
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is cut off or no PyTorch checkpoint: {first_line(error)}. "
            f"Download it again."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__}, not a dictionary of tensors."
        )
    return dict(content)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def flatten_wrapper(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a file: the content itself, or the largest one nested in it
    ("state_dict", "model", "trainer" → ...), as training snapshots have."""
    found = max(_state_dicts(content), key=len, default={})
    if not found:
        raise CheckpointError(
            f"{path.name} holds no tensors (found: {', '.join(map(str, list(content)[:5]))})."
        )
    return found


def _state_dicts(content: Mapping[str, Any], depth: int = 3) -> list[dict[str, Tensor]]:
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    nested = [v for v in content.values() if isinstance(v, Mapping)] if depth else []
    inner = [found for value in nested for found in _state_dicts(value, depth - 1)]
    return ([tensors] if tensors else []) + inner


def read_config(path: Path, content: Mapping[str, Any], metadata: dict[str, str]) -> dict[str, Any]:
    """What shapes cannot tell: JSON in the metadata key "config", else a .json of the same stem,
    a params.json (Meta's name) or a config.json beside the file, else a "config" dictionary
    inside a training snapshot."""
    if "config" in metadata:
        return _parse_config(f"metadata of {path.name}", metadata["config"])
    names = (path.with_suffix(".json").name, "params.json", "config.json")
    for beside in (path.with_name(name) for name in names):
        if beside.is_file() and beside != path:
            return _parse_config(str(beside), beside.read_text("utf-8"))
    inner = content.get("trainer", content)
    inside = inner.get("config") if isinstance(inner, Mapping) else None
    return dict(inside) if isinstance(inside, Mapping) else {}


def _parse_config(where: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"The config in {where} is no valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"The config in {where} is a {type(config).__name__}, not an object.")
    return config
