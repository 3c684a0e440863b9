# nextpatch on Debian 12: built in one stage, run from another that holds the runtime libraries only.
#
#   docker build -t nextpatch .                              # for CPUs
#   docker build -t nextpatch --build-arg CUDA=ON .           # and NVIDIA GPUs: with CUDA, cuDNN and NCCL, some 3 GB
#   docker run --rm nextpatch doctor                         # --gpus all, wherever a GPU is to be used
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
# Several containers train as one where srun starts them (--mpi=pmix brings CPU ranks together); inside one, mpirun is there:
#
#   docker run --rm --user "$(id -u):$(id -g)" --init --stop-timeout 300 --ipc host -v /data:/data:ro -v "$PWD/runs:/runs" \
#     --entrypoint mpirun nextpatch --mca odls_base_sigkill_timeout 300 --bind-to none -np 2 nextpatch pretrain \
#     /usr/local/share/nextpatch/recipes/cifar10.yaml data.train=/data/cifar10/train run.dir=/runs/cifar10

ARG CUDA=OFF

FROM debian:12-slim AS build
ARG CUDA
WORKDIR /src
COPY scripts/setup.sh scripts/cuda-toolkit.sh scripts/packages.build scripts/packages.cuda scripts/python.cuda scripts/
RUN if [ "$CUDA" = ON ]; then scripts/setup.sh --cuda; else scripts/setup.sh; fi
COPY . .
RUN cmake --preset release -DBUILD_TESTING=OFF -DNP_CUDA=$CUDA && cmake --build --preset release
RUN cmake --install build/release --prefix /usr/local --strip
RUN mkdir /libraries && if [ "$CUDA" = ON ]; then cd build/cuda/toolkit/lib && \
  cp -L libcublasLt.so.* libcudnn*.so.* libnccl.so.* libnvrtc*.so.* /libraries/; fi

FROM debian:12-slim
COPY scripts/packages.runtime /tmp/packages
RUN apt-get update && xargs -a /tmp/packages apt-get install -y --no-install-recommends && rm -rf /var/lib/apt/lists/* /tmp/packages
COPY --from=build /libraries/ /usr/local/lib/
RUN ldconfig
COPY --from=build /usr/local/bin/nextpatch /usr/local/bin/
COPY --from=build /usr/local/share/nextpatch /usr/local/share/nextpatch
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["nextpatch"]
CMD ["--help"]
