#!/usr/bin/env bash
# A real SLURM on this machine: a controller and NODES nodes n1, n2, ..., each in its own network namespace, so that one can be
# cut off. For root on Debian; installs slurm-wlm, munge and iproute2 where they are missing.
#
#   NODES=2 tests/slurm/cluster.sh up       ... down       ... cut n2       ... mend n2
set -euo pipefail
nodes=${NODES:-2}
root=/var/tmp/subcloning-slurm
export SLURM_CONF=$root/slurm.conf
net=10.88.0

running() { # pid file; a zombie does not count
    local state
    state=$(ps -o stat= -p "$(cat "$1" 2> /dev/null || echo 0)" 2> /dev/null) && [[ $state != Z* ]]
}

forget_names() { # in place, since containers mount this file
    local kept
    kept=$(grep -v ' # subcloning-slurm$' /etc/hosts) && echo "$kept" > /etc/hosts
}

lacking() {
    echo "a SLURM for tests needs $1" >&2
    exit 3
}

up() {
    if pgrep -x slurmctld > /dev/null && ! running "$root/run/slurmctld.pid"; then
        echo "another slurmctld runs here: this is for a machine without SLURM" >&2
        exit 1
    fi
    packages=(slurm-wlm munge iproute2 procps)
    dpkg -s "${packages[@]}" > /dev/null 2>&1 || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
    } || lacking "these packages, which cannot be installed here: ${packages[*]}"
    mkdir -p "$root"/{run,log,state,spool} /run/munge
    if ! munge -n < /dev/null 2> /dev/null | unmunge > /dev/null 2>&1; then
        chown munge: /run/munge
        setsid runuser -u munge -- munged --pid-file=/run/munge/subcloning.pid < /dev/null > "$root/log/munged" 2>&1
    fi
    ip link show subclbr > /dev/null 2>&1 || {
        ip link add subclbr type bridge || lacking "the right to make network devices and namespaces"
        ip addr add $net.254/24 dev subclbr
        ip link set subclbr up
    }
    configure > "$SLURM_CONF"
    forget_names
    for i in $(seq "$nodes"); do
        echo "$net.$i n$i # subcloning-slurm" >> /etc/hosts
        ip netns list | grep -qw "n$i" || {
            ip netns add "n$i"
            ip link add "vn$i" type veth peer name eth0 netns "n$i"
            ip link set "vn$i" master subclbr up
            ip -n "n$i" addr add "$net.$i/24" dev eth0
            ip -n "n$i" link set eth0 up
            ip -n "n$i" link set lo up
        }
    done
    running "$root/run/slurmctld.pid" || setsid slurmctld -c < /dev/null > "$root/log/slurmctld.out" 2>&1
    for i in $(seq "$nodes"); do
        mkdir -p "$root/spool/n$i"
        # nsenter, since `ip netns exec` mounts /sys anew and slurmd then misses its cgroups
        running "$root/run/slurmd.n$i.pid" || setsid nsenter --net="/run/netns/n$i" unshare --uts \
            sh -c "hostname n$i && exec slurmd -N n$i" < /dev/null > "$root/log/slurmd.n$i.out" 2>&1
    done
    for _ in $(seq 600); do
        [[ $(sinfo --noheader --Node --format='%t' 2> /dev/null | grep -c idle) == "$nodes" ]] && return
        sleep 0.1
    done
    sinfo --Node --long
    echo "not all nodes came up: see $root/log" >&2
    exit 1
}

configure() {
    cat << EOF
ClusterName=subcloning
SlurmctldHost=$(hostname -s)($net.254)
SlurmUser=root
AuthType=auth/munge
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdPidFile=$root/run/slurmd.%n.pid
SlurmdLogFile=$root/log/slurmd.%n.log
SlurmdSpoolDir=$root/spool/%n
StateSaveLocation=$root/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
KillWait=5
EOF
    for i in $(seq "$nodes"); do
        echo "NodeName=n$i NodeHostname=n$i NodeAddr=$net.$i CPUs=2 RealMemory=8000 State=UNKNOWN"
    done
    echo "PartitionName=test Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP"
}

mend() { # and back into service, as its administrator would if SLURM does not
    ip link set "v$1" up
    for _ in $(seq 300); do
        [[ $(sinfo --noheader --nodes="$1" --format='%t') == down* ]] || return 0
        sleep 0.1
    done
    scontrol update NodeName="$1" State=RESUME || true # it may be back by now
}

down() {
    timeout 10 scancel --user root 2> /dev/null || true
    sleep 1
    for file in "$root"/run/*.pid /run/munge/subcloning.pid; do
        running "$file" && kill "$(cat "$file")"
    done
    ip link show subclbr > /dev/null 2>&1 && for i in $(seq "$nodes"); do
        ip netns del "n$i" || true
        ip link del "vn$i" 2> /dev/null || true
    done && ip link del subclbr
    forget_names
    rm -rf "$root"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    cut) ip link set "v$2" down ;;
    mend) mend "$2" ;;
    *) sed -n '2,6p' "$0" && exit 2 ;;
esac
