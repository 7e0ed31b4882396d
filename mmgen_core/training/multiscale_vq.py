"""Recipe of the demo image tokenizer: VAR's multi-scale residual VQ autoencoder on drawings.

Objective: arXiv 2404.02905 section 3.2. Reconstruction (L2, L1 and the L1 of image gradients in
place of the paper's perceptual and adversarial terms, which need networks we do not ship), and per
scale |f_hat - sg(f)|^2 + 0.25 |sg(f_hat) - f|^2, straight-through. Codes that go unused are put
back onto residuals of the current batch.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..systems.var import publish_tokenizer
from ..tokenizers.autoencoder import AutoencoderParams
from ..tokenizers.multiscale_vq import MultiScaleVQ, MultiScaleVQParams
from ..tokenizers.residual_quantizer import ResidualQuantizer
from . import loop
from .drawings import Drawings, load_drawings

log = logging.getLogger(__name__)

COMMITMENT = 0.25
WARM_UP = 0.06  # share of the run before the quantiser joins in
REVIVE_EVERY = 100  # steps; codes unused for so long are moved


def quantise(
    quantize: ResidualQuantizer, f: Tensor, scales: tuple[int, ...]
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """`ResidualQuantizer.encode` with gradients.

    f [B, C, H, W] fp32. Returns f_hat, which carries gradients to codes and phi and, straight
    through, to f; the scalar codebook and commitment loss; ids per scale [B*p*p]; and the vectors
    that were quantised, per scale [B*p*p, C].
    """
    target, rest, f_hat = f.detach(), f.detach(), torch.zeros_like(f)
    codebook, size = quantize.embedding.weight.detach(), f.shape[2:]
    loss, ids, vectors = f.new_zeros(()), [], []
    for s, side in enumerate(scales):
        vectors.append(resampled(rest, side))
        ids.append(quantize.nearest(vectors[-1], codebook))
        h = quantize.lookup(ids[-1].view(-1, side, side))
        h = quantize.upsampled(h, s, len(scales), size)
        f_hat, rest = f_hat + h, rest - h.detach()
        loss = loss + F.mse_loss(f_hat, target) + COMMITMENT * F.mse_loss(f_hat.detach(), f)
    # Its value is f_hat; the decoder's gradient reaches the codes as well as the encoder.
    return f_hat + (f - f.detach()), loss / len(scales), ids, vectors


def resampled(rest: Tensor, side: int) -> Tensor:
    """What is left of f, area-resampled to one scale, as vectors [B*side*side, C]."""
    if rest.shape[-1] != side:
        rest = F.interpolate(rest, size=(side, side), mode="area")
    return rest.permute(0, 2, 3, 1).reshape(-1, rest.shape[1])


def reconstruction_loss(picture: Tensor, target: Tensor) -> Tensor:
    """L2 + L1 + L1 of neighbour differences, both [B, 3, H, W] in -1..1."""
    error = picture - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.square().mean() + 0.2 * error.abs().mean() + 0.2 * edges


@torch.no_grad()
def place_codes(quantize: ResidualQuantizer, f: Tensor, scales, rounds: int = 8) -> None:
    """First codes: k-means of the residuals, scale after scale, each with its share of them."""
    rest, placed = f.clone(), 0
    for s, (side, share) in enumerate(
        zip(scales, _shares(quantize.vocab, len(f), scales), strict=True)
    ):
        z = resampled(rest, side)
        codes = z[torch.randperm(len(z))[:share]]
        for _ in range(rounds):
            chosen = quantize.nearest(z, codes)
            total = torch.zeros_like(codes).index_add_(0, chosen, z)
            count = torch.bincount(chosen, minlength=share).unsqueeze(1)
            codes = torch.where(count > 0, total / count.clamp(min=1), codes)
        quantize.embedding.weight[placed : placed + share] = codes
        h = codes[quantize.nearest(z, codes)].view(len(f), side, side, -1).permute(0, 3, 1, 2)
        rest = rest - quantize.upsampled(h, s, len(scales), f.shape[2:])
        placed += share


def _shares(vocab: int, pictures: int, scales) -> list[int]:
    left, shares = vocab, []
    for s, side in enumerate(scales):
        share = min(left // (len(scales) - s), pictures * side * side // 4)
        shares.append(share)
        left -= share
    return shares


class Usage:
    """How often each code was chosen since the last look; moves the unused onto fresh residuals."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self.count = torch.zeros(vocab, device=device)

    def add(self, ids: list[Tensor]) -> None:
        chosen = torch.cat(ids)
        self.count.index_add_(0, chosen, torch.ones_like(chosen, dtype=self.count.dtype))

    @torch.no_grad()
    def revive(self, weight: Tensor, vectors: list[Tensor]) -> int:
        dead = (self.count == 0).nonzero().squeeze(1)
        pool = torch.cat(vectors)
        if len(dead):
            weight[dead] = pool[torch.randint(len(pool), (len(dead),), device=pool.device)]
        self.count.zero_()
        return len(dead)


