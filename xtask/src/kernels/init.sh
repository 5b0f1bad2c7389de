#!/bin/sh
# The first process: it brings up the files of the machine that emulates this one, read-only and with a layer of
# memory over them, and runs the script there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
# What is built in cannot be loaded, and need not be.
for module in virtio_pci virtiofs overlay veth 8021q; do
    modprobe "$module" 2>/dev/null
done
mount -t virtiofs -o ro host /host
mount -t tmpfs none /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work none /root
for directory in proc sys dev; do
    mount --move "/$directory" "/root/$directory"
done
mkdir -p /root/dev/shm /root/dev/pts
mount -t devpts none /root/dev/pts
mount -t tmpfs none /root/dev/shm
mount -t tmpfs none /root/run
mount -t bpf none /root/sys/fs/bpf
ip link set lo up
{
    echo 'export HOME=/root PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    echo 'outcome=0'
    cat /script
    echo 'echo "outcome: $outcome"'
} > /root/run/script
chroot /root /bin/sh /run/script > /root/dev/console 2>&1
poweroff -f
