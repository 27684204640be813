#!/usr/bin/env bash
# The graph through a real Slurm of one node on this machine: every training of every split is a Slurm job.
# It installs Debian's Slurm and writes /etc/slurm/slurm.conf, so run it as root in a container or on a machine to throw away.
# usage: tests/slurm_trial.sh [NAME…]      from the root of a clone that is set up; default: uniqa/fig14 grmp_iqa/table7
set -euo pipefail
cd "$(dirname "$0")/.."
names=("$@")
((${#names[@]})) || names=(uniqa/fig14 grmp_iqa/table7)

[[ $(id -u) == 0 ]] || { echo "root is needed: packages are installed and daemons started"; exit 1; }
[[ -e /etc/slurm/slurm.conf && -z ${SLURM_TRIAL_AGAIN:-} ]] && {
  echo "/etc/slurm/slurm.conf is there: this machine has a Slurm already (SLURM_TRIAL_AGAIN=1 replaces it)"; exit 1; }
command -v slurmctld >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurmctld slurmd slurm-client munge

work=$(mktemp -d) host=$(hostname -s) cores=$(nproc) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
mkdir -p "$work"/{state,spool,profile} /etc/slurm /run/munge
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=trial
SlurmctldHost=$host
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmctldPort=16817
SlurmdPort=16818
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
[[ -f /etc/munge/munge.key ]] || head -c 1024 /dev/urandom >/etc/munge/munge.key
chown munge /etc/munge/munge.key /run/munge && chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || su -s /bin/bash munge -c munged
stop() {
  for daemon in slurmd slurmctld; do
    pkill -F "$work/$daemon.pid" || true
    while pgrep -x "$daemon" >/dev/null; do sleep 0.2; done # it writes its state when it goes
  done
  rm -rf "$work" /etc/slurm/slurm.conf paper_figures/slurm_trial
}
trap stop EXIT
slurmctld && slurmd
until sinfo -h -o %T | grep -q idle; do sleep 1; done

# what a cluster without accounting, and with one node for everything, needs beside the shipped settings
{ sed 's/cpus_per_task=4/cpus_per_task=1/' tools/slurm/config.yaml
  printf '%s\n' 'slurm-status-command: squeue' 'slurm-no-account: true' 'slurm-init-seconds-before-status-checks: 5' \
    'seconds-between-status-checks: 5'; } >"$work/profile/config.yaml"
python3 tests/quick_profile.py "$work/slurm_trial.toml"
status=0
"${IQA_REPRO:-.venv/bin/iqa-repro}" reproduce "${names[@]}" --profile "$work/slurm_trial.toml" --force --overwrite --fan-out \
  --engine-profile "$work/profile" || status=$?
echo "Slurm ran $(squeue -h -t all -o %i | wc -l) jobs that it still remembers; their states:"
squeue -h -t all -o %T | sort | uniq -c
exit $status
