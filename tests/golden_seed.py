"""How golden SEED cases are run: tokenizers there and back, class labels, SEED-LLaMA."""

from __future__ import annotations

import json
import re

import torch
from golden_next_token import SpiedSampling

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import unclip
from mmgen_core.decoding.next_token import TextRules, TokenSampling, draw_pictures, write_text
from mmgen_core.decoding.stream import Context, DecoderStream, prefill
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.models.decoder import Segment
from mmgen_core.systems import identify
from mmgen_core.systems.next_token import codes_of
from mmgen_core.systems.seed_llama_system import dialogue
from mmgen_core.tokenizers.pixels import normalised, resized
from mmgen_core.tokenizers.seed import see

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    t = case.spec["tolerance"]
    return t["atol"], t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "image_embeds" in case.inputs:
        return run_labels(case)
    if "num_codes" in case.spec["config"]:
        return run_language_model(case)
    return run_tokenizer(case)


def load(case, file: str, kind: str) -> torch.nn.Module:
    checkpoint = read_checkpoint(case.folder / file)
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, case.spec["config"])
    return build(identify(checkpoint, kind), checkpoint)


def watch(module: torch.nn.Module, seen: dict, name: str) -> None:
    module.register_forward_hook(lambda m, i, out: seen.update({name: out.clone()}))


@torch.inference_mode()
def run_tokenizer(case) -> dict[str, torch.Tensor]:
    vision = load(case, "eva_vit_g.safetensors", "vision transformer")
    tokenizer = load(case, "weights.safetensors", "SEED tokenizer")
    results, seen = pixels(case, vision), {}
    watch(vision.patch_embed["proj"], seen, "vit_patch_embed")
    watch(tokenizer.ln_vision, seen, "ln_vision")
    watch(tokenizer.qformer.norm, seen, "qformer.embeddings")
    for i, layer in enumerate(tokenizer.qformer.layers):
        watch(layer, seen, f"qformer.layer{i}")
    watch(tokenizer.encode_task_layer, seen, "z")

    states = vision(case.inputs["image"])
    tokens = tokenizer.encode(states)
    batch = len(states)
    seen["vit_patch_embed"] = seen["vit_patch_embed"].flatten(2).transpose(1, 2)
    seen["qformer.embeddings"] = seen["qformer.embeddings"].expand(batch, -1, -1)
    hidden = (~tokenizer.qformer.mask(states.device)).float() * -10000.0
    results |= {**seen, "vit": states, "token_ids": tokens.ids[0][:, 0]}
    results["qformer_attention_mask"] = hidden[None, None]
    results |= there_and_back(tokenizer, tokens, "")
    given = ImageTokens((case.inputs["code_ids"][:, None],), tokenizer.fingerprint)
    return results | there_and_back(tokenizer, given, "decode.")


def pixels(case, vision) -> dict[str, torch.Tensor]:
    """Both filters; ``see`` must agree with them."""
    pictures = [v for k, v in sorted(case.inputs.items()) if k.startswith("image_uint8.")]
    results, side = {}, vision.params.side
    for method in ("bilinear", "bicubic"):
        parts = [normalised(resized(p[None].float() / 255, (side, side), method)) for p in pictures]
        results[f"pixels_{method}"] = torch.cat(parts)
    looked = see(vision, pictures[0][None].float() / 255)
    torch.testing.assert_close(looked, vision(results["pixels_bilinear"][:1]))
    return results


