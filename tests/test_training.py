"""The training recipes: the data rules are fixed, and both objectives learn. No network."""

import numpy as np
import pytest
import torch

from mmgen_core.training import drawings as drawings_module
from mmgen_core.training import judge, loop, multiscale_vq, var
from mmgen_core.training.drawing_classes import CLASSES, NAMES, NO_CLASS, class_of
from mmgen_core.training.drawings import Drawings, DrawingsError, is_held_out, motif

CPU = torch.device("cpu")
EXAMPLES = {
    "cat": "grinning-cat",
    "dog": "dog-face",
    "bear or panda": "panda",
    "horse or deer": "zebra",
    "cow, pig or sheep": "cow-face",
    "bird": "penguin",
    "fish or whale": "tropical-fish",
    "insect": "honeybee",
    "smiling face": "grinning-face-with-big-eyes",
    "sad face": "loudly-crying-face",
    "heart": "blue-heart",
    "moon": "waxing-crescent-moon",
    "sun or cloud": "sun-behind-rain-cloud",
    "clock": "three-oclock",
    "flower": "tulip",
    "tree": "palm-tree",
    "fruit": "red-apple",
    "vegetable": "carrot",
    "cake or ice cream": "birthday-cake",
    "drink": "beer-mug",
    "car or truck": "oncoming-taxi",
    "train": "bullet-train",
    "house or building": "house-with-garden",
    "book": "green-book",
    "ball": "soccer-ball",
    "coloured circle": "red-circle",
    "coloured square": "blue-square",
    "arrow button": "up-left-arrow",
    "number key": "keycap-7",
    "zodiac sign": "leo",
    "folder or page": "file-folder",
    "thumbs up": "thumbs-up",
    "thumbs down": "thumbs-down",
    "victory hand": "victory-hand",
    "raised hand": "waving-hand",
    "fist": "oncoming-fist",
    "pointing hand": "index-pointing-up",
    "flexed arm": "flexed-biceps",
    "ear": "ear",
    "astronaut": "woman-astronaut",
    "cook": "man-cook",
    "farmer": "farmer",
    "firefighter": "woman-firefighter",
    "police officer": "police-officer",
    "construction worker": "construction-worker",
    "pilot": "man-pilot",
    "guard": "guard",
    "graduate": "woman-student",
    "singer": "man-singer",
    "artist": "artist",
    "wizard": "person-mage",
    "superhero": "superhero",
    "mermaid": "merman",
    "Santa Claus": "mrs-claus",
    "vampire": "vampire",
    "baby": "baby-angel",
    "bride": "person-with-veil",
    "runner": "woman-running-facing-right",
    "swimmer": "man-swimming",
    "cyclist": "person-biking",
    "wheelchair user": "person-in-manual-wheelchair",
}


