"""CEL, the Common Expression Language, in the dialect Kubernetes speaks.

Expressions arrive inside API objects (validation rules of custom resources, admission policies,
match conditions, device selectors, authentication and authorization configuration) and are compiled
once and evaluated often, inside the API server, on input nobody trusts. So the engine has no I/O, a
type checker that reports upstream's texts, and a cost for every step: an expression that would run
long is refused when it is written, or cancelled when it runs.

The stages are files: `lexer` and `parser` (text to `ast`), `macros` (all, exists, map, ...),
`checker` (types and overloads), `compiler` (closures that charge their cost), `estimator` (worst
cost before running), `standard` (operators and conversions). `environment` ties them together and
is the way in; `types`, `values`, `functions` and `errors` are what libraries are written against.
"""
