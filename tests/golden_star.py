"""How golden STAR cases are run: rotary tables, text encoder, transformer with all its runs."""

from __future__ import annotations

import torch
from golden_scale import numbered, spied_run
from golden_var import load

from mmgen_core.conditioners.scale_prompt import TextFeatures, TextPrompt, TextRows
from mmgen_core.decoding import stable_sampling
from mmgen_core.decoding.next_scale import ScaleSampling, placing_steps
from mmgen_core.decoding.noise import ScaleNoise
from mmgen_core.decoding.stable_sampling import StepNoise, tokens_per_step
from mmgen_core.models.scale_attention import RotaryParams, rotary_table, rotate
from mmgen_core.models.scale_refiner import ScaleRefiner

LEFT_OUT = {
    "*.noise.*": "random numbers of the recorded run: an input, fed to the sampler",
}


def tolerance(case, name: str) -> tuple[float, float]:
    t, run = case.spec["tolerance"], name.split(".")[0]
    if case.spec["run"].get("runs", {}).get(run, {}).get("more_smooth"):
        return t["smooth_atol"], t["rtol"]
    guided = ".cfg_logits." in name or ".gumbel_logits." in name
    return t["after_cfg_atol"] if guided else t["atol"], t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "weights_vae.safetensors" in case.spec["files"]:
        return run_transformer(case, monkeypatch)
    return run_text_encoder(case) if "input_ids" in case.inputs else run_tables(case)


def run_tables(case) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    params = RotaryParams(config["rope_theta"], config["rope_norm"])
    results = {}
    for name, sides in config["schedules"].items():
        rows = torch.arange(sum(s * s for s in sides))[:: config["stride"][name]]
        whole = torch.cat([table(params, side, config["head_dim"]) for side in sides])
        results |= {f"{name}.rows": rows, f"{name}.cos_sin": whole[rows]}
    three = rotary_table(params, 3, config["head_dim"], torch.device("cpu"))
    for part in "qk":
        if part in case.inputs:
            results[f"{part}_rotated_3x3"] = rotate(case.inputs[part], three)
    return results


def table(params: RotaryParams, side: int, head_size: int) -> torch.Tensor:
    return rotary_table(params, side, head_size, torch.device("cpu")).movedim(0, -1)


@torch.inference_mode()
def run_text_encoder(case) -> dict[str, torch.Tensor]:
    model = load(case, "weights.safetensors", case.spec["config"])
    hidden, pooled = model(case.inputs["input_ids"], case.inputs["attention_mask"])
    return {"last_hidden_state": hidden, "pooler_output": pooled}


def run_transformer(case, monkeypatch) -> dict[str, torch.Tensor]:
    config, plan = case.spec["config"], case.spec["run"]
    model = load(case, "weights.safetensors", config["var"])
    tokenizer = load(case, "weights_vae.safetensors", config["vae"])
    p, results = model.params, {}
    if p.rotary:
        tables = [table(p.rotary, side, p.head_size) for side in p.scales]
        results["rope_cos_sin"] = torch.cat(tables)
    if plan.get("teacher", True):
        results |= teacher(model, case)
    for name, options in plan["runs"].items():
        results |= sampled(model, tokenizer, case, name, options, monkeypatch)
    return results


@torch.inference_mode()
def teacher(model, case) -> dict[str, torch.Tensor]:
    """``logits`` has the reference's literal batch behaviour: row 0's text attention in every
    row; ``logits_one_by_one`` what it gives for each prompt alone."""
    batch, results = case.spec["run"]["B"], {}
    text, inputs = features(case, range(batch)), case.inputs["var_input"]
    hooks = [
        block.register_forward_hook(lambda m, a, out, i=i: results.update({f"block{i}": out}))
        for i, block in enumerate(model.blocks)
    ]
    literal = model(TextRows(text, 1), inputs)
    for hook in hooks:
        hook.remove()
    results |= {"logits": literal, "logits_one_by_one": model(TextRows(text, batch), inputs)}
    return {f"teacher.{name}": tensor for name, tensor in results.items()}


def features(case, rows) -> TextFeatures:
    rows = list(rows)
    names = ("text_hidden", "text_pooled", "text_mask")
    return TextFeatures(*(case.inputs[name][rows] for name in names))


