"""Labels that speak about images, in pixels or shares of them: YOLO, DOTA, COCO, Label Studio, chip tables.

Each reader gives `Annotation`s; where their images lie is found elsewhere (geoslave.labels.images).

Sources of the formats: Ultralytics' documentation for YOLO boxes (class, centre x, centre y, width,
height), oriented boxes (class and four corners) and segments, all as shares of the image; DOTA's
development kit (eight pixel coordinates, category, difficulty; header lines `imagesource:`, `gsd:`);
cocodataset.org, "Data format"; Label Studio's documentation of PolygonLabels, RectangleLabels (per
cent of the image, rotation clockwise about the upper left corner) and Choices.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import shapely
import yaml

from geoslave.errors import LabelError
from geoslave.labels.formats import lonlat_columns, read_csv
from geoslave.labels.table import Tally

Unit = Literal["pixel", "share"]

NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""Where YOLO keeps the names of classes, beside the labels or up to two folders above."""

_NOT_LABELS = {"classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "license.txt", "requirements.txt"}
_HEADER = re.compile(r"^\s*(imagesource|gsd)\s*:\s*(.*)$", re.IGNORECASE)
_CHIP = ("chip", "image", "image_name", "image_id", "file", "filename", "file_name", "patch", "patch_id", "tile")
_ANSWER = ("presence", "answer", "label", "present", "class", "choice", "positive", "has_site", "class_name")
_FARTHEST = 1.5  # a box may hang over its image's edge, but not by so much

YES = {"yes", "y", "true", "t", "1", "1.0", "present", "positive", "site"}
NO = {"no", "n", "false", "f", "0", "0.0", "absent", "negative", "none", "empty", "background", "nothing"}
UNSURE = {"unsure", "maybe", "unclear", "unknown", "uncertain", "not sure", "don't know", "?", "0.5"}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One label of one image."""

    image: str
    """The image's name as the labels give it."""
    outline: shapely.Geometry | None
    """x to the right, y downward from the image's upper left corner; None answers for the whole image."""
    unit: Unit = "share"
    """Pixels, or shares of width and height."""
    class_name: str | None = None
    class_id: int | None = None
    certainty: float = 1.0
    presence: str = "yes"
    size: tuple[int, int] | None = None
    """Height and width of the image that was labelled, where the labels tell."""
    lonlat: tuple[float, float] | None = None
    """Centre of the image, where the labels tell."""
    gsd_m: float | None = None
    labeller: str = ""
    """Keeps apart who drew on one image; never written."""
    besides: str | None = None
    """The folder the label file stood in."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the labels' own."""


@dataclass(slots=True)
class Annotations:
    """What a source says."""

    items: list[Annotation] = field(default_factory=list)
    empty: list[Annotation] = field(default_factory=list)
    """Images that were looked at and hold nothing: as answers `no` for the whole image."""


# --- text files: YOLO and DOTA


def text_files(source: Path) -> list[Path]:
    """The label files of a folder and its subfolders, or the one file."""
    if source.is_file():
        return [source]
    return [path for path in sorted(source.rglob("*.txt")) if path.name.lower() not in _NOT_LABELS]


def text_format(files: Iterable[Path]) -> str | None:
    """`yolo` or `dota`, after the first line that is neither empty nor a header; None where all are empty."""
    for path in files:
        for line in _lines(path):
            if _HEADER.match(line):
                return "dota"
            parts = line.split()
            if parts:
                wide = len(parts) in (9, 10) and any(_number(p) is None for p in parts[8:9])
                far = len(parts) in (9, 10) and any(abs(_number(p) or 0) > _FARTHEST for p in parts[1:8])
                return "dota" if wide or far else "yolo"
    return None


def read_yolo(source: Path, tally: Tally, classes: Sequence[str] = ()) -> Annotations:
    """YOLO text: boxes, oriented boxes and segments; a further last value is a confidence.

    Args:
        classes: names in order of the ids; found beside the labels where not given (`NAME_FILES`).

    Raises:
        LabelError: naming file and line of what cannot be read, or an id beyond the classes.
    """
    names = dict(enumerate(classes)) if len(classes) > 1 else _class_names(source)
    read = Annotations()
    for path in text_files(source):
        found = []
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            class_id, corners, confidence = _yolo_line(line, where)
            if names and class_id not in names:
                raise LabelError(
                    f"{where}: class {class_id} is beyond the {len(names)} classes ({', '.join(names.values())}); "
                    "mend the line or the list of classes"
                )
            found.append(
                Annotation(
                    path.name,
                    shapely.Polygon(corners),
                    class_name=names.get(class_id),
                    class_id=class_id,
                    certainty=confidence,
                    besides=path.parent.name,
                )
            )
        tally.n_read += len(found)
        read.items.extend(found)
        if not found:
            read.empty.append(Annotation(path.name, None, presence="no", besides=path.parent.name))
    if not names and read.items and not classes:
        tally.note("no list of classes (classes.txt, data.yaml): ids are kept in class_id; name them with --class")
    return read


def _yolo_line(line: str, where: str) -> tuple[int, np.ndarray, float]:
    """Class, corners [n, 2] as shares, confidence."""
    parts = line.split()
    values = [_number(part) for part in parts]
    odd = next((part for part, value in zip(parts, values, strict=True) if value is None), None)
    if odd is not None:
        raise LabelError(f"{where}: '{odd}' is no number; a YOLO line is a class and its coordinates")
    numbers = [value for value in values if value is not None]
    confidence = 1.0
    if len(numbers) in (6, 10):
        confidence = numbers.pop()
    if len(numbers) not in (5, 9) and (len(numbers) < 7 or len(numbers) % 2 == 0):
        raise LabelError(
            f"{where}: has {len(parts)} values; a YOLO line has 5 (class, centre, width, height), 9 (class, four "
            "corners) or a class and the corners of an outline"
        )
    class_id = int(numbers[0])
    if class_id != numbers[0] or class_id < 0 or not 0 <= confidence <= 1:
        raise LabelError(f"{where}: '{line.strip()}' has no whole class number or a confidence beyond 0..1")
    shares = np.array(numbers[1:])
    if np.abs(shares - 0.5).max() > _FARTHEST:
        raise LabelError(
            f"{where}: {shares[np.abs(shares - 0.5).argmax()]:g} is no share of the image (0..1); "
            "YOLO coordinates are divided by width and height"
        )
    if len(shares) > 4:
        return class_id, shares.reshape(-1, 2), confidence
    x, y, width, height = shares
    if width <= 0 or height <= 0:
        raise LabelError(f"{where}: a box of {width:g} by {height:g} has no area")
    corners = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]
    return class_id, np.array(corners) * (width, height) + (x, y), confidence


