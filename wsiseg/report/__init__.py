"""What people read: thumbnails, overlays, cohort tables and ``report.html``."""
