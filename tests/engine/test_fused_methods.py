"""Every method's steps on a decoder are one call of the kernel of all layers, and answer as they do layer by layer
and by torch's operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from multigraft_adapters.bases import Base, BaseSpec
from multigraft_adapters.heads.generation import GenerationHead
from multigraft_adapters.manifest import HeadSpec, Manifest, MethodSpec
from multigraft_adapters.methods import BottleneckDelta, Delta, Ia3Delta, LoraDelta, PrefixDelta, PromptDelta
from multigraft_adapters.methods.bottleneck import Bottleneck
from multigraft_adapters.methods.ia3 import Ia3Scale
from multigraft_adapters.methods.lora import LoraPair
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine import fused_step
from multigraft_server.engine.kernels import KernelMode, load_kernels, why_not
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, run_all, running_engine
from tests.engine.test_fused import GREEDY, assert_alike, prompts

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(why_not(CPU, torch.bfloat16) is not None, reason="no kernels on this machine")

Draw = Callable[..., Tensor]
TWINS: tuple[tuple[str, KernelMode], ...] = (("bfloat16", "required"), ("bfloat16", "off"), ("float32", "off"))
"""The kernels, torch's operations, and what both are to be near to."""
ENDS = ("o_proj", "down_proj")


def lora(spec: BaseSpec, draw: Draw, number: int) -> LoraDelta:
    rank = (3, 16, 33)[number]
    return LoraDelta(
        {
            path: LoraPair(draw(rank, shape.in_features), draw(shape.out_features, rank), 0.5)
            for path, shape in spec.targets.items()
        }
    )


def dora(spec: BaseSpec, draw: Draw, number: int) -> LoraDelta:
    """With the trained biases of a base that has some: they are shifts."""
    pairs = {
        path: LoraPair(pair.a, pair.b, 0.5, magnitude=1 + draw(pair.b.shape[0]))
        for path, pair in lora(spec, draw, number).pairs.items()
    }
    biased = [path for path in spec.targets if path.endswith("k_proj")] if spec.model_type == "qwen2" else []
    return LoraDelta(pairs, biases={path: draw(spec.targets[path].out_features) for path in biased})


def ia3(spec: BaseSpec, draw: Draw, number: int) -> Ia3Delta:
    """As usual, or with scales at the ends of the blocks, or everywhere but in the attention block."""
    inputs = (("down_proj",), ENDS, ("down_proj",))[number]
    outputs = (("k_proj", "v_proj"), ("q_proj", "up_proj"), ("gate_proj", "o_proj"))[number]
    return scales(spec, draw, inputs, outputs)


def ia3_of_shared_inputs(spec: BaseSpec, draw: Draw, number: int) -> Ia3Delta:
    return scales(spec, draw, (("q_proj",), ("up_proj", "down_proj"), ("v_proj", "k_proj"))[number], ENDS)


