"""How a run went, in words: what its time went into and what it was bound by."""

from __future__ import annotations

from wsiseg.results.record import Performance

ACTIVITIES = {"read": "reading", "infer": "network and decoding", "measure": "measuring", "write": "writing"}
"""What the seconds of a tile are called; a name that is not here stays as it is."""


def pace_text(pace: Performance) -> str:
    """Speed, bound, device and memory of the run that ended a slide."""
    bound = {**ACTIVITIES, "end": "the slide's end"}.get(pace.bound, pace.bound)
    busy = "" if pace.device_busy is None else f", device busy {pace.device_busy:.0%}"
    return f"{pace.mpx_per_s:.1f} Mpx/s, bound by {bound}{busy}; {pace.peak_mib:,.0f} MiB a process"
