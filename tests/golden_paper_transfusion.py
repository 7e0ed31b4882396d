"""How golden cases of the Transfusion paper's procedure are run."""

from __future__ import annotations

import torch

from mmgen_core.decoding import diffusion_stream
from mmgen_core.decoding.diffusion_stream import DiffusionStream
from mmgen_core.decoding.flow import NoiseSchedule
from mmgen_core.decoding.flow_sequence import Picture, omni_mask
from mmgen_core.decoding.flow_stream import StreamSampling
from mmgen_core.models.decoder import Segment
from mmgen_core.training.paper_transfusion import lay_out, paper_losses, text_labels


@torch.inference_mode()
def run_paper(case, model) -> dict[str, torch.Tensor]:
    config, p = case.spec["config"], model.params
    text, x0, t = case.inputs["text"][0], case.inputs["x0"], case.inputs["t"]
    schedule = NoiseSchedule.cosine(config["num_train_timesteps"])
    steps = schedule.timesteps(config["sampling_steps"])
    noised = schedule.noised(x0, case.inputs["eps"], t)
    laid = lay_out(p, [text, Picture(x0[0])])
    assert torch.equal(laid.ids.clamp(min=0), case.inputs["cond_ids"][0])
    (span,) = laid.spans
    mask = omni_mask(len(laid.ids), laid.spans)
    x = model.decoder.embed_ids(laid.ids.clamp(min=0))
    patches = model.patches(noised, t)
    x[span.start : span.stop] = patches.tokens[0]
    hidden = model.decoder(x, [Segment(None, len(x), mask)])
    losses = paper_losses(model, [[text, Picture(x0[0])]], [t], [[case.inputs["eps"][0]]])
    labelled = (text_labels(p, laid.ids) >= 0).nonzero()[:, 0] + 1
    return {
        "alphas_cumprod": schedule.alphas_cumprod,
        "timesteps": torch.tensor(steps),
        "x_t": noised,
        "allowed": mask[None] if case.expected["allowed"].ndim == 3 else mask,
        "hidden": hidden[None],
        "text_logits": model.decoder.scores(hidden)[None],
        "eps_pred": model.noise_of(hidden[None, span.start : span.stop], patches),
        "lm_label_positions": labelled,
        "loss_lm": losses.text,
        "loss_ddpm": losses.noise,
        "loss_total": losses.total,
        **sampled(case, model, text, len(steps)),
    }


def sampled(case, model, text: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """A guided picture behind the text, with the recorded noise."""
    sampling = StreamSampling(steps, case.spec["config"]["cfg_scale"], temperature=0)
    prompt = [text, torch.tensor([model.params.boi])]
    stream = DiffusionStream(model, prompt, sampling, "cpu")
    noise = [case.noise[f"sample.step{k}"] for k in range(steps)]
    seen, xs = [], []
    guided = diffusion_stream.Denoiser.__call__

    class Spied(diffusion_stream.Denoiser):
        def __call__(self, x, t):
            seen.append(guided(self, x, t))
            return seen[-1]

    start = case.inputs["sample.noise"]
    denoise = stream.denoiser(start.shape[-2] * start.shape[-1] // model.params.patch**2)
    denoise.__class__ = Spied
    diffusion = diffusion_stream.Diffusion(steps, sampling.guidance)
    diffusion_stream.solve(denoise, start, diffusion, noise, lambda s, n, x: xs.append(x))
    results = {f"sample.step{k}.eps": value for k, value in enumerate(seen)}
    return results | {f"sample.step{k}.x": value for k, value in enumerate(xs)}
