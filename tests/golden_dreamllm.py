"""How golden DreamLLM cases are run: conditions, pictures in prompts, sampling, the SDXL head."""

from __future__ import annotations

from pathlib import Path

import golden_diffusion
import torch
from golden_diffusion import part

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import dreamllm, pictures
from mmgen_core.conditioners.dreamllm import DreamTokens
from mmgen_core.decoding.latent_diffusion import (
    Condition,
    ancestral_schedule,
    leading_timesteps,
)
from mmgen_core.decoding.query_spans import QuerySpan, read_span
from mmgen_core.decoding.stream import Context, DecoderStream, prefill
from mmgen_core.systems import identify

LEFT_OUT = {}
CPU = torch.device("cpu")


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "dream_hidden" in case.inputs:
        return run_sdxl_head(case)
    if "latents" in case.inputs:
        return run_sampling(case, monkeypatch)
    if "rgb_hwc" in case.inputs:
        return run_pictures(case)
    return run_padding(case) if "left.input_ids" in case.inputs else run_single(case)


class Parts:
    """The model of a case: language model, queries, projector, vision encoder."""

    def __init__(self, case):
        config, clip = case.spec["config"], case.spec["config"]["clip"]
        self.tensors = read_checkpoint(case.folder / "weights.safetensors").tensors
        self.language = self.load("llm/", config)
        self.queries = self.load("dream_embedding.bin/", {})(CPU)
        self.projector = self.load("stable_diffusion_head.bin/", {})
        beside = {"vision_config": {"num_attention_heads": clip["heads"]}}
        self.vision = self.load("clip_vision_embedding.bin/", beside)
        named = {"special_tokens2ids_dict": config.get("special_tokens2ids", {})}
        self.tokens = DreamTokens.of(None, named) if named["special_tokens2ids_dict"] else None

    def load(self, prefix: str, config: dict) -> torch.nn.Module:
        checkpoint = Checkpoint(Path(prefix.rstrip("/")), part(self.tensors, prefix), config)
        return build(identify(checkpoint), checkpoint)

    def context(self, states: torch.Tensor) -> torch.Tensor:
        return self.projector(states)[0]

    def dreamed(self, contexts, padding: str | None = None) -> torch.Tensor:
        states = dreamllm.dream_states
        return states(self.language, self.tokens, self.queries, contexts, CPU, padding)


@torch.inference_mode()
def run_single(case) -> dict[str, torch.Tensor]:
    parts, results, states = Parts(case), {}, {}
    named = {"cond": case.inputs["input_ids"], "uncond": case.inputs["uncond_input_ids"]}
    contexts = [Context(ids[0]) for ids in named.values()]
    both = parts.dreamed(contexts)  # the node's way: both branches in one pass
    for index, (name, ids) in enumerate(named.items()):
        results |= {f"{name}.{k}": v for k, v in two_passes(parts, Context(ids[0])).items()}
        states[name] = both[index : index + 1]
        results[f"{name}.prompt_embeds"] = states[name]
        results[f"{name}.context"] = parts.context(states[name])
    opened = dreamllm.dreaming(contexts[0], parts.tokens, parts.queries)
    results["single_pass_hidden"] = parts.language.hidden_states(
        opened.embed(parts.language, CPU)[None]
    )
    results["text_logits"] = parts.language.scores(results["cond.text_hidden"])
    return results | {
        "encode_prompt.prompt_embeds": states["cond"],
        "encode_prompt.negative_prompt_embeds": states["uncond"],
    }


