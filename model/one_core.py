"""Keep a process to one core."""

import cv2
from threadpoolctl import threadpool_limits


def use_one_core() -> None:
    """From now on, OpenCV and NumPy compute on one thread.

    Workers share a machine, one core each. And a sum that several threads make has other last digits: results must not
    depend on the cores of a machine, nor on what OMP_NUM_THREADS says there. torch: see threads.py.
    """
    cv2.setNumThreads(1)
    threadpool_limits(limits=1, user_api="blas")