def _class_names(source: Path) -> dict[int, str]:
    """Names by id from a list beside the labels or up to two folders above; empty where there is none."""
    folder = source if source.is_dir() else source.parent
    for place in (folder, *list(folder.absolute().parents)[:2]):
        for name in NAME_FILES:
            if (place / name).is_file():
                return _name_list(place / name)
    return {}


def _name_list(path: Path) -> dict[int, str]:
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(line.strip() for line in _lines(path) if line.strip()))
    try:
        names: Any = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("names")
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LabelError(f"{path.name}: no list of class names ({reason}); write  names: [first, second]") from error


def read_dota(source: Path, tally: Tally) -> Annotations:
    """DOTA text: eight pixel coordinates, category, difficulty.

    Raises:
        LabelError: naming file and line of what cannot be read.
    """
    read = Annotations()
    for path in text_files(source):
        gsd, found = None, []
        for number, line in enumerate(_lines(path), start=1):
            header = _HEADER.match(line)
            if header:
                gsd = _number(header[2].strip()) if header[1].lower() == "gsd" else gsd
            elif line.strip():
                found.append(_dota_line(line, f"{path.name}, line {number}", path, gsd))
        tally.n_read += len(found)
        read.items.extend(found)
        if not found:
            read.empty.append(Annotation(path.name, None, presence="no", besides=path.parent.name, gsd_m=gsd))
    return read


