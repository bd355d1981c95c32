"""From a planned slide to the parts of its tiles: read, infer, decode, measure. No Dask in sight."""
