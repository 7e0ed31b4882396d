"""Next-token models: our guided step against Hugging Face's Chameleon in the same process.

The same random weights (shared in memory), prompt, guidance and filters. transformers' own forward
masks every image token, so its inner model and head are called, which leaves the mask out. Theirs
runs on a static cache, once with its own guidance (a pass for each of the two prompts) and once
with both prompts batched by hand. ``--lengths`` and ``--pictures`` show how our step grows.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmgen_core.decoding.next_token import (
    PicturePlan,
    TokenSampling,
    draw_pictures,
    uniform_noise,
)
from mmgen_core.decoding.stream import Context, DecoderStream, prefill
from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.systems import chameleon
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.vqgan import VQGAN, VQGANParams

from .common import HighWater, machine, say, spread, synchronise, table, time_in_turns

# name -> depth, width, heads, kv heads, MLP width; the vocabulary is Chameleon's
SIZES = {
    "tiny": (2, 256, 4, 4, 512),
    "300m": (8, 1024, 16, 16, 2816),
    "1b": (16, 2048, 16, 16, 5504),
    "7b": (32, 4096, 32, 32, 11008),
    "34b": (48, 8192, 64, 8, 22016),
}
VOCAB, CODES, BOI = 65536, 8192, 8197
WEIGHTS = (3.0, -2.0)
SAMPLING = TokenSampling(0.7, 0, 0.9)


def random_model(size: str, dtype: torch.dtype, device: torch.device) -> Decoder:
    depth, width, heads, kv_heads, mlp = SIZES[size]
    params = DecoderParams(
        depth,
        width,
        heads,
        kv_heads,
        mlp,
        VOCAB,
        head_blocks=chameleon.head_blocks(VOCAB, CODES),
        norm_after=size == "34b",
        qk_norm="per head",
    )
    model = Decoder(params, dtype, "meta").to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(0, 0.02)
    return model


def prompts(length: int, device: torch.device) -> list[Context]:
    """A prompt and an equally long empty one, so that theirs can be batched without padding."""
    ids = torch.randint(16384, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 0, BOI
    return [Context(row.to(device)) for row in ids]


def our_run(
    model: Decoder, contexts: list[Context], steps: int, batch: int
) -> Callable[[], Tensor]:
    device = contexts[0].ids.device
    prefix = prefill(model, contexts, device)
    plan = PicturePlan.grid(1, steps, slice(1, 2), 4)
    noise = uniform_noise(0, batch, steps)

    def run() -> Tensor:
        stream = DecoderStream(model, prefix, batch, steps)
        return draw_pictures(stream, WEIGHTS, plan, SAMPLING, noise)

    return run


def peer_model(model: Decoder, device: torch.device):
    """Hugging Face's class on our tensors."""
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    p = model.params
    config = ChameleonConfig(
        vocab_size=p.vocab,
        hidden_size=p.width,
        intermediate_size=p.mlp_width,
        num_hidden_layers=p.depth,
        num_attention_heads=p.heads,
        num_key_value_heads=p.kv_heads,
        max_position_embeddings=8192,
        swin_norm=p.norm_after,
        vocabulary_map={"<image>": 8711},
        vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1},
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        peer = ChameleonForConditionalGeneration(config)
    tensors = chameleon.publish(model.state_dict(), p)
    peer.load_state_dict(tensors, strict=False, assign=True)
    peer.model.rotary_emb = type(peer.model.rotary_emb)(config).to(device)  # no weights
    peer.model.vqmodel = None
    return peer.eval().requires_grad_(False)


class PeerRun:
    """Their loop: every step scores all ids, keeps the image codes, warps and samples."""

    def __init__(self, peer, contexts: list[Context], steps: int, batched: bool):
        from transformers import StaticCache, TemperatureLogitsWarper, TopPLogitsWarper

        self.peer, self.steps = peer, steps
        ids = torch.stack([context.ids for context in contexts])
        self.rows = [ids] if batched else list(ids[:, None])
        self.warpers = [
            TemperatureLogitsWarper(SAMPLING.temperature),
            TopPLogitsWarper(SAMPLING.top_p),
        ]
        self.room = ids.shape[1] + steps
        self.cache = lambda: StaticCache(config=peer.config, max_cache_len=self.room)
        self.read = [self._read(rows) for rows in self.rows]
        self.closed = torch.ones(VOCAB, dtype=torch.bool, device=ids.device)
        self.closed[4 : 4 + CODES] = False

    def _read(self, ids: Tensor):
        cache = self.cache()
        return cache, self._scores(ids, cache, 0)

    def _scores(self, ids: Tensor, cache, start: int) -> Tensor:
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        out = self.peer.model(input_ids=ids, cache=cache, position_ids=positions, use_cache=True)
        return self.peer.lm_head(out.last_hidden_state[:, -1]).float()

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        start, scores, drawn = self.rows[0].shape[1], [read[1] for read in self.read], []
        caches = [read[0] for read in self.read]
        for cache in caches:
            for layer in cache.layers:  # back to the prompt
                layer.cumulative_length.fill_(start)
        for step in range(self.steps):
            both = torch.cat(scores)
            guided = (WEIGHTS[0] * both[:1] + WEIGHTS[1] * both[1:]).masked_fill(
                self.closed, -torch.inf
            )
            for warper in self.warpers:
                guided = warper(None, guided)
            token = torch.multinomial(guided.softmax(-1), 1)
            drawn.append(token)
            if step + 1 == self.steps:
                break  # nobody asks for what follows
            scores = [
                self._scores(token.expand(len(rows), 1), cache, start + step)
                for rows, cache in zip(self.rows, caches, strict=True)
            ]
        return torch.cat(drawn, dim=1)


