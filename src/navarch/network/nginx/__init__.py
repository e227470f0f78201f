"""nginx as the data plane of Ingress and Gateway API.

model.py      what shall be served, as values; Ingress and Gateway API are translated into it
document.py   the model as data for the Lua code
render.py     the configuration file, which holds nothing that a user wrote
process.py    the running nginx: started, told, reloaded, verified
lua/          what runs inside nginx: matching, balancing, limits, certificates
"""
