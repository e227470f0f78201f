"""Wire protocols of exec, attach and port-forward, without any I/O: bytes in, events out.

Both the API server and the node speak them, and neither may import the other.
"""
