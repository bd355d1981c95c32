"""Slides as stages of tasks on an executor: their order, what is tried again, and how a result is published."""
