"""The Ingress controller: Ingresses of the class `nginx`, served by the data plane next door.

annotations.py   what users write at Ingresses, parsed or refused value by value
translate.py     Ingresses and what they refer to -> a model of the data plane; pure
backends.py      Services and EndpointSlices -> endpoints; pure
certificates.py  Secrets -> certificates and password files; pure
secrets.py       the Secrets that are named, followed one by one
controller.py    follows the API, has nginx serve the translation, tells of problems
main.py          the component
"""
