"""Cluster DNS: names for Services and pods (upstream's CoreDNS and its schema)."""
