"""STAR: seconds and peak memory of one picture against the number of scales done, at 256, 512
and 1024 px, with random weights; beside it what the sampler announces to the memory manager."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from mmgen_core.conditioners.scale_prompt import TextFeatures, TextPrompt
from mmgen_core.decoding.kv_cache import KVCache
from mmgen_core.decoding.next_scale import ScaleSampling, generate, memory_required
from mmgen_core.models.scale_attention import RotaryParams
from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.multiscale_vq import PUBLISHED_SCALES, MultiScaleVQ, MultiScaleVQParams

from .common import HighWater, machine, say, table

SAMPLING = ScaleSampling(guidance=4.0, top_k=600, top_p=0.8)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_WIDTH, TEXT_LENGTH = 1024, 77


@dataclass(frozen=True)
class Point:
    """After a scale: its side, all tokens so far, seconds and peak bytes since the start."""

    side: int
    tokens: int
    seconds: float
    peak: int


def random_model(depth: int, width: int, side: int, dtype: torch.dtype, device: torch.device):
    """A STAR of the published kind (without refiner) and its tokenizer, random weights."""
    scales = PUBLISHED_SCALES[side]
    params = ScaleTransformerParams(
        depth,
        width,
        width // 64,
        4096,
        32,
        scales,
        text_width=TEXT_WIDTH,
        rotary=RotaryParams(),
        smooth_filtered=False,
    )
    vq = MultiScaleVQParams(AutoencoderParams(160, (1, 1, 2, 2, 4), 2, 32), 4096, scales=scales)
    model = ScaleTransformer(params, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
        if name.endswith("scale_mul_1H11"):
            parameter.data.fill_(math.log(4))
    return model.eval(), MultiScaleVQ(vq, device=device).eval()


def text(seed: int) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, TEXT_LENGTH, TEXT_WIDTH, generator=generator)
    return TextFeatures(hidden, hidden[:, 9], torch.arange(TEXT_LENGTH)[None] < 10)


@torch.inference_mode()
def growth(model, tokenizer, device: torch.device) -> list[Point]:
    """One picture, measured after every scale."""
    prompt, points = TextPrompt(text(0), text(1)), []
    water, begun = HighWater(device), time.perf_counter()

    def on_step(step: int, total: int, f_hat: torch.Tensor) -> None:
        side = model.params.scales[len(points)]
        points.append(Point(side, step, time.perf_counter() - begun, water.peak()))

    generate(model, tokenizer, prompt, 0, SAMPLING, on_step=on_step)
    return points


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    width = args.width or 64 * args.depth
    say(f"STAR, depth {args.depth}, width {width}, {args.dtype}, guided; {machine(device)}")
    curves, last = {}, None
    for side in args.sides:
        model, tokenizer = random_model(args.depth, width, side, dtype, device)
        growth(model, tokenizer, device)  # a warm-up
        points = growth(model, tokenizer, device)
        p, rows = model.params, 2
        cache = KVCache.nbytes(p.depth, rows, p.heads, p.tokens, p.head_size, dtype)
        announced, last = memory_required(model, 1, True, SAMPLING, TEXT_LENGTH), points[-1]
        say(f"\n{side * 16} px: KV cache {cache / 1e6:.1f} MB, announced {announced / 1e6:.1f} MB")
        header = ["scales", "finest map", "tokens", "seconds", "peak MB beyond weights"]
        table(
            header,
            [
                [i + 1, f"{o.side} x {o.side}", o.tokens, f"{o.seconds:.3f}", f"{o.peak / 1e6:.1f}"]
                for i, o in enumerate(points)
            ],
        )
        curves[f"{side * 16} px"] = points
    if args.figure:
        plot(curves, args.figure, machine(device))
    say(f"seconds of the largest {last.seconds:.3f}")
    return 0


def plot(curves: dict[str, list[Point]], figure: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    fig, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, points in curves.items():
        count = range(1, len(points) + 1)
        left.plot(count, [p.seconds for p in points], "o-", label=name)
        right.plot(count, [p.peak / 1e6 for p in points], "o-", label=name)
    for panel, label in ((left, "seconds"), (right, "peak MB beyond weights")):
        panel.set(xlabel="scales done", ylabel=label)
        panel.legend()
    fig.suptitle(title, fontsize=8)
    fig.savefig(figure, dpi=110)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mmgen_core bench star", description=__doc__)
    parser.add_argument("--depth", type=int, default=30, help="published: 30 (and 16)")
    parser.add_argument("--width", type=int, help="published: 64 per layer of depth")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[16, 32, 64], help="finest maps: 256, 512, 1024 px"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="plot both over the scales")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
