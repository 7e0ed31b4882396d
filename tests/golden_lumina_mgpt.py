"""How golden Lumina-mGPT cases are run: pictures and crops, grammar with guidance, and recorded
runs of speculative Jacobi decoding, whose guesses and tests are fed in again."""

from __future__ import annotations

import re

import torch
from golden_bytes import cut_off
from golden_chameleon import case_model, started, tokenizer_of, tolerance
from golden_chameleon_parts import (
    Names,
    gap,
    race_noise,
    recorded_steps,
    spied,
    teacher,
)

from mmgen_core.decoding.next_token import (
    FREE,
    PicturePlan,
    TextRules,
    TokenSampling,
    draw_pictures,
    uniform_noise,
    write_text,
)
from mmgen_core.decoding.sampling import draw
from mmgen_core.decoding.speculative import WindowReader, verify
from mmgen_core.decoding.stream import Branch, Context
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.pictures import fill_crop, grid_sizes, nearest_size
from mmgen_core.systems.lumina_mgpt import LuminaSystem, guidance_branches

LEFT_OUT: dict[str, str] = {}
PUBLISHED_NAMES = {
    "<s>": 0,
    "<pad>": 1,
    "</s>": 2,
    "<eoss>": 8196,
    "<racm3:break>": 8197,
    "<reserved08706>": 8710,
    "<reserved08799>": 8803,
    "<reserved08800>": 8804,
    "w0": 8932,
}
CERTAIN = 1e9  # the recorded gap where a single id is allowed

