"""Recipe of the demo language model: it plans layouts and rewrites wishes.

    python -m mmgen_core train layout_llm --minutes 12 --threads 1

A LLaMA of about a million parameters, from made-up scenes only, saved as a folder that
transformers reads.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..conditioners.folder_llm import read_llm
from ..conditioners.layout.prompts import PLAN_MARK
from . import loop
from .layout_scenes import SIDE, STEP, Scene, scene

NAME = "mmgen_demo_llm"
END, PLAN, REWRITE, ANSWER = "<|end|>", "<|plan|>", "<|rewrite|>", "<|answer|>"
VOCABULARY, CONTEXT = 1000, 768
# Parts of a layout's JSON that are one token each.
PARTS = (
    *('{"caption": "', '", "background": "', '", "objects": [{"label": "'),
    *('", "attributes": "', '", "box": [', ']}, {"label": "', "]}]}", ", "),
)
# A plan where the instructions ask for the JSON of a layout, else a rewritten text.
TEMPLATE = (
    "{%- set ns = namespace(task='" + REWRITE + "', wish='') -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' and '" + PLAN_MARK + "' in m.content -%}"
    "{%- set ns.task = '" + PLAN + "' -%}{%- endif -%}"
    "{%- if m.role == 'user' -%}{%- set ns.wish = m.content -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{ ns.task }}{{ ns.wish }}{{ '" + ANSWER + "' }}"
)


def answer_of(one: Scene) -> str:
    """The JSON of a scene's layout."""
    return json.dumps(one.layout.to_json(SIDE), ensure_ascii=False)


def build_tokenizer(seed: int = 0) -> Any:
    """Byte-level BPE on made-up scenes; parts of the JSON and the coordinates are whole tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    scenes = [scene(rng) for _ in range(20000)]
    texts = [text for one in scenes for text in (one.prompt, one.rewritten, one.layout.background)]
    # in the JSON a label has no space before it
    texts += [
        word for one in scenes for o in one.layout.objects for word in (o.label, *o.attributes)
    ]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    numbers = [str(n) for n in range(0, SIDE + 1, STEP)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(PARTS) - len(numbers) - 4,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(part, normalized=False) for part in (*PARTS, *numbers)])
    core.add_special_tokens([AddedToken(name, special=True) for name in (PLAN, REWRITE, ANSWER)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(vocabulary: int, end: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def encoded(tokenizer: Any, one: Scene, plan: bool) -> tuple[list[int], int]:
    """Ids of a wish and its answer, and how many of them are the wish's."""
    asked = f"{PLAN if plan else REWRITE}{one.prompt}{ANSWER}"
    said = (answer_of(one) if plan else one.rewritten) + END
    wish, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (asked, said))
    return wish + answer, len(wish)


def batches(tokenizer: Any, rng: random.Random, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids [B, n] and targets, -100 where the loss is not counted; rows of like lengths."""
    while True:
        rows = [encoded(tokenizer, scene(rng), rng.random() < 0.8) for _ in range(8 * size)]
        rows.sort(key=lambda row: len(row[0]))
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield padded(chunk, tokenizer.pad_token_id)


def padded(rows: list[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), -100)
    for row, (tokens, wish) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, wish : len(tokens)] = torch.tensor(tokens[wish:])
    return ids, targets


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_run_arguments(parser)
    parser.add_argument("--start", type=Path, help="a folder of this recipe to train further")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=3e-3)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    args = arguments(given)
    device = loop.start(args)
    tokenizer, model = beginning(args)
    model.to(device)
    loop.log.info("%d parameters, %d tokens", model.num_parameters(), len(tokenizer))
    train(model, tokenizer, args, device)
    save(model, tokenizer, Path(args.out) / NAME)


def beginning(args: argparse.Namespace) -> tuple[Any, Any]:
    """Tokenizer and model: new, or those of an earlier run."""
    if args.start is None:
        tokenizer = build_tokenizer(args.seed)
        return tokenizer, build_model(len(tokenizer), tokenizer.eos_token_id)
    llm = read_llm(args.start, torch.float32)
    return llm.tokenizer, llm.module.train().requires_grad_(True)


def train(model: Any, tokenizer: Any, args: argparse.Namespace, device: torch.device) -> None:
    rng, budget = random.Random(args.seed + 1), loop.Budget(args.minutes, args.steps)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    ema, running = loop.Ema(model, 0.998), 0.0
    data = batches(tokenizer, rng, args.batch)
    while budget.progress < 1:
        loop.set_rate(optimiser, loop.one_cycle(budget.progress, args.rate))
        ids, targets = (part.to(device) for part in next(data))
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        budget.tick()
        ema.update(model, budget.step)
        running = loss.item() if budget.step == 1 else 0.97 * running + 0.03 * loss.item()
        if budget.step % 50 == 0:
            loop.log.info("step %d, %.0f s, loss %.4f", budget.step, budget.seconds, running)
        if budget.step % 400 == 0:
            save_state(ema.average, model, tokenizer, Path(args.runs) / NAME)
    model.load_state_dict(ema.average)


def save_state(average: dict[str, Tensor], model: Any, tokenizer: Any, folder: Path) -> None:
    """The model as it would be if the run ended here."""
    now = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(average)
    save(model, tokenizer, folder)
    model.load_state_dict(now)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The folder that transformers reads, in half precision."""
    dtype = next(model.parameters()).dtype
    model.half().save_pretrained(folder)
    model.to(dtype)
    tokenizer.save_pretrained(folder)
    # the name that older and newer versions of transformers know, and nothing of this machine
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    own = ("is_local", "local_files_only")
    kept = {name: value for name, value in config.items() if name not in own}
    path.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
