"""How golden Chameleon cases are run: VQGAN, transformer in all layouts, text and pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_bytes import cut_off
from golden_chameleon_parts import gap, names_of, race_noise, recorded_steps, spied
from safetensors.torch import load_file

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import Match, build
from mmgen_core.decoding.next_token import (
    PicturePlan,
    TextRules,
    TokenSampling,
    draw_pictures,
    uniform_noise,
    write_text,
)
from mmgen_core.decoding.stream import Branch, Context, DecoderStream, merged, prefill
from mmgen_core.models import decoder
from mmgen_core.models.decoder import Decoder, Segment
from mmgen_core.pictures import from_pil, square_crop, to_pil
from mmgen_core.systems import chameleon, identify
from mmgen_core.systems.chameleon_system import IMAGE_BLOCK
from mmgen_core.systems.chameleon_vocabulary import Vocabulary, guidance_branches

LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "ddconfig" in case.spec["config"]:
        return run_vqgan(case)
    if "ids0" in case.inputs:
        return run_transformer(case, monkeypatch)
    return (
        run_text(case, monkeypatch) if options_of(case)["txt"] else run_pictures(case, monkeypatch)
    )


def tokenizer_of(case, file: str = "weights.safetensors"):
    checkpoint = read_checkpoint(case.folder / file)
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors)
    return build(identify(checkpoint, "image tokenizer"), checkpoint)


def model_of(folder, tensors, config, codes: int | None = None) -> Decoder:
    """A transformer of a case; ``codes`` are its image ids, which tiny vocabularies do not tell."""
    checkpoint = Checkpoint(folder / "consolidated.pth", tensors, config)
    match = identify(checkpoint, "next-token model")
    convert = match.architecture.convert
    if codes:
        params = replace(match.params, head_blocks=chameleon.head_blocks(match.params.vocab, codes))
        inner = convert
        convert = lambda found: inner(found, codes)  # noqa: E731
        match = Match(replace(match.architecture, convert=convert), params)
    return build(match, checkpoint, dtype=torch.float32)


@torch.inference_mode()
def run_vqgan(case) -> dict[str, torch.Tensor]:
    tokenizer, seen = tokenizer_of(case), {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda m, a, out: seen.update({name: out.clone()}))

    keep("encoder", tokenizer.encoder)
    keep("encoder_mid_attn", tokenizer.encoder.mid.attn_1)
    keep("quant_conv", tokenizer.quant_conv)
    keep("post_quant_conv", tokenizer.post_quant_conv)
    keep("decoder_mid_attn", tokenizer.decoder.mid.attn_1)
    keep("decode", tokenizer.decoder)
    image = (case.inputs["image"].permute(0, 2, 3, 1) + 1) / 2
    tokens = tokenizer.encode(image)
    picture = tokenizer.decode(tokens)
    slack = 127.5 * case.spec["tolerance"]["atol"]
    hf = tokenizer_of(case, "weights_hf.safetensors")
    assert hf.fingerprint == tokenizer.fingerprint
    results = {
        **seen,
        "token_ids": tokens.ids[0].flatten(),
        "hf_token_ids": hf.encode(image).ids[0].flatten(),
        "quantized": tokenizer.features(tokens),
        "image_u8": cut_off(picture[0] * 255, case.expected["image_u8"], slack),
    }
    rgba = case.inputs["rgba_u8"].float() / 255
    results["whitened_u8"] = torch.from_numpy(np.asarray(to_pil(rgba)).copy())
    side = case.spec["config"]["preprocess_target_image_size"]
    prepared = square_crop(from_pil(to_pil(rgba)), side)[None]
    results["preprocessed"] = prepared.permute(0, 3, 1, 2) * 2 - 1
    return results


@torch.inference_mode()
def run_vqvae(case) -> dict[str, torch.Tensor]:
    """Ids and pixels of Hugging Face's layout with a decoder."""
    tokenizer, seen = tokenizer_of(case), {}
    tokenizer.decoder.register_forward_hook(lambda m, a, out: seen.update(pixels=out.clone()))
    tokens = tokenizer.encode((case.inputs["image"].permute(0, 2, 3, 1) + 1) / 2)
    picture = tokenizer.decode(tokens)
    return {
        **seen,
        "token_ids": tokens.ids[0].flatten(),
        "pixels_0_255": picture.permute(0, 3, 1, 2) * 255,
    }


