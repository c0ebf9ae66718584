"""Hostile files: what each attacks, through which command, and what has to become of it. Built here, never stored."""
