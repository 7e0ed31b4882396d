"""Queries in one pass equal to one by one; turns, limits and pauses; prompts and their errors."""

from __future__ import annotations

import pytest
import tiny_queries
import torch
from tiny_queries import DREAM_ADDED, QUERIES, SEED_X_ADDED, TinyText

from mmgen_core.conditioners import dreamllm, seed_x
from mmgen_core.conditioners.pictures import Grid, best_grid, to_pil
from mmgen_core.conditioners.story import Story
from mmgen_core.decoding import next_token
from mmgen_core.decoding.next_token import TokenSampling, uniform_noise
from mmgen_core.decoding.query_spans import QuerySpan, Turn, TurnRules, write_turn
from mmgen_core.decoding.stream import Context, DecoderStream, prefill
from mmgen_core.models.decoder import Segment

CPU = torch.device("cpu")
TEXT = TinyText(SEED_X_ADDED)
TOKENS = seed_x.SeedXTokens.of(TEXT, QUERIES)


@pytest.fixture(scope="module")
def language():
    return tiny_queries.language(len(TEXT.vocabulary))


def one_by_one(language, ids: list[int]) -> torch.Tensor:
    """States of every id, each read in a pass of its own: the references' way."""
    cache, states = language.cache(1, len(ids), CPU), []
    with torch.inference_mode():
        for id in ids:
            states.append(language(language.embed_ids(torch.tensor([id])), [Segment(cache, 1)]))
    return torch.cat(states)


def test_one_pass_equals_65_steps(language):
    agent = tiny_queries.agent()
    context = seed_x.prompt(TEXT, TOKENS, "{text}<img>", "a red cat", [])
    features = seed_x.drawn_features(language, agent, TOKENS, [context], CPU)
    ids = context.ids.tolist() + list(TOKENS.image)
    states = one_by_one(language, ids)[-QUERIES:]
    torch.testing.assert_close(features, agent.draw(states[None]), atol=2e-5, rtol=1e-4)


def test_prompts_of_different_length_in_one_pass(language):
    agent = tiny_queries.agent()
    contexts = [
        seed_x.prompt(TEXT, TOKENS, "{text}<img>", text, []) for text in ("a", "the sun is blue")
    ]
    both = seed_x.drawn_features(language, agent, TOKENS, contexts, CPU)
    alone = [seed_x.drawn_features(language, agent, TOKENS, [c], CPU) for c in contexts]
    torch.testing.assert_close(both, torch.cat(alone), atol=2e-5, rtol=1e-4)


def scripted(language, script: list[int], monkeypatch):
    """The model's choices, fixed; what is read stays its own."""
    left = list(script)

    def choose(self, logits, noise):
        return torch.tensor([left.pop(0) if left else TOKENS.eos])

    monkeypatch.setattr(TokenSampling, "choose", choose)


@pytest.mark.parametrize("every", [1, 8])
def test_turn_writes_text_and_pictures(language, monkeypatch, every):
    """Also where the end of a text is looked for every eight tokens, as on an accelerator."""
    monkeypatch.setattr(next_token, "check_interval", lambda device: every)
    a, sun = TEXT.id_of("a"), TEXT.id_of("sun")
    written = [a, TOKENS.image_start, sun, a, TOKENS.image_start, TOKENS.eos]
    passed = [a, TOKENS.image_start]
    if every == 8:  # what was drawn too much is taken back, then asked again
        script = [*passed, *[sun] * 6, sun, a, TOKENS.image_start, *[a] * 5, TOKENS.eos, *[a] * 7]
    else:
        script = written
    scripted(language, script, monkeypatch)
    agent = tiny_queries.agent()
    context = Context(torch.tensor([1, sun]))
    answer = seed_x.answer(language, agent, TOKENS, context, CPU, limit=40)
    span = [TOKENS.image_start, *TOKENS.image, TOKENS.image_end]
    assert answer.turn.ids == [a, *span, sun, a, *span, TOKENS.eos]
    assert answer.turn.ended == "stop" and not answer.turn.cut
    states = one_by_one(language, [1, sun, *answer.turn.ids])
    for place, features in zip((4, 12), answer.features, strict=True):
        expected = agent.draw(states[None, place : place + QUERIES])
        torch.testing.assert_close(features, expected[0], atol=2e-5, rtol=1e-4)


