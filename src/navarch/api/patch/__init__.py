"""The patch formats of the API: JSON Patch, JSON Merge Patch and strategic merge patch."""
