"""The pod network of a node: its CNI configuration, and the way to the other nodes' pods."""
