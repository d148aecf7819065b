"""What can go wrong, said so that a person knows what to do next.

Every message names the file (or setting), the cause, and the next step. The command line prints it
as one line and ends with status 1; a traceback that reaches a user is a bug.
"""

from __future__ import annotations


class GeoslaveError(Exception):
    """Something a person can mend. `str(error)` is the line that is shown."""


class SceneError(GeoslaveError):
    """A raster cannot be read, or not be used for what was asked."""


class EmptyScene(SceneError):
    """A scene without a single valid pixel."""


class LabelError(GeoslaveError):
    """Labels cannot be read, or do not fit the imagery."""


class ModelError(GeoslaveError):
    """A model package is missing, damaged, or does not fit the scene."""


class OutputError(GeoslaveError):
    """A result cannot be written."""


class EstimateError(GeoslaveError):
    """Tables do not allow an estimate: they contradict each other, or lack what it rests on."""


class MissingExtra(GeoslaveError):
    """Something needs an optional part of geoslave that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra '{extra}', which is not installed: "
            f"install it with  pip install 'geoslave[{extra}]'"
        )
