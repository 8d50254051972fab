"""What scikit-learn says of predictions, and what TensorBoard reads from an event file.

    figures.py FOLDER metrics     reads cases.json, writes figures.json
    figures.py FOLDER events      reads the event files of FOLDER/tensorboard, writes events.json
"""

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np

BINS = 15


def finite(value):
    value = float(value)
    return value if math.isfinite(value) else None


def best(points, figure, rest=None, bound=0.0):
    """The largest figure of the points whose rest keeps the bound, and the best rest of these; none if no point does."""
    kept = [point for point in points if rest is None or point[rest] >= bound]
    if not kept:
        return None
    top = max(point[figure] for point in kept)
    return [top, max(point[rest or figure] for point in kept if point[figure] == top)]


def thresholds(truth, score, at_least):
    from sklearn.metrics import precision_recall_curve, roc_curve

    if truth.all() or not truth.any():
        return None
    precision, recall, at = precision_recall_curve(truth, score)
    points = [
        {"precision": p, "recall": r, "f1": 2 * p * r / (p + r) if p + r > 0 else 0.0}
        for p, r in zip(precision[: len(at)], recall[: len(at)])
    ]
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    return {
        "F1": best(points, "f1"),
        "Precision": best(points, "precision", "recall", at_least),
        "Recall": best(points, "recall", "precision", at_least),
        "Youden": [max(true - false)] * 2,
    }


def figures(case):
    from sklearn import metrics
    from sklearn.calibration import calibration_curve

    labels = np.array(case["labels"])
    probabilities = np.array(case["probabilities"], dtype=np.float32)
    classes = list(range(probabilities.shape[1]))
    predicted = probabilities.argmax(axis=1)
    found = {"accuracy": metrics.accuracy_score(labels, predicted)}
    found["loss"] = metrics.log_loss(labels, probabilities, labels=classes)
    found["brier"] = metrics.brier_score_loss(labels, probabilities, labels=classes)
    if len(classes) > 5:
        found["top5"] = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    each = metrics.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    found["classes"] = np.array(each).T.tolist()
    for average in ("macro", "weighted"):
        found[average] = metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)[:3]
    found["auc"], found["averagePrecision"], found["thresholds"] = [], [], []
    for one in classes:
        truth, score = labels == one, probabilities[:, one]
        two_sides = truth.any() and not truth.all()
        found["auc"].append(finite(metrics.roc_auc_score(truth, score)) if two_sides else None)
        found["averagePrecision"].append(finite(metrics.average_precision_score(truth, score)) if truth.any() else None)
        found["thresholds"].append(thresholds(truth, score, case["atLeast"]))
    right, confidence = predicted == labels, probabilities.max(axis=1).astype(np.float64)
    accuracy, sure = calibration_curve(right.astype(int), confidence, n_bins=BINS, pos_label=1)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    counts = np.bincount(bins, minlength=BINS)
    counts = counts[counts > 0]
    found["reliability"] = np.array([sure, accuracy, counts]).T.tolist()
    found["calibrationError"] = float((counts * abs(accuracy - sure)).sum() / len(labels))
    return found


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    tags = read.Tags()["scalars"]
    return {tag: [[event.step, event.value, event.wall_time] for event in read.Scalars(tag)] for tag in tags}


def main():
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    if sys.argv[2] == "metrics":
        cases = json.loads((folder / "cases.json").read_text())
        (folder / "figures.json").write_text(json.dumps([figures(case) for case in cases]))
    else:
        (folder / "events.json").write_text(json.dumps(events(folder)))


main()
