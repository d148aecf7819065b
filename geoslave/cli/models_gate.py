"""`geoslave models gate`."""

from __future__ import annotations

from pathlib import Path

import click

from geoslave.cli.common import PATH, answer, example, json_option, overwrite_option, progress


@click.command("gate", epilog=example("geoslave models gate configs/kiln-s2-gate.yaml --out models/kiln-s2"))
@click.argument("config", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder of the package with the gate.")
@overwrite_option
@json_option
def gate_model(config: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Train a gate for a model as CONFIG (YAML) says and write the model's package again, with it.

    A gate is a light network that says where the model need look: sites are rare. It learns from what the
    model itself finds; its threshold is chosen on scenes put aside, so that the share of sites asked for is kept.
    The model's weights stay as they are. Needs the extra 'train'.
    """
    from geoslave.errors import MissingExtra

    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("geoslave models gate", "train") from None
    from geoslave.model.distill import load_gate_config, train_gate, write_gated
    from geoslave.model.package import check_folder, open_package
    from geoslave.model.predict import OnnxNetwork

    settings = load_gate_config(config)
    check_folder(out, overwrite)
    package = open_package(settings.model)
    with progress(as_json) as step:
        result = train_gate(settings, package, OnnxNetwork(package, settings.threads), step)
    write_gated(package, result, settings, out, overwrite=overwrite)
    metrics = result.metrics()
    facts = {"out": str(out), "threshold": result.threshold, "recall": settings.recall, **metrics}
    lines = [
        f"threshold {result.threshold:.4g} keeps {metrics['validation_recall']:.1%} of the"
        f" {metrics['validation_sites']} sites it was chosen on  ->  {out}",
        f"  on others: {metrics['test_recall']:.1%} of {metrics['test_sites']};"
        f" {metrics['test_opened_of_backgrounds']:.2%} of the backgrounds is looked at closely",
        f"Next: compare on a scene of yours:  geoslave detect SCENE --model {out}, with and without --no-gate",
    ]
    answer(as_json, facts, lines)
