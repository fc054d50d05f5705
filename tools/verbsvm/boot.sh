# Starts the VM and watches it; sourced after lib.sh, not run.
# shellcheck shell=bash

# A machine is emulated, not virtualised: that works everywhere, nested in whatever. VERBS_ACCEL=kvm where there is one.
accel=${VERBS_ACCEL:-tcg,thread=multi}
cpus=${VERBS_CPUS:-2}
memory=${VERBS_MEMORY:-1024} # MiB, of each VM
driver=${VERBS_DRIVER:-rxe}   # of the RDMA device: rxe, or siw, which is built first

declare -A machines=() # role -> process id
declare -A started_at=()
declare -a watchers=()
share="" # what the VMs see as /host
stop_machines() {
	local pid
	for pid in "${machines[@]}" "${watchers[@]}"; do kill "$pid" 2>/dev/null || :; done
	wait
	if [ -n "$share" ]; then rm -rf "$share"; fi
}

# prepare: a folder for the VMs of this run, gone at exit, and what boots them.
prepare() {
	host_tools
	image=$("$here/image")
	mkdir -p "$cache"
	share=$(mktemp -d "${TMPDIR:-/tmp}/verbsvm.XXXXXX")
	trap stop_machines EXIT
	trap 'exit 130' INT TERM
	# What the scripts of the guest are isn't part of the image: the kernel unpacks this after it.
	mkdir -p "$share/boot/guest"
	cp "$here/guest/init" "$share/boot/init"
	cp "$here"/guest/* "$share/boot/guest/"
	chmod +x "$share/boot/init"
	case $driver in
	rxe) ;;
	siw) cp "$("$here/siw" "$image")" "$share/boot/guest/" ;;
	*) die "VERBS_DRIVER is rxe or siw" ;;
	esac
	(cd "$share/boot" && find . | cpio -o -H newc --quiet -R 0:0 | gzip -1) | cat "$image/root.cpio.gz" - >"$share/initrd"
	rm -rf "${share:?}/boot"
	if ! cc -O1 -o "$share/tsc" "$here/tsc.c" || ! tsc=$("$share/tsc"); then
		say "no C compiler: the VM's clock may be wrong"
		tsc=0
	fi
}

# machine ROLE MODE: sets qemu to the command line.
machine() {
	local role=$1 mode=$2 net own other id
	qemu=(qemu-system-x86_64 -M q35 -accel "$accel" -cpu max -smp "$cpus" -m "$memory" -nodefaults -no-user-config -display none -no-reboot
		-kernel "$image/vmlinuz" -initrd "$share/initrd"
		-append "console=ttyS0 quiet loglevel=4 oops=panic panic=-1 tsc_early_khz=$tsc mitigations=off nokaslr cryptomgr.notests apparmor=0 audit=0 random.trust_cpu=on no_timer_check tsc=reliable rcupdate.rcu_cpu_stall_suppress=1 verbs.role=$role verbs.mode=$mode verbs.driver=$driver"
		-fsdev "local,id=host,path=$share,security_model=none" -device virtio-9p-pci,fsdev=host,mount_tag=host
		-fsdev "local,id=src,path=$checkout,security_model=none,readonly=on" -device virtio-9p-pci,fsdev=src,mount_tag=src
		-device virtio-rng-pci)
	if [ "$role" = one ]; then return; fi
	# Two wires between the two: guest/network knows the ends by their hardware addresses.
	case $role in server) id=1 own=a other=b ;; *) id=2 own=b other=a ;; esac
	for net in 9 8; do
		qemu+=(-netdev "dgram,id=n$net,local.type=unix,local.path=$share/$net$own,remote.type=unix,remote.path=$share/$net$other"
			-device "virtio-net-pci,netdev=n$net,mac=52:54:00:00:0$net:0$id")
	done
}

# job: writes what the VMs shall do, from standard input. The caller's own settings of tests, SOCKEMU_TEST_..., are theirs too.
job() {
	local name
	for name in ${!SOCKEMU_TEST_*}; do echo "export $name=$(quote "${!name}")"; done >"$share/job"
	cat >>"$share/job"
}

# start ROLE SECONDS: boots a VM that does $share/job; it is ended when the time is over.
start() {
	machine "$1" job
	: >"$share/$1.out"
	started_at[$1]=$SECONDS
	timeout -k 5 "$2" "${qemu[@]}" -serial stdio -monitor none </dev/null >"$share/$1.console" 2>&1 &
	machines[$1]=$!
}

# follow ROLE [PREFIX]: shows what the job of the VM prints, as long as the VM is there.
follow() {
	tail -n +1 -s 0.3 -f --pid="${machines[$1]}" "$share/$1.out" 2>/dev/null | sed -u "s/^/${2:-}/" &
	watchers+=($!)
}

# finish ROLE: waits for the VM, returns its job's exit status; 125 if there is none, with the end of what the VM's console said.
finish() {
	local status=0
	wait "${machines[$1]}" || status=$?
	unset "machines[$1]"
	if [ ! -f "$share/$1.rc" ]; then
		case $status in 124 | 137) say "the VM ($1) was ended: its time was over" ;; *) say "the VM ($1) ended without a verdict (qemu: $status)" ;; esac
		tr -d '\r' <"$share/$1.console" | tail -n 40 >&2
		return 125
	fi
	tr -d '\r' <"$share/$1.console" | grep '^init: ' >&2 || :
	local own took=$((SECONDS - started_at[$1] + 1))
	own=$(cut -d. -f1 "$share/$1.uptime")
	if [ "$own" -gt $((took + took / 10)) ]; then say "the clock of the VM ($1) ran too fast: $own s in $took s; its time limits were too short"; fi
	return "$(cat "$share/$1.rc")"
}

# shown: waits for the last lines of what is followed.
shown() {
	local pid
	for pid in "${watchers[@]}"; do wait "$pid" || :; done
	watchers=()
}
