"""Serve HRDA: the inference app, its endpoints and limits."""
