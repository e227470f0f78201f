"""The kernel's nf_tables without the `nft` program: its language, its wire format, its tables."""
