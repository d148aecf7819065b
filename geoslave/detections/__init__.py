"""Detections: from scores to polygons with confidence, and out to the formats people use."""
