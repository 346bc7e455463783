"""Packaged YAML configurations, found by name: ``--config segmentation/quickstart.yaml``."""