def there_and_back(tokenizer, tokens: ImageTokens, prefix: str) -> dict[str, torch.Tensor]:
    """The way from tokens to the condition, stage by stage."""
    seen, p = {}, tokenizer.params
    hooks = [
        tokenizer.decode_task_layer.register_forward_hook(
            lambda m, i, out: seen.update(quant_up=out)
        )
    ]
    last = tokenizer.detokenizer.blocks[-1]
    name = "blocks_text" if p.generation == 1 else "blocks_image"
    hooks.append(last.register_forward_hook(lambda m, i, out: seen.update({name: out})))
    if p.detokenizer.reverse is not None:
        hooks.append(
            tokenizer.detokenizer.reverse.register_forward_hook(
                lambda m, i, out: seen.update(reverse_qformer=out)
            )
        )
    else:
        hooks.append(
            tokenizer.detokenizer.down[-1].register_forward_hook(
                lambda m, i, out: seen.update(image_down=out)
            )
        )
    condition = tokenizer.decode(tokens)
    for hook in hooks:
        hook.remove()
    if not prefix:
        seen["decode_blocks"] = seen[name]
    seen["condition"] = condition if p.generation == 1 else condition[:, 0]
    return {prefix + key: value for key, value in seen.items()}


SHOWN_STEPS = (0, 1, 10, 100, 500, 999)  # of the schedule, in the recorded samples


def run_labels(case) -> dict[str, torch.Tensor]:
    embedding, noise = case.inputs["image_embeds"], case.inputs["noise"]
    results = {
        "alphas_cumprod_squaredcos": unclip.squared_cosine_alphas()[list(SHOWN_STEPS)],
    }
    stats = read_checkpoint(case.folder / "weights.safetensors").tensors
    kinds = {"identity_stats": (0.0, 1.0), "stats": (stats["mean"], stats["std"])}
    for name in case.expected:
        if found := re.fullmatch(r"comfy\.seed(\d+)\.level(\d+)\.adm", name):
            generator = torch.Generator().manual_seed(int(found[1]) - 10)
            drawn = torch.randn(embedding.shape, generator=generator)
            results[name] = unclip.class_labels(embedding, drawn, int(found[2]))
        elif found := re.fullmatch(r"(\w+)\.level(\d+)\.class_labels_cfg(_negative)?", name):
            between, negative = kinds[found[1]], None
            if found[3]:
                other = case.inputs["negative_image_embeds"]
                negative = unclip.class_labels(other, noise, 0, *between)
            labels = unclip.class_labels(embedding, noise, int(found[2]), *between)
            results[name] = unclip.guided_labels(labels, negative)
    return results


# SEED-LLaMA


class Spied(SpiedSampling):
    """Notes the filtered probabilities as well."""

    def probabilities(self) -> torch.Tensor:
        return torch.cat([self.filtered(logits).softmax(-1) for logits in self.seen])


@torch.inference_mode()
def run_language_model(case) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, case.spec["config"])
    match = identify(checkpoint, "next-token model")
    model, system = build(match, checkpoint), match.architecture.system(match, checkpoint)
    check_texts(case, system)
    results: dict[str, torch.Tensor] = {}
    for key, ids in case.inputs.items():
        name = key.removeprefix("prompt.").removesuffix(".ids")
        results |= scored(model, ids[0], name)
        results |= greedy(model, system, ids[0], name, case.spec["config"])
        results |= constrained(model, system, ids[0], name)
    asked = case.inputs["prompt.force_boi.ids"][0]  # whose scores the recorded samples begin with
    hot = case.spec["config"]["hot_temperature"]
    for name, temperature, top_p in (("default", 1.0, 0.5), ("hot", hot, 0.9)):
        if f"sample.{name}.ids" in case.expected:
            results |= sampled(model, system, asked, name, temperature, top_p, case)
    return results


def check_texts(case, system) -> None:
    """The prompts of the recorded run are what the system makes of their texts."""
    content = json.loads((case.folder / "text.json").read_text("utf-8"))
    for text, ids in content["tokenise"].items():
        assert system.text.encode(text) == ids, text
    for name, entry in content["prompts"].items():
        ids = case.inputs[f"prompt.{name}.ids"][0].tolist()
        assert system.text.encode(entry["prompt"]) == ids, name
        forced = entry["prompt"].endswith("<img>")
        words = entry["prompt"].removesuffix("<img>")
        asked = re.sub(r"^<s>(USER: |\[INST\] )|( \[/INST\])?\n(ASSISTANT:)?$", "", words)
        made = dialogue(asked, system.style) + "<img>" * forced
        assert system.text.encode(made) == ids, (name, made)