def synthetic(count: int = 8, side: int = 16) -> Drawings:
    """Coloured discs and squares on white, none of them held out."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    pixels = np.full((count, side, side, 3), 255, np.uint8)
    for i in range(count):
        radius = 3 + i % 4
        inside = x**2 + y**2 < radius**2 if i % 2 else np.maximum(abs(x), abs(y)) < radius
        pixels[i][inside] = rng.integers(0, 256, 3)
    names = [n for n in (f"shape-{i}" for i in range(1000)) if not is_held_out(n)][:count]
    return Drawings(pixels, names, ["noto"] * count)


@pytest.fixture(scope="module")
def tokenizer_args(tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))
    return multiscale_vq.parse(
        f"--side 16 --scales 1,2,4 --vocab 64 --channels 8 --ch 16 --ch-mult 1,2,2 --batch 8 "
        f"--steps 200 --rate 5e-3 --runs {runs} --fresh".split()
    )


@pytest.fixture(scope="module")
def tokenizer(tokenizer_args):
    torch.manual_seed(0)
    model = multiscale_vq.build(tokenizer_args)
    pictures = multiscale_vq.Pictures(synthetic(), CPU)
    ema = multiscale_vq.train(model, pictures, (1, 2, 4), tokenizer_args, CPU)
    model.load_state_dict(ema.average)
    model.fingerprint = "test"
    return model.eval()


def test_tokenizer_learns(tokenizer):
    pixels = torch.from_numpy(synthetic().pixels)
    result = multiscale_vq.evaluate(tokenizer, pixels, (1, 2, 4), 64)
    assert result["psnr"] > 15.5, result  # untrained: about 5 dB; the mean colour alone: 11 dB
    assert result["codes_used"] > 0.1, result


def test_trained_quantiser_is_the_library_s(tokenizer):
    f = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        f_hat, _, ids, _ = multiscale_vq.quantise(tokenizer.quantize, f, (1, 2, 4))
    expected_ids, expected = tokenizer.quantize.encode(f, [(1, 1), (2, 2), (4, 4)])
    for found, wanted in zip(ids, expected_ids, strict=True):
        assert torch.equal(found, wanted.flatten())
    torch.testing.assert_close(f_hat, expected, atol=1e-5, rtol=1e-5)


def test_tokenizer_run_is_resumable(tokenizer, tokenizer_args, caplog):
    args = multiscale_vq.parse([f"--runs={tokenizer_args.runs}", "--vocab=64", "--steps=200"])
    again = multiscale_vq.build(tokenizer_args)
    with caplog.at_level("INFO"):
        ema = multiscale_vq.train(again, None, (1, 2, 4), args, CPU)
    assert "going on from step 200" in caplog.text
    stored = tokenizer.quantize.embedding.weight
    assert torch.equal(ema.average["quantize.embedding.weight"], stored)


def test_run_of_another_model_is_refused(tokenizer_args):
    args = multiscale_vq.parse([f"--runs={tokenizer_args.runs}", "--blocks=2", "--steps=1"])
    with pytest.raises(ValueError, match="run of another model"):
        multiscale_vq.train(multiscale_vq.build(args), None, (1, 2, 4), args, CPU)


def test_transformer_overfits_a_handful(tokenizer, tmp_path):
    torch.manual_seed(0)
    shapes = synthetic(4)
    tokens = var.tokenise(tokenizer, shapes.pixels, torch.arange(4), CPU)
    options = f"--depth 2 --width 64 --heads 2 --batch 8 --steps 150 --rate 5e-3 --runs {tmp_path}"
    args = var.parse([*options.split(), "--fresh"])
    model = var.build(args, tokenizer)
    before = var.held_out_loss(model, tokens)
    ema, budget = var.train(model, tokens, tokens, args)
    model.load_state_dict(ema.average)
    after = var.held_out_loss(model, tokens)
    assert budget.step == 150
    assert before > 3.5, before  # ln 64 = 4.16 for a uniform guess
    assert after < 0.2, after
    assert not any(b.attn.qkv.bias.chunk(3)[1].any() for b in model.blocks)


def test_split_is_the_same_everywhere():
    held = [f"motif-{i}" for i in range(200) if is_held_out(f"motif-{i}")]
    assert len(held) == 7
    assert 0.02 < sum(is_held_out(f"m{i}") for i in range(2000)) / 2000 < 0.08


def test_all_tones_of_a_motif_share_its_side():
    names = ["man-cook", "man-cook-dark-skin-tone", "man-cook-medium-light", "man-cook-light"]
    assert {motif(name) for name in names} == {"man-cook"}
    assert motif("light-blue-heart") == "light-blue-heart"


def test_every_class_has_its_example():
    assert set(EXAMPLES) == set(NAMES)
    for name, example in EXAMPLES.items():
        assert class_of(example) == NAMES.index(name), (example, NAMES[class_of(example)])
    assert class_of("syringe") == NO_CLASS == len(CLASSES)


def test_classes_weigh_by_the_root_of_their_size():
    classes = torch.tensor([0] * 100 + [1] * 25 + [NO_CLASS] * 50)
    weights = var.sampling_weights(classes)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[:100].sum() / weights[100:125].sum() == pytest.approx(2, abs=1e-4)
    assert weights[125:].sum().item() == pytest.approx(var.UNNAMED_SHARE, abs=1e-5)


def test_foreign_archive_is_refused(tmp_path):
    package = drawings_module.PACKAGES[0]
    (tmp_path / package.file).write_bytes(b"not the package")
    with pytest.raises(DrawingsError, match="is not @iconify-json/noto"):
        drawings_module.fetch(package, tmp_path)


def test_npm_absent_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings_module.shutil, "which", lambda name: None)
    with pytest.raises(DrawingsError, match="install Node.js"):
        drawings_module.fetch(drawings_module.PACKAGES[1], tmp_path)


def test_learning_rate_rises_and_falls():
    rates = [loop.one_cycle(p / 100, 1.0) for p in range(101)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] < 0.05 and rates[-1] < 0.02


def test_judge_finds_the_copy_and_the_class():
    drawings = torch.from_numpy(synthetic().pixels).permute(0, 3, 1, 2) / 127.5 - 1
    near = judge.nearest_psnr(torch.cat([drawings[:1].flip(3), -drawings[:1]]), drawings)
    assert near[0] > 50 > 10 > near[1]
    classes = torch.arange(8)
    sure = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8, bias=False))
    sure[1].weight.data = torch.linalg.pinv(drawings.flatten(1)).T
    assert judge.agreement(sure, drawings, classes)["top1"] == 1
    assert judge.agreement(sure, drawings, classes.roll(1))["top1"] == 0


def test_contact_sheet_holds_every_picture():
    sheet = judge.contact_sheet(torch.ones(6, 3, 16, 16), ["a", "b", "c"], each=2, columns=2)
    assert sheet.size == (2 * (118 + 32), 2 * 16)