def scales(spec: BaseSpec, draw: Draw, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Ia3Delta:
    own = {
        path: Ia3Scale(1 + draw(s.in_features), True) for path, s in spec.targets.items() if path.endswith(inputs)
    }
    outs = {p: Ia3Scale(1 + draw(s.out_features), False) for p, s in spec.targets.items() if p.endswith(outputs)}
    return Ia3Delta(outs | own)


def after(spec: BaseSpec, draw: Draw, number: int) -> BottleneckDelta:
    """After both blocks, after the last one, or after every module; each with another activation and sizes."""
    names = (ENDS, ("down_proj",), ("_proj",))[number]
    paths = [path for path in spec.targets if path.endswith(names)]
    return BottleneckDelta({path: bottleneck(spec, draw, path, number) for path in paths}, {}, {})


def parallel(spec: BaseSpec, draw: Draw, number: int) -> BottleneckDelta:
    begins = {path: path.replace("down", "gate") for path in spec.targets if path.endswith("down_proj")}
    return BottleneckDelta({path: bottleneck(spec, draw, path, number) for path in begins}, begins, {})


def bottleneck(spec: BaseSpec, draw: Draw, path: str, number: int) -> Bottleneck:
    size, features = (1, 16, 21)[number], spec.targets[path].out_features
    activation = ("relu", "gelu", "swish")[number]
    return Bottleneck(
        draw(size, features), draw(size), draw(features, size), draw(features), scaling=0.7, activation=activation
    )


def prefix(spec: BaseSpec, draw: Draw, number: int) -> PrefixDelta:
    layout = spec.prefix
    assert layout is not None
    return PrefixDelta(draw(3 + number, layout.layers * 2 * layout.heads * layout.head_dim), layout)


def prompt(spec: BaseSpec, draw: Draw, number: int) -> PromptDelta:
    return PromptDelta(draw(3 + number, spec.hidden_size))


METHODS: dict[str, Callable[[BaseSpec, Draw, int], Delta]] = {
    one.__name__: one for one in (lora, dora, ia3, ia3_of_shared_inputs, after, parallel, prefix, prompt)
}
WHOLE = [name for name in METHODS if name != "ia3_of_shared_inputs"]


def adapters_of(spec: BaseSpec, methods: Sequence[str]) -> dict[str, VerifiedAdapter]:
    """Three adapters of each method, large enough to change every answer."""
    made: dict[str, VerifiedAdapter] = {}
    for method in methods:
        for number in range(3):
            generator = torch.Generator().manual_seed(10 * len(made) + number)

            def draw(*shape: int, generator: torch.Generator = generator) -> Tensor:
                return torch.randn(*shape, generator=generator) * 0.2

            head = GenerationHead(HeadSpec(kind="generation"))
            manifest = Manifest(task_type="text-generation", head=head.spec, method=MethodSpec(name=method))
            delta = METHODS[method](spec, draw, number)
            made[f"{method}-{number}"] = VerifiedAdapter(f"{method}-{number}", manifest, {}, delta, head)
    return made


@contextmanager
def time_at_once() -> Iterator[Callable[[], float]]:
    """How long the kernel of all layers has computed inside."""
    kernels = load_kernels("required", CPU, torch.bfloat16)
    assert kernels is not None and kernels.seconds is None
    kernels.seconds = seconds = torch.zeros(4, dtype=torch.float64)
    try:
        yield lambda: float(seconds.sum())
    finally:
        kernels.seconds = None


def crowd(base: Base, mode: KernelMode, methods: Sequence[str]) -> list[Outcome]:
    """Rows of the base and of all adapters, some alone with theirs, some in twos."""
    adapters = adapters_of(base.spec, methods)
    digests = [*adapters, "base"]
    wanted = [(digests[i % len(digests)], p, GREEDY) for i, p in enumerate(prompts(max(8, len(digests) * 3 // 2)))]
    with running_engine(base, adapters, EngineSettings(kernels=mode, prefix_cache_bytes=0)) as loop:
        return run_all(loop, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_crowd_of_one_method_answers_as_without_kernels(method: str, load_tiny: LoadTiny) -> None:
    with time_at_once() as taken:
        assert_alike(*(crowd(load_tiny("llama", dtype), mode, [method]) for dtype, mode in TWINS))
        assert (taken() > 0) or method not in WHOLE


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_crowd_of_all_methods_answers_as_without_kernels(family: str, threads: int, load_tiny: LoadTiny) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_alike(*(crowd(load_tiny(family, dtype), mode, list(METHODS)) for dtype, mode in TWINS))
    finally:
        torch.set_num_threads(before)


def test_all_methods_at_once_answer_as_layer_by_layer(
    load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = crowd(load_tiny("llama", "bfloat16"), "required", WHOLE)
    monkeypatch.setattr(fused_step, "MOST_PAIRS", -1)
    with time_at_once() as taken:
        by_layer = crowd(load_tiny("llama", "bfloat16"), "required", WHOLE)
        assert taken() == 0, "a step was still computed at once"
    assert_alike(at_once, by_layer, crowd(load_tiny("llama"), "off", WHOLE))


def test_a_step_is_at_once_unless_one_of_its_own_adapters_scales_a_shared_input(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama", "bfloat16")
    adapters = adapters_of(base.spec, ["ia3", "ia3_of_shared_inputs"])
    with (
        running_engine(base, adapters, EngineSettings(kernels="required", prefix_cache_bytes=0)) as loop,
        time_at_once() as taken,
    ):
        for digest in adapters:
            before = taken()
            assert run_all(loop, [(digest, prompts(1)[0], GREEDY)])[0].tokens
            assert (taken() > before) == digest.startswith("ia3-"), digest
        assert run_all(loop, [("ia3-0", prompts(2)[0], GREEDY)])[0].tokens
        assert taken() > before, "banks that others have scales in are no reason"


def test_slots_that_are_written_anew_are_read_where_they_are(load_tiny: LoadTiny) -> None:
    """One row at a time over three slots: every adapter takes another's place, and banks are made and grow."""
    results = []
    for dtype, mode in TWINS:
        base = load_tiny("llama", dtype)
        adapters = adapters_of(base.spec, list(METHODS))
        order = [f"{method}-{number}" for number in range(3) for method in METHODS]
        settings = EngineSettings(kernels=mode, slots=3, prefix_cache_bytes=0)
        with running_engine(base, adapters, settings) as loop:
            results.append([run_all(loop, [(digest, prompts(3)[1], GREEDY)])[0] for digest in order])
    assert_alike(*results)
