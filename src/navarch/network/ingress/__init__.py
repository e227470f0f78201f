"""The Ingress controller: Ingresses of the class `nginx`, served by the data plane next door.

annotations.py   what users write at Ingresses, parsed or refused value by value
routes.py        one Ingress' annotations -> parts of the data plane's routes; pure
translate.py     Ingresses and what they refer to -> a model of the data plane; pure
controller.py    follows the API, has nginx serve the translation, tells of problems
main.py          the component
"""

LEASE = "ingress-nginx-leader"
"""In the addon's namespace: of all nodes' controllers its holder writes statuses."""
