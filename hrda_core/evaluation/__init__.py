"""Figures, thresholds, pictures and the HTML report. Imports nothing else of the library."""
