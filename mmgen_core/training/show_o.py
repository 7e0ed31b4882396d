"""Recipe of the demo Show-o: one small transformer that draws, in-paints and names drawings.

Objectives of arXiv 2408.12528 section 3: masked codes are predicted where they stand (share of
masks cosine of a uniform number, the text dropped from a tenth of the rows), and answers to
questions about a picture by next token. The tokenizer is frozen; every drawing of some groups of
the curated core (`core_motifs`) is tokenised once.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..conditioners.show_o_prompt import drawing_ids, question_ids, question_text
from ..models.decoder import DecoderParams
from ..models.omni_attention import drawing_mask, question_mask
from ..models.show_o import SPECIALS, ShowO, ShowOParams
from ..systems.show_o import publish_model
from ..tokenizers.lookup_free import LookupFreeTokenizer
from ..tokenizers.text import TextTokenizer, load_text_tokenizer
from . import loop
from .captions import CaptionedDrawing, article, captioned_drawings
from .models import load_model

log = logging.getLogger(__name__)

FILE = "mmgen_demo_show_o.safetensors"
END = "<|endoftext|>"
TEXT_DROP = 0.1
FULL_NAME = 0.5  # of the captions: one of the first two, the full name and the style
GROUPS = "heart,shape,face,animal,plant,fruit,food,sky"
QUESTIONS = ("What is this?", "What do you see?", "What is in the picture?", "Name this drawing.")


def train_text_tokenizer(texts: list[str], size: int, path: Path) -> TextTokenizer:
    """A byte-level BPE of the kind Phi has, small, written beside the model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=sorted(alphabet)
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    return load_text_tokenizer(path)


@dataclass(frozen=True)
class Tokenised:
    """Drawings as codes int64 [N, n], and the ids of their prompts and answers."""

    codes: Tensor
    prompts: list[list[list[int]]]
    answers: list[list[int]]


def texts_of(drawings: list[CaptionedDrawing]) -> list[str]:
    asked = [question_text(question) for question in QUESTIONS]
    return [c for one in drawings for c in (*one.captions, answer_of(one))] + asked * 50


def answer_of(one: CaptionedDrawing) -> str:
    return f" {article(one.names[0])}, {one.style} style"


@torch.inference_mode()
def tokenise(
    drawings: list[CaptionedDrawing],
    tokenizer: LookupFreeTokenizer,
    text: TextTokenizer,
    device: torch.device,
) -> Tokenised:
    """Every drawing."""
    pixels = torch.from_numpy(np.stack([one.picture for one in drawings]))
    codes = [tokenizer.encode(rows.to(device).float() / 255).ids[0] for rows in pixels.split(64)]
    prompts = [[text.encode(caption) for caption in one.captions] for one in drawings]
    answers = [text.encode(answer_of(one)) for one in drawings]
    return Tokenised(torch.cat(codes).flatten(1), prompts, answers)


@dataclass(frozen=True)
class Rows:
    """Sequences of one length: ids [B, L], masks [B, 1, L, L], labels [B, L] (-1 for none)."""

    ids: Tensor
    masks: Tensor
    labels: Tensor


