"""Programs of accelerators, compiled without one; the command is in `__main__`."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the compilers alone are wanted, no device
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu does not look for a TPU host
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
