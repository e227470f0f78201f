"""The node's own HTTP server: what the API server asks a kubelet for."""
