"""Defects of the SDK that concern both apps, worked around."""
