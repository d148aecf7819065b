"""`geoslave train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option

if TYPE_CHECKING:
    from geoslave.model.train import OnStep, Progress


@click.command("train", epilog=example("geoslave train configs/kiln-s2.yaml --out models/kiln-s2"))
@click.argument("config", type=PATH)
@click.option("--out", type=PATH, help="The model's folder. [default: models/NAME]")
@click.option("--restart", is_flag=True, help="Begin anew although an interrupted training could go on.")
@overwrite_option
@json_option
def command(config: Path, out: Path | None, restart: bool, overwrite: bool, as_json: bool) -> None:
    """Train a model as CONFIG (YAML) says and write it as a package.

    Beside the package, in OUT-training, lie a log (CSV and TensorBoard), a picture of the training and, until
    it is done, a checkpoint: the same command again goes on where a training was broken off, and ends with
    the same weights. Paths in the configuration may hold variables, e.g. ${GEOSLAVE_DATA}. Needs the extra
    'train'.
    """
    from geoslave.errors import MissingExtra

    try:
        import segmentation_models_pytorch  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("geoslave train", "train") from None
    from geoslave.model.checkpoint import NAME
    from geoslave.model.package import check_folder
    from geoslave.model.publish import publish
    from geoslave.model.recipe import load_config
    from geoslave.model.train import train

    settings = load_config(config)
    folder = out or Path("models") / settings.name
    check_folder(folder, overwrite)
    work = folder.with_name(f"{folder.name}-training")
    with training_progress(as_json) as step:
        result = train(settings, work, restart=restart, on_step=step, tell=note)
    picture = draw(work / "training.png", result)
    publish(result, folder, overwrite=overwrite)
    (work / NAME).unlink(missing_ok=True)
    loss = sum(result.losses[-50:]) / len(result.losses[-50:])
    facts = {
        "out": str(folder),
        "steps": len(result.losses),
        "seconds": round(result.seconds, 1),
        "loss": loss,
        "best": result.best,
        "looks": list(result.looks),
        "log": str(work / "log.csv"),
        "picture": picture and str(picture),
    }
    lines = [
        f"{settings.name}: {facts['steps']} steps in {result.seconds / 60:.1f} minutes, loss {loss:.3f}  ->  {folder}",
        f"How it went:  {picture or work / 'log.csv'}",
        f"Next: measure it:  geoslave evaluate {folder} --scenes SCENES --labels SITES",
    ]
    answer(as_json, facts, lines)


def draw(path: Path, result: object) -> Path | None:
    """The picture of the training, where matplotlib is there."""
    from geoslave.model.train import TrainResult

    assert isinstance(result, TrainResult)
    try:
        from geoslave.model.training_picture import draw_training
    except ImportError:
        note("no picture of the training: it needs matplotlib (pip install 'geoslave[train]')")
        return None
    return draw_training(result, path)


@contextmanager
def training_progress(quiet: bool, title: str = "training") -> Iterator[OnStep]:
    """A live line on standard error: step, loss, figures; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}{task.fields[figures]}"),
    )
    bar = Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    task = bar.add_task(title, total=None, loss="-", figures="")
    smooth: list[float] = []

    def step(now: Progress) -> None:
        smooth.append(now.loss)
        del smooth[:-25]
        known = {name: value for name, value in (now.figures or {}).items() if value is not None and name != "step"}
        figures = "".join(f"  {name} {value:.3f}" for name, value in known.items())
        loss = f"{sum(smooth) / len(smooth):.3f}"
        bar.update(task, completed=now.step, total=now.steps, loss=loss, figures=figures)

    with bar:
        yield step