class Pictures:
    """Random batches of the training drawings, fewer of each where a motif has many variants."""

    def __init__(self, drawings: Drawings, device: torch.device) -> None:
        keep = ~drawings.held_out
        self.pixels = torch.from_numpy(drawings.pixels[keep]).to(device)
        labels = [f"{s}/{m}" for s, m in zip(drawings.styles, drawings.motifs, strict=True)]
        labels = [label for label, kept in zip(labels, keep, strict=True) if kept]
        count: dict[str, int] = {}
        for label in labels:
            count[label] = count.get(label, 0) + 1
        self.weights = torch.tensor([count[label] ** -0.5 for label in labels])

    def batch(self, size: int) -> Tensor:
        """[size, 3, H, W] in -1..1: half of them flipped, shifted by up to two pixels."""
        rows = torch.multinomial(self.weights, size, replacement=True).to(self.pixels.device)
        picture = as_input(self.pixels[rows])
        flip = torch.rand(size, 1, 1, 1) < 0.5
        picture = torch.where(flip.to(picture.device), picture.flip(3), picture)
        dx, dy = (int(v) for v in torch.randint(0, 5, (2,)))
        height, width = picture.shape[2:]
        return F.pad(picture, (2, 2, 2, 2), value=1.0)[..., dy : dy + height, dx : dx + width]


