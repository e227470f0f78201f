"""Wire protocols of exec, attach and port-forward: framing without I/O, and spliced connections.

Both the API server and the node speak them, and neither may import the other.
"""
