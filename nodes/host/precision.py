"""Weight and compute dtypes, and 8-bit storage of linear layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import comfy.utils
import torch
from torch import Tensor

from ...mmgen_core.checkpoints.architecture import Match
from ...mmgen_core.checkpoints.files import CheckpointError

QUANTISED = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    weights: torch.dtype
    compute: torch.dtype
    quantised: str | None = None  # a key of QUANTISED: how linear layers are stored

    def operations(self, always_cast: bool = False) -> Any:
        if self.quantised:
            return comfy.ops.mixed_precision_ops({}, self.compute, full_precision_mm=True)
        if always_cast:
            return comfy.ops.manual_cast
        return comfy.ops.pick_operations(self.weights, self.compute)


def dtype_choices() -> list[str]:
    """What the dtype picker of a transformer offers on this host."""
    device = comfy.model_management.get_torch_device()
    choices = ["auto", *DTYPES]
    if _layout("fp8") and comfy.model_management.supports_cast(device, torch.float8_e4m3fn):
        choices.append("fp8")
    return [*choices, "int8"] if _layout("int8") else choices


def _layout(choice: str) -> Any | None:
    """The host's tensor layout for an 8-bit format; None where it has none."""
    algorithm = comfy.quant_ops.QUANT_ALGOS.get(QUANTISED[choice], {})
    return comfy.quant_ops.get_layout_class(algorithm.get("comfy_tensor_layout"))


def choose_precision(choice: str, device: torch.device, tensors: dict[str, Tensor]) -> Precision:
    """Weight and compute dtype of a model, by the host's policy where the user leaves it open."""
    supported = [torch.bfloat16, torch.float16, torch.float32]
    weights = DTYPES.get(choice) or comfy.model_management.unet_dtype(
        device,
        sum(tensor.numel() for tensor in tensors.values()),
        supported,
        comfy.utils.weight_dtype(tensors),
    )
    compute = comfy.model_management.unet_manual_cast(weights, device, supported) or weights
    if choice in QUANTISED:
        return Precision(compute, compute, choice)
    return Precision(weights, compute)


def tokenizer_precision(choice: str, device: torch.device, tensors: dict[str, Tensor]) -> Precision:
    """As ``choose_precision``, but "auto" follows the host's policy for VAEs."""
    if choice == "auto":
        dtype = comfy.model_management.vae_dtype(device, [torch.bfloat16, torch.float32])
        return Precision(dtype, dtype)
    return choose_precision(choice, device, tensors)


def quantising(match: Match, layers: list[str], choice: str) -> Match:
    """The match, its conversion extended: weights of ``layers`` in the host's 8-bit format."""
    layout, note = _layout(choice), json.dumps({"format": QUANTISED[choice]}).encode()

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        state = match.architecture.convert(tensors)
        for name in layers:
            if f"{name}.weight" not in state:  # the host's layers would not complain
                raise CheckpointError(f"The file lacks the weights of the layer {name}.weight.")
            codes, params = layout.quantize(state[f"{name}.weight"].float(), scale="recalculate")
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = codes, params.scale
            state[f"{name}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        return state

    return replace(match, architecture=replace(match.architecture, convert=convert))
