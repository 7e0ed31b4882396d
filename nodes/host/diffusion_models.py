"""SEED-X's UNet as a stock MODEL, and what conditions are made into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ...mmgen_core.checkpoints.files import CheckpointError
from ...mmgen_core.models.sdxl_adapter import SdxlAdapter
from ...mmgen_core.systems.seed_x import UNET_PREFIX
from .folders import FOLDER
from .loading import ManagedModel
from .precision import DTYPES
from .query_models import load_part
from .running import to_output

SDXL_CONTEXT = 2048


@dataclass(frozen=True, eq=False)
class Detokenizer:
    """SEED-X's adapter, known to ComfyUI's memory manager."""

    part: ManagedModel
    edits: bool  # its UNet takes a picture's latent beside the noisy one

    @property
    def patcher(self) -> Any:
        return self.part.patcher

    @property
    def module(self) -> SdxlAdapter:
        return self.part.module


def load_detokenizer(name: str, dtype: str, base: Any = None) -> tuple[Any, Detokenizer]:
    """The UNet of a de-tokenizer file as a stock MODEL, and its adapter.

    Args:
        base: SDXL's base MODEL, on which a file with a part of the UNet is laid.
    """
    path = Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    part, checkpoint = load_part(path, "de-tokenizer", dtype)
    unet = {
        key.removeprefix(UNET_PREFIX): tensor
        for key, tensor in checkpoint.tensors.items()
        if key.startswith(UNET_PREFIX)
    }
    channels = unet["conv_in.weight"].shape[1] if "conv_in.weight" in unet else 4
    model = overlaid(base, unet, name) if base is not None else stock_unet(unet, name, dtype)
    return model, Detokenizer(part, channels == 8)


def stock_unet(unet: Mapping[str, Tensor], name: str, dtype: str) -> Any:
    """A whole UNet in diffusers' layout as a stock MODEL.

    Raises:
        CheckpointError: it is not whole, or of no architecture that ComfyUI knows.
    """
    config = None
    if "conv_in.weight" in unet:
        config = comfy.model_detection.model_config_from_diffusers_unet(dict(unet))
    if config is None:
        raise CheckpointError(
            f"{name} holds {len(unet)} tensors of a UNet, which is no whole SDXL. If it is the "
            f"part that SEED-X trained, connect SDXL base 1.0 (Load Checkpoint) as base_model."
        )
    if missing := missing_tensors(config.unet_config, unet):
        raise CheckpointError(
            f"{name} lacks {len(missing)} tensors of the UNet, such as {missing[0]}. Connect SDXL "
            f"base 1.0 (Load Checkpoint) as base_model, on which the file's part is laid."
        )
    options = {"dtype": DTYPES[dtype]} if dtype in DTYPES else {}
    return comfy.sd.load_diffusion_model_state_dict(dict(unet), model_options=options)


class _Layers:
    """torch's own layers, for a UNet of which only the names of its tensors are wanted."""

    Linear, Conv2d, Conv3d = nn.Linear, nn.Conv2d, nn.Conv3d
    GroupNorm, LayerNorm, Embedding = nn.GroupNorm, nn.LayerNorm, nn.Embedding

    @staticmethod
    def conv_nd(dims: int, *sizes: Any, **options: Any) -> nn.Module:
        return nn.Conv2d(*sizes, **options)


def missing_tensors(config: Mapping[str, Any], unet: Mapping[str, Tensor]) -> list[str]:
    """Diffusers' names of what a UNet of this config needs and a file lacks.

    ComfyUI's table of names has more than any one UNet, so the UNet itself is asked.
    """
    sizes = {**config, "device": "meta", "dtype": torch.float32, "operations": _Layers}
    needed = set(UNetModel(**sizes).state_dict())
    names: dict[str, list[str]] = {}
    for theirs, ours in comfy.utils.unet_to_diffusers(config).items():
        names.setdefault(ours, []).append(theirs)
    return sorted(
        theirs[0]
        for ours, theirs in names.items()
        if ours in needed and not any(name in unet for name in theirs)
    )


def overlaid(base: Any, unet: Mapping[str, Tensor], name: str) -> Any:
    """A stock MODEL with a part of its weights replaced.

    Raises:
        CheckpointError: tensors that the base does not have, or of other sizes.
    """
    names = comfy.utils.unet_to_diffusers(base.model.model_config.unet_config)
    own = base.model.state_dict()
    patches = {}
    for key, tensor in unet.items():
        place = f"diffusion_model.{names.get(key)}"
        if place not in own or own[place].shape != tensor.shape:
            found = list(own[place].shape) if place in own else "no such tensor"
            raise CheckpointError(
                f"{name} does not fit the base_model: {key} has shape {list(tensor.shape)}, the "
                f"base has {found}. SEED-X stands on SDXL base 1.0."
            )
        patches[place] = ("set", (tensor,))
    model = base.clone()
    model.add_patches(patches)
    return model


def check_model(model: Any, context_width: int, channels: int | None, system: str) -> None:
    """Whether conditions fit the MODEL that is to draw from them.

    Raises:
        ValueError: they do not; names both.
    """
    config = model.model.model_config.unet_config
    kind = type(model.model).__name__
    found = config.get("context_dim")
    if found != context_width:
        raise ValueError(
            f"{system} gives a context of width {context_width}, the MODEL ({kind}) takes {found}. "
            f"Connect {system}'s own."
        )
    if channels is not None and config.get("in_channels") != channels:
        raise ValueError(
            f"This condition is for a UNet of {channels} input channels, the MODEL ({kind}) has "
            f"{config.get('in_channels')}. {system}'s second stage edits, its first one draws."
        )


def to_outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(to_output(tensor.float()) for tensor in tensors)


def conditioning(context: Tensor, pooled: Tensor | None = None, **extras: Any) -> list:
    """Tensors as ComfyUI's CONDITIONING."""
    values = {} if pooled is None else {"pooled_output": pooled}
    return [[context, values | extras]]


def source_latent(vae: Any, pixels_BHW3: Tensor) -> Tensor:
    """A picture's latent as SEED-X's second stage was trained to see it: the mode, unscaled."""
    return vae.encode(pixels_BHW3.to(torch.float32))
