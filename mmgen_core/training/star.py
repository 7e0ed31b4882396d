"""Recipe of the demo text-to-image model: STAR's next-scale transformer on captioned drawings.

Objective: arXiv 2406.10797 section 3, cross-entropy over the tokens of all scales at once, with
text encoder and tokenizer frozen. Most of what it sees is the curated core of popular motifs
(`core_motifs`): a small net draws these well, and all 7,000 drawings as blots. Every drawing is
tokenised once before the start; captions are encoded as they are drawn.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints.files import read_checkpoint
from ..conditioners.scale_prompt import TextFeatures, TextRows
from ..models.clip_text import ClipText
from ..models.scale_attention import RotaryParams
from ..models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from ..systems.star import publish
from ..tokenizers.clip_text import ClipTextTokenizer, tokenizer_of
from ..tokenizers.multiscale_vq import MultiScaleVQ
from . import loop
from .captions import CaptionedDrawing, captioned_drawings
from .models import load_model
from .var import disturbed, keyless, optimiser_for

log = logging.getLogger(__name__)

TEXT_DROP = 0.06  # of the rows: no text at all
POOLED_DROP = 0.06  # the summary alone is that of "", as in STAR's unconditional rows
FULL_NAME = 0.5  # of the captions: one of the first two, the full name and the style


@dataclass
class TextEncoder:
    """The frozen encoder with its tokenizer."""

    model: ClipText
    tokenizer: ClipTextTokenizer

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> TextEncoder:
        model = load_model(path, device)
        return cls(model, tokenizer_of(read_checkpoint(path), model.params.positions))

    @torch.no_grad()
    def features(self, texts: list[str]) -> TextFeatures:
        device = self.model.token_embedding.weight.device
        ids, mask = (t.to(device) for t in self.tokenizer(texts))
        return self.model.features(ids, mask)


@dataclass(frozen=True)
class DrawnTexts:
    """Tokenised drawings: ids int16 [N, L], inputs fp16 [N, L-1, C], and their captions."""

    ids: Tensor
    inputs: Tensor
    captions: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """ids int64 [B, L], inputs fp32 [B, L-1, C], a caption of each."""
        texts = [some_caption(self.captions[i]) for i in index.tolist()]
        return self.ids[index].long(), self.inputs[index].float(), texts


def some_caption(captions: tuple[str, ...]) -> str:
    among = captions[:2] if torch.rand(()) < FULL_NAME else captions
    return among[int(torch.randint(len(among), ()))]


@torch.inference_mode()
def tokenise(tokenizer: MultiScaleVQ, drawings: list[CaptionedDrawing], device) -> DrawnTexts:
    ids, inputs = [], []
    for start in range(0, len(drawings), 64):
        rows = [torch.from_numpy(one.picture) for one in drawings[start : start + 64]]
        pixels = torch.stack(rows).to(device).float() / 255
        tokens = tokenizer.encode(pixels, tokenizer.params.scales)
        maps = [i.to(device) for i in tokens.ids]
        ids.append(torch.cat([i.flatten(1) for i in maps], dim=1).short())
        inputs.append(tokenizer.quantize.transformer_inputs(maps).half())
    return DrawnTexts(torch.cat(ids), torch.cat(inputs), [one.captions for one in drawings])


def chances(drawings: list[CaptionedDrawing], others: float) -> Tensor:
    """Chance of each drawing: the core evenly, and ``others`` for all that is not in it."""
    core = torch.tensor([bool(one.group) for one in drawings])
    share = torch.where(core, (1 - others) / core.sum(), others / (~core).sum().clamp(min=1))
    return share.float()


def initialise(model: ScaleTransformer) -> None:
    """Normal weights by width, the branches' last layers smaller the more branches there are."""
    C, depth = model.params.width, model.params.depth
    for name, p in model.named_parameters():
        if p.dim() >= 2 and "scale_mul" not in name:
            nn.init.trunc_normal_(p, std=(1 / (3 * C)) ** 0.5)
        else:
            nn.init.zeros_(p)
    with torch.no_grad():
        model.head.weight.mul_(0.1)
        nn.init.normal_(model.text_proj.weight, std=model.params.text_width**-0.5)
        for block in model.blocks:
            for branch in (block.attn.proj, block.cross_attn.proj, block.ffn.fc2):
                branch.weight.div_((3 * depth) ** 0.5)
            for attention in (block.attn, block.cross_attn):
                attention.scale_mul_1H11.fill_(1.4)
            block.attn.qkv.bias.register_hook(keyless)
            block.cross_attn.kv.bias.register_hook(keyless_pair)


def keyless_pair(grad: Tensor) -> Tensor:
    """As `keyless`, for keys and values."""
    k, v = grad.chunk(2)
    return torch.cat([torch.zeros_like(k), v])


def text_rows(encoder: TextEncoder, texts: list[str]) -> TextRows:
    """Features of the texts, some of them dropped so that guidance works."""
    fate = torch.rand(len(texts))
    texts = ["" if f < TEXT_DROP else text for text, f in zip(texts, fate.tolist(), strict=True)]
    features = encoder.features([*texts, ""])
    dropped = (fate < TEXT_DROP + POOLED_DROP)[:, None].to(features.pooled.device)
    pooled = torch.where(dropped, features.pooled[-1:], features.pooled[:-1])
    return TextRows(TextFeatures(features.hidden[:-1], pooled, features.mask[:-1]), len(texts))


