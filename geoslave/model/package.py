"""The model package: a folder that says all there is to know about a model.

    <name>/
      model.json          a STAC item with Machine Learning Model fields (MLM v1.5), and `geoslave:spec`
      model.safetensors   the weights (never pickle)
      model.onnx          the same network as a graph, with scores in [0, 1] as output
      README.md           the card: intended use, data, licence, figures, limits
      gate.onnx           optional: a light network that says where the other need look (see `model.gate`)

`model.json` carries the hash of each of these networks; a file that does not match is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from geoslave import __version__
from geoslave.errors import ModelError
from geoslave.imagery.scaling import Scaling
from geoslave.model.calibrate import Calibration
from geoslave.model.card import RELIABILITY_PICTURE, card_with_calibration
from geoslave.model.deepness import add_metadata, deepness_metadata
from geoslave.model.gate import GATE_FILE, GateSpec, gate_faults
from geoslave.model.mlm import SHA256_MULTIHASH, sha256, stac_item
from geoslave.targets import TARGETS, Target, get_target

if TYPE_CHECKING:
    from torch import nn

FORMAT = 3
"""Version of `geoslave:spec`; a package of a later format is refused, not guessed at. 2: a calibration. 3: a gate."""
FILES = ("model.json", "model.safetensors", "model.onnx", "README.md", GATE_FILE)
PICTURES = (".png", ".jpg")
"""Endings of the pictures a card may show; they lie beside it."""
EMBEDDER = "embedder.json"
"""Describes a folder that holds an encoder for searches (`geoslave.search.embedder`), and no model."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Thresholds(_Frozen):
    """Hysteresis: a site needs a pixel of at least `high` and reaches as far as scores of at least `low`."""

    high: float = Field(gt=0, lt=1)
    """A site has a pixel of at least this score."""
    low: float = Field(gt=0, lt=1)
    """Its outline goes as far as scores of at least this."""

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        return self


