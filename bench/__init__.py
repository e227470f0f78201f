"""Measurements of the budgets. Each takes any kubeconfig, so both sides of a comparison fit."""