def sampled(model, tokenizer, case, name, options, monkeypatch) -> dict[str, torch.Tensor]:
    batch = case.spec["run"]["B"]
    rows = [options["only"]] if "only" in options else list(range(batch))
    attended = None if len(rows) == 1 else 1  # the reference's literal batch behaviour
    texts = features(case, rows), features(case, [batch + row for row in rows])
    mode = options.get("sample_version", "new") if options.get("w_mask") else "plain"
    if options.get("sample_version") == "old":
        mode = "old"
    smooth = options.get("more_smooth", False)
    sampling = ScaleSampling(options["cfg"], options["top_k"], options["top_p"], smooth, mode)
    steps = placing_steps(model, sampling)
    noise = recorded_noise(case, name, model, len(rows), steps)
    placing = spy_placing(monkeypatch)
    prompt = TextPrompt(*texts, attended)
    tokens, seen = spied_run(model, tokenizer, prompt, sampling, None, noise, monkeypatch)
    results = {f"{name}.image": tokenizer.decode(tokens).permute(0, 3, 1, 2)}
    for kind in ("h", "next_input", "fhat", "hidden", "soft_assign", "gumbel_logits"):
        results |= numbered(f"{name}.{kind}", seen.get(kind, []))
    results |= stepwise(name, mode, seen, steps)
    for scale, amount in enumerate(steps):
        if amount:
            count = model.params.tokens_per_scale[scale]
            results[f"{name}.tokens_per_step.s{scale}"] = torch.tensor(
                tokens_per_step(count, amount)
            )
    return results | placed(name, mode, placing, steps)


def stepwise(name: str, mode: str, seen, steps: list[int]) -> dict[str, torch.Tensor]:
    """Names s{scale} for maps drawn at once, s{scale}.t{step} for those placed in steps."""
    keys = [
        key
        for scale, amount in enumerate(steps)
        for key in ([f"s{scale}.t{t}" for t in range(amount)] or [f"s{scale}"])
    ]
    results = {}
    for kind in ("cfg_logits", "kept", "token_ids"):
        results |= {f"{name}.{kind}.{key}": v for key, v in zip(keys, seen[kind], strict=False)}
    for key, filtered, ids in zip(keys, seen["filtered"], seen["token_ids"], strict=False):
        chosen = filtered.softmax(-1).gather(-1, ids[..., None])[..., 0]
        results[f"{name}.confidence.{key}"] = chosen
    logits = iter(seen["logits"])
    for scale, amount in enumerate(steps):
        if not amount:
            results[f"{name}.logits.s{scale}"] = next(logits)
        elif stable_sampling.uses_base_head(mode, scale, 0):
            same = next(logits)  # computed once, the same in every step that uses it
            for step in range(amount):
                if stable_sampling.uses_base_head(mode, scale, step):
                    results[f"{name}.logits.s{scale}.t{step}"] = same
    return results


def spy_placing(monkeypatch) -> dict[str, list]:
    """Which tokens each call of ``place`` chose; the refiner's logits."""
    seen = {"select": [], "refiner_logits": []}
    place, refine = stable_sampling.PlacedMap.place, ScaleRefiner.forward

    def spied_place(self, *args):
        seen["select"].append(place(self, *args))
        return seen["select"][-1]

    def spied_refine(self, *args):
        seen["refiner_logits"].append(refine(self, *args))
        return seen["refiner_logits"][-1]

    monkeypatch.setattr(stable_sampling.PlacedMap, "place", spied_place)
    monkeypatch.setattr(ScaleRefiner, "forward", spied_refine)
    return seen


def placed(name: str, mode: str, seen, steps: list[int]) -> dict[str, torch.Tensor]:
    """c counts the placements of a step: two where the base head draws, else one."""
    results = {}
    select, refined = iter(seen["select"]), iter(seen["refiner_logits"])
    for scale, amount in enumerate(steps):
        for step in range(amount):
            key, base = f"s{scale}.t{step}", stable_sampling.uses_base_head(mode, scale, step)
            for call in range(1 + base):
                results[f"{name}.select.{key}.c{call}"] = next(select)
            if not base:
                results[f"{name}.refiner_logits.{key}"] = next(refined)
    return results


def recorded_noise(case, name, model, batch, steps) -> list[ScaleNoise]:
    """Random numbers of the recorded run; where none were recorded the draw is forced."""
    vocab, noise = model.params.vocab, []
    for scale, count in enumerate(model.params.tokens_per_scale):
        ones = torch.ones(batch, count, vocab)

        def recorded(kind, key, otherwise):
            return case.expected.get(f"{name}.noise.{kind}.{key}", otherwise)

        placing = []
        for step in range(steps[scale]):
            key = f"s{scale}.t{step}"
            order = recorded("rand", key, torch.ones(batch, count))
            placing.append(StepNoise(recorded("exp_multinomial", key, ones), order))
        draw = recorded("exp_multinomial", f"s{scale}", ones)
        noise.append(ScaleNoise(draw, recorded("exp_gumbel", f"s{scale}", None), placing))
    return noise
