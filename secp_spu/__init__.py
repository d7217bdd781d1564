"""Private soft-prompt tuning of transformers on SecretFlow SPU, with forward passes only."""

from secp_spu._threads import keep_threads_apart

# Importing does nothing else; this has to come before anything loads libspu.
keep_threads_apart()
