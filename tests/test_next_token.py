"""The next-token engine against a run that reads everything anew for every token."""

from __future__ import annotations

import pytest
import torch
from test_decoder import CHAMELEON, LLAMA, randomised

from mmgen_core.decoding import next_token
from mmgen_core.decoding.next_token import (
    FREE,
    PicturePlan,
    TextRules,
    TokenSampling,
    draw_pictures,
    uniform_noise,
    write_text,
)
from mmgen_core.decoding.stream import Branch, Context, DecoderStream, merged, prefill
from mmgen_core.models.decoder import Decoder

CPU = torch.device("cpu")
IMAGE = slice(1, 2)  # ids 8..27 of LLAMA
PLAN = PicturePlan((FREE, FREE, 30, FREE, FREE, 30, 31), IMAGE, 8, 3)  # rows that end with 30
SAMPLING = TokenSampling(temperature=0.9, top_k=12, top_p=0.95)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return randomised(Decoder(LLAMA))


def context(*ids: int) -> Context:
    return Context(torch.tensor(ids))


def stream_of(model: Decoder, contexts: list[Context], batch: int = 1, room: int = 16):
    return DecoderStream(model, prefill(model, contexts, CPU), batch, room)


def reread(model: Decoder, ids: list[int]) -> torch.Tensor:
    """fp32 scores [V] after a sequence, without any cache."""
    hidden = model.hidden_states(model.embed_ids(torch.tensor([ids])))
    return model.scores(hidden[0, -1])


def plain_picture(model, contexts, weights, noise) -> list[int]:
    drawn = []
    for i, token in enumerate(PLAN.tokens):
        if token == FREE:
            rows = [reread(model, [*c.ids.tolist(), *drawn])[8:28] for c in contexts]
            scores = sum(w * row for w, row in zip(weights, rows, strict=True))
            token = int(SAMPLING.choose(scores[None], noise[i : i + 1])) + 8
        drawn.append(token)
    return drawn


def test_pictures_equal_a_run_without_cache(model):
    contexts, weights = [context(1, 2, 3, 4, 5), context(1, 7)], (3.0, -2.0)
    noise = uniform_noise(5, 3, len(PLAN.tokens))
    stream = stream_of(model, contexts, batch=3)
    tokens = draw_pictures(stream, weights, PLAN, SAMPLING, noise)
    for row in range(3):
        assert tokens[row].tolist() == plain_picture(model, contexts, weights, noise[row])
    assert len({tuple(row) for row in tokens.tolist()}) == 3


def test_rows_equal_single_runs(model):
    batch = draw_pictures(
        stream_of(model, [context(1, 2)], 3), (1.0,), PLAN, SAMPLING, uniform_noise(7, 3, 7)
    )
    single = draw_pictures(
        stream_of(model, [context(1, 2)]), (1.0,), PLAN, SAMPLING, uniform_noise(9, 1, 7)
    )
    assert batch[2].tolist() == single[0].tolist()


def test_known_tokens_cost_no_pass(model, monkeypatch):
    stream, passes = stream_of(model, [context(1, 2)]), []
    feed = DecoderStream.feed
    monkeypatch.setattr(DecoderStream, "feed", lambda s, x: passes.append(x.shape[1]) or feed(s, x))
    draw_pictures(stream, (1.0,), PLAN, SAMPLING, uniform_noise(0, 1, 7))
    assert passes == [1, 2, 1]  # the row end is read together with the token before it
    stream.hidden()
    assert passes[-1] == 3  # the last code, the row end and the end of the picture


def test_a_prefix_serves_several_runs(model):
    prefix = prefill(model, [context(1, 2, 3)], CPU)
    runs = [
        draw_pictures(
            DecoderStream(model, prefix, 1, 7), (1.0,), PLAN, SAMPLING, uniform_noise(seed, 1, 7)
        )
        for seed in (1, 2, 1)
    ]
    assert runs[0].tolist() == runs[2].tolist() != runs[1].tolist()
    assert prefix.serves([context(1, 2, 3)]) and not prefix.serves([context(1, 2, 4)])