@torch.inference_mode()
def run_transformer(case, monkeypatch) -> dict[str, torch.Tensor]:
    """All layouts of the same weights; they must agree, and with both references."""
    config, folder = case.spec["config"], case.folder
    original = load_file(folder / "weights.safetensors")
    hf = load_file(folder / "weights_hf.safetensors")
    lumina = hf | load_file(folder / "weights_lumina.safetensors")
    results: dict[str, torch.Tensor] = {}
    for tensors in (original, hf, lumina):
        model = model_of(folder, tensors, config)
        for sequence, ids in enumerate(case.inputs[k] for k in sorted(case.inputs)):
            found = watched(model, ids, f"seq{sequence}", monkeypatch)
            found[f"logits{sequence}"] = model.scores(found.pop("hidden"))
            first, last = config["image_token_ids"]
            masked = found[f"logits{sequence}"].clone()
            masked[:, first : last + 1] = torch.finfo(torch.float32).min
            found[f"hf_logits_image_masked{sequence}"] = masked
            for name, tensor in found.items():
                if name in results:
                    torch.testing.assert_close(tensor, results[name], atol=2e-5, rtol=1e-3)
            results |= found
    return results


def watched(model: Decoder, ids, name: str, monkeypatch) -> dict[str, torch.Tensor]:
    """Hidden states, and what the first layer's queries and keys become, with the channels in
    the reference's order (rotary pairs are neighbours there)."""
    found, hooks, turned = {}, [], []

    def keep(module: torch.nn.Module, key: str, pairs: bool = False) -> None:
        def note(m, a, out):
            found[key] = as_pairs(out) if pairs else out.clone()

        hooks.append(module.register_forward_hook(note))

    def rotate(x, table):
        turned.append(original(x, table))
        return turned[-1]

    original = decoder.rotate
    for i, layer in enumerate(model.layers):
        keep(layer, f"{name}.layer{i}")
    keep(model.layers[0].attention.q_norm, f"{name}.q_after_norm.layer0", pairs=True)
    keep(model.layers[0].attention.k_norm, f"{name}.k_after_norm.layer0", pairs=True)
    with monkeypatch.context() as context:
        context.setattr(decoder, "rotate", rotate)
        found["hidden"] = model(model.embed_ids(ids), [Segment(None, len(ids))])
    for hook in hooks:
        hook.remove()
    found[f"{name}.q_after_rope_adjacent_pairs.layer0"] = as_pairs(turned[0])
    return found


def as_pairs(x_NHD: torch.Tensor) -> torch.Tensor:
    return x_NHD.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def options_of(case) -> dict:
    return {"txt": True, "img": False, "seed": None, **case.spec["config"]["options"]}


def prompts_of(case) -> list[list[int]]:
    return [case.inputs[key].tolist() for key in sorted(case.inputs) if key.startswith("prompt")]


