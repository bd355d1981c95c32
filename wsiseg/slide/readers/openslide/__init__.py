"""Other scanners' formats through OpenSlide, which meets a file first in a process that may die."""
