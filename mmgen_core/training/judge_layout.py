"""How well the demo language model plans: made-up wishes that it has not seen.

python -m mmgen_core train judge_layout --model models/mmgen_demo_llm
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path

import torch

from ..conditioners.folder_llm import read_llm
from ..conditioners.layout.grammar import LayoutGrammar
from ..conditioners.layout.planning import Ask, Plan, Wish, plan
from ..conditioners.llm_writer import LlmWriter
from ..conditioners.text_writer import TextRequest, TextSettings
from .layout_scenes import NOUNS, Scene, scene

log = logging.getLogger(__name__)
SIDE, LENGTH, TEMPERATURE, TOP_P = 512, 600, 0.5, 0.9


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/mmgen_demo_llm"))
    parser.add_argument("--wishes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    writer = LlmWriter(read_llm(args.model, torch.float32), lambda: torch.device("cpu"))
    found = measure(writer, args.wishes, args.seed)
    path = args.model.with_name(f"{args.model.name}.metrics.json")
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    log.info("%s", found)


def measure(writer: LlmWriter, wishes: int, seed: int) -> dict[str, float]:
    """Shares of wishes with known and with made-up words."""
    rng = random.Random(seed)
    scenes = [scene(rng) for _ in range(wishes)]
    known = [one for one in scenes if all(_is_known(o.label) for o in one.layout.objects)]
    other = [one for one in scenes if one not in known]
    found: dict[str, float] = {"wishes": wishes, "with_known_words": len(known)}
    for name, group in (("known", known), ("made_up", other)):
        plans = [(one, _planned(writer, one, 0)) for one in group]
        found[f"{name}_fits"] = _share([not p.report.complaints for _, p in plans])
        found[f"{name}_labels"] = _share([_labels(p) == _wanted(one) for one, p in plans])
    retried = [_planned(writer, one, 2) for one in known[: wishes // 2]]
    found["known_fits_within_three"] = _share([not p.report.complaints for p in retried])
    return found


def _is_known(label: str) -> bool:
    return label.replace(" ", "-") in NOUNS


def _planned(writer: LlmWriter, one: Scene, retries: int) -> Plan:
    def write(told: str, attempt: int, grammar: LayoutGrammar) -> str:
        settings = TextSettings(LENGTH, TEMPERATURE, top_p=TOP_P, seed=attempt)
        prompt = writer.encode(TextRequest(one.prompt, system=told))
        return writer.write(prompt, settings, lambda *_: None, grammar)

    ask: Ask = write
    return plan(Wish(one.prompt, SIDE, SIDE), ask, retries)


def _labels(found: Plan) -> list[str]:
    return sorted(entry.label for entry in found.layout.objects)


def _wanted(one: Scene) -> list[str]:
    return sorted(entry.label for entry in one.layout.objects)


def _share(values: list[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 3)
