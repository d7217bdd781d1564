"""What the parties of a cluster say to each other, and how each knows who it is talking to.

Nothing here knows a model, JAX or SPU: SecretFlow starts two processes a party for messages alone, and these would
spend seconds on importing them.
"""
