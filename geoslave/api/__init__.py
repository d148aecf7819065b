"""What notebooks use: a scene, its sites, how good they are, and how many there are, in a handful of calls.

Each call is a thin wrapper over the functions behind the command of the same purpose, and gives back
a small frozen object: tables as (Geo)DataFrame, imagery as xarray, and a display of its own in Jupyter.

    scene = geoslave.open_scene("scene.tif")
    found = geoslave.find_sites("scene.tif", model="kiln-s2")
    report = geoslave.evaluate("kiln-s2", "scene.tif", "known.geojson")
    plan = geoslave.plan_review("frame.csv", reviews=500)
    count = geoslave.count_sites("frame.csv", "reviews.csv")

Outputs show where sites are: clear them before a notebook leaves your hands.
"""
