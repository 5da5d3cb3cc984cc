#!/bin/sh
# Runs a command on the host `head` of a Ray cluster of three hosts; `twin` has equal hardware, `small` has one core:
#   unshare --map-root-user --net --uts --mount --pid --fork --kill-child --mount-proc three_hosts.sh COMMAND…
# Hosts are namespaces connected by a bridge. They share all files except Ray's, and end with the command.
set -eu
# Otherwise some of Ray's processes ask for a token in the home directory that others don't send.
export RAY_AUTH_MODE=disabled

join() { # name, last part of the address, command that runs the rest
    unshare --net --uts --mount sh -euc '
        hostname "$1"
        mount -t tmpfs tmpfs /tmp/ray
        ip link set lo up
        ip link add eth0 type veth peer name "$1" netns 1
        nsenter --net=/proc/1/ns/net ip link set "$1" master bridge up
        ip address add "10.77.0.$2/24" dev eth0
        ip link set eth0 up
        exec $3 ray start --address=10.77.0.1:6379 --node-ip-address="10.77.0.$2" --num-cpus=3 --resources="{\"$1\": 1}"
    ' sh "$@"
}

hostname head
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.1/24 dev bridge
ip link set bridge up
ray start --head --node-ip-address=10.77.0.1 --port=6379 --num-cpus=3 --resources='{"head": 1}' --include-dashboard=false
join twin 2 env
join small 3 "taskset --cpu-list ${ONE_CORE:?}"
"$@"