__all__ = ["LEFT_OUT", "run", "tolerance"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "ddconfig" in case.spec["config"]:
        return run_pixels(case)
    if "draft_tokens" in case.inputs:
        return run_verify(case)
    if "window" in case.spec["config"]:
        return run_trace(case)
    return run_grammar(case, monkeypatch)


def system_of(case) -> LuminaSystem:
    config = case.spec["config"]
    vocab = config.get("vocab_size", 8840)
    names = Names(PUBLISHED_NAMES, 8192, 8940)
    target = config.get("target_size", 512)
    return LuminaSystem("Lumina-mGPT", vocab, names, {}, "model.safetensors", target)


@torch.inference_mode()
def run_pixels(case) -> dict[str, torch.Tensor]:
    tokenizer, system, seen = tokenizer_of(case), system_of(case), {}
    tokenizer.decoder.register_forward_hook(lambda m, a, out: seen.update(decode=out.clone()))
    tokens = tokenizer.encode(case.inputs["image_u8"][None].float() / 255)
    sequence = system.sequence(tokens.ids[0][0])
    told = system.read(sequence, tokenizer)  # the way back
    (again,) = told.pictures
    assert isinstance(again, ImageTokens) and torch.equal(again.ids[0], tokens.ids[0])
    slack = 127.5 * case.spec["tolerance"]["atol"]
    results = {
        "codes": tokens.ids[0].flatten(),
        "tokens": torch.tensor(sequence),
        "image_u8": cut_off(tokenizer.decode(again)[0] * 255, case.expected["image_u8"], slack),
        **seen,
    }
    for name in case.expected:
        if found := re.fullmatch(r"crop_sizes_wh\.(\d+)", name):
            results[name] = torch.tensor(grid_sizes(int(found[1])))
        elif found := re.fullmatch(r"chosen_crop_wh\.(\d+)", name):
            sizes = grid_sizes(int(found[1]))
            given = [tuple(size) for size in case.inputs["sizes_wh"].tolist()]
            results[name] = torch.tensor([nearest_size(size, sizes) for size in given])
        elif found := re.fullmatch(r"crop_(\d+)x(\d+)_u8", name):
            source = case.inputs["crop_source_u8"].float() / 255
            seed = case.spec["config"]["python_random_seed_for_crop"]
            cropped = fill_crop(source, (int(found[1]), int(found[2])), seed)
            results[name] = (cropped * 255).round().to(torch.uint8)
    return results


@torch.inference_mode()
def run_grammar(case, monkeypatch) -> dict[str, torch.Tensor]:
    config, model, system = case.spec["config"], lumina_model(case), system_of(case)
    prompt, v = case.inputs["prompt"].tolist(), system.vocabulary
    height, width = (2 * (size - v.first_size) for size in prompt[-2:])
    plan, total = system.plan((width, height)), config["max_new_tokens"]
    branches = guidance_branches(prompt, v.boi, config["cfg"])
    image = TokenSampling(config["temperature"], config["image_top_k"])
    text = TokenSampling(config["temperature"], config["text_top_k"])

    def told(temperature: float, noise: torch.Tensor):
        stream = started(model, branches, total + len(plan.tokens))
        weights = [branch.weight for branch in branches]
        codes = noise if noise.ndim == 2 else noise[..., 4 : 4 + 8192]
        with spied(monkeypatch, model) as seen:
            sampling = TokenSampling(temperature, config["image_top_k"])
            tokens = draw_pictures(stream, weights, plan, sampling, codes)[0].tolist()[:total]
            stream.keep([0])
            if (rest := total - len(tokens)) > 0:
                rules = TextRules((v.turn,), rest)
                sampling = TokenSampling(temperature, config["text_top_k"])
                tokens += write_text(stream, rules, sampling, noise[:, len(tokens) :])[0].tolist()
        return tokens, seen

    greedy, seen = told(0.0, uniform_noise(0, 1, total + len(plan.tokens)))
    steps = total + len(plan.tokens)
    sampled, _ = told(
        config["temperature"], race_noise(config["sampling_seed"], steps, 1, config["vocab_size"])
    )
    conditional = teacher(model, prompt + greedy)[len(prompt) - 1 :]
    bare = branches[1].context.ids.tolist()
    unconditional = teacher(model, bare + greedy)[len(bare) - 1 :]
    guided = branches[0].weight * conditional + branches[1].weight * unconditional
    results = {
        "greedy_tokens": torch.tensor(greedy),
        "sampled_tokens": torch.tensor(sampled),
        "uncond_context": branches[1].context.ids,
    }
    allowed, margins, kept, applied = [], [], [], []
    drawn = iter(seen.guided)
    for step in range(len(greedy)):
        inside = step < len(plan.tokens)
        known = plan.tokens[step] if inside else FREE
        mask = torch.zeros(config["vocab_size"], dtype=torch.uint8)
        if known != FREE:
            mask[known] = 1
            margins.append(torch.tensor(CERTAIN))
            kept.append(1)
        else:
            scores = next(drawn)[0]
            block = slice(4, 4 + 8192) if inside else slice(None)
            mask[block] = 1
            wanted = (guided if inside else conditional)[step, block]
            torch.testing.assert_close(scores, wanted, atol=5e-4, rtol=1e-3)
            margins.append(gap(scores))
            kept.append(int((image if inside else text).filtered(scores).isfinite().sum()))
        allowed.append(mask)
        applied.append(int(inside))
    results |= {
        "allowed_mask": torch.stack(allowed),
        "allowed_count": torch.stack(allowed).long().sum(1),
        "argmax_margin": torch.stack(margins),
        "topk_kept_count": torch.tensor(kept),
        "guidance_applied": torch.tensor(applied),
    }
    found = {"cond": conditional, "uncond": unconditional, "guided": guided}
    for kind, scores in found.items():
        for step in recorded_steps(case, f"{kind}_logits"):
            results[f"{kind}_logits.step{step}"] = scores[step]
    return results


def lumina_model(case):
    """The model of a case; its files have no image tokenizer, so its codes are the published."""
    return case_model(case, codes=8192, more=("img_vocab",))


@torch.inference_mode()
def run_verify(case) -> dict[str, torch.Tensor]:
    given, counts, rows = case.inputs, [], []
    for trial, drafts in enumerate(given["draft_tokens"]):
        uniform = given["uniform"][trial]
        tests = uniform.gather(1, drafts[:, None])[:, 0]
        q, p = given["draft_prob"][trial], given["model_prob"][trial]
        count, residual = verify(drafts, q, p, tests)
        tokens = given["model_tokens"][trial].clone()
        tokens[:count] = drafts[1 : 1 + count]
        if residual is not None:
            generator = torch.Generator().manual_seed(int(given["gen_seed"][trial]))
            block = torch.rand(1, *uniform.shape, generator=generator)
            torch.testing.assert_close(block[0], uniform)
            race = torch.empty(1, len(residual)).exponential_(generator=generator)
            tokens[count] = draw(residual.log()[None], race)[0]
        counts.append(count + 1)
        rows.append(tokens)
    return {"next_index": torch.tensor(counts), "out_tokens": torch.stack(rows)}


@torch.inference_mode()
def run_trace(case) -> dict[str, torch.Tensor]:
    """Every iteration with the recorded ids and numbers: our scores, tests and commitments. The
    reference's second context has the prompt's last token, which is not ours; the engine does not
    care."""
    config, model, system = case.spec["config"], lumina_model(case), system_of(case)
    v, prompt = system.vocabulary, case.inputs["prompt"]
    grid = 2 * config["grid_w"], 2 * config["grid_h"]
    inner = system.plan(grid)
    plan = PicturePlan(
        (*system.header(grid), *inner.tokens), inner.blocks, inner.first_id, inner.row
    )
    contexts = Context(prompt), Context(prompt[-1:])
    branches = [Branch(contexts[0], config["cfg"]), Branch(contexts[1], 1 - config["cfg"])]
    stream = started(model, branches, len(plan.tokens) + config["window"])
    weights = [branch.weight for branch in branches]
    reader = WindowReader(stream, weights, plan, TokenSampling(1.0, config["image_top_k"]))
    size, tokens, matched, known_q = v.codes + 1, [], [], {}
    for number in range(len(case.expected["matched_per_iteration"])):
        step = {k[7:]: t for k, t in case.recorded.items() if k.startswith(f"iter{number:02}.")}
        fed, done = step["fed_ids"], len(tokens)
        scores = reader.first_scores() if number == 0 else reader.scores(fed)
        scores = scores[: len(plan.tokens) - done]  # the recording's windows run past the end
        p = reader.distributions(scores, done)
        compare_top(step, p, plan, done, case)
        local = [local_id(plan, done + i - 1, int(fed[i]), v.codes) for i in range(1, len(p))]
        q = [
            known_q.get((done + i, int(fed[i + 1])), certain(i_local, size))
            for i, i_local in enumerate(local)
        ]
        if local:
            compare_drafts(step, p, q, local, *tolerance(case, "probabilities"))
        guesses = torch.tensor([0, *local])
        before = torch.stack([torch.zeros(size), *q])
        tests = torch.cat([torch.zeros(1), step.get("uniform", torch.zeros(0))])[: len(p)]
        count, residual = verify(guesses, before, p, tests)
        committed = step["committed"].tolist()
        new = [int(i) for i in fed[1 : 1 + count]] if number else []
        if residual is None:
            new.append(int(step["fresh_samples"][count]))
        else:
            last = local_id(plan, done + count, committed[-1], v.codes)
            assert residual[last] > 0, "the recorded token has no probability here"
            new.append(committed[-1])
        assert new == committed, f"iteration {number}: {new} for {committed}"
        tokens += new
        matched.append(len(new) if number else len(fed))
        if number:
            reader.take_back(len(fed) - len(new))
        known_q = {(done + i, int(step["fresh_samples"][i])): p[i] for i in range(len(new), len(p))}
    return {"tokens": torch.tensor(tokens), "matched_per_iteration": torch.tensor(matched)}


def local_id(plan: PicturePlan, position: int, token: int, codes: int) -> int:
    """A token as the engine counts it: from the first code on, the prescribed one as the last."""
    if position < len(plan.tokens) and plan.tokens[position] == token:
        return codes
    return token - plan.first_id


def certain(local: int, size: int) -> torch.Tensor:
    q = torch.zeros(size)
    q[local] = 1
    return q


def compare_top(step, p: torch.Tensor, plan: PicturePlan, done: int, case) -> None:
    """The recorded likeliest ids have the recorded probabilities."""
    atol, rtol = tolerance(case, "probabilities")
    for slot, ids in enumerate(step["model_top20_ids"][: len(p)].tolist()):
        local = [local_id(plan, done + slot, i, p.shape[1] - 1) for i in ids]
        # Recorded ids of no probability may be marks outside of the codes.
        ours = [p[slot, i] if 0 <= i < p.shape[1] else p.new_zeros(()) for i in local]
        ours = torch.stack(ours)
        torch.testing.assert_close(ours, step["model_top20_probs"][slot], atol=atol, rtol=rtol)


def compare_drafts(
    step, p: torch.Tensor, q: list[torch.Tensor], local: list[int], atol: float, rtol: float
) -> None:
    """The recorded new and old probabilities of every guess."""
    new = torch.stack([p[i, token] for i, token in enumerate(local)])
    old = torch.stack([row[token] for row, token in zip(q, local, strict=True)])
    for name, found in (("p_of_draft", new), ("q_of_draft", old)):
        torch.testing.assert_close(found, step[name][: len(local)], atol=atol, rtol=rtol)
