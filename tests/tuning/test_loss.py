"""Losses and accuracy against their definitions, one text at a time."""

import math

import numpy as np
import pytest

from secp_spu.tuning import accuracy, losses

LOGITS = np.random.default_rng(0).normal(scale=3, size=(2, 5, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1, 0])


def test_cross_entropy_is_minus_the_log_of_the_labels_probability():
    found = losses("cross_entropy", LOGITS, LABELS)
    for candidate in range(2):
        terms = []
        for row, label in zip(LOGITS[candidate].astype(float), LABELS, strict=True):
            weights = [math.exp(x) for x in row]
            terms.append(-math.log(weights[label] / sum(weights)))
        # float32 logits of size 10 keep 7 digits
        assert found[candidate] == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_hinge_is_the_missing_margin():
    found = losses("hinge", LOGITS, LABELS)
    for candidate in range(2):
        terms = []
        for row, label in zip(LOGITS[candidate], LABELS, strict=True):
            rival = max(x for number, x in enumerate(row) if number != label)
            terms.append(max(0.0, 2.0 - (row[label] - rival)))
        assert found[candidate] == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = np.array([[[1e4, -1e4]]], np.float32)
    assert losses("cross_entropy", logits, np.array([1])) == pytest.approx([2e4])


def test_accuracy_counts_the_largest_logit():
    assert accuracy(np.array([[1, 2], [3, 0], [0, 1.0]]), np.array([1, 1, 1])) == pytest.approx(2 / 3)
