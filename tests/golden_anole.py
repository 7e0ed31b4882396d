"""How golden ANOLE cases are run: the community's VQ model, and stories with forced turns."""

from __future__ import annotations

import torch
from golden_chameleon import (
    GUIDANCE,
    case_model,
    chosen,
    options_of,
    run_vqvae,
    tolerance,
)
from golden_chameleon_parts import names_of, recorded_steps, spied

from mmgen_core.decoding.interleaved import tell
from mmgen_core.decoding.stream import Branch, Context, prefill
from mmgen_core.systems import anole
from mmgen_core.systems.chameleon_system import ChameleonSystem

LEFT_OUT: dict[str, str] = {}
CPU = torch.device("cpu")
FORCE = 1000.0

__all__ = ["LEFT_OUT", "run", "tolerance"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "ddconfig" in case.spec["config"]:
        return run_vqvae(case)
    return run_story(case, monkeypatch)


class Forced:
    """The recording's harness: at some steps an id of the text is forced, some are held back."""

    def __init__(self, case):
        given = case.inputs
        none = torch.zeros(0, dtype=torch.int64)
        steps, ids = (given.get(f"forced_{kind}", none).tolist() for kind in ("steps", "ids"))
        self.at = dict(zip(steps, ids, strict=True))
        self.held = given.get("suppressed_ids", none).tolist()
        self.step, self.in_picture, self.kinds = 0, False, []

    def change(self, scores: torch.Tensor, blocks) -> torch.Tensor:
        """Called once for each drawn token. A picture's end is no drawn token."""
        if blocks is None and self.in_picture:
            self.step += 1
            self.kinds.append(True)
        self.in_picture = blocks is not None
        self.kinds.append(self.in_picture)
        if not self.in_picture:
            scores = scores.clone()
            for i in self.held:
                scores[:, i] -= FORCE * (i != self.at.get(self.step))
            if self.step in self.at:
                scores[:, self.at[self.step]] += FORCE
        self.step += 1
        return scores


@torch.inference_mode()
def run_story(case, monkeypatch) -> dict[str, torch.Tensor]:
    options, model, names = options_of(case), case_model(case), names_of(case)
    _, text_filters, texts = chosen(options["txt"])
    found, filters, pictures = chosen(options["img"], **GUIDANCE)
    config = {"image_size": 512, "max_position_embeddings": options.get("max_seq_len", 4096)}
    system = ChameleonSystem("ANOLE", model.params.vocab, names, config, "consolidated.pth")
    scales = found["guidance_scale_text"], found["guidance_scale_image"]
    longest = options.get("max_gen_len", 4096)
    story = anole.AnoleStory(system, (32, 32), *scales, longest)
    prompt = case.inputs["prompt"]
    contexts: list = []
    branches_of = anole.guidance_branches

    def note(*arguments):
        contexts.append(branches_of(*arguments))
        return contexts[-1]

    forced = Forced(case)
    with monkeypatch.context() as context:
        context.setattr(anole, "guidance_branches", note)
        with spied(monkeypatch, model, forced.change) as seen:
            prefix = prefill(model, [Context(prompt)], CPU)
            tokens = tell(model, prefix, story, texts, pictures, seed=0)
    kinds = (forced.kinds + [True])[: len(tokens)]
    results = {
        "tokens": torch.tensor(tokens),
        "from_image_decoder": torch.tensor(kinds).long(),
    }
    for number, branches in enumerate(contexts):
        for name, branch in zip(("full", "image_only", "uncond"), branches, strict=True):
            results[f"image{number}.context.{name}"] = branch.context.ids
    results |= scores_of(case, system, contexts, tokens, seen, filters, text_filters)
    return results


def scores_of(case, system, contexts, tokens, seen, filters, text_filters):
    """Recorded scores: one row in texts; three contexts in pictures; of an end, which no scores
    decide, a certainty as wide as the recording's."""
    v, vocab, results = system.vocabulary, system.model_vocab, {}
    ends = [i for i, token in enumerate(tokens) if token == v.eoi]
    openings = [i for i, token in enumerate(tokens) if token == v.boi]
    written = iter(range(len(seen.masked)))
    drawn = {}  # step -> (index among all drawn tokens, index among texts, picture)
    index = 0
    for step in range(len(tokens)):
        picture = sum(opening < step for opening in openings) - 1
        inside = picture >= 0 and not any(openings[picture] < end < step for end in ends)
        if step in ends:
            continue
        drawn[step] = (index, None if inside else next(written), picture)
        index += 1
    codes = slice(v.first_code, v.first_code + v.codes)
    for step in recorded_steps(case, "processed_logits"):
        name = f"processed_logits.step{step}"
        if step in ends:
            certain = torch.full_like(case.expected[name], -torch.inf)
            certain[:, v.eoi] = 0
            results[name] = certain
            continue
        position, text, picture = drawn[step]
        raw = seen.raw[position]
        if text is not None:
            results[f"raw_logits.step{step}"] = raw[0]
            results[name] = text_filters.filtered(seen.penalised[text])
            continue
        # branches of the run: the story itself, then those of the guidance that differ
        asked = contexts[picture]
        run = [asked[0], *merged_others(asked)]
        rows = [next(i for i, b in enumerate(run) if b.context.equals(a.context)) for a in asked]
        results[f"raw_logits.step{step}"] = raw[rows, 0]
        masked = torch.full((1, vocab), -torch.inf)
        masked[:, codes] = seen.guided[position]
        results[name] = filters.filtered(masked).repeat(3, 1)
    return results


def merged_others(branches: list[Branch]) -> list[Branch]:
    return anole.merged(branches[1:])
