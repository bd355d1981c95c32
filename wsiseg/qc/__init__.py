"""Quality control: patches over tissue, a verdict on each, and the slide's grade."""
