"""`geoslave train`."""

from __future__ import annotations

from pathlib import Path

import click

from geoslave.cli.common import PATH, answer, example, json_option, overwrite_option, progress


@click.command("train", epilog=example("geoslave train configs/kiln-s2.yaml --out models/kiln-s2"))
@click.argument("config", type=PATH)
@click.option("--out", type=PATH, help="The model's folder. [default: models/NAME]")
@overwrite_option
@json_option
def command(config: Path, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Train a model as CONFIG (YAML) says and write it as a package.

    Paths in the configuration may hold variables, e.g. ${GEOSLAVE_DATA}. Needs the extra 'train'.
    """
    from geoslave.errors import MissingExtra

    try:
        import segmentation_models_pytorch  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("geoslave train", "train") from None
    from geoslave.model.package import check_folder
    from geoslave.model.publish import publish
    from geoslave.model.train import load_config, train

    settings = load_config(config)
    folder = out or Path("models") / settings.name
    check_folder(folder, overwrite)
    with progress(as_json) as step:
        result = train(settings, lambda done, total, loss: step("training", done, total))
    publish(result, folder, overwrite=overwrite)
    loss = sum(result.losses[-50:]) / len(result.losses[-50:])
    facts = {"out": str(folder), "steps": len(result.losses), "seconds": round(result.seconds, 1), "loss": loss}
    lines = [
        f"{settings.name}: {facts['steps']} steps in {result.seconds / 60:.1f} minutes, loss {loss:.3f}  ->  {folder}",
        f"Next: measure it:  geoslave evaluate {folder} --scenes SCENES --labels SITES",
    ]
    answer(as_json, facts, lines)
