"""Recipe of the demo next-token model: Chameleon's transformer on drawings, captions, answers and
short stories, with the demo VQGAN's codes (arXiv 2405.09818, with its z-loss).

The picture tokenizer and the transformer end up in one file of Hugging Face's layout.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.architecture import build
from ..checkpoints.files import read_checkpoint
from ..models.decoder import Decoder, DecoderParams
from ..systems import identify
from ..systems.chameleon import head_blocks, publish
from ..systems.vqgan import HF_PREFIX
from ..tokenizers.text import JsonTokenizer
from . import loop
from .captions import CaptionedDrawing, captioned_drawings
from .chameleon_data import BOTH, QUESTIONS, REDRAW, Tasks, train_tokenizer

log = logging.getLogger(__name__)

NAME = "mmgen_demo_chameleon"
Z_LOSS = 1e-5


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train chameleon", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--vqgan", default="models/mmgen_demo_vqgan.safetensors")
    parser.add_argument("--side", type=int, default=64, help="picture side in pixels")
    parser.add_argument("--pieces", type=int, default=600, help="text pieces beyond the bytes")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--mlp", type=int, default=384)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--start", help="a finished model file to go on from")
    parser.add_argument(
        "--tasks", default="0.5,0.18,0.14,0.18", help="shares of draw, answer, redraw, story"
    )
    return parser.parse_args(argv)


def coded(file: str, drawings: list[CaptionedDrawing]) -> tuple[Tensor, int]:
    """Codes [N, n] of the drawings, and how many codes there are."""
    checkpoint = read_checkpoint(file)
    tokenizer = build(identify(checkpoint, "image tokenizer"), checkpoint, dtype=torch.float32)
    pixels = torch.stack([torch.from_numpy(one.picture) for one in drawings])
    with torch.inference_mode():
        ids = [tokenizer.encode(rows.float() / 255).ids[0] for rows in pixels.split(32)]
    return torch.cat(ids).flatten(1).clone(), tokenizer.params.vocab


def texts_of(drawings: list[CaptionedDrawing]) -> list[str]:
    captions = [text for one in drawings for text in (*one.captions, *one.names)]
    return captions + [*QUESTIONS, *REDRAW, *BOTH] * 40


def started(args: argparse.Namespace, vocab: int, codes: int) -> Decoder:
    params = DecoderParams(
        args.depth,
        args.width,
        args.heads,
        args.heads,
        args.mlp,
        vocab,
        head_blocks=head_blocks(vocab, codes),
        qk_norm="per head",
    )
    model = Decoder(params)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "_norm." not in name:
            last = name.endswith(("attention.o.weight", "mlp.down.weight"))
            scale = 0.02 / (2 * args.depth) ** 0.5 if last else 0.02 * (192 / args.width) ** 0.5
            torch.nn.init.normal_(parameter, std=scale * 2)
    return model


def loss_of(model: Decoder, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of the cross entropy, with z-loss; and without it."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = model.hidden_states(model.embed_ids(ids[:, :-1]))
        wanted = weights[:, 1:] > 0
        logits = model.scores(hidden[wanted])
    entropy = F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    share = weights[:, 1:][wanted] / weights[:, 1:].sum()
    mean = (share * entropy).sum()
    return mean + Z_LOSS * (share * logits.logsumexp(-1).square()).sum(), mean.detach()


def train(model: Decoder, tasks: Tasks, args: argparse.Namespace, device) -> loop.Ema:
    decays = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decays, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.97), fused=True)
    ema, budget = loop.Ema(model, 0.997), loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "chameleon.pt", every_seconds=120)
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    rng, mean = random.Random(args.seed + budget.step), 0.0
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate, warm=0.03))
        ids, weights = tasks.batch(args.batch, rng)
        loss, entropy = loss_of(model, ids.to(device), weights.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model, budget.step)
        mean += (entropy.item() - mean) * max(0.02, 1 / (budget.step + 1))
        if budget.step % 50 == 0:
            log.info("step %d %.0f s loss %.4f", budget.step, budget.seconds, mean)
        budget.tick()
        if state.due():
            state.save(model, optimiser, ema, budget)
    state.save(model, optimiser, ema, budget)
    return ema


def finish(model: Decoder, tokenizer: JsonTokenizer, args: argparse.Namespace) -> None:
    """One file with the tokenizer's tensors and the transformer's, and the config of both."""
    p, vqgan = model.params, read_checkpoint(args.vqgan)
    config = {
        "model_type": "chameleon",
        "hidden_size": p.width,
        "intermediate_size": p.mlp_width,
        "num_hidden_layers": p.depth,
        "num_attention_heads": p.heads,
        "num_key_value_heads": p.kv_heads,
        "rms_norm_eps": p.norm_eps,
        "rope_theta": p.rotary_base,
        "swin_norm": p.norm_after,
        "vocab_size": p.vocab,
        "max_position_embeddings": 512,
        "vq_config": vqgan.config,
        "image_size": args.side,
    }
    tensors = publish(model.state_dict(), p)
    tensors |= {f"{HF_PREFIX}{name}": tensor for name, tensor in vqgan.tensors.items()}
    out = Path(args.out)
    file = out / f"{NAME}.safetensors"
    stored = loop.byte_tensors(tensors, keep=("norm", "quantize.embedding"))
    save_file(stored, file, {"config": json.dumps(config), "format": "pt"})
    log.info("%s, %.1f MB", file, file.stat().st_size / 1e6)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    drawings = captioned_drawings(args.side, "core", "train", args.cache)
    codes, count = coded(args.vqgan, drawings)
    path = Path(args.out) / f"{NAME}.tokenizer.json"
    if args.fresh or not path.is_file():
        train_tokenizer(texts_of(drawings), count, args.pieces, path)
    tokenizer = JsonTokenizer(path)
    torch.manual_seed(args.seed)
    model = started(args, len(tokenizer), count).to(device)
    log.info("%d parameters, %d ids", loop.parameter_count(model), len(tokenizer))
    if args.start:
        checkpoint = read_checkpoint(args.start)
        match = identify(checkpoint, "next-token model")
        model.load_state_dict(match.architecture.state_dict(checkpoint.tensors))
    tasks = Tasks(drawings, codes, tokenizer)
    shares = map(float, args.tasks.split(","))
    tasks.kinds = dict(zip(tasks.kinds, shares, strict=True))
    with loop.attention_for(device):
        ema = train(model, tasks, args, device)
    model.load_state_dict(ema.average)
    finish(model, tokenizer, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
