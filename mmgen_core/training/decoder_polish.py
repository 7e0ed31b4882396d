"""Recipe: sharpen a trained tokenizer's decoder while its codes stay as they are.

Encoder and quantiser are frozen, so models trained on the tokens remain valid, and the code maps
of all drawings can be computed once. The decoder alone learns to undo the quantisation.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints.files import read_checkpoint
from ..systems.var import publish_tokenizer
from ..tokenizers.multiscale_vq import MultiScaleVQ
from . import loop
from .drawings import load_drawings
from .models import load_model
from .multiscale_vq import as_input, autocast, evaluate, reconstruction_loss

log = logging.getLogger(__name__)


@torch.inference_mode()
def code_maps(model: MultiScaleVQ, pixels: Tensor) -> Tensor:
    """f_hat [2N, C, h, w] of uint8 pictures [N, H, W, 3], then of their mirror images."""
    sizes = [(side, side) for side in model.params.scales]
    maps = []
    for rows in torch.cat([pixels, pixels.flip(2)]).split(64):
        f = model.encode_features(rows.float() / 255)
        maps.append(model.quantize.encode(f, sizes)[1])
    return torch.cat(maps).clone()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train decoder_polish", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    model = load_model(args.tokenizer, device).to(memory_format=torch.channels_last)
    drawings = load_drawings(model.params.scales[-1] * model.stride, args.cache)
    pixels = torch.from_numpy(drawings.pixels).to(device)
    training = pixels[~torch.from_numpy(drawings.held_out)]
    maps = code_maps(model, training)
    ema = train(model, maps, torch.cat([training, training.flip(2)]), args)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        finish(model, pixels, drawings.held_out, args)
    loop.leave()
    return 0


def train(model: MultiScaleVQ, maps: Tensor, pixels: Tensor, args) -> loop.Ema:
    learning = nn.ModuleList([model.decoder, model.post_quant_conv]).requires_grad_(True)
    optimiser = torch.optim.Adam(learning.parameters(), args.rate, (0.9, 0.99), fused=True)
    ema, budget = loop.Ema(model, 0.998), loop.Budget(args.minutes, args.steps)
    generator = torch.Generator().manual_seed(args.seed + 1000 * loop.rank())
    while budget.progress < 1:
        loop.set_rate(optimiser, loop.one_cycle(budget.progress, args.rate))
        rows = torch.randint(len(maps), (args.batch,), generator=generator).to(maps.device)
        picture = as_input(pixels[rows])
        with autocast(maps.device):
            out = model.decoder(model.post_quant_conv(maps[rows]))
        error = reconstruction_loss(out.float(), picture)
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        loop.average_gradients(learning)
        optimiser.step()
        ema.update(model, budget.step)
        budget.tick()
        if budget.step % 200 == 0:
            log.info("step %d %.0f s loss %.4f", budget.step, budget.seconds, error.item())
    return ema


def finish(model: MultiScaleVQ, pixels: Tensor, held_out, args) -> None:
    """Measure and write the file anew, with the config it had."""
    scales, vocab, chosen = model.params.scales, model.params.vocab, torch.from_numpy(held_out)
    metrics = {
        "held_out": evaluate(model, pixels[chosen], scales, vocab),
        "all": evaluate(model, pixels, scales, vocab),
        "arguments": {k: vars(args)[k] for k in ("minutes", "steps", "seed", "batch", "rate")},
    }
    log.info("%s", metrics)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    config = {"config": json.dumps(read_checkpoint(args.tokenizer).config)}
    tensors = loop.half_tensors(publish_tokenizer(model.state_dict(), model.params))
    save_file(tensors, out / "mmgen_demo_vae.safetensors", config)
    text = json.dumps(metrics, indent=1) + "\n"
    (out / "mmgen_demo_vae.polish.json").write_text(text)


if __name__ == "__main__":
    raise SystemExit(main())
