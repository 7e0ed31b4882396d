"""How golden VAR cases are run: quantiser alone, tokenizer, transformer with all its runs."""

from __future__ import annotations

import torch
from golden_scale import numbered, spied_run

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners.scale_prompt import ClassPrompt
from mmgen_core.decoding.forced_tokens import keep_map
from mmgen_core.decoding.next_scale import ScaleSampling
from mmgen_core.decoding.noise import ScaleNoise
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.systems import identify, var
from mmgen_core.tokenizers.residual_quantizer import ResidualQuantizer, phi_assignment

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT = {
    "*.noise.exp_*": "random numbers of the recorded run: an input, fed to the sampler",
}


def tolerance(case, name: str) -> tuple[float, float]:
    t = case.spec["tolerance"]
    run = name.split(".")[0]
    edits = case.spec["run"].get("edits", {})
    options = {**case.spec["run"].get("runs", {}), **edits}.get(run, {})
    if options.get("more_smooth"):
        return t["smooth_atol"], t["rtol"]
    return (t["after_cfg_atol"] if ".cfg_logits." in name else t["atol"]), t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    if "weights_vae.safetensors" in case.spec["files"]:
        return run_transformer(case, monkeypatch)
    return run_quantizer(case) if "f" in case.inputs else run_tokenizer(case)


def load(case, file: str, config: dict) -> torch.nn.Module:
    checkpoint = read_checkpoint(case.folder / file)
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, config)
    return build(identify(checkpoint), checkpoint)


@torch.inference_mode()
def run_quantizer(case) -> dict[str, torch.Tensor]:
    """The file has only ``quantize.*``, so the quantiser is built by itself."""
    config = case.spec["config"]
    tensors = var.convert_tokenizer(read_checkpoint(case.folder / "weights.safetensors").tensors)
    state = {
        key.removeprefix("quantize."): tensor
        for key, tensor in tensors.items()
        if not var.ARCHITECTURES[0].is_ignored(key)
    }
    phi_count = sum(key.endswith("weight") for key in state) - 1
    vocab, channels = state["embedding.weight"].shape
    ratio, cosine = abs(config["quant_resi"]), config.get("using_znorm", False)
    quantizer = ResidualQuantizer(vocab, channels, phi_count, ratio, cosine)
    quantizer.load_state_dict(state)
    return quantizer_results(quantizer, case.inputs["f"], config["v_patch_nums"])


def quantizer_results(quantizer, f, sides) -> dict[str, torch.Tensor]:
    ids, f_hat = quantizer.encode(f, [(s, s) for s in sides])
    results = numbered("fhat", quantizer.partial_sums(ids))
    results |= numbered("embed_to_fhat_multires", quantizer.partial_sums_at_own_size(ids))
    return {
        **results,
        **numbered("token_ids", [i.flatten(1) for i in ids]),
        "embed_to_fhat.last": f_hat,
        "var_input": quantizer.transformer_inputs(ids),
        "phi_index": torch.tensor(phi_assignment(len(sides), len(quantizer.phi))),
    }


@torch.inference_mode()
def run_tokenizer(case) -> dict[str, torch.Tensor]:
    """Pictures of the reference lie in -1..1 and channels first."""
    tokenizer = load(case, "weights.safetensors", case.spec["config"])
    seen = {}
    tokenizer.encoder.register_forward_hook(lambda m, i, out: seen.update(encoder=out))
    image = from_reference(case.inputs["image"])
    f = tokenizer.encode_features(image)
    results = quantizer_results(tokenizer.quantize, f, case.spec["config"]["v_patch_nums"])
    tokens = tokenizer.encode(image)
    for scale, f_hat in enumerate(tokenizer.quantize.partial_sums(list(tokens.ids))):
        results[f"idxBl_to_img.s{scale}"] = to_reference(tokenizer.decode_features(f_hat))
    whole = to_reference(tokenizer.decode(tokens))
    return {
        **results,
        "encoder": seen["encoder"],
        "f": f,
        "image": whole,
        "fhat_to_img": whole,
        "img_to_reconstructed_img.last": whole,
    }


def from_reference(image: torch.Tensor) -> torch.Tensor:
    return (image.permute(0, 2, 3, 1) + 1) / 2


def to_reference(image: torch.Tensor) -> torch.Tensor:
    return image.permute(0, 3, 1, 2) * 2 - 1