def case_model(case, codes: int = 0, more: tuple[str, ...] = ()) -> Decoder:
    """The model of a case; ``more`` are tensors of its file that belong to the recording."""
    tensors = load_file(case.folder / "weights.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if name not in more}
    codes = codes or Vocabulary.of(names_of(case)).codes
    return model_of(case.folder, tensors, case.spec["config"], codes)


SETTINGS = {"temp": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}
GUIDANCE = {"guidance_scale_text": 3.0, "guidance_scale_image": 1.2}
CODES_OF_A_PICTURE = 1024


def chosen(options, **more) -> tuple[dict, TokenSampling, TokenSampling]:
    """Options of a modality with their defaults, the case's filters, and how it chooses."""
    found = {"greedy": False, **SETTINGS, **more, **(options if isinstance(options, dict) else {})}
    filters = TokenSampling(found["temp"], 0, found["top_p"])
    penalty = found["repetition_penalty"] if not more else 1.0
    temperature = 0.0 if found["greedy"] else found["temp"]
    return found, filters, TokenSampling(temperature, 0, found["top_p"], 0.0, penalty)


@torch.inference_mode()
def run_text(case, monkeypatch) -> dict[str, torch.Tensor]:
    """Every prompt by itself; the reference runs them together, which changes nothing but when
    they end: once all have shown the same stop, or at the limit."""
    options, model, names = options_of(case), case_model(case), names_of(case)
    v = Vocabulary.of(names)
    _, filters, sampling = chosen(options["txt"])
    openings = (v.boi,) if options["img"] else ()
    allowed = v.mask(model.params.vocab, v.eos, *openings)
    prompts = prompts_of(case)
    limit = options.get("max_gen_len", 4096)
    noise = uniform_noise(0, len(prompts), limit)
    if options["seed"] is not None:
        noise = race_noise(options["seed"], limit, len(prompts), model.params.vocab)
    rows, looks = [], []
    for prompt, numbers in zip(prompts, noise, strict=True):
        stream = started(model, [Branch(Context(torch.tensor(prompt)))], limit)
        seen_ids = torch.zeros(1, model.params.vocab, dtype=torch.bool)
        seen_ids[0, prompt] = True
        with spied(monkeypatch, model) as seen:
            rules = TextRules((), limit, allowed)
            rows.append(write_text(stream, rules, sampling, numbers[None], seen_ids)[0])
        looks.append(seen)
    tokens = torch.stack(rows)
    stops = [v.eos, *(names.id_of(name) for name in options.get("extra_eos_tokens", []))]
    ends = [shown_by_all(tokens, stop) for stop in stops]
    end = min([limit, *(end for end in ends if end is not None)])
    penalised = [torch.cat([seen.penalised[i] for seen in looks]) for i in range(end)]
    results = {
        "tokens": tokens[:, :end],
        "allowed_ids": allowed.nonzero().flatten(),
        "argmax_margin": torch.stack(
            [min(gap(seen.masked[i][0]) for seen in looks) for i in range(end)]
        ),
    }
    for step in recorded_steps(case, "raw_logits"):
        masked = torch.cat([seen.masked[step] for seen in looks])
        results |= {
            f"raw_logits.step{step}": torch.cat([seen.raw[step][0] for seen in looks]),
            f"proc0_AllowOnlyTokensLogitsProcessor.step{step}": masked,
            f"proc1_RepetitionPenaltyLogitsProcessor.step{step}": penalised[step],
            f"proc2_TemperatureLogitsWarper.step{step}": penalised[step] / filters.temperature,
            f"proc3_TopPLogitsWarper.step{step}": filters.filtered(penalised[step]),
        }
    return results


def shown_by_all(tokens: torch.Tensor, stop: int) -> int | None:
    """Length at which every row has written a stop."""
    found = (tokens == stop).cumsum(1).clamp(max=1).sum(0) == len(tokens)
    return int(found.int().argmax()) + 1 if bool(found.any()) else None


def started(model: Decoder, branches, room: int) -> DecoderStream:
    prefix = prefill(model, [branch.context for branch in branches], torch.device("cpu"))
    return DecoderStream(model, prefix, 1, room)


@torch.inference_mode()
def run_pictures(case, monkeypatch) -> dict[str, torch.Tensor]:
    """Every prompt by itself. Rows of the reference are its contexts: all full ones, all of
    pictures alone, all empty ones; equal ones are one branch here."""
    options, model = options_of(case), case_model(case)
    v, vocab = Vocabulary.of(names_of(case)), model.params.vocab
    found, filters, sampling = chosen(options["img"], **GUIDANCE)
    prompts = [ids if ids[-1] == v.boi else [*ids, v.boi] for ids in prompts_of(case)]
    plan = PicturePlan.grid(32, CODES_OF_A_PICTURE // 32, IMAGE_BLOCK, v.first_code)
    codes = slice(v.first_code, v.first_code + v.codes)
    noise = uniform_noise(0, len(prompts), CODES_OF_A_PICTURE)
    if options["seed"] is not None:
        noise = race_noise(options["seed"], CODES_OF_A_PICTURE, len(prompts), vocab)[..., codes]
    scales = found["guidance_scale_text"], found["guidance_scale_image"]
    tokens, looks, contexts, places, weights = [], [], [], [], []
    for ids, numbers in zip(prompts, noise, strict=True):
        asked = guidance_branches(ids, v, *scales)
        branches = merged(asked)
        equal = [[b.context.equals(a.context) for b in branches].index(True) for a in asked]
        places.append(equal)
        contexts.append([branch.context.ids for branch in asked])
        weights = torch.tensor([branch.weight for branch in asked])
        stream = started(model, branches, CODES_OF_A_PICTURE)
        with spied(monkeypatch, model) as seen:
            own = [branch.weight for branch in branches]
            drawn = draw_pictures(stream, own, plan, sampling, numbers[None])
        tokens.append(drawn[0])
        looks.append(seen)
    results = {
        "tokens": torch.stack(tokens),
        "image_codes": torch.stack(tokens) - v.first_code,
        "argmax_margin": torch.stack(
            [min(gap(seen.guided[i][0]) for seen in looks) for i in range(len(tokens[0]))]
        ),
    }
    for chunk in range(3):
        for row in range(len(prompts)):
            results[f"cfg_context{chunk * len(prompts) + row}"] = contexts[row][chunk]
    for step in recorded_steps(case, "raw_logits"):
        raw = [
            torch.stack([seen.raw[step][place, 0] for place in equal])
            for seen, equal in zip(looks, places, strict=True)
        ]
        guided = torch.stack([torch.tensordot(weights, rows, dims=1) for rows in raw])
        masked = torch.full_like(guided, -torch.inf)
        masked[:, codes] = torch.cat([seen.guided[step] for seen in looks])
        results |= {
            f"raw_logits.step{step}": torch.stack(raw, dim=1).flatten(0, 1),
            f"proc0_InBatchInstructCFGLogitsProcessor.step{step}": guided.repeat(3, 1),
            f"proc1_AllowOnlyTokensLogitsProcessor.step{step}": masked.repeat(3, 1),
            f"proc2_TemperatureLogitsWarper.step{step}": (masked / filters.temperature).repeat(
                3, 1
            ),
            f"proc3_TopPLogitsWarper.step{step}": filters.filtered(masked).repeat(3, 1),
        }
    return results
