"""How golden Chameleon cases are run: VQGAN, transformer in all layouts, text and pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import load_file

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import Match, build
from mmgen_core.models import decoder
from mmgen_core.models.decoder import Decoder, Segment
from mmgen_core.pictures import from_pil, square_crop, to_pil
from mmgen_core.systems import chameleon, identify

LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    if name.endswith("image_u8"):
        return 1, 0  # truncated to 8 bits
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "ddconfig" in case.spec["config"]:
        return run_vqgan(case)
    if "ids0" in case.inputs:
        return run_transformer(case, monkeypatch)
    return {}


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
    hf = tokenizer_of(case, "weights_hf.safetensors")
    assert hf.fingerprint == tokenizer.fingerprint
    results = {
        **seen,
        "token_ids": tokens.ids[0].flatten(),
        "hf_token_ids": hf.encode(image).ids[0].flatten(),
        "quantized": tokenizer.features(tokens),
        "image_u8": (picture[0] * 255).to(torch.uint8),
    }
    rgba = case.inputs["rgba_u8"].float() / 255
    results["whitened_u8"] = torch.from_numpy(np.asarray(to_pil(rgba)).copy())
    side = case.spec["config"]["preprocess_target_image_size"]
    prepared = square_crop(from_pil(to_pil(rgba)), side)[None]
    results["preprocessed"] = prepared.permute(0, 3, 1, 2) * 2 - 1
    return results


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