def _dota_line(line: str, where: str, path: Path, gsd: float | None) -> Annotation:
    parts = line.split()
    values = [_number(part) for part in parts[:8]]
    if len(parts) not in (9, 10) or any(value is None for value in values):
        raise LabelError(f"{where}: '{line.strip()}' is not  x1 y1 x2 y2 x3 y3 x4 y4 category difficulty")
    corners = np.array(values, float).reshape(4, 2)
    more = {"difficult": int(_number(parts[9]) or 0)} if len(parts) == 10 else {}
    return Annotation(
        path.name, shapely.Polygon(corners), "pixel", parts[8], gsd_m=gsd, besides=path.parent.name, more=more
    )


# --- JSON: COCO and Label Studio


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        LabelError: naming the line that cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise LabelError(
            f"{path.name}, line {error.lineno}, column {error.colno}: {error.msg}; is the file whole?"
        ) from error
    except (UnicodeDecodeError, OSError, RecursionError) as error:
        raise LabelError(f"{path.name}: cannot be read as JSON ({error})") from error


def json_format(content: Any) -> str | None:
    """`coco`, `labelstudio`, `vector` (GeoJSON), or None."""
    if isinstance(content, dict):
        if "type" in content and ("features" in content or "geometry" in content or "coordinates" in content):
            return "vector"
        return "coco" if "images" in content and "annotations" in content else None
    tasks = [task for task in content if isinstance(task, dict)] if isinstance(content, list) else []
    return "labelstudio" if tasks and ("annotations" in tasks[0] or "completions" in tasks[0]) else None


def read_coco(path: Path, content: Mapping[str, Any], tally: Tally) -> Annotations:
    """COCO: polygons, else boxes. Run-length masks are left out and counted.

    Raises:
        LabelError: naming the annotation that cannot be read.
    """
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        images = {entry["id"]: entry for entry in content["images"]}
        names = {key: str(entry["file_name"]) for key, entry in images.items()}
    except (KeyError, TypeError) as error:
        raise LabelError(f"{path.name}: images or categories without {error}; export it as COCO again") from error
    read, seen = Annotations(), set()
    for number, entry in enumerate(content["annotations"]):
        tally.n_read += 1
        where = f"{path.name}, annotation {entry.get('id', number) if isinstance(entry, dict) else number}"
        try:
            image, category = entry["image_id"], entry["category_id"]
            if image not in images:
                raise LabelError(f"{where}: speaks of image {image}, which is not in the list of images")
            if category not in categories:
                raise LabelError(
                    f"{where}: category {category} is beyond the {len(categories)} categories "
                    f"({', '.join(categories.values())})"
                )
            seen.add(image)
            outline = _coco_outline(entry, tally)
        except (KeyError, TypeError, ValueError) as error:
            raise LabelError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
        if outline is None:
            continue
        score = entry.get("score")
        read.items.append(
            Annotation(
                names[image],
                outline,
                "pixel",
                categories[category],
                certainty=1.0 if score is None else float(score),
                size=_size(images[image]),
            )
        )
    for key in images:
        if key not in seen:
            read.empty.append(Annotation(names[key], None, presence="no", size=_size(images[key])))
    return read


def _coco_outline(entry: Mapping[str, Any], tally: Tally) -> shapely.Geometry | None:
    segments = entry.get("segmentation")
    if isinstance(segments, dict):
        tally.leave_out("run-length masks (RLE; export them as polygons)", 1)
        return None
    if segments:
        areas = [area for area in (_polygon(np.array(segment, float).reshape(-1, 2)) for segment in segments) if area]
        if areas:
            return areas[0] if len(areas) == 1 else shapely.MultiPolygon(areas)
    if entry.get("bbox") is None:
        tally.leave_out("annotations without an outline and without a box", 1)
        return None
    x, y, width, height = (float(value) for value in entry["bbox"])
    return _polygon(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]))


