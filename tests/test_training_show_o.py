"""The recipes of the demo Show-o: tokenizer, transformer, judge, on drawings made here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmgen_core.checkpoints import read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.systems import identify
from mmgen_core.tokenizers.text import load_text_tokenizer
from mmgen_core.training import lookup_free, show_o, show_o_judge
from mmgen_core.training.captions import CaptionedDrawing
from mmgen_core.training.drawings import Drawings

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 160, 0), "black": (0, 0, 0)}
SIDE = 16


def picture(colour: tuple[int, int, int], square: bool) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    at = np.arange(SIDE) - SIDE / 2 + 0.5
    far = np.maximum(abs(at[:, None]), abs(at)) if square else np.hypot(at[:, None], at)
    pixels[far < 6] = colour
    return pixels


@pytest.fixture
def made_here(monkeypatch):
    """Squares and circles in place of the downloaded drawings."""
    made = []
    for name, colour in COLOURS.items():
        for shape in ("square", "circle"):
            words = f"{name} {shape}"
            captions = (f"{words}, noto style", words)
            pixels = picture(colour, shape == "square")
            one = CaptionedDrawing(words, words, "noto", "shape", (words,), captions, (), pixels)
            made.append(one)
    drawings = Drawings(
        np.stack([one.picture for one in made]), [o.name for o in made], ["noto"] * len(made)
    )
    for module in (lookup_free, show_o, show_o_judge):
        monkeypatch.setattr(module, "captioned_drawings", lambda *_: made)
    monkeypatch.setattr(lookup_free, "load_drawings", lambda *_: drawings)
    return made


def common(tmp_path, steps: int) -> list[str]:
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    return ["--steps", str(steps), "--side", str(SIDE), "--device", "cpu", *folders]


def train_tokenizer(tmp_path, steps: int, *more: str) -> str:
    sizes = ["--bits", "5", "--encoder", "8,16,16", "--decoder", "8,16,16", "--batch", "8"]
    assert lookup_free.main([*common(tmp_path, steps), *sizes, *more]) == 0
    return str(tmp_path / lookup_free.FILE)


def loaded(path: str):
    checkpoint = read_checkpoint(path)
    return build(identify(checkpoint), checkpoint, dtype=torch.float32)


def test_a_demo_is_trained_and_judged(made_here, tmp_path):
    tokenizer = train_tokenizer(tmp_path, 60)
    before = json.loads((tmp_path / "mmgen_demo_magvit.metrics.json").read_text("utf-8"))
    codebook = loaded(tokenizer).fingerprint
    polished = tmp_path / "polished"
    train_tokenizer(polished, 80, "--polish", tokenizer)
    again = loaded(str(polished / lookup_free.FILE))
    assert again.fingerprint == codebook
    kept = loaded(tokenizer).encoder.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in again.encoder.state_dict().items())
    after = json.loads((polished / "mmgen_demo_magvit.metrics.json").read_text("utf-8"))
    assert after["core"]["psnr"] > before["core"]["psnr"]

    run = [*common(tmp_path, 120), "--tokenizer", tokenizer, "--groups", "shape"]
    run += ["--depth", "2", "--width", "64", "--heads", "2", "--text-vocab", "300"]
    run += ["--batch", "8", "--questions", "4", "--rate", "4e-3", "--prompt-tokens", "28"]
    assert show_o.main(run) == 0
    model = loaded(str(tmp_path / show_o.FILE))
    assert model.params.codebook == codebook and model.params.image_tokens == 16
    text = load_text_tokenizer(tmp_path / "mmgen_demo_show_o.tokenizer.json")
    data = show_o.tokenise(made_here, loaded(tokenizer), text, torch.device("cpu"))
    batches = show_o.Batches(model.params, data, text)
    torch.manual_seed(0)
    codes, answers = show_o.losses(model, *batches.batch(16, 8))
    assert float(codes) < 2.5 and float(answers) < 1.5  # chance: 3.5 and 5.8
    judged = ["--model", str(tmp_path / show_o.FILE), "--tokenizer", tokenizer]
    judged += ["--groups", "shape", "--count", "8", "--device", "cpu"]
    assert show_o_judge.main(judged) == 0
    metrics = json.loads((tmp_path / "mmgen_demo_show_o.metrics.json").read_text("utf-8"))
    assert metrics["asked"] == 8 and 0 <= metrics["nearest_is_asked"] <= 1


def test_signs_pass_gradients_and_draw_features_outwards():
    z = torch.tensor([[[[0.2]], [[-3.0]]]], requires_grad=True)
    codes, loss = lookup_free.signs_of(z)
    assert codes.flatten().tolist() == [1.0, -1.0]
    (codes.sum() * 2).backward(retain_graph=True)
    assert z.grad.flatten().tolist() == [2.0, 2.0]
    z.grad = None
    loss.backward()
    assert float(z.grad[0, 0]) != 0
