"""The service proxy: Service addresses to endpoint addresses, in the node's nftables."""
