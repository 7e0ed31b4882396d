"""Show-o: our masked engine against a straightforward full recompute, with the same weights.

The plain run is what the reference does: prompts padded to their full length, both guidance rows
run whole in every step under a dense float mask, the head over all ids and positions. It draws
the same codes. Weights are random, at the published shape; the decode to pixels is left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmgen_core.conditioners.show_o_prompt import drawing_ids, padded_drawing_ids
from mmgen_core.decoding.masked import (
    UNKNOWN,
    MaskedNoise,
    MaskedSampling,
    Prompts,
    confidence,
    draw_codes,
    guided,
    known_or_drawn,
    masked_noise,
    remask,
)
from mmgen_core.decoding.sampling import draw
from mmgen_core.models.decoder import DecoderParams, rotary_table, rotate
from mmgen_core.models.omni_attention import drawing_mask
from mmgen_core.models.show_o import SPECIALS, ShowO, ShowOParams

from .common import machine, peak_bytes, say, spread, table, time_in_turns

TEXT_VOCAB, CODES, GUIDANCE = 50295, 8192, 1.75
PROMPT = list(range(100, 112))  # twelve tokens, as a short prompt has


def random_model(depth: int, width: int, image_tokens: int, dtype, device) -> ShowO:
    decoder = DecoderParams(
        depth=depth,
        width=width,
        heads=width // 64,
        kv_heads=width // 64,
        mlp_width=4 * width,
        vocab=TEXT_VOCAB + SPECIALS + CODES + 1,
        head_blocks=(TEXT_VOCAB + SPECIALS, CODES, 1),
        norm="layer",
        qk_norm="shared",
        rotary_share=0.5,
        gated=False,
        parallel=True,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )
    params = ShowOParams(decoder, TEXT_VOCAB, CODES, image_tokens)
    model = ShowO(params, dtype, device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 0.02)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def run_of(model: ShowO, sampling: MaskedSampling, device) -> tuple[list[Tensor], list, Tensor]:
    """Prompts, noise and the empty canvas of one picture."""
    p = model.params
    noise = masked_noise([torch.Generator().manual_seed(1)], p.image_tokens, sampling.steps)
    start = torch.full((1, p.image_tokens), UNKNOWN, device=device)
    return [drawing_ids(p, PROMPT), drawing_ids(p, [])], noise, start


def our_run(model: ShowO, sampling: MaskedSampling, device) -> Callable[[], Tensor]:
    (prompt, empty), noise, start = run_of(model, sampling, device)

    def run() -> Tensor:
        with torch.inference_mode():
            read = Prompts(model, [prompt], empty, model.params.image_tokens, device)
            return draw_codes(read, start, sampling, noise)

    return run


def plain_run(model: ShowO, sampling: MaskedSampling, device) -> Callable[[], Tensor]:
    prompts, noise, start = run_of(model, sampling, device)
    p = model.params
    rows = [padded_drawing_ids(p, prompt, start)[0] for prompt in (x.to(device) for x in prompts)]
    allowed = torch.stack([drawing_mask(row, p) for row in rows])[:, None]
    mask = torch.zeros(allowed.shape, device=device).masked_fill(~allowed, -9.2e18)

    def run() -> Tensor:
        with torch.inference_mode():
            return plain_generate(model, rows, mask, start, sampling, noise)

    return run


def plain_generate(
    model: ShowO,
    rows: list[Tensor],
    mask: Tensor,
    codes: Tensor,
    sampling: MaskedSampling,
    noise: list[MaskedNoise],
) -> Tensor:
    p, N = model.params, model.params.image_tokens
    schedule = zip(sampling.masked_counts(N), sampling.temperatures(), noise, strict=True)
    for wanted, temperature, numbers in schedule:
        ids = torch.stack(rows)
        ids[:, -N - 1 : -1] = torch.where(codes == UNKNOWN, p.mask, codes + p.first_code)
        logits = model.decoder.scores(plain_hidden(model, ids, mask))
        logits = guided(logits[:, -N - 1 : -1, p.first_code : p.mask], sampling.guidance)
        probs = logits.softmax(-1)
        drawn = known_or_drawn(codes, draw(logits, numbers.draw.to(codes.device)))
        unknown = codes == UNKNOWN
        sure = confidence(
            probs.gather(-1, drawn[..., None])[..., 0],
            unknown,
            temperature,
            numbers.order.to(codes.device),
        )
        masking, _ = remask(sure, unknown, wanted)
        codes = torch.where(masking & unknown, UNKNOWN, drawn)
    return drawn


def plain_hidden(model: ShowO, ids: Tensor, mask: Tensor) -> Tensor:
    """Whole sequences [B, L], layer by layer, in the plainest form."""
    decoder, L = model.decoder, ids.shape[1]
    angles = rotary_table(decoder.params, torch.arange(L, device=ids.device))
    x = decoder.embed_ids(ids)
    for layer in decoder.layers:
        h, attention = layer.attention_norm(x), layer.attention
        q, k, v = (
            part(h).unflatten(-1, (attention.heads, -1))
            for part in (attention.q, attention.k, attention.v)
        )
        q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = (torch.stack([rotate(row, angles) for row in part]) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        x = x + attention.o(seen.transpose(1, 2).flatten(2)) + layer.mlp(h)
    return decoder.norm(x)


def flops(model: ShowO, steps: int, rows: int = 2) -> tuple[float, float]:
    """Multiply-adds x 2 of a run: ours, and the plain one's."""
    p, d = model.params, model.params.decoder
    n, layer = p.image_tokens + 2, 12 * d.width**2
    whole = p.prompt_tokens + 1 + n
    read = 4 * len(PROMPT)  # the prompts, once
    seen = n + len(PROMPT) + 3
    ours = steps * rows * (n * (d.depth * layer + 2 * d.depth * d.width * seen))
    ours += steps * rows * p.image_tokens * d.width * p.codes + read * d.depth * layer
    plain = steps * rows * whole * (d.depth * (layer + 2 * d.width * whole) + d.width * d.vocab)
    return 2.0 * ours, 2.0 * plain


