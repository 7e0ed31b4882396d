"""Recipe of the demo scale model: VAR's class-conditional transformer on drawings.

Objective: arXiv 2404.02905 section 3. Cross-entropy over the tokens of all scales at once, the
tokenizer frozen, a tenth of the classes dropped so that guidance works. Every drawing is
tokenised once before the start, mirrored too where a mirrored drawing still means the same.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from ..systems.var import publish_transformer
from ..tokenizers.multiscale_vq import MultiScaleVQ
from . import loop
from .drawing_classes import NAMES, NO_CLASS, classes_of
from .drawings import Drawings, load_drawings
from .models import load_model

log = logging.getLogger(__name__)

CLASS_DROP = 0.1
UNNAMED_SHARE = 0.12  # of a batch: drawings without a class, which teach "no class"
ONE_SIDED = ("clock", "number key", "zodiac sign")  # a mirror image of these is another thing


@dataclass(frozen=True)
class TokenSet:
    """Tokenised drawings: ids int16 [N, L], inputs fp16 [N, L-1, C], classes int64 [N]."""

    ids: Tensor
    inputs: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids int64 [B, L], inputs fp32 [B, L-1, C], classes [B]."""
        return self.ids[index].long(), self.inputs[index].float(), self.classes[index]


@torch.inference_mode()
def tokenise(tokenizer: MultiScaleVQ, pixels: np.ndarray, classes: Tensor, device) -> TokenSet:
    """pixels uint8 [N, H, W, 3]."""
    scales, ids, inputs = tokenizer.params.scales, [], []
    for rows in torch.from_numpy(pixels).split(64):
        tokens = tokenizer.encode(rows.to(device).float() / 255, scales)
        ids.append(torch.cat([i.flatten(1) for i in tokens.ids], dim=1).short())
        maps = [i.to(device) for i in tokens.ids]
        inputs.append(tokenizer.quantize.transformer_inputs(maps).half())
    return TokenSet(torch.cat(ids).to(device), torch.cat(inputs), classes.to(device))


def token_sets(tokenizer, drawings: Drawings, device) -> tuple[TokenSet, TokenSet]:
    """The training drawings with their mirror images, and the held-out ones that have a class."""
    classes = torch.tensor(classes_of(drawings.motifs))
    held = torch.from_numpy(drawings.held_out)
    one_sided = torch.tensor([NAMES.index(name) for name in ONE_SIDED] + [NO_CLASS])
    mirrored = ~held & ~torch.isin(classes, one_sided)
    kept, flipped = drawings.pixels[~held.numpy()], drawings.pixels[mirrored.numpy()][:, :, ::-1]
    pixels = np.concatenate([kept, flipped])
    train = tokenise(tokenizer, pixels, torch.cat([classes[~held], classes[mirrored]]), device)
    test = held & (classes != NO_CLASS)
    return train, tokenise(tokenizer, drawings.pixels[test.numpy()], classes[test], device)


def sampling_weights(classes: Tensor) -> Tensor:
    """Chance of each drawing: classes by the root of their size, UNNAMED_SHARE for no class."""
    size = torch.bincount(classes, minlength=NO_CLASS + 1).float()
    share = size.sqrt()
    share[NO_CLASS] = 0
    share = share / share.sum() * (1 - UNNAMED_SHARE)
    share[NO_CLASS] = UNNAMED_SHARE
    return (share / size.clamp(min=1))[classes]


def initialise(model: ScaleTransformer) -> None:
    """Normal weights by width; gates open, so that the residual path carries gradients at once."""
    C, depth = model.params.width, model.params.depth
    for name, p in model.named_parameters():
        if p.dim() >= 2 and "scale_mul" not in name:
            nn.init.trunc_normal_(p, std=(1 / (3 * C)) ** 0.5)
        else:
            nn.init.zeros_(p)
    with torch.no_grad():
        model.head.weight.mul_(0.1)
        for block in model.blocks:
            block.attn.proj.weight.div_((2 * depth) ** 0.5)
            block.ffn.fc2.weight.div_((2 * depth) ** 0.5)
            block.attn.scale_mul_1H11.fill_(float(np.log(4)))
            block.ada_lin.bias[: 2 * C] = 1
            block.attn.qkv.bias.register_hook(keyless)


def keyless(grad: Tensor) -> Tensor:
    """The published layout has no bias for the keys: it stays zero."""
    q, k, v = grad.chunk(3)
    return torch.cat([q, torch.zeros_like(k), v])


