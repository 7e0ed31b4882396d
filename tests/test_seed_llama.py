"""SEED-LLaMA: templates and dialogues, pictures of exactly 32 codes, answers, stories."""

from __future__ import annotations

import pytest
import tiny_seed
import torch

from mmgen_core.checkpoints import read_checkpoint
from mmgen_core.conditioners.multimodal_prompt import multimodal_prompt
from mmgen_core.decoding.next_token import TokenSampling
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.systems import identify
from mmgen_core.systems.next_token import PictureWish
from mmgen_core.systems.seed_llama_system import Style, dialogue
from mmgen_core.tokenizers.seed import SeedImageTokenizer
from mmgen_core.tokenizers.text import TokenizerError

CPU = torch.device("cpu")
HOT = TokenSampling(temperature=1.5)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_seed.llama(tmp_path_factory.mktemp("seed_llama"))


@pytest.fixture(scope="module")
def tokenizer() -> SeedImageTokenizer:
    return SeedImageTokenizer(tiny_seed.tokenizer(2), tiny_seed.vision(), "tiny.pt")


def wish(**settings) -> PictureWish:
    return PictureWish(sampling=HOT, text=HOT, **settings)


# Templates


def test_one_question():
    assert dialogue("a fox", Style.VICUNA) == "<s>USER: a fox\nASSISTANT:"
    assert dialogue("a fox", Style.LLAMA2) == "<s>[INST] a fox [/INST]\n"
    assert dialogue("a fox", Style.PLAIN) == "<s>a fox"


def test_several_turns():
    talk = "USER: draw a fox\nASSISTANT: Here it is.<img></img>\nUSER: now blue"
    assert dialogue(talk, Style.VICUNA) == f"<s>{talk}\nASSISTANT:"
    llama2 = "<s>[INST] draw a fox [/INST]\nHere it is.<img></img>\n[INST] now blue [/INST]\n"
    assert dialogue(talk, Style.LLAMA2) == llama2
    assert dialogue(f"Be brief.\n{talk}", Style.VICUNA).startswith("<s>Be brief.\nUSER: draw")


def test_style_of_a_file(tmp_path):
    for name, config, style in (
        ("model.safetensors", {}, Style.VICUNA),
        ("pretrain.safetensors", {}, Style.PLAIN),
        ("model.safetensors", {"prompt_style": "llama2"}, Style.LLAMA2),
    ):
        checkpoint = read_checkpoint(tiny_seed.write_llama(tmp_path, name, **config))
        match = identify(checkpoint)
        assert match.architecture.name == "SEED-LLaMA"
        assert match.architecture.system(match, checkpoint).style is style


def test_pickled_shards(tmp_path, llama):
    """As the hub has them: an index of .bin files."""
    path = tiny_seed.write_llama(tmp_path)
    whole = read_checkpoint(path)
    names, files = sorted(whole.tensors), {}
    for part, chosen in enumerate((names[:5], names[5:])):
        file = f"pytorch_model-0000{part + 1}-of-00002.bin"
        torch.save({name: whole.tensors[name] for name in chosen}, tmp_path / file)
        files |= dict.fromkeys(chosen, file)
    import json

    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    (tmp_path / "config.json").write_text(json.dumps(whole.config))
    assert identify(read_checkpoint(index)).params == llama[0].params


# Pictures


def test_pictures_are_rows_of_codes(llama, tokenizer):
    model, system = llama
    tokens = system.draw(model, tokenizer, multimodal_prompt("a red fox"), wish(batch=3), CPU)
    assert tokens.ids[0].shape == (3, 1, 32)
    assert 0 <= int(tokens.ids[0].min()) and int(tokens.ids[0].max()) < tiny_seed.CODES
    assert tokenizer.decode(tokens).shape == (3, 1, tiny_seed.UNCLIP_WIDTH)


def test_rows_equal_single_runs(llama, tokenizer):
    model, system = llama
    prompt = multimodal_prompt("a red fox")
    rows = system.draw(model, tokenizer, prompt, wish(batch=3, seed=4), CPU)
    alone = system.draw(model, tokenizer, prompt, wish(seed=6), CPU)
    assert torch.equal(rows.ids[0][2:], alone.ids[0])
    assert not torch.equal(rows.ids[0][:1], alone.ids[0])


def test_pictures_in_the_prompt_count(llama, tokenizer):
    model, system = llama
    picture = torch.rand(30, 40, 3)
    plain = system.draw(model, tokenizer, multimodal_prompt("make it blue"), wish(), CPU)
    shown = multimodal_prompt("<image> make it blue", [picture])
    with_picture = system.draw(model, tokenizer, shown, wish(), CPU)
    assert not torch.equal(plain.ids[0], with_picture.ids[0])
    text = system.prompt_text(shown, tokenizer, CPU)
    codes = tokenizer.encode(picture[None]).ids[0].flatten().tolist()
    assert text.startswith("<img>" + "".join(f"<img_{code:05d}>" for code in codes) + "</img>")


def test_progress_and_stop(llama, tokenizer):
    model, system = llama
    seen = []
    system.draw(model, tokenizer, multimodal_prompt("fox"), wish(), CPU, lambda *s: seen.append(s))
    assert [step[:2] for step in seen][-1] == (33, 33)

    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.draw(model, tokenizer, multimodal_prompt("fox"), wish(), CPU, stop)


# Texts and stories


def test_answers_are_words(llama):
    model, system = llama
    shown: list[str] = []
    answer = system.answer(
        *(model, None, multimodal_prompt("what is this?"), HOT, 20, 1, CPU),
        lambda done, total, text: shown.append(text),
    )
    assert shown and "<img" not in answer


def test_stories_have_whole_pictures(llama, tokenizer):
    model, system = llama
    drawn = 0
    for seed in range(4):
        told = system.tell(
            model, tokenizer, multimodal_prompt("a story"), wish(seed=seed, max_tokens=60), CPU
        )
        drawn += len(told.pictures)
        assert all(isinstance(t, ImageTokens) and t.grid == (1, 32) for t in told.pictures)
        assert told.marked().count("<image ") == len(told.pictures)
    assert drawn


# Bad input


def test_clear_errors(llama, tokenizer, tmp_path):
    model, system = llama
    prompt = multimodal_prompt("a fox")
    other = SeedImageTokenizer(tiny_seed.tokenizer(2, vocab=32), None, "other.pt")
    blind = SeedImageTokenizer(tiny_seed.tokenizer(2), None, "blind.pt")
    looking = multimodal_prompt("<image> fox", [torch.rand(9, 9, 3)])
    for arguments, words in (
        ((None, prompt, wish()), "Load SEED Tokenizer"),
        ((other, prompt, wish()), "out of 64, the image tokenizer has 32"),
        ((blind, looking, wish()), "blind.pt.*eva_vit_g.pth"),
        ((tokenizer, multimodal_prompt("  "), wish()), "prompt is empty"),
        ((tokenizer, prompt, wish(size=(512, 512))), "own size"),
        ((tokenizer, multimodal_prompt("fox " * 400), wish()), "trained with 400"),
    ):
        with pytest.raises(ValueError, match=words):
            system.draw(model, *arguments, CPU)


def test_tokenizer_of_another_model(tmp_path):
    path = tiny_seed.write_llama(tmp_path, image_id_shift=3, num_codes=8)
    checkpoint = read_checkpoint(path)
    match = identify(checkpoint)
    with pytest.raises(TokenizerError, match="64 image codes"):
        match.architecture.system(match, checkpoint)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"needs its text tokenizer"):
        match.architecture.system(match, checkpoint)
