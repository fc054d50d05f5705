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
	install_tools ${missing[@]+"${missing[@]}"}
}

# install_tools PACKAGE...: installs what this machine lacks.
install_tools() {
	if [ $# -eq 0 ]; then return; fi
	if ! command -v apt-get >/dev/null; then die "missing: $* (these are Debian's names); the VM is built of Debian packages"; fi
	if [ "$(id -u)" -ne 0 ]; then die "missing: $*; install them (apt-get install $*) or run this once as root"; fi
	say "installing $*"
	export DEBIAN_FRONTEND=noninteractive
	if ! apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then
		apt-get update -qq
		apt-get install -y -qq --no-install-recommends "$@" >/dev/null || die "can't install $*"
	fi
}

# apt TOOL ARG...: apt-get or apt-cache with the machine's package lists, or with lists of our own where those are missing or too old.
apt_options=()
apt() {
	local tool=$1
	shift
	timeout 600 "$tool" ${apt_options[@]+"${apt_options[@]}"} "$@"
}
refresh() {
	say "fetching package lists"
	if [ "$(id -u)" -ne 0 ]; then
		mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
		apt_options=(-o "Dir::State::Lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt" -o "Dir::Cache::Archives=$cache/apt/archives")
	fi
	apt apt-get update -qq
}

# fetch FOLDER FUNCTION: downloads the packages whose names the function prints.
fetch() {
	fetch_once "$@" && return
	refresh
	fetch_once "$@" || die "can't download the packages: $(cat "$1.log")"
}
fetch_once() {
	local names
	names=$("$2") || return 1
	# apt-get drops its rights for a user of its own when root runs it, who can't write here.
	# shellcheck disable=SC2046
	(cd "$1" && apt apt-get download -q -o APT::Sandbox::User=root $(sort -u <<<"$names")) >"$1.log" 2>&1
}
