"""The official Show-o scripts whole: text to image, in-painting, extrapolation, understanding."""

from __future__ import annotations

import numpy as np
import torch
from golden_bytes import cut_off
from golden_show_o import (
    answer,
    generator_noise,
    load_model,
    recorded_prompt,
    start_codes,
    watch,
)
from golden_var import load, to_reference
from PIL import Image

from mmgen_core.conditioners.show_o_prompt import codes_to_redraw, drawing_ids, question_ids
from mmgen_core.decoding.masked import UNKNOWN, MaskedNoise, MaskedSampling, Prompts
from mmgen_core.decoding.painting import Painter, extend, windows_of
from mmgen_core.image_tokens import ImageTokens


class RecordedPainter(Painter):
    """Takes the numbers of call n from the generator that the recorded call had."""

    params, seeds, greedy, rows = None, (), False, 1

    def noise(self) -> list[MaskedNoise]:
        generator = torch.Generator().manual_seed(next(self.seeds))
        steps = self.sampling.steps
        return generator_noise(generator, self.rows, self.params, steps, self.greedy)


@torch.inference_mode()
def run_scripts(case) -> dict[str, torch.Tensor]:
    """The official scripts, mode by mode."""
    model = load_model(case, case.spec["config"]["showo"])
    tokenizer = load(case, "weights.magvitv2.safetensors", {})
    results, modes = {}, {name.split(".")[0] for name in case.expected}
    for mode in sorted(modes):
        painter = recorded_painter(case, model, mode)
        if mode == "t2i":
            side, rows = model.params.side, len(case.spec["config"]["meta"]["prompts"])
            canvas = torch.full((rows, side, side), UNKNOWN)
            results |= repainted(case, model, tokenizer, painter, mode, canvas)
        elif mode == "inpainting":
            results |= inpainting(case, model, tokenizer, painter)
        elif mode == "mmu":
            results |= encoded(case, model, tokenizer, mode)
            codes = results["mmu.image_codes"]
            ids = question_ids(model.params, codes[0], case.inputs["mmu.question_ids"].tolist())
            assert torch.equal(ids, case.inputs["mmu.input_ids"][0])
            results |= answer(model, case, ids, mode)
        else:
            results |= extrapolation(case, model, tokenizer, painter, mode)
    return results


def recorded_painter(case, model, mode: str) -> RecordedPainter:
    meta = case.spec["config"]["meta"]
    sampling = MaskedSampling(
        meta["timesteps"], meta["guidance_scale"], temperature=meta["temperature"]
    )
    painter = RecordedPainter(model.params.side, sampling, ())
    painter.params = model.params
    calls = sorted(name for name in meta if name.startswith(f"{mode}.call"))
    painter.seeds = iter([meta[name]["seed"] for name in calls])
    return painter


def recorded_prompts(case, model, mode: str, call: int, count: int) -> Prompts:
    p, stem = model.params, f"{mode}.call{call}"
    rows = case.inputs[f"{stem}.input_ids"]
    prompts = [recorded_prompt(p, row) for row in rows]
    texts = [v.tolist() for name, v in case.inputs.items() if name.startswith("prompt_ids.")]
    ours = [drawing_ids(p, text, cut=True).tolist() for text in texts]
    assert all(prompt.tolist() in ours for prompt in prompts)
    empty = recorded_prompt(p, case.inputs[f"{stem}.uncond_input_ids"][0])
    assert torch.equal(empty, drawing_ids(p, []))
    return Prompts(model, prompts, empty, p.image_tokens, "cpu")


def encoded(case, model, tokenizer, mode: str) -> dict[str, torch.Tensor]:
    pixels = cropped(case.inputs["image_uint8"], model.params.side * tokenizer.stride)
    codes = tokenizer.encode(pixels / 255).ids[0]
    pixel_values = (pixels / 255 - 0.5) / 0.5
    return {
        f"{mode}.pixel_values": pixel_values.permute(0, 3, 1, 2),
        f"{mode}.image_codes": codes.flatten(1),
    }


