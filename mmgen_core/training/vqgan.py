"""Recipe of the demo VQGAN: one map of codes per drawing, for the demo next-token model.

Objective: taming transformers (arXiv 2012.09841) without its perceptual and adversarial terms,
which need networks we do not ship: reconstruction as in ``multiscale_vq``, and the codebook and
commitment losses, straight-through. It starts from the demo's multi-scale tokenizer, whose
encoder and decoder have the same sizes, so minutes suffice. Codes that go unused are put back onto
vectors of the current batch.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.architecture import build
from ..checkpoints.files import read_checkpoint
from ..systems import identify
from ..tokenizers.vqgan import VQGAN, VQGANParams, split_attention
from . import loop
from .captions import captioned_drawings
from .multiscale_vq import COMMITMENT, Usage, as_input, autocast, psnr, reconstruction_loss

log = logging.getLogger(__name__)

WARM_UP = 0.05  # share of the run before the quantiser joins in
REVIVE_EVERY = 50  # steps; codes unused for so long are moved
CORE_SHARE = 0.8  # of a batch: drawings that the transformer learns


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train vqgan", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--start", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--side", type=int, default=64, help="picture side in pixels")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=8e-4)
    return parser.parse_args(argv)


def started(file: str, vocab: int) -> VQGAN:
    """A VQGAN with the convolutions of a multi-scale tokenizer; of its 3x3 convolutions beside
    the codes, the middle weights."""
    checkpoint = read_checkpoint(file)
    source = build(identify(checkpoint, "image tokenizer"), checkpoint, dtype=torch.float32)
    levels = source.params.autoencoder.attention_levels
    autoencoder = replace(source.params.autoencoder, attention=levels)
    model = VQGAN(VQGANParams(autoencoder, vocab, autoencoder.latent_channels))
    model.encoder.load_state_dict(source.encoder.state_dict())
    model.decoder.load_state_dict(source.decoder.state_dict())
    for name in ("quant_conv", "post_quant_conv"):
        ours, theirs = getattr(model, name), getattr(source, name)
        ours.weight.data.copy_(theirs.weight[:, :, 1:2, 1:2])
        ours.bias.data.copy_(theirs.bias)
    return model


class Pictures:
    """Random batches: mostly drawings of the core, some of all; both without held-out motifs."""

    def __init__(self, side: int, cache: str):
        core = captioned_drawings(side, "core", "train", cache)
        every = captioned_drawings(side, "all", "train", cache)
        self.core, self.every = (
            torch.stack([torch.from_numpy(one.picture) for one in part]) for part in (core, every)
        )

    def batch(self, size: int) -> Tensor:
        """[size, 3, H, W] in -1..1."""
        count = round(size * CORE_SHARE)
        rows = [
            part[torch.randint(len(part), (n,))]
            for part, n in ((self.core, count), (self.every, size - count))
        ]
        return as_input(torch.cat(rows))


@torch.no_grad()
def place_codes(model: VQGAN, f: Tensor, rounds: int = 12) -> None:
    """First codes: k-means of encoder features [B, C, h, w]."""
    z = f.permute(0, 2, 3, 1).reshape(-1, f.shape[1])
    weight = model.quantize.embedding.weight
    weight.copy_(z[torch.randperm(len(z))[: len(weight)]])
    for _ in range(rounds):
        chosen = model.quantize.nearest(f).flatten()
        total = torch.zeros_like(weight).index_add_(0, chosen, z)
        count = torch.bincount(chosen, minlength=len(weight)).unsqueeze(1)
        spare = z[torch.randint(len(z), (len(weight),))]
        weight.copy_(torch.where(count > 0, total / count.clamp(min=1), spare))


def passed(model: VQGAN, picture: Tensor, quantised: bool):
    """Picture, codebook loss, ids and vectors of one training pass."""
    with autocast(picture.device):
        f = model.quant_conv(model.encoder(picture)).float()
    ids, codes, loss = None, f, f.new_zeros(())
    if quantised:
        ids = model.quantize.nearest(f.detach())
        chosen = F.embedding(ids, model.quantize.embedding.weight).permute(0, 3, 1, 2)
        loss = F.mse_loss(chosen, f.detach()) + COMMITMENT * F.mse_loss(f, chosen.detach())
        codes = f + (chosen - f).detach()
    with autocast(picture.device):
        out = model.decoder(model.post_quant_conv(codes))
    return out.float(), loss, ids, f.detach()


def train(model: VQGAN, pictures: Pictures, args: argparse.Namespace) -> loop.Ema:
    optimiser = torch.optim.Adam(model.parameters(), lr=args.rate, betas=(0.9, 0.99), fused=True)
    ema, budget = loop.Ema(model, 0.995), loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "vqgan.pt", every_seconds=90)
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    codes = model.quantize.embedding.weight
    usage = Usage(args.vocab, codes.device)
    quantised = budget.progress >= WARM_UP
    torch.manual_seed(args.seed + budget.step)
    while (progress := budget.progress) < 1:
        if not quantised and progress >= WARM_UP:
            with torch.no_grad(), autocast(codes.device):
                place_codes(model, model.quant_conv(model.encoder(pictures.batch(512))).float())
            quantised = True
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        picture = pictures.batch(args.batch)
        out, vq, ids, vectors = passed(model, picture, quantised)
        error = reconstruction_loss(out, picture)
        optimiser.zero_grad(set_to_none=True)
        (error + vq).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model, budget.step)
        if ids is not None:
            usage.add([ids.flatten()])
        if budget.step % REVIVE_EVERY == 0:
            flat = vectors.permute(0, 2, 3, 1).flatten(0, 2)
            # Late moves would not be learned any more.
            dead = usage.revive(codes.data, [flat]) if quantised and progress < 0.7 else 0
            found = psnr(out.detach(), picture).mean().item()
            message = "step %d %.0f s loss %.4f vq %.4f psnr %.2f moved %d"
            log.info(message, budget.step, budget.seconds, error.item(), vq.item(), found, dead)
        budget.tick()
        if state.due():
            state.save(model, optimiser, ema, budget)
    state.save(model, optimiser, ema, budget)
    return ema


@torch.no_grad()
def evaluate(model: VQGAN, pixels: Tensor) -> dict[str, float]:
    """Mean PSNR (dB) of uint8 pictures, and the share of the codes that they use."""
    found, count = [], torch.zeros(model.params.vocab)
    for rows in pixels.split(32):
        tokens = model.encode(rows.float() / 255)
        out = model.decode(tokens).permute(0, 3, 1, 2) * 2 - 1
        found.append(psnr(out, as_input(rows)))
        count += torch.bincount(tokens.ids[0].flatten(), minlength=model.params.vocab)
    return {"psnr": torch.cat(found).mean().item(), "codes_used": (count > 0).float().mean().item()}


def finish(model: VQGAN, pictures: Pictures, args: argparse.Namespace) -> None:
    model.eval()
    held = captioned_drawings(args.side, "all", "held-out", args.cache)
    pixels = torch.stack([torch.from_numpy(one.picture) for one in held])
    metrics = {
        "core": evaluate(model, pictures.core),
        "held_out": evaluate(model, pixels),
        "arguments": vars(args),
    }
    log.info("%s", metrics)
    a = model.params.autoencoder
    config = {
        "embed_dim": model.params.code_channels,
        "num_embeddings": model.params.vocab,
        "latent_channels": a.latent_channels,
        "base_channels": a.channels,
        "channel_multiplier": a.multipliers,
        "num_res_blocks": a.blocks,
        "norm_num_groups": a.norm_groups,
        "resolution": args.side,
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tensors = loop.half_tensors(split_attention(model.state_dict()))
    save_file(tensors, out / "mmgen_demo_vqgan.safetensors", {"config": json.dumps(config)})
    (out / "mmgen_demo_vqgan.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    loop.start(args)
    pictures = Pictures(args.side, args.cache)
    model = started(args.start, args.vocab).to(memory_format=torch.channels_last)
    log.info("%d parameters, %d core drawings", loop.parameter_count(model), len(pictures.core))
    model.load_state_dict(train(model, pictures, args).average)
    finish(model, pictures, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