def prefix_of(model, ids: torch.Tensor):
    return prefill(model, [Context(ids)], torch.device("cpu"))


def scored(model, ids: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    seen = {"hidden0": model.embed_ids(ids)[None]}
    hooks = [
        layer.register_forward_hook(
            lambda m, a, out, i=i: seen.update({f"hidden{i + 1}": out[None].clone()})
        )
        for i, layer in enumerate(model.layers)
    ]
    hidden = model(model.embed_ids(ids), [Segment(None, len(ids))])
    for hook in hooks:
        hook.remove()
    seen[f"hidden{len(model.layers)}"] = hidden[None]
    logits = model.scores(hidden)[None]
    seen |= {"logits": logits, "last_logits": logits[:, -1]}
    prefix = prefix_of(model, ids)
    torch.testing.assert_close(model.scores(prefix.hidden_bC), logits[:, -1], atol=1e-4, rtol=1e-4)
    return {f"prompt.{name}.{key}": value for key, value in seen.items()}


def greedy(model, system, ids, name: str, config: dict) -> dict[str, torch.Tensor]:
    """As the reference writes: nothing forbidden, nothing forced."""
    sampling = Spied(temperature=0)
    limit = config["max_new_tokens"]
    stream = DecoderStream(model, prefix_of(model, ids), 1, limit)
    rules = TextRules((system.text.eos,), limit)
    new = write_text(stream, rules, sampling, torch.ones(1, limit))[0]
    codes = new.tolist()
    if system.text.end in codes:
        start = codes.index(system.text.begin) + 1 if system.text.begin in codes else 0
        span = codes[start : codes.index(system.text.end)]
        codes = [code - system.text.first_code for code in span]
    return {
        f"greedy.{name}.ids": new,
        f"greedy.{name}.logits": torch.cat(sampling.seen[:6]),
        f"greedy.{name}.code_ids": torch.tensor([codes]),
    }


def constrained(model, system, ids, name: str) -> dict[str, torch.Tensor]:
    """Our grammar: a picture begun right behind the prompt, of 32 codes."""
    plan, begin = system.plan(), system.text.begin
    if ids[-1] != begin:
        ids = torch.cat([ids, torch.tensor([begin])])
    stream = DecoderStream(model, prefix_of(model, ids), 1, len(plan.tokens))
    noise = torch.ones(1, len(plan.tokens))
    tokens = draw_pictures(stream, [1.0], plan, TokenSampling(temperature=0), noise)
    codes = codes_of(plan, tokens, system.text.first_code)
    return {f"constrained.{name}.code_ids": codes}


def sampled(model, system, ids, name, temperature, top_p, case) -> dict[str, torch.Tensor]:
    """The random numbers are those ``torch.multinomial`` draws on a CPU, one row per step."""
    config = case.spec["config"]
    count = len(case.expected[f"sample.{name}.ids"])
    limit = max(config["max_new_tokens"], count)
    generator = torch.Generator().manual_seed(config["sample_seed"])
    rows = [
        torch.empty(1, model.params.vocab).exponential_(1, generator=generator)
        for _ in range(limit)
    ]
    sampling = Spied(temperature, top_k=50, top_p=top_p)
    stream = DecoderStream(model, prefix_of(model, ids), 1, limit)
    new = write_text(
        stream, TextRules((system.text.eos,), limit), sampling, torch.stack(rows, dim=1)
    )[0]
    shown = len(case.expected[f"sample.{name}.logits"])
    return {
        f"sample.{name}.ids": new[:count] if len(new) > count else new,
        f"sample.{name}.logits": torch.cat(sampling.seen[:shown]),
        f"sample.{name}.probs": sampling.probabilities()[:shown],
    }
