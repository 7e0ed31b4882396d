"""Speculative Jacobi decoding draws the pictures of plain sampling, or from their distribution."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_decoder import CHAMELEON, LLAMA, PHI, randomised
from test_next_token import CPU, context

from mmgen_core.decoding.next_token import (
    FREE,
    PicturePlan,
    TokenSampling,
    draw_pictures,
    uniform_noise,
)
from mmgen_core.decoding.speculative import Speculation, draw_picture, verify
from mmgen_core.decoding.stream import DecoderStream, prefill
from mmgen_core.models.decoder import Decoder, DecoderParams

ROWS = (*(FREE,) * 4, 30) * 3 + (31,)  # three rows of four codes with their ends


def stream_of(model: Decoder, room: int) -> DecoderStream:
    return DecoderStream(model, prefill(model, [context(1, 2, 3), context(4)], CPU), 1, room)


@pytest.mark.parametrize("params", [LLAMA, PHI, CHAMELEON])
@pytest.mark.parametrize("temperature", [0.0, 0.4])
@pytest.mark.parametrize("window", [2, 5, 40])
def test_shared_noise_draws_the_same_picture(params, temperature, window):
    model = randomised(Decoder(params))
    blocks, first = (slice(1, 2), 8) if params is LLAMA else (slice(0, 1), 0)
    plan = PicturePlan(ROWS, blocks, first, 5)
    sampling = TokenSampling(temperature, top_k=15, top_p=0.9)
    noise, weights = uniform_noise(3, 1, len(ROWS)), (2.5, -1.5)
    plain_stream, stream = stream_of(model, 16), stream_of(model, 16 + window)
    plain = draw_pictures(plain_stream, weights, plan, sampling, noise)
    passes: list[int] = []
    fast = draw_picture(
        stream,
        weights,
        plan,
        sampling,
        Speculation(window),
        noise,
        seed=3,
        on_token=lambda done, *_: passes.append(done),
    )
    assert fast.tolist() == plain.tolist()
    assert passes[-1] == len(ROWS) and len(passes) < len(ROWS)
    torch.testing.assert_close(stream.hidden(), plain_stream.hidden(), atol=1e-5, rtol=1e-5)


def test_rejection_keeps_the_distribution():
    """All pictures of three codes of a three-code model, their frequencies and probabilities."""
    model = randomised(Decoder(DecoderParams(1, 16, 2, 2, 16, 4, head_blocks=(3, 1))), seed=4)
    plan = PicturePlan((FREE, 3, FREE, FREE), slice(0, 1), 0, 2)
    sampling, prompt = TokenSampling(temperature=1.5), context(1)
    runs = 3000
    counts = dict.fromkeys(itertools.product(range(3), repeat=3), 0)
    prefix = prefill(model, [prompt], CPU)
    for seed in range(runs):
        stream = DecoderStream(model, prefix, 1, 12)
        rule = Speculation(3, "rejection")
        noise = uniform_noise(seed, 1, 4)
        ids = draw_picture(stream, (1.0,), plan, sampling, rule, noise, seed)[0].tolist()
        assert ids[1] == 3
        counts[ids[0], ids[2], ids[3]] += 1
    chi_square = sum(
        (count - runs * p) ** 2 / (runs * p)
        for picture, count in counts.items()
        for p in [probability(model, picture)]
    )
    assert chi_square < 54.05  # 26 degrees of freedom, one in a thousand


def probability(model: Decoder, picture: tuple[int, int, int]) -> float:
    p, ids = 1.0, [1]
    for token, known in zip(picture, ([], [3], []), strict=True):
        ids += known
        hidden = model.hidden_states(model.embed_ids(torch.tensor([ids])))
        scores = model.scores(hidden[0, -1], slice(0, 1))
        p *= float((scores / 1.5).softmax(-1)[token])
        ids.append(token)
    return p


def test_a_rejected_guess_is_replaced_from_the_rest_of_the_distribution():
    model_p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    draft_p = torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    drafts = torch.tensor([0, 1, 0])
    count, rest = verify(drafts, draft_p, model_p, torch.tensor([0.0, 0.59, 0.11]))
    assert count == 1  # 0.59 < 0.3 / 0.5, 0.11 >= 0.1 / 1
    torch.testing.assert_close(rest, torch.tensor([0.0, 8 / 9, 1 / 9]))
    assert verify(drafts, draft_p, model_p, torch.tensor([0.0, 0.61, 0.0]))[0] == 0
    assert verify(drafts, draft_p, model_p, torch.tensor([0.0, 0.5, 0.09])) == (2, None)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        Speculation(1)
