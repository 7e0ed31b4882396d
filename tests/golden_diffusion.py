"""The small UNets and VAEs of the golden cases, in diffusers' layout, and what a run shows."""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mmgen_core.decoding import latent_diffusion


def part(tensors, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def found(tensors, pattern: str) -> int:
    """How many tensors have such a name."""
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def unet(tensors, config: dict, sdxl: bool) -> UNet2DConditionModel:
    """The sizes that the case names, the rest from the tensors."""
    extra = {}
    if sdxl:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config["addition_time_embed_dim"],
            "projection_class_embeddings_input_dim": tensors["add_embedding.linear_1.weight"].shape[
                1
            ],
        }
    kinds = [
        "CrossAttn" if found(tensors, rf"down_blocks\.{level}\.attentions\..*") else ""
        for level in range(len(config["block_out_channels"]))
    ]
    model = UNet2DConditionModel(
        sample_size=config["latent_size"],
        in_channels=tensors["conv_in.weight"].shape[1],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        block_out_channels=config["block_out_channels"],
        layers_per_block=found(tensors, r"down_blocks\.0\.resnets\.\d+\.conv1\.weight"),
        attention_head_dim=config["unet_heads"],
        cross_attention_dim=tensors[
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        ].shape[1],
        norm_num_groups=config.get("norm_num_groups", 4),
        use_linear_projection=True,
        **extra,
    )
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def vae_widths(tensors) -> list[int]:
    pattern = r"(?:.*vae\.)?encoder\.down_blocks\.(\d+)\.resnets\.0\.conv1\.weight"
    found = {int(m[1]): t.shape[0] for k, t in tensors.items() if (m := re.fullmatch(pattern, k))}
    return [found[i] for i in range(len(found))]


def vae_stride(tensors) -> int:
    return 2 ** (len(vae_widths(tensors)) - 1)


def vae(tensors) -> AutoencoderKL:
    widths = vae_widths(tensors)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=found(tensors, r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight"),
        norm_num_groups=4,
    )
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def drawn(model, scheduler, noise, conditions, **options) -> dict[str, torch.Tensor]:
    """Latents after every step, and what went into and came out of the UNet."""
    results, calls = {}, []

    def note(module, args, kwargs, out):
        step = len(calls)
        calls.append(step)
        results[f"unet.out.step{step}"] = out.sample
        if step == 0:
            results["unet.sample.step0"], results["unet.context"] = args[0], args[2]
            results.update({f"unet.{k}": v for k, v in (kwargs["added_cond_kwargs"] or {}).items()})

    def keep(step, total, latents):
        results[f"latents.step{step - 1}"] = latents

    hook = model.register_forward_hook(note, with_kwargs=True)
    results["latents.final"] = latent_diffusion.draw(
        model, scheduler, noise, conditions, on_step=keep, **options
    )
    hook.remove()
    return results
