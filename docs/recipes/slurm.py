"""Run a region on workers from a SLURM queue.

    pip install 'geoslave[region]' dask-jobqueue
    python slurm.py bihar --workers 200 --memory 2GB --walltime 04:00:00

One job of the queue is one worker with one thread. A job that ends early (its wall time, a failing node)
is asked for again, and its block is done by another. The jobs end with the run. What is done is on the
disk: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from contextlib import suppress

from dask_jobqueue import SLURMCluster

LOOK_AGAIN_S = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("region")
    parser.add_argument("--regions", default="regions", help="the folder of regions, on a disk that all nodes share")
    parser.add_argument("--workers", type=int, default=100, help="jobs")
    parser.add_argument("--memory", default="2GB", help="of a job; geoslave region plan says what a worker needs")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--queue", help="the partition")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="network interface that jobs can reach, e.g. ib0")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with SLURMCluster(
        cores=1,
        processes=1,
        memory=asked.memory,
        walltime=asked.walltime,
        queue=asked.queue,
        account=asked.account,
        interface=asked.interface,
        # a job that waited so long in the queue that its scheduler is gone ends by itself
        death_timeout="120",
        scheduler_options={"dashboard": False},
    ) as cluster:
        command = ["geoslave", "region", "run", asked.region, "--regions", asked.regions]
        driver = subprocess.Popen([*command, "--dask", cluster.scheduler_address])
        try:
            while driver.poll() is None:
                cluster.scale(jobs=asked.workers)  # asks for those that are lost, too
                with suppress(subprocess.TimeoutExpired):
                    driver.wait(LOOK_AGAIN_S)
        finally:
            driver.terminate()
            driver.wait()
        return driver.returncode


if __name__ == "__main__":
    sys.exit(main())
