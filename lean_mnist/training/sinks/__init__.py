"""Sinks: each draws records in one place."""