def disturbed(inputs: Tensor, share: float) -> Tensor:
    """Inputs [B, L-1, C] with noise, each row its own amount up to `share` of their deviation.

    A model that has seen only true coarse maps draws badly on its own, slightly wrong ones.
    """
    amount = share * inputs.std() * torch.rand(len(inputs), 1, 1, device=inputs.device)
    return inputs + amount * torch.randn_like(inputs)


def loss_of(model: ScaleTransformer, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy per token, all tokens alike."""
    ids, inputs, classes = rows
    with torch.autocast(ids.device.type, torch.bfloat16), loop.attention_for(ids.device):
        logits = model(classes, inputs)
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


@torch.no_grad()
def held_out_loss(model: ScaleTransformer, test: TokenSet) -> float:
    total = 0.0
    for index in torch.arange(len(test), device=test.ids.device).split(64):
        total += loss_of(model, test.rows(index)).item() * len(index)
    return total / max(1, len(test))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train var", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="per process")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of matrices")
    parser.add_argument("--input-noise", type=float, default=0.3)
    return parser.parse_args(argv)


def build(args: argparse.Namespace, tokenizer: MultiScaleVQ) -> ScaleTransformer:
    p = tokenizer.params
    model = ScaleTransformer(
        ScaleTransformerParams(
            args.depth,
            args.width,
            args.heads,
            p.vocab,
            p.autoencoder.latent_channels,
            p.scales,
            len(NAMES),
        )
    )
    initialise(model)
    return model


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    tokenizer = load_model(args.tokenizer, device)
    drawings = load_drawings(tokenizer.params.scales[-1] * tokenizer.stride, args.cache)
    train_set, test_set = token_sets(tokenizer, drawings, device)
    model = build(args, tokenizer).to(device)
    log.info(
        "%d parameters, %d token maps, %d held out",
        loop.parameter_count(model),
        len(train_set),
        len(test_set),
    )
    ema, budget = train(model, train_set, test_set, args)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        finish(model, tokenizer, train_set, test_set, budget, args)
    loop.leave()
    return 0


def optimiser_for(model: nn.Module, args) -> torch.optim.Optimizer:
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "emb" not in n]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [
        {"params": matrices, "weight_decay": args.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=True)


def train(model, train_set: TokenSet, test_set: TokenSet, args) -> tuple[loop.Ema, loop.Budget]:
    """Runs until the budget is spent; returns the averaged weights and what was spent."""
    device = train_set.ids.device
    weights = sampling_weights(train_set.classes.cpu())
    optimiser, ema = optimiser_for(model, args), loop.Ema(model, 0.999)
    budget = loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "var.pt")
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    torch.manual_seed(args.seed + 1000 * loop.rank() + budget.step)
    running = None
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        index = torch.multinomial(weights, args.batch, replacement=True).to(device)
        ids, inputs, classes = train_set.rows(index)
        inputs = disturbed(inputs, args.input_noise)
        dropped = (torch.rand(args.batch) < CLASS_DROP).to(device)
        loss = loss_of(model, (ids, inputs, classes.masked_fill(dropped, NO_CLASS)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        loop.average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        ema.update(model, budget.step)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        budget.tick()
        if budget.step % 200 == 0:
            log.info("step %d %.0f s loss %.4f", budget.step, budget.seconds, running)
        if budget.step % 1000 == 0 and loop.rank() == 0:
            log.info("held out %.4f", held_out_loss(model, test_set))
        if state.due() and loop.rank() == 0:
            state.save(model, optimiser, ema, budget)
    if loop.rank() == 0:
        state.save(model, optimiser, ema, budget)
    return ema, budget


def finish(model, tokenizer, train_set, test_set, budget, args) -> None:
    """Measures the averaged model and writes it with its config and metrics."""
    model.eval()
    some = torch.randperm(len(train_set))[:512].to(train_set.ids.device)
    metrics = {
        "held_out_loss": held_out_loss(model, test_set),
        "train_loss": held_out_loss(model, TokenSet(*(t[some] for t in vars(train_set).values()))),
        "steps": budget.step,
        "seconds": round(budget.seconds),
        "parameters": loop.parameter_count(model),
        "arguments": vars(args),
    }
    log.info("%s", metrics)
    config = {
        "patch_nums": model.params.scales,
        "num_heads": model.params.heads,
        "classes": NAMES,
        "codebook": tokenizer.fingerprint,
    }
    tensors = loop.half_tensors(publish_transformer(model.state_dict(), model.params))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "mmgen_demo_var.safetensors", {"config": json.dumps(config)})
    (out / "mmgen_demo_var.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
