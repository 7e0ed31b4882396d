"""Recipe of the demo SEED tokenizer and its diffusion decoder, on drawings.

First stage as published, except that the vision transformer is trained along: there is no frozen
one of this size. Second stage: codes, rebuilt states, and in place of the distance to the text
features of a frozen diffusion model that to the latent of the frozen image tokenizer, together with
the objective of a diffusion model, which is trained here as well: a U-Net (diffusers) learns to
draw the picture from the 77 states of the Reverse Q-Former. All parts learn in both stages.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from ..conditioners.reverse_qformer import DetokenizerParams
from ..models.qformer import QFormerParams
from ..models.vision_transformer import VisionTransformer, VisionTransformerParams
from ..systems.seed_layout import VISION_PREFIX, publish_tokenizer, publish_vision
from ..tokenizers.seed import TEXT_FEATURES, SeedTokenizer, SeedTokenizerParams
from ..tokenizers.seed_contrast import SeedContrast, SeedContrastParams
from . import loop
from .captions import captioned_drawings
from .seed_objectives import (
    Rebuilder,
    contrastive_loss,
    place_codes,
    retrieval,
    revive_codes,
    second_stage,
)
from .seed_pictures import LENGTH, SeedPictures, Words

log = logging.getLogger(__name__)

WARM_UP = 0.08  # share of the second stage before the codebook joins in
REVIVE_EVERY = 100
AVERAGING = 0.99  # the run is short
NO_CONDITION = 0.1  # share of pictures drawn from zeros, for guidance
NOISES = 3  # noise levels per picture and step
SIGNAL_FLOOR = 5.0  # min-SNR weighting (Hang et al. 2023)
VISION_HEADS, HEADS, UNET_HEADS = 2, 4, 8


def vision_params() -> VisionTransformerParams:
    return VisionTransformerParams(
        depth=3, width=128, heads=VISION_HEADS, hidden=512, patch=8, grid=8
    )


def qformer_params(width: int = 120) -> QFormerParams:
    return QFormerParams(4, width, HEADS, 2 * width, 32, 128, (0, 2), causal=True)


def tokenizer_params(vocab: int, width: int = 120) -> SeedTokenizerParams:
    reverse = QFormerParams(2, width, HEADS, 2 * width, 77, width, (0,))
    detokenizer = DetokenizerParams(32, width, 2, 4 * width, 128, reverse=reverse)
    return SeedTokenizerParams(qformer_params(width), vocab, 16, detokenizer, TEXT_FEATURES)


def unet(channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=128,
        attention_head_dim=UNET_HEADS,  # so the published configs call the number of heads
    )


def scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise, the velocity to be predicted."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
    )


class Trained(nn.Module):
    """All that is trained; ``contrast`` shares its Q-Former with the tokenizer after stage one."""

    def __init__(self, words: int, vocab: int, channels: int) -> None:
        super().__init__()
        params = tokenizer_params(vocab)
        both = QFormerParams(**{**vars(params.qformer), "vocab": words, "positions": LENGTH})
        self.vision = VisionTransformer(vision_params())
        self.contrast = SeedContrast(SeedContrastParams(both, 64))
        self.tokenizer = SeedTokenizer(params)
        self.rebuilder = Rebuilder(self.tokenizer)
        self.unet = unet(channels)
        self.regress = nn.Linear(params.detokenizer.condition_width, channels)
        for table in (self.vision.cls_token, self.vision.pos_embed, self.contrast.qformer.queries):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.tokenizer.detokenizer.pos_embed.weight, std=0.02)
        for block in self.vision.blocks:  # the published layout has no place for a key bias
            nn.init.zeros_(block.attn.qkv.bias)

    def begin_second_stage(self) -> None:
        """Hand the Q-Former over; texts stay behind."""
        state = self.contrast.qformer.state_dict()
        wanted = self.tokenizer.qformer.state_dict().keys()
        self.tokenizer.qformer.load_state_dict({k: state[k] for k in wanted})
        self.tokenizer.ln_vision.load_state_dict(self.contrast.ln_vision.state_dict())

    def zero_key_biases(self) -> None:
        for block in self.vision.blocks:
            width = len(block.attn.qkv.bias) // 3
            block.attn.qkv.bias.data[width : 2 * width] = 0


def draw_loss(
    model: UNet2DConditionModel, noise_of: DDPMScheduler, latents: Tensor, condition: Tensor
) -> Tensor:
    """Squared error of the velocity at several noise levels of every picture."""
    latents, condition = latents.repeat(NOISES, 1, 1, 1), condition.repeat(NOISES, 1, 1)
    kept = torch.rand(len(latents), 1, 1, device=latents.device) >= NO_CONDITION
    noise = torch.randn_like(latents)
    steps = torch.randint(noise_of.config.num_train_timesteps, (len(latents),))
    noised = noise_of.add_noise(latents, noise, steps)
    target = noise_of.get_velocity(latents, noise, steps)
    found = model(noised, steps.to(latents.device), condition * kept).sample.float()
    alpha = noise_of.alphas_cumprod[steps].to(latents.device)
    ratio = alpha / (1 - alpha)
    weight = ratio.clamp(max=SIGNAL_FLOOR) / (ratio + 1)
    error = (found - target).square().mean((1, 2, 3))
    return (error * weight).mean() / weight.mean()


def regression(model: Trained, condition: Tensor, latents_BChw: Tensor) -> Tensor:
    """Squared error of the picture's latent, read off the first states of the condition: frozen
    features to be met, as the text features of Stable Diffusion are in the paper."""
    places = latents_BChw.flatten(2).transpose(1, 2)
    return F.mse_loss(model.regress(condition[:, : places.shape[1]]).float(), places)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train seed", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--first", type=float, default=0.15, help="share of the first stage")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="of the second stage")
    parser.add_argument("--first-batch", type=int, default=48, help="contrast wants many pictures")
    parser.add_argument("--groups", default="heart,shape,fruit,sky", help="of the core motifs")
    parser.add_argument("--drawn", default="heart,shape", help="groups of the second stage")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--vae", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--save-at", type=float, default=10.0, help="minutes between saved models")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    groups = args.groups.split(",")
    drawings = captioned_drawings(64, "core", "train", args.cache)
    drawings = [drawing for drawing in drawings if drawing.group in groups]
    words = Words([caption for drawing in drawings for caption in drawing.captions])
    pictures = SeedPictures(drawings, args.vae)
    model = Trained(len(words), args.vocab, pictures.latents.shape[2])
    for name in ("vision", "tokenizer", "unet"):
        log.info("%s: %d parameters", name, loop.parameter_count(getattr(model, name)))
    log.info("%d drawings in %d variants", len(pictures), len(pictures.latents))
    train(model.to(device), pictures, words, args, device)
    return 0


def train(model: Trained, pictures: SeedPictures, words: Words, args, device) -> None:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    ema, budget = loop.Ema(model, AVERAGING), loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "seed.pt", every_seconds=60)
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    count, noise_of = torch.zeros(args.vocab, device=device), scheduler()
    first, quantised = budget.progress < args.first, budget.progress >= warm_end(args)
    torch.manual_seed(args.seed + budget.step)
    saved = budget.seconds
    while (progress := budget.progress) < 1:
        if first and progress >= args.first:
            first = False
            model.begin_second_stage()
            ema = loop.Ema(model, AVERAGING)
        if not quantised and progress >= warm_end(args):
            quantised = True
            vectors = sample_vectors(model, pictures, args.drawn.split(","), device)
            place_codes(model.tokenizer, vectors)
        part = progress / args.first if first else (progress - args.first) / (1 - args.first)
        loop.set_rate(optimiser, loop.one_cycle(min(part, 1.0), args.rate))
        groups = (args.groups if first else args.drawn).split(",")
        size = args.first_batch if first else args.batch
        pixels, latents, captions = pictures.batch(size, groups)
        # On a CPU fp32 is the faster one at these sizes.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            vision = model.vision(pixels.to(device)).float()
            if first:
                ids, mask = (t.to(device) for t in words.encode(captions))
                loss = contrastive_loss(model.contrast, vision, ids, mask)
                shown = {"contrast": loss}
            else:
                stage = second_stage(
                    model.tokenizer, model.rebuilder, model.tokenizer.states(vision), quantised
                )
                drawn = draw_loss(model.unet, noise_of, latents.to(device), stage.condition.float())
                likeness = regression(model, stage.condition, latents.to(device))
                loss = stage.loss() + 5 * drawn + likeness
                shown = {"draw": drawn, "latent": likeness}
                shown |= {"codes": stage.codes, "cosine": stage.cosine}
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.zero_key_biases()
        ema.update(model, budget.step)
        if quantised:
            count += torch.bincount(stage.ids.flatten(), minlength=args.vocab)
        if budget.step % REVIVE_EVERY == 0:
            dead = -1
            if quantised:
                dead = revive_codes(model.tokenizer, count, stage.vectors.flatten(0, 1))
            if first:
                shown["retrieved"] = torch.tensor(retrieval(model.contrast, vision, ids, mask))
            terms = " ".join(f"{name} {value.item():.4f}" for name, value in shown.items())
            log.info("step %d %.0f s %s dead %d", budget.step, budget.seconds, terms, dead)
        budget.tick()
        if state.due():
            state.save(model, optimiser, ema, budget)
        if quantised and budget.seconds - saved > 60 * args.save_at:
            saved = budget.seconds
            write(model, ema, pictures, args)
    state.save(model, optimiser, ema, budget)
    write(model, ema, pictures, args)


def warm_end(args: argparse.Namespace) -> float:
    return args.first + WARM_UP * (1 - args.first)


@torch.no_grad()
def sample_vectors(
    model: Trained, pictures: SeedPictures, groups: list[str], device: torch.device
) -> Tensor:
    parts = []
    for _ in range(8):
        pixels, _, _ = pictures.batch(64, groups)
        states = model.tokenizer.states(model.vision(pixels.to(device)))
        parts.append(model.tokenizer.code_inputs(states).flatten(0, 1))
    return torch.cat(parts)


def write(model: Trained, ema: loop.Ema, pictures: SeedPictures, args) -> None:
    """The averaged tokenizer with its vision transformer in one file, the U-Net in another."""

    def part(name: str) -> dict[str, Tensor]:
        return {k[len(name) + 1 :]: v for k, v in ema.average.items() if k.startswith(f"{name}.")}

    tensors = publish_tokenizer(part("tokenizer"), model.tokenizer.params)
    vision = publish_vision(part("vision"), model.vision.params)
    tensors |= {VISION_PREFIX + key: value for key, value in vision.items()}
    config = {"vit_num_heads": VISION_HEADS, "num_attention_heads": HEADS}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        loop.half_tensors(tensors),
        out / "mmgen_demo_seed.safetensors",
        {"config": json.dumps(config)},
    )
    unet_config = {
        **{k: v for k, v in model.unet.config.items() if not k.startswith("_")},
        "scaling_factor": pictures.scale,
        "prediction_type": "v_prediction",
    }
    save_file(
        loop.half_tensors(part("unet")),
        out / "mmgen_demo_seed_unet.safetensors",
        {"config": json.dumps(unet_config)},
    )
    log.info("wrote %s", out)


if __name__ == "__main__":
    raise SystemExit(main())
