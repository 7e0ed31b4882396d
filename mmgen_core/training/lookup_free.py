"""Recipe of the demo tokenizer of Show-o: a small MAGVIT-v2-layout autoencoder on drawings.

Objective: look-up-free quantisation of arXiv 2310.05737. Reconstruction as for the other demo
tokenizers; codes are the signs of the features, straight through; the features are drawn to -1
and 1, each bit is to be sure within a picture and used evenly over the batch.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..systems.show_o import publish_tokenizer
from ..tokenizers.lookup_free import LevelParams, LookupFreeParams, LookupFreeTokenizer, bits_to_ids
from . import loop
from .captions import captioned_drawings
from .drawings import load_drawings
from .models import load_model
from .multiscale_vq import as_input, autocast, numbers, psnr, reconstruction_loss

log = logging.getLogger(__name__)

COMMITMENT, ENTROPY = 0.1, 0.05
WARM_UP = 0.05  # share of the run before the signs join in
CORE_SHARE = 0.6  # drawings of the core, on which the transformer is trained
READS_CODES = ("post_quant_conv.", "conv_in.")
FILE = "mmgen_demo_magvit.safetensors"


def signs_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """Signs that pass gradients straight through, and the loss of the features z [B, K, h, w]."""
    hard = torch.where(z > 0, 1.0, -1.0)
    p = torch.sigmoid(4 * z)
    sure = entropy(p).mean()
    even = entropy(p.mean(dim=(0, 2, 3))).mean()
    loss = COMMITMENT * F.mse_loss(z, hard) + ENTROPY * (sure - even)
    return z + (hard - z).detach(), loss


def entropy(p: Tensor) -> Tensor:
    """Of a coin, in nats."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


class Pictures:
    """Random batches: core drawings and others, half of them mirrored, moved by a few pixels."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        core = captioned_drawings(args.side, "core", "train", args.cache)
        drawings = load_drawings(args.side, args.cache)
        others = drawings.pixels[~drawings.held_out]
        self.core = torch.from_numpy(np.stack([one.picture for one in core])).to(device)
        self.others = torch.from_numpy(others).to(device)
        self.share = args.core_share
        held = captioned_drawings(args.side, "core", "held-out", args.cache)
        self.held = torch.from_numpy(np.stack([one.picture for one in held])).to(device)

    def batch(self, size: int) -> Tensor:
        """[size, 3, H, W] in -1..1."""
        count = round(self.share * size)
        rows = [
            pool[torch.randint(len(pool), (n,), device=pool.device)]
            for pool, n in ((self.core, count), (self.others, size - count))
        ]
        picture = as_input(torch.cat(rows))
        flip = (torch.rand(size, 1, 1, 1) < 0.5).to(picture.device)
        picture = torch.where(flip, picture.flip(3), picture)
        dx, dy = (int(v) for v in torch.randint(0, 3, (2,)))
        height, width = picture.shape[2:]
        return F.pad(picture, (1, 1, 1, 1), value=1.0)[..., dy : dy + height, dx : dx + width]


def reconstruct(model: nn.Module, picture: Tensor, quantised: bool = True):
    """The picture after a pass, the loss of the features, and the features."""
    with autocast(picture.device):
        z = model.encoder(picture)
    z = z.float()
    codes, loss = signs_of(z) if quantised else (z, z.new_zeros(()))
    with autocast(picture.device):
        out = model.decoder(codes)
    return out.float(), loss, z


@torch.no_grad()
def evaluate(model: nn.Module, pixels: Tensor) -> dict[str, float]:
    """Mean PSNR (dB, of 8-bit RGB in 0..1), and how many codes are in use."""
    found, used = [], set()
    for rows in pixels.split(64):
        picture = as_input(rows)
        out, _, z = reconstruct(model, picture)
        found.append(psnr(out, picture))
        used.update(bits_to_ids(z > 0).flatten().tolist())
    return {"psnr": torch.cat(found).mean().item(), "codes_used": len(used)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train lookup_free", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--side", type=int, default=64, help="picture side in pixels")
    parser.add_argument("--bits", type=int, default=10)
    parser.add_argument("--encoder", default="16,32,64,96", help="widths, fine to coarse")
    parser.add_argument("--decoder", default="20,40,72,112")
    parser.add_argument("--groups", type=int, default=2, help="of GroupNorm; few are fast on a CPU")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--core-share", type=float, default=CORE_SHARE, help="of a batch")
    parser.add_argument("--polish", metavar="FILE", help="train this tokenizer's decoder on")
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> LookupFreeTokenizer:
    encoder, decoder = numbers(args.encoder), numbers(args.decoder)
    return LookupFreeTokenizer(
        LookupFreeParams(
            args.bits,
            encoder[0],
            tuple(LevelParams(width, 1) for width in encoder),
            tuple(LevelParams(width, 2 if width < decoder[-1] else 1) for width in decoder),
            args.groups,
        )
    )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    model = load_model(args.polish, device) if args.polish else build(args)
    model = model.to(device, memory_format=torch.channels_last)
    model.decoder.requires_grad_(True)
    pictures = Pictures(args, device)
    log.info("%d parameters, %d core drawings", loop.parameter_count(model), len(pictures.core))
    ema = train(model, pictures, args, device)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        finish(model, pictures, args)
    loop.leave()
    return 0


def train(model: nn.Module, pictures: Pictures, args, device: torch.device) -> loop.Ema:
    """Runs until the budget is spent; returns the averaged weights."""
    learned = list(model.parameters())
    if args.polish:  # the others get gradients, too, but are not moved
        parts = model.decoder.named_parameters()
        learned = [p for name, p in parts if not name.startswith(READS_CODES)]
    optimiser = torch.optim.Adam(learned, lr=args.rate, betas=(0.9, 0.99), fused=True)
    ema, budget = loop.Ema(model, 0.998), loop.Budget(args.minutes, args.steps)
    name = "lookup_free_polish.pt" if args.polish else "lookup_free.pt"
    state = loop.RunState(Path(args.runs) / name)
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    torch.manual_seed(args.seed + 1000 * loop.rank() + budget.step)
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        picture = pictures.batch(args.batch)
        quantised = bool(args.polish) or progress >= WARM_UP
        out, extra, _ = reconstruct(model, picture, quantised)
        error = reconstruction_loss(out, picture)
        optimiser.zero_grad(set_to_none=True)
        (error if args.polish else error + extra).backward()
        loop.average_gradients(model)
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        ema.update(model, budget.step)
        if budget.step % 100 == 0:
            shown = psnr(out.detach(), picture).mean().item()
            log.info("step %d %.0f s psnr %.2f", budget.step, budget.seconds, shown)
        budget.tick()
        if state.due() and loop.rank() == 0:
            state.save(model, optimiser, ema, budget)
    if loop.rank() == 0:
        state.save(model, optimiser, ema, budget)
    return ema


def finish(model: LookupFreeTokenizer, pictures: Pictures, args) -> None:
    """Measures the averaged model and writes it with its config and metrics."""
    model.eval()
    metrics = {"core": evaluate(model, pictures.core), "held_out": evaluate(model, pictures.held)}
    log.info("%s", metrics)
    config = {"norm_num_groups": args.groups, "image_side": args.side}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tensors = loop.half_tensors(publish_tokenizer(model.state_dict(), model.params))
    save_file(tensors, out / FILE, {"config": json.dumps(config)})
    metrics["arguments"] = vars(args)
    path = (out / FILE).with_suffix(".metrics.json")
    path.write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
