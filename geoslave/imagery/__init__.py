"""Imagery: scenes, read by window, with a validity mask that travels with the pixels."""
