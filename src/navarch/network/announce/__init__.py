"""Announces LoadBalancer addresses on the link: who answers for which, and how it is said."""