def token_weights(scales: tuple[int, ...], power: float, device) -> Tensor:
    """Weight of every token's loss [L], mean 1: a map of n tokens counts as n ** (1 - power).
    What a picture shows is settled by its few coarse tokens."""
    count = torch.tensor([side * side for side in scales], device=device)
    weight = count.float().pow(-power).repeat_interleave(count)
    return weight / weight.mean()


def loss_of(model: ScaleTransformer, rows: TextRows, ids: Tensor, inputs: Tensor) -> Tensor:
    """Cross-entropy [B, L] of every token."""
    with torch.autocast(ids.device.type, torch.bfloat16), loop.attention_for(ids.device):
        logits = model(rows, inputs)
    loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    return loss.view_as(ids)


@torch.no_grad()
def mean_loss(model: ScaleTransformer, encoder: TextEncoder, some: DrawnTexts) -> float:
    """Cross-entropy per token with the full name and style as text."""
    total = 0.0
    for index in torch.arange(len(some), device=some.ids.device).split(64):
        ids, inputs, _ = some.rows(index)
        features = encoder.features([some.captions[i][0] for i in index.tolist()])
        rows = TextRows(features, len(ids))
        total += loss_of(model, rows, ids, inputs).mean(1).sum().item()
    return total / max(1, len(some))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train star", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--text-encoder", default="models/mmgen_demo_text.safetensors")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--learned-positions", action="store_true", help="in place of rotary")
    parser.add_argument("--others", type=float, default=0.08, help="share of other drawings")
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.02, help="weight decay of matrices")
    parser.add_argument("--input-noise", type=float, default=0.3)
    parser.add_argument("--coarse", type=float, default=0.5, help="0: all tokens count alike")
    return parser.parse_args(argv)


def build(args: argparse.Namespace, tokenizer: MultiScaleVQ, text_width: int) -> ScaleTransformer:
    p = tokenizer.params
    model = ScaleTransformer(
        ScaleTransformerParams(
            args.depth,
            args.width,
            args.heads,
            p.vocab,
            p.autoencoder.latent_channels,
            p.scales,
            text_width=text_width,
            rotary=None if args.learned_positions else RotaryParams(),
            smooth_filtered=False,
        )
    )
    initialise(model)
    return model


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    tokenizer, encoder = (
        load_model(args.tokenizer, device),
        TextEncoder.load(args.text_encoder, device),
    )
    side = tokenizer.params.scales[-1] * tokenizer.stride
    subset = "all" if args.others else "core"
    drawings = captioned_drawings(side, subset, "train", args.cache)
    train_set = tokenise(tokenizer, drawings, device)
    test_set = tokenise(tokenizer, captioned_drawings(side, "core", "held-out", args.cache), device)
    model = build(args, tokenizer, encoder.model.params.width).to(device)
    log.info("%d parameters, %d drawings", loop.parameter_count(model), len(train_set))
    shares = chances(drawings, args.others)
    ema, budget = train(model, encoder, train_set, test_set, shares, args)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        finish(model, encoder, tokenizer, train_set, test_set, budget, args)
    loop.leave()
    return 0


def train(model, encoder, train_set, test_set, shares, args) -> tuple[loop.Ema, loop.Budget]:
    """Runs until the budget is spent; returns the averaged weights and what was spent."""
    device = train_set.ids.device
    optimiser, ema = optimiser_for(model, args), loop.Ema(model, 0.998)
    budget = loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "star.pt")
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    torch.manual_seed(args.seed + 1000 * loop.rank() + budget.step)
    weight_L = token_weights(model.params.scales, args.coarse, device)
    running = None
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        index = torch.multinomial(shares, args.batch, replacement=True).to(device)
        ids, inputs, texts = train_set.rows(index)
        inputs = disturbed(inputs, args.input_noise)
        losses = loss_of(model, text_rows(encoder, texts), ids, inputs)
        optimiser.zero_grad(set_to_none=True)
        (losses * weight_L).mean().backward()
        loop.average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        ema.update(model, budget.step)
        loss = losses.mean().item()
        running = loss if running is None else 0.98 * running + 0.02 * loss
        budget.tick()
        if budget.step % 200 == 0:
            log.info("step %d %.0f s loss %.4f", budget.step, budget.seconds, running)
        if budget.step % 2000 == 0 and loop.rank() == 0:
            log.info("held out %.4f", mean_loss(model, encoder, test_set))
        if state.due() and loop.rank() == 0:
            state.save(model, optimiser, ema, budget)
    if loop.rank() == 0:
        state.save(model, optimiser, ema, budget)
    return ema, budget


def finish(model, encoder, tokenizer, train_set, test_set, budget, args) -> None:
    """Measures the averaged model and writes it with its config and metrics."""
    model.eval()
    core = torch.arange(len(train_set))[:: max(1, len(train_set) // 512)]
    some = DrawnTexts(
        train_set.ids[core], train_set.inputs[core], [train_set.captions[i] for i in core.tolist()]
    )
    metrics = {
        "held_out_loss": mean_loss(model, encoder, test_set),
        "train_loss": mean_loss(model, encoder, some),
        "steps": budget.step,
        "seconds": round(budget.seconds),
        "parameters": loop.parameter_count(model),
        "arguments": loop.settings(args),
    }
    log.info("%s", metrics)
    config = {"patch_nums": model.params.scales, "codebook": tokenizer.fingerprint}
    tensors = loop.half_tensors(publish(model.state_dict(), model.params))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "mmgen_demo_star.safetensors", {"config": json.dumps(config)})
    (out / "mmgen_demo_star.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
