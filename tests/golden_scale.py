"""One run of the next-scale engine with its intermediates read from outside."""

from __future__ import annotations

import torch

from mmgen_core.decoding import next_scale, stable_sampling
from mmgen_core.decoding.next_scale import generate


def numbered(name: str, tensors) -> dict[str, torch.Tensor]:
    return {f"{name}.s{i}": tensor for i, tensor in enumerate(tensors)}


def spied_run(model, tokenizer, prompt, sampling, start, noise, monkeypatch):
    """The tokens of ``generate``, and what was seen per kind, in the order it happened."""
    kinds = "hidden logits cfg_logits kept soft_assign h next_input fhat token_ids filtered"
    seen = {kind: [] for kind in kinds.split()}

    def spy(owner, function, note):
        original = getattr(owner, function)

        def wrapped(*args, **kwargs):
            out = original(*args, **kwargs)
            note(args, out)
            return out

        context.setattr(owner, function, wrapped)

    with monkeypatch.context() as context:
        spy(model, "hidden", lambda a, out: seen["hidden"].append(out))
        spy(model, "logits", lambda a, out: seen["logits"].append(out))
        for module in (next_scale, stable_sampling):
            spy(module, "filter_logits", lambda a, out: note_filter(seen, a[0], out))
            spy(module, "draw", lambda a, out: seen["token_ids"].append(out))
        spy(next_scale, "gumbel_mixture", lambda a, out: note_mixture(seen, a[0], out))
        spy(next_scale, "next_input", lambda a, out: seen["next_input"].append(as_map(out.clone())))
        spy(tokenizer.quantize, "upsampled", lambda a, out: seen["h"].append(a[0]))
        tokens = generate(
            model,
            tokenizer,
            prompt,
            seed=0,
            sampling=sampling,
            start=start,
            on_step=lambda step, total, f_hat: seen["fhat"].append(f_hat.clone()),
            noise=noise,
        )
    return tokens, seen


def note_filter(seen, logits, kept) -> None:
    seen["cfg_logits"].append(logits.clone())
    seen["kept"].append(torch.isfinite(kept))
    seen["filtered"].append(kept)


def note_mixture(seen, logits, weights) -> None:
    seen["soft_assign"].append(weights)
    seen.setdefault("gumbel_logits", []).append(logits)


def as_map(x_BnC: torch.Tensor) -> torch.Tensor:
    side = round(x_BnC.shape[1] ** 0.5)
    return x_BnC.transpose(1, 2).unflatten(2, (side, side))