def growth(args, dtype, device) -> None:
    """Seconds over steps and over image tokens, beside the arithmetic."""
    points: dict[str, tuple[ShowO, int]] = {}
    base = random_model(6, 512, 256, dtype, device)
    for steps in (1, 2, 4, 8):
        points[f"{steps} steps, 256 codes"] = base, steps
    for side in (8, 16, 24, 32):
        points[f"2 steps, {side**2} codes"] = random_model(6, 512, side**2, dtype, device), 2
    runs = {
        name: our_run(model, MaskedSampling(steps, GUIDANCE), device)
        for name, (model, steps) in points.items()
    }
    seconds = time_in_turns(runs, args.repeats, device)
    rows = []
    for name, (model, steps) in points.items():
        work, median = flops(model, steps)[0], statistics.median(seconds[name])
        rows.append(
            [name, spread(seconds[name]), f"{work / 1e9:.0f}", f"{work / median / 1e9:.0f}"]
        )
    say(f"Show-o growth, depth 6, width 512; {machine(device)}")
    table(["", "seconds (min-max)", "GFLOP", "GFLOP/s"], rows)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    if args.growth:
        growth(args, dtype, device)
        return 0
    model = random_model(args.depth, args.width, args.side**2, dtype, device)
    sampling = MaskedSampling(args.steps, GUIDANCE)
    runs = {
        "plain": plain_run(model, sampling, device),
        "mmgen": our_run(model, sampling, device),
    }
    count = sum(p.numel() for p in model.parameters())
    say(f"Show-o {count / 1e6:.0f} M, {args.side * 16} px, {args.steps} steps; {machine(device)}")
    seconds = time_in_turns(runs, args.repeats, device)
    same = (runs["plain"]() == runs["mmgen"]()).float().mean()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    work = dict(zip(("mmgen", "plain"), flops(model, args.steps), strict=True))
    rows = []
    for name, run in runs.items():
        peak = peak_bytes(run, device)
        memory = "unknown" if peak is None else f"{peak / 1e6:.0f}"
        rate = work[name] / medians[name] / 1e9
        rows.append([name, spread(seconds[name]), f"{work[name] / 1e9:.0f}", f"{rate:.0f}", memory])
    table(["", "seconds (min-max)", "GFLOP", "GFLOP/s", "peak MB beyond weights"], rows)
    say(f"equal codes {100 * float(same):.1f} %")
    say(f"ratio {medians['mmgen'] / medians['plain']:.3f}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mmgen_core bench show-o", description=__doc__)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024, help="0.3 B with the default depth")
    parser.add_argument("--side", type=int, default=16, help="codes: 16 (256 px), 32 (512 px)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--growth", action="store_true", help="time over steps and codes instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
