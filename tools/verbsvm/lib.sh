# Shared by the scripts of this folder; sourced, not run. What it is all about: docs/verbs.md.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
# Images and downloads live here, in the checkout (where git ignores them) unless the user has a place for such things.
cache=${SOCKEMU_VM_CACHE:-${XDG_CACHE_HOME:+$XDG_CACHE_HOME/sockemu/verbsvm}}
cache=${cache:-$checkout/.cache/verbsvm}

say() { echo "verbsvm: $*" >&2; }
die() {
	say "$*"
	exit 1
}

# quote ARG...: the words as a POSIX shell reads them back.
quote() {
	local arg out=""
	for arg; do
		out+=" '${arg//\'/\'\\\'\'}'"
	done
	printf '%s\n' "${out# }"
}

# host_tools: installs what a bare Debian machine lacks, and only that.
host_tools() {
	local missing=()
	command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
	command -v cpio >/dev/null || missing+=(cpio)
	command -v xz >/dev/null || missing+=(xz-utils)
	PATH=$PATH:/usr/sbin:/sbin command -v depmod >/dev/null || missing+=(kmod)
	command -v flock >/dev/null || missing+=(util-linux)
	if [ ${#missing[@]} -eq 0 ]; then return; fi
	if ! command -v apt-get >/dev/null; then die "missing: ${missing[*]} (these are Debian's names); the VM is built of Debian packages"; fi
	if [ "$(id -u)" -ne 0 ]; then die "missing: ${missing[*]}; install them (apt-get install ${missing[*]}) or run this once as root"; fi
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
		apt-get update -qq
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || die "can't install ${missing[*]}"
	fi
}
