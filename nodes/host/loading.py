"""Models from files to the memory manager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import nn

from ...mmgen_core.checkpoints.architecture import Match, load_state
from ...mmgen_core.checkpoints.files import (
    Checkpoint,
    CheckpointError,
    read_checkpoint,
    read_file,
)
from ...mmgen_core.systems import identify
from ...mmgen_core.systems.masked_models import text_of_masked
from ...mmgen_core.systems.next_token import NextTokenSystem
from ...mmgen_core.systems.var import class_names
from ...mmgen_core.tokenizers.text import TextTokenizer
from ..code_map_vae import CodeMapAutoencoder
from ..muted import muted
from .folders import FOLDER
from .precision import Precision, choose_precision, quantising, tokenizer_precision
from .tiles import tiles_that_fit


@dataclass(frozen=True, eq=False)
class ManagedModel:
    """A model known to ComfyUI's memory manager."""

    patcher: Any
    file: str

    @property
    def module(self) -> nn.Module:
        return self.patcher.model


@dataclass(frozen=True, eq=False)
class ScaleModel(ManagedModel):
    """A next-scale model."""

    classes: tuple[str, ...]  # names, in label order


@dataclass(frozen=True, eq=False)
class NextTokenModel(ManagedModel):
    """A next-token model, and how its system uses it."""

    system: NextTokenSystem


@dataclass(frozen=True, eq=False)
class MaskedModel(ManagedModel):
    """A masked or flow model, and its text tokenizer."""

    text: TextTokenizer


@dataclass(frozen=True, eq=False)
class Tokenizer(ManagedModel):
    """An image tokenizer, and the same as a stock VAE."""

    vae: comfy.sd.VAE

    @property
    def module(self) -> nn.Module:
        return self.patcher.model.tokenizer


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The host's safetensors reader (its dynamic VRAM streams from the file slices it keeps)."""
    if path.suffix != ".safetensors":
        return read_file(path)
    tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    return tensors, metadata or {}


def read_model_file(name: str) -> Checkpoint:
    """A file of the model folders."""
    return read_checkpoint(folder_paths.get_full_path_or_raise(FOLDER, name), _read)


def open_checkpoint(name: str, kind: str) -> tuple[Checkpoint, Match]:
    """Read a file of the model folders and make sure that it is a ``kind``."""
    checkpoint = read_model_file(name)
    return checkpoint, identify(checkpoint, kind)


def fill(
    match: Match,
    checkpoint: Checkpoint,
    precision: Precision,
    devices: tuple[torch.device, torch.device],
    wrap: Callable[[nn.Module], nn.Module],
    always_cast: bool = False,
) -> Any:
    """Build the module, hand it to the memory manager, load its weights. Returns the patcher."""
    load_device, offload_device = devices
    operations = precision.operations(always_cast)
    module = match.architecture.module(match.params, precision.weights, offload_device, operations)
    module.compute_dtype = precision.compute
    wrapped = wrap(module).eval().requires_grad_(False)
    patcher = comfy.model_patcher.CoreModelPatcher(
        wrapped, load_device=load_device, offload_device=offload_device
    )
    comfy.model_management.archive_model_dtypes(wrapped)  # before loading: the wanted dtypes
    if precision.quantised:
        layers = [n for n, m in module.named_modules() if isinstance(m, operations.Linear)]
        match = quantising(match, layers, precision.quantised)
    load_state(module, match, checkpoint, assign=patcher.is_dynamic())
    return patcher


def fill_transformer(checkpoint: Checkpoint, match: Match, dtype: str) -> Any:
    """The patcher of a model that runs where ComfyUI runs its diffusion models."""
    device = comfy.model_management.get_torch_device()
    kept = {k: v for k, v in checkpoint.tensors.items() if not match.architecture.is_ignored(k)}
    precision = choose_precision(dtype, device, kept)
    devices = (device, comfy.model_management.unet_offload_device())
    return fill(match, checkpoint, precision, devices, wrap=lambda module: module)


def model_folders() -> list[Path]:
    """Where files that belong to a model are looked for, beside the model's own folder."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]


def load_scale_model(name: str, dtype: str) -> ScaleModel:
    checkpoint, match = open_checkpoint(name, "scale model")
    patcher = fill_transformer(checkpoint, match, dtype)
    return ScaleModel(patcher, name, class_names(match.params, checkpoint.config))


def load_next_token_model(name: str, dtype: str) -> NextTokenModel:
    """A model with its text tokenizer, which is looked for beside it and in the model folders."""
    checkpoint, match = open_checkpoint(name, "next-token model")
    if match.architecture.system is None:
        raise CheckpointError(
            f"{name} is a {match.architecture.name} of a system whose pictures another model "
            f"draws. Load it with Load Query Model (SEED-X, DreamLLM)."
        )
    system = match.architecture.system(match, checkpoint, model_folders())
    return NextTokenModel(fill_transformer(checkpoint, match, dtype), name, system)


def load_masked_model(name: str, dtype: str) -> MaskedModel:
    """Show-o, or Transfusion in either layout, with the text tokenizer that lies beside it."""
    checkpoint, match = open_checkpoint(name, "masked or flow model")
    text = text_of_masked(match.params, checkpoint.path, model_folders())
    return MaskedModel(fill_transformer(checkpoint, match, dtype), name, text)


def load_tokenizer(name: str, dtype: str) -> Tokenizer:
    checkpoint, match = open_checkpoint(name, "image tokenizer")
    device = comfy.model_management.vae_device()
    precision = tokenizer_precision(dtype, device, checkpoint.tensors)
    devices = (device, comfy.model_management.vae_offload_device())
    # Casting layers follow their input, so the code look-ups of a sampler run on its device
    # even where --cpu-vae keeps the tokenizer elsewhere.
    patcher = fill(match, checkpoint, precision, devices, CodeMapAutoencoder, always_cast=True)
    vae = _stock_vae(patcher, precision)
    state = patcher.model.tokenizer.state_dict
    vae.get_sd = lambda: match.architecture.publish(state(), match.params)  # for Save VAE
    return Tokenizer(patcher, name, vae)


def _stock_vae(patcher: Any, precision: Precision) -> comfy.sd.VAE:
    """A VAE object around our autoencoder.

    Made from an empty state dict, so that every attribute this version of ComfyUI's VAE has
    gets its default; then the parts that name the model and its sizes are set.
    """
    with muted("No VAE weights detected"):
        vae = comfy.sd.VAE(sd={})
    tokenizer = patcher.model.tokenizer
    width, stride = tokenizer.width, tokenizer.stride
    vae.first_stage_model, vae.patcher = patcher.model, patcher
    vae.device, vae.vae_dtype = patcher.load_device, torch.float32
    vae.output_device = comfy.model_management.intermediate_device()
    vae.latent_channels = tokenizer.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = stride
    vae.process_input = vae.process_output = lambda image: image
    bytes_per_value = comfy.model_management.dtype_size(precision.compute)
    # Stock estimates for an autoencoder of width 128, per pixel, scaled to this width.
    vae.memory_used_encode = lambda shape, dtype: (
        1767 / 128 * width * shape[2] * shape[3] * bytes_per_value
    )
    vae.memory_used_decode = lambda shape, dtype: (
        2178 / 128 * width * stride**2 * shape[2] * shape[3] * bytes_per_value
    )
    vae.decode_tiled_ = tiles_that_fit(vae.decode_tiled_)
    vae.model_size()
    return vae
