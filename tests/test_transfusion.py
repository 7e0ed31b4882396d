"""Transfusion in both layouts: streams against whole passes, batches, objectives that learn."""

from __future__ import annotations

import pytest
import tiny
import tiny_masked
import torch

from mmgen_core.checkpoints.architecture import build
from mmgen_core.decoding import diffusion_stream, flow_stream
from mmgen_core.decoding.diffusion_stream import DiffusionStream, random_steps
from mmgen_core.decoding.flow import NoiseSchedule, midpoint
from mmgen_core.decoding.flow_sequence import Picture, omni_mask
from mmgen_core.decoding.flow_stream import FlowStream, StreamSampling
from mmgen_core.models.decoder import Segment
from mmgen_core.systems import identify, transfusion
from mmgen_core.systems.transfusion_runs import (
    ByteTokenizer,
    draw,
    memory_required,
    prompt_parts,
    write,
)
from mmgen_core.training.paper_transfusion import lay_out, paper_losses
from mmgen_core.training.transfusion import flow_losses

CPU = torch.device("cpu")
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def flow():
    return tiny_masked.flow_model()


@pytest.fixture(scope="module")
def paper():
    return tiny_masked.paper_model()


@pytest.fixture(scope="module")
def unet():
    return tiny_masked.paper_model(unet=(8, 16))


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"axial": True},
        {"channels_first": True},
        {"kind": "conv", "channels_first": True, "kernel": 3},
    ],
)
def test_the_lucidrains_layout_survives_the_way_to_a_file(kind):
    module = tiny_masked.flow_model(**kind)
    tensors = transfusion.publish_flow(module.state_dict(), module.params)
    config = {"modality_default_shape": [3, 2]}
    checkpoint = tiny.checkpoint_of(tensors, config)
    match = identify(checkpoint, "masked or flow model")
    assert match.params == module.params
    again = build(match, checkpoint)
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("name", ["paper", "unet"])
def test_the_papers_layout_survives_the_way_to_a_file(name, request):
    paper = request.getfixturevalue(name)
    tensors = transfusion.publish_paper(paper.state_dict(), paper.params)
    config = {"num_attention_heads": 2, "patch_size": 2, "latent_side": 4}
    match = identify(tiny.checkpoint_of(tensors, config))
    assert match.params == paper.params


@pytest.mark.parametrize("count", [1, 3])
def test_midpoint_is_exact_for_a_straight_flow(count):
    times = torch.linspace(0, 1, count + 1)
    x = midpoint(lambda t, x, last: torch.full_like(x, 2.0), torch.zeros(1, 3), times)
    torch.testing.assert_close(x, torch.full((1, 3), 2.0))


def test_ddpm_without_error_finds_the_picture():
    """Steps with the true noise of one picture end at that picture."""
    schedule, x0 = NoiseSchedule.cosine(), torch.randn(1, 4, 4)
    steps = schedule.timesteps(10)
    x = torch.randn(1, 4, 4)
    for t in steps:
        kept = schedule.alphas_cumprod[t]
        epsilon = (x - kept.sqrt() * x0) / (1 - kept).sqrt()
        x = schedule.step(x, epsilon, t, t - 100, torch.randn(1, 4, 4))
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        schedule.timesteps(0)


@pytest.mark.parametrize("name", ["flow", "paper", "unet"])
def test_a_batch_row_is_the_single_run_with_its_seed(name, request):
    model = request.getfixturevalue(name)
    sampling = StreamSampling(4, 2.0)
    ids = BYTES.encode("a red heart")
    pair = draw(model, ids, None, sampling, 4, 2, CPU)
    single = draw(model, ids, None, sampling, 5, 1, CPU)
    torch.testing.assert_close(pair[1:], single, atol=1e-4, rtol=1e-4)
    other = draw(model, BYTES.encode("a blue bird"), None, sampling, 5, 1, CPU)
    assert (other - single).abs().max() > 1e-4
    assert pair.shape[1] == 4


@pytest.mark.parametrize("name", ["paper", "unet"])
def test_a_paper_stream_reads_as_the_whole_sequence_does(name, request):
    """Text, a picture and more text through the cache, against one pass under the mask."""
    paper = request.getfixturevalue(name)
    p, x0 = paper.params, torch.randn(4, 4, 4)
    before, behind = torch.tensor([3, 4]), torch.tensor([5, 6, 7])
    stream = DiffusionStream(paper, [before, Picture(x0), behind], StreamSampling(), "cpu")
    laid = lay_out(p, [before, Picture(x0), behind])
    (span,) = laid.spans
    x = paper.decoder.embed_ids(laid.ids.clamp(min=0))
    now = torch.zeros(1, dtype=torch.int64)
    x[span.start : span.stop] = paper.patches(x0[None], now).tokens[0]
    mask = omni_mask(len(x), laid.spans)
    hidden = paper.decoder(x, [Segment(None, len(x), mask)])
    torch.testing.assert_close(stream.hidden, hidden[-1], atol=1e-4, rtol=1e-4)


def test_solving_leaves_the_papers_stream_as_it_was(paper):
    boi = torch.tensor([paper.params.boi])
    stream = DiffusionStream(paper, [torch.tensor([3, 4]), boi], StreamSampling(3, 2.0), "cpu")
    length = stream.cache.length
    noise, steps = random_steps([torch.Generator().manual_seed(0)], (4, 4, 4), 3)
    first, again = stream.draw(noise, steps), stream.draw(noise, steps)
    assert stream.cache.length == length and torch.equal(first, again)


