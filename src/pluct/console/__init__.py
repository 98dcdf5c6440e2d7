"""The operator's pages at `/console`: what `/v1` can do, for people.

Pages are made on the server, work without JavaScript (which only adds charts, the live log and small comforts), and
every change goes through the same verbs as the API, with the operator's key as its actor.
"""
