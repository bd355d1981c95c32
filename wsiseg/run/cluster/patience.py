"""For how long a cluster is waited for, in seconds."""

from __future__ import annotations

POLL_S = 2.0
"""How often the cluster is looked at while no task ends."""
NO_WORKERS_S = 60.0
"""For how long a cluster may be without workers; one that restarts is back within seconds."""
CONNECT_S = 12.0
"""For how long a scheduler, or its file, is waited for at the start."""
ANSWER_S = 30.0
"""For how long a scheduler may be silent."""
COUNT_S = 5.0
"""How often the workers are counted while tasks end."""
