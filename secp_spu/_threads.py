"""The number of OpenMP threads that SPU's parties start, kept to what the machine has."""

import os


def keep_threads_apart() -> None:
    """Let OpenMP start fewer threads than libspu asks for, unless the user has set it otherwise.

    libspu 0.9.5 asks Eigen for four threads before every matrix product. Two or three parties on two cores then have
    8 to 12 threads that wait for each other: six times slower. OpenMP reads its environment when it is loaded, so this
    must run before libspu is imported, and has no effect on a process that loaded it before.
    """
    if not {"OMP_DYNAMIC", "OMP_THREAD_LIMIT"} & os.environ.keys():
        os.environ["OMP_DYNAMIC"] = "true"
