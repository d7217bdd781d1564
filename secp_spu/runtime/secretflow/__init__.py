"""The runtime on SecretFlow's devices: all parties simulated on one machine, or one process for each party.

The only package that imports SecretFlow, which takes seconds; import its modules where they are needed.
"""
