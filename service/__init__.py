"""The HTTP service and its page: schemas, routes, and one shape for every error."""
