"""Where in a weakly labelled chip its site may lie: guessed from colour, before anything is trained.

A yes for a whole chip does not say which pixels are meant. A network that learns from such answers
alone marks the middle of every chip: that is enough to be right. So a rule of thumb says which
pixels can be meant, and the network's task is to tell those of sites from those of anything else
that looks alike (sandbars, roads, pastures), which chips with a no are full of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIDDLE = 0.5
"""From this bareness on a pixel may be the site's."""
NONE = 0.2
"""Up to this bareness it is not; between the two nothing is said."""


def bareness(red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much a pixel looks like bare ground or turbid water among vegetation, 0..1.

    Vegetation reflects clearly less red than green; bare soil, tailings and muddy ponds do not, and they
    are brighter than the darkest tenth of the chip. The limits were set by eye on chips of Amazon
    Mining Watch; no publication gives them.

    Args:
        red, green, blue: [y, x] in display units (1.0 = 255 in 8 bit = reflectance 0.35).
    """
    brightness = (red + green + blue) / 3
    # a chip that is bare all over has no dark tenth
    dark = min(float(np.percentile(brightness, 10)), 0.32)
    redness = np.clip((red / (green + 0.02) - 0.78) / 0.15, 0, 1)
    shine = np.clip((brightness - dark - 0.04) / 0.06, 0, 1)
    bare: NDArray[np.float32] = (redness * shine).astype(np.float32)
    return bare
