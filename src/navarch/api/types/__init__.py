"""Typed objects, one module per group and version; see tools/generate_types.py."""
