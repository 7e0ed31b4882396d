"""Small diffusers U-Nets as a stock MODEL; the stock loaders take the public sizes only."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch

from ...mmgen_core.checkpoints.files import Checkpoint, CheckpointError
from .loading import read_model_file
from .precision import DTYPES

ATTENTION = "CrossAttnDownBlock2D"
PREDICTIONS = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
NEEDED = ("block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types")


def load_small_diffusion(name: str, dtype: str) -> Any:
    """A U-Net in diffusers' layout with its config in the file, as KSampler takes it.

    Raises:
        CheckpointError: no such U-Net, or weights missing or left over.
    """
    checkpoint = read_model_file(name)
    settings = stock_settings(checkpoint)
    names = comfy.utils.unet_to_diffusers(settings)
    tensors = {names.get(k): v for k, v in checkpoint.tensors.items()}
    unknown = [k for k in checkpoint.tensors if k not in names]
    if unknown:
        raise CheckpointError(
            f"{name} has {len(unknown)} tensors that its config does not account for: "
            f"{', '.join(unknown[:3])}. The file is of another version."
        )
    device = comfy.model_management.get_torch_device()
    weights = DTYPES.get(dtype) or comfy.model_management.unet_dtype(
        device, sum(t.numel() for t in tensors.values()), list(DTYPES.values())
    )
    model = stock_model(checkpoint, settings, weights, device)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    found = model.diffusion_model.load_state_dict(
        tensors, strict=False, assign=patcher.is_dynamic()
    )
    if found.missing_keys or found.unexpected_keys:
        raise CheckpointError(
            f"{name} lacks {len(found.missing_keys)} tensors of its U-Net, such as "
            f"{', '.join([*found.missing_keys, *found.unexpected_keys][:3])}. Download it again."
        )
    return patcher


def stock_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of ComfyUI's U-Net class for a diffusers config."""
    config = checkpoint.config
    if "conv_in.weight" not in checkpoint.tensors or any(key not in config for key in NEEDED):
        raise CheckpointError(
            f"{checkpoint.path.name} is no U-Net in diffusers' layout with a config in the file. "
            f"Choose the small diffusion model that belongs to a demo tokenizer; public Stable "
            f"Diffusion files go into Load Checkpoint."
        )
    widths = config["block_out_channels"]
    if any(width % widths[0] for width in widths):
        raise CheckpointError(
            f"{checkpoint.path.name} has levels of {', '.join(map(str, widths))} channels; "
            f"multiples of the first are needed."
        )
    depths = [
        1 if kind == ATTENTION else 0
        for kind in config["down_block_types"]
        for _ in range(config["layers_per_block"])
    ]
    up = [
        1 if kind == ATTENTION else 0
        for kind in config["down_block_types"]
        for _ in range(config["layers_per_block"] + 1)
    ]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [config["layers_per_block"]] * len(widths),
        "transformer_depth": depths,
        "transformer_depth_output": up,
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "legacy": False,
        "num_heads": config.get("attention_head_dim", 8),
        "num_head_channels": -1,
    }


def stock_model(
    checkpoint: Checkpoint, settings: dict[str, Any], weights: torch.dtype, device: torch.device
) -> Any:
    config = comfy.supported_models.SD15(settings)
    config.unet_config |= settings  # the class puts Stable Diffusion's number of heads in
    config.latent_format = comfy.latent_formats.LatentFormat()
    config.latent_format.latent_channels = settings["in_channels"]
    config.latent_format.scale_factor = checkpoint.config.get("scaling_factor", 1.0)
    compute = comfy.model_management.unet_manual_cast(weights, device, list(DTYPES.values()))
    config.set_inference_dtype(weights, compute)
    kind = PREDICTIONS[checkpoint.config.get("prediction_type", "epsilon")]
    return comfy.model_base.BaseModel(config, kind, device=None).eval().requires_grad_(False)
