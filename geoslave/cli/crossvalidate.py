"""`geoslave crossvalidate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, progress, warnings_told

if TYPE_CHECKING:
    from geoslave.crossvalidation import CrossValidation


@click.command("crossvalidate", epilog=example("geoslave crossvalidate configs/kiln-s2.yaml --out kilns-cv"))
@click.argument("config", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder of models, held-out detections and the report.")
@click.option("--only", multiple=True, metavar="REGION", help="Do these regions alone; the others another time.")
@click.option("--restart", is_flag=True, help="Begin anew: what is there of the regions to be done is removed.")
@json_option
def command(config: Path, out: Path, only: tuple[str, ...], restart: bool, as_json: bool) -> None:
    """Leave one region out: train CONFIG without each region in turn, and measure there.

    Regions are named by the labels (region_column of the recipe's scenes). The same command again goes on where
    it was stopped. At the end OUT holds held_out.gpkg, what each network found in the region it had not seen; what
    the labels say about it, for geoslave calibrate; and a report as geoslave evaluate writes it.

    Figures are those at the recipe's operating confidence, and with each region at the threshold that was best
    on the others. Needs the extra 'train'.
    """
    from geoslave.errors import MissingExtra

    try:
        import segmentation_models_pytorch  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("geoslave crossvalidate", "train") from None
    from geoslave.crossvalidation import begin, lay_out, sum_up
    from geoslave.model.recipe import load_config

    with warnings_told():
        whole = lay_out(load_config(config), out)
    to_do = begin(whole, only, restart=restart)
    _remarks(whole)
    for fold in to_do:
        _do(fold, f"{whole.folds.index(fold) + 1} of {len(whole.folds)}", as_json)
    if left := whole.left:
        facts: dict[str, Any] = {"out": str(out), "complete": False, "left": left}
        done = [fold.region for fold in whole.folds if fold.region not in left]
        answer(as_json, {**facts, "done": done}, _lines_of_a_part(done, left, config, out))
        return
    if not as_json:
        note("all regions are done: figures and their intervals are worked out")
    facts = {"out": str(out), "complete": True, **sum_up(whole).facts}
    answer(as_json, facts, _lines(facts, config))


def _do(fold: Any, position: str, quiet: bool) -> None:
    """Train and look, with a line for each."""
    from geoslave.cli.train import draw, training_progress
    from geoslave.crossvalidation import look, train_fold

    title = f"without {fold.region} ({position})"
    with training_progress(quiet, title) as on_step:
        result = train_fold(fold, on_step, note)
    if result is not None:
        draw(fold.training / "training.png", result)
    with progress(quiet) as step:
        n = look(fold, step)
    if not quiet:
        trained = "" if result is None else f"trained in {result.seconds / 60:.1f} minutes, "
        click.echo(f"{title}: {trained}{n} detections in {len(fold.scenes)} scenes of {fold.region}", err=True)


def _remarks(whole: CrossValidation) -> None:
    if whole.n_without:
        note(
            f"{whole.n_without} scenes have no label that tells their region: every network learns from them, and "
            "none is measured there"
        )
    calibration = whole.config.publication.confidence.calibration
    if calibration is not None and calibration.n:
        note(
            f"the recipe's confidence is calibrated already, on {calibration.data}: if that was these regions, figures "
            "at its operating confidence flatter a little, and calibrating with them again counts them twice"
        )
    if whole.config.start_from:
        note("every network starts from the same weights (start_from): what those have seen is not held out")


# ---------------------------------------------------------------- what is printed


def _lines_of_a_part(done: list[str], left: list[str], config: Path, out: Path) -> list[str]:
    return [
        f"done: {', '.join(done) or 'none'}; left: {', '.join(left)}  ->  {out}",
        f"Figures come when all are done:  geoslave crossvalidate {config} --out {out}",
    ]


def _lines(facts: dict[str, Any], config: Path) -> list[str]:
    from geoslave.cli.evaluate import rate_lines

    out, model = facts["out"], f"models/{facts['name']}"
    return [
        *rate_lines(facts),
        "",
        *_table(facts),
        "",
        "  95 % intervals from a bootstrap over spatial blocks",
        f"  held_out.gpkg, held_out_verdicts.csv, report/  ->  {out}",
        "Next: train on all regions, and make its confidence a probability with what was held out:",
        f"  geoslave train {config} --out {model}",
        f"  geoslave calibrate {model} --detections {out}/held_out.gpkg --verdicts {out}/held_out_verdicts.csv "
        f"--group region --out {model}-calibrated",
    ]


def _table(facts: dict[str, Any]) -> list[str]:
    """A row a region: F1 at the operating point, and at the threshold chosen on the other regions."""
    from geoslave.cli.evaluate import shown

    other = facts["threshold_from_other_regions"]
    rows = [(region, own, other["by"][region]) for region, own in facts["by"]["region"].items()]
    at_operating = f"F1 at {facts['min_confidence']:.2f}"
    lines = [f"  {'region':<22} {'sites':>5}  {'average precision':<20} {at_operating:<20} F1 at the others' best"]
    for region, own, elsewhere in [*rows, ("all", facts, other)]:
        at = "" if elsewhere.get("threshold") is None else f" ({elsewhere['threshold']:.2f})"
        cells = [shown(own, "average_precision", 2), shown(own, "f1", 2), shown(elsewhere, "f1", 2)]
        lines.append(f"  {region[:22]:<22} {own['n_sites']:>5}  {cells[0]:<20} {cells[1]:<20} {cells[2]}{at}")
    return lines
