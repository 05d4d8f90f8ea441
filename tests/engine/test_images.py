"""Images in packed steps against transformers' own forward of each image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.heads import LinearHead
from multigraft_adapters.manifest import HeadSpec, Pooling
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Pixels, random_adapter, run_images, running_engine
from tests.engine.test_exactness import with_delta
from tests.tiny import IMAGE_ENCODERS

RANKS = (2, 4, 8, 3, 16)


def images(base: Base, count: int) -> list[Pixels]:
    shape = base.spec.image
    assert shape is not None
    generator = np.random.default_rng(count)
    sizes = (count, shape.channels, shape.height, shape.width)
    return list(generator.standard_normal(sizes, dtype=np.float32))


def adapters_of(base: Base) -> dict[str, VerifiedAdapter]:
    return {f"adapter-{rank}": random_adapter(base.spec, f"adapter-{rank}", rank, seed=rank) for rank in RANKS}


@torch.inference_mode()
def output_alone(base: Base, adapter: VerifiedAdapter | None, image: Pixels) -> dict[str, torch.Tensor]:
    with with_delta(base.model, adapter):
        output = base.model(pixel_values=torch.from_numpy(image)[None])
    return {"states": output.last_hidden_state[0], "pooler": output.pooler_output[0]}


@pytest.mark.parametrize("family", IMAGE_ENCODERS)
@pytest.mark.parametrize("max_step_tokens", [2048, 24])
def test_images_of_many_adapters_in_one_batch_equal_each_alone(
    family: str, max_step_tokens: int, load_tiny: LoadTiny
) -> None:
    plain = load_tiny(family)
    adapters = adapters_of(plain)
    digests = ["base", *adapters]
    wanted = [
        (digests[index % len(digests)], image, PoolingParams("tokens" if index % 2 else "embedding"))
        for index, image in enumerate(images(plain, 24))
    ]
    settings = EngineSettings(slots=3, max_running_rows=16, max_step_tokens=max_step_tokens)
    with running_engine(load_tiny(family), adapters, settings) as loop:
        outcomes = run_images(loop, wanted, plain.spec.max_length)
    for (digest, image, params), outcome in zip(wanted, outcomes, strict=True):
        states = output_alone(plain, adapters.get(digest), image)["states"]
        mean = torch.nn.functional.normalize(states.mean(0), dim=-1)
        expected = states if params.output == "tokens" else mean
        torch.testing.assert_close(outcome.values, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", IMAGE_ENCODERS)
@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_a_head_on_images_reads_each_image_s_own_state(family: str, pooling: Pooling, load_tiny: LoadTiny) -> None:
    plain = load_tiny(family)
    adapters = {name: with_head(plain, adapter, pooling) for name, adapter in adapters_of(plain).items()}
    wanted = [(name, image, PoolingParams("head")) for name, image in zip(adapters, images(plain, 5), strict=True)]
    with running_engine(load_tiny(family), adapters) as loop:
        outcomes = run_images(loop, wanted, plain.spec.max_length)
    for (digest, image, _), outcome in zip(wanted, outcomes, strict=True):
        output = output_alone(plain, adapters[digest], image)
        state = output["states"][0] if pooling == "cls" else output["pooler"]
        expected = adapters[digest].head.forward(state[None])[0]
        torch.testing.assert_close(outcome.values, expected, atol=1e-5, rtol=1e-4)


def with_head(base: Base, adapter: VerifiedAdapter, pooling: Pooling) -> VerifiedAdapter:
    weight = torch.randn(4, base.spec.hidden_size, generator=torch.Generator().manual_seed(1))
    head = LinearHead(HeadSpec(kind="classification", pooling=pooling), weight, None)
    return VerifiedAdapter(adapter.digest, adapter.manifest, adapter.files, adapter.delta, head)
