"""`navarch why`: in one screen, why a pod is where it is or is not running.

What the API says is gathered once (`reading`), judged by pure functions (`verdicts`, `owners`,
`placement`, `containers`, `endpoints`), and told (`report`). Nothing is written to the cluster.
"""
