"""NetworkPolicy: which connections pods may make and take, as rules in the node's kernel."""
