"""The runtime on SecretFlow's devices: all parties simulated on one machine, or one process for each party.

The only package that imports SecretFlow, which takes seconds; import its modules where they are needed.
"""

import secp_spu.runtime.secretflow.light_import  # before SecretFlow
import secp_spu.runtime.secretflow.spu_logging  # noqa: F401 - before SecretFlow, which cannot be imported without
