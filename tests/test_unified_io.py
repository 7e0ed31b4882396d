"""Unified-IO 1 and 2: files, prompts, pictures, answers, boxes; each mistake is a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_unified_io as tiny
import torch

from mmgen_core.checkpoints import CheckpointError, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.checkpoints.convert import convert_checkpoint
from mmgen_core.decoding.beam_search import search_text
from mmgen_core.decoding.encoder_prefix import read_prompts
from mmgen_core.decoding.next_token import TextRules, TokenSampling
from mmgen_core.decoding.speculative import Speculation
from mmgen_core.decoding.stream import DecoderStream
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.systems import identify
from mmgen_core.systems.next_token import MultimodalPrompt, PictureWish
from mmgen_core.systems.unified_io_boxes import Found, found_boxes, layout_of, without_repeats
from mmgen_core.tokenizers.text import TokenizerError
from mmgen_core.tokenizers.unified_io_text import UnifiedIO2Tokenizer, UnifiedIOTokenizer

CPU = torch.device("cpu")
WISH = PictureWish(guidance=1, sampling=TokenSampling(top_p=0.9))
GREEDY = TokenSampling(temperature=0)


class Loaded:
    """A tiny system from its files."""

    def __init__(self, path: Path):
        self.path = path
        checkpoint = read_checkpoint(path)
        match = identify(checkpoint, "next-token model")
        self.model = build(match, checkpoint)
        self.tokenizer = build(identify(checkpoint, "image tokenizer"), checkpoint)
        self.system = match.architecture.system(match, checkpoint, [])

    def draw(self, prompt, wish=WISH, on_step=None) -> ImageTokens:
        return self.system.draw(self.model, self.tokenizer, prompt, wish, CPU, on_step)

    def answer(self, prompt, limit=10, **options) -> str:
        arguments = (GREEDY, limit, 0, CPU, lambda *step: None)
        return self.system.answer(self.model, None, prompt, *arguments, **options)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Loaded]:
    folder = tmp_path_factory.mktemp("unified_io")
    return {
        "1": Loaded(tiny.write_1(folder / "one")),
        "2": Loaded(tiny.write_2(folder / "two")),
    }


@pytest.fixture(params=["1", "2"])
def uio(loaded, request) -> Loaded:
    return loaded[request.param]


def text(*parts) -> MultimodalPrompt:
    return MultimodalPrompt(tuple(parts))


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))


# Pictures


def test_same_seed_same_picture_in_every_batch_position(uio):
    prompt = text("a red cat")
    batch = uio.draw(prompt, PictureWish(guidance=1, seed=7, batch=3)).ids[0]
    for i in range(3):
        alone = uio.draw(prompt, PictureWish(guidance=1, seed=7 + i)).ids[0]
        assert torch.equal(alone[0], batch[i])
    assert len({tuple(row.flatten().tolist()) for row in batch}) == 3


def test_codes_are_codes_and_decode(uio):
    tokens = uio.draw(text("a dog"), PictureWish(guidance=1, batch=4))
    assert tokens.ids[0].shape == (4, tiny.SIDE, tiny.SIDE)
    assert 0 <= int(tokens.ids[0].min()) and int(tokens.ids[0].max()) < tiny.CODES
    assert uio.tokenizer.decode(tokens).shape == (4, *uio.system.sizes[0], 3)


def test_the_prompt_is_encoded_once_whatever_the_batch(uio, picture):
    calls = []
    hooks = [
        module.register_forward_hook(lambda module, *rest: calls.append(module))
        for module in (uio.model.encoder, uio.model.decoder.layers[0].cross.k)
    ]
    uio.draw(uio.system.task_prompt("depth", picture=picture), PictureWish(guidance=1, batch=3))
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2


def test_progress_counts_codes_and_shows_finished_rows(uio):
    seen = []
    uio.draw(text("a cat"), on_step=lambda done, total, show: seen.append((done, total, show)))
    total = tiny.SIDE**2
    assert [done for done, _, _ in seen] == [0, *range(1, total + 1)]
    shown = [done for done, _, show in seen if show is not None]
    assert shown == list(range(tiny.SIDE, total + 1, tiny.SIDE))
    assert seen[-1][2]().shape == (1, *uio.system.sizes[0], 3)


def test_guidance_follows_the_published_formula(loaded):
    uio = loaded["2"]
    target = uio.model.target("image")
    system, prompt = uio.system, text("a red cat")
    main = system.encoded(system.asked(prompt, "image"), "image")
    prefix = read_prompts(target, [main, system.negative(main)])
    stream = DecoderStream(target, prefix, 1, 1)
    first, second = stream.scores(stream.hidden(), slice(1, 2))[:, 0]
    scale = 3.0  # the reference's; 4 in the terms of this pack
    published = (1 + scale) * first.log_softmax(-1) - scale * second.log_softmax(-1)
    wish = PictureWish(guidance=1 + scale, sampling=GREEDY)
    assert int(uio.draw(prompt, wish).ids[0][0, 0, 0]) == int(published.argmax())


def test_unified_io_1_has_no_guidance(loaded):
    with pytest.raises(ValueError, match=r"set guidance to 1 \(off\), not 4"):
        loaded["1"].draw(text("a cat"), PictureWish(guidance=4))


def test_top_p_before_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    hot = dict(temperature=5.0, top_p=0.6)
    assert torch.isfinite(TokenSampling(**hot).filtered(logits)).sum() == 2
    assert torch.isfinite(TokenSampling(**hot, filters_first=True).filtered(logits)).sum() == 1


def test_in_painting_hides_the_region(uio, picture):
    box = (3.0, 3.0, 20.0, 15.0)
    prompt = uio.system.task_prompt("in-paint", "dog", picture, box)
    whole = uio.system.task_prompt("depth", picture=picture)
    seen = uio.system.encoded(prompt, "image")
    rest = uio.system.encoded(whole, "image")
    masks = [(p.mask if hasattr(p, "mask") else p.image.mask) for p in (seen, rest)]
    assert masks[0].sum() < masks[1].sum() and not (masks[0] & ~masks[1]).any()
    assert uio.draw(prompt).ids[0].shape == (1, tiny.SIDE, tiny.SIDE)


def test_more_pictures_are_history_for_unified_io_2_only(loaded, picture):
    two = text("what is in", picture, "and", picture)
    marked = loaded["2"].system.marked(two)
    assert marked == "what is in <image_input> and <image_history_1>"
    assert isinstance(loaded["2"].answer(two), str)
    with pytest.raises(ValueError, match="reads one picture per prompt, 2 given"):
        loaded["1"].answer(two)
    with pytest.raises(ValueError, match="6 pictures in the prompt; Unified-IO 2 reads at most 5"):
        loaded["2"].answer(text("what", *[picture] * 6))


# Prompts


def test_every_task_has_its_wording(uio, picture):
    for name, task in uio.system.tasks.items():
        words, box = "red dog" if task.says else "", (2, 3, 12, 14) if task.box else None
        prompt = uio.system.task_prompt(name, words, picture if task.picture else None, box)
        assert "{" not in prompt.text and ("red dog" in prompt.text) == bool(task.says)
        assert prompt.text.count("<extra_id_") == (4 if task.box else 0)
        assert uio.system.encoded(prompt, task.answer).ids[-1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly",), "not trained for the task 'fly'. Choose one of: generate"),
        (("depth",), "'depth' of Unified-IO.* needs a picture"),
        (("depth", "cat", "picture"), "takes no text"),
        (("caption", "", "picture", (0, 0, 5, 5)), "takes no box"),
        (("classify a region", "", "picture"), "needs a box"),
        (("generate", " "), "needs a text"),
        (("generate", "a cat", "picture"), "takes no picture"),
        (("in-paint", "cat", "picture", (5, 5, 5, 9)), "has no area within the picture of 30 x 20"),
        (("in-paint", "cat", "picture", (0, 0, 31, 9)), "has no area within"),
    ],
)
def test_wrong_tasks(uio, picture, arguments, message):
    given = [picture if part == "picture" else part for part in arguments]
    with pytest.raises(ValueError, match=message):
        uio.system.task_prompt(*given)


def test_wrong_prompts(uio, picture):
    with pytest.raises(ValueError, match="The prompt has no text"):
        uio.draw(text("  "))
    with pytest.raises(ValueError, match="The prompt has no text"):
        uio.draw(text(picture))
    with pytest.raises(ValueError, match=r"The prompt has \d+ tokens, .* has places for 96"):
        uio.draw(text("cat " * 120))
    with pytest.raises(ValueError, match="asks for a text, not for a picture"):
        uio.draw(uio.system.task_prompt("caption", picture=picture))
    with pytest.raises(ValueError, match="asks for a picture, not for a text"):
        uio.answer(uio.system.task_prompt("depth", picture=picture))
    with pytest.raises(ValueError, match="draws 8 x 8 pixels only, not 16 x 16"):
        uio.draw(text("a cat"), PictureWish(guidance=1, size=(16, 16)))
    with pytest.raises(ValueError, match="not with both in turn"):
        uio.system.tell(uio.model, uio.tokenizer, text("a cat"), WISH, CPU)
    with pytest.raises(ValueError, match="too narrow"):
        uio.answer(text(torch.rand(1, 200, 3), "what is it"))


def test_a_bare_question_gets_the_wording_a_worded_one_stays(loaded, picture):
    system = loaded["2"].system
    ask = lambda words: system.questioned(text(picture, words)).text  # noqa: E731
    assert ask("What is it?") == "What is it? A short answer to the question is"
    assert ask("Caption this image.") == "Caption this image."
    located = system.task_prompt("locate", "the dog", picture).text
    assert ask(located) == located


def test_instructions_stand_in_front(uio, picture):
    prompt = MultimodalPrompt((picture, "what is it"), "be brief")
    assert uio.system.asked(prompt, "text").text == "be brief what is it"
    assert len(uio.system.asked(prompt, "text").pictures) == 1


def test_another_tokenizer_is_refused(loaded):
    one, two = loaded["1"], loaded["2"]
    one.tokenizer.params = type(one.tokenizer.params)(
        one.tokenizer.params.autoencoder, tiny.CODES + 1, 4
    )
    try:
        with pytest.raises(ValueError, match="draws 24 codes of 2 pixels, the image tokenizer has"):
            two.system.draw(two.model, one.tokenizer, text("a cat"), WISH, CPU)
    finally:
        one.tokenizer.params = type(one.tokenizer.params)(
            one.tokenizer.params.autoencoder, tiny.CODES, 4
        )


# Texts


def test_greedy_answers_are_the_best_of_one_beam(uio, picture):
    prompt = uio.system.task_prompt("caption", picture=picture)
    answer = uio.answer(prompt, 8)
    rules = uio.system.text_rules(8)
    ids = uio.system.written(uio.model, prompt, rules, GREEDY, 0, None, 1)
    assert answer == uio.system.text_tokenizer.decode(ids).strip()
    wide = uio.system.written(uio.model, prompt, rules, GREEDY, 0, None, 4)
    assert score(uio, prompt, wide) >= score(uio, prompt, ids) - 1e-4


def score(uio, prompt, ids: list[int]) -> float:
    """Mean log-probability of a text that was cut off."""
    target = uio.system.target(uio.model, "text", len(ids))
    encoded = uio.system.encoded(prompt, "text")
    stream = DecoderStream(target, read_prompts(target, [encoded]), 1, len(ids))
    total = 0.0
    for id_ in ids:
        total += float(stream.scores(stream.hidden(), None)[0, 0].log_softmax(-1)[id_])
        stream.push(torch.tensor([[id_]]))
    return total / len(ids)


class Fixed:
    """A stream whose scores do not depend on its past."""

    def __init__(self, probabilities: list[float], beams: int):
        self.batch, self._scores = beams, torch.tensor(probabilities).log()

    def hidden(self) -> torch.Tensor:
        return torch.zeros(1, self.batch, 1)

    def scores(self, hidden, blocks) -> torch.Tensor:
        return self._scores.expand(*hidden.shape[:2], -1)

    def push(self, ids) -> None: ...

    def reorder(self, rows) -> None: ...


def test_beam_search_weighs_length():
    rules = TextRules((1,), 5)
    assert search_text(Fixed([0.3, 0.4, 0.3], 2), rules, length_penalty=0.0) == []
    assert search_text(Fixed([0.7, 0.2, 0.1], 2), rules, length_penalty=1.0) == [0] * 5


# Boxes


def test_boxes_of_an_answer(uio, picture):
    vocabulary, place = uio.system.text_tokenizer, uio.system.placement(picture)
    first = vocabulary.encode(uio.system.region((0, 0, 15, 10), picture))
    second = vocabulary.encode(uio.system.region((15, 10, 30, 20), picture))
    words = vocabulary.encode("red dog")
    ids = [*first, *words, *second[:3], *words, *second, 1, *first]
    found = found_boxes(ids, vocabulary, place)
    assert len(found) == 2
    assert found[0].box == pytest.approx((0, 0, 15, 10), abs=0.1)
    assert found[1].box == pytest.approx((15, 10, 30, 20), abs=0.1)
    assert "red dog" in found[0].label and found[1].label == ""
    layout = layout_of(found, 30, 20, "cat")
    assert [o.label for o in layout.objects][1] == "cat"
    assert (layout.objects[1].x, layout.objects[1].right, layout.objects[1].bottom) == (15, 30, 20)


def test_repeated_and_empty_boxes_go():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (5, 5, 5, 9), (20, 0, 30, 10)]
    kept = without_repeats([Found(box, "a") for box in boxes], 0.8)
    assert [one.box for one in kept] == [boxes[0], boxes[3]]
    labels = [Found(boxes[0], "a"), Found(boxes[0], "b")]
    assert without_repeats(labels, 0.8) == labels


def test_places_come_where_they_are_likely_enough(uio, picture):
    prompt = uio.system.task_prompt("locate", "dog", picture)
    found = uio.system.find(uio.model, prompt, 9, 1e-9, 1.0, 1)
    assert all(0 <= v <= 30 for one in found for v in one.box)
    rules = uio.system.place_rules(9, 1e-9)
    ids = uio.system.written(uio.model, prompt, rules, GREEDY, 0)
    assert len(ids) == 9 and all(uio.system.text_tokenizer.bin_of(i) is not None for i in ids)


# Files


def test_converted_once_and_equal(uio, tmp_path):
    target = tmp_path / "once.safetensors"
    convert_checkpoint(uio.path, target)
    for beside in uio.path.parent.iterdir():
        if beside != uio.path:
            (tmp_path / beside.name).write_bytes(beside.read_bytes())
    again = Loaded(target)
    assert torch.equal(again.draw(text("a cat")).ids[0], uio.draw(text("a cat")).ids[0])
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(uio.path, target)


def test_a_missing_or_wrong_vocabulary(uio, loaded, tmp_path):
    checkpoint = read_checkpoint(uio.path)
    match = identify(checkpoint, "next-token model")
    name = "spiece.model" if uio is loaded["1"] else "tokenizer.model"
    moved = type(checkpoint)(tmp_path / uio.path.name, checkpoint.tensors, checkpoint.config)
    make = match.architecture.system
    with pytest.raises(TokenizerError, match=f"{uio.path.name} needs .*{name}.* none was found"):
        make(match, moved, [])
    other = loaded["2" if uio is loaded["1"] else "1"].path.parent
    other_name = "tokenizer.model" if uio is loaded["1"] else "spiece.model"
    (tmp_path / name).write_bytes((other / other_name).read_bytes())
    with pytest.raises(TokenizerError, match="is no vocabulary of (T5|LLaMA)"):
        make(match, moved, [])
    (tmp_path / name).write_bytes(b"not a vocabulary")
    with pytest.raises(TokenizerError, match="no readable sentencepiece model"):
        make(match, moved, [])


def test_a_vocabulary_of_another_size(loaded, tmp_path):
    checkpoint = read_checkpoint(loaded["2"].path)
    match = identify(checkpoint, "next-token model")
    tensors = dict(checkpoint.tensors)
    table = tensors["text_token_embedder.weight"]
    tensors["text_token_embedder.weight"] = torch.cat([table, table[:128]])
    longer = type(checkpoint)(loaded["2"].path, tensors, checkpoint.config)
    match = identify(longer, "next-token model")
    with pytest.raises(TokenizerError, match=r"makes \d+ text ids, pytorch_model.bin has \d+"):
        match.architecture.system(match, longer, [])


def test_a_file_that_lacks_something(uio):
    checkpoint = read_checkpoint(uio.path)
    key = next(k for k in checkpoint.tensors if "decoder" in k and "mlp" in k)
    tensors = {k: v for k, v in checkpoint.tensors.items() if k != key}
    cut = type(checkpoint)(checkpoint.path, tensors, checkpoint.config)
    with pytest.raises(CheckpointError, match="lacks 1 tensors: decoder.layers"):
        build(identify(cut, "next-token model"), cut)


def test_a_config_of_another_model_beside_the_file(uio):
    checkpoint = read_checkpoint(uio.path)
    foreign = {"t5_config": None, "image_vit_cfg": 3, "transformer": "Decoder", "hidden_size": 8}
    own = {"encoder_max_text_length": 96, "decoder_max_text_length": 48}
    other = type(checkpoint)(checkpoint.path, checkpoint.tensors, foreign | own)
    assert identify(other, "next-token model").params.stack == uio.system.params.stack


def test_vocabularies_count_as_published():
    """Ids with the published number of pieces, whatever those are."""
    one = UnifiedIOTokenizer.__new__(UnifiedIOTokenizer)
    one._base = 32000
    assert (one.extra(0), one.extra(1099), len(one)) == (33099, 32000, 33100)
    assert (one.bin_of(32999), one.bin_of(32000), one.bin_of(33000)) == (0, 999, None)
    two = UnifiedIO2Tokenizer.__new__(UnifiedIO2Tokenizer)
    two._base = 32000
    assert (two.bin_of(32999), two.bin_of(32000), two.bin_of(33000)) == (0, 999, None)
    added = list(two._added())
    assert added[0] == "<extra_id_1199>" and added[1199] == "<extra_id_0>"
    assert 32000 + added.index("<image_input>") == 33216
    assert 32000 + added.index("[Image] [S]") == 33221 and 32000 + len(added) == 33225


def test_speculation_draws_the_very_same_picture(uio):
    plain = PictureWish(guidance=1, seed=4, batch=2)
    fast = PictureWish(guidance=1, seed=4, batch=2, speculation=Speculation(5))
    assert torch.equal(uio.draw(text("a cat"), plain).ids[0], uio.draw(text("a cat"), fast).ids[0])
