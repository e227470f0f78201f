"""Small images for tests, made from what Debian packages have installed on this machine."""
