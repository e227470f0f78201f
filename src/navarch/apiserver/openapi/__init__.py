"""The published schema: `/openapi/v2` and `/openapi/v3`, from the schema facts and the CRDs."""