def read_labelstudio(path: Path, content: Sequence[Any], tally: Tally, yes: Iterable[str] = ()) -> Annotations:
    """Label Studio's JSON export: polygons and (rotated) rectangles; choices answer for the whole image.

    Args:
        yes: choices that mean that a site is there, besides `YES`.

    Raises:
        LabelError: naming the task that cannot be read.
    """
    read = Annotations()
    for number, task in enumerate(content, start=1):
        where = f"{path.name}, task {task.get('id', number) if isinstance(task, dict) else number}"
        try:
            _read_task(task, where, read, tally, yes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelError(
                f"{where}: cannot be read ({type(error).__name__}: {error}); export the project as JSON (not JSON-MIN)"
            ) from error
    return read


def _read_task(task: Mapping[str, Any], where: str, read: Annotations, tally: Tally, yes: Iterable[str]) -> None:
    data = task["data"]
    image = _task_image(data, where, task)
    lonlat = _lonlat(data)
    for answer in task.get("annotations", task.get("completions")) or ():
        if answer.get("was_cancelled"):
            tally.leave_out("tasks that were skipped", 1)
            continue
        results = answer.get("result") or ()
        labeller = str(answer.get("id", ""))
        common: dict[str, Any] = {"lonlat": lonlat, "labeller": labeller, "more": _dated(data)}
        if not results:
            read.empty.append(Annotation(image, None, presence="no", **common))
        for result in results:
            tally.n_read += 1
            found = _region(result, image, common, tally, yes)
            if found is not None:
                read.items.append(found)


def _region(
    result: Mapping[str, Any], image: str, common: dict[str, Any], tally: Tally, yes: Iterable[str]
) -> Annotation | None:
    kind, value = result.get("type"), result.get("value", {})
    size = _size({"height": result.get("original_height"), "width": result.get("original_width")})
    if result.get("image_rotation"):
        tally.leave_out("labels on images that were rotated while labelling", 1)
        return None
    if kind == "choices":
        return _choice(value["choices"], image, size, common, tally, yes)
    if kind in ("polygonlabels", "polygon"):
        outline = _polygon(np.array(value["points"], float) / 100)
    elif kind in ("rectanglelabels", "rectangle"):
        outline = _rectangle(value, size)
    else:
        tally.leave_out(f"labels of the kind '{kind}' (polygons, rectangles and choices are read)", 1)
        return None
    if outline is None:
        tally.leave_out("outlines of fewer than three corners", 1)
        return None
    names = value.get(str(kind)) or [None]
    score = result.get("score")
    return Annotation(
        image, outline, class_name=names[0], certainty=1.0 if score is None else float(score), size=size, **common
    )


def _choice(
    choices: Sequence[str], image: str, size: Any, common: dict[str, Any], tally: Tally, yes: Iterable[str]
) -> Annotation | None:
    answers = {presence_of(choice, yes) for choice in choices}
    if len(answers) != 1 or None in answers:
        words = ", ".join(map(str, choices))
        tally.leave_out(f"choices that are neither yes, no nor unsure ({words})", 1)
        return None
    return Annotation(image, None, presence=str(answers.pop()), size=size, **common)


def _rectangle(value: Mapping[str, Any], size: tuple[int, int] | None) -> shapely.Polygon | None:
    """A rectangle in per cent, turned clockwise about its upper left corner, as shares.

    It is turned in pixels: in per cent of an image that is no square it would be sheared.
    """
    x, y, width, height = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
    rows, cols = size or (1, 1)
    angle = math.radians(float(value.get("rotation") or 0))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) * (cols, rows)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return _polygon(corners @ turn / (cols, rows) + (x, y))


def _task_image(data: Mapping[str, Any], where: str, task: Mapping[str, Any]) -> str:
    name = next((data[key] for key in ("image", "img", "picture", "chip") if isinstance(data.get(key), str)), None)
    name = name or task.get("file_upload") or next((v for v in data.values() if isinstance(v, str) and "." in v), None)
    if name is None:
        raise LabelError(f"{where}: names no image; its data should have 'image'")
    return str(name)


