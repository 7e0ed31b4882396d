"""How golden Show-o cases are run: tokenizer, sequences and logits, sampling, scripts whole."""

from __future__ import annotations

import torch
from golden_var import load, to_reference

from mmgen_core.conditioners.show_o_prompt import (
    drawing_ids,
    padded_drawing_ids,
)
from mmgen_core.decoding import masked
from mmgen_core.decoding.masked import (
    UNKNOWN,
    MaskedNoise,
    MaskedSampling,
    Prompts,
    draw_codes,
    guided,
    masked_share,
)
from mmgen_core.decoding.next_token import TextRules, TokenSampling, write_text
from mmgen_core.decoding.picture_question import read_codes_question, read_features_question
from mmgen_core.decoding.sampling import draw
from mmgen_core.decoding.stream import DecoderStream
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.models.decoder import Segment
from mmgen_core.models.omni_attention import (
    drawing_mask,
    features_mask,
    keyframe_mask,
    question_mask,
    story_mask,
)

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    t = case.spec["tolerance"]
    return t["atol"], t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "rect_token_ids" in case.inputs:
        return run_tokenizer(case)
    if "weights.magvitv2.safetensors" in {p.name for p in case.folder.iterdir()}:
        from golden_show_o_scripts import run_scripts

        return run_scripts(case)
    return run_masks(case) if "lvg.input_ids" in case.inputs else run_sampling(case, monkeypatch)


def load_model(case, config: dict):
    """The fixture's stand-in text tokenizer has another end of text than Phi's."""
    end = case.spec["config"]["meta"]["special_token_ids"]["<|sot|>"]
    return load(case, "weights.safetensors", {**config, "eos_token_id": end})


def picture(image_BCHW: torch.Tensor) -> torch.Tensor:
    return (image_BCHW.permute(0, 2, 3, 1) + 1) / 2


def watch(module: torch.nn.Module, seen: dict, name: str):
    return module.register_forward_hook(lambda m, i, out: seen.update({name: out.clone()}))


@torch.inference_mode()
def run_tokenizer(case) -> dict[str, torch.Tensor]:
    """Pictures of the reference lie in -1..1 and channels first."""
    tokenizer = load(case, "weights.safetensors", {})
    encoder, decoder, seen = tokenizer.encoder, tokenizer.decoder, {}
    hooks = [
        watch(encoder.down[0].block[0], seen, "encoder.down0_block0"),
        watch(encoder.mid.attn_1, seen, "encoder.mid_attn"),
        watch(encoder.conv_out, seen, "encoder.conv_out"),
        watch(decoder.mid.attn_1, seen, "decoder.mid_attn"),
        watch(decoder, seen, "image"),
    ]
    image = picture(case.inputs["image"])
    seen["encoder.z"] = tokenizer.encode_features(image)
    tokens = tokenizer.encode(image)
    seen["token_ids"] = tokens.ids[0].flatten(1)
    seen["z_q"] = tokenizer.features(tokens)
    assert torch.equal(seen["z_q"], tokenizer.code_map(image))
    tokenizer.decode(tokens)
    for hook in hooks:
        hook.remove()
    watch(decoder, seen, "rect_image")
    ids = case.inputs["rect_token_ids"].unflatten(1, case.spec["config"]["rect_shape"])
    shown = tokenizer.decode(ImageTokens((ids,), tokenizer.fingerprint))
    clamped = seen["rect_image"].clamp(-1, 1)
    torch.testing.assert_close(to_reference(shown), clamped, atol=1e-6, rtol=0)
    return seen


@torch.inference_mode()
def run_masks(case) -> dict[str, torch.Tensor]:
    model = load_model(case, case.spec["config"])
    p, results = model.params, {}
    codes = case.inputs["t2i.image_token_ids"] - p.first_code
    codes = torch.where(codes == p.codes, UNKNOWN, codes)
    prompts = [case.inputs[f"prompt_ids.{i}"].tolist() for i in range(len(codes))]
    rows = [drawing_ids(p, text, cut=True) for text in prompts] + [drawing_ids(p, [])] * len(codes)
    ids = torch.cat(
        [padded_drawing_ids(p, row, codes[i % len(codes)][None]) for i, row in enumerate(rows)]
    )
    results["t2i.input_ids"] = ids
    results |= dense(model, ids, "t2i", drawing_mask)
    results |= dense(model, case.inputs["mmu.input_ids"], "mmu", question_mask)
    results |= dense(model, case.inputs["lvg.input_ids"], "lvg", story_mask)
    results |= dense(model, case.inputs["lvg.input_ids"], "lvg_v2", keyframe_mask)
    results |= answer(model, case, case.inputs["mmu.input_ids"][0], "mmu")
    return {**results, **run_clip(model, case)}


