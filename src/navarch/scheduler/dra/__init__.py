"""Devices for pods: what there is, what is taken, and which of it a pod's claims get on a node."""