def two_passes(parts: Parts, context: Context) -> dict[str, torch.Tensor]:
    """The engine's way within a document: the text with a cache, then the span."""
    p, tokens, seen = parts.language, parts.tokens, []
    hook = p.register_forward_hook(lambda m, args, out: seen.append((args[0], out)) and None)
    stream = DecoderStream(p, prefill(p, [context], CPU), 1, len(parts.queries) + 2)
    after_text = stream.caches[0].keys[0, :, :, : stream.caches[0].length].clone()
    read_span(stream, QuerySpan(tokens.dream_start, tokens.dream_end, parts.queries))
    stream.hidden()
    hook.remove()
    (text_in, text_out), *spans = seen
    length = stream.caches[0].length
    return {
        "text_inputs_embeds": text_in[None],
        "text_hidden": text_out[None],
        "dream_inputs_embeds": torch.cat([x for x, _ in spans])[None],
        "dream_hidden": torch.cat([out for _, out in spans])[None],
        "kv0_key_after_text": after_text,
        "kv0_key_after_dream": stream.caches[0].keys[0, :, :, :length],
        "dream_attention_mask": torch.ones(1, length),
    }


@torch.inference_mode()
def run_padding(case) -> dict[str, torch.Tensor]:
    """Padding as the reference has it, from texts without any; and a text alone."""
    parts, results = Parts(case), {}
    for side in ("left", "right"):
        for name, prefix in (("cond", ""), ("uncond", "neg_")):
            ids = case.inputs[f"{side}.{prefix}input_ids"]
            valid = case.inputs[f"{side}.{prefix}attention_mask"].bool()
            contexts = [Context(row[mask]) for row, mask in zip(ids, valid, strict=True)]
            filled, kept = dreamllm.padded(contexts, parts.tokens.pad, side)
            assert torch.equal(torch.stack([c.ids for c in filled]), ids)
            hidden, states = watched_span(parts, contexts, side)
            mask = torch.nn.functional.pad(kept.float(), (0, len(parts.queries) + 2), value=1)
            shown = {
                "context": parts.context(states),
                "prompt_embeds": states,
                "dream_hidden": hidden,
                "dream_attention_mask": mask,
            }
            results |= {f"{side}.{name}.{key}": value for key, value in shown.items()}
            if side == "left" and name == "cond":
                alone = parts.dreamed(contexts[:1])
    return results | {"alone0.prompt_embeds": alone, "alone0.context": parts.context(alone)}


