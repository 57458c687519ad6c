"""The caller's side: stubs, refs, specs, and the runtime that finds microservices and sends calls.

Not here: deployment managers (their client components are handed in) and transports.
"""
