#!/bin/sh
# Process 1 of the virtual machine: runs the tests, says how they ended, and switches it off.
export PATH=/bin:/usr/bin
export MACLANE_BIN=/usr/bin/maclane MACLANE_FAILPOINTS_BIN=/usr/bin/maclane-failpoints
export MACLANE_OBJECTS=/objects MACLANE_PATIENCE=6

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /run/netns
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf

# The first port is the kernel's console, the second one the report.
exec >/dev/ttyS1 2>&1

while read -r module; do
    insmod "/modules/$module.ko" || echo "cannot load $module"
done </modules/list
ip link set lo up

# Runs a test program with its arguments.
run() {
    echo
    echo "     Running $1"
    (cd /tests && "./$@") || failed=$((failed + 1))
}

failed=0
. /tests.sh
echo
echo "maclane: $failed test programs failed"
# The report goes through a serial line of its own pace.
sleep 1
poweroff -f
