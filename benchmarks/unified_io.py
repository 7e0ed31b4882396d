"""Unified-IO 2: seconds per token, prompt and peak memory against the cost model, and against a
plain decoder that computes cross-attention keys and values anew at every step.

Random weights at the published widths; ``--depth`` takes fewer layers, where memory is short.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from mmgen_core.decoding.encoder_prefix import read_prompts
from mmgen_core.decoding.kv_cache import KVCache
from mmgen_core.decoding.next_token import (
    PicturePlan,
    TokenSampling,
    draw_pictures,
    uniform_noise,
)
from mmgen_core.decoding.stream import DecoderStream, Prefix
from mmgen_core.models.encoder_decoder import StackParams, rotary_2d, turning
from mmgen_core.models.unified_io_2 import CODES_FROM, Patches, Prompt, UnifiedIO2, UnifiedIO2Params
from mmgen_core.models.unified_io_2_vision import ResamplerParams, VisionParams

from .common import machine, peak_bytes, say, spread, table, time_in_turns

WIDTHS = {"large": (1024, 16, 64, 2816), "xl": (2048, 16, 128, 5120), "xxl": (3072, 24, 128, 8192)}
SAMPLING = TokenSampling(temperature=1.0, top_p=0.9)
WEIGHTS = (11.0, -10.0)  # of prompt and negative prompt: the published scale 10


def model_of(size: str, depth: int, dtype: torch.dtype, device: torch.device) -> UnifiedIO2:
    width, heads, head_size, mlp = WIDTHS[size]
    stack = StackParams(width, heads, head_size, mlp, depth, depth, True, False)
    vision = VisionParams(11, 768, 12, 3072, 768, 197)
    history = ResamplerParams(2, 768, 12, 64, 2048, 32, False, 8)
    params = UnifiedIO2Params(stack, vision, history, 33280, 16512, 16384)
    model = UnifiedIO2(params, dtype, device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, 0.02, generator=generator)
    return model


def prompts(picture: bool) -> list[Prompt]:
    """A text of 20 tokens, with a square picture, and the negative prompt."""
    ids = torch.arange(3, 22)
    image = None
    if picture:
        values = torch.randn(576, 768, generator=torch.Generator().manual_seed(1))
        image = Patches(values, torch.ones(576, dtype=torch.bool), torch.arange(576))
    end = torch.tensor([1])
    return [Prompt(torch.cat([ids, end]), image), Prompt(torch.cat([ids[:10], end]), image)]


def ours(model: UnifiedIO2, prefix: Prefix, tokens: int) -> Tensor:
    stream = DecoderStream(model.target("image"), prefix, 1, tokens)
    weights = WEIGHTS if len(prefix.caches) > 1 else (1.0,)
    plan = PicturePlan.grid(1, tokens, slice(1, 2), CODES_FROM)
    noise = uniform_noise(0, 1, tokens)
    return draw_pictures(stream, weights, plan, SAMPLING, noise)


@torch.inference_mode()
def plain(model: UnifiedIO2, encoded: list[tuple[Tensor, Tensor]], tokens: int) -> Tensor:
    """One prompt after the other; cross keys and values anew, caches grown by concatenation."""
    stack, target = model.params.stack, model.target("image")
    generator = torch.Generator().manual_seed(0)
    ids, caches = torch.zeros(1, dtype=torch.int64), [[None] * stack.decoder_depth for _ in encoded]
    drawn = []
    for step in range(tokens):
        at = torch.tensor([step])
        table = turning(rotary_2d(at // 32, at % 32, stack.head_size))
        scores = []
        for (states, places), cache in zip(encoded, caches, strict=True):
            x = target.embed_ids(ids)
            for i, layer in enumerate(model.decoder.layers):
                h = layer.attention_norm(x)
                q = layer.attention.queries(h, table)[None].transpose(1, 2)
                pair = layer.attention.keys_values(h, table)
                pair = [part[None].transpose(1, 2) for part in pair]
                if cache[i] is not None:
                    pair = [torch.cat(both, 2) for both in zip(cache[i], pair, strict=True)]
                cache[i] = pair
                x = x + layer.attention.o(layer.attention.attend(q, *pair)[0])
                q = layer.cross.queries(layer.cross_norm(x), table)[None].transpose(1, 2)
                pair = [p.transpose(1, 2) for p in layer.cross.keys_values(states, turning(places))]
                x = x + layer.cross.o(layer.cross.attend(q, *pair)[0])
                x = x + layer.mlp(layer.mlp_norm(x))
            scores.append(target.scores(model.decoder.norm(x)))
        weights = WEIGHTS if len(scores) > 1 else (1.0,)
        logits = sum(w * s.log_softmax(-1) for w, s in zip(weights, scores, strict=True))
        p = SAMPLING.filtered(logits).softmax(-1)
        ids = torch.multinomial(p, 1, generator=generator)[0]
        drawn.append(ids)
    return torch.stack(drawn, 1)


def read_per_step(model: UnifiedIO2) -> int:
    """Weights that a step reads: both attentions but the cross keys and values, MLP, codes."""
    stack = model.params.stack
    inner = stack.heads * stack.head_size
    layer = 6 * stack.width * inner + 3 * stack.width * stack.mlp_width
    return stack.decoder_depth * layer + stack.width * model.params.codes


def measure(model: UnifiedIO2, arguments: argparse.Namespace, device: torch.device) -> float:
    target, tokens, stack = model.target("image"), arguments.tokens, model.params.stack
    asked = prompts(arguments.picture)
    one, two = (read_prompts(target, asked[:n]) for n in (1, 2))
    encoded = []
    with torch.inference_mode():
        for prompt in asked:
            given = model.embed_prompt(prompt)
            encoded.append((model.encode(given), given.rotary))
    runs: dict[str, Callable[[], object]] = {
        "prompt, once": lambda: read_prompts(target, asked[:1]),
        "tokens, no guidance": lambda: ours(model, one, tokens),
        "tokens, guidance": lambda: ours(model, two, tokens),
        "tokens, guidance, plain": lambda: plain(model, encoded, tokens),
    }
    seconds = time_in_turns(runs, arguments.repeats, device)
    size = read_per_step(model) * model.compute_dtype.itemsize
    rows = []
    for name, found in seconds.items():
        step = statistics.median(found) / (1 if "once" in name else tokens)
        rate = "" if "once" in name or "plain" in name else f"{size / step / 1e9:.1f}"
        rows.append([name, spread(found), f"{step * 1000:.1f}", rate])
    table(["", "s", "ms each", "GB/s of weights"], rows)
    sizes = (stack.decoder_depth, 1, stack.heads, 1, stack.head_size, model.compute_dtype)
    own = KVCache.nbytes(*sizes)
    cross = sum(part.nbytes for cache in two.caches for part in cache.cross)
    peak = peak_bytes(lambda: ours(model, two, tokens), device) or 0
    say(
        f"weights read per step {size / 1e9:.2f} GB; own keys and values {own / 1024:.0f} KiB per "
        f"token and branch; cross {cross / 2**20:.1f} MiB for both; peak beside them "
        f"{peak / 2**20:.0f} MiB"
    )
    ours_s, plain_s = (
        statistics.median(seconds[name]) for name in ("tokens, guidance", "tokens, guidance, plain")
    )
    return ours_s / plain_s


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench unified_io", description=__doc__)
    parser.add_argument("--size", choices=WIDTHS, default="large")
    parser.add_argument("--depth", type=int, default=24, help="layers of either stack")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--picture", action="store_true", help="a picture in the prompt, too")
    arguments = parser.parse_args(argv)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    device = torch.device(arguments.device)
    model = model_of(arguments.size, arguments.depth, names[arguments.dtype], device)
    say(
        f"Unified-IO 2 {arguments.size}, {arguments.depth} layers, {arguments.dtype}, "
        f"{arguments.tokens} tokens; {machine(device)}"
    )
    say(f"ratio {measure(model, arguments, device):.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
