"""Chameleon's family at work on tiny models: prompts, tokenizers, sizes, guidance, stories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_next_token as tiny_models
import torch
from golden_chameleon_parts import Names

from mmgen_core.checkpoints import Checkpoint, CheckpointError, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners.multimodal_prompt import multimodal_prompt
from mmgen_core.conditioners.system_writer import SystemWriter
from mmgen_core.conditioners.text_writer import TextRequest, TextSettings
from mmgen_core.decoding.next_token import TokenSampling
from mmgen_core.decoding.speculative import Speculation
from mmgen_core.systems import identify
from mmgen_core.systems.chameleon_vocabulary import Vocabulary, code_of, guidance_branches
from mmgen_core.systems.lumina_mgpt import LuminaSystem, is_lumina, spaced, target_of
from mmgen_core.systems.next_token import MultimodalPrompt, PictureWish
from mmgen_core.tokenizers.text import TokenizerError, find_text_tokenizer, load_text_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tiny_models.write_chameleon(tmp_path_factory.mktemp("models"))
    checkpoint = read_checkpoint(path)
    match = identify(checkpoint, "next-token model")
    model = build(match, checkpoint)
    tokenizer = build(identify(checkpoint, "image tokenizer"), checkpoint)
    return match.architecture.system(match, checkpoint, []), model, tokenizer


def drawn(loaded, prompt, **wish):
    system, model, tokenizer = loaded
    settings = {"sampling": TokenSampling(0.7, 0, 0.9), **wish}
    return system.draw(model, tokenizer, prompt, PictureWish(**settings), CPU).ids[0]


def test_rows_seeds_and_speculation_agree(loaded):
    prompt = multimodal_prompt("a red fox")
    four = drawn(loaded, prompt, batch=4, seed=7)
    assert four.shape == (4, 4, 4) and four.unique().numel() > 4
    assert torch.equal(four[2:3], drawn(loaded, prompt, seed=9))
    fast = drawn(loaded, prompt, batch=4, seed=7, speculation=Speculation(5))
    assert torch.equal(fast, four)
    other = drawn(loaded, prompt, batch=4, seed=7, speculation=Speculation(5, "rejection"))
    assert other.shape == four.shape


def test_a_second_seed_does_not_read_the_prompt_again(loaded, monkeypatch):
    prompt = multimodal_prompt("two birds", [torch.rand(20, 30, 3)])
    drawn(loaded, prompt, seed=1)
    from mmgen_core.systems import next_token

    monkeypatch.setattr(next_token, "prefill", lambda *_: pytest.fail("read again"))
    again = drawn(loaded, prompt, seed=2)
    monkeypatch.undo()
    assert torch.equal(
        again, drawn(loaded, multimodal_prompt(prompt.text, prompt.pictures), seed=2)
    )


def test_previews_come_row_by_row_and_a_run_can_be_stopped(loaded):
    system, model, tokenizer = loaded
    steps = []

    def on_step(done, total, preview):
        steps.append((done, total, None if preview is None else preview().shape))
        if len(steps) == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.draw(model, tokenizer, multimodal_prompt("x"), PictureWish(), CPU, on_step)
    shown = [done for done, total, shape in steps if shape is not None]
    assert shown == [4, 8, 12] and all(total == 16 for _, total, _ in steps)


def test_guidance_has_two_branches_without_a_picture_and_three_with(loaded):
    v = Vocabulary()
    text = guidance_branches([0, 20000, 8710, v.boi], v, 3.0, 1.2)
    assert [b.context.ids.tolist() for b in text] == [
        [0, 20000, 8710, v.boi],
        [0, v.boi],
        [0, v.boi],
    ]
    picture = guidance_branches([0, v.boi, 4, 5, v.eoi, 20000, v.boi], v, 3.0, 1.2)
    assert picture[1].context.ids.tolist() == [0, v.boi, 4, 5, v.eoi, v.boi]
    weights = [branch.weight for branch in picture]
    assert weights == pytest.approx([3.0, 1.2 - 3.0, 1 - 1.2])


@pytest.mark.parametrize(
    ("prompt", "wish", "message"),
    [
        (multimodal_prompt("  "), {}, "empty"),
        (multimodal_prompt("x"), {"size": (64, 64)}, "16 x 16, not 64 x 64"),
        (multimodal_prompt("fox " * 200), {}, "trained with 120"),
    ],
)
def test_impossible_wishes_are_refused(loaded, prompt, wish, message):
    with pytest.raises(ValueError, match=message):
        drawn(loaded, prompt, **wish)


def test_an_image_tokenizer_of_another_model_is_refused(loaded):
    from test_vqgan import loaded as vqgan
    from test_vqgan import tensors

    system, model, _ = loaded
    other = vqgan({k: (v[:20] if "embedding" in k else v) for k, v in tensors().items()})
    with pytest.raises(ValueError, match="24 image codes.*has 20"):
        system.draw(model, other, multimodal_prompt("x"), PictureWish(), CPU)
    with pytest.raises(ValueError, match="connect its image tokenizer"):
        system.answer(
            *(model, None, multimodal_prompt("x", [torch.rand(9, 9, 3)]), TokenSampling()),
            *(5, 0, CPU, lambda *_: None),
        )


def test_marks_place_pictures():
    a, b = torch.zeros(1, 1, 3), torch.ones(1, 1, 3)
    assert multimodal_prompt("see <image> and <image>", [a, b]).parts[1::2] == (a, b)
    assert multimodal_prompt("see <image 2>", [a, b]).parts[0] is a
    assert multimodal_prompt("see <image 2>", [a, b]).parts[2] is b
    assert multimodal_prompt("<|image|> what", [a]).parts == (a, " what")
    with pytest.raises(ValueError, match=r"<image 3>, and 2 pictures"):
        multimodal_prompt("<image 3>", [a, b])


def test_stories_have_texts_and_pictures(loaded):
    system, model, tokenizer = loaded
    found = []
    for seed in range(6):
        wish = PictureWish(seed=seed, text=TokenSampling(1.0, 0, 0.95), max_tokens=40)
        found.append(system.tell(model, tokenizer, multimodal_prompt("two birds"), wish, CPU))
    assert max(len(told.pictures) for told in found) >= 2
    for told in found:
        assert told.marked().count("<image ") == len(told.pictures)
        assert all(tokens.grid == (4, 4) for tokens in told.pictures)


def test_answers_are_text_alone(loaded):
    system, model, tokenizer = loaded
    writer = SystemWriter(system, model, tokenizer, CPU, "tiny.safetensors")
    asked = writer.encode(TextRequest("what is this?", [torch.rand(20, 20, 3)]))
    seen = []
    settings = TextSettings(max_tokens=12, seed=3)
    text = writer.write(asked, settings, lambda *step: seen.append(step))
    assert isinstance(text, str) and "IMGIMG" not in text and seen
    assert text == writer.write(asked, settings, lambda *_: None)
    with pytest.raises(ValueError, match="presence penalty"):
        writer.write(asked, TextSettings(presence_penalty=1.0), lambda *_: None)


# Lumina-mGPT


LUMINA_NAMES = {
    "<s>": 0,
    "<pad>": 1,
    "</s>": 2,
    "<eoss>": 28,
    "<racm3:break>": 29,
    "<reserved08706>": 30,
    "<reserved08799>": 31,
    "<reserved08800>": 32,
    "w0": 200,
}


class Letters(Names):
    def encode(self, text: str) -> list[int]:
        return [200 + ord(letter) % 40 for letter in text]


def lumina() -> LuminaSystem:
    names = Letters(LUMINA_NAMES, tiny_models.CODES, 240)
    return LuminaSystem("Lumina-mGPT", 240, names, {}, "model.safetensors", 512)


def test_lumina_draws_any_multiple_of_its_grid(loaded):
    system, tokenizer = lumina(), loaded[2]
    model = build_decoder(240)
    wish = PictureWish((24, 16), sampling=TokenSampling(1.0, 10))
    told = []
    tokens = system.draw(
        model, tokenizer, multimodal_prompt("x"), wish, CPU, lambda *step: told.append(step[:2])
    )
    assert tokens.grid == (4, 6) and told[-1] == (4 * 7 + 1, 4 * 7 + 1)
    fast = system.draw(
        model,
        tokenizer,
        multimodal_prompt("x"),
        PictureWish((24, 16), sampling=TokenSampling(1.0, 10), speculation=Speculation(6)),
        CPU,
    )
    assert torch.equal(fast.ids[0], tokens.ids[0])
    with pytest.raises(ValueError, match="multiples of 8 pixels, not 20 x 16.*nearest is 16 x 16"):
        system.draw(model, tokenizer, multimodal_prompt("x"), PictureWish((20, 16)), CPU)


def build_decoder(vocab: int):
    tensors = tiny_models.decoder_tensors(vocab)
    tensors["model.vqmodel.quantize.embedding.weight"] = torch.zeros(tiny_models.CODES, 6)
    checkpoint = Checkpoint(Path("model.safetensors"), tensors)
    return build(identify(checkpoint, "next-token model"), checkpoint)


def test_lumina_pictures_go_there_and_back(loaded):
    system = lumina()
    codes = torch.arange(24).view(4, 6)
    sequence = system.sequence(codes)
    assert sequence[:3] == [29, 32 + 2, 32 + 3] and sequence[-1] == 28 and sequence[9] == 31
    told = system.read([*sequence, 205, 206], loaded[2])
    assert torch.equal(told.pictures[0].ids[0][0], codes) and told.pieces[0] == 0
    assert not system.read(sequence[:-3], loaded[2]).pictures  # unfinished: no picture


def test_lumina_prompts_have_blanks_around_pictures():
    picture = torch.zeros(1, 1, 3)
    parts = spaced(MultimodalPrompt(("Depth estimation.", picture))).parts
    assert parts == ("Depth estimation. ", picture)
    assert spaced(MultimodalPrompt((picture, "what"))).parts == (picture, " what")


def test_lumina_is_told_by_its_norms_or_its_config():
    shapes = {
        "model.layers.0.self_attn.q_norm.weight": (1, 8),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
    }

    def checkpoint(more=None, config=None):
        tensors = {key: torch.empty(shape) for key, shape in (shapes | (more or {})).items()}
        return Checkpoint(Path("model.safetensors"), tensors, config or {})

    assert is_lumina(checkpoint())
    assert not is_lumina(checkpoint({"model.vqmodel.quant_conv.weight": (1, 1, 1, 1)}))
    config = {"architectures": ["ChameleonXLLMXForConditionalGeneration"]}
    assert is_lumina(checkpoint({"model.layers.0.self_attn.q_norm.weight": (4, 8)}, config))
    assert not is_lumina(checkpoint({"model.layers.0.self_attn.q_norm.weight": (4, 8)}))
    assert target_of(Path("Lumina-mGPT-7B-1024/model.safetensors.index.json")) == 1024
    assert target_of(Path("lumina/model.safetensors.index.json")) == 768


# Files


def test_a_lone_part_of_four_names_the_others(tmp_path):
    tensors = {
        "tok_embeddings.weight": torch.zeros(16, 8),
        "norm.weight": torch.zeros(32),
        "layers.0.attention.q_normalization.weight": torch.zeros(8),
    }
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match=r"one of 4 parts.*consolidated\.03\.pth"):
        identify(read_checkpoint(tmp_path / "consolidated.00.pth"))


def test_parts_are_read_together(tmp_path):
    for part in range(2):
        torch.save({"x.weight": torch.full((2,), part)}, tmp_path / f"consolidated.0{part}.pth")
    found = read_checkpoint(tmp_path / "consolidated.00.pth").tensors
    assert sorted(found) == ["rank00.x.weight", "rank01.x.weight"]


def test_text_tokenizers_are_found_beside_the_model(tmp_path):
    model = tmp_path / "models" / "7b" / "consolidated.pth"
    model.parent.mkdir(parents=True)
    with pytest.raises(TokenizerError, match=r"consolidated\.pth needs its text tokenizer"):
        find_text_tokenizer(model)
    shared = tmp_path / "tokenizer"
    tiny_models.write_chameleon(shared, "other")
    (shared / "other.tokenizer.json").rename(shared / "text_tokenizer.json")
    assert find_text_tokenizer(model) == (shared / "text_tokenizer.json").resolve()
    assert find_text_tokenizer(model, [tmp_path]).name == "text_tokenizer.json"
    tokenizer = load_text_tokenizer(shared / "text_tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("a red fox")) == "a red fox"
    with pytest.raises(TokenizerError, match="belongs to another model"):
        tokenizer.id_of("<reserved09999>")
    (shared / "text_tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="no readable tokenizer"):
        load_text_tokenizer(shared / "text_tokenizer.json")


def test_names_of_codes():
    assert code_of("IMGIMGAZ") == 0 and code_of("IMGIMGFDZ") == 53
    assert code_of("IMGIMGZ") is None and code_of("image") is None


def test_a_text_tokenizer_of_another_model_is_refused(tmp_path):
    path = tiny_models.write_chameleon(tmp_path)
    content = json.loads((tmp_path / "tiny_chameleon.tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] = {
        name: i for name, i in content["model"]["vocab"].items() if not name.startswith("IMGIMG")
    }
    content["added_tokens"] = [
        token for token in content["added_tokens"] if not token["content"].startswith("IMGIMG")
    ]
    (tmp_path / "tiny_chameleon.tokenizer.json").write_text(json.dumps(content))
    checkpoint = read_checkpoint(path)
    match = identify(checkpoint, "next-token model")
    with pytest.raises(TokenizerError, match="no tokenizer of Chameleon's family"):
        match.architecture.system(match, checkpoint, [])
