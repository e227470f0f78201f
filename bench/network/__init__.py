"""What the cluster's network does, beside the same over bare wires in the same run."""
