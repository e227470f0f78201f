"""Gateway API (gateway-api.sigs.k8s.io, v1): Gateways of the class `navarch` and their HTTPRoutes.

objects.py     the kinds, as far as they are read here
around.py      what Gateways and routes refer to
listeners.py   which listeners of a Gateway can be served, and why others cannot; pure
attach.py      which routes belong to which listeners; pure
rules.py       an HTTPRoute's rules -> routes of the data plane; pure
translate.py   everything together -> a model of the data plane, and statuses; pure
status.py      the conditions of everything; pure
publish.py     the Service of a Gateway; pure
controller.py  follows the API, has nginx serve the translation, writes statuses
main.py        the component
crds.json      the CustomResourceDefinitions (tools/generate_gateway_crds.py)
"""

from navarch.api.named_secrets import GATEWAY_GROUP

GROUP = GATEWAY_GROUP
CONTROLLER = "navarch.io/gateway-controller"
CLASS = "navarch"
LEASE = "navarch-gateway-leader"
"""In kube-system: of all nodes' controllers its holder writes statuses."""
MANAGER = "gateway.navarch.dev"
"""Whose the EndpointSlices of Gateways' Services are."""
HOSTNAMES = "navarch.io/gateway-hostnames"
"""An annotation of a Gateway's Service: the names that its routes are for, for the name server."""