def as_input(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in -1..1, channels last in memory."""
    picture = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return picture.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16)


def reconstruct(model: nn.Module, picture: Tensor, scales, quantised: bool = True):
    """picture, codebook loss, ids and vectors of one training pass."""
    with autocast(picture.device):
        f = model.quant_conv(model.encoder(picture)).float()
    zero = f.new_zeros(())
    with torch.autocast(picture.device.type, enabled=False):
        f_hat, vq, ids, z = quantise(model.quantize, f, scales) if quantised else (f, zero, [], [])
    with autocast(picture.device):
        out = model.decoder(model.post_quant_conv(f_hat))
    return out.float(), vq, ids, z


def psnr(picture: Tensor, target: Tensor) -> Tensor:
    """dB per picture [B], of [B, 3, H, W] in -1..1."""
    error = (picture.clamp(-1, 1) - target).square().mean((1, 2, 3)) / 4
    return -10 * torch.log10(error.clamp(min=1e-8))


@torch.no_grad()
def evaluate(model: nn.Module, pixels: Tensor, scales, vocab: int) -> dict[str, float]:
    """Mean PSNR over pictures (dB, of 8-bit RGB in 0..1), and how the codes are used."""
    found, count = [], torch.zeros(vocab)
    for rows in pixels.split(64):
        picture = as_input(rows)
        out, _, ids, _ = reconstruct(model, picture, scales)
        found.append(psnr(out, picture))
        count += torch.bincount(torch.cat(ids).cpu(), minlength=vocab)
    share = count / count.sum()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return {
        "psnr": torch.cat(found).mean().item(),
        "codes_used": (count > 0).float().mean().item(),
        "perplexity": entropy.exp().item(),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train multiscale_vq", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--side", type=int, default=64, help="picture side in pixels")
    parser.add_argument("--scales", default="1,2,3,4,5,6,8")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--channels", type=int, default=16, help="width of a code")
    parser.add_argument("--ch", type=int, default=16)
    parser.add_argument("--ch-mult", default="1,2,4,8")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--groups", type=int, default=2, help="of GroupNorm; few are fast on a CPU")
    parser.add_argument("--phi", type=int, default=4, help="phi convolutions")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    return parser.parse_args(argv)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def build(args: argparse.Namespace) -> MultiScaleVQ:
    autoencoder = AutoencoderParams(
        args.ch, numbers(args.ch_mult), args.blocks, args.channels, args.groups
    )
    model = MultiScaleVQ(
        MultiScaleVQParams(autoencoder, args.vocab, args.phi, scales=numbers(args.scales))
    )
    for conv in model.quantize.phi:  # phi starts as the identity
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    return model


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    drawings = load_drawings(args.side, args.cache)
    scales = numbers(args.scales)
    model = build(args).to(device, memory_format=torch.channels_last)
    log.info("%d parameters, %d drawings", loop.parameter_count(model), len(drawings.names))
    ema = train(model, Pictures(drawings, device), scales, args, device)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        finish(model, drawings, args, device)
    loop.leave()
    return 0


def train(model, pictures: Pictures, scales, args, device) -> loop.Ema:
    """Runs until the budget is spent; returns the averaged weights."""
    optimiser = torch.optim.Adam(model.parameters(), lr=args.rate, betas=(0.9, 0.99), fused=True)
    ema = loop.Ema(model, 0.998)
    budget = loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "multiscale_vq.pt")
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    usage, quantised = Usage(args.vocab, device), budget.progress >= WARM_UP
    codes = model.quantize.embedding.weight.data
    torch.manual_seed(args.seed + 1000 * loop.rank() + budget.step)
    while (progress := budget.progress) < 1:
        if not quantised and progress >= WARM_UP:
            with torch.no_grad(), autocast(device):
                f = model.quant_conv(model.encoder(pictures.batch(1024))).float()
            place_codes(model.quantize, f, scales)
            loop.from_first(codes)
            quantised = True
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        picture = pictures.batch(args.batch)
        out, vq, ids, vectors = reconstruct(model, picture, scales, quantised)
        error = reconstruction_loss(out, picture)
        optimiser.zero_grad(set_to_none=True)
        (error + vq).backward()
        loop.average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model, budget.step)
        if quantised:
            usage.add(ids)
        if quantised and budget.step % REVIVE_EVERY == 0:
            dead = usage.revive(codes, vectors)
            loop.from_first(codes)
            log.info(
                "step %d %.0f s loss %.4f vq %.4f psnr %.2f dead %d",
                *(budget.step, budget.seconds, error.item(), vq.item()),
                *(psnr(out.detach(), picture).mean().item(), dead),
            )
        budget.tick()
        if state.due() and loop.rank() == 0:
            state.save(model, optimiser, ema, budget)
    if loop.rank() == 0:
        state.save(model, optimiser, ema, budget)
    return ema


def finish(model, drawings: Drawings, args, device) -> None:
    """Measures the averaged model and writes it with its config and metrics."""
    model.eval()
    pixels = torch.from_numpy(drawings.pixels).to(device)
    scales = numbers(args.scales)
    held = evaluate(model, pixels[torch.from_numpy(drawings.held_out)], scales, args.vocab)
    every = evaluate(model, pixels, scales, args.vocab)
    log.info("held out %s", held)
    log.info("all %s", every)
    config = {
        "vocab_size": args.vocab,
        "z_channels": args.channels,
        "ch": args.ch,
        "ch_mult": numbers(args.ch_mult),
        "num_res_blocks": args.blocks,
        "norm_num_groups": args.groups,
        "share_quant_resi": args.phi,
        "quant_resi": 0.5,
        "v_patch_nums": scales,
        "image_side": args.side,
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tensors = loop.half_tensors(publish_tokenizer(model.state_dict(), model.params))
    save_file(tensors, out / "mmgen_demo_vae.safetensors", {"config": json.dumps(config)})
    metrics = {"held_out": held, "all": every, "arguments": vars(args)}
    (out / "mmgen_demo_vae.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
