"""What a model's card (README.md, Markdown) says about its calibration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from geoslave.model.calibrate import Calibration, Figures

if TYPE_CHECKING:
    from geoslave.model.package import Confidence, ModelSpec

RELIABILITY_PICTURE = "reliability.png"


def card_with_calibration(card: str, spec: ModelSpec, *, picture: bool = False) -> str:
    """A card (Markdown) with a section "Calibration" after its other sections, and its facts brought up to date.

    A section that is there already is replaced. A card of a model without a calibration stays as it is.
    """
    calibration = spec.confidence.calibration
    if calibration is None:
        return card
    facts = {
        r"^(# \S+) [\w.+-]+(:.*)?$": rf"\1 {spec.version}\2",
        r"^\| confidence \|.*\|$": f"| confidence | {spec.confidence.meaning} |",
        r"^\| map \|.*\|$": f"| map | detections with a confidence of {spec.confidence.operating:.2f} or more |",
    }
    for pattern, line in facts.items():
        card = re.sub(pattern, line, card, count=1, flags=re.MULTILINE)
    card = re.sub(r"\n## Calibration\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    return card.rstrip() + "\n\n" + _calibration_section(spec.confidence, calibration, picture)


def _calibration_section(confidence: Confidence, calibration: Calibration, picture: bool) -> str:
    lines = ["## Calibration", ""]
    if not confidence.calibrated:
        lines += ["Too few verdicts to call the confidence calibrated; it was moved as far as they carry.", ""]
    lines += [
        f"Confidence: {calibration.origin}. What stands elsewhere on this card about confidence, and figures at a"
    ]
    lines += ["confidence of so much, were written before."]
    before, after = calibration.held_out_before, calibration.held_out_after
    if before is not None and after is not None:
        lines += [
            "",
            "On detections of groups that the fit had not seen:" if calibration.n_groups > 1 else "On rows held out:",
            "",
            "| | before | after |",
            "|---|---|---|",
            f"| expected calibration error (95 % interval) | {_with_interval(before)} | {_with_interval(after)} |",
            f"| the same without the error that scatter makes | {_figure(before.ece_debiased)} |"
            f" {_figure(after.ece_debiased)} |",
            f"| Brier score | {_figure(before.brier)} | {_figure(after.brier)} |",
        ]
    if picture:
        lines += ["", f"![Reliability before and after]({RELIABILITY_PICTURE})"]
    return "\n".join([*lines, ""])


def _with_interval(figures: Figures) -> str:
    if figures.ece_low is None:
        return _figure(figures.ece)
    return f"{_figure(figures.ece)} [{_figure(figures.ece_low)}, {_figure(figures.ece_high)}]"


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
