"""NetworkPolicy: which connections pods may make and take, as rules in the node's kernel."""

SOCKET_NAME = "policy.sock"
"""Where kubelets announce new pods, in the directory of the component."""
