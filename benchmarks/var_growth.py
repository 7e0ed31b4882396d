"""How VAR's cost grows with depth, batch and scales: measured points over the arithmetic."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from mmgen_core.conditioners.scale_prompt import ClassPrompt
from mmgen_core.decoding.next_scale import ScaleSampling, generate
from mmgen_core.models.scale_transformer import ScaleTransformerParams

from .common import machine, say, table, time_in_turns

DEPTHS, BATCHES, SCALE_COUNTS = (4, 8, 12, 16), (1, 2, 4, 8), (4, 6, 8, 10)
BASE_DEPTH = 8


def flops(params: ScaleTransformerParams, batch: int) -> float:
    """Multiply-adds x 2 of one guided picture batch, without the decode (performance model:
    linear layers of all tokens, attention over the growing cache, head, AdaLN once)."""
    width, rows = params.width, 2 * batch
    block = params.depth * 12 * width**2 + width * params.vocab
    total, seen = 2.0 * rows * params.depth * 6 * width**2, 0
    for count in params.tokens_per_scale:
        seen += count
        total += 2.0 * rows * count * block + 4.0 * params.depth * width * rows * count * seen
    return total


def measure(load, device: torch.device, repeats: int, figure: Path) -> None:
    """Time the token part (no decode) along three axes and plot seconds beside arithmetic.

    Args:
        load: (depth, scales) to a pair of model and tokenizer.
    """
    axes = {
        "depth": [(d, load(d, None), 1) for d in DEPTHS],
        "batch": [(b, load(BASE_DEPTH, None), b) for b in BATCHES],
        "scales": [(n, load(BASE_DEPTH, n), 1) for n in SCALE_COUNTS],
    }
    say(f"growth; {machine(device)}")
    curves = {}
    for axis, points in axes.items():
        runs = {str(x): _run(pair, batch) for x, pair, batch in points}
        seconds = time_in_turns(runs, repeats, device)
        curves[axis] = [
            (x, statistics.median(seconds[str(x)]), flops(pair[0].params, batch))
            for x, pair, batch in points
        ]
        rows = [[x, f"{s:.3f}", f"{f / 1e9:.0f}", f"{f / s / 1e9:.0f}"] for x, s, f in curves[axis]]
        table([axis, "seconds", "GFLOP", "GFLOP/s"], rows)
    _plot(curves, figure, machine(device))


def _run(pair, batch: int):
    sampling = ScaleSampling(4.0, 900, 0.95)
    return lambda: generate(*pair, ClassPrompt([1] * batch), 0, sampling)


def _plot(curves: dict, figure: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    fig, panels = pyplot.subplots(1, len(curves), figsize=(11, 3.2), layout="constrained")
    for panel, (axis, points) in zip(panels, curves.items(), strict=True):
        x, seconds, work = zip(*points, strict=True)
        panel.plot(x, seconds, "o-", label="measured")
        rate = work[-1] / seconds[-1]
        panel.plot(x, [w / rate for w in work], "--", label="arithmetic, scaled to the last point")
        panel.set(xlabel=axis, ylabel="seconds", ylim=(0, None))
    panels[0].legend(fontsize=7)
    fig.suptitle(title, fontsize=8)
    fig.savefig(figure, dpi=110)
