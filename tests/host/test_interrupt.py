"""An interrupt ends a run within a scale, and the next prompt runs."""

from __future__ import annotations

import time

import pytest
import tiny
from prompts import draw

from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.systems import var

SIDE = 64  # the second of two scales; its one pass takes many seconds on a CPU


@pytest.fixture(scope="module")
def slow_model(models) -> str:
    params = ScaleTransformerParams(60, 64, 4, 32, 8, (1, SIDE), 5)
    module = tiny.randomise(ScaleTransformer(params), 3)
    tensors = var.publish_transformer(module.state_dict(), params)
    tiny.write(models / "slow_var.safetensors", tensors, {"patch_nums": [1, SIDE], "num_heads": 4})
    return "slow_var.safetensors"


def test_interrupt_stops_within_a_scale(host, slow_model):
    interrupted_at = []

    def interrupt_in_second_scale(events):
        states = [data["nodes"].get("sampler") for data in events.of("progress_state")]
        if not interrupted_at and any(state and state["value"] == 1 for state in states):
            time.sleep(0.5)
            interrupted_at.append(time.monotonic())
            host.client.interrupt()

    prompt = draw(slow_model, batch_size=4, seed=time.time_ns() % 2**32)
    events = host.watch(prompt, on_message=interrupt_in_second_scale)
    assert events.kinds()[-1] == "execution_interrupted"
    assert time.monotonic() - interrupted_at[0] < 5
    states = [data["nodes"].get("sampler") for data in events.of("progress_state")]
    values = [state["value"] for state in states if state]
    assert max(values) == 1, "the second scale ran to its end"
    assert events.of("execution_interrupted")[-1]["node_type"] == "MMGenScaleSampler"


def test_next_prompt_runs(host, models):
    assert host.images(host.run(draw(seed=77)))
