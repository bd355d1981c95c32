"""The results folder: one module for each of its files, and what makes a result whole and still valid."""
