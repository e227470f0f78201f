"""What objects of a kind look like: its facts, decoding against them, constant defaults."""
