"""How golden SEED-X cases are run: grids, vision transformer, de-tokenizer, language model."""

from __future__ import annotations

import golden_diffusion
import torch

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import pictures
from mmgen_core.conditioners.pictures import Grid, best_grid
from mmgen_core.decoding.latent_diffusion import Condition, euler_schedule
from mmgen_core.models.qwen_vit import pooled_features
from mmgen_core.systems import identify, seed_x

LEFT_OUT = {}


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "size_wh" in case.inputs:
        return run_grids(case)
    if "image" in case.inputs:
        return run_vit(case)
    return run_adapter(case)


def run_grids(case) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    grids = [Grid.parse(text) for text in config["resolution_grids"]]
    chosen = [
        best_grid(tuple(size), grids, config["base_resolution"])
        for size in case.inputs["size_wh"].tolist()
    ]
    return {"grid_cols_rows": torch.tensor([[grid.columns, grid.rows] for grid in chosen])}


def load(case, prefix: str, config: dict, kind: str) -> torch.nn.Module:
    """The part of a case's weights under a prefix, with what stands beside a published file."""
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    tensors = golden_diffusion.part(checkpoint.tensors, prefix)
    return built(Checkpoint(checkpoint.path, tensors, config), kind)


def built(checkpoint: Checkpoint, kind: str) -> torch.nn.Module:
    return build(identify(checkpoint, kind), checkpoint)


@torch.inference_mode()
def run_vit(case) -> dict[str, torch.Tensor]:
    model, results = load(case, "", case.spec["config"], "vision encoder"), {}

    def note(name):
        def hook(module, args, out):
            results.setdefault(f"vit.{name}", out[:1])

        return hook

    watched = {"ln_pre": model.ln_pre, "transformer": model.blocks[-1]}
    watched |= {"attn_pool": model.attn_pool, "ln_post": model.ln_post}
    for name, module in watched.items():
        module.register_forward_hook(note(name))
    features = model(case.inputs["image"])
    pooled = pooled_features(features, features.shape[1] // 4)
    zeros = model.unconditional(torch.device("cpu"))
    return results | {
        "image_embeds": features,
        "image_embeds_pooled4": pooled,
        "image_embeds_of_zeros": zeros,
    }


@torch.inference_mode()
def run_adapter(case) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    vit = load(case, "visual_encoder.", config["visual_encoder"], "vision encoder")
    tensors = read_checkpoint(case.folder / "weights.safetensors").tensors
    published = {k: v for k, v in tensors.items() if k.startswith(("resampler.", "unet."))}
    adapter = built(Checkpoint(case.folder, published, {"resampler": config}), "de-tokenizer")
    unet = golden_diffusion.unet(golden_diffusion.part(tensors, "unet."), config, sdxl=True)
    features = case.inputs["img_gen_feat"]
    zeros = vit.unconditional(torch.device("cpu"))
    pooled_zeros = pooled_features(zeros, features.shape[1])
    results = names(adapter(features), adapter(pooled_zeros))
    positive = Condition(results["prompt_embeds"], results["pooled_prompt_embeds"])
    negative = Condition(
        results["negative_prompt_embeds"], results["negative_pooled_prompt_embeds"]
    )
    pixels = pictures.squashed(case.inputs["detok.rgb_hwc"] / 255, vit.params.image_size)
    results["detok.pixel_values"] = pixels
    detok = names(adapter(vit(pixels)), adapter(zeros))
    results |= {f"detok.{name}": tensor for name, tensor in detok.items()}
    conditions = [positive, negative]
    if "source_image_0_1" in case.inputs:
        vae = golden_diffusion.vae(golden_diffusion.part(tensors, "vae."))
        source = vae.encode(2 * case.inputs["source_image_0_1"] - 1).latent_dist.mode()
        results["image_latents"] = source
        results["conv_in_widened.weight"] = seed_x.widened_input(
            case.inputs["conv_in_original.weight"], unet.config.in_channels
        )
        conditions = [
            Condition(positive.context, positive.pooled, source),
            Condition(negative.context, negative.pooled, source),
            negative,
        ]
    size = config["latent_size"] * golden_diffusion.vae_stride(tensors)
    scheduler = euler_schedule(config["num_inference_steps"])
    shown = golden_diffusion.drawn(
        unet,
        scheduler,
        case.inputs["latents"],
        conditions,
        guidance=config["guidance_scale"],
        image_guidance=config["image_guidance_scale"] or 1.0,
        time_ids=(size, size, 0, 0, size, size),
    )
    return results | reference_order(shown, len(conditions)) | schedules(scheduler)


def names(positive, negative) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": positive[0],
        "pooled_prompt_embeds": positive[1],
        "negative_prompt_embeds": negative[0],
        "negative_pooled_prompt_embeds": negative[1],
    }


def reference_order(shown, branches: int) -> dict[str, torch.Tensor]:
    """Stage 2 of the reference has the branches in the opposite order of stage 1."""
    if branches == 2:
        return shown
    return {
        k: torch.cat(v.chunk(branches)[::-1]) if k.startswith("unet.") else v
        for k, v in shown.items()
    }


def schedules(scheduler) -> dict[str, torch.Tensor]:
    results = {}
    for name, schedule in (("scheduler", scheduler), ("scheduler50", euler_schedule(50))):
        results |= {
            f"{name}.sigmas": schedule.sigmas,
            f"{name}.timesteps": schedule.timesteps,
            f"{name}.init_noise_sigma": torch.as_tensor(schedule.init_noise_sigma).view(1),
        }
    return results
