"""The metrics of tags, answers and pairs of texts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from multigraft_training.evaluate import correlation, rounded

OUTSIDE = "O"
Entity = tuple[str, int, int]
"""A kind, and its first and last word."""


def tag_metrics(
    predicted: Sequence[Sequence[str]], truth: Sequence[Sequence[str]], summed_loss: float
) -> dict[str, float]:
    """Of each text's tags by word: the share of words that are right, F1, precision and recall over whole entities
    (kind, first and last word must be right), and the mean loss per word."""
    pairs = [pair for tags, said in zip(truth, predicted, strict=True) for pair in zip(tags, said, strict=True)]
    found = [entities(tags) for tags in predicted]
    there = [entities(tags) for tags in truth]
    hits = sum(len(one & other) for one, other in zip(found, there, strict=True))
    precision = hits / max(sum(map(len, found)), 1)
    recall = hits / max(sum(map(len, there)), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return rounded(
        {
            "entity_f1": f1,
            "precision": precision,
            "recall": recall,
            "accuracy": sum(tag == said for tag, said in pairs) / len(pairs),
            "loss": summed_loss / len(pairs),
        }
    )


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities in a text's tags: neighbours of one kind, unless `B-` begins another, as a server groups them.
    `B-` and `I-` are left off; O is no entity."""
    found: list[Entity] = []
    last = OUTSIDE
    for place, tag in enumerate(tags):
        kind = tag[2:] if tag.startswith(("B-", "I-")) else tag
        if kind != OUTSIDE:
            if kind == last and not tag.startswith("B-"):
                found[-1] = (kind, found[-1][1], place)
            else:
                found.append((kind, place, place))
        last = kind
    return set(found)


def answer_metrics(said: Sequence[str], right: Sequence[Sequence[str]], mean_loss: float) -> dict[str, float]:
    """Of each question's answer against those that are right (none: it must be empty): the share that is one of
    them and the mean F1 over words, as SQuAD counts both (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    wanted = [[_words(one) for one in answers] or [[]] for answers in right]
    given = [_words(answer) for answer in said]
    exact = [words in answers for words, answers in zip(given, wanted, strict=True)]
    overlap = [max(_f1(words, one) for one in answers) for words, answers in zip(given, wanted, strict=True)]
    return rounded({"exact_match": sum(exact) / len(exact), "f1": sum(overlap) / len(overlap), "loss": mean_loss})


def score_metrics(cosines: Tensor, scores: Tensor) -> dict[str, float]:
    """Of pairs' cosines against their scores, each (pairs,) fp32: Spearman's and Pearson's correlation (0 where
    one of both never changes), and the mean squared error as loss."""
    return rounded(
        {
            "spearman": correlation(_ranks(cosines), _ranks(scores)),
            "pearson": correlation(cosines, scores),
            "loss": torch.nn.functional.mse_loss(cosines, scores).item(),
        }
    )


def retrieval_metrics(left: Tensor, right: Tensor, scale: float) -> dict[str, float]:
    """Of unit vectors of texts and of their partners, each (pairs, hidden): how often a text's own partner is the
    nearest of all, the mean reciprocal of its place, and the mean cross entropy at `scale` as loss."""
    ranks: list[float] = []
    loss = 0.0
    for start in range(0, len(left), 1024):
        scores = scale * left[start : start + 1024] @ right.T
        own = torch.arange(start, start + len(scores))
        loss += torch.nn.functional.cross_entropy(scores, own, reduction="sum").item()
        ranks += ((scores > scores.gather(1, own[:, None])).sum(dim=1) + 1).tolist()
    return rounded(
        {
            "accuracy": sum(rank == 1 for rank in ranks) / len(ranks),
            "reciprocal_rank": sum(1 / rank for rank in ranks) / len(ranks),
            "loss": loss / len(ranks),
        }
    )


def _words(answer: str) -> list[str]:
    """An answer's words as SQuAD compares them: in lower case, without punctuation and articles."""
    bare = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))


def _ranks(values: Tensor) -> Tensor:
    """The places of values (n,) in their order, equal ones' the mean of theirs, fp32."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    places: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return places[group]
