"""Calls to outside HTTPS servers that take part in requests: admission and conversion webhooks."""
