"""The recipe of a training: one YAML file that decides all of it.

Paths may hold variables, e.g. ${GEOSLAVE_DATA}. What is not said takes the value given here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoslave.errors import GeoslaveError
from geoslave.imagery.scaling import Scaling
from geoslave.labels.synthetic import Landscape
from geoslave.model.augment import Augmentation
from geoslave.model.network import Architecture
from geoslave.model.package import Publication
from geoslave.targets import TARGETS, Target, TargetError, get_target, is_target_file

RGB = ("red", "green", "blue")
_NOT_OF_THE_WEIGHTS = {"publication", "checkpoint_every", "workers"}
"""Settings that may change between the start of a training and its resumption."""


def _expanded(path: str) -> str:
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise ValueError(f"'{path}' names an environment variable that is not set")
    return expanded


Place = Annotated[str, AfterValidator(_expanded)]
"""A path; ${VARIABLES} are filled in."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledScenes(_Frozen):
    """A folder of scenes (or tiles, or chips) and where their sites are: one of `labels`, `masks`, `yolo`."""

    scenes: Place
    """A folder of rasters."""
    files: str = "*.tif"
    """Which of its files are scenes."""
    labels: Place | None = None
    """One file of outlines for all scenes."""
    masks: Place | None = None
    """A folder with a mask for each scene, of the same name and size: 0 none, 1 and up a class, 255 not known."""
    yolo: Place | None = None
    """A folder with a text file for each scene: class, then centre and size or four corners, in 0..1."""
    centre_in_name: bool = False
    """Images without a georeference, named LATITUDE_LONGITUDE of their centre (SentinelKilnDB)."""
    class_column: str = "class_name"
    """Which column of `labels` tells the class, where there are several."""
    certainty: float = 0
    """Labels less certain than this are not learned, nor is what lies there."""
    unsure: Place | None = None
    """Places with which nothing is learned: outlines in a file, or a list by scene (see `outlines.read_unsure`)."""
    region_column: str | None = None
    """Which column of `labels` names the region a scene lies in."""
    held_out: tuple[str, ...] = ()
    """Regions whose scenes are not trained on; other scenes that overlap them are blanked there."""
    leave_out: tuple[str, ...] = ()
    """Scenes (patterns of file names) that are neither trained nor validated on: the test. Others are blanked there."""
    aside: bool = False
    """These scenes are for validation by list, not for training."""
    stretched: bool = False
    """Each scene was stretched from its darkest to its brightest pixel."""
    edge_m: float = Field(default=50, ge=0)
    """Along a scene's edge sites are often unlabelled: there only labelled sites are learned."""

    @model_validator(mode="after")
    def _one_source_of_sites(self) -> LabelledScenes:
        given = [name for name in ("labels", "masks", "yolo") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of 'labels' (a file), 'masks' (a folder) or 'yolo' (a folder)")
        return self


class Backgrounds(_Frozen):
    """Chips without sites: x[n, y, x, band] uint8 in an .npz and a table with one row a chip."""

    chips: Place
    """The .npz with the pixels."""
    table: Place
    """The table (CSV or Parquet) with a row a chip, in the same order."""
    where: dict[str, int | str | bool] = {}
    """Only rows with these values, e.g. {label: 0, cloudy: false}."""
    group_column: str = "gallery"
    """Which column of the table names the group a chip belongs to."""
    held_out: tuple[str, ...] = ()
    """Groups that are not trained on."""


class _YesOrNo(_Frozen):
    """How pieces of imagery of which only a yes or no is known are learned from."""

    class_name: str | None = None
    """Which class the label speaks of. [default: the first]"""
    guess: Literal["bare_ground"] | None = None
    """Where in a chip with a site the site may lie (`labels.guess`); with it, pixels are learned too. Without it only
    the chip's score is: enough to tell chips apart, but such a network marks places that mean nothing."""
    positive_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the draws that hold a site, whatever their share in the table."""


class WeakChips(_YesOrNo, Backgrounds):
    """Chips of which is known only whether a site is somewhere in them (1) or nowhere (0)."""

    label_column: str = "label"
    """Which column of the table says 1 (a site somewhere) or 0 (none)."""


class WeakLabels(_YesOrNo):
    """Scenes, and a labels table that says yes or no about pieces of them (`labels import --format chips`)."""

    scenes: Place
    """A folder of rasters."""
    files: str = "*.tif"
    """Which of its files are scenes."""
    labels: Place
    """The labels table; rows of the kind `chip` are used, each the footprint of one answer."""
    group_column: str | None = None
    """Which column of the labels names the group an answer belongs to. [default: the scene's file name]"""
    held_out: tuple[str, ...] = ()
    """Groups that are not trained on."""


class Rendered(_Frozen):
    """Scenes drawn by `labels.synthetic`: brick kilns in red, green and blue."""

    count: int = Field(default=24, ge=0)
    """Scenes to draw."""
    size: int = Field(default=256, ge=64)
    """Side of a scene in pixels."""
    sites: int = 14
    """Kilns that are tried in each."""
    lookalikes: int = 20
    """Things in each that look like kilns and are none."""
    landscapes: tuple[Landscape, ...] = ("delta", "delta", "plain", "dry", "forest")
    """Kinds of country, taken in turn."""


class Shares(_Frozen):
    """What chips are drawn from; the numbers are made to sum to 1 over what there is."""

    site: float = Field(default=0.30, ge=0)
    """Chips of labelled scenes with a site in them."""
    scene: float = Field(default=0.12, ge=0)
    """Chips of labelled scenes from anywhere."""
    background: float = Field(default=0.33, ge=0)
    """Chips without sites (`backgrounds`)."""
    rendered: float = Field(default=0.25, ge=0)
    """Chips of rendered scenes."""
    weak: float = Field(default=0.50, ge=0)
    """Chips with a yes or no (`weak_chips` and `weak_labels`)."""


class Loss(_Frozen):
    """Weights of the parts of the loss."""

    bce: float = 1.0
    """Of binary cross entropy, pixel by pixel."""
    dice: float = 1.0
    """Of the Dice loss, which weighs sites by their number and not their area."""
    focal_gamma: float = 1.0
    """0 is plain binary cross entropy; more turns to the hard pixels."""


class Weak(_Frozen):
    """How the scores of a chip's pixels become one score of the chip, and what else is asked of them."""

    pooling: Literal["top", "lse", "power"] = "top"
    """top: mean of the highest logits; lse: log-mean-exp; power: generalised mean of the scores."""
    top_share: float = Field(default=0.05, gt=0, le=1)
    """Of 'top': share of the pixels."""
    sharpness: float = Field(default=5.0, gt=0)
    """Of 'lse' and 'power': low is near the mean, high near the maximum."""
    weight: float = 1.0
    """Of the chips' loss beside that of the pixels."""
    encoder_weight: float = Field(default=0.0, ge=0)
    """Of the answer that a head gives from the encoder's deepest features; it is there for training only."""
    size: tuple[float, float] = (0.0, 1.0)
    """Plausible share of a chip with a site that the site covers."""
    size_weight: float = 0.0
    """What it costs to leave that range."""
    sparsity: float = 0.0
    """What each chip's mean score costs."""


class Validation(_Frozen):
    """What is put aside to see how training goes, how often it is looked at, and when to stop."""

    by: Literal["none", "list", "region", "blocks"] = "none"
    """What is put aside: nothing, scenes by list, whole regions, or squares of the ground."""
    scenes: tuple[str, ...] = ()
    """By list: patterns of file names; sources marked `aside` are put aside too."""
    regions: tuple[str, ...] = ()
    """By region: names in the scenes' region column."""
    block_m: float = Field(default=2_000, gt=0)
    """By blocks: side of the squares of a fixed grid, some of which are put aside."""
    buffer_m: float = Field(default=200, ge=0)
    """By blocks: as far round them nothing is shown in training; wider than a site is long."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """By blocks: share of the squares that is put aside."""
    groups: tuple[str, ...] = ()
    """Groups of weak chips that are put aside."""
    every: int = Field(default=200, ge=1)
    """Steps from one look to the next."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many looks without a better figure; 0: never."""
    watch: Literal["f1", "average_precision", "auc"] | None = None
    """The figure that decides which weights are kept. [default: f1; auc where there are only weak chips]"""
    edge_m: float = Field(default=50, ge=0)
    """What lies so near to a scene's edge is not counted (see `detections.evaluate`)."""
    max_distance_m: float = 50
    """A detection whose middle lies so near to a site is a hit."""
    min_iou: float = 0.1
    """So is one that overlaps it so much."""
    duplicate_m: float = Field(default=35, ge=0)
    """Sites labelled so near to each other are one."""

    @model_validator(mode="after")
    def _complete(self) -> Validation:
        if self.by == "region" and not self.regions:
            raise ValueError("by: region needs 'regions'")
        return self


class Recentre(_Frozen):
    """Which score of the trained network is to become 0.5, and how much its scores are softened."""

    score: float = Field(default=0.5, gt=0, lt=1)
    """The score that becomes 0.5."""
    softness: float = Field(default=1.0, ge=1)
    """Logits are divided by it: 1 leaves scores as steep as they were trained."""


class TrainConfig(_Frozen):
    """All that decides a training."""

    name: str
    """The model's name."""
    target: str = "brick_kiln"
    """A preset of `geoslave.targets`, or the path of a target's YAML file: what sizes detections may have."""
    own_target: Target | None = None
    """The target where it is no preset; filled in from its file."""
    classes: tuple[str, ...] = ()
    """Kinds of sites to tell apart, as the labels call them. [default: one, the target]"""
    bands: tuple[str, ...] = RGB
    """Common names of the bands that the network sees, in order."""
    gsd_m: float = Field(default=10.0, gt=0)
    """Ground sampling distance in metres that scenes are brought to."""
    architecture: Architecture = Architecture()
    """What the network is built from."""
    pretrained: Literal["imagenet"] | None = None
    """Start from an encoder that has learned to see on ImageNet: `tu-tf_efficientnet_lite0`'s weights come with the
    extra 'train', those of others are fetched from the net; from scratch where they cannot be."""
    start_from: Place | None = None
    """Start from the weights of a model package of the same architecture."""
    scaling: Scaling = Scaling()
    """How pixels become the network's input, in training and in prediction."""
    scenes: tuple[LabelledScenes, ...] = ()
    """Scenes with outlines, masks or boxes."""
    backgrounds: tuple[Backgrounds, ...] = ()
    """Chips without sites."""
    weak_chips: tuple[WeakChips, ...] = ()
    """Chips with a yes or no."""
    weak_labels: tuple[WeakLabels, ...] = ()
    """Scenes with a yes or no about pieces of them."""
    rendered: Rendered | None = None
    """[default: some for brick kilns in true colour, none for anything else]"""
    shares: Shares = Shares()
    """How often chips come from each source."""
    augmentation: Augmentation = Augmentation()
    """How far training strays from the imagery as it is."""
    loss: Loss = Loss()
    """What an error costs."""
    weak: Weak = Weak()
    """How chips with a yes or no are learned from."""
    outline_m: float = Field(default=10, ge=0)
    """Within this distance outside a site's outline nothing is learned: labels are that exact."""
    gap_m: float = Field(default=0, ge=0)
    """Where two sites come nearer to each other than this, what lies between them is learned as no site, so that
    they are found as two."""
    chip: int = Field(default=48, ge=32)
    """Side of a training chip in pixels."""
    batch: int = Field(default=24, ge=1)
    """Chips that go through the network together."""
    accumulate: int = Field(default=1, ge=1)
    """Batches to a step: a larger effective batch in the memory of a small one."""
    steps: int = Field(default=1500, ge=1)
    """Steps of the optimiser."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """At its highest; it falls along a cosine."""
    weight_decay: float = 0.02
    """Of AdamW."""
    warm_up: int = 100
    """Steps in which the learning rate rises."""
    ema: float = 0.998
    """Weights are kept as a running mean; so much of it stays from one step to the next."""
    mine_at: tuple[float, ...] = (0.4, 0.7)
    """When (share of the steps) backgrounds are scored, to draw the misleading ones more often."""
    mine_count: int = 3000
    """How many backgrounds are scored each time."""
    validation: Validation = Validation()
    """What is put aside, and when to stop."""
    recentre: Recentre = Recentre()
    """Where the trained scores have their middle."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers the network is trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is trained. auto: on a GPU if there is one."""
    threads: int | None = None
    """Of the processor. [default: all cores]"""
    workers: int | None = Field(default=None, ge=0)
    """Processes that draw chips, for a network on a GPU ahead of it, else in turns with it; 0: none, chips are drawn in
    between. The chips are the same. [default: 1 beside a GPU, else one per core, at most 4]"""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps after which all is kept, so that a training that was stopped goes on."""
    seed: int = Field(default=0, ge=0)
    """The same seed and data give the same weights."""
    publication: Publication = Publication()
    """What the package says of itself; training does not look at it."""

    @model_validator(mode="before")
    @classmethod
    def _read_target(cls, given: Any) -> Any:
        """A target's file is read once, so that nothing depends on it later."""
        name = given.get("target") if isinstance(given, dict) else None
        if not isinstance(name, str) or not is_target_file(name):
            return given
        try:
            target = get_target(_expanded(name))
        except TargetError as error:
            raise ValueError(str(error)) from None
        return {**given, "target": target.name, "own_target": target}

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.own_target is not None and self.own_target.name != self.target:
            raise ValueError(f"target '{self.target}' is not the one of 'own_target', {self.own_target.name}")
        if self.own_target is None and self.target not in TARGETS:
            raise ValueError(
                f"target '{self.target}' is none of {', '.join(TARGETS)}: take the one of the nearest size, or give "
                "your own as a .yaml file"
            )
        if self.validation.by == "list" and not (self.validation.scenes or any(s.aside for s in self.scenes)):
            raise ValueError(
                "validation by list needs 'scenes' (patterns of file names) or a source with 'aside: true'"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        if self.rendered and self.rendered.count and not self._can_render():
            raise ValueError("rendered scenes show brick kilns in red, green, blue, of one class: leave out 'rendered'")
        if self.pretrained and self.start_from:
            raise ValueError("give either 'pretrained' or 'start_from'")
        multiple = max(1, 2**self.architecture.encoder_depth // self.architecture.upsample)
        if self.chip % multiple:
            raise ValueError(f"chip {self.chip} must be a multiple of {multiple} for this architecture")
        return self

    @property
    def sought(self) -> Target:
        """What is to be found."""
        return self.own_target or get_target(self.target)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each output of the network."""
        return self.classes or (self.target,)

    @property
    def scenes_to_render(self) -> Rendered:
        """The rendered scenes, those by default included."""
        return self.rendered or Rendered(count=24 if self._can_render() else 0)

    def digest(self) -> str:
        """SHA-256 of all that decides the weights (the contents of data files are not looked at)."""
        left_out: dict[str, Any] = dict.fromkeys(_NOT_OF_THE_WEIGHTS, True)
        if self.own_target is None:
            left_out["own_target"] = True
        if not self.weak.encoder_weight:  # as it was before there was this setting
            left_out["weak"] = {"encoder_weight"}
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()

    def _can_render(self) -> bool:
        return self.target == "brick_kiln" and self.bands == RGB and len(self.classes) < 2


def load_config(path: Path) -> TrainConfig:
    """Read a configuration (YAML).

    Raises:
        GeoslaveError: naming the first setting that is wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise GeoslaveError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}): mend it") from error
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise GeoslaveError(f"{path}: {where}: {first['msg']}; change it and run again") from error