def watched_span(parts: Parts, contexts, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States of the whole spans [b, n + 2, C], and those of the queries."""
    seen = []
    hook = parts.language.register_forward_hook(lambda m, args, out: seen.append(out) and None)
    states = parts.dreamed(contexts, side)
    hook.remove()
    return seen[0].view(len(contexts), -1, seen[0].shape[-1])[:, -states.shape[1] - 2 :], states


@torch.inference_mode()
def run_pictures(case) -> dict[str, torch.Tensor]:
    parts = Parts(case)
    image = case.inputs["rgb_hwc"] / 255
    pixels = pictures.centre_crop(image, parts.vision.params.image_size)
    features = dreamllm.read_picture(parts.vision, image, CPU)
    results = {
        "pixel_values": pixels,
        "clip_patch_features": parts.vision.patches(pixels),
        "image_embeds": features[None],
    }
    context = recorded_document(parts, case.inputs["input_ids"][0], features)
    shown = two_passes(parts, context)
    states = parts.dreamed([context])
    results |= {
        "cond.context": parts.context(states),
        "cond.prompt_embeds": states,
        "cond.dream_hidden": shown["dream_hidden"],
        "cond.dream_attention_mask": shown["dream_attention_mask"],
        "cond.text_inputs_embeds": shown["text_inputs_embeds"][:, :12],
        "cond.text_hidden": shown["text_hidden"][:, -4:],
        "first_pass_next_token_logits": parts.language.scores(shown["text_hidden"][:, -1]),
    }
    return results | trained_document(parts, case.inputs["doc.input_ids"][0], features)


def recorded_document(parts: Parts, ids: torch.Tensor, features: torch.Tensor) -> Context:
    """The recorded ids as a document: words, pictures, and dreams with what became of them."""
    tokens, words, document, rest = parts.tokens, [], [], ids[1:].tolist()
    dreamed = False
    while rest:
        token = rest.pop(0)
        if token not in (tokens.image_start, tokens.dream_start):
            words.append(token)
            continue
        if words:
            document.append(dreamllm.Words("", tuple(words)))
            words = []
        dream = token == tokens.dream_start
        end = rest.index(tokens.dream_end if dream else tokens.image_end)
        rest = rest[end + 1 :]
        if not dream:
            document.append(dreamllm.Seen(features, dreamed))
        dreamed = dream
    if words:
        document.append(dreamllm.Words("", tuple(words)))
    context = dreamllm.document(None, tokens, parts.queries, document)
    assert torch.equal(context.ids, ids), "another layout of the document"
    return context


def trained_document(parts: Parts, ids: torch.Tensor, features: torch.Tensor):
    """A document as in training: its dream's states and the scores at its end."""
    context = recorded_document(parts, ids, features)
    hidden = parts.language.hidden_states(context.embed(parts.language, CPU)[None])
    first = ids.tolist().index(parts.tokens.dream_start) + 1
    dream = hidden[:, first : first + len(parts.queries)]
    return {
        "doc.dream_hidden": dream,
        "doc.context": parts.context(dream),
        "doc.logits_tail": parts.language.scores(hidden[:, -8:]),
    }


@torch.inference_mode()
def run_sampling(case, monkeypatch) -> dict[str, torch.Tensor]:
    config, parts = case.spec["config"], Parts(case)
    head = part(parts.tensors, "stable_diffusion_head.bin/")
    unet = golden_diffusion.unet(part(head, "unet."), config["sd"], sdxl=False)
    contexts = [parts.context(case.inputs[f"{n}prompt_embeds"]) for n in ("", "negative_")]
    steps = range(config["num_inference_steps"])
    noise = iter([case.inputs[f"ddpm_noise.step{step}"] for step in steps])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kw: next(noise)
    )
    scheduler = ancestral_schedule(config["num_inference_steps"])
    results = golden_diffusion.drawn(
        unet,
        scheduler,
        case.inputs["latents"],
        [Condition(context) for context in contexts],
        guidance=config["guidance_scale"],
    )
    vae = golden_diffusion.vae(part(head, "vae."))
    latents = results["latents.final"] / vae.config.scaling_factor
    results["image_0_1"] = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    results["context_neg_then_pos"] = torch.cat(contexts[::-1])
    results["timesteps"] = scheduler.timesteps
    for steps in (50, 100, 150):
        results[f"timesteps_{steps}"] = torch.tensor(leading_timesteps(steps))
    assert scheduler.timesteps.tolist() == leading_timesteps(config["num_inference_steps"])
    return results


@torch.inference_mode()
def run_sdxl_head(case) -> dict[str, torch.Tensor]:
    """The variant that was never published; its constructor fails in the reference."""
    tensors = read_checkpoint(case.folder / "weights.safetensors").tensors
    checkpoint = Checkpoint(case.folder, tensors)
    projector = build(identify(checkpoint, "condition projector"), checkpoint)
    config = case.spec["config"]["sd"]
    branches = [projector(case.inputs[f"{n}dream_hidden"]) for n in ("", "neg_")]
    unet = golden_diffusion.unet(part(tensors, "unet."), config, sdxl=True)
    side = config["latent_size"] * golden_diffusion.vae_stride(tensors)
    shown = golden_diffusion.drawn(
        unet,
        ancestral_schedule(case.spec["config"].get("num_inference_steps", 2)),
        case.inputs["latents"],
        [Condition(*branch) for branch in branches],
        guidance=1.0,
        time_ids=(side, side, 0, 0, side, side),
    )
    return {
        "context_neg_then_pos": shown["unet.context"],
        "pooled_neg_then_pos": shown["unet.text_embeds"],
        "time_ids": shown["unet.time_ids"],
        "unet.out.step0": shown["unet.out.step0"],
    }
