#!/bin/busybox sh
# The guest's first process: the host's files become the guest's, and agent.sh takes over.
# The host's root is seen through virtio, read-only, under a layer that is the guest's own.
for name in dev:devtmpfs proc:proc sys:sysfs; do
	busybox mount -t ${name#*:} ${name%:*} /${name%:*}
done
for module in /modules/*; do
	busybox insmod $module
done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /lower
busybox mount -t tmpfs upper /upper
busybox mkdir /upper/files /upper/work
busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root
for name in dev proc sys; do
	busybox mount --move /$name /root/$name
done
# sockets and mount points: a plain file system, at a place that no host has
busybox mkdir -p /root/llambo.guest
busybox mount -t tmpfs guest /root/llambo.guest
busybox cp /agent.sh /root/llambo.guest/
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip address add 10.0.2.15/24 dev eth0
exec busybox chroot /root /bin/bash /llambo.guest/agent.sh