class Batches:
    """Rows of training."""

    def __init__(self, params: ShowOParams, data: Tokenised, text: TextTokenizer):
        self.params, self.data = params, data
        self.questions = [text.encode(question_text(question)) for question in QUESTIONS]
        texts = max(map(len, self.questions)) + max(map(len, data.answers))
        self.longest = data.codes.shape[1] + 5 + texts

    def drawing(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and labels (the masked codes, else -1) of a drawing to complete."""
        p, codes = self.params, self.data.codes[row]
        prompts = self.data.prompts[row]
        among = prompts[:2] if torch.rand(()) < FULL_NAME else prompts
        text = among[int(torch.randint(len(among), ()))] if torch.rand(()) >= TEXT_DROP else []
        count = max(1, round(math.cos(float(torch.rand(())) * math.pi / 2) * len(codes)))
        masked = torch.zeros(len(codes), dtype=torch.bool)
        masked[torch.randperm(len(codes))[:count]] = True
        ids = torch.where(masked, p.mask, codes + p.first_code)
        prompt = drawing_ids(p, text, cut=True)
        left = torch.full((p.prompt_tokens + 1 - len(prompt),), p.pad)
        ends = torch.tensor([p.soi]), torch.tensor([p.eoi])
        whole = torch.cat([left, prompt, ends[0], ids, ends[1]])
        labels = torch.full_like(whole, -1)
        labels[-len(codes) - 1 : -1] = torch.where(masked, codes, -1)
        return whole, drawing_mask(whole, p), labels

    def question(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and labels (the id after each of the answer's) of a question."""
        p, answer = self.params, self.data.answers[row]
        asked = self.questions[int(torch.randint(len(self.questions), ()))]
        whole = question_ids(p, self.data.codes[row], [*asked, *answer, p.end_of_text])
        start = len(whole) - len(answer) - 1
        labels = torch.full((self.longest,), -1)
        labels[start - 1 : len(whole) - 1] = whole[start:]
        ids = torch.cat([whole, whole.new_full((self.longest - len(whole),), p.end_of_text)])
        return ids, question_mask(ids, p), labels

    def batch(self, drawings: int, questions: int) -> tuple[Rows, Rows]:
        """Drawings to complete, and questions."""
        rows = torch.randint(len(self.data.codes), (drawings + questions,)).tolist()
        drawn = [self.drawing(row) for row in rows[:drawings]]
        return stacked(drawn), stacked([self.question(row) for row in rows[drawings:]])


def stacked(rows: list[tuple[Tensor, Tensor, Tensor]]) -> Rows:
    ids, masks, labels = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return Rows(ids, masks[:, None], labels)


def losses(model: ShowO, drawings: Rows, questions: Rows) -> tuple[Tensor, Tensor]:
    """Cross entropy of the masked codes, and of the answers."""
    return (
        masked_loss(model, drawings, model.code_scores),
        masked_loss(model, questions, model.decoder.scores),
    )


def masked_loss(model: ShowO, rows: Rows, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross entropy where the rows have labels."""
    device = model.decoder.embed.weight.device
    ids, masks, labels = (x.to(device) for x in (rows.ids, rows.masks, rows.labels))
    with torch.autocast(device.type, torch.bfloat16), loop.attention_for(device):
        hidden = model.decoder.hidden_states(model.decoder.embed_ids(ids), masks)
        logits = score(hidden[labels >= 0])
    return F.cross_entropy(logits, labels[labels >= 0])


def initialise(model: nn.Module) -> None:
    """Normal weights; what a layer adds to the stream starts small."""
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            scale = 0.5 if name.endswith(("attention.o.weight", "mlp.down.weight")) else 1.0
            nn.init.trunc_normal_(p, std=0.03 * scale)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
        else:
            nn.init.ones_(p)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train show_o", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_magvit.safetensors")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--groups", default=GROUPS, help="of motifs that are learned")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--text-vocab", type=int, default=768)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=20, help="drawings to complete")
    parser.add_argument("--questions", type=int, default=4, help="rows of a batch besides")
    parser.add_argument("--question-weight", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    return parser.parse_args(argv)


def build(args, tokenizer: LookupFreeTokenizer, text: TextTokenizer) -> ShowO:
    codes, text_vocab = tokenizer.params.vocab, len(text)
    decoder = DecoderParams(
        depth=args.depth,
        width=args.width,
        heads=args.heads,
        kv_heads=args.heads,
        mlp_width=4 * args.width,
        vocab=text_vocab + SPECIALS + codes + 1,
        head_blocks=(text_vocab + SPECIALS, codes, 1),
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
    params = ShowOParams(
        decoder,
        text_vocab,
        codes,
        image_tokens=(args.side // tokenizer.stride) ** 2,
        prompt_tokens=args.prompt_tokens,
        end_of_text=text.id_of(END),
        codebook=tokenizer.fingerprint,
    )
    return ShowO(params)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_model(args.tokenizer, device)
    core = captioned_drawings(args.side, "core", "train", args.cache)
    drawings = [one for one in core if one.group in args.groups.split(",")]
    words = (out / FILE).with_suffix(".tokenizer.json")
    text = train_text_tokenizer(texts_of(drawings), args.text_vocab, words)
    model = build(args, tokenizer, text).to(device)
    initialise(model)
    data = tokenise(drawings, tokenizer, text, device)
    log.info("%d parameters, %d rows", loop.parameter_count(model), len(data.codes))
    ema = train(model, Batches(model.params, data, text), args)
    if loop.rank() == 0:
        model.load_state_dict(ema.average)
        write(model, out, vars(args))
    loop.leave()
    return 0


def train(model: ShowO, batches: Batches, args) -> loop.Ema:
    """Runs until the budget is spent; returns the averaged weights, also written as it goes."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": args.decay}, {"params": others}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)
    ema, budget = loop.Ema(model, 0.998), loop.Budget(args.minutes, args.steps)
    state = loop.RunState(Path(args.runs) / "show_o.pt")
    if not args.fresh:
        state.load(model, optimiser, ema, budget)
    torch.manual_seed(args.seed + 1000 * loop.rank() + budget.step)
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        codes, answer = losses(model, *batches.batch(args.batch, args.questions))
        optimiser.zero_grad(set_to_none=True)
        (codes + args.question_weight * answer).backward()
        loop.average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model, budget.step)
        if budget.step % 50 == 0:
            seen = (budget.step, budget.seconds, codes.item(), answer.item())
            log.info("step %d %.0f s codes %.3f answers %.3f", *seen)
        budget.tick()
        if state.due() and loop.rank() == 0:
            state.save(model, optimiser, ema, budget)
    if loop.rank() == 0:
        state.save(model, optimiser, ema, budget)
    return ema


def write(model: ShowO, out: Path, arguments: dict) -> None:
    """The model with its config, in the published layout, fp16."""
    p = model.params
    config = {
        "w_clip_vit": False,
        "vocab_size": p.decoder.vocab,
        "llm_vocab_size": p.text_vocab,
        "codebook_size": p.codes,
        "num_vq_tokens": p.image_tokens,
        "max_seq_length": p.prompt_tokens,
        "eos_token_id": p.end_of_text,
        "mask_token_id": p.mask,
        "codebook": p.codebook,
    }
    tensors = loop.half_tensors(publish_model(model.state_dict(), p))
    save_file(tensors, out / FILE, {"config": json.dumps(config)})
    path = (out / FILE).with_suffix(".metrics.json")
    path.write_text(json.dumps({"arguments": arguments}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
