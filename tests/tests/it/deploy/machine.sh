# A machine that has nothing but what deploy/README.md names, as a chroot in a mount namespace of its own.
#
#   machine.sh ROOT CHECKOUT BINARY PORT
#
# Runs the README's commands in it, one by one, and prints "N rc=CODE COMMAND" and what each said. Stand-ins: cargo
# (the binary is there already), sudo (we are root), systemctl (starts what the unit says, with the engine echo, on
# PORT). Nothing is fetched. Exits with 77 where this machine does not allow it.
set -u
root=$1 checkout=$2 binary=$3 port=$4

mkdir -p "$root"/{usr,etc/systemd/system,var/lib,tmp,dev,proc,root/colony/{deploy,target/release}} || exit 77
chmod 755 "$root" && chmod 1777 "$root/tmp"
mount --rbind -o ro /usr "$root/usr" && mount -t tmpfs tmpfs "$root/usr/local/bin" || exit 77
mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" || exit 77
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
cp /etc/ld.so.cache "$root/etc/"
echo 'root:x:0:0:root:/root:/bin/bash' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
touch "$root/etc/shadow" "$root/etc/gshadow"
# Nobody but root may look into the folder of the checkout.
chmod 700 "$root/root"
cp "$checkout/colony.toml" "$root/root/colony/"
cp "$checkout"/deploy/* "$root/root/colony/deploy/"
cp "$binary" "$root/root/colony/target/release/colony"
awk '/^```/ { inside = !inside; next } inside' "$checkout/deploy/README.md" >"$root/root/commands"

cat >"$root/root/run.sh" <<'INSIDE'
cargo() { :; }
become() {
    local user=$1
    shift
    exec setpriv --reuid "$user" --regid "$user" --init-groups "$@"
}
sudo() {
    [ "$1" = -H ] && shift
    [ "$1" = -u ] || { "$@"; return; }
    shift
    (become "$@")
}
unit() { sed -n "s/^$1=//p" /etc/systemd/system/colony.service; }
systemctl() {
    [ "$1" = enable ] || return 0
    local settings=(COLONY__INFERENCE__ENGINE=echo "COLONY__NODE__LISTEN=127.0.0.1:$PORT")
    cd "$(unit WorkingDirectory)" || return
    become "$(unit User)" env -i PATH="$PATH" $(unit Environment) "${settings[@]}" $(unit ExecStart) >/tmp/node.log 2>&1 &
    node=$!
    until grep -qs 'node ready' /tmp/node.log; do
        kill -0 "$node" || { cat /tmp/node.log; return 1; }
        sleep 0.1
    done
}
export COLONY_OFFLINE=1 COLONY_ADDRESS=127.0.0.1:$PORT
cd /root/colony
number=0
while IFS= read -r command; do
    number=$((number + 1))
    eval "$command" </dev/null >/tmp/said 2>&1
    echo "$number rc=$? $command"
    sed 's/^/    /' /tmp/said
done </root/commands
stat -c '%a %U %n' /var/lib/colony /var/lib/colony/*
kill "$node" && wait "$node"
echo "stopped rc=$?"
INSIDE
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin PORT="$port" bash /root/run.sh