@pytest.mark.parametrize("name", ["flow", "paper"])
def test_streams_write_and_draw(name, request):
    model = request.getfixturevalue(name)
    mark = model.params.som(0) if name == "flow" else model.params.boi
    head = model.text_head if name == "flow" else model.decoder.head[0]
    kept = head.weight.data[mark].clone()
    head.weight.data[mark] *= 8  # begins pictures often
    try:
        counts = []
        for seed in range(4):
            sampling = StreamSampling(3, 2.0, 1.0, 0.0, max_tokens=40)
            said, drawn = write(model, BYTES, "ab", [], None, sampling, seed, CPU)
            count = 0 if drawn is None else len(drawn)
            assert said.startswith("ab") and said.count("<image>") == count
            counts.append(count)
        assert max(counts) > 0
    finally:
        head.weight.data[mark] = kept


def test_a_stream_grows_past_its_first_room(flow):
    sampling = StreamSampling(2, 1.0, 0, max_tokens=700)
    stream = FlowStream(flow, [torch.tensor([1, 2])], sampling, "cpu")
    for _ in range(600):
        stream.write(torch.tensor(0.5))
    assert stream.cache.length >= 600


def test_given_pictures_are_read(flow):
    sampling = StreamSampling(2, 1.0, 0, max_tokens=3)
    latents = torch.randn(4, 3, 2)
    texts = [
        write(flow, BYTES, "see <image> now", [latents * scale], None, sampling, 0, CPU)[0]
        for scale in (0.0, 3.0)
    ]
    assert all(text.startswith("see <image> now") for text in texts)
    with pytest.raises(ValueError, match="1 marks <image> and 0 pictures"):
        prompt_parts(flow, BYTES, "see <image>", [])
    with pytest.raises(ValueError, match="5 channels, this model takes 4"):
        prompt_parts(flow, BYTES, "<image>", [torch.randn(5, 3, 2)])


def test_what_a_model_says_about_size_is_followed(flow):
    p = flow.params
    ids = torch.tensor([*p.shape_ids((5, 4)), p.som(0)])
    assert p.read_shape(ids) == (5, 4)
    assert p.read_shape(torch.tensor([1, p.som(0)])) is None
    garbage = torch.tensor([p.meta, p.meta + 1 + ord("x"), p.som(0)])
    assert p.read_shape(garbage) is None
    stream = FlowStream(flow, [ids], StreamSampling(2, 1.0), "cpu")
    assert flow_stream.asked_grid(p, stream, 0) == (5, 4)


def learned(model, loss_of, steps: int = 60) -> tuple[float, float]:
    """Losses before and after a few steps."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses[:8]) / 8, sum(losses[-8:]) / 8


def test_the_lucidrains_objective_learns():
    picture = Picture(torch.randn(3, 2, 4))
    samples = [[torch.tensor([5, 6, 7]), picture], [picture, torch.tensor([5, 6, 7])]]

    def loss_of(model):
        noise = [[torch.randn(3, 2, 4)], [torch.randn(3, 2, 4)]]
        return flow_losses(model, samples, torch.rand(2, 1), noise).total

    before, after = learned(tiny_masked.flow_model(seed=5), loss_of)
    assert after < 0.6 * before


@pytest.mark.parametrize("unet", [(), (8, 16)])
def test_the_papers_objective_learns(unet):
    x0 = torch.randn(4, 4, 4)
    samples = [[torch.tensor([5, 6, 7]), Picture(x0)]]

    def loss_of(model):
        t = torch.randint(0, 1000, (1,))
        return paper_losses(model, samples, [t], [[torch.randn(4, 4, 4)]]).total

    before, after = learned(tiny_masked.paper_model(seed=6, unet=unet), loss_of, 120)
    assert after < 0.6 * before


def test_text_alone_has_no_noise_loss(paper):
    losses = paper_losses(paper, [[torch.tensor([5, 6, 7])]], [torch.zeros(0)], [[]])
    assert float(losses.noise) == 0 and float(losses.total) == float(losses.text)


def test_the_next_document_ends_a_paper_stream(paper, monkeypatch):
    written = iter([7, 8, paper.params.bos])
    monkeypatch.setattr(diffusion_stream, "pick", lambda *_: next(written))
    sampling = StreamSampling(2, 1.0, 0, max_tokens=50)
    (text,) = diffusion_stream.generate(paper, [torch.tensor([1])], 0, sampling, "cpu")
    assert text.tolist() == [paper.params.bos, 1, 7, 8, paper.params.bos]


def test_a_weight_that_is_no_number_is_named():
    model = tiny_masked.paper_model()
    model.decoder.norm.weight.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinity in decoder.norm.weight"):
        draw(model, [1], None, StreamSampling(2, 1.0), 0, 1, CPU)


@pytest.mark.parametrize("name", ["flow", "paper"])
def test_announced_memory_grows_with_the_batch(name, request):
    model = request.getfixturevalue(name)
    one, four = (memory_required(model, None, 10, rows) for rows in (1, 4))
    assert 0 < one < four
