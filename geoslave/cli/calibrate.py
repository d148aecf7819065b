"""`geoslave calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import (
    PATH,
    answer,
    example,
    json_option,
    note,
    overwrite_option,
    progress,
    scene_options,
    warnings_told,
)

if TYPE_CHECKING:
    from geoslave.calibration import Judged
    from geoslave.detections.reliability import Reliability
    from geoslave.model.calibrate import Outcome
    from geoslave.model.package import ModelPackage


@click.command(
    "calibrate",
    epilog=example(
        "geoslave calibrate kiln-s2 --detections kilns.gpkg --verdicts verdicts.csv --out models/kiln-s2-here",
        "geoslave calibrate kiln-s2 --scenes chips/ --labels kilns.geojson --group region --out models/kiln-s2-cal",
    ),
)
@click.argument("model")
@click.option("--detections", type=PATH, help="A layer this model made; with --verdicts.")
@click.option("--verdicts", type=PATH, help="A table with detection_id and answer (yes, no, unsure) or probability.")
@click.option("--scenes", type=PATH, help="A folder of scenes the model was not trained on; with --labels.")
@click.option("--labels", type=PATH, help="The known sites; none missing in these scenes.")
@click.option("--group", metavar="COLUMN", help="Regions that are held out whole: a column of the labels or verdicts.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share of true detections.")
@click.option("--out", type=PATH, required=True, help="The new model's folder.")
@scene_options
@click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: all cores]")
@overwrite_option
@json_option
def command(
    model: str,
    detections: Path | None,
    verdicts: Path | None,
    scenes: Path | None,
    labels: Path | None,
    group: str | None,
    share: float | None,
    out: Path,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make MODEL's confidence a probability, and write it as a new model.

    It learns from verdicts on detections, or from labelled scenes the model was not trained on. Few verdicts
    move the confidence little. The figures before and after come from regions (--group, else scenes) that
    were held out. MODEL itself stays as it is, unless --out names its folder and --overwrite is given.

    --share tells that another share of detections is true where you work (from a small random sample, say);
    given alone it moves a calibration that is there.
    """
    from geoslave.calibration import calibrated, judged_by_labels, judged_by_verdicts, moved, write
    from geoslave.model.package import check_folder, open_package

    package = open_package(model)
    check_folder(out, overwrite)
    if detections and verdicts and not (scenes or labels):
        judged: Judged | None = judged_by_verdicts(package, detections, verdicts, group)
    elif scenes and labels and not (detections or verdicts):
        with progress(as_json) as step, warnings_told():
            options = {"numbers": bands, "crs": crs, "nodata": nodata}
            judged = judged_by_labels(package, scenes, labels, group, options, threads, step)
    elif share is not None and not (detections or verdicts or scenes or labels):
        judged = None
    else:
        raise click.UsageError("give --detections with --verdicts, or --scenes with --labels, or --share alone")
    if judged is None:
        assert share is not None
        confidence, outcome = moved(package, share), None
    else:
        for line in judged.notes:
            note(line)
        confidence, outcome = calibrated(package, judged, share)
    folder, pictured = write(package, confidence, outcome, out, overwrite=overwrite)
    if outcome is not None and not pictured:
        note("no reliability plot: it needs the extra 'charts' (pip install 'geoslave[charts]')")
    written = open_package(folder)
    answer(as_json, _facts(package, written, outcome), _lines(package, written, outcome))


def _facts(before: ModelPackage, after: ModelPackage, outcome: Outcome | None) -> dict[str, Any]:
    confidence = after.spec.confidence
    calibration = confidence.calibration
    assert calibration is not None
    facts: dict[str, Any] = {
        "model_id": after.model_id,
        "folder": str(after.folder),
        "calibrated": confidence.calibrated,
        "confidence": confidence.meaning,
        "method": calibration.method,
        "n": calibration.n,
        "n_groups": calibration.n_groups,
        "share": calibration.share,
        "operating_before": before.spec.confidence.operating,
        "operating_after": confidence.operating,
    }
    if outcome is not None:
        facts |= {"before": outcome.before.to_dict(), "after": outcome.after.to_dict()}
    return facts


def _lines(before: ModelPackage, after: ModelPackage, outcome: Outcome | None) -> list[str]:
    confidence = after.spec.confidence
    calibration = confidence.calibration
    assert calibration is not None
    lines = [f"{after.model_id} is in {after.folder}", f"  confidence: {confidence.meaning}"]
    if outcome is not None:
        held = f"in {calibration.n_groups} groups, each" if calibration.n_groups > 1 else "rows"
        names = {"ece": "expected calibration error", "ece_debiased": "the same, less scatter", "brier": "Brier score"}
        lines += [
            f"  on {calibration.n} detections, {calibration.share:.0%} of them true, {held} held out in turn:",
            f"  {'':<28}{'before':<24}after",
            *(
                f"  {title:<28}{_rate(outcome.before, name):<24}{_rate(outcome.after, name)}"
                for name, title in names.items()
            ),
        ]
    lines.append(
        f"  the map: confidence {confidence.operating:.2f} or more (before: {before.spec.confidence.operating:.2f})"
    )
    lines.append("  uncalibrated  ->  calibrated, for a site of typical size and shape (95 % interval):")
    was = [0.1, 0.3, 0.5, 0.7, 0.9]
    now, (low, high) = calibration.apply(was), calibration.interval(was)
    lines += [
        f"           {a:.1f}  ->  {b:.2f}  [{c:.2f}, {d:.2f}]" for a, b, c, d in zip(was, now, low, high, strict=True)
    ]
    return lines


def _rate(told: Reliability, name: str) -> str:
    value, low, high = (getattr(told, name + end, None) for end in ("", "_low", "_high"))
    if value is None:
        return "not defined"
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