def step_seconds(model: Decoder, length: int, batch: int, device, steps: int = 4) -> float:
    """Seconds of one guided step of ``batch`` pictures after ``length`` tokens."""
    contexts = prompts(2, device)
    prefix = prefill(model, contexts, device)
    stream = DecoderStream(model, prefix, batch, length + steps)
    for cache in stream.caches:
        cache.keys.normal_(), cache.values.normal_()
        cache.length = length
    plan = PicturePlan.grid(1, steps, slice(1, 2), 4)
    noise = uniform_noise(0, batch, steps)
    synchronise(device)
    begun = time.perf_counter()
    draw_pictures(stream, WEIGHTS, plan, SAMPLING, noise)
    synchronise(device)
    return (time.perf_counter() - begun) / (steps - 1)  # the first token costs no pass


@torch.inference_mode()
def growth(model: Decoder, args: argparse.Namespace, device: torch.device) -> None:
    rows = []
    for batch in args.pictures:
        times = [step_seconds(model, length, batch, device) for length in args.lengths]
        rows.append([str(batch), *(f"{1000 * seconds:.1f}" for seconds in times)])
    say("ms of a guided step, by tokens before it")
    table(["pictures", *map(str, args.lengths)], rows)


@torch.inference_mode()
def ends(model: Decoder, args: argparse.Namespace, device: torch.device) -> None:
    """What stands before and after the steps."""
    water = HighWater(device)
    begun = time.perf_counter()
    prefill(model, prompts(args.prompt, device), device)
    synchronise(device)
    say(f"prefill of 2 x {args.prompt} tokens: {time.perf_counter() - begun:.3f} s")
    tokenizer = VQGAN(VQGANParams(AutoencoderParams(128, (1, 1, 2, 2, 4), 2, 256), CODES, 256))
    tokenizer = tokenizer.to(device).eval()
    side = args.side // 16
    codes = torch.randn(1, 256, side, side, device=device)
    begun = time.perf_counter()
    tokenizer.decode_features(codes)
    synchronise(device)
    say(f"decode of {args.side} x {args.side} pixels: {time.perf_counter() - begun:.3f} s")
    say(f"peak memory beyond the weights, both: {water.peak() / 1e6:.0f} MB")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]
    model = random_model(args.size, dtype, device)
    values = sum(p.numel() for p in model.parameters())
    say(f"{args.size}: {values / 1e9:.2f} B, {args.dtype}; {machine(device)}")
    ends(model, args, device)
    growth(model, args, device)
    if args.no_peer:
        return 0
    contexts = prompts(args.prompt, device)
    with torch.inference_mode():
        peer = peer_model(model, device)
        runs = {
            "transformers, two passes": PeerRun(peer, contexts, args.steps, batched=False),
            "transformers, batched by hand": PeerRun(peer, contexts, args.steps, batched=True),
            "mmgen": our_run(model, contexts, args.steps, 1),
        }
        gc.collect()
        seconds = time_in_turns(runs, args.repeats, device)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    two, batched, ours = medians.values()
    rows = [[name, spread(times), f"{medians[name] / two:.3f}"] for name, times in seconds.items()]
    say(f"{args.steps} guided tokens of one picture after {args.prompt}")
    table(["", "seconds (min-max)", "of two passes"], rows)
    say(f"of theirs batched by hand {ours / batched:.3f}")
    say(f"ratio {ours / two:.3f}")
    return 0


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mmgen_core bench next-token", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each of two prompts")
    parser.add_argument("--steps", type=int, default=8, help="tokens timed against the peer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", type=numbers, default=[256, 1024, 2048, 4096])
    parser.add_argument("--pictures", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--side", type=int, default=256, help="of the decoded picture, in pixels")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--no-peer", action="store_true", help="only our own times")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
