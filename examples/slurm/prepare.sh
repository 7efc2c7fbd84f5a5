#!/bin/bash
# From recordings to shards on a SLURM cluster: three jobs, each after the one before it went well.
#
#     PARTS=32 SCHEMES=binned,per-spike bash prepare.sh /shared/raw
#
# PATH... as 'spiketok ingest' takes them, here or at URLs. SPIKETOK_ROOT, and SPIKETOK_STORE for a store behind a URL,
# are those of every node. Submit it again where a task died: what is finished is not made again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
array="--array=1-${PARTS:-16}"
export SCHEMES=${SCHEMES:-per-spike}

ingest=$(sbatch --parsable "$array" "$here/ingest.sbatch" "$@")
tokenize=$(sbatch --parsable "$array" "--dependency=afterok:$ingest" "$here/tokenize.sbatch")
index=$(sbatch --parsable "--dependency=afterok:$tokenize" "$here/index.sbatch")
echo "jobs $ingest, $tokenize, $index"
