"""Conditions through the stock samplers: what the denoiser is given, and the latents it leads to,
equal the recorded runs of the references.

The UNet is stood in for by its recorded predictions; everything between our nodes and it, the
models' own conditioning code, guiders and samplers, is ComfyUI's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from host_process import run_script
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "golden"

SCRIPT = r"""
import json
import comfy.model_base
import comfy.supported_models
from comfy_extras import nodes_custom_sampler as stock
from safetensors.torch import load_file, save_file
import importlib

models, case = arguments
folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()
nodes = importlib.import_module("pack.nodes")
case = Path(case)
config = json.loads((case / "config.json").read_text())["config"]
tensors = load_file(case / "io.safetensors")
inputs = {k[6:]: v for k, v in tensors.items() if k.startswith("input.")}
expected = {k[7:]: v for k, v in tensors.items() if k.startswith("expect.")}
weights = load_file(case / "weights.safetensors")
close = lambda a, b: torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


class Recorded(torch.nn.Module):
    "Answers with the recorded prediction of the row that has this context and picture."

    dtype = torch.float32

    def __init__(self, contexts, images, timesteps):
        super().__init__()
        self.rows = list(zip(contexts, images, strict=True))
        self.times, self.calls = list(timesteps), []

    def forward(self, x, timesteps=None, context=None, y=None, **kwargs):
        step = min(range(len(self.times)), key=lambda i: abs(self.times[i] - float(timesteps[0])))
        assert abs(self.times[step] - float(timesteps[0])) < 1e-2, (timesteps, self.times)
        self.calls.append((step, x, context, y))
        chosen = [self.row(x[i, 4:], context[i]) for i in range(len(x))]
        return expected[f"unet.out.step{step}"][chosen]

    def row(self, image, context):
        for i, (known, picture) in enumerate(self.rows):
            same_picture = picture is None or torch.allclose(image, picture, atol=1e-4)
            if i not in self.given and torch.allclose(known, context, atol=1e-4) and same_picture:
                return i
        raise AssertionError("a branch that the reference does not have")

    given = ()


def stock_model(kind, channels, context_width, recorded):
    unet_config = {"in_channels": channels, "context_dim": context_width, "adm_in_channels": 2816,
                   "disable_unet_model_creation": True, "model_channels": 8}
    config = getattr(comfy.supported_models, kind)(unet_config)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.diffusion_model = recorded
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def sampled(guider, sampler, sigmas, start, scale):
    latent = {"samples": start / scale}
    noise = stock.DisableNoise.execute().args[0]
    out = stock.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
    return out["samples"] * scale
"""

SEED_X = (
    SCRIPT
    + r"""
from pack.mmgen_core.conditioners.seed_x import ImageFeatures
from pack.mmgen_core.models.qwen_vit import pooled_features

own = {k: v for k, v in weights.items() if k.startswith("resampler.")}
if config["image_guidance_scale"]:
    own["unet.conv_in.weight"] = weights["unet.conv_in.weight"]
path = Path(models) / "adapter.safetensors"
save_file(own, path, metadata={"config": json.dumps({"resampler": config})})
vit = {k.removeprefix("visual_encoder."): v for k, v in weights.items() if "visual_enc" in k}
save_file(vit, Path(models) / "vit.safetensors",
          metadata={"config": json.dumps(config["visual_encoder"])})

