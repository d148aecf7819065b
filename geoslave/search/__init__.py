"""Finding more places like a few known ones: chips as vectors, a ranking that learns from answers, and when to stop."""

from geoslave.errors import GeoslaveError


class SearchError(GeoslaveError):
    """A search cannot go on as asked: its index, its examples or its answers do not allow it."""
