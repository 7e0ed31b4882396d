"""An architecture that files are recognised as, and the strict loading of its tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import Checkpoint, CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """One kind of module and the published key layout of its files.

    Attributes:
        name: as shown to users, "VAR transformer".
        kind: what loads it: "scale model" or "image tokenizer".
        recognise: a checkpoint to params, or None if it is another thing. By names and shapes;
            config, file name and values are asked only where those leave a question.
        module: class taking (params, dtype, device, operations).
        convert: published tensors to the module's state dict; pure tensor code.
        publish: the way back, for models trained here.
        ignored: glob patterns of file keys that carry nothing at inference, with the reason.
        used: glob patterns of all keys that are read, where public files hold more under names
            that were never listed; empty: every key that is not ignored.
        surplus: whether a key is of a layer beyond the params, which cut the published net off.
        fingerprint: for tokenizers, names the codebook of a state dict.
        system: for next-token models, makes what turns prompts into tokens (``NextTokenSystem`` in
            systems/next_token.py); given the folders in which a text tokenizer may lie.
        converter: gives ``convert`` for params, where it depends on sizes that no key shows.
    """

    name: str
    kind: str
    recognise: Callable[[Checkpoint], Any | None]
    module: type[nn.Module]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    publish: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]
    licence: str
    origin: str
    ignored: dict[str, str] = field(default_factory=dict)
    used: tuple[str, ...] = ()
    surplus: Callable[[str, Any], bool] | None = None
    fingerprint: Callable[[Mapping[str, Tensor]], str] | None = None
    system: Callable[[Match, Checkpoint, Sequence[Path]], Any] | None = None
    converter: Callable[[Any], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] | None = None

    def sized(self, params: Any) -> Architecture:
        """This architecture with the conversion that fits the params."""
        return self if self.converter is None else replace(self, convert=self.converter(params))

    def is_ignored(self, key: str) -> bool:
        if self.used and not matches(key, self.used):
            return True
        return matches(key, self.ignored)

    def state_dict(self, tensors: Mapping[str, Tensor], params: Any = None) -> dict[str, Tensor]:
        """The module's tensors; with its params also where the file holds surplus layers."""
        kept = {k: v for k, v in tensors.items() if not self.is_ignored(k)}
        if self.surplus is not None and params is not None:
            kept = {k: v for k, v in kept.items() if not self.surplus(k, params)}
        return self.convert(kept)


def matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Match:
    architecture: Architecture
    params: Any


def load_state(
    module: nn.Module,
    match: Match,
    checkpoint: Checkpoint,
    assign: bool = True,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Fill a module; every tensor must be there, nothing may be left over, shapes must agree.

    Args:
        assign: take the file's tensors over instead of copying them into the module's.
        dtypes: cast tensors to these first, by name.

    Raises:
        CheckpointError: names the file and the first offending keys.
    """
    state = match.architecture.state_dict(checkpoint.tensors, match.params)
    where = f"{checkpoint.path.name} ({match.architecture.name})"
    if dtypes is not None:
        state = {name: tensor.to(dtypes.get(name)) for name, tensor in state.items()}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()  # the first line is a heading
        raise CheckpointError(f"{where} does not fit: {reason}") from error
    for problem, keys in (("lacks", missing), ("has unknown", unexpected)):
        if keys:
            raise CheckpointError(
                f"{where} {problem} {len(keys)} tensors: {', '.join(sorted(keys)[:5])}"
                f"{' ...' if len(keys) > 5 else ''}. The file is incomplete or of another version."
            )
    if match.architecture.fingerprint is not None:
        module.fingerprint = match.architecture.fingerprint(state)


def build(
    match: Match,
    checkpoint: Checkpoint,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A ready module without ComfyUI.

    Args:
        dtype: of weights and arithmetic; by default that of the file. Parts that must stay
            fp32 (quantisers) do.
    """
    if dtype is None:
        dtype = next(t.dtype for t in checkpoint.tensors.values() if t.is_floating_point())
    module = match.architecture.module(match.params, dtype, "meta", operations)
    dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    load_state(module, match, checkpoint, dtypes=dtypes)
    return module.to(device).eval().requires_grad_(False)


def first_bad_weight(module: nn.Module) -> str | None:
    """Name of the first parameter that holds a NaN or an infinity, if any."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            return name
    return None


def require_finite(values: Tensor, what: str, parts: Mapping[str, nn.Module]) -> None:
    """Raise FloatingPointError where a result is not finite; names the weight to blame, if any.

    Args:
        what: the result, in words.
        parts: the modules it came through, by the names that users know them under.
    """
    if not torch.isfinite(values).all():
        raise non_finite(what, parts)


def non_finite(what: str, parts: Mapping[str, nn.Module]) -> FloatingPointError:
    """The error for a result that is not finite; names the weight to blame, if any."""
    for name, module in parts.items():
        if (weight := first_bad_weight(module)) is not None:
            return FloatingPointError(
                f"{what} is not finite: {name} has NaN or infinity in {weight}. Get the file again."
            )
    return FloatingPointError(
        f"{what} is not finite though all weights are: the precision overflowed. Choose fp32 or "
        f"bf16."
    )
