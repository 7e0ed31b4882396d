"""Every precision the loaders offer draws a picture; the fp32 ones are the same picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from prompts import draw


def picture(host, **dtypes: str) -> np.ndarray:
    prompt = draw(seed=4, class_id=2)
    for node, dtype in dtypes.items():
        prompt[node]["inputs"]["dtype"] = dtype
    return np.asarray(Image.open(io.BytesIO(host.images(host.run(prompt))[0])), np.float32)


def offered(host, node: str) -> list[str]:
    return host.client.get(f"/object_info/{node}")[node]["input"]["required"]["dtype"][1]["options"]


def test_models_in_every_precision(host, models):
    choices = offered(host, "MMGenLoadScaleModel")
    assert choices[:4] == ["auto", "fp32", "fp16", "bf16"]
    for dtype in choices:
        assert picture(host, model=dtype).std() > 2, dtype


def test_tokenizers_in_every_precision(host, models):
    exact = picture(host, tokenizer="fp32")
    for dtype in offered(host, "MMGenLoadImageTokenizer"):
        assert np.abs(picture(host, tokenizer=dtype) - exact).mean() < 8, dtype


def test_batch_rows_equal_single_runs(host, models):
    batch = host.images(host.run(draw(seed=20, batch_size=3)))
    single = host.images(host.run(draw(seed=22)))
    pair = [np.asarray(Image.open(io.BytesIO(p)), np.float32) for p in (batch[2], single[0])]
    assert np.abs(pair[0] - pair[1]).max() <= 1  # the same tokens; rounding of the decoder
