"""SEED: pictures encoded together or one by one, the way back, and image tokens against words.

    python -m mmgen_core bench seed [--depth 4 --width 512 --rows 8 --repeats 3]

Random weights in the published shapes, made narrower by --width and shallower by --depth so that a
CPU can run them; the codebook (8,192 codes) and the vocabulary (40,194 ids) are the published ones.
The peer is the plain way: every picture alone, and for SEED-LLaMA transformers' LlamaForCausalLM,
which the reference's demo uses, writing as many ids. The last line is our time for 32 image tokens
over the peer's.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from mmgen_core.conditioners.reverse_qformer import DetokenizerParams
from mmgen_core.decoding.next_token import (
    FREE,
    PicturePlan,
    TextRules,
    TokenSampling,
    draw_pictures,
    uniform_noise,
    write_text,
)
from mmgen_core.decoding.stream import Context, DecoderStream, Prefix, prefill
from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.models.qformer import QFormerParams
from mmgen_core.models.vision_transformer import VisionTransformer, VisionTransformerParams
from mmgen_core.tokenizers.seed import SeedTokenizer, SeedTokenizerParams

from .common import machine, say, spread, table, time_in_turns

CODES, VOCAB, TEXT = 32, 8192, 32000
PROMPT = 64  # ids
SAMPLING = TokenSampling(1.0, 50, 0.5)  # published


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench seed", description=__doc__)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8, help="pictures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def tokenizers(args: argparse.Namespace) -> tuple[VisionTransformer, SeedTokenizer]:
    vision = VisionTransformerParams(args.depth, args.width, 16, 4 * args.width, 14, 16)
    q = {"heads": 12, "hidden": 3072, "width": 768}
    qformer = QFormerParams(
        depth=12,
        queries=CODES,
        context_width=args.width,
        cross_layers=(0, 2, 4, 6, 8, 10),
        causal=True,
        **q,
    )
    reverse = QFormerParams(depth=4, queries=77, context_width=768, cross_layers=(0, 2), **q)
    detokenizer = DetokenizerParams(CODES, 768, 4, 3072, 768, reverse=reverse)
    params = SeedTokenizerParams(qformer, VOCAB, 32, detokenizer, 1)
    return (
        VisionTransformer(vision).to(args.device).eval(),
        SeedTokenizer(params).to(args.device).eval(),
    )


def batches(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    vision, tokenizer = tokenizers(args)
    pixels = torch.randn(args.rows, 3, 224, 224, device=args.device)
    tokens = tokenizer.encode(vision(pixels))

    def one_by_one(run: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [run(i) for i in range(args.rows)]

    return {
        "encode, together": lambda: tokenizer.encode(vision(pixels)),
        "encode, one by one": one_by_one(lambda i: tokenizer.encode(vision(pixels[i : i + 1]))),
        "way back, together": lambda: tokenizer.decode(tokens, args.device),
        "way back, one by one": one_by_one(
            lambda i: tokenizer.decode(tokens.rows(i, i + 1), args.device)
        ),
    }


def language(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """32 image tokens and 32 words by the engine, and as many ids by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab, heads = TEXT + VOCAB + 2, args.width // 64
    mlp = args.width * 11008 // 4096
    sizes = (args.depth, args.width, heads, heads, mlp, vocab)
    model = Decoder(DecoderParams(*sizes, head_blocks=(TEXT, VOCAB, 2))).to(args.device).eval()
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=args.width,
        intermediate_size=mlp,
        num_hidden_layers=args.depth,
        num_attention_heads=heads,
    )
    peer = LlamaForCausalLM(config).to(args.device).eval()
    ids = torch.arange(10, 10 + PROMPT)
    device = torch.device(args.device)
    plan = PicturePlan((FREE,) * CODES + (TEXT + VOCAB + 1,), slice(1, 2), TEXT, CODES)
    rules = TextRules((vocab,), CODES)  # an end that cannot come

    def read() -> Prefix:  # the peer reads its prompt in every run, too
        return prefill(model, [Context(ids)], device)

    def picture() -> object:
        stream = DecoderStream(model, read(), 1, len(plan.tokens))
        noise = uniform_noise(0, 1, len(plan.tokens))
        return draw_pictures(stream, [1.0], plan, SAMPLING, noise)

    def words() -> object:
        stream = DecoderStream(model, read(), 1, CODES)
        return write_text(stream, rules, SAMPLING, uniform_noise(0, 1, CODES))

    def theirs() -> object:
        return peer.generate(
            ids[None].to(device),
            do_sample=True,
            temperature=1.0,
            top_k=50,
            top_p=0.5,
            min_new_tokens=CODES,
            max_new_tokens=CODES,
            pad_token_id=0,
        )

    return {"32 image tokens": picture, "32 words": words, "32 ids, transformers": theirs}


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    say(machine(device))
    medians = {}
    for runs in (batches(args), language(args)):
        seconds = time_in_turns(runs, args.repeats, device)
        table(["run", "s (min-max)"], [[name, spread(times)] for name, times in seconds.items()])
        medians |= {name: statistics.median(times) for name, times in seconds.items()}
    encode = medians["encode, together"] / medians["encode, one by one"]
    back = medians["way back, together"] / medians["way back, one by one"]
    say(f"together over one by one: encode {encode:.3f}, way back {back:.3f}")
    say(f"image tokens over words: {medians['32 image tokens'] / medians['32 words']:.3f}")
    say(f"ratio {medians['32 image tokens'] / medians['32 ids, transformers']:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
