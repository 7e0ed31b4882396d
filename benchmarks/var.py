"""VAR: our sampler against the authors' (``--peer DIR``) or against a plain one of ours.

The same random weights, classes, guidance and filters; the decode to pixels is part of the time.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mmgen_core.checkpoints import Checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners.scale_prompt import ClassPrompt
from mmgen_core.decoding.next_scale import ScaleSampling, generate
from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.systems import identify, var
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.multiscale_vq import PUBLISHED_SCALES, MultiScaleVQ, MultiScaleVQParams

from .common import machine, peak_bytes, say, spread, table, time_in_turns
from .var_growth import measure
from .var_plain import plain_generate

SAMPLING = ScaleSampling(guidance=4.0, top_k=900, top_p=0.95)
CLASSES = [980, 437, 22, 562]


def random_weights(depth: int, side: int, scale_count: int | None = None) -> tuple[dict, dict]:
    """Transformer and tokenizer tensors in the published layout, at the published sizes; a
    smaller ``scale_count`` leaves out the coarsest scales but the first."""
    scales, shared = PUBLISHED_SCALES[side], depth == 36
    if scale_count is not None:
        scales = scales[:1] + scales[len(scales) - scale_count + 1 :]
    autoencoder = AutoencoderParams(160, (1, 1, 2, 2, 4), 2, 32)
    vq_params = MultiScaleVQParams(autoencoder, 4096, scales=scales)
    params = ScaleTransformerParams(
        depth, 64 * depth, depth, 4096, 32, scales, 1000, shared_adaln=shared
    )
    tokenizer, transformer = MultiScaleVQ(vq_params), ScaleTransformer(params)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in transformer.named_parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
        if name.endswith("scale_mul_1H11"):
            parameter.data.fill_(math.log(4))
        elif name.endswith("qkv.bias"):
            parameter.data.zero_()
    return (
        var.publish_transformer(transformer.state_dict(), params),
        var.publish_tokenizer(tokenizer.state_dict(), vq_params),
    )


def ours(tensors: tuple[dict, dict], dtype: torch.dtype, device: torch.device) -> list[nn.Module]:
    modules = []
    for part in tensors:
        checkpoint = Checkpoint(Path("random"), part)
        modules.append(build(identify(checkpoint), checkpoint, dtype=dtype, device=device))
    return modules


def our_run(tensors, dtype, device, classes) -> Callable[[], torch.Tensor]:
    model, tokenizer = ours(tensors, dtype, device)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            tokens = generate(model, tokenizer, ClassPrompt(classes), 0, SAMPLING)
            return tokenizer.decode(tokens, device)

    return run


def plain_run(tensors, dtype, device, classes) -> Callable[[], torch.Tensor]:
    model, tokenizer = ours(tensors, dtype, device)

    def run() -> torch.Tensor:
        return plain_generate(model, tokenizer, classes, 0, SAMPLING)

    return run


def peer_run(directory: str, depth, side, tensors, device, classes) -> Callable[[], torch.Tensor]:
    """The authors' own sampler from a checkout, as shipped: fp32, on CUDA fp16 autocast."""
    sys.path.insert(0, directory)
    from models import build_vae_var

    vae, model = build_vae_var(
        V=4096,
        Cvae=32,
        ch=160,
        share_quant_resi=4,
        device=device,
        patch_nums=PUBLISHED_SCALES[side],
        num_classes=1000,
        depth=depth,
        shared_aln=depth == 36,
        attn_l2_norm=True,
    )
    model.load_state_dict(tensors[0], strict=False)
    vae.load_state_dict(tensors[1], strict=False)
    for module in (model, vae):
        module.eval().requires_grad_(False)
    labels = torch.tensor(classes, device=device)

    def run() -> torch.Tensor:
        half = torch.autocast("cuda", torch.float16, enabled=device.type == "cuda")
        with torch.inference_mode(), half:
            return model.autoregressive_infer_cfg(
                len(classes), labels, g_seed=0, cfg=4.0, top_k=900, top_p=0.95
            )

    return run


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if args.growth:
        measure(
            lambda depth, count: ours(
                random_weights(depth, args.side, count), torch.float32, device
            ),
            device,
            args.repeats,
            args.growth,
        )
        return 0
    classes = (CLASSES * args.batch)[: args.batch]
    tensors = random_weights(args.depth, args.side)
    weights = sum(t.numel() for part in tensors for k, t in part.items()) * 4
    peer = "FoundationVision/VAR" if args.peer else "plain sampler"
    runs: dict[str, Callable[[], torch.Tensor]] = {}
    if args.peer:
        runs[peer] = peer_run(args.peer, args.depth, args.side, tensors, device, classes)
    else:
        runs[peer] = plain_run(tensors, torch.float32, device, classes)
    runs["mmgen fp32"] = our_run(tensors, torch.float32, device, classes)
    runs["mmgen bf16"] = our_run(tensors, torch.bfloat16, device, classes)
    gc.collect()
    say(f"VAR-d{args.depth}, {args.side * 16} px, batch {args.batch}; {machine(device)}")
    say(f"weights {weights / 1e6:.0f} MB in fp32")
    seconds = time_in_turns(runs, args.repeats, device)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, run in runs.items():
        peak = peak_bytes(run, device)
        memory = "unknown" if peak is None else f"{peak / 1e6:.0f}"
        rows.append([name, spread(seconds[name]), f"{medians[name] / medians[peer]:.3f}", memory])
    table(["", "seconds (min-max)", "of the peer's", "peak MB beyond weights"], rows)
    say(f"ratio {medians['mmgen fp32'] / medians[peer]:.3f}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mmgen_core bench var", description=__doc__)
    parser.add_argument("--depth", type=int, default=16, help="16, 20, 24, 30 or 36")
    parser.add_argument("--side", type=int, default=16, help="finest map: 16 (256 px), 32 (512)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", metavar="DIR", help="a checkout of FoundationVision/VAR")
    parser.add_argument(
        "--growth", type=Path, metavar="PNG", help="instead: time over depth, batch, scales; plot"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
