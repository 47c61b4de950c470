"""A browser for the apps' pages without the platform: the shell, demo projects, `make app`, and tests that click."""
