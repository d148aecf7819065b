"""The models at hand: taking one in from elsewhere, and checking one through."""

from __future__ import annotations

import json
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeGuard

import numpy as np

from geoslave.errors import MissingExtra, ModelError
from geoslave.model.fetch import LARGEST_PACKAGE, Step, fetch_package, is_address
from geoslave.model.gate import GATE_FILE, OnnxGate
from geoslave.model.mlm import faults
from geoslave.model.package import (
    FILES,
    PICTURES,
    ModelPackage,
    check_folder,
    copy_package_files,
    open_package,
    put_in_place,
    user_folder,
)
from geoslave.model.predict import TOLERANCE, OnnxNetwork, TorchNetwork

_PACKAGES_FIT = "give a folder or .zip that holds model.json, model.safetensors, model.onnx and README.md"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    passed: bool | None
    """None: it could not be checked here."""
    detail: str


def add_package(source: Path | str, *, overwrite: bool = False, step: Step = lambda *_: None) -> ModelPackage:
    """Take a package in: checked first, then copied whole into the user's folder of models.

    Only what belongs to a package is taken (FILES and pictures), never a pickle. Nothing outside the
    scratch folder is written before hashes, description and network have been checked.

    Args:
        source: a folder, a .zip with the package at its root or in one folder, or the https:// address of one.
        step: told of what is fetched from the net.

    Raises:
        ModelError: if it is no package, holds other things, was changed, cannot be fetched, or is there already.
    """
    home = user_folder()
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".geoslave-", dir=home) as scratch:
        draft = Path(scratch) / "draft"
        place = fetch_package(source, Path(scratch), step) if _is_on_the_net(source) else Path(source)
        try:
            _lay_out(place, draft)
            package = _opened(draft, place)
        except ModelError as error:
            raise ModelError(str(error).replace(str(place), str(source))) from error
        folder = home / package.spec.name
        check_folder(folder, overwrite)
        put_in_place(draft, folder)
    return open_package(folder)


def _is_on_the_net(source: Path | str) -> TypeGuard[str]:
    return isinstance(source, str) and is_address(source)


def _lay_out(source: Path, draft: Path) -> None:
    """The files of a package in a new folder, whatever they came in."""
    if source.is_dir():
        _refuse_strangers(source, [path.name for path in source.iterdir()])
        copy_package_files(source, draft)
    elif source.is_file() and zipfile.is_zipfile(source):
        _unpack(source, draft)
    elif not source.exists():
        raise ModelError(f"{source} is not there: {_PACKAGES_FIT}")
    else:
        raise ModelError(f"{source} is neither a folder nor a .zip: {_PACKAGES_FIT}")


def verify_package(package: ModelPackage) -> list[Check]:
    """Check a package through: rules of MLM, ONNX opens and gives scores, torch gives the same.

    The hashes were checked when it was opened (`open_package`).
    """
    item = json.loads((package.folder / "model.json").read_text(encoding="utf-8"))
    against = faults(item)
    checks = [
        Check("hashes", True, "model.safetensors and model.onnx are those model.json describes"),
        Check("MLM v1.5.2", not against, "; ".join(against) or "model.json keeps the rules"),
        Check("card", (package.folder / "README.md").is_file(), "README.md"),
    ]
    imagery = np.random.default_rng(0).normal(0, 0.7, _shape(package)).astype(np.float32)
    try:
        scores = OnnxNetwork(package, threads=1)(imagery)
    except ModelError as error:
        return [*checks, Check("ONNX", False, str(error))]
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        return [*checks, Check("ONNX", False, f"model.onnx cannot run: {' '.join(str(error).split())[:200]}")]
    expected = (1, len(package.spec.classes), *imagery.shape[2:])
    sane = scores.shape == expected and bool(np.isfinite(scores).all()) and scores.min() >= 0 and scores.max() <= 1
    checks.append(
        Check("ONNX", sane, "finite scores in [0, 1]" if sane else f"scores of shape {scores.shape} or out of [0, 1]")
    )
    checks.append(_torch_agrees(package, imagery, scores))
    return checks if package.spec.gate is None else [*checks, _gate_answers(package, imagery)]


def _torch_agrees(package: ModelPackage, imagery: np.ndarray, scores: np.ndarray) -> Check:
    if "encoder" not in package.spec.architecture:
        return Check("torch", None, "the package names no architecture that could be built")
    try:
        difference = float(np.abs(TorchNetwork(package, "cpu")(imagery) - scores).max())
    except MissingExtra:
        return Check("torch", None, "the extra 'train' is not installed")
    except Exception as error:  # whatever a foreign description does to the builder
        return Check("torch", False, f"the weights do not fit the architecture: {' '.join(str(error).split())[:200]}")
    return Check("torch", difference <= TOLERANCE, f"differs from ONNX by {difference:.1e} at most")


def _gate_answers(package: ModelPackage, imagery: np.ndarray) -> Check:
    gate = package.spec.gate
    assert gate is not None
    try:
        scores = OnnxGate(package.folder / GATE_FILE, threads=1)(imagery[0])
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        return Check("gate", False, f"{GATE_FILE} cannot run: {' '.join(str(error).split())[:200]}")
    expected = tuple(side // gate.cell for side in imagery.shape[2:])
    sane = scores.shape == expected and bool(((scores >= 0) & (scores <= 1)).all())
    told = f"a score in [0, 1] for each {gate.cell} x {gate.cell} pixels" if sane else f"scores of shape {scores.shape}"
    return Check("gate", sane, told)


def _shape(package: ModelPackage) -> tuple[int, int, int, int]:
    """A small chip [batch, band, y, x] that is not square."""
    step = package.spec.stride
    side = -(-64 // step) * step
    return 1, len(package.spec.bands), side, side + step


def _opened(draft: Path, source: Path) -> ModelPackage:
    """Open a draft and its network; errors name where it came from."""
    if not (draft / "model.json").is_file():
        raise ModelError(f"{source} is no model package, it holds no model.json: {_PACKAGES_FIT}")
    try:
        package = open_package(draft)
        OnnxNetwork(package)
        return package
    except ModelError as error:
        raise ModelError(str(error).replace(str(draft), str(source))) from error


def _refuse_strangers(source: Path, names: list[str]) -> None:
    odd = [name for name in names if name not in FILES and Path(name).suffix.lower() not in PICTURES]
    if odd and "model.json" in names:
        raise ModelError(f"{source} holds '{odd[0]}', which belongs to no model package: {_PACKAGES_FIT}, and pictures")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the plain files of a package, by their bare names: no path in the archive is followed."""
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            for entry in entries:
                _refuse_entry(archive, entry)
            if sum(entry.file_size for entry in entries) > LARGEST_PACKAGE:
                raise ModelError(
                    f"{archive} would unpack to more than {LARGEST_PACKAGE >> 30} GB: no model is so large"
                )
            if len({PurePosixPath(entry.filename).parent for entry in entries}) > 1:
                raise ModelError(f"{archive} holds several folders: {_PACKAGES_FIT}")
            _refuse_strangers(archive, [PurePosixPath(entry.filename).name for entry in entries])
            folder.mkdir()
            for entry in entries:
                (folder / PurePosixPath(entry.filename).name).write_bytes(packed.read(entry))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise ModelError(f"{archive} cannot be unpacked ({error}): fetch it again") from error


def _refuse_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    """No absolute path, no way up, no link."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in entry.filename or link:
        raise ModelError(
            f"{archive} holds '{entry.filename}', a way out of its folder: do not trust where it came from"
        )


def size_bytes(folder: Path) -> int:
    """What a package takes on disk."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
