"""Writes metrics.json: scores, labels and what scikit-learn makes of them.

    pip install scikit-learn==1.9.1 numpy==2.4.6
    python3 tests/reference/metrics.py

The tests of core/src/metrics.rs read the file. Scores are whole numbers over a power of two
(`grid`), row by row: exact in every float format, and a small grid makes ties as heavy as wanted.
"""

import json
import pathlib
import warnings

import numpy
import sklearn
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
)

FLOOR = 1e-12  # smallest probability the loss tells apart from zero
FINE, COARSE = 4096, 4  # grids with few and with many ties


def probabilities(random, samples, classes, grid, labels=None):
    """Draws rows that sum to `grid`, leaning towards the true class when labels are given."""
    weights = random.gamma(0.7, size=(samples, classes)) + 1e-3
    if labels is not None:
        weights[numpy.arange(samples), labels] += random.gamma(1.0, size=samples)
    weights /= weights.sum(axis=1, keepdims=True)
    counts = numpy.floor(weights * grid).astype(int)
    counts[numpy.arange(samples), weights.argmax(axis=1)] += grid - counts.sum(axis=1)
    return counts


def case(name, classes, grid, counts, labels, is_probability=True):
    """Asks scikit-learn for every number of one case."""
    scores = counts / grid
    predicted = scores.argmax(axis=1)  # the first of equals
    one_hot = numpy.eye(classes, dtype=int)[labels]
    precisions = [
        average_precision_score(one_hot[:, k], scores[:, k]) for k in range(classes)
    ]
    mean = float(numpy.mean(precisions))
    if classes > 1 and len(labels) > 1:
        macro = average_precision_score(one_hot, scores, average="macro")
        assert abs(macro - mean) < 1e-14, name
    loss = None
    if is_probability and classes == 1:
        loss = 0.0  # scikit-learn wants two classes; one class is certain
    elif is_probability:
        clipped = numpy.clip(scores, FLOOR, 1.0)
        loss = float(log_loss(labels, y_proba=clipped, labels=range(classes)))
    confusion = confusion_matrix(labels, predicted, labels=range(classes))
    return {
        "name": name,
        "classes": classes,
        "grid": grid,
        "scores": counts.ravel().tolist(),
        "labels": labels.tolist(),
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "average_precisions": [float(value) for value in precisions],
        "mean_average_precision": mean,
        "loss": loss,
        "confusion": confusion.tolist(),
        "classes_without_samples": [k for k in range(classes) if k not in labels],
    }


def cases():
    """Yields named corner cases, then random ones over 2 to 31 classes."""
    random = numpy.random.default_rng(20250801)

    def drawn(name, classes, samples, grid, choices, learned=True):
        labels = random.choice(choices, size=samples)
        counts = probabilities(random, samples, classes, grid, labels if learned else None)
        return case(name, classes, grid, counts, labels)

    yield drawn("two classes, few ties", 2, 60, FINE, 2)
    yield drawn("two classes, heavy ties", 2, 60, COARSE, 2)
    yield drawn("six classes, four of them in the labels", 6, 50, FINE, [0, 1, 3, 4])
    yield drawn("31 classes, few ties", 31, 70, FINE, 31)
    yield drawn("31 classes, heavy ties, unlearned", 31, 70, COARSE, 31, learned=False)
    yield drawn("one class", 1, 5, FINE, 1)
    yield drawn("one sample", 5, 1, FINE, 5)
    yield drawn("every sample of class two", 4, 20, COARSE, [2])

    labels = random.choice(4, size=30)
    yield case("every score the same", 4, 4, numpy.ones((30, 4), dtype=int), labels)
    counts = numpy.zeros((40, 25), dtype=int)
    counts[:, 7] = COARSE
    labels = random.choice(25, size=40)
    yield case("always class seven, with certainty", 25, COARSE, counts, labels)
    counts = numpy.zeros((30, 9), dtype=int)
    labels = random.choice(9, size=30)
    counts[numpy.arange(30), labels] = COARSE
    yield case("perfect", 9, COARSE, counts, labels)
    labels = random.choice(7, size=40)
    counts = random.integers(-40, 40, size=(40, 7))
    yield case("signed scores", 7, 8, counts, labels, is_probability=False)

    for number in range(14):
        classes = int(random.integers(2, 32))
        grid = int(random.choice([COARSE, 16, FINE]))
        samples = int(random.integers(2, 40))
        yield drawn(f"random {number}", classes, samples, grid, classes)


def main():
    """Writes one case a line, so that a change shows as the lines it concerns."""
    warnings.simplefilter("ignore")  # undefined scores are 0, as is meant here
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases())
    versions = json.dumps({"scikit-learn": sklearn.__version__, "numpy": numpy.__version__})
    text = f'{{"versions":{versions},"cases":[\n{lines}\n]}}\n'
    pathlib.Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
