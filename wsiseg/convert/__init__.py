"""``wsiseg tile``: a slide as an OME-Zarr store, shard by shard."""
