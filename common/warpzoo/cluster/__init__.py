"""Work on several processes and machines, by Dask: whom to connect to, whether its workers are fit, items to results.

Nothing here knows what the work is; nothing outside imports Dask. Arguments and results are small and plain (paths,
numbers): what is large is read and written by the workers, on storage that all of them see. A worker does one item at a
time, however many threads it has.
"""

from warpzoo.cluster.connection import connected
from warpzoo.cluster.tasks import Died, outcomes
from warpzoo.cluster.workers import Place, check_workers

__all__ = ["Died", "Place", "check_workers", "connected", "outcomes"]