def test_long_contexts_are_read_in_parts(model, monkeypatch):
    contexts = [context(*range(11)), context(3, 4)]
    whole = prefill(model, contexts, CPU)
    monkeypatch.setattr("mmgen_core.decoding.stream.PART", 4)
    stops: list[int] = []
    parts = prefill(model, contexts, CPU, on_pass=lambda: stops.append(1))
    assert len(stops) == 3
    torch.testing.assert_close(parts.hidden_bC, whole.hidden_bC, atol=1e-5, rtol=1e-5)


def test_features_stand_in_place_of_ids(model):
    features = model.embed_ids(torch.tensor([5, 6]))
    given = Context(torch.tensor([1, 0, 0, 2]), features, torch.tensor([1, 2]))
    actual = prefill(model, [given], CPU).hidden_bC
    expected = prefill(model, [context(1, 5, 6, 2)], CPU).hidden_bC
    torch.testing.assert_close(actual, expected)


def test_equal_branches_are_one():
    full, pictures, nothing = context(1, 2, 3), context(1, 9), context(1, 9)
    kept = merged([Branch(full, 3.0), Branch(pictures, -1.8), Branch(nothing, -0.2)])
    assert [branch.weight for branch in kept] == [3.0, -2.0]
    assert len(merged([Branch(full, 1.0), Branch(nothing, 0.0)])) == 1


@pytest.mark.parametrize("every", [1, 3])
def test_texts_equal_a_run_without_cache(model, monkeypatch, every):
    monkeypatch.setattr(next_token, "check_interval", lambda device: every)
    sampling = TokenSampling(temperature=1.2, top_p=0.9, min_p=0.01, repetition_penalty=1.3)
    allowed = torch.ones(40, dtype=torch.bool)
    allowed[8:28] = False
    seen = torch.zeros(1, 40, dtype=torch.bool)
    seen[0, [1, 2]] = True
    noise = uniform_noise(3, 1, 12)
    written, expected_seen = [], seen.clone()
    for i in range(12):
        scores = reread(model, [1, 2, *written])[None].masked_fill(~allowed, -torch.inf)
        scores = sampling.penalised(scores, expected_seen)
        written.append(int(sampling.choose(scores, noise[:, i])))
        expected_seen[0, written[-1]] = True
    stop = written[6]
    first = written.index(stop) + 1
    rules = TextRules((stop,), 12, allowed)
    stream = stream_of(model, [context(1, 2)])
    tokens = write_text(stream, rules, sampling, noise, seen)
    assert tokens[0].tolist() == written[:first]
    # what follows the text sees just that text
    expected = reread(model, [1, 2, *written[:first]])
    torch.testing.assert_close(stream.scores(stream.hidden(), None)[0, 0], expected)


def test_taking_back_tokens_that_were_read(model):
    stream = stream_of(model, [context(1, 2)])
    tokens = torch.tensor([[3, 4, 5, 6]])
    for i in range(4):
        stream.push(tokens[:, i : i + 1])
        if i < 3:
            stream.hidden()
    next_token.take_back(stream, tokens, 2)
    expected = reread(model, [1, 2, 3, 4])
    torch.testing.assert_close(stream.scores(stream.hidden(), None)[0, 0], expected)


def test_the_inverse_of_the_distribution_draws_by_probability():
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, -torch.inf]]).expand(4000, -1)
    noise = uniform_noise(1, 1, 4000)[0]
    ids = TokenSampling(temperature=0.8).choose(logits, noise)
    p = (logits[0] / 0.8).softmax(-1)
    counts = torch.bincount(ids, minlength=5)
    assert counts[4] == 0
    chi_square = ((counts[:4] - 4000 * p[:4]) ** 2 / (4000 * p[:4])).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, one in a thousand


def test_non_finite_scores_are_an_error():
    model = randomised(Decoder(CHAMELEON))
    model.layers[0].mlp.up.weight.data[0, 0] = torch.nan
    plan = PicturePlan.grid(2, 2, slice(0, 1), 0)
    with pytest.raises(FloatingPointError, match="NaN or infinity in layers.0.mlp.up"):
        draw_pictures(
            stream_of(model, [context(1)]), (1.0,), plan, SAMPLING, uniform_noise(0, 1, 4)
        )


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"top_p and min_p must lie in 0..1"):
        TokenSampling(top_p=1.5)
