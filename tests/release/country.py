"""A made country of detections: clusters of kilns around 80 degrees east, 26 degrees north."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely

from geoslave.detections import schema


def country(n: int = 300, seed: int = 0, spread_km: float = 8) -> gpd.GeoDataFrame:
    """Detections of 100 x 60 m in clusters."""
    rng = np.random.default_rng(seed)
    towns = rng.uniform((400_000, 2_800_000), (560_000, 2_960_000), (14, 2))
    middle = towns[rng.integers(0, len(towns), n)] + rng.normal(0, spread_km * 1000, (n, 2))
    shapes = np.array([shapely.box(x - 50, y - 30, x + 50, y + 30) for x, y in middle], object)
    confidence = rng.uniform(0.3, 1, n)
    return gpd.GeoDataFrame(
        {
            "detection_id": [schema.detection_id(80 + i / n, 26, "brick_kiln", "2025-03-01") for i in range(n)],
            "class_name": "brick_kiln",
            "confidence": confidence,
            "calibrated": False,
            "score_mean": confidence,
            "score_max": confidence,
            "area_m2": 6000.0,
            "length_m": 100.0,
            "width_m": 60.0,
            "date": "2025-03-01",
            "scene_id": "S2A_MSIL2A_20250301_T44RKQ",
            "model_id": "kiln-s2 0.2.0",
            "truncated": False,
        },
        geometry=shapes,
        crs="EPSG:32644",
    )


PROVENANCE = {
    "geoslave_version": "0.1.0",
    "model_id": "kiln-s2 0.2.0",
    "model_sha256": "ab" * 32,
    "target": "brick_kiln",
    "scenes": ["S2A_MSIL2A_20250301_T44RKQ"],
    "first_date": "2025-03-01",
    "last_date": "2025-03-01",
    "threshold_high": 0.5,
    "threshold_low": 0.3,
    "min_confidence": 0.3,
    "calibrated": False,
    "confidence": "the model's score, not calibrated",
}
