"""The metrics of a split."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

DIGITS = 6
"""Metrics are kept to this many digits after the point."""


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy, F1 as the plain mean over the classes, and mean loss, of (rows, labels) logits in fp32."""
    predicted = logits.argmax(dim=-1).numpy()
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    truth = targets.numpy()
    return rounded(
        {
            "accuracy": float(accuracy_score(truth, predicted)),
            "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
            "loss": loss,
        }
    )


def multi_label_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """F1 over all labels and as their plain mean, the share of rows with every label right, and mean loss, of
    (rows, labels) logits in fp32; a label is given where its probability is above a half."""
    predicted, truth = (logits > 0).int().numpy(), targets.int().numpy()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    return rounded(
        {
            "micro_f1": float(f1_score(truth, predicted, average="micro", zero_division=0.0)),
            "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
            "exact_match": float((predicted == truth).all(axis=1).mean()),
            "loss": loss,
        }
    )


def regression_metrics(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Pearson's correlation (0 where one of both never changes), mean absolute error, and mean squared error as
    loss, of (rows,) fp32."""
    return rounded(
        {
            "pearson": correlation(predicted, truth),
            "mean_absolute_error": float((predicted - truth).abs().mean()),
            "loss": torch.nn.functional.mse_loss(predicted, truth).item(),
        }
    )


def correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's correlation of two (n,); 0 where one of both never changes."""
    centred, other = (values.double() - values.double().mean() for values in (left, right))
    product = float(centred.norm() * other.norm())
    return float(centred @ other) / product if product else 0.0


def generation_metrics(summed_loss: float, num_targets: int) -> dict[str, float]:
    """Mean loss per learnt token, and its exponential, the perplexity (at most e^80)."""
    loss = summed_loss / num_targets
    return rounded({"loss": loss, "perplexity": math.exp(min(loss, 80.0))})


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics to DIGITS digits, so that their last bits are nobody's business."""
    return {name: round(value, DIGITS) for name, value in metrics.items()}