with torch.inference_mode():
    part = host.query_models.load_part(path, "de-tokenizer", "fp32")[0]
    edits = bool(config["image_guidance_scale"])
    detokenizer = host.Detokenizer(part, edits)
    vision = host.query_models.load_part(Path(models) / "vit.safetensors", "vision encoder", "fp32")
    nothing = vision[0].module.unconditional(torch.device("cpu"))
    features = ImageFeatures.of(inputs["img_gen_feat"], nothing)

    class Vae:
        def encode(self, pixels):
            seen = pixels.movedim(-1, 1)
            assert (seen - inputs["source_image_0_1"]).abs().max() < 0.5 / 255 + 1e-6
            return expected["image_latents"]

    given, side = {}, 16
    if edits:
        source = inputs["source_image_0_1"].movedim(1, -1)
        given = {"source_image": source, "vae": Vae(), "width": side, "height": side}
    positive, negative, image_only = nodes.SeedXConditioning.execute(
        detokenizer, features, **given).args

    context = expected["unet.context"]
    order = [1, 0] if not edits else [0, 1, 2]  # rows of the recorded batch: t, (i,) u
    image = expected.get("image_latents", [None])[0]
    pictures = [image, image, torch.zeros_like(image)] if edits else [None, None]
    recorded = Recorded(context, pictures, expected["scheduler.timesteps"].tolist())
    kind = "SDXL_instructpix2pix" if edits else "SDXL"
    model = stock_model(kind, 8 if edits else 4, context.shape[-1], recorded)
    host.check_model(model, context.shape[-1], 8 if edits else 4, "SEED-X")

    if edits:
        guider = stock.DualCFGGuider.execute(
            model, positive, image_only, negative,
            config["guidance_scale"], config["image_guidance_scale"], "regular").args[0]
    else:
        guider = stock.CFGGuider.execute(
            model, positive, negative, config["guidance_scale"]).args[0]
    sampler = stock.KSamplerSelect.execute("euler").args[0]
    start = inputs["latents"] * expected["scheduler.init_noise_sigma"]
    final = sampled(guider, sampler, expected["scheduler.sigmas"], start, 0.13025)
    close(final, expected["latents.final"])

    rows = {}
    for step, x, seen, y in recorded.calls:
        if step == 0:
            for i in range(len(x)):
                rows[recorded.row(x[i, 4:], seen[i])] = (x[i], seen[i], y[i])
    assert sorted(rows) == list(range(len(context)))
    sizes = torch.tensor([64.0, 64.0, 0.0, 0.0, 64.0, 64.0])  # the tiny VAE is not SDXL's
    embedded = model.model.embedder(sizes).flatten()
    for row, (x, seen, y) in rows.items():
        close(x, expected["unet.sample.step0"][row])
        close(seen, context[row])
        pooled = expected["unet.text_embeds"][row]
        close(y[: len(pooled)], pooled)
        close(y[len(pooled) :], embedded)
"""
)

DREAM = (
    SCRIPT
    + r"""
from pack.mmgen_core.models.dream_queries import DreamProjector
from pack.mmgen_core.systems import dreamllm

head = {k.removeprefix("stable_diffusion_head.bin/"): v for k, v in weights.items()
        if k.startswith("stable_diffusion_head.bin/projector")}
torch.save(head, Path(models) / "stable_diffusion_head.bin")
with torch.inference_mode():
    part = host.query_models.load_part(
        Path(models) / "stable_diffusion_head.bin", "condition projector", "fp32")[0]
    contexts = [part.module(inputs[f"{n}prompt_embeds"])[0] for n in ("", "negative_")]
    positive, negative = (host.conditioning(context) for context in contexts)
    context = expected["context_neg_then_pos"]
    times = expected["timesteps"].tolist()
    steps = len(times)
    recorded = Recorded(context, [None] * len(context), times)
    model = stock_model("SD20", 4, context.shape[-1], recorded)
    guider = stock.CFGGuider.execute(model, positive, negative, config["guidance_scale"]).args[0]
    sigmas = nodes.DreamSigmas.execute(steps).args[0]
    noises = iter([inputs[f"ddpm_noise.step{i}"] for i in range(steps)])
    sampler = comfy.samplers.ksampler("ddpm", {"noise_sampler": lambda *_: next(noises)})
    start = inputs["latents"] * (1 + sigmas[0] ** 2) ** 0.5
    final = sampled(guider, sampler, sigmas, start, 0.18215)
    close(final, expected["latents.final"])
    assert {step for step, *_ in recorded.calls} == set(range(steps))

    # At 50 and 100 steps the stock scheduler gives the same noise levels, at 150 it does not.
    sampling = model.get_model_object("model_sampling")
    for count, same in ((50, True), (100, True), (150, False)):
        ours = nodes.DreamSigmas.execute(count).args[0]
        theirs = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", count)
        equal = len(ours) == len(theirs) and torch.allclose(ours, theirs, atol=1e-4)
        assert equal == same, count
"""
)


def recorded_runs() -> list:
    """The golden cases in which a UNet draws to the end."""
    chosen = []
    for system in ("seed-x", "dreamllm"):
        for folder in sorted(path.parent for path in (GOLDEN / system).glob("*/config.json")):
            with safe_open(folder / "io.safetensors", "pt") as file:
                if "expect.latents.final" in file.keys():
                    chosen.append(pytest.param(system, folder, id=f"{system}/{folder.name}"))
    return chosen


def test_there_are_recorded_runs():
    assert len(recorded_runs()) >= 3


@pytest.mark.parametrize(("system", "folder"), recorded_runs())
def test_denoiser_gets_what_the_reference_gave(system, folder, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    script = SEED_X if system == "seed-x" else DREAM
    run_script(script, tmp_path, str(models), str(folder))