def cropped(image_uint8: torch.Tensor, side: int) -> torch.Tensor:
    """[1, side, side, C] in 0..255: short side resized, centre cut out, as torchvision does."""
    picture = Image.fromarray(image_uint8.numpy())
    width, height = picture.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    picture = picture.resize(size, Image.Resampling.BICUBIC) if size != picture.size else picture
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    cut = picture.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(cut)).view(1, side, side, -1).float()


def repainted(case, model, tokenizer, painter, mode: str, canvas) -> dict[str, torch.Tensor]:
    """One call that draws all unknown codes, and the pictures of the result."""
    painter.rows = len(canvas)
    prompts = recorded_prompts(case, model, mode, 0, len(canvas))
    windows = windows_of((canvas == UNKNOWN).any(0), painter.side)
    canvas = painter.fill(prompts, canvas, windows)
    first = 2 if mode == "inpainting" else 0
    shown = pictures(tokenizer, canvas, mode)
    raw = shown[f"{mode}.raw_image"]
    logged = (((raw + 1) / 2).clamp(0, 1) * 255).permute(0, 2, 3, 1)
    names = [f"{mode}.logged_uint8.{first + i}" for i in range(len(logged))]
    slack = 127.5 * case.spec["tolerance"]["atol"]
    return {
        **shown,
        f"{mode}.call0.token_ids": canvas.flatten(1),
        f"{mode}.decoded_ids": canvas.flatten(1),
        **{n: cut_off(v, case.expected[n], slack) for n, v in zip(names, logged, strict=True)},
    }


def pictures(tokenizer, canvas, mode: str) -> dict[str, torch.Tensor]:
    seen = {}
    hook = watch(tokenizer.decoder, seen, f"{mode}.raw_image")
    shown = tokenizer.decode(ImageTokens((canvas,), tokenizer.fingerprint))
    hook.remove()
    clamped = seen[f"{mode}.raw_image"].clamp(-1, 1)
    torch.testing.assert_close(to_reference(shown), clamped, atol=1e-6, rtol=0)
    return seen


def inpainting(case, model, tokenizer, painter) -> dict[str, torch.Tensor]:
    results = encoded(case, model, tokenizer, "inpainting")
    side, rows = model.params.side, len(case.inputs["inpainting.call0.input_ids"])
    mask = cropped(case.inputs["mask_uint8"], side * tokenizer.stride)[..., 0] / 255
    redraw = codes_to_redraw(mask, (side, side))
    codes = results["inpainting.image_codes"].view(1, side, side)
    canvas = torch.where(redraw, UNKNOWN, codes).repeat(rows, 1, 1)
    start = start_codes(model.params, case.inputs["inpainting.call0.input_ids"])
    assert torch.equal(canvas.flatten(1), start)
    pixels = results["inpainting.pixel_values"][0].permute(1, 2, 0)
    for i, value in enumerate((pixels, mask[0, ..., None].expand(-1, -1, 3))):
        shown = ((value + 1) / 2).clamp(0, 1) * 255
        results[f"inpainting.logged_uint8.{i}"] = shown.to(torch.uint8)
    return {**results, **repainted(case, model, tokenizer, painter, "inpainting", canvas)}


def extrapolation(case, model, tokenizer, painter, mode: str) -> dict[str, torch.Tensor]:
    meta, side = case.spec["config"]["meta"], painter.side
    results = encoded(case, model, tokenizer, mode)
    canvas = results[f"{mode}.image_codes"].view(1, side, side)
    for call, direction in enumerate(meta["extra_direction"][mode]):
        canvas, windows = extend(canvas, direction, side, meta["offset"])
        (top, left) = windows[0]
        assert len(windows) == 1
        prompts = recorded_prompts(case, model, mode, call, 1)
        canvas = painter.fill(prompts, canvas, windows)
        drawn = canvas[:, top : top + side, left : left + side]
        results[f"{mode}.call{call}.token_ids"] = drawn.flatten(1)
    shown = pictures(tokenizer, canvas, mode)
    return {**results, **shown, f"{mode}.decoded_ids": canvas.flatten(1)}
