"""SEED-X's and DreamLLM's language part: all queries in one pass, against one step for each.

The plain run is what the reference of SEED-X does: the prompt with a cache, then <img> and 64 image
tokens one by one, each chosen from scores though it is known. Weights are random, at the published
shape in a smaller size or in full (``--depth 40 --width 5120`` is SEED-X's). Diffusion is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from mmgen_core.decoding.query_spans import tail_states
from mmgen_core.decoding.stream import Context, DecoderStream, prefill
from mmgen_core.models.decoder import Decoder, DecoderParams

from .common import machine, peak_bytes, say, spread, table, time_in_turns

QUERIES, PROMPT = 64, 40  # tokens of a picture, and of a usual prompt
HEAD_SIZE = 128
BRANCHES = 2  # DreamLLM reads the caption and the empty one


def random_model(depth: int, width: int, dtype, device) -> Decoder:
    params = DecoderParams(
        depth=depth,
        width=width,
        heads=width // HEAD_SIZE,
        kv_heads=width // HEAD_SIZE,
        mlp_width=round(2.7 * width / 64) * 64,
        vocab=32330,
    )
    model = Decoder(params, dtype, device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.02, generator=generator)
        else:
            parameter.data.fill_(1.0)
    return model


def contexts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(3, 32000, (PROMPT,), generator=generator),
        torch.arange(32000, 32000 + QUERIES),
    )


def one_pass(model: Decoder, device) -> Callable[[], Tensor]:
    prompt, image = contexts()
    whole = Context(torch.cat([prompt, torch.tensor([32100]), image]))
    return lambda: tail_states(model, [whole], QUERIES, device)[0]


def two_branches(model: Decoder, device) -> Callable[[], Tensor]:
    """DreamLLM: the caption and the empty one, packed."""
    prompt, image = contexts()
    both = [Context(torch.cat([p, image])) for p in (prompt, prompt[:1])]
    return lambda: tail_states(model, both, QUERIES, device)


def step_by_step(model: Decoder, device) -> Callable[[], Tensor]:
    prompt, image = contexts()

    @torch.inference_mode()
    def run() -> Tensor:
        read = prefill(model, [Context(prompt)], device)
        stream, states = DecoderStream(model, read, 1, QUERIES + 2), []
        for token in [32100, *image.tolist()]:
            stream.scores(stream.hidden(), None).argmax(-1).item()  # the known choice is made
            stream.push(torch.tensor([[token]], device=device))
            states.append(stream.hidden()[0, 0])
        return torch.stack(states[1:])

    return run


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    model = random_model(args.depth, args.width, dtype, device)
    runs = {
        "plain, 65 steps": step_by_step(model, device),
        "mmgen, one pass": one_pass(model, device),
        "DreamLLM, two branches in one pass": two_branches(model, device),
    }
    pair = [runs[name]() for name in list(runs)[:2]]
    worst = float((pair[0] - pair[1]).abs().max() / pair[0].abs().max())
    seconds = time_in_turns(runs, args.repeats, device)
    weights = sum(p.numel() for p in model.parameters())
    say(f"Query models, {weights / 1e6:.0f} M, {args.dtype}, prompt {PROMPT}; {machine(device)}")
    say(f"largest difference of the states: {worst:.1e} of the largest")
    rows = []
    for name, run in runs.items():
        peak = peak_bytes(run, device)
        memory = "unknown" if peak is None else f"{peak / 1e6:.0f}"
        rows.append([name, spread(seconds[name]), memory])
    table(["", "seconds (min-max)", "peak MB beyond weights"], rows)
    medians = [sorted(seconds[name])[len(seconds[name]) // 2] for name in list(runs)[:2]]
    say(f"ratio {medians[1] / medians[0]:.3f}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench queries", description=__doc__)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
