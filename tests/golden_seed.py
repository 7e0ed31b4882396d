"""How golden SEED cases are run: tokenizers there and back, class labels, SEED-LLaMA."""

from __future__ import annotations

import re

import torch

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners import unclip
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.systems import identify
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
