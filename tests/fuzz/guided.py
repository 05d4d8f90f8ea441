"""A fuzzer that is guided by coverage: atheris, with an input of `corpus/` as its first ones."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

CORPUS = Path(__file__).with_name("corpus")
INSTRUMENTED = [
    *(f"multigraft_adapters.{name}" for name in ("artifact", "checks", "completion", "copies", "declaration")),
    *(f"multigraft_adapters.{name}" for name in ("heads", "manifest", "methods", "strict_json", "tensors_file")),
    *("multigraft_adapters.verify", "multigraft_training.data", "multigraft_training.examples"),
    *(f"multigraft_training.{name}" for name in ("recipe", "recipe_file", "rows", "split_checks", "tasks")),
]
SECONDS_PER_INPUT = 60
MAX_MIB = 3000
MAX_BYTES = 16_384


def fuzz_reader(name: str, *, seconds: int, seed: int | None) -> NoReturn:
    """Try inputs on one of the readers for so long, then end the process: 0 where nothing was found.

    An input that ends in anything but an error of ours, takes too long or too much memory is left in the corpus,
    where the tests find it from then on.
    """
    import atheris  # which is there for Linux on x86-64 only

    for large in ("peft", "sqlalchemy", "torch", "transformers"):
        import_module(large)  # which an instrumented import would only take longer over
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.mutating import mutated
        from tests.fuzz.readers import READERS

    def mutate(data: bytes, max_size: int, chance: int) -> bytes:
        return mutated(data, max_size, chance, atheris.Mutate)

    found = CORPUS / name
    with tempfile.TemporaryDirectory(prefix="fuzz-") as fresh:
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-report_slow_units={SECONDS_PER_INPUT}",
            f"-rss_limit_mb={MAX_MIB}",
            f"-max_len={MAX_BYTES}",
            f"-artifact_prefix={found}/",
            "-print_final_stats=1",
            *([f"-seed={seed}"] if seed is not None else []),
        ]
        target: Callable[[bytes], Any] = READERS[name]
        atheris.Setup([sys.argv[0], *options, fresh, str(found)], target, custom_mutator=mutate)
        atheris.Fuzz()
    raise AssertionError("atheris ends the process")
