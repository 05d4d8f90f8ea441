"""How near an answer must be to PEFT's fp32 answer, in parts of the largest number of that where it is above 1.

fp32: the same products in another order. Sums of some hundred terms differ in the last of 24 bits, and two
layers of random weights amplify that some ten times.

bf16 has 8 significant bits: a rounding is off by up to 2**-9 of the number. A row's state is rounded some 25
times in the two layers of a tiny base; independent, these make sqrt(25) * 2**-9, 1%. Random weights, with
their sharp attention, amplify it: PEFT's own answers in bf16 are off by up to 4% in the root mean square of a
method on a family, and by up to 14% in single answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FP32 = 1e-4
EFFECT = 2 * FP32
"""By at least so much an answer must change without the delta, or it would say nothing of it."""
BF16_METHOD = 2**-4
"""The root mean square of a method's answers on a family."""
BF16_ROW = 2**-2
"""A single answer."""
BF16_OF_PEFT = 2.0
"""So many times PEFT's own root mean square in bf16, which rounds at other places, ..."""
BF16_FLOOR = 2**-8
"""... and a rounding or two more."""


def root_mean_square(values: Sequence[float]) -> float:
    """Of at least one value."""
    assert values
    return math.sqrt(sum(value * value for value in values) / len(values))