def _dated(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"date": data["date"]} if isinstance(data.get("date"), str) else {}


def _lonlat(data: Mapping[str, Any]) -> tuple[float, float] | None:
    lon, lat = (_number(str(data.get(key, ""))) for key in ("lon", "lat"))
    return (lon, lat) if lon is not None and lat is not None else None


# --- tables: an answer a chip


def chip_columns(table: pd.DataFrame, yes: Iterable[str] = ()) -> tuple[str, str] | None:
    """The columns of the chip's name and of the answer; None where the table holds no answers a chip.

    Args:
        yes: words that mean that a site is there, besides `YES`.
    """
    yes = tuple(yes)
    lower = {str(name).strip().lower(): str(name) for name in table.columns}
    chip = next((lower[name] for name in _CHIP if name in lower), None)
    answers = [lower[name] for name in _ANSWER if name in lower and lower[name] != chip]
    for answer in answers:
        words = table[answer].dropna()
        if chip and len(words) and words.map(lambda word: presence_of(word, yes) is not None).all():
            return chip, answer
    return None


def read_chip_table(path: Path, tally: Tally, yes: Iterable[str] = ()) -> Annotations:
    """A CSV with a chip's name and yes, no or unsure in each row; lon and lat of its centre may follow.

    Raises:
        LabelError: if there are no such columns, or a row's answer is not understood.
    """
    table = read_csv(path)
    lower = {str(name).strip().lower(): str(name) for name in table.columns}
    chip = next((lower[name] for name in _CHIP if name in lower), None)
    answer = (chip_columns(table, yes) or (None, None))[1]
    answer = answer or next((lower[name] for name in _ANSWER if name in lower and lower[name] != chip), None)
    if chip is None or answer is None:
        raise LabelError(
            f"{path.name}: no columns for the chip's name and its answer among {', '.join(map(str, table.columns))}; "
            "name them image and label (yes, no, unsure)"
        )
    lon, lat = lonlat_columns(table)
    read = Annotations()
    taken = {chip, answer, lon, lat, "kind", "presence"}
    for number, row in enumerate(table.to_dict("records"), start=2):
        tally.n_read += 1
        if pd.isna(row[chip]) or pd.isna(row[answer]):
            tally.leave_out("rows without a chip or an answer", 1)
            continue
        presence = presence_of(row[answer], yes)
        if presence is None:
            raise LabelError(f"{path.name}, line {number}: '{row[answer]}' is neither yes, no nor unsure")
        centre = None
        if lon and lat:
            x, y = (_number(str(row[name])) for name in (lon, lat))
            if x is not None and y is not None:
                if abs(x) > 180 or abs(y) > 90:
                    raise LabelError(f"{path.name}, line {number}: lon {x:g}, lat {y:g} is not in degrees")
                centre = (x, y)
        more = {str(key): value for key, value in row.items() if key not in taken}
        read.items.append(Annotation(str(row[chip]), None, presence=presence, lonlat=centre, more=more))
    return read


def presence_of(word: Any, yes: Iterable[str] = ()) -> str | None:
    """`yes`, `no` or `unsure` for what people write; None where it is something else."""
    text = _plain(str(word))
    if text in YES or text in {_plain(name) for name in yes}:
        return "yes"
    if text in NO or text in {f"no {_plain(name)}" for name in yes}:
        return "no"
    return "unsure" if text in UNSURE else None


# --- small things


def _polygon(corners: np.ndarray) -> shapely.Polygon | None:
    """An outline of corners [n, 2], None of fewer than three."""
    if not np.isfinite(corners).all():
        raise ValueError("a coordinate is no number")
    return shapely.Polygon(corners) if len(corners) >= 3 else None


def _plain(text: str) -> str:
    return text.strip().lower().replace("_", " ")


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    return (int(height), int(width)) if height and width else None


def _number(text: str) -> float | None:
    """A finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise LabelError(f"{path.name}: cannot be read as text ({error}); is it a label file?") from error
