"""A reverse proxy that lets a request through only with a ticket, once, and settles the ticket by how the request ends.

It keeps nothing: what a gate had begun when it died, the engine's report time-out settles. It is a program of its own
beside the engine, which it knows by its address and a `service` key alone.
"""