def test_limit_within_a_picture_is_told(language, monkeypatch):
    scripted(language, [TEXT.id_of("a"), TOKENS.image_start], monkeypatch)
    context = Context(torch.tensor([1]))
    answer = seed_x.answer(language, tiny_queries.agent(), TOKENS, context, CPU, limit=5)
    assert answer.turn.cut and answer.features is None and len(answer.turn.ids) == 5


def test_an_image_token_out_of_place_is_followed_by_the_rest(language, monkeypatch):
    scripted(language, [TOKENS.image[1], TOKENS.eos], monkeypatch)
    answer = seed_x.answer(
        language, tiny_queries.agent(), TOKENS, Context(torch.tensor([1])), CPU, limit=20
    )
    assert answer.turn.ids == [*TOKENS.image[1:], TOKENS.image_end, TOKENS.eos]
    assert answer.features is None


def test_pause_stops_after_a_picture(language, monkeypatch):
    scripted(language, [TOKENS.image_start, TOKENS.eos], monkeypatch)
    answer = seed_x.answer(
        language, tiny_queries.agent(), TOKENS, Context(torch.tensor([1])), CPU, 20, pause=True
    )
    assert answer.turn.ended == "picture" and answer.turn.ids[-1] == TOKENS.image_end


def test_a_pausing_turn_finishes_its_picture_beyond_the_limit(language, monkeypatch):
    scripted(language, [TEXT.id_of("a"), TOKENS.image_start], monkeypatch)
    context = Context(torch.tensor([1]))
    agent = tiny_queries.agent()
    answer = seed_x.answer(language, agent, TOKENS, context, CPU, 2, pause=True)
    assert answer.turn.ended == "picture" and len(answer.turn.ids) == 2 + QUERIES + 1
    states = one_by_one(language, [1, *answer.turn.ids])[3 : 3 + QUERIES]
    torch.testing.assert_close(
        answer.features[0], agent.draw(states[None])[0], atol=2e-5, rtol=1e-4
    )


def test_story_goes_on_after_a_limit(language):
    story = Story(Context(torch.tensor([1])))
    assert not story.written(Turn([5], [], "limit"), "a").ended
    ended = story.written(Turn([5, 2], [], "stop"), "a")
    assert ended.ended and not ended.awaits and ended.marked() == "a"


def test_picture_prompt_needs_as_many_places_as_pictures():
    parts = torch.zeros(2, QUERIES, 32)
    task = seed_x.TEMPLATES["ask (SEED-X)"]
    shown = seed_x.prompt(TEXT, TOKENS, task, "is the sky blue", [parts])
    assert len(shown.at) == 2 * QUERIES
    twice = seed_x.prompt(TEXT, TOKENS, task, "<image>is <image>red", [parts, parts])
    assert len(twice.at) == 4 * QUERIES
    with pytest.raises(ValueError, match="1 pictures were given, this prompt has 0 places"):
        seed_x.prompt(TEXT, TOKENS, seed_x.TEMPLATES["draw (SEED-X)"], "a cat", [parts])
    with pytest.raises(ValueError, match="1 pictures were given, this prompt has 2 places"):
        seed_x.prompt(TEXT, TOKENS, task, "<image>is <image>red", [parts])
    with pytest.raises(ValueError, match="own picture tokens"):
        seed_x.prompt(TEXT, TOKENS, task, "a <img_00001>", [])


def test_boxes_of_an_answer():
    text = "the cat <box_start><loc-112><loc-56><loc-112><loc-56><box_end> and a dog"
    assert seed_x.boxes(text) == [(0.25, 0.125, 0.5, 0.25)]
    assert seed_x.readable(text) == "the cat  and a dog"


