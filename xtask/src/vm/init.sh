#!/bin/sh
# Process 1 of the virtual machine: runs the tests, hands out their report, and switches it off.
export PATH=/bin:/usr/bin HOME=/root
# Its cards belong to the tests, which nothing says of another machine's.
export MACLANE_CARDS=1
export MACLANE_BIN=/usr/bin/maclane MACLANE_OBJECTS=/objects MACLANE_PATIENCE=6
# The second port is a terminal, but no person sits at it.
export CARGO_TERM_COLOR=never NEXTEST_NO_INPUT_HANDLER=1 NEXTEST_SHOW_PROGRESS=none

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /run/netns
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# The first port is the kernel's console, the second one what people read.
exec >/dev/ttyS1 2>&1

# Or every namespace of a test gets tunnel devices of its own.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net

while read -r module; do
    insmod "/modules/$(uname -r)/$module.ko" || echo "cannot load $module"
done <"/modules/$(uname -r)/list"
ip link set lo up

# The kernel's command line says which tests: `maclane.tests=NAME`.
read -r words </proc/cmdline
tests=${words##*maclane.tests=}
. "/tests/$tests"
# The third port is the report for programs: what nextest says of each test.
cat /tests/junit.xml >/dev/ttyS2
echo "maclane: nextest ended with $status"
# The report goes through a serial line of its own pace.
sleep 1
poweroff -f