class Confidence(_Frozen):
    """How a detection's confidence is made from its scores.

    Without coefficients the confidence is the statistic itself: it ranks detections but is no
    probability. With coefficients it is 1 / (1 + exp(-(intercept + slope * logit(statistic)))),
    fitted on detections held out from training: then `calibrated` may be true. A `calibration`
    (geoslave calibrate) makes a probability of that, of size and of shape.
    """

    statistic: Literal["score_max", "score_mean"] = "score_max"
    """Which of a detection's scores it is made from."""
    intercept: float | None = None
    """Of the logistic curve; null: the statistic as it is."""
    slope: float | None = None
    """Of the logistic curve."""
    calibrated: bool = False
    """Whether it is a probability."""
    source: str = "not calibrated"
    """Which held-out data it was calibrated on."""
    operating: float = Field(default=0.5, ge=0, le=1)
    """Detections of at least this confidence are the map; those below are kept for review. Calibrating
    moves it along, so that the map keeps its detections."""
    calibration: Calibration | None = None
    """What `geoslave calibrate` writes; nobody writes it by hand."""

    @property
    def meaning(self) -> str:
        """In words, for provenance and the card."""
        if self.calibrated:
            return f"probability that the detection is a site, {self.source}"
        what = "highest" if self.statistic == "score_max" else "mean"
        return f"{self.source}: made from the detection's {what} score, good for ranking, no probability"

    def apply(
        self,
        score_mean: NDArray[np.float64],
        score_max: NDArray[np.float64],
        area_m2: NDArray[np.float64] | None = None,
        elongation: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Confidence in [0, 1] of detections [n].

        Args:
            score_mean, score_max: of the detection's pixels.
            area_m2, elongation: of its outline, elongation as length / width; only a calibration
                needs them, and takes a typical site's where they are missing.
        """
        before = self.before_calibration(score_mean, score_max)
        if self.calibration is None:
            return before
        return self.calibration.apply(before, score_mean, area_m2, elongation)

    def interval(
        self,
        score_mean: NDArray[np.float64],
        score_max: NDArray[np.float64],
        area_m2: NDArray[np.float64],
        elongation: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """95 % limits [n] of the confidence: how far the verdicts leave it open; None without a calibration."""
        if self.calibration is None:
            return None
        return self.calibration.interval(
            self.before_calibration(score_mean, score_max), score_mean, area_m2, elongation
        )

    def before_calibration(
        self, score_mean: NDArray[np.float64], score_max: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The confidence that a calibration starts from."""
        statistic = np.asarray(score_max if self.statistic == "score_max" else score_mean, np.float64)
        if self.slope is None or self.intercept is None:
            return statistic
        inside = np.clip(statistic, 1e-4, 1 - 1e-4)
        logit = np.log(inside / (1 - inside))
        return 1 / (1 + np.exp(-(self.intercept + self.slope * logit)))


class ModelSpec(_Frozen):
    """What a model needs from a scene, and what its scores mean."""

    format: int = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    title: str
    target: str
    """The kind of site: a preset of `geoslave.targets`, or `own_target`'s name."""
    own_target: Target | None = None
    """A target that is no preset travels with the model."""
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    """Common names (red, green, blue, nir, ...), in the order the network takes them."""
    gsd_m: float = Field(gt=0)
    scaling: Scaling
    tile: int = Field(gt=0)
    """Core of a chip in pixels: what one call of the network answers for."""
    halo: int = Field(ge=0)
    """Pixels looked at around the core, so that scores do not depend on where chips fall."""
    stride: int = Field(gt=0)
    """Chips start at multiples of it, and their sides are multiples of it."""
    thresholds: Thresholds
    confidence: Confidence = Confidence()
    architecture: dict[str, Any]
    licence: str
    """SPDX id (or sentence) for the weights."""
    data: str
    """What it was trained on, with the licences of imagery and labels."""
    metrics: dict[str, Any] = {}
    created: date | None = None
    started_from: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the weights had learned from before they were trained; None: nothing."""
    gate: GateSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """A light network that says where this one need look."""

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSpec:
        if self.own_target is not None and self.own_target.name != self.target:
            raise ValueError(f"target '{self.target}' is not the one it describes, '{self.own_target.name}'")
        if self.own_target is None and self.target not in TARGETS:
            raise ValueError(f"target '{self.target}' is none of {', '.join(TARGETS)}")
        if self.tile % self.stride or self.halo % self.stride:
            raise ValueError(f"tile {self.tile} and halo {self.halo} must be multiples of the stride {self.stride}")
        if told := gate_faults(self):
            raise ValueError("; ".join(told))
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Packages of presets stay readable to earlier versions."""
        plain: dict[str, Any] = write(self)
        return {name: value for name, value in plain.items() if name != "own_target" or value is not None}

    @property
    def sought(self) -> Target:
        """What the model looks for."""
        return self.own_target or get_target(self.target)

    def likeness(self) -> str:
        """SHA-256 of what packages of one recipe have in common: all that a detection's scores rest on but the weights.

        A cross-validation's networks have the likeness of the model trained on all regions.
        """
        told = {"target", "own_target", "classes", "bands", "gsd_m", "scaling", "thresholds", "architecture"}
        alike = self.model_dump(mode="json", include=told)
        alike["confidence"] = self.confidence.model_dump(mode="json", include={"statistic", "intercept", "slope"})
        return hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()


class Publication(_Frozen):
    """What a package says beyond what training knows. A section of the training configuration."""

    version: str = "0.1.0"
    """Of the model."""
    title: str = "a model"
    """What it finds, in which imagery."""
    licence: str = "not stated"
    """Of the weights: an SPDX id, or a sentence."""
    data: str = "not stated"
    """What it was trained on, with the licences of imagery and labels."""
    thresholds: Thresholds = Thresholds(high=0.3, low=0.15)
    """Scores that make a detection."""
    confidence: Confidence = Confidence()
    """How a detection's confidence is made from its scores."""
    metrics: dict[str, Any] = {}
    """Figures measured elsewhere (cross-validation), kept in the package."""
    card: str = ""
    """Markdown that follows the facts on the card: use, figures, limits."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model folder that was opened and checked."""

    folder: Path
    spec: ModelSpec
    checksum: str
    """SHA-256 of model.onnx: the identity of the model in provenance."""

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def model_id(self) -> str:
        """Name, version and the first digits of the hash, e.g. `kiln-s2@1.0.0+3fa91c02`."""
        return f"{self.spec.name}@{self.spec.version}+{self.checksum[:8]}"


def user_folder() -> Path:
    """Where `geoslave models add` puts models: GEOSLAVE_MODELS, else ~/.local/share/geoslave/models (XDG_DATA_HOME)."""
    if own := os.environ.get("GEOSLAVE_MODELS"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "geoslave" / "models"


def model_folders() -> tuple[Path, ...]:
    """Where models are looked for by name: the user's folder, then those that ship with geoslave."""
    package = Path(__file__).resolve().parent.parent
    return user_folder(), package / "_models", package.parent / "data" / "models"


def list_packages() -> Iterator[Path]:
    """Folders of the models that can be used by name; the first of a name wins."""
    seen: set[str] = set()
    for folder in model_folders():
        for path in sorted(folder.glob("*/model.json")):
            if path.parent.name not in seen:
                seen.add(path.parent.name)
                yield path.parent


def open_package(name_or_folder: str | Path, *, verify: bool = True) -> ModelPackage:
    """Open a model by name or folder and check that its files are what it says.

    Raises:
        ModelError: if it is not there, not valid, of a later format, or its files were changed.
    """
    folder = _find(name_or_folder)
    item = _read_item(folder)
    spec = _read_spec(folder, item)
    checksums = {key: _recorded_hash(folder, item, key) for key in ("weights", "onnx")}
    package = ModelPackage(folder, spec, checksums["onnx"])
    if verify:
        for path, key in ((package.onnx, "onnx"), (package.weights, "weights")):
            _verify(path, checksums[key])
        if spec.gate is not None:
            _verify(folder / GATE_FILE, spec.gate.sha256)
    return package


def write_package(folder: Path, spec: ModelSpec, network: nn.Module, card: str, *, overwrite: bool = False) -> Path:
    """Write a package from a trained network: all files, or none.

    Args:
        folder: becomes the package; its name should be the model's.
        network: gives logits [batch, class, y, x] for float32 [batch, band, y, x].
        card: the model card, Markdown.
    """
    from safetensors.torch import save_file

    from geoslave.model.network import export_onnx

    check_folder(folder, overwrite)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    network = network.eval()
    with TemporaryDirectory(prefix=".geoslave-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, draft / "model.safetensors")
        export_onnx(network, len(spec.bands), draft / "model.onnx")
        add_metadata(draft / "model.onnx", _deepness(spec))
        describe(draft, spec, parameters=sum(p.numel() for p in network.parameters()))
        (draft / "README.md").write_text(card, encoding="utf-8")
        put_in_place(draft, folder)
    return folder


def recalibrate(
    package: ModelPackage,
    folder: Path,
    confidence: Confidence,
    version: str,
    picture: bytes | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a package again with another confidence, and a section "Calibration" on its card: whole, or not at all.

    Args:
        folder: becomes the new package; may be the old one's with `overwrite`.
        picture: a reliability plot (PNG) for the card.

    Raises:
        ModelError: if `folder` exists and `overwrite` is false, or holds anything but a package.
    """
    check_folder(folder, overwrite)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    spec = package.spec.model_copy(update={"confidence": confidence, "version": version, "format": FORMAT})
    with TemporaryDirectory(prefix=".geoslave-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        copy_package_files(package.folder, draft)
        if picture is not None:
            (draft / RELIABILITY_PICTURE).write_bytes(picture)
        describe(draft, spec)
        card = draft / "README.md"
        before = card.read_text(encoding="utf-8") if card.is_file() else f"# {spec.name}\n"
        card.write_text(card_with_calibration(before, spec, picture=picture is not None), encoding="utf-8")
        put_in_place(draft, folder)
    return folder


def copy_package_files(source: Path, folder: Path) -> None:
    """Copy what belongs to a package, and nothing else, into a new folder."""
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and (path.name in FILES or path.suffix.lower() in PICTURES):
            shutil.copyfile(path, folder / path.name)


def put_in_place(draft: Path, folder: Path) -> None:
    """Make a finished draft (inside a scratch folder) the package; one that is there goes with the scratch folder."""
    for file in draft.iterdir():
        file.chmod(0o644)
    if folder.exists():
        folder.replace(draft.parent / "replaced")
    draft.replace(folder)


def check_folder(folder: Path, overwrite: bool) -> None:
    """Make sure, before hours of training, that a package can be written to `folder`.

    Raises:
        ModelError: if it is there already and `overwrite` is false, or holds anything but a package.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or any(
        path.name not in FILES and path.suffix.lower() not in PICTURES for path in folder.iterdir()
    ):
        raise ModelError(f"{folder} exists and holds other things than a model: choose another folder")
    if any(folder.iterdir()) and not overwrite:
        raise ModelError(f"{folder} exists: choose another folder or ask for --overwrite")


def describe(folder: Path, spec: ModelSpec, parameters: int | None = None) -> None:
    """Write model.json for the weight files in `folder`; also used when only the description changes."""
    if parameters is None:
        parameters = _read_item(folder)["properties"]["mlm:total_parameters"]
    text = json.dumps(stac_item(folder, spec, parameters), indent=2, ensure_ascii=False)
    draft = folder / ".model.json.tmp"
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(folder / "model.json")


def _find(name_or_folder: str | Path) -> Path:
    asked = Path(name_or_folder)
    if (asked / "model.json").is_file():
        return asked
    for folder in model_folders():
        if len(asked.parts) == 1 and (folder / asked / "model.json").is_file():
            return folder / asked
        if len(asked.parts) == 1 and (folder / asked / EMBEDDER).is_file():
            raise ModelError(
                f"'{asked}' is an embedder: it sees chips for  geoslave search index --embedder {asked}  and finds no "
                "sites by itself; models that do:  geoslave models list"
            )
    names = ", ".join(path.name for path in list_packages()) or "none"
    if asked.exists():
        raise ModelError(f"{asked} is no model package: it holds no model.json; models known by name: {names}")
    raise ModelError(
        f"no model '{name_or_folder}': it is neither a folder nor one of the known models ({names}); "
        "see  geoslave models list"
    )


def _read_item(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(item["properties"], dict):
            raise TypeError("its 'properties' is no object")
        return item
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read as a model description ({error}): fetch the model again") from error


def _read_spec(folder: Path, item: dict[str, Any]) -> ModelSpec:
    raw = item["properties"].get("geoslave:spec")
    if not isinstance(raw, dict):
        raise ModelError(f"{folder / 'model.json'} has no 'geoslave:spec': it was not written by geoslave")
    if not isinstance(raw.get("format", FORMAT), int) or raw.get("format", FORMAT) > FORMAT:
        raise ModelError(
            f"{folder} was made by geoslave {item['properties'].get('geoslave:version', '?')}, newer than this "
            f"{__version__} (format {raw['format']}, this one reads {FORMAT}): update geoslave"
        )
    try:
        return ModelSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        raise ModelError(f"{folder / 'model.json'} is not valid: {where}: {first['msg']}") from error


def _recorded_hash(folder: Path, item: dict[str, Any], key: str) -> str:
    try:
        recorded = item["assets"][key]["file:checksum"]
    except (KeyError, TypeError):
        raise ModelError(f"{folder / 'model.json'} records no hash for '{key}': fetch the model again") from None
    return str(recorded).removeprefix(SHA256_MULTIHASH)


def _verify(path: Path, recorded: str) -> None:
    if not path.is_file():
        raise ModelError(f"{path} is missing: fetch the model again")
    if sha256(path) != recorded:
        raise ModelError(f"{path} is not the file its model.json describes (hash differs): fetch the model again")


def _deepness(spec: ModelSpec) -> dict[str, str]:
    return deepness_metadata(
        classes=spec.classes,
        bands=spec.bands,
        gsd_m=spec.gsd_m,
        tile=spec.tile,
        halo=spec.halo,
        threshold=spec.thresholds.high,
        scaling=spec.scaling,
    )