def test_dream_states_need_no_padding():
    text = TinyText(DREAM_ADDED)
    tokens = dreamllm.DreamTokens.of(text, {})
    language = tiny_queries.language(len(text.vocabulary))
    queries = tiny_queries.dream_queries()(CPU)
    contexts = [Context(torch.tensor([1, *text.encode(t)])) for t in ("a red cat", "sky")]
    alone = dreamllm.dream_states(language, tokens, queries, contexts, CPU)
    left = dreamllm.dream_states(language, tokens, queries, contexts, CPU, "left")
    right = dreamllm.dream_states(language, tokens, queries, contexts, CPU, "right")
    torch.testing.assert_close(alone, left, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(alone[0], right[0], atol=2e-5, rtol=1e-4)  # the longest one
    assert not torch.allclose(alone[1], right[1], atol=1e-3)


def test_document_shows_a_dream_and_what_became_of_it():
    text = TinyText(DREAM_ADDED)
    tokens = dreamllm.DreamTokens.of(text, {})
    queries = tiny_queries.dream_queries()(CPU)
    features = torch.randn(16, 32)
    parts = [dreamllm.Words("a cat"), dreamllm.Seen(features, dreamed=True)]
    context = dreamllm.document(text, tokens, queries, parts)
    names = list(text.vocabulary)
    shown = [names[i] for i in context.ids if names[i] != "<im_patch>"]
    marks = ["<dream_start>", "<dream_end>", "<im_start>", "<im_end>"]
    assert shown == ["<s>", "a", "cat", *marks]
    assert torch.equal(context.features, torch.cat([queries, features]))
    assert (context.ids[context.at] == tokens.patch).all()


def test_next_turn_never_writes_the_runtimes_marks():
    text = TinyText(DREAM_ADDED)
    tokens = dreamllm.DreamTokens.of(text, {})
    language = tiny_queries.language(len(text.vocabulary), seed=3)
    queries = tiny_queries.dream_queries()(CPU)
    for seed in range(4):
        turn = dreamllm.next_turn(
            language, tokens, queries, Context(torch.tensor([1])), CPU, 30, TokenSampling(3.0), seed
        )
        placed = {tokens.pad, tokens.image_start, tokens.image_end, tokens.image, tokens.dream}
        assert not placed & set(turn.ids)
        if turn.ended == "picture":
            assert turn.spans[0].shape == (QUERIES, 32)
            assert turn.ids[-1] == tokens.dream_end


def test_text_places_pictures():
    one, two = torch.zeros(1, 2), torch.ones(1, 2)
    kinds = [type(p).__name__ for p in dreamllm.with_places("a <image> and <image>", [one, two])]
    assert kinds == ["Words", "Seen", "Words", "Seen"]
    assert type(dreamllm.with_places("what", [one])[0]).__name__ == "Seen"
    with pytest.raises(ValueError, match="1 places for pictures"):
        dreamllm.with_places("a <image>", [one, two])


def test_pictures_that_cannot_be_read():
    with pytest.raises(ValueError, match="too narrow"):
        to_pil(torch.zeros(2, 400, 3))
    with pytest.raises(ValueError, match="NaN"):
        to_pil(torch.full((8, 8, 3), torch.nan))
    with pytest.raises(ValueError, match="shape"):
        to_pil(torch.zeros(8, 8))
    assert best_grid((4000, 100), [Grid(1, 1), Grid(4, 1)], 448) == Grid(4, 1)


def test_turn_is_the_same_for_every_batch_of_noise(language):
    """Random text depends on the seed alone."""
    span = QuerySpan(TOKENS.image_start, TOKENS.image_end, language.embed_ids(torch.arange(4)))
    rules = TurnRules((TOKENS.eos,), 12, span, TOKENS.image)
    prefix = prefill(language, [Context(torch.tensor([1, 5]))], CPU)

    def write(seed: int) -> list[int]:
        stream = DecoderStream(language, prefix, 1, 13)
        return write_turn(stream, rules, TokenSampling(2.0), uniform_noise(seed, 1, 12)).ids

    assert write(1) == write(1) and any(write(1) != write(seed) for seed in range(2, 6))