def run_transformer(case, monkeypatch) -> dict[str, torch.Tensor]:
    config, plan = case.spec["config"], case.spec["run"]
    model = load(case, "weights.safetensors", config["var"])
    tokenizer = load(case, "weights_vae.safetensors", config["vae"])
    results = teacher(model, case)
    greedy = {"cfg": plan["cfg"], "top_k": 1, "top_p": 0.0}
    for name, options in {"greedy": greedy, **plan["runs"]}.items():
        results |= sampled(model, tokenizer, case, name, options, monkeypatch)
    for name, options in plan.get("edits", {}).items():
        results |= sampled(model, tokenizer, case, name, options, monkeypatch)
    encoded = tokenizer.encode(from_reference(case.inputs["image"]))
    for scale, ids in enumerate(encoded.ids):
        assert torch.equal(ids.flatten(1), case.inputs[f"image_token_ids.s{scale}"])
    inputs = tokenizer.quantize.transformer_inputs(list(encoded.ids))
    torch.testing.assert_close(inputs, case.inputs["var_input"], atol=2e-4, rtol=1e-3)
    return results


@torch.inference_mode()
def teacher(model, case) -> dict[str, torch.Tensor]:
    results, hooks = {}, []
    for i, block in enumerate(model.blocks):
        keep = lambda m, a, out, i=i: results.update({f"teacher.block{i}": out})  # noqa: E731
        hooks.append(block.register_forward_hook(keep))
    logits = model(case.inputs["label_B"], case.inputs["var_input"])
    for hook in hooks:
        hook.remove()
    return {**results, "teacher.logits": logits}


def sampled(model, tokenizer, case, name, options, monkeypatch) -> dict[str, torch.Tensor]:
    scales = model.params.scales
    start = start_tokens(case, tokenizer, options, scales)
    prompt = ClassPrompt(options.get("labels", case.spec["run"]["labels"]))
    smooth = options.get("more_smooth", False)
    sampling = ScaleSampling(options["cfg"], options["top_k"], options["top_p"], smooth)
    noise = recorded_noise(case, name, model)
    tokens, seen = spied_run(model, tokenizer, prompt, sampling, start, noise, monkeypatch)
    results = {}
    for key, values in seen.items():
        results |= numbered(f"{name}.{key}", values)
    results[f"{name}.image"] = tokenizer.decode(tokens).permute(0, 3, 1, 2)
    if "box" in options:
        keep = edit_mask(options, scales[-1])
        results[f"{name}.edit_mask"] = keep
        maps = [keep_map(1 - keep[None], side, False)[0] for side in scales]
        results |= numbered(f"{name}.keep", maps)
        for ids, drawn, keep, given in zip(
            tokens.ids, seen["token_ids"], maps, start.ids, strict=True
        ):
            assert torch.equal(ids, torch.where(keep, given, drawn.view_as(given)))
    else:
        assert all(
            torch.equal(i.flatten(1), d) for i, d in zip(tokens.ids, seen["token_ids"], strict=True)
        )
    return results


def edit_mask(options, side: int) -> torch.Tensor:
    """The notebook's box on the finest grid, 1 = keep the picture's tokens."""
    y0, x0, y1, x1 = (round(edge * side) for edge in options["box"])
    keep = torch.zeros(side, side)
    keep[y0:y1, x0:x1] = 1
    return 1 - keep if options["inpainting"] else keep


def start_tokens(case, tokenizer, options, scales) -> ImageTokens | None:
    if "box" not in options:
        return None
    ids = (case.inputs[f"image_token_ids.s{i}"].unflatten(1, (s, s)) for i, s in enumerate(scales))
    mask = 1 - edit_mask(options, scales[-1])
    return ImageTokens(tuple(ids), tokenizer.fingerprint, mask=mask[None])


def recorded_noise(case, name, model):
    """Random numbers of the recorded run; where none were recorded the draw is forced."""
    counts, vocab = model.params.tokens_per_scale, model.params.vocab
    batch = len(case.spec["run"]["labels"])
    noise = []
    for scale, count in enumerate(counts):
        drawn = [
            case.expected.get(f"{name}.noise.{kind}.s{scale}")
            for kind in ("exp_multinomial", "exp_gumbel")
        ]
        first = torch.ones(batch, count, vocab) if drawn[0] is None else drawn[0]
        noise.append(ScaleNoise(first, drawn[1]))
    return noise
