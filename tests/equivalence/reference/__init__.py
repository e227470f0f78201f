"""A scheduler that decides as the specification says, word by word and loop by loop.

It is slow and it is meant to be: no arrays, no caches, nothing kept from one decision to the next
but whose turn it is. Of Navarch it takes the types of API objects and the parser of quantities,
nothing else, so that it cannot share a mistake with the scheduler that it judges. Where upstream
keeps a state over the steps of a decision (what PreFilter has counted, from which pods are taken
away one by one), so does this, because some of upstream's answers come of how that state is kept.

`Reference().decide(world, pod)` is the way in.
"""
