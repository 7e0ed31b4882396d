"""How golden Show-o cases are run: tokenizer, sequences and logits, sampling, scripts whole."""

from __future__ import annotations

import torch
from golden_var import load, to_reference

from mmgen_core.image_tokens import ImageTokens

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    t = case.spec["tolerance"]
    return t["atol"], t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    return run_tokenizer(case)


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
