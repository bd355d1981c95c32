"""Every nucleus exactly once: candidates at seams, which of them to keep, and the file order.

A tile owns the nuclei whose area centroid lies in its core. Away from seams that is the whole rule. Near one, two
tiles see the same nucleus with slightly different centroids, so ownership alone duplicates or loses about one in
a thousand there. Therefore each tile also delivers what it does *not* own but sees within a thin band around its
core, and candidates of different tiles are matched by overlap:

- Two candidates of different tiles *conflict* if their IoU is at least 0.3, or if they share at least 0.6 of the
  smaller one's area (one tile split what the other merged). Only one of a conflicting pair can stay.
- The choice is greedy in one total order: owned candidates first, because the owner is the authority; then the
  larger area, because dropping a fragment loses less than dropping what contains it; then score, bounds and tile.
  The order reads nothing but the candidates, so workers, batches and retries cannot change it.
- A candidate that its tile does not own stays only if another tile sees something there too (it conflicts with a
  candidate that was not kept): it is *adopted*. Without such a witness its owner looked and found nothing.

Polygons are never merged: a union of two noisy outlines is nobody's measurement. With a band of at least one
nucleus diameter, a pair that one tile merged and another split loses neither half.
"""