def dense(model, ids: torch.Tensor, name: str, mask) -> dict[str, torch.Tensor]:
    """Whole sequences [B, L] under their masks, padding included."""
    seen, (B, L) = {}, ids.shape
    masks = [mask(row, model.params) for row in ids]
    layer = model.decoder.layers[0]
    hooks = [watch(layer, seen, "layer0"), watch(layer.attention, seen, "layer0_attn")]
    x = model.decoder.embed_ids(ids).flatten(0, 1)
    hidden = model.decoder(x, [Segment(None, L, attend) for attend in masks])
    for hook in hooks:
        hook.remove()
    seen |= {"final_norm": hidden, "logits": model.decoder.scores(hidden)}
    results = {f"{name}.{key}": value.view(B, L, -1) for key, value in seen.items()}
    return {**results, f"{name}.allowed": torch.stack(masks)}


def answer(model, case, ids: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """A question read in two parts with a cache, then greedy text."""
    count = len(case.expected[f"{name}.generated"])
    return written(model, read_codes_question(model, ids, "cpu"), name, count)


def written(model, prefix, name: str, count: int) -> dict[str, torch.Tensor]:
    stream, seen = DecoderStream(model.decoder, prefix, 1, count), []
    score = stream.scores

    def scores(hidden, blocks):
        seen.append(score(hidden, blocks))
        return seen[-1]

    stream.scores = scores
    greedy = TokenSampling(temperature=0)
    rules = TextRules((model.params.end_of_text,), count)
    ids = write_text(stream, rules, greedy, torch.ones(1, count))[0]
    return {f"{name}.generated": ids, f"{name}.step_logits": torch.cat(seen).flatten(0, 1)}


def run_clip(model, case) -> dict[str, torch.Tensor]:
    """The prompt's ids: [mmu], a system text, [soi], here the features, [eoi], the question."""
    ids, features = case.inputs["vit.text_ids"][0], case.inputs["vit.clip_features"][0]
    cut = int((ids == model.params.soi).nonzero()[0]) + 1
    shown = model.projector(features)
    x = torch.cat([model.decoder.embed_ids(ids[:cut]), shown, model.decoder.embed_ids(ids[cut:])])
    mask = features_mask(len(x), cut, cut + len(shown))
    hidden = model.decoder(x, [Segment(None, len(x), mask)])
    last = case.expected["vit.logits_last"].shape[1]
    count = len(case.expected["vit.generated"])
    prefix = read_features_question(model, ids[:cut], features, ids[cut:], "cpu")
    torch.testing.assert_close(prefix.hidden_bC[0], hidden[-1], atol=1e-4, rtol=1e-4)
    return {
        "vit.projected_first8": shown[None, :8],
        "vit.allowed_row0": mask[0],
        "vit.allowed_row_counts": mask.sum(-1),
        "vit.final_norm_last": hidden[None, -last:],
        "vit.logits_last": model.decoder.scores(hidden)[None, -last:],
        **written(model, prefix, "vit", count),
    }


def run_sampling(case, monkeypatch) -> dict[str, torch.Tensor]:
    model = load_model(case, case.spec["config"])
    results = {}
    for name in (n for n in case.expected if n.startswith("schedule.")):
        results[name] = masked_share(name.removeprefix("schedule."), case.inputs["schedule.t"])
    for name, options in case.spec["config"]["meta"]["runs"].items():
        results |= sampled(model, case, name, options, monkeypatch)
    return results


def recorded_prompt(params, row: torch.Tensor) -> torch.Tensor:
    """The prompt's ids of a recorded row: what stands before [soi], without the padding."""
    row = row[: int((row == params.soi).nonzero()[0])]
    return row[row != params.pad]


def start_codes(params, rows: torch.Tensor) -> torch.Tensor:
    ids = rows[:, -params.image_tokens - 1 : -1]
    return torch.where(ids == params.mask, UNKNOWN, ids - params.first_code)


def sampled(model, case, name: str, options: dict, monkeypatch) -> dict[str, torch.Tensor]:
    p, rows = model.params, case.inputs[f"{name}.input_ids"]
    codes = start_codes(p, rows)
    if f"{name}.unknown_mask" in case.inputs:
        assert torch.equal(codes == UNKNOWN, case.inputs[f"{name}.unknown_mask"].bool())
    uncond = case.inputs.get(f"{name}.uncond_input_ids")
    empty = recorded_prompt(p, uncond[0]) if uncond is not None else None
    steps = options["timesteps"]
    sampling = MaskedSampling(
        steps, options["guidance_scale"], options["schedule"], options["temperature"]
    )
    noise = recorded_noise(case, name, options, len(rows), p)
    prompts = [recorded_prompt(p, row) for row in rows]
    with torch.inference_mode(), monkeypatch.context() as context:
        seen = spied(context)
        drawn = draw_codes(
            Prompts(model, prompts, empty, p.image_tokens, "cpu"), codes, sampling, noise
        )
    results = {f"{name}.final_ids": drawn}
    prefix = rows[:, : -p.image_tokens - 2]
    pairs = zip(seen["masking"], seen["drawn"], strict=True)
    states = [codes, *(torch.where(masking, UNKNOWN, ids) for masking, ids in pairs)]
    for step in range(steps):
        inputs = [full_rows(p, prefix, states[step])]
        if options["guidance_scale"] > 0:
            inputs.append(full_rows(p, uncond[:, : prefix.shape[1]], states[step]))
        logits = guided(seen["logits"][step], options["guidance_scale"])
        every = logits.argmax(-1) if options["greedy"] else draw(logits, noise[step].draw)
        results |= {
            f"{name}.model_input_ids.step{step}": torch.cat(inputs),
            f"{name}.image_logits.step{step}": seen["logits"][step],
            f"{name}.sampled_all.step{step}": every.flatten(),
            f"{name}.selected_probs.step{step}": seen["p"][step],
            f"{name}.mask_len.step{step}": seen["count"][step],
            f"{name}.masking.step{step}": seen["masking"][step],
            f"{name}.conf_temperature.step{step}": torch.tensor(sampling.temperatures()[step]),
        }
    results[f"{name}.final_input_ids"] = full_rows(p, prefix, states[-1])
    return results


def full_rows(params, prefix: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    ids = torch.where(codes == UNKNOWN, params.mask, codes + params.first_code)
    ends = [ids.new_full((len(ids), 1), end) for end in (params.soi, params.eoi)]
    return torch.cat([prefix, ends[0], ids, ends[1]], dim=1)


def spied(context) -> dict[str, list]:
    """Every step's raw logits, chosen codes, their probabilities and the codes masked again."""
    seen = {"logits": [], "drawn": [], "p": [], "masking": [], "count": []}
    scores, choose, again = Prompts.scores, masked.confidence, masked.remask

    def spied_scores(self, codes):
        seen["logits"].append(scores(self, codes))
        return seen["logits"][-1]

    def spied_confidence(p, unknown, temperature, order):
        seen["p"].append(torch.where(unknown, p, torch.finfo(p.dtype).max))
        return choose(p, unknown, temperature, order)

    def spied_remask(confidence, unknown, wanted):
        masking, count = again(confidence, unknown, wanted)
        seen["masking"].append(masking)
        seen["count"].append(count)
        return masking, count

    context.setattr(Prompts, "scores", spied_scores)
    context.setattr(masked, "confidence", spied_confidence)
    context.setattr(masked, "remask", spied_remask)
    where = masked.known_or_drawn
    context.setattr(
        masked, "known_or_drawn", lambda *a: seen["drawn"].append(where(*a)) or seen["drawn"][-1]
    )
    return seen


def recorded_noise(case, name: str, options: dict, rows: int, params) -> list[MaskedNoise]:
    """The run's generator makes a categorical draw, then uniforms, every step; what was recorded
    of them must agree."""
    generator = torch.Generator().manual_seed(options["seed"])
    made = generator_noise(generator, rows, params, options["timesteps"], options["greedy"])
    for step, numbers in enumerate(made):
        recorded = case.noise.get(f"{name}.exponential.step{step}")
        if recorded is not None:
            assert torch.equal(recorded.view_as(numbers.draw), numbers.draw)
        assert torch.equal(case.noise[f"{name}.uniform.step{step}"], numbers.order)
    return made


def generator_noise(generator, rows: int, params, steps: int, greedy: bool) -> list[MaskedNoise]:
    N, made = params.image_tokens, []
    for _ in range(steps):
        shape = (rows, N, params.codes)
        draws = torch.ones(shape)
        if not greedy:
            draws = (
                torch.empty(rows * N, params.codes).exponential_(generator=generator).view(shape)
            )
        made.append(MaskedNoise(draws, torch.rand(rows, N, generator=generator)))
    return made
