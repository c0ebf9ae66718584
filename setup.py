"""All metadata is in setup.cfg; this file lets ``pip install -e .`` work with every setuptools."""

from setuptools import setup

setup()
