"""Audit: a record of who did what, by a policy that says how much of it (audit.k8s.io/v1)."""
