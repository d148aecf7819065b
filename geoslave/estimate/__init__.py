"""How many, how sure: sampling designs, counts, accuracies. Tables only; knows no raster and no model."""
