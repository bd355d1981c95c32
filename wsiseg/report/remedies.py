"""What to do about an error, beside what its message itself says."""

from __future__ import annotations

from collections.abc import Mapping

#: By the error's kind.
REMEDIES: Mapping[str, str] = {
    "MissingMppError": "Give the slide's microns per pixel with --mpp, or those of many slides with --mpp-csv.",
    "ReadError": "Check the file against its source (checksum, size) and copy it again.",
    "SlideError": "Check that the file is a complete slide in a supported format; copy it again if it is cut off.",
    "ModelError": "Check the model's name or file with `wsiseg models`.",
    "EnvironmentFault": "Nothing is wrong with the slide: mend the disk or the cluster and run the same command.",
    "WorkerDied": "Give each worker more memory or use a smaller --tile, and run the same command: it resumes.",
    "UsageError": "Correct the option that the message names and run again.",
}
_OTHER = "Run the same command again; if it fails again, report it with the message."


def remedy(kind: str) -> str:
    """What to do about an error of a kind."""
    return REMEDIES.get(kind, _OTHER)
