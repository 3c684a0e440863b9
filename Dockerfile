# nextpatch on Debian 12: built in one stage, run from another that holds the runtime libraries only.
#
#   docker build -t nextpatch .
#   docker run --rm nextpatch doctor
#   docker run --rm --user "$(id -u):$(id -g)" --init --stop-timeout 300 -v /data:/data:ro -v "$PWD/runs:/runs" \
#     nextpatch pretrain /usr/local/share/nextpatch/recipes/cifar10.yaml data.train=/data/cifar10/train run.dir=/runs/cifar10
#
# On a cluster: mount the images and a run folder that outlives the job, and let the scheduler stop it with SIGTERM or SIGUSR1. The run
# then saves and exits with status 75; started again with the same command it goes on from there. With Slurm and
# Apptainer (`apptainer build nextpatch.sif docker-archive:nextpatch.tar`):
#
#   #SBATCH --requeue --signal=USR1@300
#   srun apptainer run --bind /data,/scratch nextpatch.sif pretrain RECIPE data.train=/data/... run.dir=/scratch/runs/NAME ||
#     { [ $? -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"; }
#
# One process uses the cores of one machine; several processes do not share a run yet.

FROM debian:12-slim AS build
WORKDIR /src
COPY scripts/setup.sh scripts/packages.build scripts/
RUN scripts/setup.sh
COPY . .
RUN cmake --preset release -DBUILD_TESTING=OFF && cmake --build --preset release
RUN cmake --install build/release --prefix /usr/local --strip

FROM debian:12-slim
COPY scripts/packages.runtime /tmp/packages
RUN apt-get update && xargs -a /tmp/packages apt-get install -y --no-install-recommends && rm -rf /var/lib/apt/lists/* /tmp/packages
COPY --from=build /usr/local/bin/nextpatch /usr/local/bin/
COPY --from=build /usr/local/share/nextpatch /usr/local/share/nextpatch
ENTRYPOINT ["nextpatch"]
CMD ["--help"]
