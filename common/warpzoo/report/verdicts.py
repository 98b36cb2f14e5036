"""The numbers in words, each with a grade ("good", "fair" or "bad"): is it better, does it fold, what was doubtful?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warpzoo.errors import Finding
from warpzoo.report.numbers import BEFORE, DISTANCES, NAMES, compared, mean_of, percent, shown

LOWER_IS_BETTER = (*DISTANCES, "mse")
FEW_FOLDS = 1e-4
MANY_FOLDS = 5e-3

Verdict = tuple[str, str]


def verdicts_of(
    metrics: Mapping[str, Any], findings: Sequence[Finding], notes: Sequence[str], unit: str
) -> list[Verdict]:
    verdicts = [("fair", note) for note in notes]
    for finding in findings:
        verdicts.append(("bad" if finding.severity == "error" else "fair", f"Before the run: {finding}"))
    # with masks, what lies outside them is not what was to become better
    unjudged = ("ncc", "ncc_outside") if "ncc_inside" in metrics else ()
    judged = [name for name in compared(metrics) if name not in unjudged]
    found = [*(improvement_verdict(name, metrics, unit) for name in judged), folding_verdict(metrics)]
    return verdicts + [verdict for verdict in found if verdict is not None]


def improvement_verdict(name: str, metrics: Mapping[str, Any], unit: str) -> Verdict | None:
    first, last = (mean_of(metrics.get(name + end)) for end in (BEFORE, ""))
    if first is None or last is None:
        return None
    before, after, words = shown(first, name), shown(last, name), NAMES.get(name, name)
    suffix = f" {unit}" if name in DISTANCES else ""
    if before == after:
        return "fair", f"{words} stayed at {after}{suffix}: the registration changed nothing by this measure."
    change = f"{words} {'fell' if last < first else 'rose'} from {before} to {after}{suffix}"
    if (last < first) == (name in LOWER_IS_BETTER):
        return "good", f"{change}."
    return "bad", (
        f"{change}: by this measure the registration made it worse. Look at the pictures before you use the result."
    )


def folding_verdict(metrics: Mapping[str, Any]) -> Verdict | None:
    """Of the share of folded cells (or voxels, if that is all there is)."""
    share = metrics.get("folding_corners", metrics.get("folding"))
    if share is None:
        return None
    if share == 0:
        return "good", "The transform folds nowhere: its Jacobian determinant is positive in the whole image."
    folds = f"The transform folds in {percent(share)} of the image"
    if share <= FEW_FOLDS:
        return "good", f"{folds}: it is not invertible at these few points (black in the map of the determinant)."
    if share <= MANY_FOLDS:
        return "fair", (
            f"{folds} and is not invertible there (black in the map of the determinant). Do not measure volumes at "
            f"these places."
        )
    return "bad", (
        f"{folds}: much of it is not invertible, as no real motion is (black in the map of the determinant). "
        f"A velocity field or a stronger regularisation prevents folds."
    )
